"""Reading the embedded log's files, from any process.

A reader opens segment files read-only and knows from the watermark map how far it may look. It never locks and never
writes. It may be far behind: it reads from disk, in slices, and costs the writer nothing but page cache.

Slices are short, however much is asked for. The records of a slice all exist at once, and each is four or five Python
objects: a slice that leaves the processor's cache, and makes the garbage collector look at tens of thousands of objects
that it will find in use, takes twice as long to read as the same records in slices that stay in it. So a slice ends
with the batch that brings its records to `SLICE_PLAIN_BYTES`. That bounds its memory too, and lets every batch be read
to its last record before the slice is handed out: what cannot be read is then a gap and never an error in the caller's
loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from commitlog.base import ClosedWindow, Gap, Record, Slice, TopicInfo, Watermark, WriterState
from commitlog.batch import BatchHeader, CorruptBatchError, RawBatch, plain_records
from commitlog.doorbell import DoorbellWaiter
from commitlog.gaps import DAMAGED, EXPIRED, MISSING
from commitlog.index import entry_before_time
from commitlog.left_out import explained, left_out
from commitlog.partition_reader import PartitionReader
from commitlog.report import read_report
from commitlog.storage import LOG_DIR, RUN_DIR, Storage, SystemStorage, partition_dir_name
from commitlog.version import check_version
from commitlog.watermarks import MapSnapshot, Marks, WatermarkMap
from commitlog.window_list import WindowList
from core.clock import Clock, SystemClock
from core.errors import NotFoundError

SLICE_PLAIN_BYTES: Final = 48 << 10
"""Uncompressed bytes of batches after which a slice ends: its objects, about four times as much, fit the cache."""


class FileLogReader:
    """`LogReader` over `<data>`. Not to be shared between threads."""

    def __init__(
        self, data_dir: Path, *, storage: Storage | None = None, clock: Clock | None = None, marks: Marks | None = None
    ) -> None:
        """`marks` takes the place of the map that a writer makes."""
        self._log_dir = data_dir / LOG_DIR
        self._storage = storage or SystemStorage()
        self._clock = clock or SystemClock()
        self._marks: Marks = marks or WatermarkMap(data_dir / RUN_DIR)
        self._doorbell = DoorbellWaiter(data_dir / RUN_DIR)
        self._partitions: dict[tuple[str, int], PartitionReader] = {}
        self._waited_for = (0, 0, 0)
        self._looked_at = (0, 0, 0)
        self._snapshot = MapSnapshot(topics={}, watermarks={})
        self._windows = WindowList(self._storage, self._log_dir)

    # -- LogReader

    def topics(self) -> Mapping[str, TopicInfo]:
        """See `LogReader.topics`. Raises UnavailableError before the log's first start, DataDirError for a newer log.

        So do all that follow, but `wait`, `writer_state` and `close`.
        """
        return self._look().topics

    def watermarks(self, topic: str) -> Sequence[Watermark]:
        """See `LogReader.watermarks`."""
        marks = self._look().watermarks.get(topic)
        if marks is None:
            raise NotFoundError(f"there is no topic {topic!r}")
        return marks

    def read(self, topic: str, partition: int, offset: int, *, max_bytes: int = 1 << 20) -> Slice:
        """See `LogReader.read`."""
        mark = self._watermark(topic, partition)
        files = self._files(topic, partition)
        gaps: list[Gap] = []
        if offset < mark.start:
            gaps.append(Gap(first=offset, next=mark.start, reason=EXPIRED))
            offset = mark.start
        records: list[Record] = []
        room_bytes, plain_room_bytes = max_bytes, SLICE_PLAIN_BYTES
        while offset < mark.high and room_bytes > 0 and plain_room_bytes > 0:
            batch = files.next_batch(offset, mark.high, gaps)
            known = max(offset, gaps[-1].next if gaps else 0)
            if batch is None:
                if known < mark.high and (reason := self._why_nothing_follows(files)):
                    gaps.append(Gap(first=known, next=mark.high, reason=reason))
                break
            found, plain_bytes = _readable(batch, offset, known, mark.high, gaps)
            records += found
            room_bytes -= batch.header.size_bytes
            plain_room_bytes -= plain_bytes
            offset = min(batch.header.last_offset + 1, mark.high)
        if gaps and gaps[-1].next > offset:
            offset = gaps[-1].next
        return Slice(records=records, next_offset=offset, gaps=self._explained(topic, partition, gaps))

    def offset_for_time(self, topic: str, partition: int, timestamp_ms: int) -> int:
        """See `LogReader.offset_for_time`."""
        mark = self._watermark(topic, partition)
        files = self._files(topic, partition)
        offset = max(mark.start, _offset_before(files, mark, timestamp_ms))
        while offset < mark.high:
            batch = files.next_batch(offset, mark.high, [])
            if batch is None:
                break
            if batch.header.max_timestamp_ms >= timestamp_ms:
                for record in _readable(batch, offset, offset, mark.high, [])[0]:
                    if record.timestamp >= timestamp_ms:
                        return record.offset
            offset = batch.header.last_offset + 1
        return mark.high

    def windows(self, topic: str, *, after: int = -1) -> Sequence[ClosedWindow]:
        """See `LogReader.windows`."""
        self._look()  # a newer version's tables are not to be read
        self._windows.refresh()
        info = self.topics().get(topic)
        if info is None:
            raise NotFoundError(f"there is no topic {topic!r}")
        return self._windows.after(info.topic_id, after)

    def wait(self, timeout_s: float) -> bool:
        """See `LogReader.wait`."""
        deadline_ms = self._clock.monotonic_ms() + round(timeout_s * 1000)
        while True:
            self._doorbell.connect()
            changes = self._marks.changes()
            if changes != self._waited_for:
                self._waited_for = changes
                return True
            left_ms = deadline_ms - self._clock.monotonic_ms()
            if left_ms <= 0:
                return False
            self._doorbell.wait(left_ms / 1000)

    def writer_state(self) -> WriterState:
        """See `LogReader.writer_state`."""
        return WriterState.LIVE if self._marks.is_live(self._clock.monotonic_ms()) else WriterState.STALE

    def close(self) -> None:
        """See `LogReader.close`."""
        for files in self._partitions.values():
            files.close()
        self._partitions.clear()
        self._marks.close()
        self._doorbell.close()

    # -- what stands where

    def _look(self) -> MapSnapshot:
        """The watermark map as it is now; taken apart only when it has changed.

        Each writer's start makes a new map: the version of what it writes is looked at once for each.
        """
        changes = self._marks.changes()
        if changes != self._looked_at or not any(changes):
            snapshot = self._marks.read()
            if changes[0] != self._looked_at[0]:
                check_version(self._storage, self._log_dir)
            self._snapshot, self._looked_at = snapshot, changes
        return self._snapshot

    def _watermark(self, topic: str, partition: int) -> Watermark:
        marks = self.watermarks(topic)
        if not 0 <= partition < len(marks):
            raise NotFoundError(f"topic {topic!r} has no partition {partition}")
        return marks[partition]

    def _files(self, topic: str, partition: int) -> PartitionReader:
        """The files of a partition that there is."""
        files = self._partitions.get((topic, partition))
        if files is None:
            directory = self._log_dir / partition_dir_name(topic, partition)
            files = self._partitions[topic, partition] = PartitionReader(self._storage, directory)
        return files

    def _why_nothing_follows(self, files: PartitionReader) -> str:
        """Why a living writer promises offsets of which no file holds a whole batch; empty where that is not so."""
        return files.why_nothing_follows() if self.writer_state() is WriterState.LIVE else ""

    def _explained(self, topic: str, partition: int, gaps: list[Gap]) -> Sequence[Gap]:
        """The gaps, those of offsets that no record ever had, or that expired meanwhile, with that as the reason."""
        if all(gap.reason != MISSING for gap in gaps):
            return gaps
        report = read_report(self._storage, self._log_dir)
        known = [] if report is None else left_out(report, topic, partition)
        return explained(gaps, [(0, self._watermark(topic, partition).start, EXPIRED), *known])


def _readable(batch: RawBatch, offset: int, known: int, high: int, gaps: list[Gap]) -> tuple[list[Record], int]:
    """The records of a batch with offset <= theirs < high, and how many bytes the batch takes decompressed.

    What is neither known yet nor there goes to `gaps`.
    """
    following = min(batch.header.last_offset + 1, high)
    try:
        plain = batch.plain()
        records = _between(_records_of(plain, batch.header), offset, high)
    except CorruptBatchError:  # the CRC is right: whoever made it wrote what cannot be read
        gaps.append(Gap(first=known, next=following, reason=DAMAGED))
        return [], 0
    gaps += _holes(records, known, following)
    return records, len(plain)


def _records_of(plain: bytes, header: BatchHeader) -> list[Record]:
    """The records of a decompressed batch, at offsets of its own in rising order. Raises CorruptBatchError."""
    records = plain_records(plain)
    if _without_holes(records, header.base_offset, header.last_offset + 1):
        return records
    expected = header.base_offset
    for record in records:
        if not expected <= record.offset <= header.last_offset:
            raise CorruptBatchError(f"a record at offset {record.offset}, not {expected} to {header.last_offset}")
        expected = record.offset + 1
    return records


def _between(records: list[Record], offset: int, high: int) -> list[Record]:
    """Those that are asked for; mostly all."""
    if not records or (records[0].offset >= offset and records[-1].offset < high):
        return records
    return [record for record in records if offset <= record.offset < high]


def _without_holes(records: Sequence[Record], first: int, following: int) -> bool:
    """Whether there is a record for each offset, as in our batches and those from outside; count and ends tell."""
    if not records or len(records) != following - first:
        return False
    return records[0].offset == first and records[-1].offset + 1 == following


def _holes(records: Sequence[Record], first: int, following: int) -> Sequence[Gap]:
    """The offsets of first <= offset < following that no record has, as Kafka's compaction leaves them."""
    if _without_holes(records, first, following):
        return ()
    gaps: list[Gap] = []
    for record in records:
        if record.offset > first:
            gaps.append(Gap(first=first, next=record.offset, reason=MISSING))
        first = record.offset + 1
    if first < following:
        gaps.append(Gap(first=first, next=following, reason=MISSING))
    return gaps


def _offset_before(files: PartitionReader, mark: Watermark, timestamp_ms: int) -> int:
    """An offset that no record of that time or later stands before, as far as the time indexes prove one; else 0."""
    start: tuple[int, int, int] | None = None  # base offset of a segment, and a time entry of it
    for base in files.bases():
        entries = files.times(base)
        entry = entry_before_time(entries, timestamp_ms)
        if entry is not None and base + entry[1] >= mark.start:
            start = (base, *entry)
        if entries and entries[-1][0] >= timestamp_ms:
            break  # a record that late is in this segment: the first one is here, or in one before that is walked
    if start is None:
        return 0
    base, time_ms, relative = start
    return base + relative if _time_entry_holds(files, base + relative, time_ms, mark.high) else base


def _time_entry_holds(files: PartitionReader, offset: int, time_ms: int, high: int) -> bool:
    """Whether a time index says the truth: a batch with that newest timestamp ends at that offset."""
    batch = files.next_batch(offset, high, [])
    return batch is not None and (batch.header.last_offset, batch.header.max_timestamp_ms) == (offset, time_ms)
