"""Before the journal is replayed: what is read from it is made to stay.

A process that was killed between the write and the sync of its last entry leaves an entry that can be read and that a
power cut may still take. Were it replayed as it is, its records could reach the disk in segments while its table
changes go with the journal: half a commit. So the last entry is written again where it stands and synced first; those
before it were synced by the process that wrote them. (Written again, because a sync that failed has marked its pages
as clean: the next one says nothing of them.) Where the checkpoint says that durabilities below `fsync` were in use, any
entry after it may be such a one, and all of them are written again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from commitlog.checkpoint import Checkpoint
from commitlog.journal_scan import entries_through_damage
from commitlog.storage import Storage

_REWRITE_BYTES: Final = 1 << 20  # at a time


def settle_journal(storage: Storage, path: Path, checkpoint: Checkpoint | None) -> None:
    """Make what `replay` will read of the journal durable; nothing where there is nothing. Raises OSError."""
    if checkpoint is None or checkpoint.clean:
        return
    try:
        file = storage.open(path)
    except FileNotFoundError:
        return
    size = checkpoint.journal_size
    before = end = start = checkpoint.journal_position
    try:
        for entry in entries_through_damage(
            file, size=size, journal_id=checkpoint.journal_id, sequence=checkpoint.next_sequence, position=start
        ):
            before, end = end, entry.end
        if end == start:
            return
        for place, length in _places(start if checkpoint.unsynced_records else before, end, size):
            file.write(file.read(length, place), place)
        file.sync()
    finally:
        file.close()


def _places(before: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    """Where in the ring (place, length) stands what lies between two logical positions."""
    while before < end:
        place = before % size
        length = min(_REWRITE_BYTES, size - place, end - before)
        yield place, length
        before += length
