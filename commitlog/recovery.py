"""Recovery: from whatever is on disk to a log that can be appended to.

One function, numbered passes. Segment data is the truth; the journal says what was acknowledged after the checkpoint;
indexes are made again where they cannot be trusted. The work is linear in the bytes since the last checkpoint. What was
cut is in the report, never silent. Nothing is accepted before the last pass is done, and a crash in the middle of any
pass is followed by the same recovery again: the old journal stays as it is until the new checkpoint stands.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from commitlog.base import TopicInfo
from commitlog.batch import BatchHeader
from commitlog.checkpoint import Checkpoint, CheckpointError, PartitionPoint, read_checkpoint, write_checkpoint
from commitlog.files import PartitionFiles
from commitlog.journal import Journal, preallocate
from commitlog.metadata import read_metadata, write_metadata
from commitlog.pass_over import pass_over
from commitlog.replay import JOURNAL_NAME, replay
from commitlog.report import Cut, RecoveryReport
from commitlog.salvage import is_new, offsets_seen_by_windows, substitute_checkpoint
from commitlog.segment import Segment, base_offsets
from commitlog.settings import LogSettings
from commitlog.storage import TEMPORARY_SUFFIX, Storage, parse_partition_dir_name, partition_dir_name
from commitlog.tables import TABLES_DIR, CommittedTables, SnapshotError, remove_unnamed_snapshots


@dataclass(slots=True, kw_only=True)
class Recovered:
    """A log at rest: every partition's files at their valid end, tables, and the numbers to go on from."""

    files: list[PartitionFiles]
    tables: CommittedTables
    leader_epoch: int
    last_timestamp_ms: int
    next_sequence: int
    journal_id: int
    report: RecoveryReport


def recover(storage: Storage, log_dir: Path, settings: LogSettings) -> Recovered:
    """Bring the log back. Raises OSError when the disk itself refuses."""
    started = time.monotonic()
    report = RecoveryReport()
    storage.make_dir(log_dir / TABLES_DIR)
    storage.sync_dir(log_dir.parent)
    # 1. The checkpoint: from where to look.
    checkpoint = _checkpoint(storage, log_dir, settings, report)
    # 2. Leftovers of writes that a crash interrupted.
    _remove_leftovers(storage, log_dir)
    remove_unnamed_snapshots(storage, log_dir, list(checkpoint.tables.values()) if checkpoint else [])
    # 3. State tables as of the checkpoint.
    tables = _tables(storage, log_dir, checkpoint, report)
    # 4. Each partition's files up to their valid end.
    files = _partitions(storage, log_dir, settings, checkpoint, report)
    last_timestamp_ms = max([checkpoint.last_timestamp_ms if checkpoint else 0, *(f.newest_ms for f in files)])
    # 5. What the journal holds beyond that: acknowledged, but not yet in segments.
    next_sequence, newest_ms = replay(
        storage, log_dir, checkpoint, [recovered.files for recovered in files], tables, report
    )
    _continue_past_windows(files, tables, report)
    # 6. Offsets that readers may have seen, of records that were never synced, are not used again.
    if checkpoint is not None and not checkpoint.clean:
        pass_over(checkpoint.unsynced_records, [recovered.files for recovered in files], report)
    # 7. Make it durable where it stands now.
    for recovered in files:
        recovered.files.sync()
    report.clean = checkpoint is None or (checkpoint.clean and not report.entries_replayed and not report.cuts)
    report.duration_s = time.monotonic() - started
    epoch = max([checkpoint.leader_epoch if checkpoint else 0, *(f.leader_epoch for f in files)])
    return Recovered(
        files=[recovered.files for recovered in files],
        tables=tables,
        leader_epoch=epoch if report.clean else epoch + 1,
        last_timestamp_ms=max(last_timestamp_ms, newest_ms),
        next_sequence=next_sequence,
        journal_id=secrets.randbits(64),
        report=report,
    )


