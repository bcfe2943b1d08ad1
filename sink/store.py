"""Rows that wait for their file: held in memory, by the date they are filed under, until there are enough of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np

from sink.batches import RowBatch
from sink.chunks import Int32s
from sink.times import US_PER_DAY

MAX_DATES: Final = 400
"""Event dates of one export that have files of their own: a year of late readings and some. A device with a random
clock cannot make more files than that."""


@dataclass(slots=True)
class _Held:
    """A batch, its rows' days, and the one day that all of them have, or None."""

    batch: RowBatch
    days: Int32s
    only: int | None
    size_bytes: int


class RowStore:
    """See the module."""

    def __init__(self, max_dates: int = MAX_DATES) -> None:
        self.size_bytes = 0
        self._max_dates = max_dates
        self._dates: set[int] = set()
        self._held: list[_Held] = []
        self._sizes: Counter[int] = Counter()

    def __len__(self) -> int:
        return sum(len(held.batch) for held in self._held)

    @property
    def days(self) -> list[int]:
        """The days of the rows held, in order."""
        return sorted(day for day, size in self._sizes.items() if size)

    def size_of(self, day: int) -> int:
        """About how many bytes the rows of a day take."""
        return self._sizes[day]

    def add(self, batch: RowBatch) -> None:
        """Hold a batch."""
        days = (batch.ts_us // US_PER_DAY).astype(np.int32)
        found = np.unique(days)
        beyond = [day for day in reversed(found.tolist()) if not self._may_have_files(day)]
        if beyond:
            received = (batch.received_us // US_PER_DAY).astype(np.int32)
            days = np.where(np.isin(days, beyond), received, days)
            found = np.unique(days)
        self._hold(batch, days, int(found[0]) if len(found) == 1 else None)

    def _may_have_files(self, day: int) -> bool:
        """Whether rows are filed under this day, and not under the one they were received."""
        if day not in self._dates:
            if len(self._dates) >= self._max_dates:
                return False
            self._dates.add(day)
        return True

    def _hold(self, batch: RowBatch, days: Int32s, only: int | None) -> None:
        held = _Held(batch, days, only, batch.size_bytes)
        self._held.append(held)
        self.size_bytes += held.size_bytes
        for day, size in _shares(held):
            self._sizes[day] += size

    def take(self, day: int) -> list[RowBatch]:
        """Remove the rows of a day and return them."""
        taken: list[_Held] = []
        kept: list[_Held] = []
        for held in self._held:
            if held.only is not None:
                (taken if held.only == day else kept).append(held)
                continue
            mask = held.days == day
            if not mask.any():
                kept.append(held)
                continue
            taken.append(_Held(held.batch.picked(mask), held.days[mask], day, 0))
            rest = held.days[~mask]
            kept.append(_rest(held.batch.picked(~mask), rest))
        self._held = []
        self.size_bytes = 0
        self._sizes.clear()
        for held in kept:
            self._hold(held.batch, held.days, held.only)
        return [held.batch for held in taken]


def _rest(batch: RowBatch, days: Int32s) -> _Held:
    """What is left of a batch of several days."""
    found = np.unique(days)
    return _Held(batch, days, int(found[0]) if len(found) == 1 else None, 0)


def _shares(held: _Held) -> list[tuple[int, int]]:
    """(day, bytes) of a batch's days."""
    if held.only is not None:
        return [(held.only, held.size_bytes)]
    days, counts = np.unique(held.days, return_counts=True)
    return [(int(day), held.size_bytes * int(count) // len(held.days)) for day, count in zip(days, counts, strict=True)]
