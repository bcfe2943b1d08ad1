"""Rows into the table of one file: columns as decided, sorted by (device, time, place in the log)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sink.payload.batches import RowBatch, Stored
from sink.payload.chunks import NO_TEXT, Int32s, Texts
from sink.payload.columns import MORE, TYPES, Column
from sink.payload.decoding import RefusedRow
from sink.payload.kinds import EXACT, Json, fits, is_list, json_object, json_text
from sink.payload.schema import Schema

UTC_US: Final = pa.timestamp("us", tz="UTC")
_SAMPLE: Final = 4_096  # rows that tell whether a column's texts repeat


def rows_schema(columns: Sequence[Column], overflowed: bool, schema: Schema | None) -> pa.Schema:
    """Columns of a file of decoded rows."""
    return pa.schema(
        [
            pa.field("device", pa.string()),
            pa.field("ts", UTC_US, nullable=False),
            pa.field("received_at", UTC_US, nullable=False),
            *_payload_fields(columns, overflowed, schema),
            *_place_fields(),
        ]
    )


def quarantine_schema() -> pa.Schema:
    """Columns of a quarantine file."""
    return pa.schema(
        [
            pa.field("device", pa.string()),
            pa.field("received_at", UTC_US, nullable=False),
            pa.field("payload", pa.binary()),
            pa.field("payload_is", pa.string(), nullable=False),
            pa.field("field", pa.string()),
            pa.field("reason", pa.string(), nullable=False),
            pa.field("detail", pa.string()),
            *_place_fields(),
        ]
    )


def _place_fields() -> list[pa.Field]:
    return [
        pa.field("_topic", pa.string()),
        pa.field("_partition", pa.int32(), nullable=False),
        pa.field("_offset", pa.int64(), nullable=False),
        pa.field("_row", pa.int32(), nullable=False),
    ]


def _payload_fields(columns: Sequence[Column], overflowed: bool, schema: Schema | None) -> list[pa.Field]:
    """Arrow fields of the payload columns, each side column right after its own."""
    notes = {} if schema is None else {declared.name: dict(declared.metadata) for declared in schema.fields}
    fields = []
    for column in columns:
        note = notes.get(column.field)
        fields.append(pa.field(column.name, TYPES[column.kind], metadata=note))
        if column.other is not None:
            fields.append(pa.field(column.other, pa.string()))
    if overflowed:
        fields.append(pa.field(MORE, pa.string()))
    return fields


def rows_table(
    batches: Sequence[RowBatch],
    devices: Texts,
    topics: Texts,
    columns: Sequence[Column],
    *,
    overflowed: bool,
) -> pa.Table:
    """The sorted table of a file; texts that repeat are dictionaries in it.

    Empties the batches as it goes, column by column: the rows are never in memory twice.
    """
    lengths = [len(batch) for batch in batches]
    partitions = np.repeat(np.array([batch.partition for batch in batches], np.int32), lengths)
    offsets, rows = _drained(batches, "offsets"), _drained(batches, "rows")
    ts = _drained(batches, "ts_us")
    places, device_names = _ranked(_drained(batches, "devices"), devices)
    topic_places, topic_names = _ranked(_drained(batches, "topics"), topics)
    order = _order(places, ts, partitions, offsets, rows)
    taken = pa.array(order)
    arrays: dict[str, pa.Array] = {
        "device": _named(places[order], device_names),
        "ts": pa.array(ts[order]).cast(UTC_US),
        "received_at": pa.array(_drained(batches, "received_us")[order]).cast(UTC_US),
    }
    del places, ts
    more = _more(batches, lengths, columns).take(taken) if overflowed else None
    for column in columns:
        stored = [batch.fields.pop(column.field, None) for batch in batches]
        made = [final_arrays(one, column, length) for one, length in zip(stored, lengths, strict=True)]
        stored.clear()
        arrays[column.name] = _repeating(pa.concat_arrays([typed for typed, _ in made])).take(taken)
        if column.other is not None:
            arrays[column.other] = pa.concat_arrays([other for _, other in made]).take(taken)
    if more is not None:
        arrays[MORE] = more
    arrays |= {
        "_topic": _named(topic_places[order], topic_names),
        "_partition": pa.array(partitions[order]),
        "_offset": pa.array(offsets[order]),
        "_row": pa.array(rows[order]),
    }
    return pa.table(arrays)


def _drained(batches: Sequence[RowBatch], name: str) -> npt.NDArray[Any]:
    """A column of all batches, which do not have it any more."""
    parts = [getattr(batch, name) for batch in batches]
    for batch in batches:
        setattr(batch, name, np.empty(0, parts[0].dtype))
    return np.concatenate(parts)


def quarantine_table(refused: Sequence[RefusedRow], devices: Texts, topics: Texts) -> pa.Table:
    """The sorted table of a quarantine file."""
    places, device_names = _ranked(np.array([row.device for row in refused], np.int32), devices)
    topic_places, topic_names = _ranked(np.array([row.topic for row in refused], np.int32), topics)
    received = np.array([row.received_us for row in refused], np.int64)
    partitions = np.array([row.partition for row in refused], np.int32)
    offsets = np.array([row.offset for row in refused], np.int64)
    rows = np.array([row.row for row in refused], np.int32)
    order = _order(places, received, partitions, offsets, rows)
    sorted_rows = [refused[index] for index in order.tolist()]
    return pa.table(
        {
            "device": _named(places[order], device_names),
            "received_at": pa.array(received[order]).cast(UTC_US),
            "payload": pa.array([row.payload for row in sorted_rows], pa.binary()),
            "payload_is": pa.array([row.payload_is for row in sorted_rows], pa.string()),
            "field": pa.array([row.field for row in sorted_rows], pa.string()),
            "reason": pa.array([row.reason for row in sorted_rows], pa.string()),
            "detail": pa.array([row.detail or None for row in sorted_rows], pa.string()),
            "_topic": _named(topic_places[order], topic_names),
            "_partition": pa.array(partitions[order]),
            "_offset": pa.array(offsets[order]),
            "_row": pa.array(rows[order]),
        }
    )


def _ranked(numbers: Int32s, texts: Texts) -> tuple[Int32s, pa.Array]:
    """Each text's place among those that are there, in order, and these texts; the place behind them is no text's."""
    there = np.zeros(len(texts.names) + 1, np.bool_)  # NO_TEXT is -1: the last one
    there[numbers] = True
    in_order = sorted(np.flatnonzero(there[:NO_TEXT]).tolist(), key=texts.names.__getitem__)
    places = np.full(len(there), len(in_order), np.int32)
    places[in_order] = np.arange(len(in_order), dtype=np.int32)
    return places[numbers], pa.array([texts.names[number] for number in in_order], pa.string())


def _order(*keys: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Row numbers in the order of the keys, the first counting most."""
    table = pa.table(list(keys), names=[str(number) for number in range(len(keys))])
    order: npt.NDArray[Any] = pc.sort_indices(
        table, sort_keys=[(name, "ascending") for name in table.column_names]
    ).to_numpy()
    return order