def start_journal(storage: Storage, log_dir: Path, settings: LogSettings, recovered: Recovered) -> Journal:
    """Move the checkpoint past everything recovered, then open the journal anew under the new id.

    In this order: should a crash come between, the old journal is no longer needed. Raises OSError.
    """
    recovered.tables.write_snapshots(storage, log_dir / TABLES_DIR, recovered.next_sequence)
    checkpoint = Checkpoint(
        journal_id=recovered.journal_id,
        journal_size=settings.journal_size_bytes,
        journal_position=0,
        next_sequence=recovered.next_sequence,
        leader_epoch=recovered.leader_epoch,
        last_timestamp_ms=recovered.last_timestamp_ms,
        clean=False,
        partitions=[files.point() for files in recovered.files],
        tables=dict(recovered.tables.snapshots),
    )
    write_checkpoint(storage, log_dir, checkpoint)
    size = settings.journal_size_bytes
    file = preallocate(storage, log_dir / JOURNAL_NAME, size)
    return Journal(file, size=size, journal_id=recovered.journal_id, sequence=recovered.next_sequence)


def _checkpoint(storage: Storage, log_dir: Path, settings: LogSettings, report: RecoveryReport) -> Checkpoint | None:
    """What the last run left; None for a new log."""
    try:
        checkpoint = read_checkpoint(storage, log_dir)
        if checkpoint is not None or is_new(storage, log_dir):
            return checkpoint
        problem = "the checkpoint is missing"
    except CheckpointError as error:
        problem = str(error)
    report.notes.append(f"{problem}; every segment is walked, what only the journal holds is lost")
    return substitute_checkpoint(storage, log_dir, settings)


def _remove_leftovers(storage: Storage, log_dir: Path) -> None:
    partitions = [log_dir / name for name in storage.names(log_dir) if parse_partition_dir_name(name)]
    for directory in (log_dir, log_dir / TABLES_DIR, *partitions):
        for name in storage.names(directory):
            if name.endswith(TEMPORARY_SUFFIX):
                storage.remove(directory / name)


def _tables(storage: Storage, log_dir: Path, checkpoint: Checkpoint | None, report: RecoveryReport) -> CommittedTables:
    tables = CommittedTables()
    for table, name in (checkpoint.tables if checkpoint else {}).items():
        try:
            tables.load(storage, log_dir / TABLES_DIR, {table: name})
        except (SnapshotError, FileNotFoundError) as error:
            report.notes.append(f"state table {table!r} is lost: {error}")
    return tables


@dataclass(frozen=True, slots=True)
class _RecoveredPartition:
    files: PartitionFiles
    newest_ms: int
    leader_epoch: int


def _partitions(
    storage: Storage, log_dir: Path, settings: LogSettings, checkpoint: Checkpoint | None, report: RecoveryReport
) -> list[_RecoveredPartition]:
    """Every partition that has a directory or stands in the checkpoint."""
    points = {(p.topic, p.partition): p for p in (checkpoint.partitions if checkpoint else ())}
    return [
        _partition(storage, log_dir, settings, topic, index, points.get((topic.name, index)), report)
        for topic in _topics(storage, log_dir, points, report)
        for index in range(topic.partitions)
    ]


def _topics(
    storage: Storage,
    log_dir: Path,
    points: Mapping[tuple[str, int], PartitionPoint],
    report: RecoveryReport,
) -> list[TopicInfo]:
    """Topics by their directories and by the checkpoint; a half-made topic is completed."""
    counts: dict[str, int] = {}
    ids: dict[str, bytes] = {}
    found = [parsed for name in storage.names(log_dir) if (parsed := parse_partition_dir_name(name)) is not None]
    for topic, index in (*found, *points):
        counts[topic] = max(counts.get(topic, 0), index + 1)
        point = points.get((topic, index))
        known = point.topic_id if point else read_metadata(storage, log_dir / partition_dir_name(topic, index))
        if known is not None:
            ids.setdefault(topic, known)
    for topic in counts:
        if topic not in ids:
            ids[topic] = secrets.token_bytes(16)
            report.notes.append(f"topic {topic!r} has lost its id and got a new one")
    return [TopicInfo(name=name, topic_id=ids[name].hex(), partitions=counts[name]) for name in sorted(counts)]


