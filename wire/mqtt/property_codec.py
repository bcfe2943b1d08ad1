"""The properties of MQTT 5.0 as bytes: one table of all of them, and who carries which, section 2.2.2.

Theory
    `PROPERTIES` says of each property its number, its name, how its value is written and which values it may have. A
    packet's properties are a class (`wire.mqtt.properties`), and the names of its fields say which properties it
    carries. `Carrier` brings both together: one of them for each class, to read and to write.

    A property that the packet may not carry, or a value that is not of its type, makes a malformed packet (0x81); one
    that comes twice, or has a value that its type allows and its section does not, is a protocol error (0x82).

Order
    Properties are written in the order of their class's fields. Of those that come more than once the order among
    themselves is kept, reading and writing [MQTT5-3.3.2-18]; no other order means anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Final, Generic, TypeVar

from wire.mqtt.errors import MalformedPacketError, ProtocolError
from wire.mqtt.fields import (
    encode_binary,
    encode_string,
    encode_varint,
    read_binary,
    read_string,
    read_string_pair,
    read_uint8,
    read_uint16,
    read_uint32,
    read_varint,
)
from wire.mqtt.packets import MAX_REMAINING_LENGTH
from wire.mqtt.properties import (
    NO_ACK_PROPERTIES,
    NO_AUTH_PROPERTIES,
    NO_CONNACK_PROPERTIES,
    NO_CONNECT_PROPERTIES,
    NO_DISCONNECT_PROPERTIES,
    NO_PUBLISH_PROPERTIES,
    NO_SUBSCRIBE_PROPERTIES,
    NO_UNSUBSCRIBE_PROPERTIES,
    NO_WILL_PROPERTIES,
    AckProperties,
    AuthProperties,
    ConnAckProperties,
    ConnectProperties,
    DisconnectProperties,
    PublishProperties,
    SubscribeProperties,
    UnsubscribeProperties,
    WillProperties,
)
from wire.mqtt.reasons import ReasonCode
from wire.mqtt.topics import check_response_topic

_P = TypeVar("_P")
Read = Callable[[bytes, int, int, str], tuple[Any, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One of the data types of section 1.5. `most` bounds numbers; None for what is no number."""

    name: str
    read: Read
    write: Callable[[Any], bytes]
    most: int | None = None


def _write_pair(pair: tuple[str, str]) -> bytes:
    return encode_string(pair[0]) + encode_string(pair[1])


BYTE: Final = Kind(name="Byte", read=read_uint8, write=lambda value: bytes((value,)), most=0xFF)
UINT16: Final = Kind(
    name="Two Byte Integer", read=read_uint16, write=lambda value: value.to_bytes(2, "big"), most=0xFFFF
)
UINT32: Final = Kind(
    name="Four Byte Integer", read=read_uint32, write=lambda value: value.to_bytes(4, "big"), most=0xFFFF_FFFF
)
VARINT: Final = Kind(name="Variable Byte Integer", read=read_varint, write=encode_varint, most=MAX_REMAINING_LENGTH)
STRING: Final = Kind(name="UTF-8 Encoded String", read=read_string, write=encode_string)
BINARY: Final = Kind(name="Binary Data", read=read_binary, write=encode_binary)
PAIR: Final = Kind(name="UTF-8 String Pair", read=read_string_pair, write=_write_pair)


@dataclass(frozen=True, slots=True, kw_only=True)
class Property:
    """One row of the table.

    `name` is its field's where it comes once, `plural` where it may come more than once. `clause` is what a value
    outside `least`..`most` breaks, with `reason`. `is_flag`: 0 and 1, a bool in its field. `check` raises for a text
    that its section does not allow.
    """

    number: int
    name: str
    kind: Kind
    clause: str
    plural: str | None = None
    least: int = 0
    most: int | None = None
    is_flag: bool = False
    reason: ReasonCode = ReasonCode.PROTOCOL_ERROR
    check: Callable[[str], None] | None = None

    @property
    def is_judged(self) -> bool:
        """Its type allows values that its section does not."""
        return self.least > 0 or self.most is not None or self.check is not None

    def judge(self, value: Any, offset: int) -> Any:
        """What its field gets for a value as it was read at `offset`; ProtocolError if it may not have it."""
        if self.check is not None:
            self.check(value)
        elif value < self.least or (self.most is not None and value > self.most):
            raise ProtocolError(self.clause, f"the {self.shown} is {value}", offset=offset, reason_code=self.reason)
        return bool(value) if self.is_flag else value

    @property
    def shown(self) -> str:
        """As the specification calls it, for messages."""
        return self.name.removesuffix("_s").removesuffix("_bytes").replace("_", " ")


