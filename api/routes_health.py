"""`/healthz`, `/readyz`, `/metrics`: what watches the box."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry
from starlette.responses import Response

from api.answers import view_of
from api.context import Injected, Services
from api.metrics import MEDIA_TYPE, SINK_FILE, all_metrics
from api.models import Health, Ready, answer
from api.overview import OverviewCache
from api.problems import PROBLEMS, UNAVAILABLE, problem
from api.standing import SINK_SILENT_AFTER_MS, long_failing
from devices.tail import TailState

router = APIRouter(tags=["health"], responses=PROBLEMS)

_REASONS: Final = {
    TailState.REPLAYING: "the status view is still reading the log from its start",
    TailState.BEHIND: "readings arrive faster than the status view takes them",
    TailState.STALE: "the edge process, which writes the log, is away",
    TailState.FAILED: "the log cannot be read",
}


@router.get("/healthz", response_model=Health, summary="Is the process up")
async def healthz() -> Response:
    """Answers as long as this process does; says nothing of the others."""
    return answer(Health(status="ok"))


@router.get("/readyz", response_model=Ready, responses=UNAVAILABLE, summary="Is the box ready")
async def readyz(request: Request, services: Injected) -> Response:
    """200 when the edge writes, the status view is up to date and the sink shows signs of life; else 503 and why.

    `clock` is `ok`, `behind` (before the newest record) or `stepped` (jumped within the last hour): no reason not to be
    ready, but nothing is expired by age meanwhile. Nor are `warnings`: devices are served while exporting fails.
    """
    cache: OverviewCache = request.app.state.overview
    overview = await cache.get()
    reasons = not_ready_reasons(services)
    if overview.disk_full:
        reasons.append(f"the disk is full, readings are refused until there is room ({overview.disk_full})")
    warnings = long_failing(overview.sink, services.clock.time_ms())
    if not reasons:
        view = view_of(services.tail.status())
        weaker = dict(services.weaker_durability)
        ready = Ready(ready=True, view=view, clock=overview.clock, weaker_durability=weaker, warnings=warnings)
        return answer(ready)
    return problem(
        503,
        "not-ready",
        "; ".join(reasons),
        instance=request.url.path,
        mend="wait a few seconds; if it stays, read the appliance's log",
        headers={"Retry-After": "2"},
        reasons=reasons,
        clock=overview.clock,
        warnings=warnings or None,
    )


_TEXT: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Prometheus text.",
        "content": {"text/plain": {"schema": {"type": "string"}, "example": "headrace_status_devices 50.0\n"}},
    }
}


@router.get("/metrics", response_class=Response, responses=_TEXT, summary="Prometheus metrics")
async def metrics(request: Request, services: Injected) -> Response:
    """Metrics of all processes of the box; `headrace_scrape_part_up{part}` says which answered."""
    registry: CollectorRegistry = request.app.state.registry
    return Response(await all_metrics(services, registry), media_type=MEDIA_TYPE)


def not_ready_reasons(services: Services) -> list[str]:
    """Why the box is not ready, for people; empty when it is."""
    status = services.tail.status()
    reasons = []
    if status.state in _REASONS:
        detail = f" ({status.failure})" if status.failure else ""
        reasons.append(_REASONS[status.state] + detail)
    if services.sink_expected and (silence := _sink_silence(services)):
        reasons.append(silence)
    return reasons


def _sink_silence(services: Services) -> str:
    try:
        written_ms = (services.run_dir / SINK_FILE).stat().st_mtime_ns // 1_000_000
    except FileNotFoundError:
        return "the sink process has not reported yet"
    silent_ms = services.clock.time_ms() - written_ms
    return f"the sink process has not reported for {silent_ms // 1000} s" if silent_ms > SINK_SILENT_AFTER_MS else ""
