"""What of a window waits in memory for its files, and which of it goes first when there is too much."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sink.parquet.store import MAX_DATES, RowStore
from sink.payload.decoding import RefusedRow

REFUSED_BYTES: Final = 400  # what a refused row takes in memory beside its payload
MAX_TABLE_BYTES: Final = 256 << 20
"""Of rows that become one file: an Arrow column of texts ends at 2 GB, and JSON text may take six times a value."""
_COMPRESSED: Final = 0.3  # file bytes a byte in memory, until a file has shown it


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the sink may hold in memory, and when a file is large enough."""

    memory_bytes: int = 128 << 20
    file_bytes: int = 128 << 20
    dates: int = MAX_DATES


class Held:
    """Rows by their dates, and refused rows, within `Limits` as long as whoever adds to it makes room."""

    def __init__(self, limits: Limits) -> None:
        self.rows = RowStore(limits.dates)
        self.refused: list[RefusedRow] = []
        self.reasons: Counter[str] = Counter()
        """Refused rows by reason, those taken out included."""
        self._limits = limits
        self._refused_bytes = 0
        self._compressed = _COMPRESSED

    def refuse(self, rows: list[RefusedRow]) -> None:
        """Hold refused rows, which are taken out of the list."""
        for row in rows:
            self.reasons[row.reason] += 1
            self._refused_bytes += REFUSED_BYTES + len(row.payload or b"")
        self.refused += rows
        rows.clear()

    def take_refused(self) -> list[RefusedRow]:
        """All refused rows, which are gone then."""
        taken, self.refused, self._refused_bytes = self.refused, [], 0
        return taken

    def compressed(self, file_bytes: int, size_bytes: int) -> None:
        """Learn how large a file has become of rows of this size in memory."""
        self._compressed = max(0.01, file_bytes / max(size_bytes, 1))

    def full_days(self) -> Iterator[int]:
        """Days whose rows are enough for a file; to be taken one by one."""
        for day in self.rows.days:
            size_bytes = self.rows.size_of(day)
            if size_bytes * self._compressed >= self._limits.file_bytes or size_bytes >= MAX_TABLE_BYTES:
                yield day

    @property
    def too_much(self) -> bool:
        """Whether something has to be written for the sake of memory."""
        return self.rows.size_bytes + self._refused_bytes > self._limits.memory_bytes

    @property
    def largest_day(self) -> int | None:
        """The day with most rows; None where what is refused takes more."""
        largest = max(self.rows.days, key=self.rows.size_of, default=None)
        return None if largest is None or self.rows.size_of(largest) < self._refused_bytes else largest
