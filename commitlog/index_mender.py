"""Indexes of closed segments that are missing or wrong are made again, behind the running log.

Nobody needs them to start, and readers walk a segment whose index does not hold: so a start only looks, and the work is
done in small steps by the thread that writes segments, which also deletes them. What is looked at:

- At every start, sizes: one listing of each partition's directory. An index that is missing, has half an entry, or has
  more entries than its segment can have, is made again.
- After an unclean start, besides, the last entries of each: whether the batch stands there that they name, and whether
  the segment ends before the next entry was due. That finds what a power cut does to files that were not synced, and
  what a start with an older version of the files leaves. It costs some ten small reads a segment.
- A wrong entry in the middle of a file of the right size is what a disk does to data at rest. To find it means reading
  the whole segment, which is `log check`'s work; readers do not believe such an entry either. To delete the file has it
  made again at the next start.

An index is written under a temporary name, synced and renamed, as every file that is replaced. When the disk refuses,
the index stays as it is: it is not the truth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from commitlog.files import PartitionFiles
from commitlog.index import INDEX_INTERVAL_BYTES, OFFSET_ENTRY, TIME_ENTRY, IndexBuilder
from commitlog.placing import header_at
from commitlog.report import RecoveryReport
from commitlog.segment import INDEX_SUFFIX, LOG_SUFFIX, TIMEINDEX_SUFFIX, bases_in, segment_path
from commitlog.storage import Storage, StorageFile, partition_dir_name, write_atomically
from commitlog.walk import FoundBatch, walk

STEP_BYTES: Final = 4 << 20  # of segments, read at a time: twice a second that is little, and 1 GB in two minutes
_LOOK_COSTS_BYTES: Final = 64 << 10  # a look at last entries counts as so much: it takes about as long
_MIN_FREE_BYTES: Final = 16 << 20  # an index is not what the last space of a disk is for
_log = structlog.get_logger("headrace.log")


@dataclass(frozen=True, slots=True)
class _Closed:
    """A closed segment, and the sizes of the files in its directory."""

    directory: Path
    base: int
    sizes: Mapping[str, int]

    def size(self, suffix: str) -> int | None:
        """Of one of its files; None where it is missing."""
        return self.sizes.get(segment_path(self.directory, self.base, suffix).name)


class IndexMender:
    """See the module. Used by one thread at a time."""

    def __init__(
        self, storage: Storage, log_dir: Path, partitions: Sequence[PartitionFiles], *, suspicious: bool
    ) -> None:
        """`suspicious`: the start was not clean."""
        self._storage = storage
        self._log_dir = log_dir
        self._partitions = partitions
        self._suspicious = suspicious
        self._work: Iterator[int] | None = None
        self.made_again = 0
        """Segments whose indexes were made again since the start."""

    def look(self, report: RecoveryReport) -> None:
        """At the start: look at sizes, and say what is going to be done. Raises OSError."""
        wrong, example = 0, ""
        for segment in self._closed_segments():
            problem = impossible_size(segment.size(LOG_SUFFIX) or 0, *_index_sizes(segment))
            if problem:
                wrong += 1
                example = example or f"{segment.directory.name}/{segment.base:020}: {problem}"
        if wrong:
            report.notes.append(
                f"indexes of {wrong} closed segments are made again while the log runs, the first is {example}"
            )
        if wrong or self._suspicious:
            self._work = self._run()

    def step(self) -> None:
        """Do a bounded part of what is left to do."""
        done = 0
        while self._work is not None and done < STEP_BYTES:
            cost = next(self._work, None)
            if cost is None:
                self._work = None
                return
            done += cost

    def _closed_segments(self) -> Iterator[_Closed]:
        """All of them, with one directory's listing in memory at a time."""
        for files in self._partitions:
            directory = self._log_dir / partition_dir_name(files.topic.name, files.partition)
            sizes = self._storage.sizes(directory)
            active = files.point().segment
            for base in bases_in(sorted(sizes)):
                if base != active:
                    yield _Closed(directory, base, sizes)

    def _run(self) -> Iterator[int]:
        """Yields what each piece of work cost, in bytes."""
        for segment in self._closed_segments():
            try:
                yield from self._segment(segment)
            except FileNotFoundError:
                continue  # deleted meanwhile
            except OSError as error:
                _log.warning("an index was left as it is", what=str(error), where=_where(segment))

    def _segment(self, segment: _Closed) -> Iterator[int]:
        problem = impossible_size(segment.size(LOG_SUFFIX) or 0, *_index_sizes(segment))
        if not problem and self._suspicious:
            yield _LOOK_COSTS_BYTES
            problem = self._wrong_end(segment)
        if not problem:
            return
        if self._storage.free_bytes(segment.directory) < _MIN_FREE_BYTES:
            _log.warning("an index was left as it is", what=f"{problem}; the disk is full", where=_where(segment))
            return
        yield from self._make_again(segment)
        self.made_again += 1
        _log.info("index made again", what=problem, where=_where(segment))

    def _wrong_end(self, segment: _Closed) -> str:
        log = self._storage.open_read(segment_path(segment.directory, segment.base))
        try:
            return wrong_end(
                log,
                segment.base,
                self._last(segment, INDEX_SUFFIX, OFFSET_ENTRY.size),
                self._last(segment, TIMEINDEX_SUFFIX, TIME_ENTRY.size),
            )
        finally:
            log.close()

    def _last(self, segment: _Closed, suffix: str, entry_bytes: int) -> bytes:
        """The bytes of the last entry; empty where there is none."""
        file = self._storage.open_read(segment_path(segment.directory, segment.base, suffix))
        try:
            return file.read(entry_bytes, file.size() - entry_bytes) if file.size() else b""
        finally:
            file.close()

    def _make_again(self, segment: _Closed) -> Iterator[int]:
        """Both indexes from the segment's batches."""
        builder, offsets, times = IndexBuilder(segment.base), bytearray(), bytearray()
        path = segment_path(segment.directory, segment.base)
        file = self._storage.open_read(path)
        try:
            for found in walk(file, 0, segment.base):
                if not isinstance(found, FoundBatch):
                    yield found.size_bytes
                    continue
                header = found.header
                more_offsets, more_times = builder.batch(
                    found.position, header.size_bytes, header.last_offset, header.max_timestamp_ms
                )
                offsets += more_offsets
                times += more_times
                yield header.size_bytes
        finally:
            file.close()
        times += builder.seal()
        if path.name not in self._storage.names(segment.directory):
            return  # deleted while it was walked
        for suffix, data in ((INDEX_SUFFIX, offsets), (TIMEINDEX_SUFFIX, times)):
            write_atomically(self._storage, segment_path(segment.directory, segment.base, suffix), bytes(data))


