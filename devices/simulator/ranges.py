"""Sets of sequence numbers, kept as ranges: a device that runs for a week still needs only a few pairs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

Ranges = tuple[tuple[int, int], ...]
"""Ascending, disjoint, not touching `(first, last)` pairs; both ends belong to the range."""


class SeqSet:
    """A growing set of sequence numbers. Adding in ascending order is the cheap case."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, seqs: Iterable[int] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for seq in seqs:
            self.add(seq)

    def add(self, seq: int) -> None:
        """Put `seq` in; putting it in twice changes nothing."""
        lasts = self._lasts
        if lasts and seq == lasts[-1] + 1:
            lasts[-1] = seq
            return
        after = bisect_right(self._firsts, seq)
        if after and seq <= lasts[after - 1]:
            return
        joins_left = after > 0 and lasts[after - 1] == seq - 1
        joins_right = after < len(self._firsts) and self._firsts[after] == seq + 1
        if joins_left and joins_right:
            lasts[after - 1] = lasts.pop(after)
            self._firsts.pop(after)
        elif joins_left:
            lasts[after - 1] = seq
        elif joins_right:
            self._firsts[after] = seq
        else:
            self._firsts.insert(after, seq)
            lasts.insert(after, seq)

    def __contains__(self, seq: int) -> bool:
        after = bisect_right(self._firsts, seq)
        return after > 0 and seq <= self._lasts[after - 1]

    @property
    def fragments(self) -> int:
        """How many ranges the set takes: what it costs in memory."""
        return len(self._firsts)

    def ranges(self) -> Ranges:
        """The set as it stands."""
        return tuple(zip(self._firsts, self._lasts, strict=True))


def size_of(ranges: Ranges) -> int:
    """How many numbers the ranges hold."""
    return sum(last - first + 1 for first, last in ranges)


def numbers_in(ranges: Ranges) -> Iterator[int]:
    """Every number of the ranges, ascending."""
    for first, last in ranges:
        yield from range(first, last + 1)
