"""Finding journal entries behind a damaged one.

Reading a journal ends at the first entry that is not right, which is where a crash left it. When whole entries of the
same journal with later sequences follow, it was no crash: an entry in the middle is damaged. Entries are found by the
journal's id, eight random bytes that stand in each header, and counted only when their CRC is right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import google_crc32c

from commitlog.journal import ENTRY_HEADER
from commitlog.storage import StorageFile

_ID_AT: Final = 8  # in an entry's header; what the CRC covers starts there
_ID_BYTES: Final = 8
_STEP_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class LaterEntries:
    """Whole entries of a journal from a sequence on: how many, the first and the last sequence."""

    count: int
    first: int
    last: int


def later_entries(file: StorageFile, size: int, journal_id: int, sequence: int) -> LaterEntries | None:
    """The whole entries with at least this sequence anywhere in the file; None where there are none."""
    wanted = journal_id.to_bytes(_ID_BYTES, "big")
    count, first, last = 0, 0, 0
    for start in range(0, size, _STEP_BYTES):
        data = file.read(min(_STEP_BYTES + _ID_BYTES, size - start), start)
        at = data.find(wanted)
        while 0 <= at < _STEP_BYTES:
            number = _sequence_of_whole(file, start + at - _ID_AT, size, sequence)
            if number is not None:
                first, last = min(first or number, number), max(last, number)
                count += 1
            at = data.find(wanted, at + 1)
    return LaterEntries(count, first, last) if count else None


def _sequence_of_whole(file: StorageFile, place: int, size: int, at_least: int) -> int | None:
    header = file.read(ENTRY_HEADER.size, place) if place >= 0 else b""
    if len(header) < ENTRY_HEADER.size:
        return None
    length, crc, _, sequence = ENTRY_HEADER.unpack(header)
    if sequence < at_least or not length or place + ENTRY_HEADER.size + length > size:
        return None  # of a lap before, or the mark at the end of a lap, which holds nothing
    body = file.read(length, place + ENTRY_HEADER.size)
    whole: bool = len(body) == length and google_crc32c.value(header[_ID_AT:] + body) == crc
    return int(sequence) if whole else None
