"""`/api/v1/topics`, `/exports`, `/sessions`: the log, what was exported of it, and who is connected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from api.context import Injected, Services
from api.models import (
    Export,
    ExportFile,
    ExportList,
    MissingRange,
    PartitionMarks,
    SessionList,
    Topic,
    TopicList,
    Window,
    answer,
)
from api.problems import PROBLEMS, UNAVAILABLE
from api.recovered import Recovered
from api.times import to_datetime
from commitlog.base import ClosedWindow, LogReader, TopicInfo

router = APIRouter(prefix="/api/v1", tags=["log"], responses={**PROBLEMS, **UNAVAILABLE})


@router.get("/topics", response_model=TopicList, summary="List topics")
def list_topics(services: Injected) -> Response:
    """Topics by name, with the readable range of each partition and the last closed window."""
    with services.readers.reader() as reader:
        recovered = Recovered(services.run_dir.parent)
        topics = [_topic(services, reader, info, recovered) for _, info in sorted(reader.topics().items())]
        return answer(TopicList(topics=topics, writer=reader.writer_state().value))


@router.get("/exports", response_model=ExportList, summary="List exported windows")
async def list_exports(
    services: Injected,
    topic: Annotated[str | None, Query(max_length=249, description="Only of this topic.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """Windows that are in the lake, newest first, with their files, quarantined rows and lost ranges."""
    rows = (await services.log.rows("exports")).values()
    chosen = [row for row in rows if topic is None or row["topic"] == topic]
    chosen.sort(key=lambda row: (row["exported_at_ms"], row["topic"], row["number"]), reverse=True)
    return answer(ExportList(exports=[_export(row) for row in chosen[:limit]], lake=str(services.lake_dir)))


@router.get("/sessions", response_model=SessionList, summary="List open connections")
async def list_sessions(services: Injected, limit: Annotated[int, Query(ge=1, le=10_000)] = 1000) -> Response:
    """What the edge has open now, as it tells it: protocol, peer, client id, devices."""
    told = await services.ask("sessions")
    return answer(SessionList(sessions=[plain(one) for one in told["sessions"][:limit]], total=told["total"]))


def plain(value: Any) -> Any:
    """What msgpack carried as JSON can carry it: bytes become text, keys strings."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, Mapping):
        return {str(plain(name)): plain(content) for name, content in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value


def _topic(services: Services, reader: LogReader, info: TopicInfo, recovered: Recovered) -> Topic:
    marks = reader.watermarks(info.name)
    last = services.readers.last_window(reader, info.name, info.topic_id)
    return Topic(
        topic=info.name,
        topic_id=info.topic_id,
        partitions=[
            PartitionMarks(
                partition=partition,
                log_start_offset=mark.start,
                high_watermark=mark.high,
                recovered=recovered.since_start(info.name, partition),
            )
            for partition, mark in enumerate(marks)
        ],
        records=sum(recovered.records(info.name, partition, mark) for partition, mark in enumerate(marks)),
        windows_closed=0 if last is None else last.number + 1,
        last_window=None if last is None else _window(last),
    )


def _window(window: ClosedWindow) -> Window:
    return Window(
        number=window.number,
        start=to_datetime(window.start_ms),
        end=to_datetime(window.end_ms),
        reason=window.reason,
        offsets={str(partition): (first, following) for partition, (first, following) in window.offsets.items()},
    )


def _ranges(rows: Iterable[tuple[int, int, int, str]]) -> list[MissingRange]:
    return [
        MissingRange(partition=partition, first=first, next=following, reason=reason)
        for partition, first, following, reason in rows
    ]


def _export(row: Mapping[str, Any]) -> Export:
    return Export(
        topic=row["topic"],
        window=row["number"],
        start=to_datetime(row["start_ms"]),
        end=to_datetime(row["end_ms"]),
        exported_at=to_datetime(row["exported_at_ms"]),
        files=[
            ExportFile(path=file["path"], rows=file["rows"], size_bytes=file["bytes"], date=file["date"])
            for file in row["files"]
        ],
        records=row["records"],
        rows=row["rows"],
        quarantined=row["quarantined"],
        lost=_ranges(row["lost"]),
        left_out=_ranges(row.get("left_out", ())),
        clashes=row["clashes"],
    )
