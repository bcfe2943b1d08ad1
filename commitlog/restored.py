"""Going on from a copy of the log that may be older than the log was.

After a restore from a backup nobody can tell which offsets were given out since the backup was made; readers elsewhere,
exported files and sinks may have seen them. So every partition goes on far beyond them, as a reported stretch that was
left out, and with a new leader epoch. A copy is recognized by the journal's inode (see `version`); an image of a whole
file system keeps inodes, so whoever restores one makes a file `<data>/log/restored` before the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from commitlog.files import PartitionFiles
from commitlog.gaps import LEFT_OUT
from commitlog.report import Cut, RecoveryReport
from commitlog.storage import Storage
from commitlog.version import is_copy

RESTORED_NAME: Final = "restored"
OFFSETS_LEFT_OUT: Final = 1 << 36
"""A week at 100,000 records a second into one partition; below `resync.NO_HIGH` there is room for 4,000 of them."""


def is_restored(storage: Storage, log_dir: Path, journal: Path) -> bool:
    """Whether the log may be an older copy of itself."""
    return RESTORED_NAME in storage.names(log_dir) or is_copy(storage, log_dir, journal)


def leave_out(partitions: Sequence[PartitionFiles], report: RecoveryReport) -> None:
    """Let every partition go on beyond whatever may have been given out since the copy was made."""
    reason = f"{LEFT_OUT}: the log was copied or restored, and offsets may have been given out since"
    report.notes.append(f"every partition goes on {OFFSETS_LEFT_OUT} offsets further; {reason}")
    for files in partitions:
        first, files.next_offset = files.next_offset, files.next_offset + OFFSETS_LEFT_OUT
        report.cuts.append(
            Cut(topic=files.topic.name, partition=files.partition, first=first, next=files.next_offset, reason=reason)
        )


def restored_is_told(storage: Storage, log_dir: Path) -> None:
    """Once the checkpoint has the new offsets: the mark has done its work. Raises OSError."""
    if RESTORED_NAME in storage.names(log_dir):
        storage.remove(log_dir / RESTORED_NAME)
        storage.sync_dir(log_dir)
