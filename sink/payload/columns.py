"""Which columns a file has, decided from every value of its window.

Rules (docs/formats-parquet.md states them for readers):

* Declared fields come first, in their order: always there, their kind pinned. What would clash was refused before.
* Each other field becomes a column of the kind most of its values have: numbers, text, true/false, lists of these, or
  JSON text; of equals the first in that order. Numbers are 64-bit integers, or doubles as soon as one value has a
  fraction or exponent, in this window or an earlier one; so are the items of lists.
* A value that its column cannot hold exactly - another kind, an integer beyond 64 bits, an integer beyond 2**53
  in a column of doubles, which would round it - stands as JSON text in `<field>__other` and is counted as a clash.
* A field with nothing but nulls has no column: a column of a made-up type would clash with the next file's. Lists with
  nothing in them count for whichever kind of list the field has most of; where it has none they are JSON text.
* Other columns stand in the order of the field names. A name that is one of ours gets the prefix `payload_`; names
  that differ only in case, or meet after prefixing, are numbered, since SQL readers do not tell them apart.
* A window has at most `MAX_FIELDS` fields that are not declared; what is seen beyond them, or has a longer name than
  `MAX_NAME_CHARS`, goes, as one JSON object a row, into the column `_more`. It bounds memory against a device that
  makes up names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from sink.payload.flatten import MAX_PATH_CHARS
from sink.payload.kinds import (
    BOOL,
    FLOAT,
    HOLDS,
    HUGE,
    INT,
    JSON,
    KINDS,
    LIST_BOOL,
    LIST_EMPTY,
    LIST_FLOAT,
    LIST_HUGE,
    LIST_INT,
    LIST_STRING,
    LIST_WIDE,
    SIMPLE,
    STRING,
    WIDE,
    Fields,
    kind_of,
)
from sink.payload.schema import Schema

MORE: Final = "_more"
"""The column of the fields that have none of their own."""
MAX_FIELDS: Final = 1_000
MAX_NAME_CHARS: Final = MAX_PATH_CHARS  # of a column; a longer field goes to `_more`

OUR_NAMES: Final = frozenset({"device", "ts", "received_at", "_topic", "_partition", "_offset", "_row", MORE, "date"})
"""Columns of every file, and `date`, which readers make of the folder names."""

TYPES: Final[Mapping[str, pa.DataType]] = {
    "int64": pa.int64(),
    "double": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "list<int64>": pa.list_(pa.int64()),
    "list<double>": pa.list_(pa.float64()),
    "list<bool>": pa.list_(pa.bool_()),
    "list<string>": pa.list_(pa.string()),
    "json": pa.string(),
    "binary": pa.binary(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A payload field's column: its kind (a key of `TYPES`), and its side column when something clashes."""

    field: str
    name: str
    kind: str
    other: str | None
    clashes: int
    declared: bool = False


RAW_COLUMNS: Final = (Column(field="payload", name="payload", kind="binary", other=None, clashes=0),)
"""What a window has whose payloads are not decoded."""


class FieldCounts:
    """Counts the kinds of every field's values; bounded by `max_fields` beside those that are `declared`."""

    def __init__(self, max_fields: int = MAX_FIELDS, declared: frozenset[str] = frozenset()) -> None:
        self._max_fields = max_fields + len(declared)
        self._counts: dict[str, list[int]] = {name: [0] * KINDS for name in declared}
        self.overflowed = False

    def add(self, fields: Fields) -> None:
        """Count one row."""
        for path, value in fields.items():
            counts = self._counts.get(path)
            if counts is None:
                if value is None:
                    continue
                counts = self._begin(path)
                if counts is None:
                    continue
            kind = SIMPLE.get(type(value))  # most values; a call for each would double the time this takes
            if kind is None:
                kind = kind_of(value)
            if kind is not None:
                counts[kind] += 1

    def add_counts(self, path: str, kind: int, count: int) -> None:
        """Count `count` values of one field and kind (`sink.payload.kinds`)."""
        if count:
            counts = self._counts.get(path) or self._begin(path)
            if counts is not None:
                counts[kind] += count

    def without_column(self, fields: Fields) -> Fields:
        """The values of a row, counted before, whose fields will never have a column, in the order of their names."""
        if not self.overflowed:
            return {}
        return {path: fields[path] for path in sorted(fields.keys() - self._counts) if fields[path] is not None}

    @property
    def width(self) -> int:
        """Fields seen so far, and those declared."""
        return len(self._counts)

    def of(self, path: str) -> Sequence[int]:
        """Values of each kind that a field has."""
        return tuple(self._counts[path])

    @property
    def paths(self) -> Sequence[str]:
        """All fields counted, by code point; without those that are only declared."""
        return sorted(path for path, counts in self._counts.items() if any(counts))

    def _begin(self, path: str) -> list[int] | None:
        if len(self._counts) >= self._max_fields or len(path) > MAX_NAME_CHARS:
            self.overflowed = True
            return None
        return self._counts.setdefault(path, [0] * KINDS)


