"""Recovery: from whatever is on disk to a log that can be appended to.

One function, numbered passes. Segment data is the truth; the journal says what was acknowledged after the checkpoint;
indexes are made again where they cannot be trusted. The work is linear in the bytes since the last checkpoint. What was
cut is in the report, never silent. Nothing is accepted before the last pass is done, and a crash in the middle of any
pass is followed by the same recovery again: the old journal stays as it is until the new checkpoint stands.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from commitlog.base import TopicInfo
from commitlog.checkpoint import Checkpoint, CheckpointError, PartitionPoint, read_checkpoint, write_checkpoint
from commitlog.files import PartitionFiles
from commitlog.journal import Journal, preallocate
from commitlog.journal_settle import settle_journal
from commitlog.partition_recovery import RecoveredPartition, append_behind, recover_partition
from commitlog.pass_over import pass_over
from commitlog.replay import JOURNAL_NAME, replay
from commitlog.report import Cut, RecoveryReport, keep_report
from commitlog.restored import is_restored, leave_out, restored_is_told
from commitlog.salvage import is_new, substitute_checkpoint
from commitlog.segment import leftovers
from commitlog.settings import LogSettings
from commitlog.storage import TEMPORARY_SUFFIX, Storage, partition_dir_name
from commitlog.tables import TABLES_DIR, CommittedTables, SnapshotError, remove_unnamed_snapshots
from commitlog.topic_dirs import find_topics
from commitlog.version import check_version, write_meta
from commitlog.windows import WINDOWS_TABLE, last_windows
from core.threads import Latch


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
    """Bring the log back. Raises OSError when the disk itself refuses, DataDirError for what is newer than this."""
    check_version(storage, log_dir)
    started = time.monotonic()
    report = RecoveryReport()
    storage.make_dir(log_dir / TABLES_DIR)
    storage.sync_dir(log_dir.parent)
    # 1. The checkpoint: from where to look.
    checkpoint, salvaged = _checkpoint(storage, log_dir, settings, report)
    # 2. Which topics there are, and leftovers of writes that a crash interrupted. The checkpoint just read may be one
    # that a killed process renamed and did not live to sync: what only the one before it needs goes after that one can
    # no longer come back.
    storage.sync_dir(log_dir)
    points = {(p.topic, p.partition): p for p in (checkpoint.partitions if checkpoint else ())}
    topics = find_topics(storage, log_dir, settings, points, report)
    _remove_leftovers(storage, log_dir, topics)
    remove_unnamed_snapshots(storage, log_dir, list(checkpoint.tables.values()) if checkpoint else [])
    # 3. State tables as of the checkpoint.
    tables = _tables(storage, log_dir, checkpoint, report)
    # 4. Each partition's files up to their valid end.
    files = [
        recover_partition(
            storage,
            log_dir,
            settings,
            topic,
            index,
            points.get((topic.name, index)) or (None if salvaged else _made_since(topic, index)),
            report,
        )
        for topic in topics
        for index in range(topic.partitions)
    ]
    last_timestamp_ms = max([checkpoint.last_timestamp_ms if checkpoint else 0, *(f.newest_ms for f in files)])
    # 5. What the journal holds beyond that: acknowledged, but not yet in segments.
    settle_journal(storage, log_dir / JOURNAL_NAME, checkpoint)
    next_sequence, newest_ms = replay(storage, log_dir, checkpoint, files, tables, report)
    for recovered in files:
        append_behind(recovered, report)
    _continue_past_windows(files, tables, report)
    # 6. Where this is an older copy of the log, nothing that was given out since is given out again.
    if is_restored(storage, log_dir, log_dir / JOURNAL_NAME):
        leave_out([recovered.files for recovered in files], report)
    # 7. Offsets that readers may have seen, of records that were never synced, are not used again.
    if checkpoint is not None and not checkpoint.clean:
        pass_over(checkpoint.unsynced_records, [recovered.files for recovered in files], report)
    # 8. Make it durable where it stands now.
    for recovered in files:
        recovered.files.sync()
    report.clean = checkpoint is None or (
        checkpoint.clean and not report.entries_replayed and not report.cuts and not report.bytes_cut
    )
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


def start_journal(
    storage: Storage, log_dir: Path, settings: LogSettings, recovered: Recovered, released: Latch | None = None
) -> Journal:
    """Move the checkpoint past everything recovered, then open the journal anew under the new id.

    In this order: should a crash come between, the old journal is no longer needed. The report comes before the
    checkpoint, behind which nobody can tell any more what was missing. Raises OSError.
    """
    keep_report(storage, log_dir, recovered.report, recovered.last_timestamp_ms)
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
        table_bytes=dict(recovered.tables.snapshot_bytes),
    )
    write_checkpoint(storage, log_dir, checkpoint)
    size = settings.journal_size_bytes
    file = preallocate(storage, log_dir / JOURNAL_NAME, size)
    write_meta(storage, log_dir, storage.inode(log_dir / JOURNAL_NAME))
    restored_is_told(storage, log_dir)
    return Journal(
        file, size=size, journal_id=recovered.journal_id, sequence=recovered.next_sequence, released=released
    )


def _made_since(topic: TopicInfo, index: int) -> PartitionPoint:
    """What the checkpoint would say of a partition made after it: nothing is durable, the journal has everything."""
    return PartitionPoint(
        topic=topic.name,
        topic_id=bytes.fromhex(topic.topic_id),
        partition=index,
        log_start=0,
        next_offset=0,
        segment=-1,
        log_bytes=0,
        index_bytes=0,
        timeindex_bytes=0,
    )


def _checkpoint(
    storage: Storage, log_dir: Path, settings: LogSettings, report: RecoveryReport
) -> tuple[Checkpoint | None, bool]:
    """What the last run left, None for a new log; and whether it is lost, so that this is what can be had in its place.

    Without it nobody knows where the journal begins.
    """
    try:
        checkpoint = read_checkpoint(storage, log_dir)
        if checkpoint is not None or is_new(storage, log_dir):
            return checkpoint, False
        problem = "the checkpoint is missing"
    except CheckpointError as error:
        problem = str(error)
    report.notes.append(f"{problem}; every segment is walked, what only the journal holds is lost")
    return substitute_checkpoint(storage, log_dir, settings), True


def _remove_leftovers(storage: Storage, log_dir: Path, topics: Sequence[TopicInfo]) -> None:
    """What was being written or deleted, and indexes of segments that are gone; foreign files are left alone."""
    for directory in (log_dir, log_dir / TABLES_DIR):
        for name in storage.names(directory):
            if name.endswith(TEMPORARY_SUFFIX):
                storage.remove(directory / name)
    for topic in topics:
        for index in range(topic.partitions):
            directory = log_dir / partition_dir_name(topic.name, index)
            names = storage.names(directory)
            for name in leftovers(names):
                storage.remove(directory / name)


def _tables(storage: Storage, log_dir: Path, checkpoint: Checkpoint | None, report: RecoveryReport) -> CommittedTables:
    tables = CommittedTables()
    for table, name in (checkpoint.tables if checkpoint else {}).items():
        try:
            tables.load(storage, log_dir / TABLES_DIR, {table: name}, checkpoint.table_bytes if checkpoint else None)
        except (SnapshotError, FileNotFoundError) as error:
            report.notes.append(f"state table {table!r} is lost: {error}")
            continue
        wanted = checkpoint.table_bytes.get(table, 0) if checkpoint else 0
        if tables.snapshot_bytes[table] < wanted:
            report.notes.append(f"state table {table!r} is older than it should be: the end of {name} is damaged")
    return tables


def _continue_past_windows(
    partitions: Sequence[RecoveredPartition], tables: CommittedTables, report: RecoveryReport
) -> None:
    """Never use an offset again that a closed window holds, should its records be lost."""
    newest = last_windows(tables.decoded().get(WINDOWS_TABLE, {}))
    for files in (partition.files for partition in partitions):
        window = newest.get(files.topic.topic_id)
        seen = 0 if window is None else window.offsets.get(files.partition, (0, 0))[1]
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
