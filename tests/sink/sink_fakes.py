"""A log in memory, its reader, and storage that dies where a test says."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import duckdb

from commitlog.base import ClosedWindow, Gap, Header, Position, Slice, TableChange, TopicInfo, Watermark, WriterState
from core.clock import SystemClock
from core.errors import UnavailableError
from sink.attempts import Pauses
from sink.base import Replayer, Sink
from sink.holding import Holding
from sink.metrics import SinkMetrics
from sink.runner import Runner
from sink.storage import Storage
from tests.conftest import wait_until_async

DAY_MS = 86_400_000
T0 = 20_412 * DAY_MS + 10 * 3_600_000  # 2025-11-20T10:00Z


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeRecord:
    offset: int
    value: bytes | None
    key: bytes | None = b"press-1"
    timestamp: int = T0
    headers: list[Header] = field(default_factory=list)


class Killed(BaseException):
    """The process died here."""


class FakeLog:
    """Records, windows and tables of a few topics; both `Log` (append of changes) and `LogReader`."""

    def __init__(self, batch: int = 7) -> None:
        self.tables: dict[str, dict[str, Any]] = {}
        self.records: dict[tuple[str, int], list[FakeRecord]] = {}
        self.gaps: dict[tuple[str, int], list[Gap]] = {}
        self.closed: dict[str, list[ClosedWindow]] = {}
        self.infos: dict[str, TopicInfo] = {}
        self.appends = 0
        self.unavailable = 0
        self.waits = 0
        self.before_append: list[Any] = []
        self.after_append: list[Any] = []
        self._batch = batch

    def topic(self, name: str = "telemetry", partitions: int = 2) -> TopicInfo:
        info = TopicInfo(name=name, topic_id=f"{len(self.infos) + 1:032x}", partitions=partitions)
        self.infos[name] = info
        self.closed[name] = []
        for partition in range(partitions):
            self.records[name, partition] = []
        return info

    def put(self, value: Any, *, topic: str = "telemetry", partition: int = 0, raw: bool = False, **facts: Any) -> int:
        """Append a payload: an object as JSON, or bytes as they are with `raw`."""
        records = self.records[topic, partition]
        offset = facts.pop("offset", records[-1].offset + 1 if records else 0)
        payload = value if raw else json.dumps(value).encode()
        records.append(FakeRecord(offset=offset, value=payload, **facts))
        return offset

    def close_window(self, topic: str = "telemetry", *, number: int | None = None, **changed: Any) -> ClosedWindow:
        closed = self.closed[topic]
        info = self.infos[topic]
        last = closed[-1].offsets if closed else {}
        offsets = {}
        for partition in range(info.partitions):
            first = last.get(partition, (0, 0))[1]
            records = self.records[topic, partition]
            offsets[partition] = (first, max(records[-1].offset + 1, first) if records else first)
        number = len(closed) if number is None else number
        window = ClosedWindow(
            topic=topic,
            topic_id=info.topic_id,
            number=number,
            start_ms=T0 + number * 3_600_000,
            end_ms=T0 + (number + 1) * 3_600_000,
            offsets={**offsets, **changed},
            reason="interval",
        )
        closed.append(window)
        return window

    # Log

    async def append(self, records: Sequence[Any], changes: Sequence[TableChange] = ()) -> Sequence[Position]:
        assert not records
        for hook in self.before_append:
            hook()
        if self.unavailable:
            self.unavailable -= 1
            raise UnavailableError("the edge process does not answer")
        self.appends += 1
        for change in changes:
            table = self.tables.setdefault(change.table, {})
            if change.value is None:
                table.pop(change.key, None)
            else:
                table[change.key] = json.loads(json.dumps(change.value))
        for hook in self.after_append:
            hook()
        return []

    async def rows(self, table: str) -> Mapping[str, Any]:
        return dict(self.tables.get(table, {}))

    async def create_topic(self, name: str, partitions: int | None = None) -> TopicInfo:
        raise NotImplementedError

    async def roll(self, topic: str, reason: str) -> ClosedWindow | None:
        raise NotImplementedError

    # LogReader

    def topics(self) -> Mapping[str, TopicInfo]:
        return dict(self.infos)

    def read(self, topic: str, partition: int, offset: int, *, max_bytes: int = 1 << 20) -> Slice:
        """Whole batches, so it may begin before `offset`, as the real one."""
        every = self.records[topic, partition]
        gaps = [gap for gap in self.gaps.get((topic, partition), []) if gap.next > offset]
        end = max([gap.next for gap in gaps] + [r.offset + 1 for r in every[-1:]] + [offset])
        wanted = [record for record in every if record.offset >= offset]
        start = (every.index(wanted[0]) // self._batch) * self._batch if wanted else 0
        picked = every[start : start + self._batch] if wanted else []
        more = every[start + self._batch :] if wanted else []
        following = more[0].offset if more else end
        return Slice(records=picked, next_offset=following, gaps=[gap for gap in gaps if gap.first < following])

    def windows(self, topic: str, *, after: int = -1) -> Sequence[ClosedWindow]:
        return [window for window in self.closed[topic] if window.number > after]

    def watermarks(self, topic: str) -> Sequence[Watermark]:
        """Each partition from its first record, or gap, on."""
        found = []
        for partition in range(self.infos[topic].partitions):
            offsets = [record.offset for record in self.records[topic, partition]]
            gaps = self.gaps.get((topic, partition), [])
            start = min([*offsets[:1], *(gap.first for gap in gaps)], default=0)
            high = max([offset + 1 for offset in offsets[-1:]] + [gap.next for gap in gaps], default=start)
            found.append(Watermark(start=start, high=high))
        return found

    def offset_for_time(self, topic: str, partition: int, timestamp_ms: int) -> int:
        raise NotImplementedError

    def wait(self, timeout_s: float) -> bool:
        self.waits += 1
        return False

    def writer_state(self) -> WriterState:
        return WriterState.LIVE

    def close(self) -> None:
        pass


class FaultyStorage(Storage):
    """Real files; dies at its `die_at`-th step, and with `power_loss` takes back what was not synced by then.

    `after`: the storage of a process before, which was killed; what it did not sync is not synced yet.
    """

    def __init__(
        self, die_at: int | None = None, *, power_loss: bool = False, after: FaultyStorage | None = None
    ) -> None:
        self.steps = 0
        self.died_at = ""
        self._die_at = die_at
        self._die_by_name = ("", 0)
        self._power_loss = power_loss
        self._unsynced: dict[Path, list[tuple[Path, bytes | Path | None]]] = {} if after is None else after._unsynced
        self._locks: list[BinaryIO] = []

    def die_before(self, name: str, nth: int) -> None:
        """Die when a step of this name comes for the `nth` time from now on."""
        self._die_by_name = (name, nth)

    def step(self, name: str) -> None:
        """One more thing that happens; the process may die right here."""
        if self.died_at:
            raise Killed
        self.steps += 1
        wanted, left = self._die_by_name
        if name == wanted:
            self._die_by_name = (wanted, left - 1)
        if self.steps == self._die_at or (name == wanted and left == 1):
            self.died_at = name
            for lock in self._locks:
                lock.close()
            if self._power_loss:
                self._take_back()
            raise Killed

    def _take_back(self) -> None:
        folders = []
        for entries in self._unsynced.values():
            for path, before in reversed(entries):
                if isinstance(before, bytes):
                    path.write_bytes(before)
                elif path.is_dir():
                    folders.append(path)
                elif before is None:
                    path.unlink(missing_ok=True)
                elif path.exists():
                    path.rename(before)
        for folder in folders:  # with all that was put there, synced or not: nothing leads to it any more
            shutil.rmtree(folder, ignore_errors=True)

    def make_dirs(self, path: Path) -> None:
        self.step("make_dirs")
        for directory in reversed([path, *path.parents]):
            if not directory.is_dir():
                directory.mkdir()
                self._unsynced.setdefault(directory.parent, []).append((directory, None))
                self.step("directory made")
                self.sync_dir(directory.parent)

    @contextmanager
    def create(self, path: Path) -> Iterator[BinaryIO]:
        self.step("create")
        self._unsynced.setdefault(path.parent, []).append((path, None))
        with path.open("wb") as file:
            yield file
            self.step("before sync")
        self.step("synced")

    def rename(self, source: Path, target: Path) -> None:
        self.step("before rename")
        source.rename(target)
        self._unsynced.setdefault(target.parent, []).append((target, source))
        self.step("renamed")
        self.sync_dir(target.parent)

    def sync_dir(self, path: Path) -> None:
        self._unsynced.pop(path, None)
        self.step("directory synced")

    def remove(self, path: Path) -> None:
        self.step("before remove")
        if path.exists():
            self._unsynced.setdefault(path.parent, []).append((path, path.read_bytes()))
        super().remove(path)
        self.step("removed")

    def lock(self, path: Path) -> BinaryIO | None:
        held = super().lock(path)
        if held is not None:
            self._locks.append(held)
        return held


def quick_runner(
    sink: Sink,
    log: FakeLog,
    *,
    metrics: SinkMetrics | None = None,
    holding: Holding | None = None,
    replayer: Replayer | None = None,
    **pauses: float,
) -> Runner:
    """A runner that does not dawdle."""
    waits = {"retry_max_s": 0.002, "first_s": 0.001, "wait_s": 0.001, "poll_s": 0.001, **pauses}
    return Runner(
        sink,
        open_reader=lambda: log,
        log=log,
        clock=SystemClock(),
        metrics=metrics or SinkMetrics(),
        pauses=Pauses(**waits),
        holding=holding,
        replayer=replayer,
    )


async def run_until(runner: Runner, condition: Callable[[], bool]) -> None:
    """Run until `condition` holds, then stop in order; what the runner raises is raised here."""
    stop = asyncio.Event()
    task = asyncio.create_task(runner.run(stop))
    try:
        await wait_until_async(lambda: task.done() or condition())
    finally:
        stop.set()
        await task


async def export_all(sink: Sink, log: FakeLog, **options: Any) -> None:
    """Export every closed window, until there is nothing left to do."""
    waits = log.waits

    def caught_up() -> bool:
        rows = log.tables.get(f"sink.{sink.name}", {})
        return log.waits > waits and all(
            not closed or rows.get(closed[-1].topic_id, {}).get("next_window", 0) > closed[-1].number
            for closed in log.closed.values()
        )

    await run_until(quick_runner(sink, log, **options), caught_up)


@cache
def database() -> duckdb.DuckDBPyConnection:
    """One for all tests: opening one takes longer than most of their queries."""
    connection = duckdb.connect()
    connection.execute("SET GLOBAL TimeZone='UTC'; SET threads=1")
    return connection


def lake_rows(lake: Path, topic: str = "telemetry") -> list[dict[str, Any]]:
    """Every row that a reader who globs the topic's folder meets."""
    if not list((lake / topic).glob("**/*.parquet")):
        return []
    query = f"SELECT * FROM read_parquet('{lake}/{topic}/**/*.parquet', union_by_name=true, hive_partitioning=true)"
    with database().cursor() as connection:
        # Through Arrow: DuckDB's own Python values of TIMESTAMPTZ need pytz, which is not ours.
        rows: list[dict[str, Any]] = (
            connection.sql(f"{query} ORDER BY _partition, _offset").to_arrow_table().to_pylist()
        )
        return rows
