"""Rows that wait for their file: held in memory, by the date they are filed under, until there are enough of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from sink.payload.batches import RowBatch
from sink.payload.chunks import Int32s
from sink.payload.times import US_PER_DAY

MAX_DATES: Final = 400
"""Event dates of one export that have files of their own: a year of late readings and some. A device with a random
clock cannot make more files than that."""


@dataclass(slots=True)
class _Held:
    """A batch with its rows in the order of their days, and where each day's begin and end there."""

    batch: RowBatch
    days: dict[int, tuple[int, int]]
    row_bytes: float

    @classmethod
    def of(cls, batch: RowBatch, days: Int32s) -> _Held:
        """Sort a batch by its rows' days: a day is then taken out of it at no cost, of however many it is."""
        row_bytes = batch.size_bytes / len(batch)
        if (days == days[0]).all():
            return cls(batch, {int(days[0]): (0, len(batch))}, row_bytes)
        order = np.argsort(days, kind="stable")  # rows of one record stay together
        found, starts = np.unique(days[order], return_index=True)
        bounds = pairwise([*starts.tolist(), len(batch)])
        return cls(batch.ordered(order), dict(zip(found.tolist(), bounds, strict=True)), row_bytes)

    def size_of(self, day: int) -> int:
        """About how many bytes a day's rows take."""
        start, end = self.days[day]
        return int((end - start) * self.row_bytes)

    def take(self, day: int) -> RowBatch:
        """The rows of a day, which is gone then; what is left is copied now and then, so that memory becomes free."""
        start, end = self.days.pop(day)
        taken = self.batch.part(start, end)
        left = sum(end - start for start, end in self.days.values())
        if 2 * left < len(self.batch):
            self._keep_what_is_left()
        return taken

    def _keep_what_is_left(self) -> None:
        places = np.concatenate([np.arange(0), *(np.arange(start, end) for start, end in self.days.values())])
        self.batch = self.batch.ordered(places)
        ends = np.cumsum([end - start for start, end in self.days.values()]).tolist()
        self.days = dict(zip(self.days, pairwise([0, *ends]), strict=True))


class RowStore:
    """See the module."""

    def __init__(self, max_dates: int = MAX_DATES) -> None:
        self.size_bytes = 0
        self._max_dates = max_dates
        self._dates: set[int] = set()
        self._held: list[_Held] = []
        self._sizes: Counter[int] = Counter()

    def __len__(self) -> int:
        return sum(end - start for held in self._held for start, end in held.days.values())

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
        held = _Held.of(batch, days)
        self._held.append(held)
        for day in held.days:
            self._grow(day, held.size_of(day))

    def _may_have_files(self, day: int) -> bool:
        """Whether rows are filed under this day, and not under the one they were received."""
        if day not in self._dates:
            if len(self._dates) >= self._max_dates:
                return False
            self._dates.add(day)
        return True

    def _grow(self, day: int, size_bytes: int) -> None:
        self._sizes[day] += size_bytes
        self.size_bytes += size_bytes

    def take(self, day: int) -> list[RowBatch]:
        """Remove the rows of a day and return them."""
        taken = [held.take(day) for held in self._held if day in held.days]
        self._held = [held for held in self._held if held.days]
        self.size_bytes -= self._sizes.pop(day, 0)
        return taken
