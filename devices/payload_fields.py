"""What a payload says, by field: the same names as the columns of exports, and each value as the device wrote it.

An object is a reading, its nested members are paths (`motor.temp`). An array with objects in it, an object with such
an array as `readings`, and lines with objects are readings one after the other. Anything else that is JSON is the value
of one field: the one that the route names, or `value`. Exports decide for good what can be read (`sink/payload`); a
view of the newest values is more patient with what they refuse, such as a name that stands twice.

Two things are asked of a payload. At once, for every record: its *shape*, the names alone, with its sequence numbers
and its time. Later, and only when its values are to be shown or give way to another shape's: the values (`leaves`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from wire.paths import DEFAULT_FIELD, MAX_LEVELS, MAX_PATH_CHARS, ROWS_FIELD

Shape = tuple[Any, ...]
"""Names of members in their order; of a nested object a pair of name and shape. Equal shapes have equal paths."""

_BLANK: Final = b" \t\r\n"
_FAILURES: Final = (ValueError, RecursionError)  # msgspec's own error is a ValueError

read_flat: Final = msgspec.json.Decoder(dict[str, int | float | str | bool | None]).decode
"""An object that nests nothing: what most payloads are. Raises ValueError for anything else."""
_read: Final = msgspec.json.Decoder().decode
_read_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_read_elements: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode


class FieldNames(NamedTuple):
    """Which members of a topic's payloads carry a sequence number and the device's own time."""

    sequence: str = "seq"
    time: str = "ts"


class Told(NamedTuple):
    """What is asked of every payload at once. `shape` is None for several readings: then nothing is to be expected."""

    shape: Shape | None
    numbers: Sequence[Any]
    time: Any


NOTHING_TOLD: Final = Told((), (), None)


def told(value: bytes, field: str, names: FieldNames) -> Told | None:
    """The slow way, for payloads that `read_flat` refuses; None for one that cannot be read."""
    try:
        decoded = _read(value)
        kind = type(decoded)
        if kind is dict and type(decoded.get(ROWS_FIELD)) is not list:
            return Told(_shape(decoded, MAX_LEVELS), (decoded.get(names.sequence),), decoded.get(names.time))
        if kind is not dict and not (kind is list and _has_objects(decoded)):
            return Told((field,), (), None) if decoded is not None else NOTHING_TOLD
    except _FAILURES:
        pass
    rows = _rows(value)
    if not rows:
        return None
    numbers = [_plain(row.get(names.sequence)) for row in rows]
    return Told(None, numbers, _plain(rows[-1].get(names.time)))


def leaves(value: bytes, field: str = DEFAULT_FIELD) -> Mapping[str, bytes]:
    """The newest value of each field of a payload, by path, as JSON; empty for one that cannot be read."""
    try:
        decoded = _read(value)
    except _FAILURES:
        rows = _rows(value)
    else:
        if type(decoded) is dict and type(decoded.get(ROWS_FIELD)) is not list:
            rows = [_flat(_read_members(value))]
        elif type(decoded) is dict or (type(decoded) is list and _has_objects(decoded)):
            rows = _rows(value)
        else:
            return {} if decoded is None else {field: value.strip(_BLANK)}
    found: dict[str, bytes] = {}
    for row in rows:
        for path, leaf in row.items():
            found.pop(path, None)  # in the order in which they were told last
            found[path] = leaf
    return found


def _shape(members: Mapping[str, Any], levels: int) -> Shape:
    return tuple(
        (name, _shape(value, levels - 1)) if type(value) is dict and value and levels > 1 else name
        for name, value in members.items()
    )


def _has_objects(items: Iterable[Any]) -> bool:
    return any(type(item) is dict for item in items)


def _rows(value: bytes) -> Sequence[Mapping[str, bytes]]:
    """The readings of a payload that holds several, those that can be read."""
    text = value.strip(_BLANK)
    try:
        if text.startswith(b"["):
            return _readable(map(bytes, _read_elements(text)), {})
        envelope = _read_members(text)
        return _readable(map(bytes, _read_elements(envelope.pop(ROWS_FIELD))), envelope)
    except (*_FAILURES, KeyError):
        return _readable((line.strip(_BLANK) for line in text.split(b"\n")), {})


def _readable(parts: Iterable[bytes], envelope: Mapping[str, msgspec.Raw]) -> Sequence[Mapping[str, bytes]]:
    return [row for part in parts if (row := _row(part, envelope)) is not None]


def _row(part: bytes, envelope: Mapping[str, msgspec.Raw]) -> Mapping[str, bytes] | None:
    """The fields of a part that is an object, with its envelope's: under `envelope.<name>` where it has them too."""
    if not part.startswith(b"{"):
        return None
    try:
        _read(part)  # raw values are not looked into; what is shown has to be JSON
        members = _read_members(part)
        both = {f"envelope.{name}": raw for name, raw in envelope.items() if name in members}
        return _flat({**envelope, **members, **both})
    except _FAILURES:
        return None


def _flat(members: Mapping[str, msgspec.Raw]) -> dict[str, bytes]:
    flat: dict[str, bytes] = {}
    _follow(flat, "", members, MAX_LEVELS)
    return flat


def _follow(flat: dict[str, bytes], prefix: str, members: Mapping[str, msgspec.Raw], levels: int) -> None:
    for name, raw in members.items():
        path = prefix + name
        leaf = bytes(raw).strip(_BLANK)
        if leaf.startswith(b"{") and levels > 1 and len(path) <= MAX_PATH_CHARS:
            inner = _read_members(leaf)
            if inner:
                _follow(flat, f"{path}.", inner, levels - 1)
                continue
        flat[path] = leaf


def _plain(leaf: bytes | None) -> Any:
    return None if leaf is None else _read(leaf)
