"""Sums of row hashes, of the lake and of the log, held against each other: what differs is somewhere in this bucket.

A bucket is `BUCKET_OFFSETS` consecutive numbers of a span. What the lake has is added, what the log has is subtracted,
modulo 2**64: what is equal leaves zero. Eight bytes a bucket, however many rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sink.verify.canonical import Hashes
from sink.verify.places import Int64s, Span
from sink.verify.ranges import Range, without

BUCKET_OFFSETS: Final = 1 << 10


class Buckets:
    """Over a span, from given offsets on: `lows` says where the log begins in each partition."""

    def __init__(self, span: Span, lows: Mapping[int, int]) -> None:
        self._span = span
        self._lows = lows
        count = -(-span.size // BUCKET_OFFSETS)
        self._sums: Hashes = np.zeros(count, np.uint64)
        self._left_out = np.zeros(count, np.bool_)

    def add(self, partitions: Int64s, offsets: Int64s, rows: Int64s, hashes: Hashes) -> None:
        """Rows of the lake. What lies outside of the span is told elsewhere; what is before the log, not compared."""
        chosen, numbers = self._span.locate(partitions, offsets, rows)
        for partition, low in self._lows.items():
            if low:
                chosen &= (partitions != partition) | (offsets >= low)
        np.add.at(self._sums, numbers[chosen] // BUCKET_OFFSETS, hashes[chosen])

    def subtract(self, partition: int, offsets: Int64s, hashes: Hashes) -> None:
        """Rows of the log."""
        zeros = np.zeros(len(offsets), np.int64)
        inside, numbers = self._span.locate(zeros + partition, offsets, zeros)
        np.subtract.at(self._sums, numbers[inside] // BUCKET_OFFSETS, hashes[inside])

    def leave_out(self, partition: int, first: int, following: int) -> None:
        """The log has nothing there to compare with, so the buckets of these offsets say nothing."""
        for stretch in self._span.stretches(partition):
            low, high = max(first, stretch.first), min(following, stretch.next)
            if low < high:
                shift = stretch.start - stretch.first
                self._left_out[(low + shift) // BUCKET_OFFSETS : -(-(high + shift) // BUCKET_OFFSETS)] = True

    def different(self) -> list[dict[int, list[Range]]]:
        """The buckets that are not equal, in order, each as ranges of offsets by partition."""
        found: npt.NDArray[Any] = np.flatnonzero((self._sums != 0) & ~self._left_out)
        return [self._offsets(int(index)) for index in found]

    def _offsets(self, index: int) -> dict[int, list[Range]]:
        low = index * BUCKET_OFFSETS
        ranges = self._span.by_partition([(low, min(low + BUCKET_OFFSETS, self._span.size))])
        return {p: without(found, [(0, self._lows.get(p, 0))]) for p, found in ranges.items()}
