"""Why: the reason codes of MQTT 5.0, which packets may carry which, and what 3.1.1 has in their place.

Values carry a `ReasonCode` whatever the version of their connection. What 3.1.1 knows of them are six return codes of
a CONNACK and one failure of a SUBACK; they are mapped where a packet of that version is read or written.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final


class PacketType(IntEnum):
    """High nibble of the first byte, section 2.2.1 (5.0: 2.1.2). 0 is forbidden, and 15 in 3.1.1."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


def packet_name(first_byte: int) -> str:
    """The name of a packet's type, from its first byte; for a message about it, so also of a type that there is not."""
    number = first_byte >> 4
    return PacketType(number).name if number else "type 0"


class ReasonCode(IntEnum):
    """How an operation ended, 5.0 section 2.4: below 0x80 it succeeded. One number may have several names."""

    SUCCESS = 0x00
    NORMAL_DISCONNECTION = 0x00
    GRANTED_QOS_0 = 0x00
    GRANTED_QOS_1 = 0x01
    GRANTED_QOS_2 = 0x02
    DISCONNECT_WITH_WILL_MESSAGE = 0x04
    NO_MATCHING_SUBSCRIBERS = 0x10
    NO_SUBSCRIPTION_EXISTED = 0x11
    CONTINUE_AUTHENTICATION = 0x18
    RE_AUTHENTICATE = 0x19
    UNSPECIFIED_ERROR = 0x80
    MALFORMED_PACKET = 0x81
    PROTOCOL_ERROR = 0x82
    IMPLEMENTATION_SPECIFIC_ERROR = 0x83
    UNSUPPORTED_PROTOCOL_VERSION = 0x84
    CLIENT_IDENTIFIER_NOT_VALID = 0x85
    BAD_USER_NAME_OR_PASSWORD = 0x86
    NOT_AUTHORIZED = 0x87
    SERVER_UNAVAILABLE = 0x88
    SERVER_BUSY = 0x89
    BANNED = 0x8A
    SERVER_SHUTTING_DOWN = 0x8B
    BAD_AUTHENTICATION_METHOD = 0x8C
    KEEP_ALIVE_TIMEOUT = 0x8D
    SESSION_TAKEN_OVER = 0x8E
    TOPIC_FILTER_INVALID = 0x8F
    TOPIC_NAME_INVALID = 0x90
    PACKET_IDENTIFIER_IN_USE = 0x91
    PACKET_IDENTIFIER_NOT_FOUND = 0x92
    RECEIVE_MAXIMUM_EXCEEDED = 0x93
    TOPIC_ALIAS_INVALID = 0x94
    PACKET_TOO_LARGE = 0x95
    MESSAGE_RATE_TOO_HIGH = 0x96
    QUOTA_EXCEEDED = 0x97
    ADMINISTRATIVE_ACTION = 0x98
    PAYLOAD_FORMAT_INVALID = 0x99
    RETAIN_NOT_SUPPORTED = 0x9A
    QOS_NOT_SUPPORTED = 0x9B
    USE_ANOTHER_SERVER = 0x9C
    SERVER_MOVED = 0x9D
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E
    CONNECTION_RATE_EXCEEDED = 0x9F
    MAXIMUM_CONNECT_TIME = 0xA0
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = 0xA1
    WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED = 0xA2

    @property
    def failed(self) -> bool:
        """The operation did not succeed."""
        return self >= 0x80


class ConnectReturnCode(IntEnum):
    """What a CONNACK says in 3.1.1, section 3.2.2.3."""

    ACCEPTED = 0
    UNACCEPTABLE_PROTOCOL_LEVEL = 1
    IDENTIFIER_REJECTED = 2
    SERVER_UNAVAILABLE = 3
    BAD_USER_NAME_OR_PASSWORD = 4
    NOT_AUTHORIZED = 5


_PUBACK: Final = frozenset({0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99})
_PUBREL: Final = frozenset({0x00, 0x92})
_CARRIED: Final[Mapping[PacketType, frozenset[int]]] = {
    PacketType.CONNACK: frozenset(
        {0x00, *range(0x80, 0x8B), 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F}
    ),
    PacketType.PUBACK: _PUBACK,
    PacketType.PUBREC: _PUBACK,
    PacketType.PUBREL: _PUBREL,
    PacketType.PUBCOMP: _PUBREL,
    PacketType.SUBACK: frozenset({0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2}),
    PacketType.UNSUBACK: frozenset({0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91}),
    PacketType.DISCONNECT: frozenset(
        {0x00, 0x04, *range(0x80, 0x84), 0x87, 0x89, *range(0x8B, 0x91), *range(0x93, 0xA3)}
    ),
    PacketType.AUTH: frozenset({0x00, 0x18, 0x19}),
}
REASONS: Final[Mapping[PacketType, Mapping[int, ReasonCode]]] = {
    packet_type: {number: ReasonCode(number) for number in sorted(numbers)} for packet_type, numbers in _CARRIED.items()
}
"""Which reason codes a packet of each type may carry, by number: 5.0 section 2.4 and the table of each packet."""

