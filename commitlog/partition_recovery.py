"""Recovery of one partition's files.

What the checkpoint says is durable is not walked. What stands beyond it was written after, and the journal has it too:
there a segment is cut at the first damage and written again from the journal, because after a power cut pages may be
missing in the middle of what was not synced. Whole batches behind such a cut are held in memory (no more than the
journal's size) until the journal has had its say, and appended after it if it did not bring them.

Without a checkpoint every segment is walked. What the journal still has is then known by its offsets, and is treated in
the same way; before that, damage in the middle is stepped over and stays where it is, and only the end of the newest
segment is cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from commitlog.base import TopicInfo
from commitlog.batch import BatchHeader, RawBatch, rebuild_from
from commitlog.checkpoint import PartitionPoint
from commitlog.files import PartitionFiles
from commitlog.metadata import read_metadata, write_metadata
from commitlog.report import Cut, RecoveryReport, cut_of
from commitlog.resync import NO_HIGH
from commitlog.segment import SUFFIXES, Redo, Segment, base_offsets, segment_path
from commitlog.settings import LogSettings
from commitlog.storage import Storage, partition_dir_name
from commitlog.walk import Damage, FoundBatch, read_batch, walk


@dataclass(slots=True, kw_only=True)
class RecoveredPartition:
    """A partition's files at their valid end. `behind`: batches behind a cut, for `append_behind`."""

    files: PartitionFiles
    newest_ms: int
    leader_epoch: int
    behind: Sequence[RawBatch] = field(default=())
    tail: Damage | None = None


def recover_partition(
    storage: Storage,
    log_dir: Path,
    settings: LogSettings,
    topic: TopicInfo,
    index: int,
    point: PartitionPoint | None,
    report: RecoveryReport,
    journal_offsets: Mapping[tuple[bytes, int], int],
) -> RecoveredPartition:
    """Bring one partition's files to their valid end; `point` is what the checkpoint says of it. Raises OSError.

    `journal_offsets`: see `salvage.StartingPoint`.
    """
    directory = log_dir / partition_dir_name(topic.name, index)
    topic_id = bytes.fromhex(topic.topic_id)
    if read_metadata(storage, directory) != topic_id:
        storage.make_dir(directory)
        write_metadata(storage, directory, topic_id)
        storage.sync_dir(log_dir)
    redo = Redo(from_offset=journal_offsets.get((topic_id, index), NO_HIGH))
    return _Walk(storage, directory, topic, index, point, report, redo).run(settings)


def append_behind(partition: RecoveredPartition, report: RecoveryReport, below: int = NO_HIGH) -> None:
    """Append what stood behind a cut and the journal does not bring, up to an offset that it does. Raises OSError."""
    files, tail = partition.files, partition.tail
    for batch in partition.behind:
        header = batch.header
        if header.last_offset < files.next_offset or header.last_offset >= below:
            continue
        if tail is not None and header is tail.claimed and files.next_offset > tail.first:
            continue  # the journal has filled the gap that it claimed to stand behind: it was never there
        if header.base_offset < files.next_offset:
            batch = rebuild_from(batch, files.next_offset, header.leader_epoch)
            header = batch.header
        if header.base_offset > files.next_offset:
            damage = tail or _unknown(files.next_offset)
            report.cuts.append(
                Cut(
                    topic=files.topic.name,
                    partition=files.partition,
                    first=files.next_offset,
                    next=header.base_offset,
                    reason="neither whole in a segment nor in the journal",
                    start_ms=damage.start_ms,
                    end_ms=header.first_timestamp_ms,
                    devices=damage.devices,
                )
            )
        count = header.last_offset - header.base_offset + 1
        files.append(batch.data, header.base_offset, count, header.max_timestamp_ms)


def skip_claimed(partition: RecoveredPartition, report: RecoveryReport) -> None:
    """Skip the offsets that the damaged end of the newest segment says itself, perhaps, that it gave out.

    Only without a checkpoint, which would know, and after the journal, which may have brought them.
    """
    files, tail = partition.files, partition.tail
    claimed = None if tail is None else tail.claimed
    if tail is None or claimed is None or not claimed.base_offset == tail.first == files.next_offset:
        return
    if claimed.record_count == claimed.last_offset + 1 - claimed.base_offset:
        reason = "damaged at the end of a segment"
        report.cuts.append(cut_of(files.topic.name, files.partition, tail, claimed.last_offset + 1, reason))
        files.next_offset = claimed.last_offset + 1


def _unknown(first: int) -> Damage:
    return Damage(position=0, size_bytes=0, first=first, next=None, start_ms=None, end_ms=None)


