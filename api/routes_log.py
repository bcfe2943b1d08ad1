"""`/api/v1/topics`, `/exports`, `/sessions`: the log, what was exported of it, and whose sessions there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query
from starlette.responses import Response

from api.context import Injected, Services
from api.models import (
    PartitionMarks,
    SessionInfo,
    SessionList,
    Topic,
    TopicList,
    Window,
    answer,
)
from api.models_exports import Export, ExportFile, ExportList, MissingRange
from api.problems import PROBLEMS, UNAVAILABLE
from api.recovered import Recovered
from api.standing import sink_answer, sink_standing
from api.times import to_datetime
from commitlog.base import ClosedWindow, LogReader, TopicInfo, Watermark
from commitlog.holdings import stored_bytes
from commitlog.storage import LOG_DIR, SystemStorage, partition_dir_name

_SESSION_TIMES: Final = ("since", "away_since", "expires")
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
    """Windows that are in the lake, newest first, with their files, quarantined rows and lost ranges; and the sink.

    `sink` says what waits for export, how long, and what went wrong last, of all topics or of the one asked for.
    """
    rows = (await services.log.rows("exports")).values()
    chosen = [row for row in rows if topic is None or row["topic"] == topic]
    chosen.sort(key=lambda row: (row["exported_at_ms"], row["topic"], row["number"]), reverse=True)
    standing = await run_sync(sink_standing, services)
    sink = None if standing is None else sink_answer(standing, services.clock.time_ms(), topic)
    exports = [_export(row) for row in chosen[:limit]]
    return answer(ExportList(exports=exports, lake=str(services.lake_dir), sink=sink))


@router.get("/sessions", response_model=SessionList, summary="List sessions")
async def list_sessions(
    services: Injected,
    connected: Annotated[
        Literal["true", "false"] | None, Query(description="Only those that are connected, or only those that are not.")
    ] = None,
    client_id: Annotated[str | None, Query(max_length=65_535, description="Only this MQTT client's.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[
        str | None, Query(pattern="^[a-z]{1,16}:[0-9]{1,15}$", description="`next` of the previous page.")
    ] = None,
) -> Response:
    """MQTT sessions, connected or kept for clients that are away, and TCP connections; the oldest of each first."""
    wanted = None if connected is None else connected == "true"
    told = await services.ask("sessions", connected=wanted, client_id=client_id, limit=limit, cursor=cursor)
    shape = SessionList(
        sessions=[_session(row) for row in told["sessions"]],
        connected=told["connected"],
        away=told["away"],
        next=told["next"],
    )
    return answer(shape)


def _session(row: Mapping[str, Any]) -> SessionInfo:
    times = {name: None if row[f"{name}_ms"] is None else to_datetime(row[f"{name}_ms"]) for name in _SESSION_TIMES}
    return SessionInfo(**times, **{name: row[name] for name in SessionInfo.model_fields if name not in times})


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
        size_bytes=_size_bytes(services, info),
        oldest=_oldest(reader, info, marks),
        records=sum(recovered.records(info.name, partition, mark) for partition, mark in enumerate(marks)),
        windows_closed=0 if last is None else last.number + 1,
        last_window=None if last is None else _window(last),
    )


def _size_bytes(services: Services, info: TopicInfo) -> int:
    log_dir = services.run_dir.parent / LOG_DIR
    names = (partition_dir_name(info.name, partition) for partition in range(info.partitions))
    return sum(stored_bytes(SystemStorage(), log_dir / name) for name in names)


def _oldest(reader: LogReader, info: TopicInfo, marks: Sequence[Watermark]) -> datetime | None:
    """When the first record of any partition was received; those at the start of one are its oldest."""
    firsts = [reader.read(info.name, partition, mark.start, max_bytes=1) for partition, mark in enumerate(marks)]
    times = [part.records[0].timestamp for part in firsts if part.records]
    return to_datetime(min(times)) if times else None


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
