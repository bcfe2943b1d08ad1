"""MQTT control packets as values. Names are the specification's; none of them knows its bytes (see `encode`, `decode`).

What a version of the protocol adds (5.0: properties, reason codes) becomes a field with a default here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

PROTOCOL_LEVEL_3_1_1: Final = 4
MAX_PACKET_ID: Final = 0xFFFF
MAX_REMAINING_LENGTH: Final = 268_435_455  # four bytes of seven bits, section 2.2.3
MAX_FIXED_HEADER_SIZE_BYTES: Final = 5

# Bits of the fixed header's low nibble of a PUBLISH, section 3.3.1.
FLAG_DUP: Final = 0b1000
FLAG_QOS_2: Final = 0b0100
FLAG_QOS_1: Final = 0b0010
FLAG_RETAIN: Final = 0b0001


class PacketType(IntEnum):
    """High nibble of the first byte, section 2.2.1. 0 and 15 are forbidden."""

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


class ConnectReturnCode(IntEnum):
    """Why a CONNECT was accepted or refused, section 3.2.2.3."""

    ACCEPTED = 0
    UNACCEPTABLE_PROTOCOL_LEVEL = 1
    IDENTIFIER_REJECTED = 2
    SERVER_UNAVAILABLE = 3
    BAD_USER_NAME_OR_PASSWORD = 4
    NOT_AUTHORIZED = 5


class SubackReturnCode(IntEnum):
    """Per topic filter, section 3.9.3."""

    GRANTED_QOS_0 = 0x00
    GRANTED_QOS_1 = 0x01
    GRANTED_QOS_2 = 0x02
    FAILURE = 0x80


@dataclass(frozen=True, slots=True, kw_only=True)
class Will:
    """What the server publishes for a client that vanishes, section 3.1.2.5."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    """A client introduces itself. An empty `client_id` asks the server to assign one [MQTT-3.1.3-6]."""

    client_id: str
    clean_session: bool = True
    keep_alive_s: int = 0
    will: Will | None = None
    username: str | None = None
    password: bytes | None = field(default=None, repr=False)
    protocol_level: int = PROTOCOL_LEVEL_3_1_1


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnAck:
    """The answer to CONNECT. A refusal never claims a present session [MQTT-3.2.2-4]."""

    return_code: ConnectReturnCode = ConnectReturnCode.ACCEPTED
    session_present: bool = False

    def __post_init__(self) -> None:
        if self.session_present and self.return_code is not ConnectReturnCode.ACCEPTED:
            raise ValueError("[MQTT-3.2.2-4] a refusal cannot carry session_present")


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """An application message. `packet_id` is None exactly when `qos` is 0 [MQTT-2.3.1-1] [MQTT-2.3.1-5]."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PubAck:
    """QoS 1: the receiver took responsibility for the message."""

    packet_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PubRec:
    """QoS 2, part 1."""

    packet_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PubRel:
    """QoS 2, part 2."""

    packet_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PubComp:
    """QoS 2, part 3."""

    packet_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSubscription:
    """One topic filter of a SUBSCRIBE with the highest QoS it asks for."""

    filter: str
    qos: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribe:
    """A request for messages; at least one filter [MQTT-3.8.3-3]."""

    packet_id: int
    subscriptions: tuple[TopicSubscription, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubAck:
    """One return code per filter, in their order [MQTT-3.9.3-1]."""

    packet_id: int
    return_codes: tuple[SubackReturnCode, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsubscribe:
    """Takes filters back; at least one [MQTT-3.10.3-2]."""

    packet_id: int
    filters: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsubAck:
    """The answer to UNSUBSCRIBE, whether or not a filter was there [MQTT-3.10.4-5]."""

    packet_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PingReq:
    """The client is alive and asks whether the server is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PingResp:
    """It is [MQTT-3.12.4-1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnect:
    """The client's last packet: the will is not published [MQTT-3.14.4-3]."""


Packet = (
    Connect
    | ConnAck
    | Publish
    | PubAck
    | PubRec
    | PubRel
    | PubComp
    | Subscribe
    | SubAck
    | Unsubscribe
    | UnsubAck
    | PingReq
    | PingResp
    | Disconnect
)
