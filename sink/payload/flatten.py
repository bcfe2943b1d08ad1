"""Nested objects into paths: `{"motor": {"temp": 5}}` is the field `motor.temp`.

Flat columns rather than structs, because every reader can filter and prune them, and because a column may come and
go without changing the type of its neighbours.

What stays nested is JSON text: an empty object, one below `MAX_LEVELS` names or under a path that is too long for a
column, and an array that is not of scalars of one family.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from sink.payload.kinds import Fields, Json, is_list, json_text
from sink.payload.reasons import UndecodableError, shown
from wire.paths import MAX_LEVELS as MAX_LEVELS
from wire.paths import MAX_PATH_CHARS as MAX_PATH_CHARS


def flatten(members: Mapping[str, Any], leaves: Container[str] = ()) -> Fields:
    """The values of an object by path; `leaves` are paths that are not followed further.

    Raises UndecodableError when two members have the same path: one named `a.b` beside a `b` in `a`.
    """
    flat: Fields = {}
    _follow(flat, "", members, MAX_LEVELS, leaves)
    return flat


def _follow(flat: Fields, prefix: str, members: Mapping[str, Any], levels: int, leaves: Container[str]) -> None:
    for name, value in members.items():
        path = prefix + name
        kind = type(value)
        if kind is dict:
            if value and levels > 1 and len(path) <= MAX_PATH_CHARS and path not in leaves:
                _follow(flat, f"{path}.", value, levels - 1, leaves)
                continue
            value = Json(json_text(value))
        elif kind is list and not is_list(value):
            value = Json(json_text(value))
        if path in flat:
            raise UndecodableError("duplicate-field", f"{shown(path)} is named twice, as a name and as a path")
        flat[path] = value
