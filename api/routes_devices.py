"""`/api/v1/devices`: what the box knows of devices, and their readings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from api.answers import detail_of, key_from_path, path_of_key, reading_of, summary_of, view_of
from api.context import Injected, Services
from api.history import CURSOR_PATTERN, Budget, device_history
from api.models import DeviceDetail, DeviceList, ReadingList, answer
from api.problems import NOT_FOUND, PROBLEMS, UNAVAILABLE
from api.tag_filter import TagFilter
from api.times import TimeText, parse_time_ms
from commitlog.base import LogReader
from commitlog.partitioner import partition_for_key
from core.errors import NotFoundError
from devices.status import TOPICS_WITHOUT_DEVICES, device_text
from devices.status_model import DeviceStatus, Place
from devices.tail import TailState

router = APIRouter(prefix="/api/v1/devices", tags=["devices"], responses=PROBLEMS)

DevicePath = Annotated[
    str,
    Path(
        description='The device id, percent-encoded as one path segment: "/" is `%2F`.',
        min_length=1,
        max_length=2048,
        examples=["press-17", "line%2F4%2Fpress"],
    ),
]


@router.get("", response_model=DeviceList, responses=UNAVAILABLE, summary="List devices")
def list_devices(
    services: Injected,
    search: Annotated[str, Query(max_length=256, description="Only ids that contain this text.")] = "",
    tag: TagFilter = (),
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str, Query(max_length=2048, description="`next` of the previous page.")] = "",
) -> Response:
    """Devices by id: every one of which a reading or a session is known, also where the log has let go of it.

    With `tag` a page may be shorter than `limit` and still have a next: a request looks at some thousands of devices.
    """
    tail = services.tail.status()
    if tag:
        devices, after = _tagged(services, tag, search, key_from_path(cursor), limit)
    else:
        devices, after = services.view.page(
            current=tail.current, as_of_ms=tail.as_of_ms, search=search, after=key_from_path(cursor), limit=limit
        )
    known = services.registry.view.known
    shape = DeviceList(
        devices=[summary_of(device, known(device.key)) for device in devices],
        total=services.view.devices,
        next=None if after is None else path_of_key(after),
        view=view_of(tail),
    )
    return answer(shape)


@router.get("/{device}", response_model=DeviceDetail, responses={**NOT_FOUND, **UNAVAILABLE}, summary="Show a device")
def show_device(services: Injected, device: DevicePath) -> Response:
    """Whether it is connected, reporting, and right about the time; what it said last and when."""
    tail = services.tail.status()
    found = known_device(services, key_from_path(device))
    return answer(detail_of(found, services.registry.view.known(found.key), tail, services.readers))


@router.get(
    "/{device}/readings",
    response_model=ReadingList,
    responses={**NOT_FOUND, **UNAVAILABLE},
    summary="Read a device's readings",
)
def list_readings(
    services: Injected,
    device: DevicePath,
    since: Annotated[TimeText | None, Query(description="Received at or after.")] = None,
    until: Annotated[TimeText | None, Query(description="Received before.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[
        str | None, Query(pattern=CURSOR_PATTERN, max_length=4096, description="`next` of the previous page.")
    ] = None,
) -> Response:
    """Readings from the log, newest first. Since and until are times received, not the device's own."""
    now_ms = services.clock.time_ms()
    since_ms = None if since is None else parse_time_ms(since, now_ms, name="since")
    until_ms = None if until is None else parse_time_ms(until, now_ms, name="until")
    key = key_from_path(device)
    with services.readers.reader() as reader:
        history = device_history(
            reader,
            key,
            places_of(services, reader, key),
            since_ms=since_ms,
            until_ms=until_ms,
            limit=limit,
            cursor=cursor,
            budget=Budget(services.clock),
        )
    readings = [
        reading_of(one.place, one.record.offset, one.record.timestamp, one.record.value, one.record.headers)
        for one in history.found
    ]
    shape = ReadingList(
        device=device_text(key), readings=readings, next=history.cursor, scanned_records=history.scanned_records
    )
    return answer(shape)


def _tagged(
    services: Services, tags: Sequence[str], search: str, after: bytes, limit: int
) -> tuple[list[DeviceStatus], bytes | None]:
    """As `StatusView.page`, of the devices that the registry has under all of `tags`."""
    tail = services.tail.status()
    candidates, following = services.registry.view.among(tags, after)
    needle = search.encode("utf-8", "replace").lower()
    found: list[DeviceStatus] = []
    for key in candidates:
        if needle not in key.lower():
            continue
        device = services.view.get(key, current=tail.current, as_of_ms=tail.as_of_ms)
        if device is None:
            continue  # it never spoke, or the log has forgotten it
        if len(found) == limit:
            return found, found[-1].key
        found.append(device)
    return found, following


def known_device(services: Services, key: bytes) -> DeviceStatus:
    """The device in the view. Raises NotFoundError, saying so when the view does not know everything yet."""
    tail = services.tail.status()
    device = services.view.get(key, current=tail.current, as_of_ms=tail.as_of_ms)
    if device is not None:
        return device
    mend = "GET /api/v1/devices lists the known ones"
    if tail.state is TailState.REPLAYING:
        mend = "the console is still reading the log from its start: try again when /readyz says ready"
    raise NotFoundError(f"the log has nothing of a device {device_text(key)[:300]!r}", mend=mend)


def places_of(services: Services, reader: LogReader, key: bytes) -> list[Place]:
    """The partitions to look for a device in: where it was met, or where its key leads when the view cannot know.

    Raises NotFoundError when the view knows every device and this is none.
    """
    device = services.view.get(key, current=False)
    if device is not None:
        return list(device.places)
    if services.tail.status().state is not TailState.REPLAYING and not services.view.evicted_devices:
        known_device(services, key)
    return [
        Place(topic.name, partition_for_key(key, topic.partitions))
        for topic in reader.topics().values()
        if topic.name not in TOPICS_WITHOUT_DEVICES
    ]