def _partition(
    storage: Storage,
    log_dir: Path,
    settings: LogSettings,
    topic: TopicInfo,
    index: int,
    point: PartitionPoint | None,
    report: RecoveryReport,
) -> _RecoveredPartition:
    directory = log_dir / partition_dir_name(topic.name, index)
    topic_id = bytes.fromhex(topic.topic_id)
    if read_metadata(storage, directory) != topic_id:
        storage.make_dir(directory)
        write_metadata(storage, directory, topic_id)
        storage.sync_dir(log_dir)
    next_offset = point.next_offset if point else 0
    newest_ms = leader_epoch = 0
    active: Segment | None = None
    bases = base_offsets(storage, directory)
    if point is not None and point.log_bytes and point.segment not in bases:
        reason = f"segment {point.segment} is gone"
        report.cuts.append(Cut(topic=topic.name, partition=index, first=point.segment, next=next_offset, reason=reason))
    for base in [b for b in bases if point is None or b >= point.segment >= 0 or b >= point.next_offset]:
        if active is not None:
            active.seal()
            active.sync()
            active.close()
        active = Segment(storage, directory, base)
        next_offset, last = _recover_segment(active, topic, index, point, next_offset, report)
        if last is not None:
            newest_ms, leader_epoch = max(newest_ms, last.max_timestamp_ms), max(leader_epoch, last.leader_epoch)
    files = PartitionFiles(
        storage,
        directory,
        topic,
        index,
        log_start=min([*bases, next_offset]) if point is None else min(point.log_start, next_offset),
        next_offset=next_offset,
        active=active,
        segment_size_bytes=settings.segment_size_bytes,
        unsynced=active is not None and not _stands_at(active, point),
    )
    return _RecoveredPartition(files, newest_ms, leader_epoch)


def _stands_at(active: Segment, point: PartitionPoint | None) -> bool:
    """Whether the checkpoint says that all of it is durable; what a killed process left beyond may not be."""
    return point is not None and (active.base_offset, active.log_bytes, active.index_bytes, active.timeindex_bytes) == (
        point.segment,
        point.log_bytes,
        point.index_bytes,
        point.timeindex_bytes,
    )


def _recover_segment(
    segment: Segment,
    topic: TopicInfo,
    index: int,
    point: PartitionPoint | None,
    next_offset: int,
    report: RecoveryReport,
) -> tuple[int, BatchHeader | None]:
    """Recover one segment; returns the partition's next offset and the last batch walked."""
    known = point is not None and point.segment == segment.base_offset
    sizes = (point.log_bytes, point.index_bytes, point.timeindex_bytes) if known and point is not None else None
    had_bytes = segment.file_bytes
    headers = segment.recover(sizes)
    end = headers[-1].last_offset + 1 if headers else next_offset
    if had_bytes > segment.log_bytes:
        reason = f"{had_bytes - segment.log_bytes} bytes after the last whole batch of segment {segment.base_offset}"
        report.cuts.append(Cut(topic=topic.name, partition=index, first=end, next=end, reason=reason))
    if sizes is not None and segment.log_bytes < sizes[0]:
        first = headers[-1].last_offset + 1 if headers else segment.base_offset
        reason = f"segment {segment.base_offset} is shorter than when it was synced"
        report.cuts.append(Cut(topic=topic.name, partition=index, first=first, next=next_offset, reason=reason))
    return max(end, next_offset), headers[-1] if headers else None


def _continue_past_windows(
    partitions: Sequence[_RecoveredPartition], tables: CommittedTables, report: RecoveryReport
) -> None:
    """Never use an offset again that a closed window holds, should its records be lost."""
    rows = tables.decoded()
    topic_ids = {partition.files.topic.topic_id for partition in partitions}
    ends = {topic_id: offsets_seen_by_windows(rows, topic_id) for topic_id in topic_ids}
    for files in (partition.files for partition in partitions):
        seen = ends[files.topic.topic_id].get(files.partition, 0)
        if seen > files.next_offset:
            reason = "in a closed window, and missing from the segments"
            report.cuts.append(
                Cut(
                    topic=files.topic.name,
                    partition=files.partition,
                    first=files.next_offset,
                    next=seen,
                    reason=reason,
                )
            )
            files.next_offset = seen
