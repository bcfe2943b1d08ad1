"""What the journal's thread does with a commit: one entry, one sync."""

from __future__ import annotations

import time

from commitlog.commit import Commit
from commitlog.durability import Durability
from commitlog.journal import Journal, JournalBatch, encode_body
from commitlog.stats import LogStats


class CommitWriter:
    """Used in the journal thread only."""

    def __init__(self, journal: Journal, stats: LogStats, leader_epoch: int) -> None:
        self._journal = journal
        self._stats = stats
        self._leader_epoch = leader_epoch

    def write(self, commit: Commit) -> None:
        """One entry, and one sync unless the commit does without. Raises OSError, and the log has failed."""
        batches = [
            JournalBatch(taken.partition.topic_id, taken.partition.index, taken.build(self._leader_epoch))
            for taken in commit.batches
        ]
        body = encode_body(batches, commit.changes)
        if not self._journal.fits(len(body)):
            self._stats.journal_waits += 1
            self._journal.wait_for_room(len(body))
        commit.size_bytes = len(body)
        synced = commit.durability is Durability.FSYNC
        started_s = time.perf_counter()
        self._journal.write(body, sync=synced)
        self._stats.commit_written(time.perf_counter() - started_s, synced=synced)

    def sync(self) -> None:
        """Sync what commits have left unsynced. Raises OSError, and the log has failed."""
        started_s = time.perf_counter()
        self._journal.sync()
        self._stats.synced(time.perf_counter() - started_s)
