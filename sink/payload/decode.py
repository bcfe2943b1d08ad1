"""Payloads into rows, one record at a time: a bad payload never touches its neighbours, nor a bad part its siblings.

This is the plain reference: whatever else reads payloads into columns has to come to the same rows. A decoder gives
the rows of a record and what it refuses with the reason; what is refused is kept raw, in quarantine. Rows are numbered
by the place of their element or line in the record, bad ones counted, so that (topic id, partition, offset, row) is in
exactly one place, and every record is in at least one. Whoever changes what a decoder answers for any payload raises
its version.

Rules of `json/2` (docs/formats-parquet.md states them for readers):

* An object is one row. An array in which any element is an object is a row for each element. An object whose member
  `readings` is an array is a row for each of its elements, to which the other members, the envelope, are added.
* Text that is not one JSON value but has several lines, one of them an object, is a row for each line.
* Anything else is one row with one field. A record without rows is refused as `no-rows`, so that it is somewhere.
* A member of the envelope that an element has too is the field `envelope.<name>`: neither value is dropped.
* What is refused of a record with an envelope needs the envelope to become a row: the first refused row keeps the whole
  payload, the others of the record point to it.
* Which parts a record has depends on its payload alone, never on a schema or a setting: `_row` means the same part in
  every reading, so that what was refused once can be read again by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final, Literal, Protocol

import msgspec

from commitlog.base import Record
from sink.payload import strict_json
from sink.payload.flatten import flatten
from sink.payload.kinds import Fields, describe
from sink.payload.reasons import Reason, UndecodableError, shown
from sink.payload.schema import Schema
from sink.payload.times import MS_FROM, MS_TO, US_PER_MS, Skew, time_us
from wire.paths import DEFAULT_FIELD as DEFAULT_FIELD
from wire.paths import ROWS_FIELD as ROWS_FIELD

DEVICE_HEADER: Final = "headrace.device"
FIELD_HEADER: Final = "headrace.field"
TOPIC_HEADER: Final = "mqtt.topic"
MAX_ROWS: Final = 100_000
"""Rows of a record: a day of one reading a second fits. Bounds what a few bytes a row (`[{},{},...`) take in memory."""
MAX_ENVELOPE_BYTES: Final = 64 << 20
"""What a record's envelope adds to its rows, all together: it is repeated in each."""
_REMEMBERED: Final = 65_536  # texts kept decoded (devices, MQTT topics); beyond it the memory is started anew


PayloadIs = Literal["record", "part", "envelope", "elsewhere"]
"""What a refused row's payload is. `record`: the record is refused as a whole, and this is it. `part`: an element or
line is, and these are its own bytes. `envelope`: an element is, and this is the whole record, as the envelope belongs
to its row. `elsewhere`: likewise, and the record stands in its first refused row; there is no payload here."""


class Row(msgspec.Struct, frozen=True, gc=False):
    """A row of a record: its number there, the event time in microseconds, and the values by path."""

    row: int
    ts_us: int
    fields: Fields


class Refused(msgspec.Struct, frozen=True, gc=False):
    """A part of a record, or all of it, that is no row: its number, why, and what is kept of it."""

    row: int
    reason: Reason
    detail: str
    payload: bytes | None
    payload_is: PayloadIs = "record"


class Decoded(msgspec.Struct, frozen=True, gc=False):
    """All of a record; the numbers of rows and of what is refused never meet."""

    rows: Sequence[Row]
    refused: Sequence[Refused] = ()


class Decoder(Protocol):
    """Turns records into rows."""

    version: ClassVar[str]
    """Name and version, as in plans and file metadata."""
    has_parts: ClassVar[bool]
    """Whether a record may be several rows."""

    def decode(self, value: bytes | None, field: str, received_us: int) -> Decoded:
        """Rows of a payload, and what is refused of it; `field` names what is no object. Never raises."""
        ...

    def decode_part(self, number: int, value: bytes, received_us: int) -> Row | Refused:
        """The element or line of that number of a record, by itself, as `decode` has it. Never raises."""
        ...


