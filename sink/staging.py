"""A window's rows into finished files in the lake's `.tmp` folder: everything that comes before anybody can see them.

Records are read once. Rows wait in memory until their window is read; only when they outgrow it, the date with most of
them is written early, with the columns that are known by then. What a file's columns are is decided when every row of
the window is known: should that be something else than an early file has, it is written again, still unseen. So a
window of any size takes bounded memory, is decoded once, and has one set of columns.

Nothing here is visible or durable as an export: that begins with the plan (`sink.plan`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final

import google_crc32c
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sink.base import CancelFlag, ExportWindow, Missing
from sink.batches import RowBatch
from sink.checksum import checksum, checksum_text, combined
from sink.chunks import Chunk, Gatherer
from sink.columns import RAW_COLUMNS, Column, decide
from sink.decode import RawDecoder
from sink.decoding import Decoding, RefusedRow
from sink.parquet_file import ParquetFileWriter
from sink.plan import FileKind, Plan, PlannedFile, file_path
from sink.quarantined import KeptChunk, KeptRecord, QuarantineDecoding, chunked
from sink.reading import Reading
from sink.recolumn import recolumned
from sink.records import WindowRecords
from sink.storage import Storage
from sink.store import MAX_DATES, RowStore
from sink.tables import quarantine_schema, quarantine_table, rows_schema, rows_table
from sink.times import US_PER_DAY, day_name

_REFUSED_BYTES: Final = 400  # what a refused row takes in memory beside its payload
MAX_DOUBLES: Final = 2_000  # fields remembered of a topic, mostly some 60 KB; twice as many as a window may have
MAX_TABLE_BYTES: Final = 256 << 20
"""Of rows that become one file: an Arrow column of texts ends at 2 GB, and JSON text may take six times a value."""
_COMPRESSED: Final = 0.3  # file bytes a byte in memory, until a file has shown it


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the sink may hold in memory, and when a file is large enough."""

    memory_bytes: int = 128 << 20
    file_bytes: int = 128 << 20
    dates: int = MAX_DATES


@dataclass(frozen=True, slots=True)
class _Staged:
    """A file in `.tmp`, and the columns it was written with (none in quarantine)."""

    planned: PlannedFile
    columns: tuple[Column, ...]
    overflowed: bool


