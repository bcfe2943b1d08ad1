"""Gaps and duplicates in the sequence numbers of one device.

Numbers are expected to count up by one. What is counted, by `n`, the next number expected:

* above `n`: the numbers between are missing. The last `WINDOW` numbers are remembered: one that comes late after all
  is not missing any more. A leap of more than `MAX_LEAP` is no gap but another numbering.
* below `n`: known as a late one; else, among the last `WINDOW` numbers, it came before: a duplicate. (Before the first
  number that was ever seen, nothing is known: not counted.)
* 0 or 1, or further below than the window: the device has begun anew - restarted, wrapped around. Not where the client
  itself marked a resend (DUP): a duplicate.

So a resend of the very first two numbers without a mark counts as a new beginning, and a new beginning at another
number among the last 64 as duplicates, until it passes what was seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

WINDOW: Final = 64
"""Numbers behind the newest that may come late, or twice: more than any client keeps in flight by default."""
MAX_LEAP: Final = 1_000_000
"""Beyond it a number is no successor, whatever was lost."""
NUMBERS: Final = 1 << 63
"""A sequence number is an integer from 0 to below this."""


class SequenceTrack:
    """The sequence of one device. A caller that finds `number == next` may simply add one to `next`."""

    __slots__ = ("_first", "_holes", "duplicates", "missing", "next", "restarts")

    def __init__(self, number: int) -> None:
        self.next = number + 1
        self.missing = 0
        """Numbers that never came, as far as is known."""
        self.duplicates = 0
        self.restarts = 0
        self._first = number
        self._holes: tuple[int, ...] = ()

    def take(self, number: int, *, resent: bool) -> None:
        """A reading carries `number`; `resent` where its client marked it as sent before."""
        ahead = number - self.next
        if ahead > MAX_LEAP:
            self._begin_anew(number)
        elif ahead >= 0:
            self._leap(number, ahead)
        elif number in self._holes:
            self._holes = tuple(hole for hole in self._holes if hole != number)
            self.missing -= 1
        elif number <= 1 < self.next - 1 and not resent:
            self._begin_anew(number)
        elif resent or -ahead <= WINDOW:
            if number >= self._first:
                self.duplicates += 1
        else:
            self._begin_anew(number)

    def _leap(self, number: int, ahead: int) -> None:
        if ahead:
            self.missing += ahead
            oldest = number - WINDOW
            kept = [hole for hole in self._holes if hole >= oldest]
            self._holes = (*kept, *range(max(self.next, oldest), number))
        self.next = number + 1

    def _begin_anew(self, number: int) -> None:
        self.restarts += 1
        self._first = number
        self._holes = ()
        self.next = number + 1

    # What a snapshot keeps

    def row(self) -> tuple[int, int, Sequence[int], int, int, int]:
        """Everything, as plain values."""
        return (self.next, self._first, self._holes, self.missing, self.duplicates, self.restarts)

    @classmethod
    def of_row(cls, row: tuple[int, int, Sequence[int], int, int, int]) -> SequenceTrack:
        """The inverse of `row`."""
        track = cls(0)
        track.next, track._first, holes, track.missing, track.duplicates, track.restarts = row
        track._holes = tuple(holes)
        return track
