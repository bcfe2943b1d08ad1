"""What the tests of retention share: windows made by hand for the policy, and a real log with an expirer."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from commitlog.base import ClosedWindow, TableChange, TopicInfo
from commitlog.committed import Committed, committed_row, committed_table
from commitlog.embedded import EmbeddedLog
from commitlog.holdings import PartitionHolding, SegmentSpan
from commitlog.ledger import LEDGER_TABLE, LedgerEntry, entries
from commitlog.reader import FileLogReader
from commitlog.settings import TopicSettings
from commitlog.windows import WINDOWS_TABLE, window_from_row
from core.clock import ClockState
from retention.expirer import Expirer
from retention.expiry import TopicState
from retention.limits import Limits, TopicLimits
from retention.settings import RetentionSettings
from retention.usage import Usage
from tests.commitlog.commitlog_disk import MemoryDisk
from tests.commitlog.log_support import open_log, record
from tests.log_fakes import FakeClock

TOPIC_ID = "ab" * 16
HOUR_MS = 3_600_000
SINK = "parquet"


def limits(*, max_age_ms: int = 0, max_bytes: int = 0) -> Limits:
    return Limits(
        roll_interval_ms=HOUR_MS, roll_jitter_ms=0, roll_bytes=1 << 30, max_age_ms=max_age_ms, max_bytes=max_bytes
    )


def window(
    number: int, offsets: Mapping[int, tuple[int, int]], *, topic: str = "t", topic_id: str = TOPIC_ID
) -> ClosedWindow:
    """Window n ends at (n + 1) hours."""
    return ClosedWindow(
        topic=topic,
        topic_id=topic_id,
        number=number,
        start_ms=number * HOUR_MS,
        end_ms=(number + 1) * HOUR_MS,
        offsets=offsets,
        reason="time",
    )


def holding(partition: int, log_start: int, *segments: tuple[int, int, int]) -> PartitionHolding:
    """Segments as (base, next, bytes)."""
    spans = tuple(SegmentSpan(base_offset=b, next_offset=n, size_bytes=size) for b, n, size in segments)
    return PartitionHolding(partition=partition, log_start=log_start, segments=spans)


def regular(
    count: int,
    *,
    exported: int | None = None,
    topic: str = "t",
    topic_id: str = TOPIC_ID,
    gone: int = 0,
    **limit: int,
) -> TopicState:
    """A topic of one partition: `count` windows of ten offsets and 100 bytes, as many open ones behind them.

    The first `exported` windows are exported; None: no sink is configured. The segments of the first `gone` are gone.
    """
    windows = [window(n, {0: (10 * n, 10 * n + 10)}, topic=topic, topic_id=topic_id) for n in range(count)]
    segments = [(10 * n, 10 * n + 10, 100) for n in range(gone, count + 1)]
    committed = {} if exported is None else {SINK: Committed(next_window=exported, offsets={0: 10 * exported})}
    return TopicState(
        info=TopicInfo(name=topic, topic_id=topic_id, partitions=1),
        windows=windows,
        partitions=[holding(0, 10 * gone, *segments)],
        committed=committed,
        limits=limits(**limit),
    )


class RetentionBox:
    """A real log on a disk in memory, and its expirer, looked with by hand."""

    def __init__(self, data_dir: Path, disk: MemoryDisk | None = None, **settings: Any) -> None:
        self.data_dir = data_dir
        self.disk = disk or MemoryDisk()
        self.clock = FakeClock()
        self.settings = RetentionSettings(**{"roll_jitter": "0", "max_age": "0", **settings})
        self.topics: Sequence[TopicSettings] = ()
        self.clock_state = ClockState.OK
        self.usage = Usage(total_bytes=1 << 40, free_bytes=1 << 39, lake_bytes=0, log_other_bytes=0)
        self.sinks: Sequence[str] = (SINK,)

    async def open(self) -> RetentionBox:
        self.log: EmbeddedLog = await open_log(self.data_dir, storage=self.disk, clock=self.clock)
        await self.log.create_topic("telemetry", 2)
        self.renew()
        return self

    def renew(self) -> None:
        self.expirer = Expirer(
            self.log,
            self.settings,
            TopicLimits(self.settings, self.topics),
            self.clock,
            sinks=self.sinks,
            clock_state=lambda: self.clock_state,
            measure=lambda *, walk: self.usage,
        )

    async def reopen(self) -> None:
        await self.log.close()
        self.disk.revive()
        await self.open()

    async def window(self, *, topic: str = "telemetry", partitions: Sequence[int] = (0, 1), size: int = 2_000) -> None:
        """An hour with a reading of `size` bytes, that no codec makes smaller, in each of the partitions."""
        rng = random.Random(self.clock.now_ms)
        values = [record(topic, None, rng.randbytes(size), partition=partition) for partition in partitions]
        await self.log.append(values)
        self.clock.now_ms += HOUR_MS
        await self.log.roll(topic, "test")

    async def windows(self, count: int, **options: Any) -> None:
        for _ in range(count):
            await self.window(**options)

    async def export(self, through: int, *, topic: str = "telemetry") -> None:
        """As a sink does: committed offsets behind window `through`."""
        done = next(one for one in self.closed(topic) if one.number == through)
        offsets = {partition: following for partition, (_, following) in done.offsets.items()}
        row = committed_row(topic, Committed(next_window=through + 1, offsets=offsets), self.clock.now_ms)
        await self.log.append([], [TableChange(table=committed_table(SINK), key=done.topic_id, value=row)])

    async def look(self, times: int = 1) -> None:
        for _ in range(times):
            await self.expirer.look()

    def closed(self, topic: str = "telemetry") -> list[ClosedWindow]:
        """The windows that the table holds."""
        found = [window_from_row(row) for row in self.log.rows_now(WINDOWS_TABLE).values()]
        return sorted((one for one in found if one.topic == topic), key=lambda one: one.number)

    def numbers(self, topic: str = "telemetry") -> list[int]:
        return [one.number for one in self.closed(topic)]

    def ledger(self) -> list[LedgerEntry]:
        return list(entries(self.log.rows_now(LEDGER_TABLE)))

    def starts(self, topic: str = "telemetry") -> list[int]:
        """Log starts as readers see them."""
        with closing(FileLogReader(self.data_dir, storage=self.disk, clock=self.clock)) as reader:
            return [mark.start for mark in reader.watermarks(topic)]

    def readable(self, topic: str = "telemetry") -> dict[int, list[int]]:
        """The offsets that can be read, by partition."""
        found: dict[int, list[int]] = {}
        with closing(FileLogReader(self.data_dir, storage=self.disk, clock=self.clock)) as reader:
            for partition, mark in enumerate(reader.watermarks(topic)):
                offset = mark.start
                found[partition] = []
                while offset < mark.high:
                    part = reader.read(topic, partition, offset)
                    assert not part.gaps, part.gaps
                    found[partition] += [one.offset for one in part.records]
                    offset = part.next_offset
        return found
