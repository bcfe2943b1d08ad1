"""Segments are written behind the journal.

One thread owns every segment file, the committed copy of the state tables, the checkpoint and the watermark map. It is
given *flushes* in commit order: the records and table changes of all commits since the last flush, the last of which
is in the journal, durable at its level. After a flush the records are readable; after a checkpoint the journal's space
is free again.

Numbered steps of a flush, each of which a crash may follow without harm, because the journal still holds everything:
1. write each partition's batch to its active segment; 2. apply the table changes; 3. publish watermarks: before any
window, so that nobody sees one whose records he may not read yet; 4. for each closed window, sync and close the topic's
segments; 5. when it is time (or a window closed), checkpoint: sync segments, write changed tables, replace the
checkpoint file, release journal space, and tell readers of it; 6. ring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from commitlog.base import ClosedWindow, TopicInfo
from commitlog.checkpoint import Checkpoint, write_checkpoint
from commitlog.deletion import Deletion, Graveyard, plan_deletion
from commitlog.doorbell import Doorbell
from commitlog.files import PartitionFiles
from commitlog.holdings import PartitionHolding, partition_holding
from commitlog.journal import Change, Journal
from commitlog.metadata import write_metadata
from commitlog.partition import TakenBatch
from commitlog.recovery import Recovered
from commitlog.settings import LogSettings
from commitlog.storage import Storage, partition_dir_name
from commitlog.tables import TABLES_DIR
from commitlog.version import note_unsynced
from commitlog.watermarks import WatermarkWriter
from core.clock import Clock


@dataclass(slots=True, kw_only=True)
class Flush:
    """What became durable since the last flush; `position` and `next_sequence` are the journal's after it."""

    batches: Sequence[TakenBatch]
    changes: Sequence[Change]
    windows: Sequence[ClosedWindow]
    last_timestamp_ms: int
    position: int = 0
    next_sequence: int = 0

    def reaches(self, journal: Journal) -> None:
        """Note where the journal stands: called when the last commit of the flush is durable and none is in flight."""
        self.position, self.next_sequence = journal.head, journal.next_sequence