def decide(
    counts: FieldCounts, schema: Schema | None, timestamp_field: str, doubles: frozenset[str] = frozenset()
) -> tuple[Column, ...]:
    """The columns of everything counted, in order. `timestamp_field` counts as one of our names.

    `doubles` are fields whose numbers are doubles though they may all be whole here.
    """
    ours = {name.casefold() for name in OUR_NAMES} | {timestamp_field.casefold(), ""}
    taken = {name.casefold() for name in OUR_NAMES}
    pinned = {} if schema is None else {declared.name: declared.type for declared in schema.fields}
    others = [path for path in counts.paths if path not in pinned]
    names = {path: _claim(f"payload_{path}" if path.casefold() in ours else path, taken) for path in (*pinned, *others)}
    columns = [
        Column(field=path, name=names[path], kind=kind, other=None, clashes=0, declared=True)
        for path, kind in pinned.items()
    ]
    for path in others:
        kind, clashes = _kind_of_column(counts.of(path), path in doubles)
        other = _claim(f"{names[path]}__other", taken) if clashes else None
        columns.append(Column(field=path, name=names[path], kind=kind, other=other, clashes=clashes))
    return tuple(columns)


def _claim(name: str, taken: set[str]) -> str:
    """`name`, or `name_2`, `name_3`, ... if it is taken. Bounded: there are fewer names taken than tries."""
    number = 1
    claimed = name
    while claimed.casefold() in taken:
        number += 1
        claimed = f"{name}_{number}"
    taken.add(claimed.casefold())
    return claimed


_FAMILIES: Final = (
    ((INT, FLOAT, WIDE, HUGE), "int64"),
    ((STRING,), "string"),
    ((BOOL,), "bool"),
    ((LIST_INT, LIST_FLOAT, LIST_WIDE, LIST_HUGE), "list<int64>"),
    ((LIST_STRING,), "list<string>"),
    ((LIST_BOOL,), "list<bool>"),
    ((JSON,), "json"),
)
"""Kinds of values that make up one kind of column; of equals the first wins."""
_LISTS: Final = range(3, 6)
_WITH_FRACTIONS: Final = {"int64": (FLOAT, "double"), "list<int64>": (LIST_FLOAT, "list<double>")}


def _kind_of_column(counts: Sequence[int], double: bool) -> tuple[str, int]:
    """(kind, clashing values) of a field; `double`: its numbers are no integers."""
    sizes = [sum(counts[kind] for kind in kinds) for kinds, _ in _FAMILIES]
    most = max(_LISTS, key=sizes.__getitem__)
    sizes[most if sizes[most] else len(_FAMILIES) - 1] += counts[LIST_EMPTY]
    kind = _FAMILIES[max(range(len(_FAMILIES)), key=sizes.__getitem__)][1]
    if kind in _WITH_FRACTIONS:
        fraction, wider = _WITH_FRACTIONS[kind]
        kind = wider if counts[fraction] or (double and kind == "int64") else kind
    return kind, sum(counts) - sum(counts[held] for held in HOLDS[kind])
