"""The quick way from payloads to columns, for records that look alike: most of a fleet's.

A fleet sends the same few fields again and again. Once such a *shape* is known (names and types, nested objects
included), thousands of payloads are parsed by one call into structs of exactly that shape, and their fields become
arrays: several times quicker than a dict for each. Whatever is not exactly of the shape - another field, another
type, a null, a list, an escaped quotation mark, a name that stands twice, broken JSON - goes the plain way, record by
record (`sink.payload.decode`), which alone says what a payload means. So this way must never decide anything
differently:

* *One payload, one struct, and no name twice.* Payloads are joined into one JSON array and parsed by one call. Of a
  struct one knows how many quotation marks its text needs: two for each name and for each string. Each payload has to
  have as many as the struct at its place. A parser keeps the last of two equal names silently: then there are more. So
  there are where a mark is escaped, or where there is a null. And should a payload not be exactly one JSON text (empty,
  two texts, half of one that its neighbour completes), the two counts differ at some place: all marks are then ones
  that begin or end a name or a string, so where payload k ends, between two of them, struct k has to end too, which no
  text cut in the middle of an object does. (Empty objects have no marks; but `{}` and `{}` are the same.) A number
  that nobody can know stands after every `GROUP` payloads, and has to come out there: so payloads of one group may run
  into each other, never those of two. Where the counts of a group differ anywhere, those of other payloads in it may
  agree by chance: each of the group is then parsed by itself as well, and has to come to the struct at its place.
* *Exactly.* A shape's integers have 64 bits. Where it has numbers with a fraction, an integer is taken for one, so
  what is too large for that to be exact goes the plain way.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sink.payload.batches import STORED_TYPES, Stored
from sink.payload.flatten import MAX_PATH_CHARS

MAX_SHAPE_FIELDS: Final = 256  # more and it is no shape, but a device that makes up names
MAX_SHAPE_DEPTH: Final = 4  # levels of objects; deeper ones go the plain way
MAX_CHANGES: Final = 64  # of the shape in one window: one that goes on changing is not worth a new parser each time
GROUP: Final = 64  # payloads between two of the numbers that keep them apart
LEARN_FROM: Final = 16  # payloads of a chunk that went the plain way
_EXACT: Final = float(2**53)
_QUOTE: Final = ord('"')
_NO_MEMBER: Final = re.compile(r'["\\\x00-\x1f]')  # names that JSON escapes are none that a struct can have

_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_TYPES: Final[Mapping[type, Any]] = {int: _Int64 | None, float: float | None, str: str | None, bool: bool | None}
_STORED: Final[Mapping[type, str]] = {int: "int64", float: "double", str: "string", bool: "bool"}

Bools = npt.NDArray[np.bool_]
Marks = npt.NDArray[np.int32]


class Shape(dict[str, Any]):
    """Field name -> int, float, str, bool, or the Shape of a nested object."""

    def widen(self, decoded: Mapping[str, Any], depth: int = 1) -> bool:
        """Make room for a payload's fields; whether that changed anything."""
        changed = False
        for name, value in decoded.items():
            if _NO_MEMBER.search(name):
                continue
            kind, known = type(value), self.get(name)
            if kind is dict:
                changed |= self._widen_nested(name, value, depth)
            elif kind in _STORED and (known is None or (known is int and kind is float)):
                self[name] = kind
                changed = True
        return changed

    def _widen_nested(self, name: str, value: Mapping[str, Any], depth: int) -> bool:
        known = self.get(name)
        if depth >= MAX_SHAPE_DEPTH or not (known is None or isinstance(known, Shape)):
            return False
        nested = known if isinstance(known, Shape) else Shape()
        changed = nested.widen(value, depth + 1)
        if nested:
            self[name] = nested
        return changed

    def paths(self, prefix: str = "") -> list[str]:
        """The fields' paths."""
        found = []
        for name, kind in self.items():
            found += kind.paths(f"{prefix}{name}.") if isinstance(kind, Shape) else [prefix + name]
        return found


@dataclass(frozen=True, slots=True)
class _Member:
    """A field of a struct: how to get it from many, its path, and its type or the struct of a nested object."""

    get: Callable[[Sequence[Any]], list[Any]]
    path: str
    kind: Any


