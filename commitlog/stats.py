"""What the log counts about itself: once per commit, never per message."""

from __future__ import annotations

from collections import Counter

from commitlog.batch_errors import BATCH_ERROR_CODES
from commitlog.durability import Unsynced
from core.histogram import Histogram

ACK_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
SYNC_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class LogStats:
    """Counters of one process's life. Written by the loop, except where a method says the journal thread."""

    def __init__(self) -> None:
        self.commits = 0
        self.acked_records = 0
        self.unsynced = Unsynced()
        self.syncs = 0
        self.journal_waits = 0
        self.batches: Counter[str] = Counter(dict.fromkeys(("appended", "duplicate", *BATCH_ERROR_CODES), 0))
        """Batches from outside by what became of them: `appended`, `duplicate`, or the error code of the refusal."""
        self.ack_latency_s = Histogram(ACK_BUCKETS_S)
        self.sync_s = Histogram(SYNC_BUCKETS_S)

    def acknowledged(self, records: int, latency_s: float) -> None:
        """A commit's waiters were told. Each of its records counts with the latency of the oldest: an upper bound."""
        self.acked_records += records
        self.ack_latency_s.observe(latency_s, records)

    def commit_written(self, duration_s: float, *, synced: bool) -> None:
        """Journal thread: an entry was written, and synced unless its level is weaker."""
        self.commits += 1
        if synced:
            self.synced(duration_s)

    def synced(self, duration_s: float) -> None:
        """Journal thread: the journal was synced, with an entry or for those written before."""
        self.syncs += 1
        self.sync_s.observe(duration_s, 1)

    @property
    def unsynced_records(self) -> int:
        """Records acknowledged but not yet durable: always 0 where every level is `fsync`."""
        return self.unsynced.records
