"""The records of a window, in (partition, offset) order, and the offsets that are missing from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from commitlog.base import ClosedWindow, Gap, LogReader, Record
from sink.base import BackOffError, CancelFlag, Missing, RecordsFailedError

Cursor = tuple[int, int]
"""A place in a window: (partition, offset). Tuples compare in reading order."""

READ_BYTES: Final = 1 << 20  # per read: long enough to be cheap, short enough to notice a stop
MAX_MISSING_RANGES: Final = 100_000  # a few MB in the export row, well under a frame of the local channel


class WindowRecords:
    """Reads a window piece by piece, any number of times. `missing` is what the last pass over it did not find."""

    def __init__(self, window: ClosedWindow, reader: LogReader, cancel: CancelFlag) -> None:
        self._window = window
        self._reader = reader
        self._cancel = cancel
        self.missing: list[Missing] = []

    def read(self, start: Cursor | None = None, end: Cursor | None = None) -> Iterator[tuple[int, Record]]:
        """(partition, record) of every record with start <= (partition, offset) < end, in order."""
        self.missing = []
        for partition, (first, following) in sorted(self._window.offsets.items()):
            low = first if start is None or partition > start[0] else max(first, start[1])
            high = following if end is None or partition < end[0] else min(following, end[1])
            if (start is not None and partition < start[0]) or (end is not None and partition > end[0]):
                continue
            for record in self._partition(partition, low, high):
                yield partition, record

    def _partition(self, partition: int, expected: int, end: int) -> Iterator[Record]:
        while expected < end:
            self._cancel.check()
            piece = self._reader.read(self._window.topic, partition, expected, max_bytes=READ_BYTES)
            if piece.next_offset <= expected:
                raise self._unreadable(partition, expected, end)
            for record in piece.records:
                offset = record.offset
                if offset < expected:
                    continue
                if offset >= end:
                    break
                if offset > expected:
                    self._miss(partition, expected, offset, piece.gaps)
                expected = offset + 1
                yield record
            reached = min(piece.next_offset, end)
            if reached > expected:
                self._miss(partition, expected, reached, piece.gaps)
                expected = reached

    def _unreadable(self, partition: int, reached: int, end: int) -> BackOffError:
        return BackOffError(
            f"partition {partition} can be read up to offset {reached}, the window needs {end}",
            where=f"window {self._window.number} of {self._window.topic}",
            mend="wait for the log to catch up; if it does not, check it with `headrace log check`",
            retry_after_s=1.0,
        )

    def _miss(self, partition: int, first: int, following: int, gaps: Sequence[Gap]) -> None:
        self.missing.extend(_explain(partition, first, following, gaps))
        if len(self.missing) > MAX_MISSING_RANGES:
            raise RecordsFailedError(
                f"more than {MAX_MISSING_RANGES} separate ranges of offsets are missing",
                where=f"window {self._window.number} of {self._window.topic}",
                mend="check the log with `headrace log check`",
            )


def _explain(partition: int, first: int, following: int, gaps: Sequence[Gap]) -> Iterator[Missing]:
    """Cut missing offsets along the gaps that the reader reported, so that each keeps its own reason."""
    for gap in sorted(gaps, key=lambda each: each.first):
        low, high = max(first, gap.first), min(following, gap.next)
        if low >= high:
            continue
        if low > first:
            yield Missing(partition=partition, first=first, next=low, reason="not in the log")
        yield Missing(partition=partition, first=low, next=high, reason=gap.reason)
        first = high
    if first < following:
        yield Missing(partition=partition, first=first, next=following, reason="not in the log")