class _Struct:
    """A msgspec struct made for a shape, and the way from many of them to arrays."""

    def __init__(self, shape: Shape, prefix: str = "") -> None:
        self.members: list[_Member] = []
        fields, names = [], {}
        for number, (name, kind) in enumerate(shape.items()):
            attribute = f"f{number}"
            inner = _Struct(kind, f"{prefix}{name}.") if isinstance(kind, Shape) else kind
            self.members.append(_Member(_getter(attribute), prefix + name, inner))
            fields.append((attribute, inner.type | None if isinstance(inner, _Struct) else _TYPES[kind], None))
            names[attribute] = name
        self.type: Any = msgspec.defstruct("Payload", fields, rename=names, forbid_unknown_fields=True, gc=False)
        self.blank = self.type()

    def columns(self, structs: Sequence[Any], fields: dict[str, tuple[str, pa.Array]]) -> tuple[Marks, Bools]:
        """Put the fields of structs into `fields`.

        Returns, for each struct, the quotation marks that its text needs, and whether it says all that the text did:
        its numbers are exact, and no nested object is empty (an empty one is a value, which arrays do not hold).
        """
        marks, exact = np.zeros(len(structs), np.int32), np.ones(len(structs), np.bool_)
        for member in self.members:
            values = member.get(structs)
            if isinstance(member.kind, _Struct):
                present = np.array([value is not None for value in values], np.bool_)
                inner = member.kind
                inside = [inner.blank if value is None else value for value in values]
                inner_marks, inner_exact = inner.columns(inside, fields)
                marks += inner_marks + 2 * present
                exact &= inner_exact & ((inner_marks > 0) | ~present)
                continue
            kind = _STORED[member.kind]
            array = _array(values, kind)
            fields[member.path] = (kind, array)
            each = 4 if member.kind is str else 2
            marks += each * _valid(array) if array.null_count else each
            if member.kind is float:
                exact &= np.abs(_numbers(array)) < _EXACT
        return marks, exact


def _array(values: list[Any], kind: str) -> pa.Array:
    """As an Arrow array; integers of which none is missing go the shorter way. (Of a double, NumPy makes None NaN.)"""
    if kind == "int64":
        try:
            return pa.array(np.fromiter(values, np.int64, len(values)))
        except TypeError:  # there is a None among them
            pass
    return pa.array(values, STORED_TYPES[kind])


@cache
def _getter(attribute: str) -> Callable[[Sequence[Any]], list[Any]]:
    """The values of an attribute of many structs.

    Compiled for each name, as a literal attribute is read in a third of the time that `attrgetter` takes. The names
    are the ones made up here (f0, f1, ...), never a payload's.
    """
    getter: Callable[[Sequence[Any]], list[Any]] = eval(f"lambda structs: [one.{attribute} for one in structs]")
    return getter


class Uniform:
    """Payloads that have the shape: their `indexes` in what was parsed, and their fields by path, kind and array."""

    __slots__ = ("fields", "indexes")

    def __init__(self, indexes: npt.NDArray[np.int64], fields: dict[str, tuple[str, pa.Array]]) -> None:
        self.indexes = indexes
        self.fields = fields

    def picked(self, mask: Bools) -> Uniform:
        """Those where `mask` is true."""
        chosen = pa.array(mask)
        fields = {path: (kind, array.filter(chosen)) for path, (kind, array) in self.fields.items()}
        return Uniform(self.indexes[mask], fields)

    def stored(self) -> dict[str, Stored]:
        """The fields as a `RowBatch` keeps them; one that no payload has is left out."""
        return {path: {kind: array} for path, (kind, array) in self.fields.items() if array.null_count < len(array)}


