"""Payloads for people and programs: decoded when asked, raw when they cannot be."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

_decode_any: Final = msgspec.json.Decoder().decode
MAX_DEPTH: Final = 128  # as in exports: what is nested deeper goes to quarantine there
COMPACT_CHARS: Final = 160  # of a reading in a table row
COMPACT_FIELDS: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """A payload in exactly one of three forms: `json` (the device's own bytes, valid), `text` or `base64`."""

    json: bytes | None = None
    text: str | None = None
    base64: str | None = None


def _decode(value: bytes) -> Any:
    """A payload's JSON value. Raises MsgspecError, or RecursionError for one nested deeper than `MAX_DEPTH`.

    How deep a parser itself will go differs between releases of Python; a reader's may go less deep than ours.
    """
    decoded = _decode_any(value)
    if value.count(b"[") + value.count(b"{") > MAX_DEPTH:
        level = [decoded]
        for _ in range(MAX_DEPTH):
            level = [item for holder in level for item in _items(holder) if isinstance(item, (dict, list))]
            if not level:
                return decoded
        raise RecursionError(f"nested deeper than {MAX_DEPTH} levels")
    return decoded


def _items(holder: Any) -> Iterable[Any]:
    if isinstance(holder, dict):
        return holder.values()
    return holder if isinstance(holder, list) else ()


def present(value: bytes) -> Payload:
    """JSON if it is JSON, else text if it is UTF-8, else base64."""
    try:
        _decode(value)
    except (msgspec.MsgspecError, RecursionError):  # RecursionError: nested deeper than anyone's parser will go
        pass
    else:
        return Payload(json=value)
    try:
        return Payload(text=value.decode())
    except UnicodeDecodeError:
        return Payload(base64=base64.b64encode(value).decode())


def compact(value: bytes | None) -> str:
    """One line of a payload: `temperature=21.5 rpm=1480 state=running`, cut at `COMPACT_CHARS`."""
    if value is None:
        return "(large; open the device to see it)"
    if not value:
        return "(empty)"
    shown = present(value)
    if shown.json is not None:
        text = _line(_decode(shown.json))
    elif shown.text is not None:
        text = " ".join(shown.text.split())
    else:
        text = f"({len(value)} bytes, not text)"
    return text if len(text) <= COMPACT_CHARS else text[: COMPACT_CHARS - 1] + "…"


def fields(value: bytes) -> list[tuple[str, str]]:
    """Name and value of each field of a JSON object, in the device's order; empty for anything else."""
    try:
        decoded = _decode(value)
    except (msgspec.MsgspecError, RecursionError):
        return []
    if not isinstance(decoded, dict):
        return []
    return [(name, _scalar(content)) for name, content in decoded.items()]


def _line(decoded: Any) -> str:
    if not isinstance(decoded, dict):
        return _scalar(decoded)
    shown = [(name, content) for name, content in decoded.items() if name not in ("ts", "device", "seq")]
    return " ".join(f"{name}={_scalar(content)}" for name, content in (shown or list(decoded.items()))[:COMPACT_FIELDS])


def _scalar(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, float):
        return f"{content:.6g}" if abs(content) < 1e6 else repr(content)
    return msgspec.json.encode(content).decode()
