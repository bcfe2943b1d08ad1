"""Checking a log from outside: everything on disk against everything else, without a lock.

What is compared: each batch with its CRC, its records with its header, its place with its neighbours'; offsets of a
partition without a hole from the log start to what the checkpoint, the windows and the watermark map say was there;
timestamps that never decrease; both indexes with their segment; the journal from the checkpoint on; table snapshots;
windows that leave nothing out; names that do not belong.

*No false alarm.* Beside a running writer a partition is checked up to the high watermark read before: all of that is in
the segments. Whatever is found is looked for once more on a fresh look at the log, and told only if it is still there
and the log stood still in between or is live: what a writer was in the middle of is over by then. After a kill, what is
not durable by the checkpoint's word may be torn, and is no damage as long as the journal holds it: that is a note.

*Named once.* Damaged bytes name the offsets that are lost with them; the indexes of a segment are compared only when
its batches are whole; what only a damaged journal entry held is told with that entry.

Memory is bounded by one batch (128 MiB decompressed at most) and one segment's indexes; findings by `MAX_KEPT`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from commitlog.check_reasons import with_reasons
from commitlog.check_segment import Reached, SegmentCheck, SegmentResult, SegmentTask
from commitlog.check_state import StateCheck, StateResult
from commitlog.check_walk import MAX_OFFSET
from commitlog.findings import CheckReport, Finding, Looked, Progress, in_words, widen_damage
from commitlog.gaps import MISSING
from commitlog.look import LogLook, PartitionLook, look_at, unreadable
from commitlog.report import read_report
from commitlog.segment import INDEX_SUFFIX, TIMEINDEX_SUFFIX, base_offsets, segment_path
from commitlog.storage import LOG_DIR, Storage, SystemStorage, read_whole
from commitlog.watermarks import STALE_AFTER_MS
from core.clock import Clock, SystemClock

_LOOKS: Final = 6  # at what seems wrong, until two of them agree on a log that stood still
_PAUSE_S: Final = 0.3  # between two looks: longer than a flush, a checkpoint or the renaming of a file takes


def check_log(
    data_dir: Path,
    *,
    storage: Storage | None = None,
    clock: Clock | None = None,
    pause: Callable[[float], object] = time.sleep,
    progress: Progress = lambda _done, _total: None,
) -> CheckReport:
    """Check the log below `data_dir`. Raises DataDirError when there is none, or it cannot be read."""
    checker = _Checker(storage or SystemStorage(), data_dir, clock or SystemClock(), pause, progress)
    try:
        return checker.run()
    except OSError as error:
        raise unreadable(error, data_dir / LOG_DIR) from error


class _Checker:
    def __init__(
        self,
        storage: Storage,
        data_dir: Path,
        clock: Clock,
        pause: Callable[[float], object],
        progress: Progress,
    ) -> None:
        self._storage = storage
        self._data_dir = data_dir
        self._clock = clock
        self._pause = pause
        self._progress = progress
        self._report = CheckReport()
        self._state = StateResult()
        self._done = self._total = 0
        self._stood_still: LogLook | None = None
        self._proved_live = False

    def run(self) -> CheckReport:
        look = self._look()
        self._total = sum(self._sizes(partition) for partition in look.partitions)
        self._check_state(look)
        for partition in look.partitions:
            # A living writer goes on: up to where is asked for anew.
            self._check_partition(self._look() if look.live else look, partition)
        report = self._report
        report.live = look.live
        report.topics = len({partition.topic for partition in look.partitions})
        report.partitions = len(look.partitions)
        self._progress(self._total, self._total)
        return report

    def _look(self) -> LogLook:
        return look_at(self._storage, self._data_dir, self._clock)

    def _sizes(self, partition: PartitionLook) -> int:
        return sum(self._size(segment_path(partition.directory, base)) for base in self._bases(partition))

    def _bases(self, partition: PartitionLook) -> list[int]:
        return base_offsets(self._storage, partition.directory)

    def _size(self, path: Path) -> int:
        try:
            file = self._storage.open_read(path)
        except FileNotFoundError:
            return 0  # deleted meanwhile
        try:
            return file.size()
        finally:
            file.close()

    def _certain(self, first: Looked, again: Callable[[], Looked]) -> Looked:
        """What is still there on later looks."""
        found = first
        for _ in range(_LOOKS):
            if not found:
                return found
            before = self._look()
            if before != self._stood_still:  # a log at rest is waited for once
                self._pause(_PAUSE_S)
            second = again()
            if before.live and (not found.seen_again(second) or self._lives()):
                return found.seen_again(second)
            if before.live:  # it was killed a moment ago: look again by the rules of a log at rest
                found = again()
                continue
            if self._look() == before:
                self._stood_still = before
                return found.seen_again(second)
            found = second
        return found

    def _lives(self) -> bool:
        """Whether the writer still lives when its last heartbeat can no longer be the one of a process just killed."""
        if not self._proved_live:
            self._pause(STALE_AFTER_MS / 1000)
            self._proved_live = self._look().live
        return self._proved_live

    # -- everything but the segments

    def _check_state(self, look: LogLook) -> None:
        results = [StateCheck(self._storage, self._data_dir, look).run()]

        def again() -> Looked:
            results.append(StateCheck(self._storage, self._data_dir, self._look()).run())
            return results[-1].looked

        self._tell(self._certain(results[0].looked, again))
        self._state = results[-1]
        self._report.journal_entries = self._state.journal_entries
        self._report.tables = self._state.tables
        self._report.windows = self._state.windows

    # -- partitions

    def _check_partition(self, look: LogLook, named: PartitionLook) -> None:
        """Every segment in order, then whether anything is missing at the end."""
        partition = look.partition(named.topic_id, named.partition)
        if partition is None or not self._storage.names(partition.directory):
            return  # gone meanwhile, or told as missing already
        bases = self._bases(partition)
        reached = Reached(partition.log_start(bases))
        tail = Looked()
        for number, base in enumerate(bases):
            following = bases[number + 1] if number + 1 < len(bases) else None
            if base > reached.next_offset and self._still_missing(look, partition, reached.next_offset, base):
                tail = self._missing(tail, partition, reached.next_offset, base, "before the segment that starts there")
            self._tell(tail)
            result = self._check_segment(look, partition, base, following, reached)
            tail, reached = result.looked, result.reached
        self._tell(self._end(look, partition, reached, tail))

    def _tell(self, looked: Looked) -> None:
        if looked.findings.count:
            looked = with_reasons(looked, read_report(self._storage, self._data_dir / LOG_DIR))
        self._report.take(looked)

    def _missing(self, tail: Looked, partition: PartitionLook, first: int, following: int, why: str) -> Looked:
        if not widen_damage(tail, first, following):
            tail.findings.add(
                Finding(
                    kind="offset-gap",
                    what=f"{in_words(first, following)} {MISSING} {why}",
                    where=f"{LOG_DIR}/{partition.name}",
                    topic=partition.topic,
                    partition=partition.partition,
                    first=first,
                    next=following,
                )
            )
        return tail

    def _end(self, look: LogLook, partition: PartitionLook, reached: Reached, tail: Looked) -> Looked:
        """Whether the segments, and after a kill the journal, reach as far as something says that offsets went."""
        end, mark, point = reached.next_offset, partition.mark, partition.point
        if look.live:
            if mark is not None and end < mark.high and self._still_missing(look, partition, end, mark.high):
                self._missing(tail, partition, end, mark.high, "at the end: the watermark promises them")
            return tail
        synced = point.next_offset if point is not None else 0
        if end < synced:
            tail = self._missing(tail, partition, end, synced, "at the end: the checkpoint says that they were synced")
        at = (partition.topic_id, partition.partition)
        held = max(end, synced, self._state.journal_ends.get(at, 0))
        seen = max(mark.high if mark is not None else 0, self._state.window_ends.get(at, 0))
        if seen > held and not self._state.journal_damaged:
            why = "at the end: readers were shown them, and neither segments nor journal hold them"
            tail = self._missing(tail, partition, held, seen, why)
        return tail

    def _still_missing(self, look: LogLook, partition: PartitionLook, first: int, following: int) -> bool:
        """Whether offsets are still expected, and still in no segment: a living writer may have deleted them."""
        if not look.live:
            return True
        self._pause(_PAUSE_S)
        now = self._look().partition(partition.topic_id, partition.partition)
        bases = self._bases(partition)
        return (
            now is not None and now.log_start(bases) <= first and not any(first <= base < following for base in bases)
        )

    def _check_segment(
        self, look: LogLook, partition: PartitionLook, base: int, following: int | None, before: Reached
    ) -> SegmentResult:
        results = [self._walk(self._task(look, partition, base, following), before, partition)]

        def again() -> Looked:
            fresh = self._look()
            now = fresh.partition(partition.topic_id, partition.partition)
            bases = [] if now is None else self._bases(now)
            if now is None or base not in bases:
                return Looked()  # deleted meanwhile
            after = next((other for other in bases if other > base), None)
            results.append(self._walk(self._task(fresh, now, base, after), before, now))
            return results[-1].looked

        looked = self._certain(results[0].looked, again)
        result = results[-1]
        report = self._report
        report.segments += 1
        report.batches += result.batches
        report.records += result.records
        report.segment_bytes += result.log_bytes
        report.index_entries += result.index_entries
        result.looked = looked
        return result

    def _walk(self, task: SegmentTask, before: Reached, partition: PartitionLook) -> SegmentResult:
        check = SegmentCheck(task, before)
        try:
            file = self._storage.open_read(segment_path(partition.directory, task.base))
        except FileNotFoundError:
            return check.result  # deleted meanwhile
        try:
            done = 0
            for done in check.run(file):
                self._progress(min(self._done + done, self._total), self._total)
        finally:
            file.close()
        self._done += done
        return check.result

    def _task(self, look: LogLook, partition: PartitionLook, base: int, following: int | None) -> SegmentTask:
        path = segment_path(partition.directory, base)
        task = SegmentTask(
            topic=partition.topic,
            partition=partition.partition,
            base=base,
            path=f"{LOG_DIR}/{partition.name}/{path.name}",
            size_bytes=0,
            following=following,
            ends_at=following or (partition.point.next_offset if partition.point and not look.live else 0),
            max_epoch=look.checkpoint.leader_epoch if look.checkpoint is not None else None,
            index=(self._bytes(partition, base, INDEX_SUFFIX), self._bytes(partition, base, TIMEINDEX_SUFFIX)),
        )
        if look.live:
            # Indexes and size are read after the watermark: they hold at least what it promises.
            high = partition.mark.high if partition.mark is not None and following is None else MAX_OFFSET
            return replace(task, size_bytes=self._size(path), high=high)
        return replace(_at_rest(task, look, partition), size_bytes=self._size(path))

    def _bytes(self, partition: PartitionLook, base: int, suffix: str) -> bytes | None:
        try:
            return read_whole(self._storage, segment_path(partition.directory, base, suffix))
        except FileNotFoundError:
            return None


def _at_rest(task: SegmentTask, look: LogLook, partition: PartitionLook) -> SegmentTask:
    """How much of a segment has to be right when nobody writes."""
    point = partition.point
    if look.clean:
        return task
    task = replace(task, journaled=look.checkpoint is not None)
    if point is None:  # no checkpoint, or a partition newer than it: only the last segment can be unfinished
        return task if task.following is not None else replace(task, settled_bytes=0, index=(b"", b""))
    if task.base == point.segment:
        offsets, times = task.index
        settled = (
            None if offsets is None else offsets[: point.index_bytes],
            None if times is None else times[: point.timeindex_bytes],
        )
        return replace(task, settled_bytes=point.log_bytes, index=settled)
    if task.base >= (point.segment if point.segment >= 0 else point.next_offset):
        return replace(task, settled_bytes=0, index=(b"", b""))
    return task