class RawDecoder:
    """The payload as it is, in one binary column; the event time is the time received."""

    version: ClassVar[str] = "raw/1"
    has_parts: ClassVar[bool] = False

    def decode(self, value: bytes | None, field: str, received_us: int) -> Decoded:
        """See `Decoder.decode`."""
        return Decoded((Row(0, received_us, {"payload": value}),))

    def decode_part(self, number: int, value: bytes, received_us: int) -> Row | Refused:
        """See `Decoder.decode_part`. A record has no parts here."""
        return Refused(number, "no-rows", "a raw payload has no parts", value, "part")


class JsonDecoder:
    """JSON (RFC 8259) into rows, by the rules above."""

    version: ClassVar[str] = "json/2"
    has_parts: ClassVar[bool] = True

    def __init__(
        self,
        timestamp_field: str,
        skew: Skew,
        rows_field: str = ROWS_FIELD,
        schema: Schema | None = None,
    ) -> None:
        self._timestamp_field = timestamp_field
        self._latest_us = skew.ahead_us
        self._earliest_us = -skew.behind_us
        self._rows_field = rows_field
        self._schema = schema
        self._read_flat = strict_json.read_flat
        self._leaves = frozenset[str]() if schema is None else schema.names

    def decode(self, value: bytes | None, field: str, received_us: int) -> Decoded:
        """See `Decoder.decode`."""
        try:
            if value is None:
                return Decoded((self._row(0, {}, received_us),))
            try:
                fields = self._read_flat(value)
            except (ValueError, RecursionError):  # msgspec's own error is a ValueError
                return self._any(value, field, received_us)
            # Each member but the first needs a comma: one less than members leaves none for a second of the same name.
            if value.count(b",") == len(fields) - 1:
                return Decoded((self._row(0, fields, received_us),))
            return self._any(value, field, received_us)
        except UndecodableError as error:
            return Decoded((), (Refused(0, error.reason, error.detail, value),))

    def decode_part(self, number: int, value: bytes, received_us: int) -> Row | Refused:
        """See `Decoder.decode_part`."""
        try:
            return self._row(number, self._part(value, {}), received_us)
        except UndecodableError as error:
            return Refused(number, error.reason, error.detail, value, "part")

    # All of these raise UndecodableError where the record is refused as a whole.

    def _any(self, text: bytes, field: str, received_us: int) -> Decoded:
        try:
            value = strict_json.read(text)
        except (ValueError, RecursionError) as error:
            return self._unreadable(text, strict_json.failure(text, error), received_us)
        if type(value) is dict and type(value.get(self._rows_field)) is list:
            return self._envelope(text, received_us)
        if type(value) is list:
            if not value:
                raise UndecodableError("no-rows", "an empty array")
            if any(type(item) is dict for item in value):
                return self._elements(text, strict_json.elements(text), {}, received_us)
        strict_json.check(text, value)
        members = value if type(value) is dict else {} if value is None else {field: value}
        return Decoded((self._row(0, flatten(members, self._leaves), received_us),))

    def _envelope(self, text: bytes, received_us: int) -> Decoded:
        """An object with rows in it. Everything but the rows has to be readable, as it goes into each of them."""
        members = strict_json.members(text)
        rows = members.pop(self._rows_field)
        elements = strict_json.elements(rows)
        if len(elements) * (len(text) - len(rows)) > MAX_ENVELOPE_BYTES:
            raise UndecodableError("too-many-rows", f"{len(elements)} rows and what is to be added to each")
        envelope = {name: strict_json.parse(raw) for name, raw in members.items()}
        if not elements:
            raise UndecodableError("no-rows", "an empty array")
        return self._elements(text, elements, envelope, received_us)

    def _elements(self, text: bytes, elements: Sequence[bytes], envelope: Fields, received_us: int) -> Decoded:
        decoded = self._parts(elements, envelope, received_us)
        if any(part.reason == "too-deep" for part in decoded.refused) and strict_json.too_deep(text):
            raise UndecodableError("too-deep")
        return Decoded(decoded.rows, with_envelope(decoded.refused, text)) if envelope else decoded

    def _unreadable(self, text: bytes, refusal: UndecodableError, received_us: int) -> Decoded:
        """What is not one readable JSON text: rows in it may be, each on its own."""
        if refusal.reason in ("empty", "too-deep"):
            raise refusal
        if not strict_json.is_one_text(text):
            lines = strict_json.lines(text, MAX_ROWS + 1)
            if len(lines) > 1 and any(strict_json.is_object(line) for line in lines):
                return self._parts(lines, {}, received_us)
        elif strict_json.starts_with(text, b"["):
            elements = strict_json.elements(text)
            if any(part.startswith(b"{") for part in elements):
                return self._elements(text, elements, {}, received_us)
        elif strict_json.starts_with(text, b"{") and self._rows_in(text).startswith(b"["):
            return self._envelope(text, received_us)
        raise refusal

    def _rows_in(self, text: bytes) -> bytes:
        return strict_json.members(text).get(self._rows_field, b"")

    def _parts(self, parts: Sequence[bytes], envelope: Fields, received_us: int) -> Decoded:
        """A row for each part that is an object; the others are refused, each for itself."""
        if len(parts) > MAX_ROWS:
            raise UndecodableError("too-many-rows", f"more than {MAX_ROWS}")
        rows: list[Row] = []
        refused: list[Refused] = []
        for number, part in enumerate(parts):
            try:
                rows.append(self._row(number, self._part(part, envelope), received_us))
            except UndecodableError as error:
                refused.append(Refused(number, error.reason, error.detail, part, "part"))
        return Decoded(rows, refused)

    def _part(self, text: bytes, envelope: Fields) -> Fields:
        members = strict_json.parse(text)
        if type(members) is not dict:
            raise UndecodableError("not-an-object", f"{describe(members)} found")
        return flatten(_joined(envelope, members) if envelope else members, self._leaves)

    def _row(self, number: int, fields: Fields, received_us: int) -> Row:
        """Take the time out of the fields, and hold them against the schema. Raises UndecodableError."""
        ts_us = received_us
        told = fields.get(self._timestamp_field)
        if told is not None:
            # Milliseconds are what most devices write; a call for them would take as long as all the rest here.
            us = told * US_PER_MS if type(told) is int and MS_FROM <= told < MS_TO else time_us(told)
            if us is not None and self._earliest_us <= us - received_us <= self._latest_us:
                ts_us = us
                del fields[self._timestamp_field]
        if self._schema is not None:
            self._schema.conform(fields, self._timestamp_field)
        return Row(number, ts_us, fields)


