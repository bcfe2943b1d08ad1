"""The lake's rows against the log's records, decoded anew by the plain decoder: every value of every row.

First only sums are compared (`sink.verify.buckets`), a bucket of some offsets at a time. Where they differ, the rows of
that bucket are read from both sides and laid beside each other, and the first few differences are named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from commitlog.base import LogReader, Record
from commitlog.gaps import LEFT_OUT
from sink.parquet.lake import OWN_TEXTS, FileKind, LakeFile
from sink.payload.columns import MORE
from sink.payload.decode import Decoder, Facts, Refused, with_envelope
from sink.payload.decoding import named_field
from sink.payload.kinds import Json
from sink.payload.times import received_us
from sink.verify.buckets import Buckets
from sink.verify.canonical import Expected, value_of_text
from sink.verify.places import place_arrays
from sink.verify.ranges import Range, common

PIECE_ROWS: Final = 8_192  # rows of the log held as Python objects at once
MAX_BUCKETS: Final = 8  # of a group that are looked at closely
MAX_NAMED: Final = 20  # differences named in a group
_SHOWN_CHARS: Final = 120
_decode_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

Place = tuple[int, int, int]
"""(partition, offset, row)."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How a group's records are read: by this decoder, where `applies` to a place."""

    decoder: Decoder
    applies: Callable[[Place], bool] | None = None


@dataclass(frozen=True, slots=True)
class ExpectedRow:
    """A row as it should be in the lake. `own` are our columns, `fields` those of the payload by path."""

    kind: FileKind
    place: Place
    times: tuple[int, ...]
    own: Mapping[str, Any]
    fields: Mapping[str, Any]


@dataclass(slots=True)
class Difference:
    """A place where lake and log do not agree. `path` is the file that has it, empty where none has."""

    place: Place
    what: str
    path: str = ""


@dataclass(slots=True)
class Compared:
    """The outcome for one group: rows of the log that were compared, offsets that could not be, what differs.

    `unnamed`: differences that are not listed, and buckets that were not looked at closely.
    """

    rows: int = 0
    without_log: int = 0
    buckets: list[dict[int, list[Range]]] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    unnamed: int = 0


class ContentCheck:
    """One group of units. `buckets` has the lake's side already."""

    def __init__(
        self,
        reader: LogReader,
        topic: str,
        rules: Sequence[Rule],
        buckets: Buckets,
        ranges: Mapping[int, Sequence[Range]],
    ) -> None:
        """`ranges`: the offsets of each partition to be compared."""
        self._reader = reader
        self._topic = topic
        self._rules = rules
        self._buckets = buckets
        self._ranges = ranges
        self._facts = Facts()
        self._compared = Compared()

    def run(self, lake: Path, files: Sequence[LakeFile]) -> Compared:
        """Compare. Raises OSError and ArrowException for files that have become unreadable, FileNotFoundError."""
        for partition, ranges in self._ranges.items():
            for first, following in ranges:
                self._subtract(partition, first, following)
        compared = self._compared
        compared.buckets = self._buckets.different()
        for bucket in compared.buckets[:MAX_BUCKETS]:
            found = self._closely(lake, files, bucket)
            room = MAX_NAMED - len(compared.differences)
            compared.differences += found[:room]
            compared.unnamed += len(found[room:])
        compared.unnamed += len(compared.buckets[MAX_BUCKETS:])
        return compared

    # -- sums

    def _subtract(self, partition: int, first: int, following: int) -> None:
        gathered: dict[FileKind, Expected] = {"rows": Expected("rows"), "quarantine": Expected("quarantine")}
        for record in self._records(partition, first, following):
            for row in self._expected(partition, record):
                gathered[row.kind].add(row.place[1], row.place[2], row.times, row.own, row.fields)
            for kind, rows in gathered.items():
                if len(rows) >= PIECE_ROWS:
                    self._flush(partition, rows)
                    gathered[kind] = Expected(kind)
        for rows in gathered.values():
            self._flush(partition, rows)

    def _flush(self, partition: int, rows: Expected) -> None:
        if len(rows):
            self._compared.rows += len(rows)
            self._buckets.subtract(partition, *rows.hashes(partition))

    def _records(self, partition: int, first: int, following: int) -> Iterator[Record]:
        """The records of a range. Buckets with offsets that the log does not have (any more) are not compared."""
        at = first
        while at < following:
            piece = self._reader.read(self._topic, partition, at)
            for gap in piece.gaps:
                low, high = max(gap.first, at), min(gap.next, following)
                if low < high and gap.reason != LEFT_OUT:
                    self._compared.without_log += high - low
                    self._buckets.leave_out(partition, low, high)
            if piece.next_offset <= at:  # beyond what is readable: an appliance that died just now, or a restored log
                self._compared.without_log += following - at
                self._buckets.leave_out(partition, at, following)
                return
            for record in piece.records:
                if at <= record.offset < following:
                    yield record
            at = piece.next_offset

    def _expected(self, partition: int, record: Record) -> Iterator[ExpectedRow]:
        device, topic, named = self._facts.of(record)
        received = received_us(record.timestamp)
        own = {"device": device, "_topic": topic}
        refused: list[Refused] = []
        for rule in self._rules:
            decoded = rule.decoder.decode(record.value, named, received)
            for row in decoded.rows:
                place = (partition, record.offset, row.row)
                if rule.applies is None or rule.applies(place):
                    yield ExpectedRow("rows", place, (row.ts_us, received), own, _meant(row.fields))
            refused += [
                one
                for one in decoded.refused
                if rule.applies is None or rule.applies((partition, record.offset, one.row))
            ]
        for one in _kept(refused, record):
            why = {name: getattr(one, name) for name in ("reason", "payload", "payload_is")}
            why |= {"detail": one.detail or None, "field": named_field(named)}
            yield ExpectedRow("quarantine", (partition, record.offset, one.row), (received,), own | why, {})

    # -- rows beside each other

    def _closely(
        self, lake: Path, files: Sequence[LakeFile], bucket: Mapping[int, Sequence[Range]]
    ) -> list[Difference]:
        expected: dict[Place, ExpectedRow] = {}
        counted = self._compared.without_log
        for partition, ranges in bucket.items():
            for first, following in common(ranges, self._ranges.get(partition, [])):
                for record in self._records(partition, first, following):
                    expected |= {row.place: row for row in self._expected(partition, record)}
        self._compared.without_log = counted
        differences: list[Difference] = []
        found: set[Place] = set()
        for file in files:
            for place, row in _rows_in(lake, file, bucket):
                found.add(place)
                wanted = expected.get(place)
                what = "the record at this place has no such row" if wanted is None else _difference(row, wanted)
                if what:
                    differences.append(Difference(place, what, file.path))
        for place in expected.keys() - found:
            differences.append(Difference(place, "the record at this place has this row, and no file does"))
        return sorted(differences, key=lambda one: one.place)