def _flag(number: int, name: str, clause: str) -> Property:
    return Property(number=number, name=name, kind=BYTE, clause=clause, most=1, is_flag=True)


def _plain(number: int, name: str, kind: Kind, clause: str, **more: Any) -> Property:
    return Property(number=number, name=name, kind=kind, clause=clause, **more)


PROPERTIES: Final = (
    _flag(0x01, "payload_format_indicator", "MQTT5-3.3.2.3.2"),
    _plain(0x02, "message_expiry_interval_s", UINT32, "MQTT5-3.3.2.3.3"),
    _plain(0x03, "content_type", STRING, "MQTT5-3.3.2.3.9"),
    _plain(0x08, "response_topic", STRING, "MQTT5-3.3.2.3.5", check=check_response_topic),
    _plain(0x09, "correlation_data", BINARY, "MQTT5-3.3.2.3.6"),
    _plain(0x0B, "subscription_identifier", VARINT, "MQTT5-3.8.2.1.2", plural="subscription_identifiers", least=1),
    _plain(0x11, "session_expiry_interval_s", UINT32, "MQTT5-3.1.2.11.2"),
    _plain(0x12, "assigned_client_identifier", STRING, "MQTT5-3.2.2.3.7"),
    _plain(0x13, "server_keep_alive_s", UINT16, "MQTT5-3.2.2.3.14"),
    _plain(0x15, "authentication_method", STRING, "MQTT5-3.1.2.11.9"),
    _plain(0x16, "authentication_data", BINARY, "MQTT5-3.1.2.11.10"),
    _flag(0x17, "request_problem_information", "MQTT5-3.1.2.11.7"),
    _plain(0x18, "will_delay_interval_s", UINT32, "MQTT5-3.1.3.2.2"),
    _flag(0x19, "request_response_information", "MQTT5-3.1.2.11.6"),
    _plain(0x1A, "response_information", STRING, "MQTT5-3.2.2.3.15"),
    _plain(0x1C, "server_reference", STRING, "MQTT5-3.2.2.3.16"),
    _plain(0x1F, "reason_string", STRING, "MQTT5-3.2.2.3.9"),
    _plain(0x21, "receive_maximum", UINT16, "MQTT5-3.1.2.11.3", least=1),
    _plain(0x22, "topic_alias_maximum", UINT16, "MQTT5-3.1.2.11.5"),
    _plain(0x23, "topic_alias", UINT16, "MQTT5-3.3.2-8", least=1, reason=ReasonCode.TOPIC_ALIAS_INVALID),
    _plain(0x24, "maximum_qos", BYTE, "MQTT5-3.2.2.3.4", most=1),
    _flag(0x25, "retain_available", "MQTT5-3.2.2.3.5"),
    _plain(0x26, "user_property", PAIR, "MQTT5-2.2.2.2", plural="user_properties"),
    _plain(0x27, "maximum_packet_size_bytes", UINT32, "MQTT5-3.1.2.11.4", least=1),
    _flag(0x28, "wildcard_subscription_available", "MQTT5-3.2.2.3.11"),
    _flag(0x29, "subscription_identifier_available", "MQTT5-3.2.2.3.12"),
    _flag(0x2A, "shared_subscription_available", "MQTT5-3.2.2.3.13"),
)
"""Section 2.2.2.2, all of them, by number."""


