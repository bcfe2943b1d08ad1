"""Which columns a file has, decided from every value of its window.

Rules (docs/formats-parquet.md states them for readers):

* Each field becomes a column of the kind most of its values have: numbers, text, true/false, or nested; of equals
  the first in that order. Numbers are 64-bit integers, or doubles as soon as one value has a fraction or exponent.
* A value that its column cannot hold exactly - another kind, an integer beyond 64 bits, an integer beyond 2**53
  in a column of doubles, which would round it - stands as JSON text in `<field>__other` and is counted as a clash.
* A field with nothing but nulls has no column: a column of a made-up type would clash with the next file's.
* Columns stand in the order of the field names. A name that is one of ours gets the prefix `payload_`; names that
  differ only in case, or meet after prefixing, are numbered, since SQL readers do not tell them apart.
* A window has at most `MAX_FIELDS` fields of its own; what is seen beyond them, or has a longer name than
  `MAX_NAME_CHARS`, goes, as one JSON object a row, into the column `_more`. It bounds memory against a device that
  makes up names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import pyarrow as pa

from sink.decode import Fields

MAX_FIELDS: Final = 1_000
MAX_NAME_CHARS: Final = 256  # of a column; a longer field goes to `_more`

_BOOL, _INT, _FLOAT, _STRING, _NESTED, _WIDE, _HUGE = range(7)
_KINDS: Final[dict[type, int]] = {
    bool: _BOOL,
    int: _INT,
    float: _FLOAT,
    str: _STRING,
    dict: _NESTED,
    list: _NESTED,
}
_SIMPLE: Final = {kind: number for kind, number in _KINDS.items() if kind is not int}
_EXACT: Final = 2**53  # up to here every integer is a double
_INT64: Final = range(-(2**63), 2**63)

OUR_NAMES: Final = frozenset(
    {"device", "ts", "received_at", "_topic", "_partition", "_offset", "_row", "_more", "date"}
)
"""Columns of every file, and `date`, which readers make of the folder names."""

TYPES: Final[Mapping[str, pa.DataType]] = {
    "int64": pa.int64(),
    "double": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "json": pa.string(),
    "binary": pa.binary(),
}
_HOLDS: Final[Mapping[str, frozenset[int]]] = {
    "int64": frozenset({_INT, _WIDE}),
    "double": frozenset({_INT, _FLOAT}),
    "bool": frozenset({_BOOL}),
    "string": frozenset({_STRING}),
    "json": frozenset({_NESTED}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A payload field's column: its kind (a key of `TYPES`), and its side column when something clashes."""

    field: str
    name: str
    kind: str
    other: str | None
    clashes: int


RAW_COLUMNS: Final = (Column(field="payload", name="payload", kind="binary", other=None, clashes=0),)
"""What a window has whose payloads are not decoded."""


def kind_of(value: Any) -> int | None:
    """The kind of a decoded value; None for null."""
    if value is None:
        return None
    kind = _KINDS[type(value)]
    if kind == _INT and not -_EXACT <= value <= _EXACT:
        return _WIDE if value in _INT64 else _HUGE
    return kind


def json_text(value: Any) -> str:
    """A value as JSON text."""
    return msgspec.json.encode(value).decode()


class FieldStatistics:
    """Counts the kinds of every field's values; bounded by `max_fields`."""

    def __init__(self, max_fields: int = MAX_FIELDS) -> None:
        self._max_fields = max_fields
        self._counts: dict[str, list[int]] = {}
        self.overflowed = False

    def add(self, fields: Fields) -> None:
        """Count one row."""
        for name, value in fields.items():
            counts = self._counts.get(name)
            if counts is None:
                if value is None:
                    continue
                if len(self._counts) >= self._max_fields or len(name) > MAX_NAME_CHARS:
                    self.overflowed = True
                    continue
                counts = self._counts[name] = [0] * 7
            kind = _SIMPLE.get(type(value))  # most values; a call for each would double the time this takes
            if kind is None:
                kind = kind_of(value)
            if kind is not None:
                counts[kind] += 1

    @property
    def width(self) -> int:
        """Fields seen so far."""
        return len(self._counts)

    def columns(self, timestamp_field: str) -> tuple[Column, ...]:
        """The columns of everything counted, in order. `timestamp_field` counts as one of our names."""
        ours = {name.casefold() for name in OUR_NAMES} | {timestamp_field.casefold(), ""}
        taken = {name.casefold() for name in OUR_NAMES}
        fields = sorted(self._counts)
        names = {field: _claim(f"payload_{field}" if field.casefold() in ours else field, taken) for field in fields}
        columns = []
        for field in fields:
            kind, clashes = _decide(self._counts[field])
            other = _claim(f"{names[field]}__other", taken) if clashes else None
            columns.append(Column(field=field, name=names[field], kind=kind, other=other, clashes=clashes))
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


def _decide(counts: Sequence[int]) -> tuple[str, int]:
    """(kind, clashing values) of a field."""
    numbers = counts[_INT] + counts[_FLOAT] + counts[_WIDE] + counts[_HUGE]
    number_kind = "double" if counts[_FLOAT] else "int64"
    families = (
        (numbers, number_kind),
        (counts[_STRING], "string"),
        (counts[_BOOL], "bool"),
        (counts[_NESTED], "json"),
    )
    _, kind = max(families, key=lambda family: family[0])
    return kind, sum(counts) - sum(counts[held] for held in _HOLDS[kind])


def fits(value: Any, kind: str) -> bool:
    """Whether a column of `kind` holds a (non-null) value exactly."""
    return kind_of(value) in _HOLDS[kind]
