"""MQTT control packets as values. Names are the specification's; none of them knows its bytes (see `encode`, `decode`).

Both versions share them: what 5.0 adds (properties, reason codes, subscription options) are fields with a default, and
the default says what 3.1.1 says by having no such field. What a version cannot say, its encoder refuses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from wire.mqtt.clauses import LEVEL_3_1_1
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
from wire.mqtt.reasons import PacketType, ReasonCode

__all__ = ["PacketType", "ReasonCode"]  # the names that stand beside packets everywhere

MAX_PACKET_ID: Final = 0xFFFF
MAX_REMAINING_LENGTH: Final = 268_435_455  # four bytes of seven bits, section 2.2.3
MAX_FIXED_HEADER_SIZE_BYTES: Final = 5

# Bits of the fixed header's low nibble of a PUBLISH, section 3.3.1.
FLAG_DUP: Final = 0b1000
FLAG_QOS_2: Final = 0b0100
FLAG_QOS_1: Final = 0b0010
FLAG_RETAIN: Final = 0b0001


class RetainHandling(IntEnum):
    """Which retained messages a new subscription brings, 5.0 section 3.8.3.1."""

    SEND = 0
    SEND_IF_NEW = 1
    DO_NOT_SEND = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Will:
    """What the server publishes for a client that vanishes, section 3.1.2.5."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: WillProperties = NO_WILL_PROPERTIES


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    """A client introduces itself. An empty `client_id` asks the server to assign one [MQTT-3.1.3-6] [MQTT5-3.1.3-6].

    `clean_session` is 5.0's Clean Start: there it says nothing about the session's end, which the session expiry does.
    """

    client_id: str
    clean_session: bool = True
    keep_alive_s: int = 0
    will: Will | None = None
    username: str | None = None
    password: bytes | None = field(default=None, repr=False)
    protocol_level: int = LEVEL_3_1_1
    properties: ConnectProperties = NO_CONNECT_PROPERTIES


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnAck:
    """The answer to CONNECT. A refusal never claims a present session [MQTT-3.2.2-4] [MQTT5-3.2.2-6].

    In 3.1.1 the reason is sent as the return code that is nearest to it (`reasons.connect_return_code`).
    """

    reason_code: ReasonCode = ReasonCode.SUCCESS
    session_present: bool = False
    properties: ConnAckProperties = NO_CONNACK_PROPERTIES

    def __post_init__(self) -> None:
        if self.session_present and self.reason_code is not ReasonCode.SUCCESS:
            raise ValueError("[MQTT-3.2.2-4] [MQTT5-3.2.2-6] a refusal cannot carry session_present")


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """An application message. `packet_id` is None exactly when `qos` is 0 [MQTT-2.3.1-1] [MQTT-2.3.1-5].

    In 5.0 the topic may be empty when the properties have a topic alias.
    """

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int | None = None
    properties: PublishProperties = NO_PUBLISH_PROPERTIES


@dataclass(frozen=True, slots=True, kw_only=True)
class PubAck:
    """QoS 1: the receiver took responsibility for the message, or, with a 5.0 reason of 0x80 or more, refuses it."""

    packet_id: int
    reason_code: ReasonCode = ReasonCode.SUCCESS
    properties: AckProperties = NO_ACK_PROPERTIES


@dataclass(frozen=True, slots=True, kw_only=True)
class PubRec:
    """QoS 2, part 1."""

    packet_id: int
    reason_code: ReasonCode = ReasonCode.SUCCESS
    properties: AckProperties = NO_ACK_PROPERTIES


@dataclass(frozen=True, slots=True, kw_only=True)
class PubRel:
    """QoS 2, part 2."""

    packet_id: int
    reason_code: ReasonCode = ReasonCode.SUCCESS
    properties: AckProperties = NO_ACK_PROPERTIES


@dataclass(frozen=True, slots=True, kw_only=True)
class PubComp:
    """QoS 2, part 3."""

    packet_id: int
    reason_code: ReasonCode = ReasonCode.SUCCESS
    properties: AckProperties = NO_ACK_PROPERTIES


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicSubscription:
    """One topic filter of a SUBSCRIBE with the highest QoS it asks for, and 5.0's options (section 3.8.3.1)."""

    filter: str
    qos: int
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: RetainHandling = RetainHandling.SEND


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribe:
    """A request for messages; at least one filter [MQTT-3.8.3-3]."""

    packet_id: int
    subscriptions: tuple[TopicSubscription, ...]
    properties: SubscribeProperties = NO_SUBSCRIBE_PROPERTIES


@dataclass(frozen=True, slots=True, kw_only=True)
class SubAck:
    """One reason per filter, in their order [MQTT-3.9.3-1] [MQTT5-3.9.3-1]. In 3.1.1 every failure is sent as 0x80."""

    packet_id: int
    reason_codes: tuple[ReasonCode, ...]
    properties: AckProperties = NO_ACK_PROPERTIES


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsubscribe:
    """Takes filters back; at least one [MQTT-3.10.3-2]."""

    packet_id: int
    filters: tuple[str, ...]
    properties: UnsubscribeProperties = NO_UNSUBSCRIBE_PROPERTIES


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsubAck:
    """The answer to UNSUBSCRIBE, whether or not a filter was there [MQTT-3.10.4-5].

    In 5.0 one reason per filter, in their order [MQTT5-3.11.3-1]; 3.1.1 has none.
    """

    packet_id: int
    reason_codes: tuple[ReasonCode, ...] = ()
    properties: AckProperties = NO_ACK_PROPERTIES


@dataclass(frozen=True, slots=True, kw_only=True)
class PingReq:
    """The client is alive and asks whether the server is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PingResp:
    """It is [MQTT-3.12.4-1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnect:
    """The last packet of a connection. From a client, with reason 0: the will is not published [MQTT-3.14.4-3].

    In 5.0 a server sends it too, and it says why.
    """

    reason_code: ReasonCode = ReasonCode.NORMAL_DISCONNECTION
    properties: DisconnectProperties = NO_DISCONNECT_PROPERTIES


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """5.0 alone: a step of an exchange that proves who the client is, section 3.15. It names its method."""

    reason_code: ReasonCode = ReasonCode.SUCCESS
    properties: AuthProperties = NO_AUTH_PROPERTIES


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
    | Auth
)
