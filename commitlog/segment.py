"""Segments: the files a partition's records live in, laid out as Kafka lays them out.

`<log>/<topic>-<partition>/<base offset, 20 digits>.log` holds record batches one after another, `.index` and
`.timeindex` beside it the sparse indexes. The base offset is that of the first record. A segment is made when its first
batch is written; the one with the highest base is the active one. Files are only appended to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from commitlog.batch import BASE_OFFSET, BatchHeader, RawBatch
from commitlog.index import OFFSET_ENTRY, TIME_ENTRY, IndexBuilder, offset_entries, time_entries
from commitlog.resync import NO_HIGH
from commitlog.storage import TEMPORARY_SUFFIX, Bytes, Storage
from commitlog.walk import Damage, FoundBatch, read_batch, walk

LOG_SUFFIX: Final = ".log"
INDEX_SUFFIX: Final = ".index"
TIMEINDEX_SUFFIX: Final = ".timeindex"
DELETED_SUFFIX: Final = ".deleted"  # renamed to be removed; readers that have it open read on
SUFFIXES: Final = (LOG_SUFFIX, INDEX_SUFFIX, TIMEINDEX_SUFFIX)
MAX_SPAN: Final = (1 << 31) - 1  # the indexes hold offsets relative to the base in 32 bits
_REWRITE_BYTES: Final = 1 << 20  # of a segment written once more, at a time


def segment_path(directory: Path, base_offset: int, suffix: str = LOG_SUFFIX) -> Path:
    """A segment file's path."""
    return directory / f"{base_offset:020}{suffix}"


def base_offsets(storage: Storage, directory: Path) -> list[int]:
    """Base offsets of a partition's segments, ascending."""
    return bases_in(storage.names(directory))


def bases_in(names: Iterable[str]) -> list[int]:
    """Base offsets of the segments among a partition's sorted file names."""
    return [
        int(name[:20])
        for name in names
        if len(name) == 20 + len(LOG_SUFFIX) and name.endswith(LOG_SUFFIX) and name[:20].isdigit()
    ]


