"""Rows as columns, before anybody knows what columns their file will have.

What a file's columns are is decided when every row of its window is known. Until then a field's values are kept by
what they are, not by what they will be: whole numbers, numbers with a fraction, texts and truth values each in an
array of their own, everything else (lists, what stays nested, integers beyond 64 bits) as JSON text. From these any
column can be made later, exactly, without a second look at the payloads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sink.payload.chunks import Int32s, Int64s
from sink.payload.kinds import json_text

Stored = dict[str, pa.Array]
"""Values of one field: `int64`, `double`, `string`, `bool` and `text` (JSON) arrays of all rows, null where the value
is of another kind or there is none. What no row has is not there."""

STORED_TYPES: Final[Mapping[str, pa.DataType]] = {
    "int64": pa.int64(),
    "double": pa.float64(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "text": pa.string(),
}
_BY_TYPE: Final[Mapping[type, str]] = {int: "int64", float: "double", str: "string", bool: "bool"}
_INT64: Final = range(-(2**63), 2**63)


@dataclass(slots=True, kw_only=True)
class RowBatch:
    """Rows of one partition, in the order of its records."""

    partition: int
    devices: Int32s
    topics: Int32s
    ts_us: Int64s
    received_us: Int64s
    offsets: Int64s
    rows: Int32s
    fields: dict[str, Stored]
    more: pa.Array | None = None
    """For each row, as one JSON object, the fields that will never have a column; None: `fields` has all there are."""

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def size_bytes(self) -> int:
        """About what it takes in memory."""
        own = 40 * len(self.offsets)
        more = 0 if self.more is None else int(self.more.nbytes)
        return own + more + sum(int(array.nbytes) for stored in self.fields.values() for array in stored.values())

    def ordered(self, places: npt.NDArray[np.int64]) -> RowBatch:
        """The rows at these places, in this order."""
        chosen = pa.array(places)
        return self._with(lambda array: array[places], lambda array: array.take(chosen))

    def part(self, start: int, end: int) -> RowBatch:
        """Rows from `start` up to `end`, without copying them."""
        return self._with(lambda array: array[start:end], lambda array: array.slice(start, end - start))

    def _with(self, numbers: Callable[[Any], Any], values: Callable[[pa.Array], pa.Array]) -> RowBatch:
        return RowBatch(
            partition=self.partition,
            devices=numbers(self.devices),
            topics=numbers(self.topics),
            ts_us=numbers(self.ts_us),
            received_us=numbers(self.received_us),
            offsets=numbers(self.offsets),
            rows=numbers(self.rows),
            fields={
                path: {kind: values(array) for kind, array in stored.items()} for path, stored in self.fields.items()
            },
            more=None if self.more is None else values(self.more),
        )


def stored_fields(rows: Sequence[Mapping[str, Any]]) -> dict[str, Stored]:
    """The fields of decoded rows, kept by what their values are; those that are null in all rows are left out."""
    paths: dict[str, None] = {}
    for row in rows:
        paths.update((path, None) for path, value in row.items() if value is not None)
    return {path: stored_values([row.get(path) for row in rows]) for path in paths}


def stored_values(values: Sequence[Any]) -> Stored:
    """Values of one field, None where a row has none."""
    kinds = {type(value) for value in values}
    kinds.discard(type(None))
    if len(kinds) == 1:
        (kind,) = kinds
        stored = _BY_TYPE.get(kind)
        if stored is not None:
            try:
                return {stored: pa.array(values, STORED_TYPES[stored])}
            except OverflowError:  # integers beyond 64 bits are among them
                pass
        elif kind is bytes:
            return {"binary": pa.array(values, pa.binary())}
    return _split(values)


def _split(values: Sequence[Any]) -> Stored:
    """Values of different kinds."""
    lists: dict[str, list[Any]] = {}
    for index, value in enumerate(values):
        if value is None:
            continue
        kind = _BY_TYPE.get(type(value), "text")
        if kind == "int64" and value not in _INT64:
            kind = "text"
        chosen = lists.get(kind)
        if chosen is None:
            chosen = lists[kind] = [None] * len(values)
        chosen[index] = json_text(value) if kind == "text" else value
    return {kind: pa.array(chosen, STORED_TYPES[kind]) for kind, chosen in lists.items()}
