"""A window's rows into finished files in the lake's `.tmp` folder: everything that comes before anybody can see them.

Records are read once. Rows wait in memory until their window is read; only when they outgrow it, the date with most of
them is written early, with the columns that are known by then. What a file's columns are is decided when every row of
the window is known: should that be something else than an early file has, it is written again, still unseen. So a
window of any size takes bounded memory, is decoded once, and has one set of columns.

Nothing here is visible or durable as an export: that begins with the plan (`sink.parquet.plan`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sink.base import CancelFlag, ExportWindow, Missing
from sink.parquet.footer import Footers
from sink.parquet.held import Held, Limits
from sink.parquet.plan import Plan, doubles_so_far
from sink.parquet.staged import Closing, Layout, StagedFiles
from sink.payload.chunks import Chunk, Gatherer
from sink.payload.columns import RAW_COLUMNS, Column, decide
from sink.payload.decode import RawDecoder
from sink.payload.decoding import Decoding, RefusedRow
from sink.payload.kept import KeptChunk, KeptRecord, QuarantineDecoding, chunked
from sink.payload.reading import Reading
from sink.payload.times import US_PER_DAY
from sink.records import WindowRecords
from sink.storage import Storage


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
        self._software = software
        self._cancel = cancel
        self._doubles = frozenset(doubles)
        self._replays = replays
        self._gatherer = Gatherer()
        self._decoding: Decoding | QuarantineDecoding = (
            QuarantineDecoding(reading, self._gatherer) if replays else Decoding(reading)
        )
        self._held = Held(limits)
        footers = Footers(window=window, reading=reading, software=software, replays=replays)
        self._files = StagedFiles(footers, tmp=tmp, storage=storage, cancel=cancel)
        self._records = 0

    @property
    def names(self) -> Sequence[str]:
        """Every name in `.tmp` that this has used."""
        return self._files.names

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

    def _take(self, chunks: Iterable[Chunk] | Iterable[KeptChunk]) -> None:
        held, decoding = self._held, self._decoding
        for chunk in chunks:
            self._records += len(chunk)
            for batch in decoding.rows(chunk):  # type: ignore[arg-type]  # each kind of chunk has its decoding
                held.refuse(decoding.refused)
                self._make_room()
                if len(batch):
                    held.rows.add(batch)
            held.refuse(decoding.refused)
            self._make_room()
            if self._gatherer.full:
                self._stage_all()
                self._gatherer.start_anew()

    def _make_room(self) -> None:
        """Write out what has grown large enough for a file, and, when memory is full, what there is most of."""
        for day in self._held.full_days():
            self._stage_rows(day)
        while self._held.too_much:
            largest = self._held.largest_day
            if largest is None:
                self._stage_refused()
            else:
                self._stage_rows(largest)

    def _stage_all(self) -> None:
        for day in self._held.rows.days:
            self._stage_rows(day)
        self._stage_refused()

    def _stage_rest(self, closing: Mapping[str, object]) -> None:
        """Write what is left. The unit's last file closes it: it is published last, and names all the others."""
        days = self._held.rows.days
        last_rows = not self._held.refused
        for day in days[:-1] if last_rows else days:
            self._stage_rows(day)
        nothing_left = last_rows and not days
        self._files.write_again(self._layout(), closing if nothing_left else None)
        if not last_rows:
            self._stage_refused(closing)
        elif days:
            self._stage_rows(days[-1], closing)

    def _stage_rows(self, day: int, closing: Closing = None) -> None:
        size_bytes = self._held.rows.size_of(day)
        batches = self._held.rows.take(day)
        file_bytes = self._files.add_rows(day, batches, self._gatherer, self._layout(), closing)
        self._held.compressed(file_bytes, size_bytes)

    def _stage_refused(self, closing: Closing = None) -> None:
        by_day: dict[int, list[RefusedRow]] = {}
        for row in self._held.take_refused():
            by_day.setdefault(row.received_us // US_PER_DAY, []).append(row)
        for day in sorted(by_day):
            rows = by_day.pop(day)
            self._files.add_refused(day, rows, self._gatherer, None if by_day else closing)

    def _layout(self) -> Layout:
        """The columns as they are decided by what is known now."""
        return Layout(self._columns(), self._decoding.counts.overflowed)

    def _columns(self) -> tuple[Column, ...]:
        if isinstance(self._reading.decoder, RawDecoder):
            return RAW_COLUMNS
        reading = self._reading
        return decide(self._decoding.counts, reading.schema, reading.timestamp_field, self._doubles)

    def _plan(self, missing: Sequence[Missing]) -> Plan:
        columns = self._columns()
        window = self._window
        files = self._files.planned
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
            quarantined=dict(sorted(self._held.reasons.items())),
            clashes={column.name: column.clashes for column in columns if column.clashes},
            missing=tuple(missing),
            doubles=self._doubles_now(columns),
        )

    def _doubles_now(self, columns: Sequence[Column]) -> tuple[str, ...]:
        found = [column.field for column in columns if not column.declared and column.kind == "double"]
        return doubles_so_far(found, self._doubles)
