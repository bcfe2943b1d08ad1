"""The checksum of a file's rows, which rows it has, whatever their order, in one 64-bit number; and of its bytes.

A row is its place, (partition, offset, row). Each place gives a number, the checksum is their sum, all modulo 2**64:

    x = 0x9E3779B97F4A7C15 + offset + partition * 0xD6E8FEB86659FD93 + row * 0xC2B2AE3D27D4EB4F
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9
    x = (x ^ x >> 27) * 0x94D049BB133111EB
    x = x ^ x >> 31

The last three lines are the finalizer of SplitMix64 (Steele, Lea and Flood, 2014; what place (0, 0, 0) gives is its
first output from state 0), so that places that differ in one
bit give numbers that have nothing in common. A sum does not depend on the order of the rows, takes every row once, and
the sums of several files add up to that of all of them. It finds rows that are missing, doubled or moved by accident;
it is no protection against somebody who makes up rows that fit. No rows give 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import google_crc32c
import numpy as np
import numpy.typing as npt

START: Final = 0x9E3779B97F4A7C15
PARTITION_FACTOR: Final = 0xD6E8FEB86659FD93
ROW_FACTOR: Final = 0xC2B2AE3D27D4EB4F
_FIRST_FACTOR: Final = np.uint64(0xBF58476D1CE4E5B9)
_SECOND_FACTOR: Final = np.uint64(0x94D049BB133111EB)
_SHIFTS: Final = (np.uint64(30), np.uint64(27), np.uint64(31))
_MASK: Final = (1 << 64) - 1
_STEP_ROWS: Final = 16_384  # at a time: 128 KB a column stays in the cache

Numbers = npt.NDArray[np.signedinteger[Any]] | int
"""An array of integers, or one integer that is meant for every row."""


def checksum(partition: Numbers, offset: Numbers, row: Numbers = 0) -> int:
    """The checksum of the rows at these places: arrays of one length; at least one of the three is an array."""
    lengths = {len(each) for each in (partition, offset, row) if not isinstance(each, int)}
    (length,) = lengths  # ValueError: the arrays do not belong together
    total = 0
    for start in range(0, length, _STEP_ROWS):
        part = slice(start, start + _STEP_ROWS)
        x = np.full(min(_STEP_ROWS, length - start), START, np.uint64)
        x += _unsigned(offset, part)
        x += _unsigned(partition, part, PARTITION_FACTOR)
        x += _unsigned(row, part, ROW_FACTOR)
        total += int(mixed(x).sum(dtype=np.uint64))
    return total & _MASK


def mixed(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finalizer, in place; returns `x`."""
    for shift, factor in zip(_SHIFTS, (_FIRST_FACTOR, _SECOND_FACTOR, None), strict=True):
        x ^= x >> shift
        if factor is not None:
            x *= factor
    return x


def combined(checksums: Iterable[int]) -> int:
    """The checksum of all rows together that have these checksums in parts."""
    return sum(checksums) & _MASK


def checksum_text(value: int) -> str:
    """As it stands in a file's metadata: 16 hex digits."""
    return f"{value:016x}"


def _unsigned(values: Numbers, part: slice, factor: int = 1) -> Any:
    """A part of the values, times a factor, modulo 2**64; an array, or one number."""
    if isinstance(values, int):
        return np.uint64(values * factor & _MASK)
    unsigned = values[part].astype(np.int64, copy=False).view(np.uint64)
    return unsigned if factor == 1 else unsigned * np.uint64(factor)


def file_crc32c(path: Path) -> str:
    """CRC-32C of a whole file, 8 hex digits. Raises OSError."""
    crc = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            crc = google_crc32c.extend(crc, piece)
    return f"{crc:08x}"
