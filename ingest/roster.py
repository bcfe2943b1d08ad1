"""Sessions in the order in which they began, listed in pages: a page costs what it shows, however many there are."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

T = TypeVar("T")
_SPARE_HOLES: Final = 64


class Roster(Generic[T]):
    """Entries by number, each one more than the last. Numbers are never used again, so they are places to go on from.

    What is removed leaves a hole; when half of it are holes, they are closed.
    """

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._entries: list[T | None] = []
        self._holes = 0
        self._last_number = 0

    def __len__(self) -> int:
        return len(self._entries) - self._holes

    def add(self, entry: T) -> int:
        """Put an entry at the end; returns its number, from 1."""
        self._last_number += 1
        self._numbers.append(self._last_number)
        self._entries.append(entry)
        return self._last_number

    def remove(self, number: int) -> None:
        """Take out the entry with that number, if it is there."""
        at = bisect_left(self._numbers, number)
        if at == len(self._numbers) or self._numbers[at] != number or self._entries[at] is None:
            return
        self._entries[at] = None
        self._holes += 1
        if self._holes > _SPARE_HOLES and 2 * self._holes > len(self._entries):
            there = [place for place, entry in enumerate(self._entries) if entry is not None]
            self._numbers = [self._numbers[place] for place in there]
            self._entries = [self._entries[place] for place in there]
            self._holes = 0

    def after(self, number: int) -> Iterator[tuple[int, T | None]]:
        """Numbers and entries behind that number, in order; None for a hole. To be used up before anything changes."""
        for at in range(bisect_left(self._numbers, number + 1), len(self._numbers)):
            yield self._numbers[at], self._entries[at]
