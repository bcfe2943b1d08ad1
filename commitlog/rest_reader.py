"""Reading a log that nobody writes: what segments hold up to their valid end, and then what only the journal holds.

A `LogReader` reads up to the watermarks of a living writer. Where there is none - after a kill, on a copy, without
`<data>/run` - how far a partition goes is found in the files themselves: the newest segment is walked from where the
checkpoint knows it to be durable, and the journal is read from the checkpoint on, as recovery would. Nothing is
written, and nothing is waited for. Memory is bounded by one segment batch or one journal entry, beside a number for
each partition.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from commitlog.base import ClosedWindow, Gap, LogReader, Record, Slice, TopicInfo, Watermark, WriterState
from commitlog.batch import RawBatch, parse_header
from commitlog.gaps import MISSING
from commitlog.journal import JournalEntry
from commitlog.journal_scan import entries_through_damage
from commitlog.look import LogLook, PartitionLook, look_at, unreadable
from commitlog.reader import FileLogReader
from commitlog.replay import JOURNAL_NAME
from commitlog.salvage import without_checkpoint
from commitlog.segment import base_offsets, segment_path
from commitlog.storage import LOG_DIR, Storage, SystemStorage
from commitlog.walk import FoundBatch, walk
from commitlog.watermarks import MapSnapshot
from core.clock import Clock, SystemClock

IN_NO_FILE: Final = "neither in the segments nor in the journal"
_At = tuple[str, int]
"""Topic id (hex) and partition."""


class RestMarks:
    """Takes the place of the watermark map: how far the segments go, and that nobody writes."""

    def __init__(self, topics: Mapping[str, TopicInfo], ends: Mapping[str, tuple[Watermark, ...]]) -> None:
        self._snapshot = MapSnapshot(topics=topics, watermarks=ends)

    def read(self) -> MapSnapshot:
        """See `WatermarkMap.read`."""
        return self._snapshot

    def changes(self) -> tuple[int, int, int]:
        """See `WatermarkMap.changes`: never another value."""
        return (1, 0, 0)

    def is_live(self, monotonic_ms: int) -> bool:
        """See `WatermarkMap.is_live`."""
        return False

    def close(self) -> None:
        """See `WatermarkMap.close`."""


class RestReader:
    """`LogReader` over the files of a log at rest, as of when it was made."""

    def __init__(self, data_dir: Path, look: LogLook, storage: Storage, clock: Clock) -> None:
        """`look` is one at this log. Raises OSError."""
        self._storage = storage
        self._log_dir = data_dir / LOG_DIR
        self._checkpoint = look.checkpoint or without_checkpoint(storage, self._log_dir, 0)[0].checkpoint
        ends = {(one.topic_id, one.partition): self._end(one) for one in look.partitions}
        self._topics = _topics(look.partitions)
        nothing = Watermark(start=0, high=0)
        self._segments = {
            name: tuple(ends.get((info.topic_id, index), nothing) for index in range(info.partitions))
            for name, info in self._topics.items()
        }
        self._in_journal = self._journal_ends()
        self._told = {(one.topic_id, one.partition): _told(one) for one in look.partitions}
        marks = RestMarks(self._topics, self._segments)
        self._reader = FileLogReader(data_dir, storage=storage, clock=clock, marks=marks)

    # -- what is known beside a LogReader

    def segments_end(self, topic: str, partition: int) -> int:
        """The offset from which on only the journal has a partition's records."""
        return self._segments[topic][partition].high

    # -- LogReader

    def topics(self) -> Mapping[str, TopicInfo]:
        """See `LogReader.topics`."""
        return self._topics

    def watermarks(self, topic: str) -> Sequence[Watermark]:
        """See `LogReader.watermarks`: up to what anything says was there."""
        segments = self._reader.watermarks(topic)
        return [
            Watermark(start=mark.start, high=max(mark.high, *self._beyond(topic, partition)))
            for partition, mark in enumerate(segments)
        ]

    def read(self, topic: str, partition: int, offset: int, *, max_bytes: int = 1 << 20) -> Slice:
        """See `LogReader.read`; never from segments and journal in one slice."""
        end = self.segments_end(topic, partition)
        if offset >= end:
            return self._read_journal(topic, partition, offset, max_bytes)
        part = self._reader.read(topic, partition, offset, max_bytes=max_bytes)
        if part.next_offset > offset:
            return part
        return Slice(records=[], next_offset=end, gaps=[Gap(first=offset, next=end, reason=MISSING)])

    def _read_journal(self, topic: str, partition: int, offset: int, max_bytes: int) -> Slice:
        records: list[Record] = []
        gaps: list[Gap] = []
        at, high = offset, self.watermarks(topic)[partition].high
        for batch in self._journal_batches(topic, partition):
            header = batch.header
            if header.last_offset < at:
                continue
            if max_bytes <= 0:
                return Slice(records=records, next_offset=at, gaps=gaps)
            if header.base_offset > at:
                gaps.append(Gap(first=at, next=header.base_offset, reason=IN_NO_FILE))
            records += [record for record in batch.records() if record.offset >= at]
            at = header.last_offset + 1
            max_bytes -= header.size_bytes
        if at < high:
            gaps.append(Gap(first=at, next=high, reason=IN_NO_FILE))
        return Slice(records=records, next_offset=max(at, high), gaps=gaps)

    def offset_for_time(self, topic: str, partition: int, timestamp_ms: int) -> int:
        """See `LogReader.offset_for_time`."""
        end = self.segments_end(topic, partition)
        offset = self._reader.offset_for_time(topic, partition, timestamp_ms)
        if offset < end:
            return offset
        for batch in self._journal_batches(topic, partition):
            for record in batch.records() if batch.header.max_timestamp_ms >= timestamp_ms else ():
                if record.timestamp >= timestamp_ms and record.offset >= end:
                    return record.offset
        return self.watermarks(topic)[partition].high

    def windows(self, topic: str, *, after: int = -1) -> Sequence[ClosedWindow]:
        """See `LogReader.windows`; as of the last checkpoint."""
        return self._reader.windows(topic, after=after)

    def wait(self, timeout_s: float) -> bool:
        """See `LogReader.wait`: nothing comes."""
        return False

    def writer_state(self) -> WriterState:
        """See `LogReader.writer_state`."""
        return WriterState.STALE

    def close(self) -> None:
        """See `LogReader.close`."""
        self._reader.close()

    # -- how far it goes

    def _end(self, partition: PartitionLook) -> Watermark:
        """What the segments of a partition hold."""
        bases = base_offsets(self._storage, partition.directory)
        point = partition.point
        start = end = partition.log_start(bases)
        for base in bases[-1:]:
            known = point is not None and point.segment == base
            position, end = (point.log_bytes, point.next_offset) if known and point is not None else (0, base)
            file = self._storage.open_read(segment_path(partition.directory, base))
            try:
                if position > file.size():
                    position, end = 0, base
                for found in walk(file, position, end):
                    if isinstance(found, FoundBatch):
                        end = found.header.last_offset + 1
            finally:
                file.close()
        return Watermark(start=start, high=max(start, end))

    def _journal_ends(self) -> Mapping[_At, int]:
        """The offset after the last one that the journal holds, of each partition that it says anything of."""
        ends: dict[_At, int] = {}
        for entry in self._entries():
            for batch in entry.batches:
                header = parse_header(batch.data)
                if header is not None:
                    ends[batch.topic_id.hex(), batch.partition] = header.last_offset + 1
        return ends

    def _beyond(self, topic: str, partition: int) -> tuple[int, int]:
        at = (self._topics[topic].topic_id, partition)
        return self._in_journal.get(at, 0), self._told.get(at, 0)

    # -- the journal

    def _journal_batches(self, topic: str, partition: int) -> Iterator[RawBatch]:
        """The batches of a partition, in order."""
        wanted = (self._topics[topic].topic_id, partition)
        if self._in_journal.get(wanted, 0) <= self.segments_end(topic, partition):
            return
        for entry in self._entries():
            for batch in entry.batches:
                data = bytes(batch.data)
                header = parse_header(data) if (batch.topic_id.hex(), batch.partition) == wanted else None
                if header is not None:
                    yield RawBatch(header, data)

    def _entries(self) -> Iterator[JournalEntry]:
        checkpoint = self._checkpoint
        if checkpoint is None or checkpoint.clean:
            return
        try:
            file = self._storage.open_read(self._log_dir / JOURNAL_NAME)
        except FileNotFoundError:
            return
        try:
            yield from entries_through_damage(
                file,
                size=checkpoint.journal_size,
                journal_id=checkpoint.journal_id,
                sequence=checkpoint.next_sequence,
                position=checkpoint.journal_position,
            )
        finally:
            file.close()


def open_reader(data_dir: Path, *, storage: Storage | None = None, clock: Clock | None = None) -> LogReader:
    """A reader of a living writer's log, or of one at rest. Raises DataDirError when there is none to be read."""
    storage, clock = storage or SystemStorage(), clock or SystemClock()
    look = look_at(storage, data_dir, clock)
    if look.live:
        return FileLogReader(data_dir, storage=storage, clock=clock)
    try:
        return RestReader(data_dir, look, storage, clock)
    except OSError as error:
        raise unreadable(error, data_dir / LOG_DIR) from error


def _topics(partitions: Sequence[PartitionLook]) -> Mapping[str, TopicInfo]:
    counts: dict[tuple[str, str], int] = {}
    for one in partitions:
        at = (one.topic, one.topic_id)
        counts[at] = max(counts.get(at, 0), one.partition + 1)
    return {name: TopicInfo(name=name, topic_id=topic_id, partitions=n) for (name, topic_id), n in counts.items()}


def _told(partition: PartitionLook) -> int:
    """The offset after the last one that something says was there."""
    mark, point = partition.mark, partition.point
    return max(mark.high if mark is not None else 0, point.next_offset if point is not None else 0)