def _named(places: Int32s, names: pa.Array) -> pa.DictionaryArray:
    """Texts as Arrow has them, none as null. A file has the whole dictionary, so it has no name that no row needs."""
    return pa.DictionaryArray.from_arrays(pa.array(places, mask=places == len(names)), names)


# -- payload columns


def _repeating(array: pa.Array) -> pa.Array:
    """Texts that repeat as a dictionary: they are then sorted, and written, as numbers."""
    if array.type != pa.string() or 2 * pc.count_distinct(array.slice(0, _SAMPLE)).as_py() > min(len(array), _SAMPLE):
        return array
    return array.dictionary_encode()


def final_arrays(stored: Stored | None, column: Column, count: int) -> tuple[pa.Array, pa.Array | None]:
    """(the column's values, what its kind cannot hold as JSON text) of one batch."""
    kind = column.kind
    empty = None if column.other is None else pa.nulls(count, pa.string())
    if not stored:
        return pa.nulls(count, TYPES[kind]), empty
    if len(stored) == 1 and kind in stored:
        return stored[kind], empty
    if kind == "json" and column.other is None and set(stored) == {"text"}:
        return stored["text"], empty
    if kind == "timestamp" and set(stored) == {"int64"}:
        return stored["int64"].cast(TYPES[kind]), empty
    if kind == "double" and set(stored) <= {"int64", "double"} and not _any_wide(stored["int64"]):
        doubles = stored["int64"].cast(pa.float64())
        return pc.coalesce(stored["double"], doubles) if "double" in stored else doubles, empty
    return _one_by_one(values_of(stored, count), column)


def _any_wide(integers: pa.Array) -> bool:
    """Whether one of them is beyond what a double holds exactly."""
    low, high = pc.min_max(integers).as_py().values()
    return low is not None and (low < -EXACT or high > EXACT)


def values_of(stored: Stored, count: int) -> list[Any]:
    """The values of a field as Python has them, None where a row has none."""
    values: list[Any] = [None] * count
    for kind, array in stored.items():
        for index in np.flatnonzero(array.is_valid().to_numpy(zero_copy_only=False)).tolist():
            value = array[index].as_py()
            values[index] = from_text(value) if kind == "text" else value
    return values


def from_text(text: str) -> Any:
    """The value of which `json_text` made this text."""
    value = msgspec.json.decode(text)
    kind = type(value)
    return Json(text) if kind is dict or (kind is list and not is_list(value)) else value


def _one_by_one(values: Sequence[Any], column: Column) -> tuple[pa.Array, pa.Array | None]:
    """For what is mixed: every value is looked at."""
    pinned = column.declared and column.kind == "json"  # a declared column of JSON takes anything
    held = [value if value is not None and (pinned or fits(value, column.kind)) else None for value in values]
    typed = [None if value is None else json_text(value) for value in held] if column.kind == "json" else held
    array = pa.array(typed, TYPES[column.kind])
    if column.other is None:
        return array, None
    others = [
        json_text(value) if value is not None and kept is None else None
        for value, kept in zip(values, held, strict=True)
    ]
    return array, pa.array(others, pa.string())


def _more(batches: Sequence[RowBatch], lengths: Sequence[int], columns: Sequence[Column]) -> pa.Array:
    """The fields that have no column, as one JSON object a row."""
    own = {column.field for column in columns}
    texts: list[str | None] = []
    for batch, length in zip(batches, lengths, strict=True):
        if batch.more is not None:
            texts += batch.more.to_pylist()
            continue
        rows: list[dict[str, Any]] = [{} for _ in range(length)]
        for path in sorted(batch.fields.keys() - own):
            for row, value in zip(rows, values_of(batch.fields[path], length), strict=True):
                if value is not None:
                    row[path] = value
        texts += [json_object(row) if row else None for row in rows]
    return pa.array(texts, pa.string())