def leftovers(names: Sequence[str]) -> list[str]:
    """Files of a partition that an interrupted write or deletion left, and indexes whose segment is gone."""
    bases = set(bases_in(names))
    return [
        name
        for name in names
        if name.endswith((TEMPORARY_SUFFIX, DELETED_SUFFIX))
        or (name.endswith((INDEX_SUFFIX, TIMEINDEX_SUFFIX)) and name[:20].isdigit() and int(name[:20]) not in bases)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Redo:
    """What of a segment the journal has, too: everything from a byte on, or from an offset on; as given, nothing."""

    from_byte: int | None = None
    from_offset: int = NO_HIGH

    def has(self, position: int, offset: int) -> bool:
        """Whether the journal has what should stand at a byte, as which an offset is expected."""
        return offset >= self.from_offset or (self.from_byte is not None and position >= self.from_byte)

    def has_some_of(self, damage: Damage) -> bool:
        """Whether the journal has a part of what was damaged."""
        by_offset = damage.next is not None and damage.next > self.from_offset
        end = damage.position + damage.size_bytes
        return by_offset or (self.from_byte is not None and end > self.from_byte)


@dataclass(slots=True, kw_only=True)
class Walked:
    """What a recovery walk through one segment found.

    `damage` stays in the file, and readers go past it; `tail` was cut. `behind` are the whole batches that stood behind
    a tail that the journal will bring again.
    """

    batches: int = 0
    last: BatchHeader | None = None
    damage: list[Damage] = field(default_factory=list)
    tail: Damage | None = None
    behind: list[RawBatch] = field(default_factory=list)


NOTHING: Final = Redo()


class Segment:
    """The writer's side of an active segment. Used by one thread."""

    def __init__(self, storage: Storage, directory: Path, base_offset: int) -> None:
        self.base_offset = base_offset
        self.directory = directory
        self._log = storage.open(segment_path(directory, base_offset), create=True)
        self._index = storage.open(segment_path(directory, base_offset, INDEX_SUFFIX), create=True)
        self._timeindex = storage.open(segment_path(directory, base_offset, TIMEINDEX_SUFFIX), create=True)
        self._builder = IndexBuilder(base_offset)
        self.log_bytes = 0
        self.index_bytes = 0
        self.timeindex_bytes = 0
        self._walked_from = 0

    @classmethod
    def fresh(cls, storage: Storage, directory: Path, base_offset: int) -> Segment:
        """A new segment; what stands under its names was left by a crash, or put there, and goes."""
        segment = cls(storage, directory, base_offset)
        for file in (segment._log, segment._index, segment._timeindex):
            if file.size():
                file.truncate(0)
        return segment

    def append(self, batch: Bytes, last_offset: int, max_timestamp_ms: int) -> None:
        """Write a finished batch at the end. Raises OSError: then what is on disk after `log_bytes` is unknown."""
        self._log.write(batch, self.log_bytes)
        self._note(self.log_bytes, len(batch), last_offset, max_timestamp_ms)

    def _note(self, position: int, size: int, last_offset: int, max_timestamp_ms: int) -> None:
        offset_bytes, time_bytes = self._builder.batch(position, size, last_offset, max_timestamp_ms)
        self.log_bytes = position + size
        if offset_bytes:
            self._index.write(offset_bytes, self.index_bytes)
            self.index_bytes += len(offset_bytes)
        self._append_time(time_bytes)

    def _append_time(self, time_bytes: bytes) -> None:
        if time_bytes:
            self._timeindex.write(time_bytes, self.timeindex_bytes)
            self.timeindex_bytes += len(time_bytes)

    def recover(self, point: tuple[int, int, int] | None, redo: Redo = NOTHING, next_offset: int = 0) -> Walked:
        """Find the valid end, cut what follows it, mend the indexes.

        `point` is (log, index, timeindex) bytes known to be durable, `next_offset` the lowest offset that may follow
        them: only what follows is walked. Without it, or when a file is shorter than that, the whole segment is walked
        and both indexes are made anew.

        Damage in the middle is stepped over and stays. Where the journal has everything as well (`redo`)
        the segment is cut at the first damage, since the journal's copy of it is the better one, and the whole
        batches behind are handed back. There a batch that does not follow the one before is taken for damage, too: its
        base offset is outside its CRC, and may be what is left of an older one. At the end of the file, what is no
        whole batch is cut.
        """
        if point is None or not self._resume(*point):
            next_offset = self.base_offset
            self._builder = IndexBuilder(self.base_offset)
            self.log_bytes = self.index_bytes = self.timeindex_bytes = 0
        self._walked_from = self.log_bytes
        walked = Walked()
        expected = max(next_offset, self.base_offset)
        for found in walk(self._log, self.log_bytes, expected):
            if isinstance(found, FoundBatch):
                if walked.tail is None and redo.has(found.position, expected):
                    walked.tail = _misplaced(found, expected)
                self._keep_or_set_aside(found, walked)
                expected = found.header.last_offset + 1
            elif walked.tail is not None:
                continue
            elif found.next is None or redo.has_some_of(found):
                walked.tail = found
            else:
                walked.damage.append(found)
                expected = found.next
        self._log.truncate(self.log_bytes)
        self._index.truncate(self.index_bytes)
        self._timeindex.truncate(self.timeindex_bytes)
        return walked

    def _keep_or_set_aside(self, found: FoundBatch, walked: Walked) -> None:
        header = found.header
        if walked.tail is not None:
            walked.behind.append(read_batch(self._log, found))
            return
        if found.moved:
            self._log.write(BASE_OFFSET.pack(header.base_offset), found.position)
        self._note(found.position, header.size_bytes, header.last_offset, header.max_timestamp_ms)
        walked.batches += 1
        walked.last = header

    def write_again(self) -> None:
        """Write once more what `recover` walked, so that the next sync is about it.

        A sync that failed in the life before may have left these bytes readable and yet not on disk: Linux then takes
        the pages for clean, and a sync that succeeds later says nothing of them.
        """
        for at in range(self._walked_from, self.log_bytes, _REWRITE_BYTES):
            self._log.write(self._log.read(min(_REWRITE_BYTES, self.log_bytes - at), at), at)

    def _resume(self, log_bytes: int, index_bytes: int, timeindex_bytes: int) -> bool:
        """Go on at sizes known to be durable; False if the files are not that long."""
        files = ((self._log, log_bytes), (self._index, index_bytes), (self._timeindex, timeindex_bytes))
        if any(file.size() < size for file, size in files):
            return False
        positions = offset_entries(self._index.read(OFFSET_ENTRY.size, max(0, index_bytes - OFFSET_ENTRY.size)))
        times = time_entries(self._timeindex.read(TIME_ENTRY.size, max(0, timeindex_bytes - TIME_ENTRY.size)))
        self.log_bytes, self.index_bytes, self.timeindex_bytes = log_bytes, index_bytes, timeindex_bytes
        self._builder = IndexBuilder(self.base_offset)
        self._builder.resume(
            since_entry=log_bytes - (positions[0][1] if index_bytes and positions else 0),
            time_entry=times[0] if timeindex_bytes and times else None,
        )
        return True

    @property
    def file_bytes(self) -> int:
        """Length of the `.log` on disk, which before `recover` may differ from `log_bytes`."""
        return self._log.size()

    def holds(self, last_offset: int) -> bool:
        """Whether a record with that offset may stand in this segment."""
        return last_offset - self.base_offset <= MAX_SPAN

    def seal(self) -> None:
        """Write the closing time entry: the segment gets no more batches."""
        self._append_time(self._builder.seal())

    def sync(self) -> None:
        """Make the three files durable."""
        self._log.sync()
        self._index.sync()
        self._timeindex.sync()

    def close(self) -> None:
        """Close the files."""
        self._log.close()
        self._index.close()
        self._timeindex.close()


def _misplaced(found: FoundBatch, expected: int) -> Damage | None:
    """A whole batch that claims an offset behind a gap, as damage; None for one that follows without."""
    header = found.header
    if header.base_offset == expected:
        return None
    return Damage(
        position=found.position,
        size_bytes=header.size_bytes,
        first=expected,
        next=None,
        start_ms=None,
        end_ms=None,
        claimed=header,
    )
