"""Reading the journal after an unclean end, through damage.

The journal ends at the first entry that is not right; that is where the process died. Or a disk has damaged an entry
in the middle, and acknowledged ones follow. Only a search tells the two apart: entries of this journal carry its random
id, so the rest of the ring is searched for the id once, at the speed of a byte search. That is bounded by the journal's
size, and not done after a clean stop.

Where the checkpoint is lost, nobody says where the entries begin that are still needed; but each has a sequence, and
what is not yet overwritten of older ones does no harm. `find_entries` looks for the oldest of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from commitlog.batch import parse_header
from commitlog.journal import EntryHeader, JournalBatch, JournalEntry, header_at, read_entries
from commitlog.storage import StorageFile

_ID_AT: Final = 8
_STEP_BYTES: Final = 1 << 20  # one look


def entries_through_damage(
    file: StorageFile, *, size: int, journal_id: int, sequence: int, position: int
) -> Iterator[JournalEntry]:
    """Entries from a checkpoint's position on, in order; where sequences are missing, entries were damaged.

    `position` is logical, as in the checkpoint: nothing later than one lap behind it belongs to it.
    """
    return _entries(file, size, journal_id, (position, sequence), position + size)


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalExtent:
    """Everything of one id that is left in the ring, from the oldest entry on.

    `position` is logical, within the first lap. From the entry `changes_from` to the last
    one that changes tables no sequence is missing.
    `offsets` has, for each (topic id, partition), the first offset of those up to the newest of which none is missing,
    and the one after the newest.
    """

    position: int
    sequence: int
    changes_from: int
    offsets: Mapping[tuple[bytes, int], tuple[int, int]]


def find_entries(file: StorageFile, *, size: int, journal_id: int) -> JournalExtent | None:
    """All that a ring holds of an id, whatever a checkpoint would have said; None: nothing. Raises OSError.

    A lap begins at the start of the file, so the newest entry is the last of those that ascend from there. The oldest
    is the first one behind it, or, in the first lap, the one that begins the file. Two passes over the file, at most.
    """
    newest = 0
    for entry in _entries_from(file, size, journal_id, 0):
        newest = entry.end
    first = _next_entry(file, size, journal_id, 0, newest, newest + size)
    if first is None:
        return None
    position, sequence = first
    changes_from = unbroken_from = expected = sequence
    offsets: dict[tuple[bytes, int], tuple[int, int]] = {}
    for entry in _entries(file, size, journal_id, first, position + size):
        unbroken_from = unbroken_from if entry.sequence == expected else entry.sequence
        expected = entry.sequence + 1
        changes_from = unbroken_from if entry.changes else changes_from
        for batch in entry.batches:
            _note_offsets(offsets, batch)
    return JournalExtent(
        position=position % size,
        sequence=sequence,
        changes_from=changes_from,
        offsets=offsets,
    )


def _note_offsets(offsets: dict[tuple[bytes, int], tuple[int, int]], batch: JournalBatch) -> None:
    header = parse_header(batch.data)
    if header is not None:
        at = (batch.topic_id, batch.partition)
        low, following = offsets.get(at, (header.base_offset, header.base_offset))
        offsets[at] = (low if header.base_offset == following else header.base_offset, header.last_offset + 1)


def _entries_from(file: StorageFile, size: int, journal_id: int, position: int) -> Iterator[JournalEntry]:
    """Entries in ascending order from the first one at or behind a position."""
    first = _next_entry(file, size, journal_id, 0, position, position + size)
    return iter(()) if first is None else _entries(file, size, journal_id, first, position + size)


def _entries(
    file: StorageFile, size: int, journal_id: int, found: tuple[int, int] | None, end: int
) -> Iterator[JournalEntry]:
    """Entries from a (position, sequence) on; behind one that is not right, the next that is, up to `end`."""
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
