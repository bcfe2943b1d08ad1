"""Payloads into fields, one record at a time: a bad payload never touches its neighbours.

A decoder gives the device's time and the named values of a record, or refuses it with a reason; what is refused is
kept raw, in quarantine. Both passes over a window use the same decoder, so a file's rows are what was planned for it.
Whoever changes what a decoder answers for any payload raises its version: plans are only resumed by their own.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar, Final, Protocol

import msgspec

from commitlog.base import Record
from sink.times import device_time_us

Fields = dict[str, Any]

DEVICE_HEADER: Final = "headrace.device"
FIELD_HEADER: Final = "headrace.field"
TOPIC_HEADER: Final = "mqtt.topic"
DEFAULT_FIELD: Final = "value"
MAX_DEPTH: Final = 128
"""Levels of nesting; the parser's own limit depends on who calls it, and both passes must decide alike."""
_REMEMBERED: Final = 65_536  # texts kept decoded (devices, MQTT topics); beyond it the memory is started anew


class UndecodableError(Exception):
    """The payload cannot be read as rows; `reason` is one of a fixed few (docs/formats-parquet.md)."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Decoder(Protocol):
    """Turns records into rows."""

    version: ClassVar[str]
    """Name and version, as in plans and file metadata."""

    def decode(self, value: bytes | None, field: str, received_us: int) -> tuple[int, Fields]:
        """(event time in microseconds, fields) of a payload; `field` names a scalar. Raises UndecodableError."""
        ...


class RawDecoder:
    """The payload as it is, in one binary column; the event time is the time received."""

    version: ClassVar[str] = "raw/1"

    def decode(self, value: bytes | None, field: str, received_us: int) -> tuple[int, Fields]:
        """See `Decoder.decode`."""
        return received_us, {"payload": value}


class JsonDecoder:
    """JSON (RFC 8259): an object's members are the fields, anything else is one field; null has none."""

    version: ClassVar[str] = "json/1"

    def __init__(self, timestamp_field: str) -> None:
        self._timestamp_field = timestamp_field
        self._decode = msgspec.json.Decoder().decode

    def decode(self, value: bytes | None, field: str, received_us: int) -> tuple[int, Fields]:
        """See `Decoder.decode`."""
        if value is None:
            return received_us, {}
        try:
            decoded = self._decode(value)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise UndecodableError(_reason(value, error)) from None
        kind = type(decoded)
        if kind is dict or kind is list:
            _refuse_doubtful(value, decoded)
        if kind is not dict:
            decoded = {} if decoded is None else {field: decoded}
        return self._take_time(decoded, received_us), decoded

    def _take_time(self, fields: Fields, received_us: int) -> int:
        name = self._timestamp_field
        if name not in fields:
            return received_us
        us = device_time_us(fields[name], received_us)
        if us is None:
            return received_us
        del fields[name]
        return us


def decoder_for(version: str, timestamp_field: str) -> Decoder | None:
    """The decoder of a version named in a plan, or None when this release has no such decoder."""
    if version == RawDecoder.version:
        return RawDecoder()
    return JsonDecoder(timestamp_field) if version == JsonDecoder.version else None


def _reason(value: bytes, error: Exception) -> str:
    if not value:
        return "empty"
    if isinstance(error, UnicodeDecodeError):
        return "invalid-utf8"
    if isinstance(error, RecursionError):
        return "too-deep"
    if isinstance(error, msgspec.ValidationError) or not isinstance(error, msgspec.DecodeError):
        return "number-out-of-range"
    return "not-json"


def _refuse_doubtful(value: bytes, decoded: Any) -> None:
    """Refuse what is nested too deep, and an object that names a member twice.

    Which of two equal names counts is anyone's guess (RFC 8259 section 4). A parsed value tells how many quotation
    marks its text needs; only when the text has others (a duplicate, or an escaped one) is it parsed again, slowly.
    """
    try:
        if value.count(b'"') != _quotes(decoded, MAX_DEPTH):
            json.loads(value, object_pairs_hook=_unique)
    except RecursionError:
        raise UndecodableError("too-deep") from None


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


def _unique(pairs: list[tuple[str, Any]]) -> Fields:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise UndecodableError("duplicate-field")
    return fields


class Facts:
    """What a record says beside its payload: device, MQTT topic, and the field a scalar belongs to.

    Bytes that are not UTF-8 are shown as `\\xNN` rather than dropped.
    """

    def __init__(self) -> None:
        self._texts: dict[bytes, str] = {}

    def of(self, record: Record) -> tuple[str | None, str | None, str]:
        """(device, MQTT topic, field name for a scalar) of a record; an empty device means none."""
        device = record.key
        topic: bytes | None = None
        field = DEFAULT_FIELD
        for name, value in record.headers:
            if name == TOPIC_HEADER:
                topic = value
            elif name == DEVICE_HEADER:
                device = value
            elif name == FIELD_HEADER and value:
                field = self._text(value)
        texts = self._texts
        return (
            (texts.get(device) or self._text(device)) if device else None,
            None if topic is None else texts.get(topic) or self._text(topic),
            field,
        )

    def field(self, record: Record) -> str:
        """The last of the three alone."""
        field = DEFAULT_FIELD
        for name, value in record.headers:
            if name == FIELD_HEADER and value:
                field = self._text(value)
        return field

    def _text(self, data: bytes) -> str:
        text = self._texts.get(data)
        if text is None:
            if len(self._texts) >= _REMEMBERED:
                self._texts.clear()
            text = self._texts[data] = data.decode("utf-8", "backslashreplace")
        return text