class Staging:
    """Stages one window. Used once, by one thread."""

    def __init__(
        self,
        window: ExportWindow,
        reading: Reading,
        *,
        tmp: Path,
        limits: Limits,
        software: str,
        storage: Storage,
        cancel: CancelFlag,
        doubles: Sequence[str] = (),
        replays: str = "",
    ) -> None:
        """`doubles` are the fields that earlier windows had numbers with fractions of. `replays`: the quarantine file
        whose records are staged, instead of the window's.
        """
        self._window = window
        self._reading = reading
        self._tmp = tmp
        self._limits = limits
        self._software = software
        self._storage = storage
        self._cancel = cancel
        self._doubles = frozenset(doubles)
        self._gatherer = Gatherer()
        self._replays = replays
        self._decoding: Decoding | QuarantineDecoding = (
            QuarantineDecoding(reading, self._gatherer) if replays else Decoding(reading)
        )
        self._store = RowStore(limits.dates)
        self._refused: list[RefusedRow] = []
        self._refused_bytes = 0
        self._quarantined: Counter[str] = Counter()
        self._staged: list[_Staged] = []
        self._names: list[str] = []
        self._parts: Counter[tuple[FileKind, int]] = Counter()
        self._compressed = _COMPRESSED
        self._records = 0

    @property
    def names(self) -> Sequence[str]:
        """Every name in `.tmp` that this has used."""
        return self._names

    def run(self, records: WindowRecords) -> Plan:
        """Read the window, write its files, and say what they are."""
        self._take(self._gatherer.chunks(records))
        return self._finish(records.missing)

    def run_replay(self, records: Iterable[KeptRecord]) -> Plan:
        """Decode the records of the quarantine file anew, write their files, and say what they are."""
        before: Counter[str] = Counter()

        def counted() -> Iterator[KeptRecord]:
            for record in records:
                self._cancel.check()
                before.update(row.reason for row in record.rows)
                yield record

        self._take(chunked(counted()))
        return replace(self._finish(()), replays=self._replays, before=dict(sorted(before.items())))

    def _finish(self, missing: Sequence[Missing]) -> Plan:
        closing = {"missing": [[each.partition, each.first, each.next, each.reason] for each in missing]}
        self._stage_rest(closing)
        return self._plan(missing)

    # -- rows

    def _take(self, chunks: Iterable[Chunk] | Iterable[KeptChunk]) -> None:
        for chunk in chunks:
            self._records += len(chunk)
            for batch in self._decoding.rows(chunk):  # type: ignore[arg-type]  # each kind of chunk has its decoding
                self._take_refused()
                self._make_room()
                if len(batch):
                    self._store.add(batch)
            self._take_refused()
            self._make_room()
            if self._gatherer.full:
                self._stage_all()
                self._gatherer.start_anew()

    def _take_refused(self) -> None:
        for row in self._decoding.refused:
            self._quarantined[row.reason] += 1
            self._refused_bytes += _REFUSED_BYTES + len(row.payload or b"")
        self._refused += self._decoding.refused
        self._decoding.refused.clear()

    def _make_room(self) -> None:
        """Write out what has grown large enough for a file, and, when memory is full, what there is most of."""
        store = self._store
        for day in store.days:
            size_bytes = store.size_of(day)
            if size_bytes * self._compressed >= self._limits.file_bytes or size_bytes >= MAX_TABLE_BYTES:
                self._stage_rows(day)
        while store.size_bytes + self._refused_bytes > self._limits.memory_bytes:
            largest = max(store.days, key=store.size_of, default=None)
            if largest is None or store.size_of(largest) < self._refused_bytes:
                self._stage_refused()
            else:
                self._stage_rows(largest)

    def _stage_all(self) -> None:
        for day in self._store.days:
            self._stage_rows(day)
        self._stage_refused()

    def _stage_rest(self, closing: Mapping[str, object]) -> None:
        """Write what is left. The unit's last file closes it: it is published last, and names all the others."""
        days = self._store.days
        last_rows = not self._refused
        for day in days[:-1] if last_rows else days:
            self._stage_rows(day)
        nothing_left = last_rows and not days
        self._stage_again(closing if nothing_left else None)
        if not last_rows:
            self._stage_refused(closing)
        elif days:
            self._stage_rows(days[-1], closing)

    def _stage_again(self, closing: Mapping[str, object] | None) -> None:
        """Give files written early the columns that were decided; the last one `closing`, if it closes the export."""
        columns, overflowed = self._columns(), self._decoding.counts.overflowed
        for index, staged in enumerate(self._staged):
            notes = closing if index == len(self._staged) - 1 else None
            same = staged.planned.kind == "quarantine" or (
                staged.overflowed == overflowed and _laid_out(staged.columns) == _laid_out(columns)
            )
            if notes is not None or not same:
                self._staged[index] = self._rewritten(staged, columns, overflowed, notes)

    def _rewritten(
        self, staged: _Staged, columns: tuple[Column, ...], overflowed: bool, closing: Mapping[str, object] | None
    ) -> _Staged:
        path = self._tmp / staged.planned.staged
        planned = replace(staged.planned, staged=f"{staged.planned.staged}.again")
        quarantine = planned.kind == "quarantine"
        with pq.ParquetFile(path) as source:
            groups = (source.read_row_group(group) for group in range(source.num_row_groups))
            if quarantine:
                planned = self._write(planned, quarantine_schema(), groups, (), closing)
            else:
                tables = (recolumned(each, staged.columns, columns, overflowed=overflowed) for each in groups)
                schema = rows_schema(columns, overflowed, self._reading.schema)
                planned = self._write(planned, schema, tables, columns, closing)
        self._storage.remove(path)
        return _Staged(planned, () if quarantine else columns, overflowed)

    def _columns(self) -> tuple[Column, ...]:
        if isinstance(self._reading.decoder, RawDecoder):
            return RAW_COLUMNS
        reading = self._reading
        return decide(self._decoding.counts, reading.schema, reading.timestamp_field, self._doubles)

    def _stage_rows(self, day: int, closing: Mapping[str, object] | None = None) -> None:
        size_bytes = self._store.size_of(day)
        batches = self._store.take(day)
        columns, overflowed = self._columns(), self._decoding.counts.overflowed
        planned = replace(
            self._next_file("rows", day),
            rows=sum(len(batch) for batch in batches),
            records=_records(batches),
            checksum=_checksum(batches),
        )
        gatherer = self._gatherer
        table = rows_table(batches, gatherer.devices, gatherer.topics, columns, overflowed=overflowed)
        batches.clear()
        schema = rows_schema(columns, overflowed, self._reading.schema)
        written = self._write(planned, schema, [table], columns, closing)
        self._compressed = max(0.01, written.size_bytes / max(size_bytes, 1))
        self._staged.append(_Staged(written, columns, overflowed))

    def _stage_refused(self, closing: Mapping[str, object] | None = None) -> None:
        by_day: dict[int, list[RefusedRow]] = {}
        for row in self._refused:
            by_day.setdefault(row.received_us // US_PER_DAY, []).append(row)
        self._refused, self._refused_bytes = [], 0
        for day in sorted(by_day):
            rows = by_day.pop(day)
            planned = replace(
                self._next_file("quarantine", day),
                rows=len(rows),
                records=len({(row.partition, row.offset) for row in rows}),
                checksum=_refused_checksum(rows),
            )
            table = quarantine_table(rows, self._gatherer.devices, self._gatherer.topics)
            written = self._write(planned, quarantine_schema(), [table], (), None if by_day else closing)
            self._staged.append(_Staged(written, (), False))

    # -- files

    def _next_file(self, kind: FileKind, day: int) -> PlannedFile:
        part = self._parts[kind, day]
        self._parts[kind, day] += 1
        date = day_name(day)
        path = file_path(self._window, kind, date, part, self._replays)
        return PlannedFile(path=path, staged=Path(path).name, kind=kind, date=date, part=part)

    def _write(
        self,
        planned: PlannedFile,
        schema: pa.Schema,
        tables: Iterable[pa.Table],
        columns: Sequence[Column],
        closing: Mapping[str, object] | None,
    ) -> PlannedFile:
        """Write a file to `.tmp`, durably; returns it with its size and checksum."""
        path = self._tmp / planned.staged
        self._names.append(path.name)
        metadata = self._metadata(planned, columns, closing)
        with (
            self._storage.create(path) as out,
            ParquetFileWriter(out, schema, metadata, self._cancel) as writer,
        ):
            for table in tables:
                writer.write(table)
        return replace(planned, size_bytes=path.stat().st_size, crc32c=file_crc32c(path))

    def _metadata(
        self, file: PlannedFile, columns: Sequence[Column], closing: Mapping[str, object] | None
    ) -> dict[str, str]:
        """Key-value metadata of a file: where its rows come from and how they were read."""
        window = self._window
        notes = {
            "topic": window.topic,
            "topic_id": window.topic_id,
            "first_window": window.first_number,
            "window": window.number,
            "start_ms": window.start_ms,
            "end_ms": window.end_ms,
            "offsets": window.offsets_by_name,
            "kind": file.kind,
            "date": file.date,
            "part": file.part,
            "rows": file.rows,
            "records": file.records,
            "checksum": file.checksum,
            "decoder": self._reading.decoder.version,
            "timestamp_field": self._reading.timestamp_field,
            "clock_skew_us": [self._reading.skew.ahead_us, self._reading.skew.behind_us],
            "schema": self._reading.schema_version,
            "declared": "" if self._reading.schema is None else self._reading.schema.canonical,
            "columns": {column.name: _column_note(column) for column in columns},
            "software": self._software,
        }
        if self._replays:
            notes["replays"] = self._replays
        if closing is not None:
            others = [staged.planned.path for staged in self._staged if staged.planned.path != file.path]
            paths = [*others, file.path]
            notes |= {**closing, "files": paths, "parts": len(paths)}
        return {f"headrace.{name}": _text(value) for name, value in notes.items()}

    def _plan(self, missing: Sequence[Missing]) -> Plan:
        columns = self._columns()
        window = self._window
        files = tuple(staged.planned for staged in self._staged)
        return Plan(
            topic=window.topic,
            topic_id=window.topic_id,
            first_number=window.first_number,
            number=window.number,
            start_ms=window.start_ms,
            end_ms=window.end_ms,
            offsets=window.offsets_by_name,
            decoder=self._reading.decoder.version,
            schema=self._reading.schema_version,
            software=self._software,
            files=files,
            records=self._records,
            rows=sum(file.rows for file in files if file.kind == "rows"),
            quarantined=dict(sorted(self._quarantined.items())),
            clashes={column.name: column.clashes for column in columns if column.clashes},
            missing=tuple(missing),
            doubles=self._doubles_now(columns),
        )

    def _doubles_now(self, columns: Sequence[Column]) -> tuple[str, ...]:
        found = [column.field for column in columns if not column.declared and column.kind == "double"]
        return doubles_so_far(found, self._doubles)


def doubles_so_far(found: Collection[str], earlier: Collection[str]) -> tuple[str, ...]:
    """The fields of doubles so far: a column that was whole numbers in one file and not in the next would not fit
    together for many readers.
    """
    return tuple(sorted({*found, *sorted(earlier)[: MAX_DOUBLES - len(found)]}))


def _laid_out(columns: Sequence[Column]) -> list[tuple[str, str, str, str | None]]:
    """What of columns decides a file's contents: not how many values clash."""
    return [(column.field, column.name, column.kind, column.other) for column in columns]


def file_crc32c(path: Path) -> str:
    """CRC-32C of a whole file, 8 hex digits. Raises OSError."""
    crc = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            crc = google_crc32c.extend(crc, piece)
    return f"{crc:08x}"


def _column_note(column: Column) -> dict[str, str | None]:
    return {"field": column.field, "kind": column.kind, "other": column.other}


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


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