def _meant(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fields with what JSON text stands for: a declared column of JSON may hold what is plain, too."""
    if not any(type(value) is Json for value in fields.values()):
        return fields
    return {path: value_of_text(str(value)) if type(value) is Json else value for path, value in fields.items()}


def _kept(refused: Sequence[Refused], record: Record) -> Sequence[Refused]:
    """What is refused of one record as quarantine has it: which row has an envelope's record depends on all of them."""
    if any(one.payload_is == "elsewhere" for one in refused):
        return with_envelope(sorted(refused, key=lambda one: one.row), record.value)
    return refused


def _rows_in(lake: Path, file: LakeFile, bucket: Mapping[int, Sequence[Range]]) -> Iterator[tuple[Place, ExpectedRow]]:
    """The rows of a file whose offsets are in a bucket."""
    with pq.ParquetFile(lake / file.path) as stored:
        for batch in stored.iter_batches(batch_size=1 << 14):
            partitions, offsets, rows = place_arrays(batch)
            chosen = np.zeros(len(batch), np.bool_)
            for partition, ranges in bucket.items():
                for first, following in ranges:
                    chosen |= (partitions == partition) & (offsets >= first) & (offsets < following)
            if not chosen.any():
                continue
            places = zip(partitions[chosen].tolist(), offsets[chosen].tolist(), rows[chosen].tolist(), strict=True)
            table = pa.Table.from_batches([batch]).filter(pa.array(chosen))
            yield from zip(places, _stored_rows(table, file), strict=True)


def _stored_rows(table: pa.Table, file: LakeFile) -> Iterator[ExpectedRow]:
    """Rows as a file has them, in the decoder's terms."""
    times = ("ts", "received_at") if file.kind == "rows" else ("received_at",)
    own = OWN_TEXTS[file.kind]
    notes = file.columns if file.kind == "rows" else {}
    for index, (name, column) in enumerate(zip(table.column_names, table.columns, strict=True)):
        if pa.types.is_timestamp(column.type):
            table = table.set_column(index, name, pc.cast(column, pa.int64()))
    for row in table.to_pylist():
        fields: dict[str, Any] = {}
        for name, note in notes.items():
            value = row[name]
            if value is not None:
                fields[note.field] = value_of_text(value) if note.kind == "json" else value
            elif note.other is not None and row[note.other] is not None:
                fields[note.field] = value_of_text(row[note.other])
        if file.kind == "rows" and MORE not in notes and row.get(MORE) is not None:
            fields |= {path: value_of_text(bytes(raw).decode()) for path, raw in _decode_members(row[MORE]).items()}
        place = (row["_partition"], row["_offset"], row["_row"])
        yield ExpectedRow(
            file.kind, place, tuple(row[name] for name in times), {name: row[name] for name in own}, fields
        )


def _difference(found: ExpectedRow, wanted: ExpectedRow) -> str:
    """What two rows of one place do not have in common; empty where they are equal."""
    if found.kind != wanted.kind:
        names = {"rows": "a row", "quarantine": "in quarantine"}
        return f"it is {names[found.kind]}, by the log it is {names[wanted.kind]}"
    times = ("ts", "received_at") if found.kind == "rows" else ("received_at",)
    pairs: list[tuple[str, Any, Any]] = list(zip(times, found.times, wanted.times, strict=True))
    pairs += [(name, found.own.get(name), wanted.own.get(name)) for name in wanted.own]
    paths = sorted({*found.fields, *wanted.fields})
    pairs += [(f"field {path}", found.fields.get(path), wanted.fields.get(path)) for path in paths]
    told = [f"{name} is {_shown(a)}, by the log {_shown(b)}" for name, a, b in pairs if not _same(a, b)]
    return "; ".join(told[:3])


def _same(a: Any, b: Any) -> bool:
    """Whether two values mean the same; a bool is no number."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."
