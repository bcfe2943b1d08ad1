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
from functools import partial
from pathlib import Path

from commitlog.base import TopicInfo
from commitlog.checkpoint import Checkpoint, PartitionPoint, write_checkpoint
from commitlog.files import PartitionFiles
from commitlog.index_mender import IndexMender
from commitlog.journal import Journal, preallocate
from commitlog.journal_settle import settle_journal
from commitlog.partition_recovery import RecoveredPartition, append_behind, recover_partition, skip_claimed
from commitlog.pass_over import continue_past_windows, pass_over
from commitlog.producers import PRODUCERS_TABLE
from commitlog.producers_restored import restore_producers
from commitlog.replay import JOURNAL_NAME, replay
from commitlog.report import RecoveryReport, keep_report
from commitlog.restored import is_restored, leave_out, restored_is_told
from commitlog.salvage import StartingPoint, believe_earlier_reports, starting_point
from commitlog.segment import leftovers
from commitlog.settings import LogSettings
from commitlog.storage import TEMPORARY_SUFFIX, Storage, partition_dir_name
from commitlog.tables import TABLES_DIR, CommittedTables, remove_unnamed_snapshots
from commitlog.tables_recovery import load_tables
from commitlog.topic_dirs import Points, find_topics
from commitlog.version import check_version, write_meta
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
    mender: IndexMender


def recover(storage: Storage, log_dir: Path, settings: LogSettings) -> Recovered:
    """Bring the log back. Raises OSError when the disk itself refuses, DataDirError for what is newer than this."""
    check_version(storage, log_dir)
    return _Recovery(storage, log_dir, settings).run()


