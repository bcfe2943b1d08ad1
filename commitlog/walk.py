"""Walking a segment from batch to batch, through damage.

What does not start a whole batch with the right CRC and an offset that may stand there is damage; the walk goes on at
the next whole batch behind it. Recovery and the index rebuilding walk with this one function, so that they agree on
what is damaged and on the offsets that are lost with it. `log check` has a walk of its own (`check_walk`), to be
a second opinion.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from commitlog.batch import (
    BASE_OFFSET,
    BatchHeader,
    CorruptBatchError,
    RawBatch,
    check_crc,
    parse_header,
    records_of,
)
from commitlog.placing import placed_header
from commitlog.resync import NO_HIGH, next_batch_after
from commitlog.storage import StorageFile

_READ_AHEAD_BYTES: Final = 4 << 20  # a few batches of the largest usual size
_LOOK_BYTES: Final = 1 << 20  # of damage, searched for what its records still say
MAX_DEVICES: Final = 20  # named with one stretch of damage


@dataclass(frozen=True, slots=True)
class FoundBatch:
    """A whole batch, and where it stands.

    `moved`: the file says another base offset, which the neighbours prove wrong (it stands outside the CRC); the header
    here has the right one.
    """

    position: int
    header: BatchHeader
    moved: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """Bytes that are no batch, and the offsets that were or may have been in them: first <= offset < next.

    `next` is None when nothing whole follows in the file. `start_ms` and `end_ms` are the record timestamps of the
    neighbours, None where there is none. `claimed` is what stands in the place of the first header, if it can be one;
    `devices` are keys of records that can still be read in part, at most 20.
    """

    position: int
    size_bytes: int
    first: int
    next: int | None
    start_ms: int | None
    end_ms: int | None
    claimed: BatchHeader | None = None
    devices: tuple[str, ...] = ()


def walk(file: StorageFile, start: int, first_offset: int, high: int = NO_HIGH) -> Iterator[FoundBatch | Damage]:
    """Everything from byte `start` to the end of the file, in order.

    `first_offset` is the lowest offset that may stand at `start`, `high` is above every one. Raises OSError.
    """
    ahead = _ReadAhead(file)
    position, expected, newest_ms = start, first_offset, None
    while True:
        batch = ahead.placed(position, expected, high)
        if batch is not None:
            yield batch
            position += batch.header.size_bytes
            expected, newest_ms = batch.header.last_offset + 1, batch.header.max_timestamp_ms
            continue
        if not ahead.has(position):
            return
        found = next_batch_after(file, position, expected, high)
        following = None if found is None else ahead.batch_at(found)
        end = file.size() if found is None else found
        damaged = file.read(min(end - position, _LOOK_BYTES), position)
        yield Damage(
            position=position,
            size_bytes=end - position,
            first=expected,
            next=None if following is None else following.base_offset,
            start_ms=newest_ms,
            end_ms=None if following is None else following.first_timestamp_ms,
            claimed=claimed_header(damaged),
            devices=devices_in(damaged),
        )
        if found is None:
            return
        position = found
        if following is not None:
            expected = following.base_offset


def read_batch(file: StorageFile, found: FoundBatch) -> RawBatch:
    """The bytes of a batch that a walk found, with the right base offset. Raises OSError."""
    data = file.read(found.header.size_bytes, found.position)
    return RawBatch(found.header, BASE_OFFSET.pack(found.header.base_offset) + data[BASE_OFFSET.size :])


def claimed_header(damaged: bytes) -> BatchHeader | None:
    """The header that damaged bytes start with, if they can be one."""
    try:
        return parse_header(damaged)
    except CorruptBatchError:
        return None


def devices_in(damaged: bytes) -> tuple[str, ...]:
    """Keys of the records that a damaged batch still yields; what they say is likely, not certain."""
    header = claimed_header(damaged)
    if header is None or len(damaged) < header.size_bytes:
        return ()
    keys: dict[str, None] = {}
    try:
        for record in records_of(damaged[: header.size_bytes], header):
            if record.key:
                keys.setdefault(record.key.decode(errors="replace"))
            if len(keys) == MAX_DEVICES:
                break
    except CorruptBatchError:
        pass  # as far as it could be read
    return tuple(keys)


class _ReadAhead:
    """Batches out of large reads."""

    def __init__(self, file: StorageFile) -> None:
        self._file = file
        self._data = b""
        self._start = 0

    def has(self, position: int) -> bool:
        """Whether the file goes on at a position."""
        return bool(self._slice(position, 1))

    def batch_at(self, position: int) -> BatchHeader | None:
        """The header of the whole batch with a right CRC at a position; None for anything else."""
        header = claimed_header(self._slice(position, _HEADER_SLICE_BYTES))
        if header is None:
            return None
        data = self._slice(position, header.size_bytes)
        return header if len(data) == header.size_bytes and check_crc(data, header) else None

    def placed(self, position: int, expected: int, high: int) -> FoundBatch | None:
        """The whole batch at a position if its offsets fit between its neighbours."""
        header = self.batch_at(position)
        if header is None or header.base_offset == expected:
            return None if header is None or expected >= high else FoundBatch(position, header)
        placed = placed_header(header, expected, self.batch_at(position + header.size_bytes))
        if placed is None or not expected <= placed.base_offset < high:
            return None
        return FoundBatch(position, placed, moved=placed is not header)

    def _slice(self, position: int, size: int) -> bytes:
        at = position - self._start
        if at < 0 or at + size > len(self._data):
            if size > _READ_AHEAD_BYTES:
                return self._large(position, size)
            self._data, self._start, at = self._file.read(_READ_AHEAD_BYTES, position), position, 0
        return self._data[at : at + size]

    def _large(self, position: int, size: int) -> bytes:
        """A batch larger than a look; a length that goes beyond the file is not read for."""
        return self._file.read(size, position) if position + size <= self._file.size() else b""


_HEADER_SLICE_BYTES: Final = 64  # a header, and what is cheaper than to be exact
