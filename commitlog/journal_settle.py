"""Before the journal is replayed: what is read from it is made to stay.

A process that was killed between the write and the sync of its last entry leaves an entry that can be read and that a
power cut may still take. Were it replayed as it is, its records could reach the disk in segments while its table
changes go with the journal: half a commit. So the last entry is written again where it stands and synced first; those
before it were synced by the process that wrote them. (Written again, because a sync that failed has marked its pages
as clean: the next one says nothing of them.)
"""

from __future__ import annotations

from pathlib import Path

from commitlog.checkpoint import Checkpoint
from commitlog.journal import ENTRY_HEADER, read_entries
from commitlog.storage import Storage


def settle_journal(storage: Storage, path: Path, checkpoint: Checkpoint | None) -> None:
    """Make the journal's last entry after the checkpoint durable; nothing where there is none. Raises OSError."""
    if checkpoint is None:
        return
    try:
        file = storage.open(path)
    except FileNotFoundError:
        return
    size = checkpoint.journal_size
    before = end = checkpoint.journal_position
    try:
        for entry in read_entries(
            file, size=size, journal_id=checkpoint.journal_id, sequence=checkpoint.next_sequence, position=end
        ):
            before, end = end, entry.end
        if end == before:
            return
        for place, length in _places(before, end, size):
            file.write(file.read(length, place), place)
        file.sync()
    finally:
        file.close()


def _places(before: int, end: int, size: int) -> list[tuple[int, int]]:
    """Where in the ring (place, length) stands what was written between two logical positions, in one entry."""
    place = before % size
    if before // size == (end - 1) // size:
        return [(place, end - before)]
    return [(place, min(ENTRY_HEADER.size, size - place)), (0, (end - 1) % size + 1)]  # the lap's end mark, the entry
