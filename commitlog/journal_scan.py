"""Reading the journal after an unclean end, through damage.

The journal ends at the first entry that is not right; that is where the process died. Or a disk has damaged an entry
in the middle, and acknowledged ones follow. Only a search tells the two apart: entries of this journal carry its random
id, so the rest of the ring is searched for the id once, at the speed of a byte search. That is bounded by the journal's
size, and not done after a clean stop.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from commitlog.journal import EntryHeader, JournalEntry, header_at, read_entries
from commitlog.storage import StorageFile

_ID_AT: Final = 8
_STEP_BYTES: Final = 1 << 20  # one look


def entries_through_damage(
    file: StorageFile, *, size: int, journal_id: int, sequence: int, position: int
) -> Iterator[JournalEntry]:
    """Entries from a checkpoint's position on, in order; where sequences are missing, entries were damaged.

    `position` is logical, as in the checkpoint: nothing later than one lap behind it belongs to it.
    """
    end = position + size
    found: tuple[int, int] | None = (position, sequence)
    while found is not None:
        position, sequence = found
        for entry in read_entries(file, size=size, journal_id=journal_id, sequence=sequence, position=position):
            position, sequence = entry.end, entry.sequence + 1
            yield entry
        found = _next_entry(file, size, journal_id, sequence, position + 1, end)


def _next_entry(
    file: StorageFile, size: int, journal_id: int, sequence: int, position: int, end: int
) -> tuple[int, int] | None:
    """Logical position and sequence of the first valid entry after `position` that is not of an older lap."""
    needle = journal_id.to_bytes(8, "big")
    while position < end:
        place = position % size
        step = min(_STEP_BYTES, size - place, end - position)
        data = file.read(step + len(needle) + _ID_AT, place) if place + step < size else file.read(step, place)
        at = data.find(needle, _ID_AT)
        while at >= 0:
            start = at - _ID_AT
            if start < step and (found := _valid(file, size, place + start, journal_id, sequence)) is not None:
                return position + start, found.sequence
            at = data.find(needle, at + 1)
        position += step
    return None


def _valid(file: StorageFile, size: int, place: int, journal_id: int, sequence: int) -> EntryHeader | None:
    """The header of a whole entry of this lap at a place; the mark at a lap's end counts as one."""
    header = header_at(file, size, place)
    if header is None or header.journal_id != journal_id or header.sequence < sequence:
        return None
    return header if header.body(file, place) is not None else None
