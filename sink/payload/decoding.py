"""Chunks of records into batches of rows: the quick way where payloads look alike, the plain way for the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sink.payload.batches import RowBatch, Stored, stored_fields
from sink.payload.chunks import Chunk, Int64s
from sink.payload.column_times import device_times, nulls
from sink.payload.columns import MAX_FIELDS, FieldCounts
from sink.payload.decode import DEFAULT_FIELD, PayloadIs, RawDecoder, Refused, Row
from sink.payload.kinds import BOOL, EXACT, FLOAT, INT, STRING, WIDE, Fields, json_object
from sink.payload.reading import Reading
from sink.payload.schema import Schema
from sink.payload.uniform import LEARN_FROM, Bools, Uniform, UniformJson

_KINDS: Final = {"int64": INT, "double": FLOAT, "string": STRING, "bool": BOOL}
_RARELY: Final = 8  # chunks between two tries of the quick way where it has not helped
BATCH_ROWS: Final = 16_384  # of records read one by one, and what is refused of them; then they are handed out
BATCH_CELLS: Final = 4 << 20  # rows times fields of such a batch: some 35 MB where a device makes up names
_WORTH: Final = 0.1  # share of a chunk for which the quick way is worth its time


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedRow:
    """What is kept raw: a payload, or an element of one, with the reason, and where it stood."""

    device: int
    topic: int
    received_us: int
    partition: int
    offset: int
    row: int
    payload: bytes | None
    reason: str
    detail: str
    payload_is: PayloadIs = "record"
    field: str | None = None
    """The field that a scalar payload is, where the record names another than `DEFAULT_FIELD`."""


class Decoding:
    """Decodes the chunks of one window, and counts what it meets on the way."""

    def __init__(self, reading: Reading) -> None:
        schema = reading.schema
        self.counts = FieldCounts(MAX_FIELDS, frozenset() if schema is None else schema.names)
        self.refused: list[RefusedRow] = []
        self._decoder = reading.decoder
        self._timestamp_field = reading.timestamp_field
        self._skew = reading.skew
        self._schema = schema
        self._counted = not isinstance(reading.decoder, RawDecoder)
        declared_time = schema is not None and reading.timestamp_field in schema.names
        self._uniform = UniformJson() if reading.quick and not declared_time else None
        self._wait = 0

    def rows(self, chunk: Chunk) -> Iterator[RowBatch]:
        """The rows of a chunk; what cannot be read goes to `refused`.

        Whoever takes a batch, which may be empty, takes what is refused as well, or it grows.
        """
        left: Sequence[int] = range(len(chunk))
        if self._uniform is not None:
            found = self._quick(self._uniform, chunk)
            if found is not None:
                left = _others(found.indexes, len(chunk))
                yield self._batch(found, chunk)
        if left:
            yield from self._plain(chunk, left)

    # -- the quick way

    def _quick(self, uniform: UniformJson, chunk: Chunk) -> Uniform | None:
        """The payloads of a chunk that are read together, if any are."""
        if self.counts.overflowed:  # what has no column is JSON text, which the plain way has at hand
            return None
        if self._wait:
            self._wait -= 1
            return None
        if uniform.knows_nothing:
            uniform.learn(self._readable_values(chunk, range(min(len(chunk), LEARN_FROM))))
        found = uniform.parse(chunk.values)
        if found is not None:
            found = self._readable(found, chunk)
        count = 0 if found is None else len(found.indexes)
        if count < len(chunk):
            left = _others(found.indexes, len(chunk)) if found is not None else range(len(chunk))
            changed = uniform.learn(self._readable_values(chunk, left[:LEARN_FROM]))
            if not changed and count < _WORTH * len(chunk):
                self._wait = _RARELY
        return found if count else None

    def _readable_values(self, chunk: Chunk, indexes: Sequence[int]) -> list[bytes | None]:
        """Payloads that nothing is refused of: what is in no row must not make a column of integers one of doubles."""
        return [
            chunk.values[index]
            for index in indexes
            if not self._decoder.decode(
                chunk.values[index], chunk.field_of(index), int(chunk.received_us[index])
            ).refused
        ]

    def _readable(self, found: Uniform, chunk: Chunk) -> Uniform:
        """Those that need no closer look: with a time that is used, and as the topic's schema has it."""
        stored = found.fields.get(self._timestamp_field)
        good = np.ones(len(found.indexes), np.bool_)
        if stored is not None:
            received = chunk.received_us[found.indexes]
            times, good = device_times(*stored, received)
            good &= (times <= received + self._skew.ahead_us) & (times >= received - self._skew.behind_us)
            found.fields[self._timestamp_field] = ("int64", pa.array(times))
            good |= nulls(stored[1])
        if self._schema is not None:
            good &= conforming(self._schema, found, self._timestamp_field)
        return found if good.all() else found.picked(good)

    def _batch(self, found: Uniform, chunk: Chunk) -> RowBatch:
        indexes = found.indexes
        received = chunk.received_us[indexes]
        ts = received
        if self._timestamp_field in found.fields:
            _, times = found.fields.pop(self._timestamp_field)
            ts = times.to_numpy()
        fields = found.stored()
        for path, stored in fields.items():
            for kind, array in stored.items():
                self._count(path, kind, array)
        return _row_batch(chunk, indexes, ts, np.zeros(len(indexes), np.int32), fields)

    def _count(self, path: str, kind: str, array: pa.Array) -> None:
        count = len(array) - array.null_count
        wide = 0
        if kind == "int64":
            low, high = pc.min_max(array).as_py().values()
            if low < -EXACT or high > EXACT:
                wide = pc.sum(pc.or_(pc.less(array, -EXACT), pc.greater(array, EXACT))).as_py()
        self.counts.add_counts(path, _KINDS[kind], count - wide)
        self.counts.add_counts(path, WIDE, wide)

    # -- the plain way

    def _plain(self, chunk: Chunk, indexes: Sequence[int]) -> Iterator[RowBatch]:
        """Rows of these records; a batch as soon as there are many, or much is refused: a record may hold thousands."""
        decode = self._decoder.decode
        places: list[int] = []
        rows: list[Row] = []
        for index in indexes:
            value = chunk.values[index]
            received = int(chunk.received_us[index])
            decoded = decode(value, chunk.field_of(index), received)
            for row in decoded.rows:
                places.append(index)
                rows.append(row)
                if self._counted:
                    self.counts.add(row.fields)
            for refused in decoded.refused:
                self.refused.append(_refused_row(chunk, index, refused))
            if len(rows) + len(self.refused) >= BATCH_ROWS:
                yield from self._plain_batches(chunk, places, rows)
                places, rows = [], []
        if rows:
            yield from self._plain_batches(chunk, places, rows)

    def _plain_batches(self, chunk: Chunk, places: Sequence[int], rows: Sequence[Row]) -> Iterator[RowBatch]:
        """At least one, be it empty. A field takes room in all rows of a batch: the more fields, the fewer rows."""
        step = max(1, BATCH_CELLS // max(1, self.counts.width))
        for start in range(0, max(1, len(rows)), step):
            some = rows[start : start + step]
            yield self._plain_batch(chunk, np.array(places[start : start + step], np.int64), some)

    def _plain_batch(self, chunk: Chunk, at: npt.NDArray[np.int64], rows: Sequence[Row]) -> RowBatch:
        ts = np.array([row.ts_us for row in rows], np.int64)
        numbers = np.array([row.row for row in rows], np.int32)
        fields, more = with_columns(self.counts, [row.fields for row in rows])
        batch = _row_batch(chunk, at, ts, numbers, stored_fields(fields))
        batch.more = more
        return batch


def with_columns(counts: FieldCounts, fields: Sequence[Fields]) -> tuple[Sequence[Fields], pa.Array | None]:
    """The fields that may have columns of their own, and the others of each row as JSON text, if there are any."""
    if not counts.overflowed:
        return fields, None
    rest = [counts.without_column(each) for each in fields]
    kept = [
        {path: value for path, value in each.items() if path not in gone}
        for each, gone in zip(fields, rest, strict=True)
    ]
    return kept, pa.array([json_object(each) if each else None for each in rest], pa.string())


def _others(indexes: npt.NDArray[np.int64], count: int) -> list[int]:
    """The indexes below `count` that are not among these."""
    if len(indexes) == count:
        return []
    missing = np.ones(count, np.bool_)
    missing[indexes] = False
    others: list[int] = np.flatnonzero(missing).tolist()
    return others


def _row_batch(
    chunk: Chunk, indexes: npt.NDArray[np.int64], ts: Int64s, rows: npt.NDArray[np.int32], fields: dict[str, Stored]
) -> RowBatch:
    at: Any = indexes
    if len(indexes) == len(chunk) and not rows.any():  # a row for each record: nothing needs to be copied
        at = slice(None)
    return RowBatch(
        partition=chunk.partition,
        devices=chunk.devices[at],
        topics=chunk.topics[at],
        ts_us=ts,
        received_us=chunk.received_us[at],
        offsets=chunk.offsets[at],
        rows=rows,
        fields=fields,
    )


def _refused_row(chunk: Chunk, index: int, refused: Refused) -> RefusedRow:
    return RefusedRow(
        device=int(chunk.devices[index]),
        topic=int(chunk.topics[index]),
        received_us=int(chunk.received_us[index]),
        partition=chunk.partition,
        offset=int(chunk.offsets[index]),
        row=refused.row,
        payload=refused.payload,
        reason=refused.reason,
        detail=refused.detail,
        payload_is=refused.payload_is,
        field=named_field(chunk.field_of(index)),
    )


def named_field(field: str) -> str | None:
    """A scalar's field as quarantine keeps it: nothing for the usual one."""
    return None if field == DEFAULT_FIELD else field


def conforming(schema: Schema, found: Uniform, timestamp_field: str) -> Bools:
    """Which payloads are as their topic's schema has them, without a closer look."""
    count = len(found.indexes)
    good = np.ones(count, np.bool_)
    for column in schema.fields:
        stored = found.fields.get(column.name)
        if stored is None:
            good &= not column.required
            continue
        kind, array = stored
        if kind != column.type and not (column.type == "double" and kind == "int64"):
            good &= nulls(array)
        elif kind != column.type:
            numbers = array.fill_null(0).to_numpy()
            good &= (numbers >= -EXACT) & (numbers <= EXACT)
        if column.required:
            good &= ~nulls(array)
    known = schema.names | {timestamp_field}
    for path, (_, array) in found.fields.items():
        unknown = schema.unknown_fields == "quarantine" and path not in known
        if unknown or any(path.startswith(f"{name}.") for name in schema.names):  # what is declared is not taken apart
            good &= nulls(array)
    return good