class _Recovery:
    """One recovery while it runs; `run` is the list of its passes."""

    def __init__(self, storage: Storage, log_dir: Path, settings: LogSettings) -> None:
        self._storage = storage
        self._log_dir = log_dir
        self._settings = settings
        self._report = RecoveryReport()
        self._started_s = time.monotonic()

    def run(self) -> Recovered:
        """The numbered passes."""
        self._storage.make_dir(self._log_dir / TABLES_DIR)
        self._storage.sync_dir(self._log_dir.parent)
        # 1. The checkpoint: from where to look.
        start = starting_point(self._storage, self._log_dir, self._settings, self._report)
        # 2. Which topics there are, and leftovers of writes that a crash interrupted.
        topics = self._find_topics(start.checkpoint)
        # 3. State tables as of the checkpoint.
        tables, lost = load_tables(self._storage, self._log_dir, start, self._report)
        # 4. Each partition's files up to their valid end, and what only they can say of a table that is lost.
        partitions = self._partitions(start, topics)
        if PRODUCERS_TABLE in lost:
            restore_producers(self._storage, self._log_dir, [one.files for one in partitions], tables, self._report)
        newest_ms = max(
            [start.checkpoint.last_timestamp_ms if start.checkpoint else 0, *(p.newest_ms for p in partitions)]
        )
        # 5. What the journal holds beyond that: acknowledged, but not yet in segments.
        next_sequence, newest_replayed_ms = self._replay(start, partitions, tables)
        # 6. Offsets that may have meant something already are not used again.
        files = [partition.files for partition in partitions]
        self._continue_past_what_was_seen(start, files, tables)
        # 7. Make it durable where it stands now.
        for one in files:
            one.sync()
        # 8. Which indexes of closed segments have to be made again, later: nobody needs them to start.
        mender = IndexMender(self._storage, self._log_dir, files, suspicious=not self._is_clean(start.checkpoint))
        mender.look(self._report)
        return self._recovered(
            start.checkpoint, partitions, tables, next_sequence, max(newest_ms, newest_replayed_ms), mender
        )

    def _find_topics(self, checkpoint: Checkpoint | None) -> list[TopicInfo]:
        """Pass 2.

        The checkpoint just read may be one that a killed process renamed and did not live to sync: what only the one
        before it needs goes after that one can no longer come back.
        """
        self._storage.sync_dir(self._log_dir)
        points = _points(checkpoint)
        topics = find_topics(self._storage, self._log_dir, self._settings, points, self._report)
        _remove_leftovers(self._storage, self._log_dir, topics)
        named = list(checkpoint.tables.values()) if checkpoint else []
        remove_unnamed_snapshots(self._storage, self._log_dir, named)
        return topics

    def _partitions(self, start: StartingPoint, topics: Sequence[TopicInfo]) -> list[RecoveredPartition]:
        """Pass 4."""
        points = _points(start.checkpoint)
        return [
            recover_partition(
                self._storage,
                self._log_dir,
                self._settings,
                topic,
                index,
                points.get((topic.name, index)) or (None if start.salvaged else _made_since(topic, index)),
                self._report,
                start.journal_offsets,
            )
            for topic in topics
            for index in range(topic.partitions)
        ]

    def _replay(
        self, start: StartingPoint, partitions: Sequence[RecoveredPartition], tables: CommittedTables
    ) -> tuple[int, int]:
        """Pass 5; returns the next sequence and the newest timestamp replayed."""
        settle_journal(self._storage, self._log_dir / JOURNAL_NAME, start.checkpoint)
        replayed = replay(
            self._storage,
            self._log_dir,
            start.checkpoint,
            partitions,
            tables,
            self._report,
            changes_from=start.changes_from,
        )
        for partition in partitions:
            append_behind(partition, self._report)
            if start.salvaged:
                skip_claimed(partition, self._report)
        return replayed

    def _continue_past_what_was_seen(
        self, start: StartingPoint, files: Sequence[PartitionFiles], tables: CommittedTables
    ) -> None:
        """Pass 6: what windows hold; after a restore, and below `fsync`, what readers may have seen."""
        if start.salvaged:
            believe_earlier_reports(self._storage, self._log_dir, files, self._report)
        continue_past_windows(files, tables, self._report)
        if is_restored(self._storage, self._log_dir, self._log_dir / JOURNAL_NAME):
            leave_out(files, self._report)
        if start.checkpoint is not None and not start.checkpoint.clean:
            pass_over(start.checkpoint.unsynced_records, files, self._report)

    def _is_clean(self, checkpoint: Checkpoint | None) -> bool:
        report = self._report
        return checkpoint is None or (
            checkpoint.clean and not report.entries_replayed and not report.cuts and not report.bytes_cut
        )

    def _recovered(
        self,
        checkpoint: Checkpoint | None,
        partitions: Sequence[RecoveredPartition],
        tables: CommittedTables,
        next_sequence: int,
        newest_ms: int,
        mender: IndexMender,
    ) -> Recovered:
        self._report.clean = self._is_clean(checkpoint)
        self._report.duration_s = time.monotonic() - self._started_s
        epoch = max([checkpoint.leader_epoch if checkpoint else 0, *(p.leader_epoch for p in partitions)])
        return Recovered(
            files=[partition.files for partition in partitions],
            tables=tables,
            leader_epoch=epoch if self._report.clean else epoch + 1,
            last_timestamp_ms=newest_ms,
            next_sequence=next_sequence,
            journal_id=secrets.randbits(64),
            report=self._report,
            mender=mender,
        )


def start_journal(
    storage: Storage, log_dir: Path, settings: LogSettings, recovered: Recovered, released: Latch | None = None
) -> Journal:
    """Move the checkpoint past everything recovered, then open the journal anew under the new id.

    In this order: should a crash come between, the old journal is no longer needed. The report comes before the
    checkpoint, behind which nobody can tell any more what was missing. What is noted in `meta.properties` changes after
    both, and before the file may be cut to another size: should the checkpoint be lost, what is noted and what stands
    in report and journal belong together. Raises OSError.
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
    path, size = log_dir / JOURNAL_NAME, settings.journal_size_bytes
    note = partial(write_meta, storage, log_dir, journal_id=recovered.journal_id, leader_epoch=recovered.leader_epoch)
    note(journal_inode=storage.inode(path))
    file = preallocate(storage, path, size)
    note(journal_inode=storage.inode(path))
    restored_is_told(storage, log_dir)
    return Journal(
        file, size=size, journal_id=recovered.journal_id, sequence=recovered.next_sequence, released=released
    )


def _points(checkpoint: Checkpoint | None) -> Points:
    """What the checkpoint says of each partition."""
    return {(p.topic, p.partition): p for p in (checkpoint.partitions if checkpoint else ())}


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