CLIENT_DISCONNECTS: Final = frozenset(map(ReasonCode, (0x00, 0x04, *range(0x80, 0x84), 0x90, *range(0x93, 0x9A))))
SERVER_DISCONNECTS: Final = frozenset(REASONS[PacketType.DISCONNECT].values()) - {
    ReasonCode.DISCONNECT_WITH_WILL_MESSAGE
}
"""Who may say what in a DISCONNECT, section 3.14.2.1."""
CLIENT_AUTHS: Final = frozenset({ReasonCode.CONTINUE_AUTHENTICATION, ReasonCode.RE_AUTHENTICATE})
SERVER_AUTHS: Final = frozenset({ReasonCode.SUCCESS, ReasonCode.CONTINUE_AUTHENTICATION})
"""Who may say what in an AUTH, section 3.15.2.1."""

_RETURN_CODES: Final[Mapping[ReasonCode, ConnectReturnCode]] = {
    ReasonCode.SUCCESS: ConnectReturnCode.ACCEPTED,
    ReasonCode.UNSUPPORTED_PROTOCOL_VERSION: ConnectReturnCode.UNACCEPTABLE_PROTOCOL_LEVEL,
    ReasonCode.CLIENT_IDENTIFIER_NOT_VALID: ConnectReturnCode.IDENTIFIER_REJECTED,
    ReasonCode.SERVER_UNAVAILABLE: ConnectReturnCode.SERVER_UNAVAILABLE,
    ReasonCode.BAD_USER_NAME_OR_PASSWORD: ConnectReturnCode.BAD_USER_NAME_OR_PASSWORD,
    ReasonCode.NOT_AUTHORIZED: ConnectReturnCode.NOT_AUTHORIZED,
}
# What 3.1.1 cannot say as clearly: try again later, or never with these credentials.
_NEAREST_RETURN_CODES: Final[Mapping[ReasonCode, ConnectReturnCode]] = {
    ReasonCode.SERVER_BUSY: ConnectReturnCode.SERVER_UNAVAILABLE,
    ReasonCode.QUOTA_EXCEEDED: ConnectReturnCode.SERVER_UNAVAILABLE,
    ReasonCode.USE_ANOTHER_SERVER: ConnectReturnCode.SERVER_UNAVAILABLE,
    ReasonCode.SERVER_MOVED: ConnectReturnCode.SERVER_UNAVAILABLE,
    ReasonCode.CONNECTION_RATE_EXCEEDED: ConnectReturnCode.SERVER_UNAVAILABLE,
    ReasonCode.BANNED: ConnectReturnCode.NOT_AUTHORIZED,
    ReasonCode.BAD_AUTHENTICATION_METHOD: ConnectReturnCode.NOT_AUTHORIZED,
}
REASON_OF_RETURN_CODE: Final[Mapping[int, ReasonCode]] = {
    int(return_code): reason for reason, return_code in _RETURN_CODES.items()
}
"""What a 3.1.1 CONNACK means; the numbers that are not there are reserved."""

SUBACK_REASONS_3_1_1: Final[Mapping[int, ReasonCode]] = {
    number: ReasonCode(number) for number in (0x00, 0x01, 0x02, 0x80)
}
"""What a 3.1.1 SUBACK may say of a filter [MQTT-3.9.3-2]."""


def connect_return_code(reason: ReasonCode) -> ConnectReturnCode | None:
    """What a 3.1.1 CONNACK says for `reason`; None if it has nothing near: then only closing is left [MQTT-3.2.2-6]."""
    return _RETURN_CODES.get(reason, _NEAREST_RETURN_CODES.get(reason))


def suback_return_code(reason: ReasonCode) -> ReasonCode:
    """What a 3.1.1 SUBACK says for `reason`: it knows one failure, 0x80."""
    return ReasonCode.UNSPECIFIED_ERROR if reason.failed else reason