class Carrier(Generic[_P]):
    """Reads and writes the properties of one class; `empty` is the class's shared instance without any."""

    __slots__ = ("_by_number", "_make", "_written", "empty")

    def __init__(self, make: Callable[..., _P], empty: _P) -> None:
        self._make = make
        self.empty = empty
        names = [field.name for field in fields(empty)]  # type: ignore[arg-type]  # each is one of our dataclasses
        rows = {name: row for row in PROPERTIES for name in (row.name, row.plural) if name is not None}
        self._written = tuple((name, rows[name], name == rows[name].plural) for name in names)
        self._by_number = {
            row.number: (name, row, repeats, row.is_judged, row.kind.read, row.shown)
            for name, row, repeats in self._written
        }

    @property
    def once(self) -> frozenset[int]:
        """The numbers of what this class carries once at most."""
        return frozenset(row.number for _, row, repeats in self._written if not repeats)

    @property
    def repeatable(self) -> frozenset[int]:
        """The numbers of what may come more than once."""
        return frozenset(row.number for _, row, repeats in self._written if repeats)

    def read(self, data: bytes, at: int, end: int) -> tuple[_P, int]:
        """The properties whose length begins at `at`, and where what follows them begins; `end` is the packet's.

        No cursor and no copy of the packet, so a loop over many packets can call it in place. Offsets in errors
        count from the first byte of `data`: such a loop decodes the packet again by itself to raise the error.
        """
        if at < end and data[at] == 0:
            return self.empty, at + 1
        length, at = read_varint(data, at, end, "property length")
        stop = at + length
        if stop > end:
            raise MalformedPacketError("MQTT5-2.2.2", "the properties are longer than the packet", offset=end)
        by_number = self._by_number
        values: dict[str, Any] = {}
        while at < stop:
            found = by_number.get(data[at])
            if found is None:
                raise self._not_carried(data, at, stop)
            name, row, repeats, is_judged, read, shown = found
            value, after = read(data, at + 1, stop, shown)
            if is_judged:
                value = row.judge(value, at)
            if repeats:
                values.setdefault(name, []).append(value)
            elif name in values:
                raise ProtocolError(row.clause, f"the {shown} comes twice", offset=at)
            else:
                values[name] = value
            at = after
        return self._finished(values, stop), stop

    def _finished(self, values: dict[str, Any], offset: int) -> _P:
        for name, value in values.items():
            if type(value) is list:
                values[name] = tuple(value)
        if "authentication_data" in values and "authentication_method" not in values:
            raise ProtocolError("MQTT5-3.1.2.11.10", "authentication data without a method", offset=offset)
        return self._make(**values)

    def _not_carried(self, data: bytes, at: int, stop: int) -> MalformedPacketError:
        number, _ = read_varint(data, at, stop, "property identifier")
        carrier = type(self.empty).__name__.removesuffix("Properties").upper()
        row = next((row for row in PROPERTIES if row.number == number), None)
        what = f"there is no property {number:#04x}" if row is None else f"a {row.shown} is no property of a {carrier}"
        return MalformedPacketError("MQTT5-2.2.2.2", what, offset=at)

    def encode(self, properties: _P) -> bytes:
        """Their length and they; one zero byte if there are none [MQTT5-2.2.2-1].

        Raises ValueError for values that they may not have.
        """
        if properties is self.empty:
            return b"\0"
        encoded = self.encode_bare(properties)
        return encode_varint(len(encoded)) + encoded

    def encode_bare(self, properties: _P) -> bytes:
        """They without their length."""
        parts: list[bytes] = []
        for name, row, repeats in self._written:
            value = getattr(properties, name)
            if repeats:
                parts.extend(encode_property(row, one) for one in value)
            elif value is not None:
                parts.append(encode_property(row, value))
        _refuse_data_alone(properties)
        return b"".join(parts)


def _refuse_data_alone(properties: object) -> None:
    data = getattr(properties, "authentication_data", None)
    if data is not None and getattr(properties, "authentication_method", None) is None:
        raise ValueError("[MQTT5-3.1.2.11.10] authentication data needs a method")


def encode_property(row: Property, value: Any) -> bytes:
    """One property: its number and its value. Raises ValueError for a value that it may not have."""
    most = row.kind.most if row.most is None else row.most
    if most is not None and not row.least <= value <= most:
        raise ValueError(f"[{row.clause}] the {row.shown} is {row.least} to {most}, not {value}")
    if row.check is not None:
        try:
            row.check(value)
        except ProtocolError as error:
            raise ValueError(str(error)) from None
    return bytes((row.number,)) + row.kind.write(value)


CONNECT: Final = Carrier(ConnectProperties, NO_CONNECT_PROPERTIES)
WILL: Final = Carrier(WillProperties, NO_WILL_PROPERTIES)
CONNACK: Final = Carrier(ConnAckProperties, NO_CONNACK_PROPERTIES)
PUBLISH: Final = Carrier(PublishProperties, NO_PUBLISH_PROPERTIES)
ACK: Final = Carrier(AckProperties, NO_ACK_PROPERTIES)
SUBSCRIBE: Final = Carrier(SubscribeProperties, NO_SUBSCRIBE_PROPERTIES)
UNSUBSCRIBE: Final = Carrier(UnsubscribeProperties, NO_UNSUBSCRIBE_PROPERTIES)
DISCONNECT: Final = Carrier(DisconnectProperties, NO_DISCONNECT_PROPERTIES)
AUTH: Final = Carrier(AuthProperties, NO_AUTH_PROPERTIES)

read_publish_properties: Final = PUBLISH.read
"""For a receive loop: the properties of a PUBLISH, in place."""
