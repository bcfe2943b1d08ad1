"""The second pass: the rows of a group of planned files, decoded again and held as Arrow columns until written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import pyarrow as pa

from commitlog.base import Record
from sink.arrays import UTC_US, field_arrays, fields_schema
from sink.decode import Decoder, Facts, UndecodableError
from sink.plan import FileKind, Plan, PlannedFile
from sink.records import WindowRecords
from sink.survey import OUR_COLUMNS, Limits
from sink.times import US_PER_DAY, day_number, received_us

_PENDING_ROWS: Final = 16_384  # rows held as Python objects at once, over all open files: some tens of MB


def rows_schema(plan: Plan) -> pa.Schema:
    """Columns of a file of decoded rows."""
    return pa.schema(
        [
            pa.field("device", pa.string()),
            pa.field("ts", UTC_US, nullable=False),
            pa.field("received_at", UTC_US, nullable=False),
            *fields_schema(plan.columns, plan.overflowed),
            *_place_fields(),
            pa.field("_row", pa.int32(), nullable=False),
        ]
    )


def quarantine_schema() -> pa.Schema:
    """Columns of a quarantine file."""
    return pa.schema(
        [
            pa.field("device", pa.string()),
            pa.field("received_at", UTC_US, nullable=False),
            pa.field("payload", pa.binary()),
            pa.field("reason", pa.string(), nullable=False),
            *_place_fields(),
        ]
    )


def _place_fields() -> list[pa.Field]:
    return [
        pa.field("_topic", pa.string()),
        pa.field("_partition", pa.int32(), nullable=False),
        pa.field("_offset", pa.int64(), nullable=False),
    ]


class FileRows:
    """Collects the rows of one file."""

    def __init__(self, file: PlannedFile, plan: Plan) -> None:
        self.file = file
        self._plan = plan
        self._schema = rows_schema(plan) if file.kind == "rows" else quarantine_schema()
        self._pending: list[tuple[Any, ...]] = []
        self._batches: list[pa.RecordBatch] = []

    def add(self, row: tuple[Any, ...]) -> None:
        """Add (device, ts or reason, received, fields or payload, MQTT topic, partition, offset)."""
        self._pending.append(row)

    def table(self) -> pa.Table:
        """All rows so far, in reading order."""
        self.flush()
        return pa.Table.from_batches(self._batches, self._schema)

    def flush(self) -> None:
        """Turn what was added since the last flush into columns."""
        if not self._pending:
            return
        device, second, received, content, topic, partition, offset = zip(*self._pending, strict=True)
        place = [pa.array(topic, pa.string()), pa.array(partition, pa.int32()), pa.array(offset, pa.int64())]
        devices = pa.array(device, pa.string())
        received_at = pa.array(received, pa.int64()).cast(UTC_US)
        if self.file.kind == "rows":
            plan = self._plan
            arrays = [
                devices,
                pa.array(second, pa.int64()).cast(UTC_US),
                received_at,
                *field_arrays(plan.columns, plan.overflowed, content),
                *place,
                pa.array([0] * len(device), pa.int32()),
            ]
        else:
            arrays = [devices, received_at, pa.array(content, pa.binary()), pa.array(second, pa.string()), *place]
        self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._pending.clear()


def groups(files: Sequence[PlannedFile], limits: Limits, width: int) -> Iterator[list[PlannedFile]]:
    """Files to be written in one pass over the records: as many as memory holds, at least one."""
    group: list[PlannedFile] = []
    rows = size = 0
    for file in files:
        rows += file.rows
        size += file.payload_bytes
        full = rows > limits.rows or rows * (width + OUR_COLUMNS) > limits.cells or size > limits.payload_bytes
        if group and full:
            yield group
            group, rows, size = [], file.rows, file.payload_bytes
        group.append(file)
    if group:
        yield group


class RowReader:
    """Decodes the records that a group of files needs and deals them out."""

    def __init__(self, plan: Plan, decoder: Decoder, records: WindowRecords) -> None:
        self._plan = plan
        self._decoder = decoder
        self._records = records
        self._facts = Facts()
        self._days = frozenset(day_number(date) for date in plan.dates)

    def collect(self, group: Sequence[PlannedFile]) -> list[FileRows]:
        """The rows of the files of a group."""
        collected = [FileRows(file, self._plan) for file in group]
        by_day: dict[tuple[FileKind, int], list[FileRows]] = {}
        for rows in collected:
            by_day.setdefault((rows.file.kind, day_number(rows.file.date)), []).append(rows)
        start = min(file.start for file in group)
        end = max(file.end for file in group)
        for count, (partition, record) in enumerate(self._records.read(start, end), 1):
            kind, day, row = self._row(partition, record)
            if count % _PENDING_ROWS == 0:
                for rows in collected:
                    rows.flush()
            for rows in by_day.get((kind, day), ()):
                if rows.file.start <= (partition, record.offset) < rows.file.end:
                    rows.add(row)
                    break
        return collected

    def _row(self, partition: int, record: Record) -> tuple[FileKind, int, tuple[Any, ...]]:
        device, topic, field = self._facts.of(record)
        received = received_us(record.timestamp)
        value = record.value
        try:
            ts, fields = self._decoder.decode(value, field, received)
        except UndecodableError as error:
            row = (device, error.reason, received, value, topic, partition, record.offset)
            return "quarantine", received // US_PER_DAY, row
        day = ts // US_PER_DAY
        if day not in self._days:
            day = received // US_PER_DAY
        return "rows", day, (device, ts, received, fields, topic, partition, record.offset)
