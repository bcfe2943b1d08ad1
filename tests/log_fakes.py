"""A log in memory behind the `LogReader` seam, for tests of what reads the log."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from commitlog.base import (
    ClosedWindow,
    Gap,
    Header,
    NewRecord,
    Position,
    Slice,
    TableChange,
    TopicInfo,
    Watermark,
    WriterState,
)
from commitlog.partitioner import partition_for_key
from core.errors import NotFoundError


class FakeClock:
    """A clock that is moved by hand."""

    def __init__(self, time_ms: int = 1_800_000_000_000) -> None:
        self.now_ms = time_ms

    def time_ms(self) -> int:
        return self.now_ms

    def monotonic_ms(self) -> int:
        return self.now_ms - 1_700_000_000_000


@dataclass(frozen=True, slots=True)
class FakeRecord:
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[Header] = field(default_factory=list)


class FakeLog:
    """Topics with partitions of records; what was appended is committed at once. Safe to read from threads."""

    def __init__(self, clock: FakeClock, partitions: int = 4) -> None:
        self.clock = clock
        self.default_partitions = partitions
        self.infos: dict[str, TopicInfo] = {}
        self.records: dict[tuple[str, int], list[FakeRecord]] = {}
        self.starts: dict[tuple[str, int], int] = {}
        self.highs: dict[tuple[str, int], int] = {}
        self.closed: dict[str, list[ClosedWindow]] = {}
        self.state = WriterState.LIVE
        self.failure: Exception | None = None
        self.moved = threading.Event()
        self.tables: dict[str, dict[str, Any]] = {}

    def topic(self, name: str, partitions: int | None = None) -> TopicInfo:
        if name not in self.infos:
            count = partitions or self.default_partitions
            self.infos[name] = TopicInfo(name=name, topic_id=f"{len(self.infos):032x}", partitions=count)
            for partition in range(count):
                self.records[name, partition] = []
                self.starts[name, partition] = self.highs[name, partition] = 0
        return self.infos[name]

    def append(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[Header] = (),
        *,
        partition: int | None = None,
        time_ms: int | None = None,
    ) -> tuple[int, int]:
        info = self.topic(topic)
        chosen = partition_for_key(key, info.partitions) if partition is None else partition
        offset = self.highs[topic, chosen]
        timestamp = self.clock.time_ms() if time_ms is None else time_ms
        self.records[topic, chosen].append(FakeRecord(offset, timestamp, key, value, list(headers)))
        self.highs[topic, chosen] = offset + 1
        self.moved.set()
        return chosen, offset

    def reading(self, device: str, reading: Mapping[str, Any] | bytes = b"{}", **options: Any) -> tuple[int, int]:
        value = reading if isinstance(reading, bytes) else json.dumps(reading).encode()
        headers = [("mqtt.topic", f"devices/{device}/telemetry".encode())]
        return self.append("telemetry", device.encode(), value, headers, **options)

    def event(self, device: str, event: str, session: str, boot_id: str = "b1", **more: Any) -> tuple[int, int]:
        fields = {"event": event, "device": device, "session": session, "boot_id": boot_id, **more}
        return self.append("device.events", device.encode(), json.dumps(fields).encode())

    def edge_started(self, boot_id: str) -> None:
        value = json.dumps({"event": "edge.started", "boot_id": boot_id}).encode()
        for partition in range(self.topic("device.events").partitions):
            self.append("device.events", None, value, partition=partition)

    def skip(self, topic: str, partition: int, count: int) -> None:
        """Leave a gap."""
        self.topic(topic)
        self.highs[topic, partition] += count

    def expire(self, topic: str, partition: int, start: int) -> None:
        self.starts[topic, partition] = start
        self.records[topic, partition] = [one for one in self.records[topic, partition] if one.offset >= start]

    async def rows(self, table: str) -> Mapping[str, Any]:
        return self.tables.get(table, {})

    def reader(self) -> FakeReader:
        return FakeReader(self)


class FakeTables:
    """State tables in memory: each append is one commit, done after a turn of the loop, or fails with `failure`."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, Any]] = {}
        self.commits = 0
        self.failure: Exception | None = None

    def rows_now(self, table: str) -> Mapping[str, Any]:
        return self.tables.get(table, {})

    async def append(self, records: Sequence[NewRecord], changes: Sequence[TableChange] = ()) -> Sequence[Position]:
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        for change in changes:
            rows = self.tables.setdefault(change.table, {})
            if change.value is None:
                rows.pop(change.key, None)
            else:
                rows[change.key] = change.value
        self.commits += 1
        return []


class FakeReader:
    """`LogReader` over a `FakeLog`."""

    def __init__(self, log: FakeLog, max_records: int = 50) -> None:
        self.log = log
        self.max_records = max_records
        self.closed = False
        self.reads = 0

    def topics(self) -> Mapping[str, TopicInfo]:
        if self.log.failure is not None:
            raise self.log.failure
        return self.log.infos

    def watermarks(self, topic: str) -> Sequence[Watermark]:
        if topic not in self.log.infos:
            raise NotFoundError(f"no topic {topic!r}")
        return [
            Watermark(start=self.log.starts[topic, partition], high=self.log.highs[topic, partition])
            for partition in range(self.log.infos[topic].partitions)
        ]

    def read(self, topic: str, partition: int, offset: int, *, max_bytes: int = 1 << 20) -> Slice:
        self.reads += 1
        at = (topic, partition)
        high = self.log.highs[at]
        if offset >= high:
            return Slice(records=[], next_offset=offset)
        records = [one for one in self.log.records[at] if one.offset >= offset][: self.max_records]
        following = records[-1].offset + 1 if len(records) == self.max_records else high
        present = {one.offset for one in records}
        gaps = [Gap(first=n, next=n + 1, reason="gone") for n in range(offset, following) if n not in present]
        return Slice(records=records, next_offset=following, gaps=gaps)

    def offset_for_time(self, topic: str, partition: int, timestamp_ms: int) -> int:
        for record in self.log.records[topic, partition]:
            if record.timestamp >= timestamp_ms:
                return record.offset
        return self.log.highs[topic, partition]

    def windows(self, topic: str, *, after: int = -1) -> Sequence[ClosedWindow]:
        return [window for window in self.log.closed.get(topic, []) if window.number > after]

    def wait(self, timeout_s: float) -> bool:
        moved = self.log.moved.wait(min(timeout_s, 0.02))
        self.log.moved.clear()
        return moved

    def writer_state(self) -> WriterState:
        return self.log.state

    def close(self) -> None:
        self.closed = True
