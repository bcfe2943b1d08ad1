"""Rows into Arrow columns: typed values in their column, what clashes as JSON text beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa

from sink.columns import TYPES, Column, fits, json_text
from sink.decode import Fields

UTC_US: Final = pa.timestamp("us", tz="UTC")
MORE: Final = "_more"


def fields_schema(columns: Sequence[Column], overflowed: bool) -> list[pa.Field]:
    """Arrow fields of the payload columns, each side column right after its own."""
    fields = []
    for column in columns:
        fields.append(pa.field(column.name, TYPES[column.kind]))
        if column.other is not None:
            fields.append(pa.field(column.other, pa.string()))
    if overflowed:
        fields.append(pa.field(MORE, pa.string()))
    return fields


def field_arrays(columns: Sequence[Column], overflowed: bool, rows: Sequence[Fields]) -> list[pa.Array]:
    """One array for each field of `fields_schema`.."""
    present: set[str] = set().union(*rows)
    arrays: list[pa.Array] = []
    for column in columns:
        if column.field not in present:
            arrays.append(pa.nulls(len(rows), TYPES[column.kind]))
            if column.other is not None:
                arrays.append(pa.nulls(len(rows), pa.string()))
            continue
        values = [row.get(column.field) for row in rows]
        arrays.extend(_column_arrays(column, values))
    if overflowed:
        own = {column.field for column in columns}
        arrays.append(pa.array([_rest(row, own) for row in rows], pa.string()))
    return arrays


def _column_arrays(column: Column, values: list[Any]) -> list[pa.Array]:
    if column.other is None:
        return [_typed(values, column.kind)]
    typed: list[Any] = []
    others: list[str | None] = []
    for value in values:
        held = value is None or fits(value, column.kind)
        typed.append(value if held else None)
        others.append(None if held else json_text(value))
    return [_typed(typed, column.kind), pa.array(others, pa.string())]


def _typed(values: list[Any], kind: str) -> pa.Array:
    if kind == "json":
        values = [None if value is None else json_text(value) for value in values]
    return pa.array(values, TYPES[kind])


def _rest(row: Fields, own: set[str]) -> str | None:
    rest = {name: value for name, value in row.items() if name not in own and value is not None}
    return json_text(rest) if rest else None