class _Walk:
    """One partition's recovery while it runs."""

    def __init__(
        self,
        storage: Storage,
        directory: Path,
        topic: TopicInfo,
        index: int,
        point: PartitionPoint | None,
        report: RecoveryReport,
        redo: Redo,
    ) -> None:
        self._storage = storage
        self._redo = redo
        self._directory = directory
        self._topic = topic
        self._index = index
        self._point = point
        self._report = report
        self._next_offset = point.next_offset if point else 0
        self._newest_ms = self._leader_epoch = 0
        self._active: Segment | None = None
        self._behind: list[RawBatch] = []
        self._tail: Damage | None = None
        self._names_dirty = False

    def run(self, settings: LogSettings) -> RecoveredPartition:
        point, bases = self._point, self._finish_deletion(base_offsets(self._storage, self._directory))
        if point is not None and point.log_bytes and point.segment not in bases:
            self._cut(point.segment, point.next_offset, f"segment {point.segment} is gone")
        for base in [b for b in bases if point is None or b >= point.segment >= 0 or b >= point.next_offset]:
            self._segment(base)
        active = self._drop_if_empty()
        if active is not None and not _stands_at(active, point):
            active.write_again()
        log_start = min([*bases, self._next_offset]) if point is None else min(point.log_start, self._next_offset)
        files = PartitionFiles(
            self._storage,
            self._directory,
            self._topic,
            self._index,
            log_start=log_start,
            next_offset=self._next_offset,
            active=active,
            segment_size_bytes=settings.segment_size_bytes,
            unsynced=self._names_dirty or (active is not None and not _stands_at(active, point)),
        )
        return RecoveredPartition(
            files=files,
            newest_ms=self._newest_ms,
            leader_epoch=self._leader_epoch,
            behind=self._behind,
            tail=self._tail,
        )

    def _finish_deletion(self, bases: list[int]) -> list[int]:
        """Remove segments wholly before the log start: their deletion was decided, and interrupted."""
        log_start = self._point.log_start if self._point else 0
        gone = [base for base, following in pairwise(bases) if following <= log_start]
        for base in gone:
            self._remove(base)
        return bases[len(gone) :]

    def _segment(self, base: int) -> None:
        """The next segment, in order of offsets."""
        if self._tail is not None and (self._point is not None or base > self._redo.from_offset):
            self._set_aside(base)
            return
        if self._active is not None:
            self._close_with_tail(self._active, base)
        segment = self._active = Segment(self._storage, self._directory, base)
        point = self._point
        known = point is not None and point.segment == base
        sizes = (point.log_bytes, point.index_bytes, point.timeindex_bytes) if known and point is not None else None
        redo = self._redo if point is None else Redo(from_byte=point.log_bytes if known else 0)
        size = segment.file_bytes
        walked = segment.recover(sizes, redo, point.next_offset if known and point is not None else 0)
        self._report.bytes_cut += size - segment.log_bytes
        for damage in walked.damage:
            following = damage.first if damage.next is None else damage.next
            self._report.cuts.append(self._damaged(damage, following, f"damaged in segment {base}"))
        self._note_last(walked.last)
        if sizes is not None and segment.log_bytes < sizes[0]:
            first = walked.last.last_offset + 1 if walked.last else base
            self._cut(first, self._next_offset, f"segment {base} is shorter than when it was synced", walked.tail)
        self._tail = walked.tail
        self._behind.extend(walked.behind)

    def _note_last(self, last: BatchHeader | None) -> None:
        if last is not None:
            self._next_offset = max(self._next_offset, last.last_offset + 1)
            self._newest_ms = max(self._newest_ms, last.max_timestamp_ms)
            self._leader_epoch = max(self._leader_epoch, last.leader_epoch)

    def _close_with_tail(self, active: Segment, following: int) -> None:
        if self._point is None and self._next_offset < following:
            where = "in no segment" if self._tail is None else f"damaged at the end of segment {active.base_offset}"
            self._cut(self._next_offset, following, where, self._tail)
        active.seal()
        active.sync()
        active.close()

    def _set_aside(self, base: int) -> None:
        """A segment behind a cut: its batches wait for the journal's, and are written again after them."""
        file = self._storage.open_read(segment_path(self._directory, base))
        try:
            found = [read_batch(file, one) for one in walk(file, 0, base) if isinstance(one, FoundBatch)]
        finally:
            file.close()
        self._behind.extend(found)
        self._remove(base)

    def _drop_if_empty(self) -> Segment | None:
        active = self._active
        if active is None or active.log_bytes:
            return active
        active.close()
        self._remove(active.base_offset)
        return None

    def _remove(self, base: int) -> None:
        for suffix in SUFFIXES:
            self._storage.remove(segment_path(self._directory, base, suffix))
        self._names_dirty = True

    def _damaged(self, damage: Damage, following: int, reason: str) -> Cut:
        return cut_of(self._topic.name, self._index, damage, following, reason)

    def _cut(self, first: int, following: int, reason: str, damage: Damage | None = None) -> None:
        self._report.cuts.append(
            Cut(
                topic=self._topic.name,
                partition=self._index,
                first=first,
                next=following,
                reason=reason,
                start_ms=None if damage is None else damage.start_ms,
                end_ms=None if damage is None else damage.end_ms,
                devices=() if damage is None else damage.devices,
            )
        )


def _stands_at(active: Segment, point: PartitionPoint | None) -> bool:
    """Whether the checkpoint says that all of it is durable; what a killed process left beyond may not be."""
    return point is not None and (active.base_offset, active.log_bytes, active.index_bytes, active.timeindex_bytes) == (
        point.segment,
        point.log_bytes,
        point.index_bytes,
        point.timeindex_bytes,
    )
