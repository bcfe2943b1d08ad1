"""Walking a segment from its first byte: every whole batch, and every stretch of bytes that is none.

Nothing is trusted but what proves itself: a batch is whole when its CRC is right. Behind damage the walk goes on at the
next whole batch. Memory is bounded by the largest whole batch; a length field that lies is found by its CRC, which is
computed in pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import google_crc32c

from commitlog.batch import CRC_STARTS_AT, HEADER_BYTES, BatchHeader, CorruptBatchError, parse_header
from commitlog.resync import next_batch_after
from commitlog.storage import StorageFile

_PIECE_BYTES: Final = 4 << 20
MAX_OFFSET: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class WholeBatch:
    """A batch with the right CRC, at a byte of the file."""

    position: int
    header: BatchHeader
    data: bytes

    @property
    def end(self) -> int:
        """The byte after it."""
        return self.position + self.header.size_bytes


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes from `position` to `end` that hold no whole batch. `header` is what they claim, where that is a header."""

    position: int
    end: int
    header: BatchHeader | None


def walk(file: StorageFile, *, size: int, first_offset: int, high: int = MAX_OFFSET) -> Iterator[WholeBatch | Stretch]:
    """Everything in the first `size` bytes, in order; ends early once the batch that reaches `high` was seen.

    What is behind `high` is still being written. Raises OSError.
    """
    position, following = 0, first_offset
    while position < size and following < high:
        header = _header(file, position)
        whole = _whole(file, position, header, size)
        if header is not None and whole is not None:
            yield WholeBatch(position, header, whole)
            position += header.size_bytes
            count = header.last_offset - header.base_offset + 1
            # The base offset is outside the CRC: one beyond what can be there yet does not end the walk.
            following = header.last_offset + 1 if header.last_offset < high else following + count
            continue
        end = _end_of_stretch(file, position, header, size, first_offset)
        yield Stretch(position, end, header)
        position = end


def _header(file: StorageFile, position: int) -> BatchHeader | None:
    try:
        return parse_header(file.read(HEADER_BYTES, position))
    except CorruptBatchError:
        return None


def _whole(file: StorageFile, position: int, header: BatchHeader | None, size: int) -> bytes | None:
    """The batch's bytes if its CRC is right."""
    if header is None or position + header.size_bytes > size:
        return None
    if header.size_bytes <= _PIECE_BYTES:
        data = file.read(header.size_bytes, position)
        return data if google_crc32c.value(data[CRC_STARTS_AT:]) == header.crc else None
    crc, at, end = 0, position + CRC_STARTS_AT, position + header.size_bytes
    while at < end:
        piece = file.read(min(_PIECE_BYTES, end - at), at)
        if not piece:
            return None
        crc = google_crc32c.extend(crc, piece)
        at += len(piece)
    return file.read(header.size_bytes, position) if crc == header.crc else None


def _end_of_stretch(file: StorageFile, position: int, header: BatchHeader | None, size: int, first_offset: int) -> int:
    """Where the batch ends if its length is right, which what follows proves; else where the next whole batch is."""
    if header is not None:
        end = position + header.size_bytes
        if end == size or (end < size and _whole(file, end, _header(file, end), size) is not None):
            return end
    found = next_batch_after(file, position, first_offset, MAX_OFFSET)
    return size if found is None or found >= size else found
