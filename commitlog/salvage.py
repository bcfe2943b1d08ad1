"""Starting without a checkpoint: it is damaged, or gone, and the log is not new.

What it said is found again where it can be: every segment is walked, so offsets, newest timestamp and leader epoch come
from the batches themselves; each state table is taken from its newest snapshot, which is the one that the checkpoint
named or a newer one that was still to be named. What the journal holds beyond the segments cannot be found, since only
the checkpoint says where it begins: that is reported.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from commitlog.checkpoint import Checkpoint
from commitlog.settings import LogSettings
from commitlog.storage import Storage, parse_partition_dir_name
from commitlog.tables import TABLES_DIR, newest_snapshots, snapshot_sequence


def is_new(storage: Storage, log_dir: Path) -> bool:
    """Whether there is nothing of a log: the first checkpoint is written before the first topic or table."""
    return not newest_snapshots(storage, log_dir / TABLES_DIR) and not any(
        map(parse_partition_dir_name, storage.names(log_dir))
    )


def substitute_checkpoint(storage: Storage, log_dir: Path, settings: LogSettings) -> Checkpoint:
    """A checkpoint that knows the table snapshots and nothing else; no journal entry matches it."""
    snapshots = newest_snapshots(storage, log_dir / TABLES_DIR)
    return Checkpoint(
        journal_id=secrets.randbits(64),
        journal_size=settings.journal_size_bytes,
        journal_position=0,
        next_sequence=1 + max((snapshot_sequence(name) or 0 for name in snapshots.values()), default=0),
        leader_epoch=0,
        last_timestamp_ms=0,
        clean=False,
        partitions=[],
        tables=dict(snapshots),
    )
