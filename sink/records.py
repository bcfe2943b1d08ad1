"""The records of a window, in (partition, offset) order, and the offsets that are missing from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from commitlog.base import Gap, LogReader, Record
from sink.base import BackOffError, CancelFlag, ExportWindow, Missing, RecordsFailedError

Cursor = tuple[int, int]
"""A place in a window: (partition, offset). Tuples compare in reading order."""

READ_BYTES: Final = 1 << 20  # per read: long enough to be cheap, short enough to notice a stop
MAX_MISSING_RANGES: Final = 20_000  # a few MB in the export row and the ledger: one commit of the log holds both


class WindowRecords:
    """Reads a window piece by piece, any number of times. `missing` is what the last pass over it did not find."""

    def __init__(self, window: ExportWindow, reader: LogReader, cancel: CancelFlag) -> None:
        self._window = window
        self._reader = reader
        self._cancel = cancel
        self.missing: list[Missing] = []

    def pieces(self) -> Iterator[tuple[int, Sequence[Record]]]:
        """(partition, records) of the whole window, in (partition, offset) order."""
        self.missing = []
        for partition, (first, following) in sorted(self._window.offsets.items()):
            for records in self._partition(partition, first, following):
                if records:
                    yield partition, records

    def _partition(self, partition: int, expected: int, end: int) -> Iterator[Sequence[Record]]:
        while expected < end:
            self._cancel.check()
            piece = self._reader.read(self._window.topic, partition, expected, max_bytes=READ_BYTES)
            if piece.next_offset <= expected:
                raise self._unreadable(partition, expected, end)
            records = _within(piece.records, expected, end)
            reached = min(piece.next_offset, end)
            if len(records) < reached - expected:
                self._miss_between(partition, expected, records, reached, piece.gaps)
            expected = reached
            yield records

    def _miss_between(
        self, partition: int, expected: int, records: Sequence[Record], reached: int, gaps: Sequence[Gap]
    ) -> None:
        """Note every offset from `expected` to `reached` that is none of the records'."""
        for record in records:
            if record.offset > expected:
                self._miss(partition, expected, record.offset, gaps)
            expected = record.offset + 1
        if reached > expected:
            self._miss(partition, expected, reached, gaps)

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


def _within(records: Sequence[Record], first: int, end: int) -> Sequence[Record]:
    """The records with first <= offset < end: a slice may begin before what was asked for, and end after it."""
    if records and records[0].offset >= first and records[-1].offset < end:
        return records
    return [record for record in records if first <= record.offset < end]


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