class SegmentWriter:
    """See the module. Every method runs in the segment thread."""

    def __init__(
        self,
        storage: Storage,
        log_dir: Path,
        settings: LogSettings,
        clock: Clock,
        *,
        journal: Journal,
        recovered: Recovered,
        marks: WatermarkWriter,
        doorbell: Doorbell,
    ) -> None:
        self._storage = storage
        self._log_dir = log_dir
        self._settings = settings
        self._clock = clock
        self._journal = journal
        self._tables = recovered.tables
        self._files = {(bytes.fromhex(f.topic.topic_id), f.partition): f for f in recovered.files}
        self._marks = marks
        self._doorbell = doorbell
        self._leader_epoch = recovered.leader_epoch
        self._position = journal.head
        self._next_sequence = journal.next_sequence
        self._last_timestamp_ms = recovered.last_timestamp_ms
        self._checkpoint_position = journal.head
        self._checkpoint_at_ms = clock.monotonic_ms()
        self._behind_checkpoint = False
        self._graveyard = Graveyard(storage)
        self._mender = recovered.mender
        self._unsynced_records = 0
        self.bytes_written = 0
        self.checkpoints = 0

    @property
    def deletion_failures(self) -> int:
        """Attempts since the start to take a deleted segment's files away that failed."""
        return self._graveyard.failures

    def publish_all(self) -> None:
        """Make every partition known to readers."""
        self._marks.publish([(f.topic, f.partition, f.watermark()) for f in self._files.values()], checkpoint=True)
        self._doorbell.ring()

    def create_topic(self, topic: TopicInfo) -> None:
        """Make the directories of a topic durably, and readable at once."""
        topic_id = bytes.fromhex(topic.topic_id)
        made: list[PartitionFiles] = []
        # The last partition first: recovery counts partitions by the highest, and completes a topic half made.
        for index in reversed(range(topic.partitions)):
            made.append(make_partition(self._storage, self._log_dir, topic, index, self._settings.segment_size_bytes))
            if len(made) == 1:
                self._storage.sync_dir(self._log_dir)
        self._storage.sync_dir(self._log_dir)
        for files in reversed(made):
            self._files[(topic_id, files.partition)] = files
        self.publish_all()

    def flush(self, flush: Flush) -> None:
        """Write what was committed behind the journal. Raises OSError."""
        touched = [self._write(taken) for taken in flush.batches]
        self._tables.apply(flush.changes)
        self._position, self._next_sequence = flush.position, flush.next_sequence
        self._last_timestamp_ms = flush.last_timestamp_ms
        self._behind_checkpoint = True
        self._marks.publish([(f.topic, f.partition, f.watermark()) for f in touched])
        for window in flush.windows:
            for partition in window.offsets:
                self._files[(bytes.fromhex(window.topic_id), partition)].close_segment()
        if self._checkpoint_due(bool(flush.windows)):
            self.checkpoint()
            self._marks.publish([], checkpoint=True)
        self._doorbell.ring()

    def checkpoint_if_due(self) -> None:
        """Checkpoint what has been lying for the interval, and tidy up; called twice a second."""
        self._graveyard.sweep()
        self._mender.step()
        if self._behind_checkpoint and self._checkpoint_due(False):
            self.checkpoint()
            self._marks.publish([], checkpoint=True)

    def note_unsynced(self) -> None:
        """Checkpoint, from now on with the note that readers may see what is not durable yet. Raises OSError."""
        self._unsynced_records = self._settings.unsynced_records
        note_unsynced(self._storage, self._log_dir, self._unsynced_records)
        self.checkpoint()
        self._marks.publish([], checkpoint=True)

    def checkpoint(self, *, clean: bool = False) -> None:
        """Make all that was flushed durable where it stands, and release the journal up to there. Raises OSError."""
        for files in self._files.values():
            files.sync()
        tables_dir = self._log_dir / TABLES_DIR
        before = set(self._tables.snapshots.values())
        self._tables.write_snapshots(self._storage, tables_dir, self._next_sequence)
        write_checkpoint(
            self._storage,
            self._log_dir,
            Checkpoint(
                journal_id=self._journal.journal_id,
                journal_size=self._settings.journal_size_bytes,
                journal_position=self._position,
                next_sequence=self._next_sequence,
                leader_epoch=self._leader_epoch,
                last_timestamp_ms=self._last_timestamp_ms,
                clean=clean,
                partitions=[files.point() for files in self._files.values()],
                tables=dict(self._tables.snapshots),
                unsynced_records=self._unsynced_records,
                table_bytes=dict(self._tables.snapshot_bytes),
            ),
        )
        for name in sorted(before - set(self._tables.snapshots.values())):
            self._storage.remove(tables_dir / name)
        self._journal.release(self._position)
        self._checkpoint_position = self._position
        self._checkpoint_at_ms = self._clock.monotonic_ms()
        self._behind_checkpoint = False
        self.checkpoints += 1

    def delete_segments(self, topic: TopicInfo, before: Mapping[int, int]) -> Mapping[int, int]:
        """Delete the segments that end before an offset, by partition (see `deletion`); returns the log starts.

        One checkpoint, however many partitions. Raises OSError.
        """
        deletions: list[Deletion] = []
        chosen = [self._files[(bytes.fromhex(topic.topic_id), partition)] for partition in before]
        for files in chosen:
            directory = self._log_dir / partition_dir_name(topic.name, files.partition)
            deletion = plan_deletion(self._storage, directory, before[files.partition])
            if deletion is not None:
                files.log_start = max(files.log_start, deletion.log_start)
                deletions.append(deletion)
        if deletions:
            self.checkpoint()
            self._marks.publish([(topic, files.partition, files.watermark()) for files in chosen], checkpoint=True)
            self._doorbell.ring()
        for deletion in deletions:
            self._graveyard.bury(deletion)
        return {files.partition: files.log_start for files in chosen}

    def holdings(self, topic: TopicInfo) -> Sequence[PartitionHolding]:
        """What is on disk of each partition of a topic. Raises OSError."""
        topic_id = bytes.fromhex(topic.topic_id)
        found = []
        for partition in range(topic.partitions):
            files = self._files[topic_id, partition]
            directory = self._log_dir / partition_dir_name(topic.name, partition)
            found.append(
                partition_holding(
                    self._storage,
                    directory,
                    partition=partition,
                    log_start=files.log_start,
                    next_offset=files.next_offset,
                )
            )
        return found

    def close(self) -> None:
        """Checkpoint as closed in order, and let go of everything."""
        self._graveyard.sweep()
        self.checkpoint(clean=True)
        self.abandon()

    def abandon(self) -> None:
        """Let go of everything as it is: the way out after a failure."""
        for files in self._files.values():
            files.close()
        self._marks.close()
        self._doorbell.close()

    def _write(self, taken: TakenBatch) -> PartitionFiles:
        files = self._files[(taken.partition.topic_id, taken.partition.index)]
        batch = taken.build(self._leader_epoch)
        max_timestamp_ms = int.from_bytes(batch[35:43], "big")
        files.append(batch, taken.base_offset, taken.count, max_timestamp_ms)
        self.bytes_written += len(batch)
        return files

    def _checkpoint_due(self, window_closed: bool) -> bool:
        return (
            window_closed
            or self._position - self._checkpoint_position >= self._settings.checkpoint_bytes
            or self._clock.monotonic_ms() - self._checkpoint_at_ms >= self._settings.checkpoint_interval_ms
        )


def make_partition(
    storage: Storage, log_dir: Path, topic: TopicInfo, index: int, segment_size_bytes: int
) -> PartitionFiles:
    """A new, empty partition with its directory and metadata on disk (the caller syncs `log_dir`)."""
    directory = log_dir / partition_dir_name(topic.name, index)
    storage.make_dir(directory)
    write_metadata(storage, directory, bytes.fromhex(topic.topic_id))
    return PartitionFiles(
        storage,
        directory,
        topic,
        index,
        log_start=0,
        next_offset=0,
        active=None,
        segment_size_bytes=segment_size_bytes,
    )
