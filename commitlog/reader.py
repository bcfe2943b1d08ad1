"""Reading the embedded log's files, from any process.

A reader opens segment files read-only and knows from the watermark map how far it may look. It never locks and never
writes. It may be far behind: it reads from disk, in slices, and costs the writer nothing but page cache. A segment that
is deleted under it was renamed first, so what is open stays readable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from commitlog.base import ClosedWindow, Gap, Record, Slice, TopicInfo, Watermark, WriterState
from commitlog.batch import BatchHeader, CorruptBatchError, RawBatch, check_crc
from commitlog.doorbell import DoorbellWaiter
from commitlog.gaps import DAMAGED, EXPIRED, MISSING
from commitlog.index import entry_before_time, offset_entries, time_entries
from commitlog.left_out import explained, left_out
from commitlog.placing import checked_position, header_at, placed_data, placed_header
from commitlog.report import read_report
from commitlog.resync import next_batch_after
from commitlog.segment import INDEX_SUFFIX, TIMEINDEX_SUFFIX, base_offsets, segment_path
from commitlog.storage import LOG_DIR, RUN_DIR, Storage, StorageFile, SystemStorage, partition_dir_name, read_whole
from commitlog.watermarks import Marks, WatermarkMap
from commitlog.window_list import WindowList
from core.clock import Clock, SystemClock
from core.collector import collector_paused
from core.errors import NotFoundError

_PLAIN_PER_ROOM: Final = 4  # a slice is bounded by what its records take in memory, too: about four times max_bytes
_SNAPSHOT_TRIES: Final = 5  # a checkpoint may replace a snapshot between reading its name and opening it


@dataclass(slots=True)
class _Cursor:
    """Where the last read of a partition ended: the next one goes on there without a look at the index.

    `exact`: the batch before ends, or the segment begins, with `offset` at `position`.
    """

    base_offset: int
    file: StorageFile
    offset: int
    position: int
    exact: bool = False


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
        self._cursors: dict[tuple[str, int], _Cursor] = {}
        self._seen = (0, 0, 0)
        self._windows = WindowList(self._storage, self._log_dir)

    # -- LogReader

    def topics(self) -> Mapping[str, TopicInfo]:
        """See `LogReader.topics`."""
        return self._marks.read().topics

    def watermarks(self, topic: str) -> Sequence[Watermark]:
        """See `LogReader.watermarks`."""
        marks = self._marks.read().watermarks.get(topic)
        if marks is None:
            raise NotFoundError(f"there is no topic {topic!r}")
        return marks

    def read(self, topic: str, partition: int, offset: int, *, max_bytes: int = 1 << 20) -> Slice:
        """See `LogReader.read`."""
        with collector_paused():
            return self._read(topic, partition, offset, max_bytes)

    def _read(self, topic: str, partition: int, offset: int, max_bytes: int) -> Slice:
        mark = self._watermark(topic, partition)
        gaps: list[Gap] = []
        if offset < mark.start:
            gaps.append(Gap(first=offset, next=mark.start, reason=EXPIRED))
            offset = mark.start
        records: list[Record] = []
        room = max_bytes
        while offset < mark.high and room > 0:
            batch = self._next_batch(topic, partition, offset, mark.high, gaps)
            if batch is None:
                known = max(offset, gaps[-1].next if gaps else 0)
                if known < mark.high and (reason := self._nothing_follows(topic, partition)):
                    gaps.append(Gap(first=known, next=mark.high, reason=reason))
                break
            header = batch.header
            known = max(offset, gaps[-1].next if gaps else offset)
            following = min(header.last_offset + 1, mark.high)
            try:
                plain = batch.uncompressed()
                found = _records_between(plain, offset, mark.high)
            except CorruptBatchError:  # the CRC is right: whoever made it wrote what cannot be read
                gaps.append(Gap(first=known, next=following, reason=DAMAGED))
                room -= header.size_bytes
                offset = following
                continue
            if found and found[0].offset > known:
                gaps.append(Gap(first=known, next=found[0].offset, reason=MISSING))
            records.extend(found)
            offset = following
            room -= max(header.size_bytes, plain.header.size_bytes // _PLAIN_PER_ROOM)
        if gaps and gaps[-1].next > offset:
            offset = gaps[-1].next
        return Slice(records=records, next_offset=offset, gaps=self._explained(topic, partition, gaps))

    def offset_for_time(self, topic: str, partition: int, timestamp_ms: int) -> int:
        """See `LogReader.offset_for_time`."""
        mark = self._watermark(topic, partition)
        directory = self._directory(topic, partition)
        offset = mark.start
        start: tuple[int, int, int] | None = None  # base offset of a segment, and a time entry of it
        for base in base_offsets(self._storage, directory):
            entries = time_entries(self._index(directory, base, TIMEINDEX_SUFFIX))
            entry = entry_before_time(entries, timestamp_ms)
            if entry is not None and base + entry[1] >= offset:
                start = (base, *entry)
            if entries and entries[-1][0] >= timestamp_ms:
                break  # a record that late is in this segment: the first one is here, or in one before that is walked
        if start is not None:
            base, time_ms, relative = start
            holds = self._time_entry_holds(topic, partition, base + relative, time_ms, mark.high)
            offset = max(offset, base + relative if holds else base)
        while offset < mark.high:
            batch = self._next_batch(topic, partition, offset, mark.high, [])
            if batch is None:
                break
            if batch.header.max_timestamp_ms >= timestamp_ms:
                for record in batch.records():
                    if record.timestamp >= timestamp_ms and record.offset >= offset:
                        return min(record.offset, mark.high)
            offset = batch.header.last_offset + 1
        return mark.high

    def windows(self, topic: str, *, after: int = -1) -> Sequence[ClosedWindow]:
        """See `LogReader.windows`."""
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
            if changes != self._seen:
                self._seen = changes
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
        for cursor in self._cursors.values():
            cursor.file.close()
        self._cursors.clear()
        self._marks.close()
        self._doorbell.close()

    # -- segments

    def _watermark(self, topic: str, partition: int) -> Watermark:
        marks = self.watermarks(topic)
        if not 0 <= partition < len(marks):
            raise NotFoundError(f"topic {topic!r} has no partition {partition}")
        return marks[partition]

    def _directory(self, topic: str, partition: int) -> Path:
        return self._log_dir / partition_dir_name(topic, partition)

    def _next_batch(self, topic: str, partition: int, offset: int, high: int, gaps: list[Gap]) -> RawBatch | None:
        """The first whole batch that ends at or after `offset`; damaged stretches on the way go to `gaps`.

        None when nothing readable is there (yet): the map of a dead writer may promise more than its files hold.
        """
        cursor = self._cursor(topic, partition, offset)
        while cursor is not None:
            header = self._header_at(cursor)
            data = b"" if header is None else placed_data(cursor.file, cursor.position, header)
            if header is None or len(data) < header.size_bytes:
                if not self._skip_damage(cursor, offset, high, gaps):
                    cursor = self._following(topic, partition, cursor, offset, gaps)
                continue
            if header.base_offset >= high:  # not published yet; or, where a segment follows, a wrong offset
                cursor = self._following(topic, partition, cursor, offset, gaps)
                continue
            if not check_crc(data, header):  # then nothing that its header says is to be believed
                if not self._skip_damage(cursor, offset, high, gaps):
                    cursor = self._following(topic, partition, cursor, offset, gaps)
                continue
            cursor.position += header.size_bytes
            cursor.offset, cursor.exact = header.last_offset + 1, True
            if header.last_offset >= offset:
                return RawBatch(header, data)
        return None

    def _time_entry_holds(self, topic: str, partition: int, offset: int, time_ms: int, high: int) -> bool:
        """Whether a time index says the truth: a batch with that newest timestamp ends at that offset."""
        batch = self._next_batch(topic, partition, offset, high, [])
        return batch is not None and (batch.header.last_offset, batch.header.max_timestamp_ms) == (offset, time_ms)

    def _explained(self, topic: str, partition: int, gaps: list[Gap]) -> Sequence[Gap]:
        """The gaps, those of offsets that no record ever had, or that expired meanwhile, with that as the reason."""
        if all(gap.reason != MISSING for gap in gaps):
            return gaps
        report = read_report(self._storage, self._log_dir)
        known = [] if report is None else left_out(report, topic, partition)
        return explained(gaps, [(0, self._watermark(topic, partition).start, EXPIRED), *known])

    def _nothing_follows(self, topic: str, partition: int) -> str:
        """Why a living writer promises offsets of which no file holds a whole batch; empty where that is not so."""
        if self.writer_state() is not WriterState.LIVE:
            return ""
        cursor = self._cursors.get((topic, partition))
        bases = base_offsets(self._storage, self._directory(topic, partition))
        if cursor is None:
            return "" if bases else MISSING
        if bases[-1:] != [cursor.base_offset]:
            return ""
        return DAMAGED if cursor.file.read(1, cursor.position) else MISSING

    def _skip_damage(self, cursor: _Cursor, offset: int, high: int, gaps: list[Gap]) -> bool:
        """Go to the next whole batch of the segment, over bytes that are none; False where there is none."""
        position = next_batch_after(cursor.file, cursor.position, cursor.base_offset, high)
        header = None if position is None else header_at(cursor.file, position)
        if position is None or header is None:
            return False
        first = max(cursor.offset, offset)
        if header.base_offset > first:
            gaps.append(Gap(first=first, next=header.base_offset, reason=DAMAGED))
        cursor.position, cursor.offset, cursor.exact = position, header.base_offset, False
        return True

    def _header_at(self, cursor: _Cursor) -> BatchHeader | None:
        """The header at the cursor; None at the end of the segment, or where its bytes make no sense."""
        header = header_at(cursor.file, cursor.position)
        if header is None or header.base_offset == cursor.offset or not cursor.exact:
            return header
        return placed_header(header, cursor.offset, header_at(cursor.file, cursor.position + header.size_bytes))

    def _cursor(self, topic: str, partition: int, offset: int) -> _Cursor | None:
        """A cursor at or before `offset`: the one the last read left, or one found through the index."""
        cursor = self._cursors.get((topic, partition))
        if cursor is not None and cursor.offset == offset:
            return cursor
        directory = self._directory(topic, partition)
        below = [base for base in base_offsets(self._storage, directory) if base <= offset]
        bases = below[-1:] or base_offsets(self._storage, directory)[:1]
        if not bases:
            return None
        entries = offset_entries(self._index(directory, bases[0], INDEX_SUFFIX))
        opened = self._open_cursor(topic, partition, bases[0], offset, 0)
        if opened is not None:
            opened.position = checked_position(opened.file, bases[0], entries, offset)
            if opened.position == 0:
                opened.offset, opened.exact = bases[0], True
        return opened

    def _following(self, topic: str, partition: int, cursor: _Cursor, offset: int, gaps: list[Gap]) -> _Cursor | None:
        """A cursor at the start of the next segment; None when this is the last one."""
        directory = self._directory(topic, partition)
        above = [base for base in base_offsets(self._storage, directory) if base > cursor.base_offset]
        if not above:
            return None
        first = max(cursor.offset, offset)  # the cursor may have started before what was asked for
        if above[0] > first:
            reason = DAMAGED if cursor.file.read(1, cursor.position) else MISSING
            gaps.append(Gap(first=first, next=above[0], reason=reason))
        following = self._open_cursor(topic, partition, above[0], above[0], 0)
        if following is not None:
            following.exact = True
        return following

    def _open_cursor(self, topic: str, partition: int, base: int, offset: int, position: int) -> _Cursor | None:
        cursor = self._cursors.pop((topic, partition), None)
        if cursor is not None and cursor.base_offset == base:
            file = cursor.file
        else:
            if cursor is not None:
                cursor.file.close()
            try:
                file = self._storage.open_read(segment_path(self._directory(topic, partition), base))
            except FileNotFoundError:
                return None  # expired between looking and opening; the next read sees the new log start
        opened = _Cursor(base, file, offset, position)
        self._cursors[(topic, partition)] = opened
        return opened

    def _index(self, directory: Path, base: int, suffix: str) -> bytes:
        try:
            return read_whole(self._storage, segment_path(directory, base, suffix))
        except FileNotFoundError:
            return b""


def _records_between(batch: RawBatch, offset: int, high: int) -> list[Record]:
    """The records of a batch that are asked for; mostly all. Raises CorruptBatchError."""
    records = batch.records()
    if batch.header.base_offset >= offset and batch.header.last_offset < high:
        return records
    return [record for record in records if offset <= record.offset < high]
