"""Kinds of values: what a decoded field's value is, and which columns hold it exactly.

A value of a row is an `int`, `float`, `str`, `bool`, `None`, a `list` of scalars of one family (numbers, texts or
booleans; nulls may stand among them), or `Json`, the text of whatever stays nested.

Integers are told apart by what holds them: a double holds every integer up to 2**53, an int64 up to 2**63; nothing
is ever rounded to fit. The same goes for the items of a list, and one item that does not fit makes the list not fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

Fields = dict[str, Any]
"""A row's values by path."""


class Json(str):
    """JSON text of a value that stays nested: an object below the deepest level, an empty one, an array of arrays."""

    __slots__ = ()


INT, FLOAT, WIDE, HUGE, STRING, BOOL = range(6)
"""`INT` is exact as a double, `WIDE` only as an int64, `HUGE` as neither."""
LIST_INT, LIST_FLOAT, LIST_WIDE, LIST_HUGE, LIST_STRING, LIST_BOOL, LIST_EMPTY, JSON = range(6, 14)
"""Of lists: `LIST_FLOAT` has a float and else what doubles hold, `LIST_WIDE` fits int64 alone, `LIST_HUGE` neither;
`LIST_EMPTY` has nothing but nulls, and fits all of them."""
KINDS: Final = 14

SIMPLE: Final[Mapping[type, int]] = {float: FLOAT, str: STRING, bool: BOOL, Json: JSON}
"""Types of which every value has one kind."""

_LISTS: Final = frozenset({LIST_INT, LIST_FLOAT, LIST_WIDE, LIST_HUGE, LIST_STRING, LIST_BOOL, LIST_EMPTY})
HOLDS: Final[Mapping[str, frozenset[int]]] = {
    "int64": frozenset({INT, WIDE}),
    "double": frozenset({INT, FLOAT}),
    "bool": frozenset({BOOL}),
    "string": frozenset({STRING}),
    "timestamp": frozenset({INT, WIDE}),  # microseconds since the epoch, put there by a declared schema
    "list<int64>": frozenset({LIST_INT, LIST_WIDE, LIST_EMPTY}),
    "list<double>": frozenset({LIST_INT, LIST_FLOAT, LIST_EMPTY}),
    "list<string>": frozenset({LIST_STRING, LIST_EMPTY}),
    "list<bool>": frozenset({LIST_BOOL, LIST_EMPTY}),
    "json": _LISTS | {JSON},
}
"""Kinds of values that a column of a kind holds exactly."""

EXACT: Final = 2**53
"""Up to here every integer is a double."""
_INT64: Final = range(-(2**63), 2**63)


def kind_of(value: Any) -> int | None:
    """The kind of a row's value; None for null."""
    kind = type(value)
    if kind is int:
        return _int_kind(value)
    if kind is list:
        return _list_kind(value)
    return None if value is None else SIMPLE[kind]


def fits(value: Any, kind: str) -> bool:
    """Whether a column of `kind` (a key of `HOLDS`) holds a non-null value exactly."""
    return kind_of(value) in HOLDS[kind]


def is_list(items: Sequence[Any]) -> bool:
    """Whether decoded items are scalars of one family, so that a list column can be made of them."""
    types = {*map(type, items)} - {type(None)}
    return types <= {int, float} or types == {str} or types == {bool}


def describe(value: Any) -> str:
    """What a decoded value is, in the words that schemas and details use: `double`, `string`, `list<int64>`, ..."""
    kind = type(value)
    if kind is list:
        return _LIST_WORDS[_list_kind(value)] if is_list(value) else "array"
    if kind is Json:
        return "array" if value.startswith("[") else "object"
    return "integer beyond 64 bits" if kind is int and value not in _INT64 else _WORDS[kind]


def json_text(value: Any) -> str:
    """A row's value, or any decoded one, as JSON text."""
    if type(value) is Json:
        return str(value)
    return msgspec.json.encode(value).decode()


def json_object(fields: Mapping[str, Any]) -> str:
    """Several of a row's values as one JSON object; what is JSON text already goes in as it is."""
    raw = {name: msgspec.Raw(value.encode()) if type(value) is Json else value for name, value in fields.items()}
    return msgspec.json.encode(raw).decode()


def _int_kind(value: int) -> int:
    if -EXACT <= value <= EXACT:
        return INT
    return WIDE if value in _INT64 else HUGE


def _list_kind(items: list[Any]) -> int:
    types = {*map(type, items)} - {type(None)}
    if not types:
        return LIST_EMPTY
    if str in types:
        return LIST_STRING
    if bool in types:
        return LIST_BOOL
    widest = max((_int_kind(item) for item in items if type(item) is int), key=_WIDTHS.__getitem__, default=INT)
    if float in types:
        return LIST_FLOAT if widest == INT else LIST_HUGE
    return _LIST_OF[widest]


_WIDTHS: Final[Mapping[int, int]] = {INT: 0, WIDE: 1, HUGE: 2}
_LIST_OF: Final[Mapping[int, int]] = {INT: LIST_INT, WIDE: LIST_WIDE, HUGE: LIST_HUGE}
_WORDS: Final[Mapping[type, str]] = {
    int: "int64",
    float: "double",
    str: "string",
    bool: "bool",
    dict: "object",
    type(None): "null",
}
_LIST_WORDS: Final[Mapping[int, str]] = {
    LIST_INT: "list<int64>",
    LIST_FLOAT: "list<double>",
    LIST_WIDE: "list<int64>",
    LIST_HUGE: "list of numbers that no one type holds",
    LIST_STRING: "list<string>",
    LIST_BOOL: "list<bool>",
    LIST_EMPTY: "empty list",
}
