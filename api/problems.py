"""The one error shape: RFC 9457 problem details, `application/problem+json`, for whatever goes wrong.

Members: `type` (a stable URN of the error's code), `title` (the kind), `status`, `detail` (what happened, where),
`mend` (how to mend it; ours), `instance` (the request's path) and for invalid parameters `errors` (ours).
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from core.errors import HeadraceError

MEDIA_TYPE: Final = "application/problem+json"

TITLES: Final = {
    "bad-request": "The request cannot be understood",
    "internal": "Something failed that should not",
    "method-not-allowed": "This method is not allowed here",
    "misdirected": "This host name is not ours",
    "not-found": "There is no such thing",
    "not-ready": "The box is not ready",
    "unavailable": "What is needed for an answer is not there right now",
}


class ParameterError(BaseModel):
    """One parameter that was refused."""

    where: str
    what: str


class Problem(BaseModel):
    """RFC 9457 problem details."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "urn:headrace:problem:not-found",
                "title": "There is no such thing",
                "status": 404,
                "detail": "the log has nothing of a device 'press-99'",
                "mend": "GET /api/v1/devices lists the known ones",
                "instance": "/api/v1/devices/press-99",
            }
        }
    )

    type: str = Field(description="A stable name of the kind of problem.")
    title: str = Field(description="The kind of problem, for people.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What happened this time.")
    mend: str | None = Field(None, description="How to mend it.")
    instance: str = Field(description="The path that was asked for.")
    errors: list[ParameterError] | None = Field(None, description="Which parameters were refused, and why.")
    reasons: list[str] | None = Field(None, description="Why the box is not ready.")
    clock: str | None = Field(None, description="With `reasons`: `ok`, `behind` or `stepped`.")
    warnings: list[str] | None = Field(None, description="With `reasons`: what somebody has to look at besides.")


def _declared(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    400: _declared("The request is not HTTP as it should be."),
    405: {
        **_declared("Another method than the ones in `Allow`."),
        "headers": {"Allow": {"description": "Methods that work here.", "schema": {"type": "string"}}},
    },
    421: _declared("The Host header names neither this machine nor a configured name."),
    422: _declared("A parameter cannot be understood."),
    500: _declared("A bug of ours; it is in the log."),
}
"""What every route may answer besides its own."""

NOT_FOUND: Final[dict[int | str, dict[str, Any]]] = {404: _declared("There is no such thing.")}
UNAVAILABLE: Final[dict[int | str, dict[str, Any]]] = {503: _declared("What the answer needs is away right now.")}


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    instance: str,
    mend: str = "",
    headers: dict[str, str] | None = None,
    **members: Any,
) -> Response:
    """An error answer. `code` is the error's stable name; members that are None are left out."""
    body = Problem(
        type=f"urn:headrace:problem:{code}",
        title=TITLES.get(code, HTTPStatus(status).phrase),
        status=status,
        detail=detail,
        mend=mend or None,
        instance=instance,
        **members,
    )
    content = msgspec.json.encode(body.model_dump(exclude_none=True))
    return Response(content, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def error_problem(error: HeadraceError, instance: str) -> Response:
    """An error of ours as an answer."""
    detail = f"{error.what} ({error.where})" if error.where else error.what
    headers = {"Retry-After": "2"} if error.http_status == HTTPStatus.SERVICE_UNAVAILABLE else None
    return problem(error.http_status, error.code, detail, instance=instance, mend=error.mend, headers=headers)


Page = Callable[[int, str, str, str], Response]
"""Makes an error page of status, title, detail and mend."""


def install_problem_handlers(app: FastAPI, page: Page) -> None:
    """Answer every error of the framework and of ours in the one shape; a person at a page gets it as a `page`."""

    @app.exception_handler(HeadraceError)
    async def _ours(request: Request, error: HeadraceError) -> Response:
        if _is_page(request):
            return page(error.http_status, TITLES.get(error.code, "An error"), error.what, error.mend)
        return error_problem(error, request.url.path)

    @app.exception_handler(HTTPException)
    async def _framework(request: Request, error: HTTPException) -> Response:
        codes = {404: "not-found", 405: "method-not-allowed"}
        mends = {404: "GET /api/v1/openapi.json lists what there is", 405: "use a method of the Allow header"}
        if _is_page(request) and error.status_code == HTTPStatus.NOT_FOUND:
            return page(404, TITLES["not-found"], f"No page has the address {request.url.path}", "")
        return problem(
            error.status_code,
            codes.get(error.status_code, "bad-request"),
            str(error.detail),
            instance=request.url.path,
            mend=mends.get(error.status_code, ""),
            headers=dict(error.headers or {}),
        )

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        errors = [
            ParameterError(where=" ".join(map(str, one["loc"])), what=str(one["msg"])) for one in error.errors()[:20]
        ]
        detail = "; ".join(f"{one.where}: {one.what}" for one in errors)
        return problem(422, "bad-request", detail, instance=request.url.path, errors=errors)


def _is_page(request: Request) -> bool:
    """Whether a person's browser asked for a page (a script or a program does not ask for HTML)."""
    return not request.url.path.startswith("/api/") and "text/html" in request.headers.get("accept", "")
