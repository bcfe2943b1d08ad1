"""Checking one segment: every batch, its place in the partition, its records, then its indexes.

The base offset and the leader epoch of a batch stand outside its CRC. A wrong base offset shows by what stands around
it: when the next batch continues as if this one stood where it is expected, this one's offset is what is wrong;
otherwise there is a gap, or an overlap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from commitlog.batch import BatchHeader, CorruptBatchError, records_of
from commitlog.check_index import IndexCheck
from commitlog.check_walk import MAX_OFFSET, Stretch, WholeBatch, walk
from commitlog.findings import Finding, Looked, in_words, widen_damage
from commitlog.gaps import DAMAGED, MISSING
from commitlog.storage import StorageFile

_LOG_APPEND_TIME: Final = 0x08  # attribute: the records carry the batch's max timestamp instead of their own


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentTask:
    """What is known of a segment before it is walked.

    `high`: offsets from there on are still being written. `settled_bytes`: what stands behind is not durable yet by the
    checkpoint's word, and a torn end there is mended by recovery; None where all of it has to be right. `following`:
    the base of the next segment, None for the last one. `ends_at`: the offset that it reaches at least. `index`: the
    settled bytes of both, None where one is missing. `journaled`: the journal holds what is not settled, too.
    """

    topic: str
    partition: int
    base: int
    path: str
    size_bytes: int
    high: int = MAX_OFFSET
    settled_bytes: int | None = None
    journaled: bool = False
    following: int | None = None
    ends_at: int = 0
    max_epoch: int | None = None
    index: tuple[bytes | None, bytes | None] = (b"", b"")


@dataclass(slots=True)
class Reached:
    """Where a partition stands after what was checked so far: what the next batch has to continue."""

    next_offset: int
    newest_ms: int = -1
    leader_epoch: int = -1


@dataclass(slots=True)
class SegmentResult:
    """What a segment held."""

    looked: Looked = field(default_factory=Looked)
    reached: Reached = field(default_factory=lambda: Reached(0))
    batches: int = 0
    records: int = 0
    log_bytes: int = 0
    index_entries: int = 0


class SegmentCheck:
    """One pass over one segment."""

    def __init__(self, task: SegmentTask, before: Reached) -> None:
        """`before` is where the segment before ended; the caller has told of a gap between the two."""
        self._task = task
        self.result = SegmentResult(reached=Reached(task.base, before.newest_ms, before.leader_epoch))
        self._reached = self.result.reached
        self._suspect: tuple[int, BatchHeader] | None = None
        self._claimed_end = -1  # of damaged bytes behind which no batch was seen yet
        self._index = IndexCheck(task.base, *task.index)

    def run(self, file: StorageFile) -> Iterator[int]:
        """Check; yields the bytes done after each batch, so that a caller can show progress. Raises OSError."""
        task = self._task
        for part in walk(file, size=task.size_bytes, first_offset=task.base, high=task.high):
            if isinstance(part, Stretch):
                if self._stretch(part):
                    break
            else:
                self._batch(part)
            self.result.log_bytes = part.end
            yield part.end
        self._settle_suspect(task.following)
        self._settle_damage()
        if task.following is not None and task.following < self._reached.next_offset:
            self._find("offset-overlap", f"the next segment starts at {task.following}, before this one ends", 0)
        self._check_index()

    # -- bytes that are no batch

    def _stretch(self, part: Stretch) -> bool:
        """Tell of damaged bytes; True when it is an unfinished end, behind which nothing counts."""
        task = self._task
        unsettled = task.settled_bytes is not None and part.position >= task.settled_bytes and task.following is None
        if unsettled and (task.journaled or part.end >= task.size_bytes):
            what = f"{task.size_bytes - part.position} bytes from an interrupted write on; the next start mends them"
            self._note("torn-tail", what, part.position)
            return True
        self._settle_suspect(None)
        first = self._reached.next_offset
        what = f"{part.end - part.position} bytes hold no whole batch ({DAMAGED}): {in_words(first, first)}"
        self._find("batch-damaged", what, part.position, first, first)
        header = part.header
        claims = header is not None and header.base_offset == first and part.end == part.position + header.size_bytes
        self._claimed_end = header.last_offset + 1 if header is not None and claims else first
        return False

    def _settle_damage(self) -> None:
        """How far a damaged end goes: to where others say that the segment ends, else as far as its header claims."""
        task, first = self._task, self._reached.next_offset
        known = task.following or task.ends_at
        end = known if known > first else min(self._claimed_end, task.high)
        if end > first and self._claimed_end >= 0 and widen_damage(self.result.looked, first, end):
            self._reached.next_offset = end

    # -- whole batches

    def _batch(self, part: WholeBatch) -> None:
        header, position = part.header, part.position
        self._claimed_end = -1
        count = header.last_offset - header.base_offset + 1
        first = self._place(header, position)
        self.result.batches += 1
        self.result.records += header.record_count
        if self._task.settled_bytes is None or position < self._task.settled_bytes:
            self._index.batch(position, first, first + count - 1, header.max_timestamp_ms)
        problem = self._contents(part)
        if problem:
            self._find(problem[0], problem[1], position, first, first + count)
        self._epoch(header, position)

    def _place(self, header: BatchHeader, position: int) -> int:
        """Where the batch stands in the partition: its own word, unless the batch after it proves that wrong."""
        self._settle_suspect(header.base_offset)
        expected = self._reached.next_offset
        count = header.last_offset - header.base_offset + 1
        if header.base_offset != expected:
            self._suspect = (position, header)
            return header.base_offset
        self._reached.next_offset = expected + count
        return expected

    def _settle_suspect(self, following: int | None) -> None:
        """Decide about a batch that stands at an unexpected offset, by the base offset of what follows."""
        if self._suspect is None:
            return
        position, header = self._suspect
        self._suspect = None
        expected, base = self._reached.next_offset, header.base_offset
        count = header.last_offset - base + 1
        proven = -1 if following is None else following - count
        if proven >= expected and (base < expected or base > proven):
            self._gap(expected, proven, position)
            self._reached.next_offset = proven + count
            what = f"the batch says that it starts at {base}; its neighbours say {proven}"
            self._find("base-offset", what, position, proven, proven + count)
        elif base > expected:
            self._gap(expected, base, position)
            self._reached.next_offset = header.last_offset + 1
        else:
            self._reached.next_offset = max(expected, header.last_offset + 1)
            self._find("offset-overlap", f"the batch starts at {base}, the one before ends at {expected}", position)

    def _gap(self, first: int, following: int, position: int) -> None:
        if first < following and not widen_damage(self.result.looked, first, following):
            self._find("offset-gap", f"{in_words(first, following)} {MISSING}", position, first, following)

    def _contents(self, part: WholeBatch) -> tuple[str, str] | None:
        """The first thing wrong with the records of a batch."""
        header = part.header
        count, newest_ms, first_ms, early = 0, -1, -1, 0
        floor_ms = self._reached.newest_ms
        offset = header.base_offset
        try:
            for record in records_of(part.data, header):
                if record.offset != offset:
                    return "batch-records", f"record {count} says offset {record.offset} instead of {offset}"
                if not count:
                    first_ms = record.timestamp
                early += record.timestamp < floor_ms
                floor_ms = newest_ms = max(floor_ms, record.timestamp)
                offset += 1
                count += 1
        except CorruptBatchError as error:
            return "batch-records", f"the CRC is right and the records cannot be read: {error}"
        if offset != header.last_offset + 1 or count != header.record_count:
            return "batch-records", f"{count} records in a batch of {header.record_count}"
        self._reached.newest_ms = newest_ms
        if early:
            return "timestamp-order", f"{early} records are older than a record before them"
        own_first = header.attributes & _LOG_APPEND_TIME or first_ms == header.first_timestamp_ms
        if newest_ms != header.max_timestamp_ms or not own_first:
            return "batch-records", "the timestamps of the header are not those of its records"
        return None

    def _epoch(self, header: BatchHeader, position: int) -> None:
        before, epoch, limit = self._reached.leader_epoch, header.leader_epoch, self._task.max_epoch
        if limit is not None and epoch > limit:
            self._find("leader-epoch", f"leader epoch {epoch}, and the log is at {limit}", position)
            return
        if epoch < before:
            self._find("leader-epoch", f"leader epoch {epoch} after {before}", position)
        self._reached.leader_epoch = epoch

    # -- indexes, and telling

    def _check_index(self) -> None:
        """Indexes are compared where the batches are whole: damaged ones say enough."""
        task = self._task
        self.result.index_entries = self._index.entries
        if self.result.looked.findings.count:
            return
        cut_short = self._reached.next_offset < task.ends_at  # entries for what is gone are no damage of their own
        self._index.finish(complete=task.high == MAX_OFFSET and not cut_short)
        for suffix, problem in zip((".index", ".timeindex"), self._index.problems, strict=True):
            if problem:
                where = str(Path(task.path).with_suffix(suffix))
                kind = suffix[1:]
                self.result.looked.findings.add(
                    Finding(kind=kind, what=problem, where=where, topic=task.topic, partition=task.partition)
                )

    def _find(self, kind: str, what: str, position: int, first: int = -1, following: int = -1) -> None:
        self.result.looked.findings.add(self._finding(kind, what, position, first, following))

    def _note(self, kind: str, what: str, position: int) -> None:
        self.result.looked.notes.add(self._finding(kind, what, position, -1, -1))

    def _finding(self, kind: str, what: str, position: int, first: int, following: int) -> Finding:
        task = self._task
        return Finding(
            kind=kind,
            what=what,
            where=f"{task.path} at byte {position}",
            topic=task.topic,
            partition=task.partition,
            first=first,
            next=following,
        )
