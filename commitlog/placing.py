"""Where batches really are: base offsets and index entries are not covered by a CRC, so they are checked by neighbours.

A batch's base offset stands outside its CRC, because a log puts it in last. A flipped one still makes a plausible
header; that the batch before ends, and the one behind begins, exactly one batch apart shows which offset is right. An
index entry is right when the batch at its position ends at its offset.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

from commitlog.batch import BASE_OFFSET, HEADER_BYTES, BatchHeader, CorruptBatchError, parse_header
from commitlog.storage import StorageFile


def header_at(file: StorageFile, position: int) -> BatchHeader | None:
    """The header at a position; None at the end of the file, or where its bytes make no sense. Raises OSError."""
    try:
        return parse_header(file.read(HEADER_BYTES, position))
    except CorruptBatchError:
        return None


def placed_header(header: BatchHeader, expected: int, following: BatchHeader | None) -> BatchHeader | None:
    """The header of a batch that does not start where the one before ended (`expected`), as its neighbours prove it.

    The header itself where a gap stands before the batch; one with the expected offset where the batch fits there and
    nowhere else; None where it fits nowhere, so that either offset may be wrong.
    """
    if following is None:
        return header if header.base_offset > expected else None
    span = header.last_offset + 1 - header.base_offset
    if following.base_offset == expected + span:
        return replace(header, base_offset=expected, last_offset=expected + span - 1)
    return header if following.base_offset > header.last_offset else None


def placed_data(file: StorageFile, position: int, header: BatchHeader) -> bytes:
    """The bytes of a batch with the base offset that its header has here, whatever stands in the file."""
    data = file.read(header.size_bytes, position)
    base = BASE_OFFSET.pack(header.base_offset)
    return data if data.startswith(base) else base + data[BASE_OFFSET.size :]


def checked_position(file: StorageFile, base_offset: int, entries: Sequence[tuple[int, int]], offset: int) -> int:
    """From where walking batches finds the offset: by the last index entry at or below it that is true, else from 0."""
    found = bisect_right(entries, offset - base_offset, key=lambda entry: entry[0])
    while found:
        relative, position = entries[found - 1]
        header = header_at(file, position) if position >= 0 else None
        if header is not None and header.last_offset == base_offset + relative:
            return position
        found //= 2  # an index with one wrong entry may have many
    return 0
