"""A table with other columns: the same rows, their values put where another decision about columns puts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from sink.parquet.tables import final_arrays, from_text
from sink.payload.batches import Stored, stored_values
from sink.payload.columns import MORE, Column
from sink.payload.kinds import Json

_STORED_AS: dict[str, str] = {
    "int64": "int64",
    "double": "double",
    "string": "string",
    "bool": "bool",
    "json": "text",
    "timestamp": "int64",
    "binary": "binary",
}


def recolumned(table: pa.Table, before: Sequence[Column], after: Sequence[Column], *, overflowed: bool) -> pa.Table:
    """`table`, which has the payload columns `before`, with the columns `after`. Lists of columns only grow."""
    known = {column.field: column for column in before}
    names = [column.name for column in before] + [column.other for column in before if column.other] + [MORE]
    payload = frozenset(names)
    own = [name for name in table.column_names if name not in payload]
    front, back = own[:3], own[3:]
    arrays: list[tuple[str, Any]] = [(name, table.column(name)) for name in front]
    for column in after:
        stored = _stored(table, known[column.field]) if column.field in known else None
        typed, other = final_arrays(stored, column, table.num_rows)
        arrays.append((column.name, typed))
        if column.other is not None:
            arrays.append((column.other, other))
    if overflowed:
        more = table.column(MORE) if MORE in table.column_names else pa.nulls(table.num_rows, pa.string())
        arrays.append((MORE, more))
    arrays += [(name, table.column(name)) for name in back]
    return pa.table([array for _, array in arrays], names=[name for name, _ in arrays])


def _stored(table: pa.Table, column: Column) -> Stored:
    """A column's values as they were kept before it was decided."""
    typed = table.column(column.name).combine_chunks()
    clashed = column.other is not None and table.column(column.other).null_count < table.num_rows
    kind = _STORED_AS.get(column.kind)
    if kind is not None and not clashed:
        return {kind: typed.cast(pa.int64()) if column.kind == "timestamp" else typed}
    values = typed.to_pylist()
    if column.kind == "json":
        values = [None if value is None else Json(value) for value in values]
    if column.other is not None:
        others = table.column(column.other).to_pylist()
        values = [value if text is None else from_text(text) for value, text in zip(values, others, strict=True)]
    return stored_values(values)
