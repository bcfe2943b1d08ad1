"""JSON texts of payloads, strictly read: RFC 8259, and nothing that two readers could take for two different things.

`parse` reads one text. The others take a payload apart without reading its parts, so that each element of an array
keeps its own bytes and a bad one does not touch its neighbours.

Every answer depends on the bytes alone. The parser's own limit of nesting depends on who calls it, so what nests
deeper than `MAX_RECORD_DEPTH`, far below that limit, is refused as a whole whichever way it fails.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

import msgspec

from sink.payload.reasons import UndecodableError, shown

MAX_DEPTH: Final = 128
"""Levels of nesting of what becomes one row."""
MAX_RECORD_DEPTH: Final = 256
"""Levels of nesting of a whole payload; leaves room for the array or object around the rows, and is below what any
parser here can do."""

_FAILURES: Final = (msgspec.DecodeError, ValueError, RecursionError)
_BLANK: Final = b" \t\r\n"  # RFC 8259 section 2
_LINE: Final = re.compile(rb"[^\n]+")
_NESTING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)
_PLACE: Final = re.compile(r"\(byte (\d+)\)$")  # in the parser's messages; the rest of them is its own wording

read: Final = msgspec.json.Decoder().decode
"""Any JSON value; raises what `failure` explains."""
read_flat: Final = msgspec.json.Decoder(dict[str, int | float | str | bool | None]).decode
"""An object that nests nothing, the same values as `read` gives; raises for anything else. As fast, and checked."""
_read_elements: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_read_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_read_raw: Final = msgspec.json.Decoder(msgspec.Raw).decode


def parse(text: bytes) -> Any:
    """One JSON value. Raises UndecodableError with the reason."""
    try:
        value = read(text)
    except _FAILURES as error:
        raise failure(text, error) from None
    check(text, value)
    return value


def check(text: bytes, value: Any) -> None:
    """Refuse what is nested too deep, and an object that names a member twice.

    Which of two equal names counts is anyone's guess (RFC 8259 section 4). A parsed value tells how many quotation
    marks its text needs; only when the text has others (a duplicate, or an escaped one) is it parsed again, slowly.
    """
    if type(value) is not dict and type(value) is not list:
        return
    if text.count(b'"') != _quotes(value, MAX_DEPTH):
        if too_deep(text):  # in a member that another of its name hides
            raise UndecodableError("too-deep")
        json.loads(text.decode(), object_pairs_hook=_unique)


def elements(text: bytes) -> list[bytes]:
    """The elements of an array, each as its own bytes. Raises UndecodableError."""
    try:
        return [bytes(raw) for raw in _read_elements(text)]
    except _FAILURES as error:
        raise failure(text, error) from None


def members(text: bytes) -> dict[str, bytes]:
    """The members of an object, each value as its own bytes. Raises UndecodableError."""
    try:
        found = {name: bytes(raw) for name, raw in _read_members(text).items()}
    except _FAILURES as error:
        raise failure(text, error) from None
    if text.count(b'"') != 2 * len(found) + sum(raw.count(b'"') for raw in found.values()):
        _refuse_equal_names(text)
    return found


def lines(text: bytes, limit: int) -> list[bytes]:
    """The lines that are not blank, at most `limit`, without the blanks around them."""
    return list(islice(_lines(text), limit))


def is_one_text(text: bytes) -> bool:
    """Whether this is one JSON text by its syntax; what it holds may still be refused."""
    try:
        _read_raw(text)
    except _FAILURES:
        return False
    return True


def is_object(text: bytes) -> bool:
    """Whether a text is an object by its syntax; its values may still be refused."""
    return text.startswith(b"{") and not too_deep(text) and is_one_text(text)


def starts_with(text: bytes, bracket: bytes) -> bool:
    """Whether the first byte that is not blank is `bracket`."""
    return text.lstrip(_BLANK).startswith(bracket)


def too_deep(text: bytes) -> bool:
    """Whether a payload nests deeper than any is looked into. Takes its brackets at their word, whatever is wrong."""
    if text.count(b"[") + text.count(b"{") <= MAX_RECORD_DEPTH:
        return False
    depth = 0
    for match in _NESTING.finditer(text):
        first = text[match.start()]
        if first in b"[{":
            depth += 1
            if depth > MAX_RECORD_DEPTH:
                return True
        elif first in b"]}":
            depth -= 1
    return False


def failure(text: bytes, error: Exception) -> UndecodableError:
    """Why the parser refused a text."""
    if not text:
        return UndecodableError("empty")
    if isinstance(error, RecursionError) or too_deep(text):
        return UndecodableError("too-deep")
    if isinstance(error, UnicodeDecodeError):
        return UndecodableError("invalid-utf8")
    if isinstance(error, msgspec.ValidationError) or not isinstance(error, msgspec.DecodeError):
        return UndecodableError("number-out-of-range")
    place = _PLACE.search(str(error))
    return UndecodableError("not-json", f"near byte {place[1]}" if place else "")


def _lines(text: bytes) -> Iterator[bytes]:
    for match in _LINE.finditer(text):
        line = match[0].strip(_BLANK)
        if line:
            yield line


def _quotes(value: Any, levels: int) -> int:
    """Quotation marks of a value's members, or items, and all below them."""
    if levels == 0:
        raise UndecodableError("too-deep")
    if type(value) is dict:
        count = 2 * len(value)
        items = value.values()
    else:
        count = 0
        items = value
    for item in items:
        kind = type(item)
        if kind is str:
            count += 2
        elif kind is dict or kind is list:
            count += _quotes(item, levels - 1)
    return count


def _unique(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise UndecodableError("duplicate-field", _named_twice(pairs))
    return found


def _named_twice(pairs: list[tuple[str, Any]]) -> str:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            return f"{shown(name)} is named twice"
        seen.add(name)
    raise AssertionError("called for names that differ")


def _refuse_equal_names(text: bytes) -> None:
    """Refuse an object whose own members meet; what its values hold is looked at when they are read."""
    if too_deep(text):
        raise UndecodableError("too-deep")
    outermost: list[tuple[str, Any]] = []

    def remember(pairs: list[tuple[str, Any]]) -> None:
        nonlocal outermost
        outermost = pairs  # inner objects end first

    # Nothing in a value can fail here: numbers stay text, and bytes that are not UTF-8 stand for themselves.
    json.loads(text.decode(errors="surrogateescape"), object_pairs_hook=remember, parse_int=str, parse_float=str)
    _unique(outermost)
