"""The first pass over a window: which columns, which files, where each file begins and ends.

Keeps counters only, no rows, so that memory does not grow with the window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from commitlog.base import ClosedWindow
from sink.columns import MAX_FIELDS, RAW_COLUMNS, FieldStatistics
from sink.decode import Decoder, Facts, RawDecoder, UndecodableError
from sink.plan import PLAN_VERSION, FileKind, Plan, PlannedFile, file_path, offsets_by_name
from sink.records import Cursor, WindowRecords
from sink.times import US_PER_DAY, day_name, received_us

MAX_DATES: Final = (
    400  # a year of late readings and some; a device with a random clock cannot make more files than that
)
MAX_PART_CELLS: Final = 32 << 20  # 8-byte cells of one file in memory: 256 MB
MAX_PART_PAYLOAD_BYTES: Final = 128 << 20  # payload bytes of one file in memory, before they are columns
OUR_COLUMNS: Final = 7
_BLOCKS_PER_PART: Final = 125  # how finely parts are cut; one block is some 100 bytes in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one file, and so the sink's memory, may hold at most."""

    rows: int
    cells: int = MAX_PART_CELLS
    payload_bytes: int = MAX_PART_PAYLOAD_BYTES
    dates: int = MAX_DATES


@dataclass(slots=True, kw_only=True)
class _Block:
    """Consecutive rows of one kind and date: what parts are put together from, once the width is known."""

    start: Cursor
    end: Cursor
    rows: int = 0
    payload_bytes: int = 0

    def exceeds(self, limits: Limits, width: int) -> bool:
        return self.rows > limits.rows or self.rows * width > limits.cells or self.payload_bytes > limits.payload_bytes

    def joined(self, following: _Block) -> _Block:
        return _Block(
            start=self.start,
            end=following.end,
            rows=self.rows + following.rows,
            payload_bytes=self.payload_bytes + following.payload_bytes,
        )


class _Blocks:
    """The rows of one kind and date."""

    def __init__(self, limits: Limits) -> None:
        self._rows = max(1, limits.rows // _BLOCKS_PER_PART)
        self._bytes = max(1, limits.payload_bytes // _BLOCKS_PER_PART)
        self._blocks: list[_Block] = []

    def add(self, position: Cursor, size_bytes: int) -> None:
        after = (position[0], position[1] + 1)
        block = self._blocks[-1] if self._blocks else None
        if block is None or block.rows >= self._rows or block.payload_bytes >= self._bytes:
            block = _Block(start=position, end=after)
            self._blocks.append(block)
        block.rows += 1
        block.payload_bytes += size_bytes
        block.end = after

    def parts(self, limits: Limits, width: int) -> Iterator[_Block]:
        part = self._blocks[0]
        for block in self._blocks[1:]:
            joined = part.joined(block)
            if joined.exceeds(limits, width):
                yield part
                part = block
            else:
                part = joined
        yield part


class Survey:
    """Collects what a plan is made of."""

    def __init__(self, window: ClosedWindow, decoder: Decoder, limits: Limits) -> None:
        self._window = window
        self._decoder = decoder
        self._limits = limits
        self._raw = isinstance(decoder, RawDecoder)
        self._facts = Facts()
        self._fields = FieldStatistics(MAX_FIELDS)
        self._dates: set[int] = set()
        self._blocks: dict[tuple[FileKind, int], _Blocks] = {}
        self._quarantined: dict[str, int] = {}
        self._records = 0

    def run(self, records: WindowRecords, *, timestamp_field: str, software: str) -> Plan:
        """Read the whole window and decide."""
        for partition, record in records.read():
            self._records += 1
            received = received_us(record.timestamp)
            value = record.value
            kind: FileKind = "rows"
            try:
                ts, fields = self._decoder.decode(value, self._facts.field(record), received)
            except UndecodableError as error:
                kind, day = "quarantine", received // US_PER_DAY
                self._quarantined[error.reason] = self._quarantined.get(error.reason, 0) + 1
            else:
                day = self._filing_day(ts, received)
                if not self._raw:
                    self._fields.add(fields)
            self._count(kind, day, (partition, record.offset), len(value) if value else 0)
        return self._plan(records, timestamp_field, software)

    def _filing_day(self, ts: int, received: int) -> int:
        day = ts // US_PER_DAY
        if day in self._dates:
            return day
        if len(self._dates) < self._limits.dates:
            self._dates.add(day)
            return day
        return received // US_PER_DAY

    def _count(self, kind: FileKind, day: int, position: Cursor, size_bytes: int) -> None:
        blocks = self._blocks.get((kind, day))
        if blocks is None:
            blocks = self._blocks[kind, day] = _Blocks(self._limits)
        blocks.add(position, size_bytes)

    def _files(self) -> Iterator[PlannedFile]:
        width = self._fields.width + OUR_COLUMNS
        for (kind, day), blocks in self._blocks.items():
            for number, part in enumerate(blocks.parts(self._limits, width)):
                yield PlannedFile(
                    path=file_path(self._window, kind, day_name(day), number),
                    kind=kind,
                    date=day_name(day),
                    part=number,
                    start=part.start,
                    end=part.end,
                    rows=part.rows,
                    payload_bytes=part.payload_bytes,
                )

    def _plan(self, records: WindowRecords, timestamp_field: str, software: str) -> Plan:
        window = self._window
        return Plan(
            version=PLAN_VERSION,
            topic=window.topic,
            topic_id=window.topic_id,
            number=window.number,
            start_ms=window.start_ms,
            end_ms=window.end_ms,
            offsets=offsets_by_name(window),
            decoder=self._decoder.version,
            timestamp_field=timestamp_field,
            software=software,
            columns=RAW_COLUMNS if self._raw else self._fields.columns(timestamp_field),
            overflowed=self._fields.overflowed,
            dates=tuple(day_name(day) for day in sorted(self._dates)),
            files=tuple(sorted(self._files(), key=lambda file: (file.start, file.kind, file.date))),
            records=self._records,
            quarantined=dict(sorted(self._quarantined.items())),
            missing=tuple(records.missing),
        )
