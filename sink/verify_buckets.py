"""Sums of row hashes, of the lake and of the log, held against each other: what differs is somewhere in this bucket.

A bucket is `BUCKET_OFFSETS` consecutive numbers of a span. What the lake has is added, what the log has is subtracted,
modulo 2**64: what is equal leaves zero. Eight bytes a bucket, however many rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from sink.canonical import Hashes
from sink.ranges import Range
from sink.verify_places import Int64s, Span

BUCKET_OFFSETS: Final = 1 << 10


class Buckets:
    """Over a span, from given offsets on: `lows` says where the log begins in each partition."""

    def __init__(self, span: Span, lows: Mapping[int, int]) -> None:
        self.span = span
        self._lows = np.array([lows.get(partition, 0) for partition in range(len(span.firsts))], np.int64)
        count = -(-span.size // BUCKET_OFFSETS)
        self._sums: Hashes = np.zeros(count, np.uint64)
        self._left_out = np.zeros(count, np.bool_)

    def add(self, partitions: Int64s, offsets: Int64s, rows: Int64s, hashes: Hashes) -> None:
        """Rows of the lake. What lies outside of the span, or before the log, is told elsewhere."""
        chosen = self.span.inside(partitions, offsets, rows)
        chosen &= offsets >= self._lows[np.where(chosen, partitions, 0)]
        numbers = self.span.numbers(partitions[chosen], offsets[chosen])
        np.add.at(self._sums, numbers // BUCKET_OFFSETS, hashes[chosen])

    def subtract(self, partition: int, offsets: Int64s, hashes: Hashes) -> None:
        """Rows of the log, all inside, and not before its beginning."""
        numbers = self.span.numbers(np.full(len(offsets), partition), offsets)
        np.subtract.at(self._sums, numbers // BUCKET_OFFSETS, hashes)

    def leave_out(self, partition: int, first: int, following: int) -> None:
        """The log has nothing there to compare with, so the buckets of these offsets say nothing."""
        start = int(self.span.starts[partition] - self.span.firsts[partition])
        self._left_out[(start + first) // BUCKET_OFFSETS : -(-(start + following) // BUCKET_OFFSETS)] = True

    def different(self) -> list[dict[int, Range]]:
        """The buckets that are not equal, in order, each as ranges of offsets by partition."""
        found: npt.NDArray[Any] = np.flatnonzero((self._sums != 0) & ~self._left_out)
        return [self._offsets(int(index)) for index in found]

    def _offsets(self, index: int) -> dict[int, Range]:
        low = index * BUCKET_OFFSETS
        ranges = self.span.by_partition([(low, min(low + BUCKET_OFFSETS, self.span.size))])
        cut = {}
        for partition, ((first, following),) in ranges.items():
            first = max(first, int(self._lows[partition]))
            if first < following:
                cut[partition] = (first, following)
        return cut
