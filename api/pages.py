"""The console: server-rendered pages that work without JavaScript, and the fragments that keep them live.

A page polls one fragment a second; a poll costs one page of devices from the view (memory) and figures that are
asked at most once a second for everybody. Readings are read from the log only when a device's page is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

from api import page_model
from api.answers import full_reading, key_from_path
from api.context import Injected, Services
from api.history import Budget, History, device_history
from api.overview import OverviewCache
from api.routes_devices import DevicePath, known_device
from core.errors import HeadraceError
from core.ports import read_ports
from devices.status_model import DeviceStatus, LastReading

HERE: Final = Path(__file__).parent
DEVICES_PER_PAGE: Final = 50
READINGS_PER_PAGE: Final = 50
_SCAN_MS: Final = 500  # a page that shows fewer readings is better than one that is waited for

router = APIRouter(include_in_schema=False)

_templates: Final = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)

SearchText = Annotated[str, Query(max_length=256)]
CursorText = Annotated[str, Query(max_length=2048)]


@router.get("/")
async def devices_page(
    request: Request, services: Injected, search: SearchText = "", cursor: CursorText = ""
) -> Response:
    """The first page: every device, live."""
    return _html("devices.html", **await _live(request, services, search, cursor))


@router.get("/fragments/live")
async def live_fragment(
    request: Request, services: Injected, search: SearchText = "", cursor: CursorText = ""
) -> Response:
    """What the first page polls: figures, notice and table."""
    return _html("_live.html", **await _live(request, services, search, cursor))


@router.get("/devices/{device}")
async def device_page(services: Injected, device: DevicePath) -> Response:
    """One device: facts, last payload, latest readings."""
    key = key_from_path(device)
    context = await run_sync(_facts, services, device)
    history, failure = await run_sync(_readings, services, known_device(services, key))
    now_ms = services.clock.time_ms()
    return _html(
        "device.html",
        title=page_model.title_of(key),
        readings=page_model.reading_rows(history.found if history else (), now_ms),
        readings_failure=failure,
        api=f"/api/v1/devices/{device}/readings",
        **context,
    )


@router.get("/fragments/devices/{device}")
def device_fragment(services: Injected, device: DevicePath) -> Response:
    """What the device page polls: facts and last payload."""
    return _html("_device.html", **_facts(services, device))


def problem_page(status: int, title: str, detail: str, mend: str) -> HTMLResponse:
    """An error as a page, for a person who followed a link."""
    page = _templates.get_template("problem.html").render(status=status, title=title, detail=detail, mend=mend)
    return HTMLResponse(page, status_code=status)


async def _live(request: Request, services: Services, search: str, cursor: str) -> dict[str, Any]:
    cache: OverviewCache = request.app.state.overview
    overview = await cache.get()
    tail = services.tail.status()
    devices, after = await run_sync(
        lambda: services.view.page(
            current=tail.current, search=search, after=key_from_path(cursor), limit=DEVICES_PER_PAGE
        )
    )
    now_ms = services.clock.time_ms()
    total = services.view.devices
    return {
        "search": search,
        "figures": page_model.figures(total, services.view.connected_devices, tail, overview, now_ms),
        "notice": page_model.notice(tail, now_ms, overview.disk_full),
        "sink_notice": page_model.sink_notice(overview.sink, now_ms),
        "rows": [page_model.device_row(device, now_ms) for device in devices],
        "paging": page_model.paging(search, cursor, after, len(devices), total),
        "total": total,
        "mqtt_port": read_ports(services.run_dir).get("mqtt"),
    }


def _facts(services: Services, device: str) -> dict[str, Any]:
    tail = services.tail.status()
    status = known_device(services, key_from_path(device))
    now_ms = services.clock.time_ms()
    kind, text = page_model.connection(status)
    last = _last(services, status)
    return {
        "poll": f"/fragments/devices/{device}",
        "notice": page_model.notice(tail, now_ms),
        "connection_kind": kind,
        "connection": text,
        "facts": page_model.device_facts(status, now_ms),
        "payload": page_model.payload_rows(last),
        "received": page_model.moment(last.received_ms if last else None, now_ms),
    }


def _last(services: Services, status: DeviceStatus) -> LastReading | None:
    if status.last is None:
        return None
    try:
        return full_reading(status.last, services.readers)
    except (HeadraceError, OSError):
        return status.last  # shown as too large to keep: the rest of the page stands


def _readings(services: Services, status: DeviceStatus) -> tuple[History | None, str]:
    """The latest readings, or why there are none to show: the rest of the page stands without them."""
    try:
        with services.readers.reader() as reader:
            history = device_history(
                reader,
                status.key,
                status.places,
                since_ms=None,
                until_ms=None,
                limit=READINGS_PER_PAGE,
                cursor=None,
                budget=Budget(services.clock, scan_ms=_SCAN_MS),
            )
    except (HeadraceError, OSError) as error:
        return None, str(error)
    return history, ""


def _html(template: str, **context: Any) -> HTMLResponse:
    return HTMLResponse(_templates.get_template(template).render(**context))
