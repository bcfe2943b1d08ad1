"""The HTTP application: routes, errors and guard put together around injected services."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.staticfiles import StaticFiles

from api import pages, routes_devices, routes_health, routes_log, routes_registry, routes_storage
from api.context import Services
from api.guard import Guard
from api.metrics import own_registry
from api.models_registry import body_schemas
from api.overview import OverviewCache
from api.problems import Problem, install_problem_handlers

OPENAPI_PATH: Final = "/api/v1/openapi.json"

_DESCRIPTION: Final = (
    "What the box's devices said last and what it keeps of them. Every error is `application/problem+json` "
    "(RFC 9457). Times are RFC 3339 in UTC. Lists are paged: pass `next` back as `cursor` until it is null."
)


def create_app(services: Services) -> FastAPI:
    """The application. It starts nothing and closes nothing: services belong to the caller."""
    app = FastAPI(
        title="Headrace",
        version="1",
        description=_DESCRIPTION,
        openapi_url=OPENAPI_PATH,
        docs_url=None,  # FastAPI's pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    requests: Counter[tuple[str, int]] = Counter()
    app.state.services = services
    app.state.registry = own_registry(services, requests)
    app.state.importing = asyncio.Lock()  # one import at a time: each may hold some 100 MB
    app.state.overview = OverviewCache(services)
    install_problem_handlers(app, pages.problem_page)
    for routes in (routes_devices, routes_registry, routes_log, routes_storage, routes_health, pages):
        app.include_router(routes.router)
    app.mount("/static", StaticFiles(directory=pages.HERE / "static"), name="static")
    app.add_middleware(Guard, allowed_hosts=services.allowed_hosts, requests=requests)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's description with the problem shape in place of its own error shapes."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            openapi_version="3.1.0",
        )
        schemas = schema.setdefault("components", {}).setdefault("schemas", {})
        for theirs in ("HTTPValidationError", "ValidationError"):
            schemas.pop(theirs, None)
        ours = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(ours.pop("$defs", {}))
        schemas["Problem"] = ours
        schemas.update(body_schemas())
        app.openapi_schema = schema
    return app.openapi_schema