class UniformJson:
    """Learns the shape of a window's payloads, and parses those that have it."""

    def __init__(self) -> None:
        self._shape = Shape()
        self._changes = 0
        self._struct: _Struct | None = None
        self._one: Any = None
        self._many: Any = None
        self._nonce = secrets.randbits(62) | 1 << 61
        self._separator = b",%d," % self._nonce

    @property
    def knows_nothing(self) -> bool:
        """Whether no payload was learnt from."""
        return not self._shape

    def learn(self, payloads: Sequence[bytes | None]) -> bool:
        """Widen the shape by payloads that did not have it; whether that changed it.

        Not by one with a list: no shape has any, and what stands beside `readings` may be another field in its rows.
        """
        if self._changes >= MAX_CHANGES:
            return False
        changed = False
        for payload in payloads[:LEARN_FROM]:
            try:
                decoded = msgspec.json.decode(payload or b"")
            except (msgspec.DecodeError, ValueError, RecursionError):
                continue
            if type(decoded) is dict and list not in map(type, decoded.values()):
                changed |= self._shape.widen(decoded)
        if changed:
            self._changes += 1
            self._make()
        return changed

    def _make(self) -> None:
        paths = self._shape.paths()
        too_large = len(paths) > MAX_SHAPE_FIELDS or max(map(len, paths), default=0) > MAX_PATH_CHARS
        if too_large:
            self._changes = MAX_CHANGES
        if not paths or too_large or len(set(paths)) < len(paths):  # two fields of one path are the plain way's
            self._struct = None
            return
        self._struct = _Struct(self._shape)
        self._one = msgspec.json.Decoder(self._struct.type).decode
        self._many = msgspec.json.Decoder(list[self._struct.type | int]).decode  # type: ignore[name-defined]

    def parse(self, payloads: Sequence[bytes | None]) -> Uniform | None:
        """The payloads that have the shape; None when there are none, or no shape is known."""
        if self._struct is None:
            return None
        structs = self._together(payloads, self._struct)
        places = range(len(payloads))
        together = structs is not None
        if structs is None:
            structs, places = self._one_by_one(payloads)  # type: ignore[assignment]
        if not structs:
            return None
        texts = payloads if len(structs) == len(payloads) else [payloads[place] for place in places]
        fields: dict[str, tuple[str, pa.Array]] = {}
        marks, exact = self._struct.columns(structs, fields)
        right = _quotation_marks(texts) == marks  # type: ignore[arg-type]  # what was parsed is not None
        alike = exact & (self._apart(payloads, structs, right) if together else right)
        found = Uniform(np.array(places, np.int64), fields)
        return found if alike.all() else found.picked(alike)

    def _together(self, payloads: Sequence[bytes | None], struct: _Struct) -> list[Any] | None:
        """All payloads by one call, or None when one of them is not of the shape."""
        try:
            starts = range(0, len(payloads), GROUP)
            groups = [b",".join(payloads[start : start + GROUP]) for start in starts]  # type: ignore[arg-type]
            decoded = self._many(b"[%b]" % self._separator.join(groups))
        except (msgspec.DecodeError, ValueError, TypeError):  # TypeError: there is a None among them
            return None
        structs: list[Any] = []
        for start in range(0, len(decoded), GROUP + 1):
            structs += decoded[start : start + GROUP]
        between = decoded[GROUP :: GROUP + 1]
        if len(structs) != len(payloads) or between != [self._nonce] * len(between):
            return None
        return structs if set(map(type, structs)) == {struct.type} else None

    def _apart(self, payloads: Sequence[bytes | None], structs: Sequence[Any], right: Bools) -> Bools:
        """Which payloads are the structs at their places, given where the counts of quotation marks are right."""
        apart = right.copy()
        for start in np.unique(np.flatnonzero(~right) // GROUP * GROUP).tolist():
            for place in range(start, min(start + GROUP, len(payloads))):
                apart[place] &= self._is(payloads[place], structs[place])
        return apart

    def _is(self, payload: bytes | None, struct: Any) -> bool:
        try:
            return bool(self._one(payload) == struct)
        except (msgspec.DecodeError, ValueError, TypeError):
            return False

    def _one_by_one(self, payloads: Sequence[bytes | None]) -> tuple[list[Any], list[int]]:
        decode = self._one
        structs, places = [], []
        for place, payload in enumerate(payloads):
            try:
                structs.append(decode(payload))
            except (msgspec.DecodeError, ValueError, TypeError):  # TypeError: no payload at all
                continue
            places.append(place)
        return structs, places


def _quotation_marks(texts: Sequence[bytes]) -> Marks:
    """How many of them each text has; none of the texts is empty."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    starts = np.cumsum(lengths) - lengths
    is_mark = np.frombuffer(b"".join(texts), np.uint8) == _QUOTE
    counts: Marks = np.add.reduceat(is_mark.view(np.uint8), starts, dtype=np.int32)
    return counts


def _valid(array: pa.Array) -> Bools:
    valid: Bools = array.is_valid().to_numpy(zero_copy_only=False)
    return valid


def _numbers(array: pa.Array) -> npt.NDArray[np.float64]:
    filled = array.fill_null(0.0) if array.null_count else array
    numbers: npt.NDArray[np.float64] = filled.to_numpy()
    return numbers