def impossible_size(log_bytes: int, index_bytes: int | None, timeindex_bytes: int | None) -> str:
    """Why indexes of these sizes cannot be those of a segment of that size; empty where they can."""
    for suffix, size, entry_bytes in (
        (INDEX_SUFFIX, index_bytes, OFFSET_ENTRY.size),
        (TIMEINDEX_SUFFIX, timeindex_bytes, TIME_ENTRY.size),
    ):
        if size is None:
            return f"the {suffix} is missing"
        if size % entry_bytes:
            return f"the {suffix} ends in the midst of an entry"
    entries, times = (index_bytes or 0) // OFFSET_ENTRY.size, (timeindex_bytes or 0) // TIME_ENTRY.size
    if entries > log_bytes // (INDEX_INTERVAL_BYTES + 1):
        return f"the {INDEX_SUFFIX} has {entries} entries for {log_bytes} bytes"
    if (
        not bool(entries) <= times <= entries + 1
    ):  # the first entry of one brings one of the other; a closed one has one more
        return f"the {TIMEINDEX_SUFFIX} has {times} entries where the {INDEX_SUFFIX} has {entries}"
    return ""


def wrong_end(log: StorageFile, base: int, last_offset_entry: bytes, last_time_entry: bytes) -> str:
    """Why these cannot be the last entries of a closed segment's indexes; empty where they can. Raises OSError."""
    position, indexed_ms = 0, -1
    if last_offset_entry:
        relative, position = OFFSET_ENTRY.unpack(last_offset_entry)
        header = header_at(log, position) if position >= 0 else None
        if header is None or header.last_offset != base + relative:
            return f"the last entry of the {INDEX_SUFFIX} names a batch that is not there"
        indexed_ms = header.max_timestamp_ms
    newest_ms, since_entry = indexed_ms, 0
    while (header := header_at(log, position)) is not None:
        if since_entry > INDEX_INTERVAL_BYTES:
            return f"the {INDEX_SUFFIX} ends before the batch at byte {position}"
        newest_ms = max(newest_ms, header.max_timestamp_ms)
        since_entry += header.size_bytes
        position += header.size_bytes
    if last_time_entry and not indexed_ms <= TIME_ENTRY.unpack(last_time_entry)[0] <= newest_ms:
        return f"the last entry of the {TIMEINDEX_SUFFIX} has a time that is not at its place"
    return ""


def _index_sizes(segment: _Closed) -> tuple[int | None, int | None]:
    return segment.size(INDEX_SUFFIX), segment.size(TIMEINDEX_SUFFIX)


def _where(segment: _Closed) -> str:
    return f"{segment.directory.name}/{segment.base:020}"