def with_envelope(refused: Sequence[Refused], record: bytes | None) -> list[Refused]:
    """What is refused of one record with an envelope: the first has the whole record, the others point to it."""
    return [
        Refused(one.row, one.reason, one.detail, None if index else record, "elsewhere" if index else "envelope")
        for index, one in enumerate(refused)
    ]


def decoder_for(version: str, timestamp_field: str, skew: Skew, schema: Schema | None = None) -> Decoder | None:
    """The decoder of a version named in a plan or a file, or None when this release has no such decoder."""
    if version == RawDecoder.version:
        return RawDecoder()
    return JsonDecoder(timestamp_field, skew, schema=schema) if version == JsonDecoder.version else None


def _joined(envelope: Fields, members: Fields) -> Fields:
    """A row's members and those of its envelope; of those that both have, the envelope's under `envelope.<name>`."""
    joined = {**envelope, **members}
    for name, value in envelope.items():
        if name in members:
            path = f"envelope.{name}"
            if path in joined:
                raise UndecodableError("duplicate-field", f"{shown(path)} is named twice")
            joined[path] = value
    return joined


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

    def _text(self, data: bytes) -> str:
        text = self._texts.get(data)
        if text is None:
            if len(self._texts) >= _REMEMBERED:
                self._texts.clear()
            text = self._texts[data] = data.decode("utf-8", "backslashreplace")
        return text
