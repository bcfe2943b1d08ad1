"""The files of one unit in `.tmp`, in the order in which they will be published; written again where columns change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sink.base import CancelFlag
from sink.parquet.checksum import checksum, checksum_text, combined, file_crc32c
from sink.parquet.footer import Footers, as_metadata, closed
from sink.parquet.plan import FileKind, PlannedFile, file_path
from sink.parquet.recolumn import recolumned
from sink.parquet.tables import quarantine_schema, quarantine_table, rows_schema, rows_table
from sink.parquet.writer import ParquetFileWriter
from sink.payload.batches import RowBatch
from sink.payload.chunks import Gatherer
from sink.payload.columns import Column
from sink.payload.decoding import RefusedRow
from sink.payload.times import day_name
from sink.storage import Storage

Closing = Mapping[str, object] | None
"""What the file that closes a unit says more than the others; None for all others."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The payload columns of a file, none in quarantine, and whether it has one for the fields beyond them."""

    columns: tuple[Column, ...] = ()
    overflowed: bool = False

    def is_as(self, other: Layout) -> bool:
        """Whether files of both look alike: how many values clash does not matter."""
        return self.overflowed == other.overflowed and _laid_out(self.columns) == _laid_out(other.columns)


@dataclass(frozen=True, slots=True)
class _Staged:
    planned: PlannedFile
    layout: Layout


class StagedFiles:
    """Writes them. Used once, by one thread; raises OSError, and ExportCancelledError when `cancel` was set."""

    def __init__(self, footers: Footers, *, tmp: Path, storage: Storage, cancel: CancelFlag) -> None:
        self.names: list[str] = []
        """Every name in `.tmp` that this has used."""
        self._footers = footers
        self._tmp = tmp
        self._storage = storage
        self._cancel = cancel
        self._staged: list[_Staged] = []
        self._parts: Counter[tuple[FileKind, int]] = Counter()

    @property
    def planned(self) -> tuple[PlannedFile, ...]:
        """The files."""
        return tuple(staged.planned for staged in self._staged)

    def add_rows(self, day: int, batches: list[RowBatch], names: Gatherer, layout: Layout, closing: Closing) -> int:
        """Write the rows of a day, which are taken out of `batches`. Returns the file's bytes."""
        planned = replace(
            self._next_file("rows", day),
            rows=sum(len(batch) for batch in batches),
            records=_records(batches),
            checksum=_checksum(batches),
        )
        table = rows_table(batches, names.devices, names.topics, layout.columns, overflowed=layout.overflowed)
        batches.clear()
        return self._add(planned, table, layout, closing)

    def add_refused(self, day: int, rows: Sequence[RefusedRow], names: Gatherer, closing: Closing) -> int:
        """Write what is refused of what was received on a day. Returns the file's bytes."""
        planned = replace(
            self._next_file("quarantine", day),
            rows=len(rows),
            records=len({(row.partition, row.offset) for row in rows}),
            checksum=_refused_checksum(rows),
        )
        return self._add(planned, quarantine_table(rows, names.devices, names.topics), Layout(), closing)

    def write_again(self, layout: Layout, closing: Closing) -> None:
        """Give files written early the columns that were decided; the last one `closing`, if it closes the unit."""
        for index, staged in enumerate(self._staged):
            notes = closing if index == len(self._staged) - 1 else None
            same = staged.planned.kind == "quarantine" or staged.layout.is_as(layout)
            if notes is not None or not same:
                self._staged[index] = self._rewritten(staged, layout, notes)

    def _rewritten(self, staged: _Staged, layout: Layout, closing: Closing) -> _Staged:
        path = self._tmp / staged.planned.staged
        planned = replace(staged.planned, staged=f"{staged.planned.staged}.again")
        before = staged.layout
        with pq.ParquetFile(path) as source:
            tables = (source.read_row_group(group) for group in range(source.num_row_groups))
            if planned.kind == "quarantine":
                layout = Layout()
            else:
                tables = (
                    recolumned(each, before.columns, layout.columns, overflowed=layout.overflowed) for each in tables
                )
            planned = self._write(planned, tables, layout, closing)
        self._storage.remove(path)
        return _Staged(planned, layout)

    def _next_file(self, kind: FileKind, day: int) -> PlannedFile:
        part = self._parts[kind, day]
        self._parts[kind, day] += 1
        date = day_name(day)
        path = file_path(self._footers.window, kind, date, part, self._footers.replays)
        return PlannedFile(path=path, staged=Path(path).name, kind=kind, date=date, part=part)

    def _add(self, planned: PlannedFile, table: pa.Table, layout: Layout, closing: Closing) -> int:
        written = self._write(planned, [table], layout, closing)
        self._staged.append(_Staged(written, layout))
        return written.size_bytes

    def _write(self, planned: PlannedFile, tables: Iterable[pa.Table], layout: Layout, closing: Closing) -> PlannedFile:
        """Write a file to `.tmp`, durably; returns it with its size and checksum."""
        path = self._tmp / planned.staged
        self.names.append(path.name)
        notes = self._footers.of(planned, layout.columns)
        if closing is not None:
            others = [file.path for file in self.planned if file.path != planned.path]
            notes = closed(notes, closing, [*others, planned.path])
        schema = self._schema(planned.kind, layout)
        with (
            self._storage.create(path) as out,
            ParquetFileWriter(out, schema, as_metadata(notes), self._cancel) as writer,
        ):
            for table in tables:
                writer.write(table)
        return replace(planned, size_bytes=path.stat().st_size, crc32c=file_crc32c(path))

    def _schema(self, kind: FileKind, layout: Layout) -> pa.Schema:
        if kind == "quarantine":
            return quarantine_schema()
        return rows_schema(layout.columns, layout.overflowed, self._footers.reading.schema)


def _laid_out(columns: Sequence[Column]) -> list[tuple[str, str, str, str | None]]:
    return [(column.field, column.name, column.kind, column.other) for column in columns]


def _records(batches: Sequence[RowBatch]) -> int:
    """Records that the rows of batches come from; rows of one record stand together, in one batch or in the next."""
    within = sum(1 + int(np.count_nonzero(np.diff(batch.offsets))) for batch in batches)
    over = sum(
        (before.partition, before.offsets[-1]) == (batch.partition, batch.offsets[0])
        for before, batch in pairwise(batches)
    )
    return within - over


def _checksum(batches: Sequence[RowBatch]) -> str:
    return checksum_text(combined(checksum(batch.partition, batch.offsets, batch.rows) for batch in batches))


def _refused_checksum(rows: Sequence[RefusedRow]) -> str:
    places = np.array([(row.partition, row.offset, row.row) for row in rows], np.int64)
    return checksum_text(checksum(places[:, 0], places[:, 1], places[:, 2]))
