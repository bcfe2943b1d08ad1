"""Bytes of one whole packet to its value, for both directions and both versions. Every fault is a ProtocolError,
most of them MalformedPacketError.

`check_flags` looks at the first byte alone, so that a stream can be refused before its packet is complete. Whether a
packet may come from this side at all is `wire.mqtt.sides`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from wire.mqtt import property_codec
from wire.mqtt.clauses import CLAUSES, LEVEL_3_1_1, LEVEL_5
from wire.mqtt.decode_acks import (
    decode_puback,
    decode_pubcomp,
    decode_pubrec,
    decode_pubrel,
    decode_suback,
    decode_unsuback,
    read_reason,
)
from wire.mqtt.decode_connect import decode_connack, decode_connect
from wire.mqtt.errors import MalformedPacketError, ProtocolError
from wire.mqtt.fields import PacketReader, decode_remaining_length
from wire.mqtt.packets import (
    FLAG_DUP,
    FLAG_QOS_1,
    FLAG_QOS_2,
    FLAG_RETAIN,
    Auth,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    Publish,
    RetainHandling,
    Subscribe,
    TopicSubscription,
    Unsubscribe,
)
from wire.mqtt.properties import (
    NO_AUTH_PROPERTIES,
    NO_PUBLISH_PROPERTIES,
    NO_SUBSCRIBE_PROPERTIES,
    NO_UNSUBSCRIBE_PROPERTIES,
)
from wire.mqtt.reasons import PacketType, ReasonCode
from wire.mqtt.topics import SHARE_PREFIX, check_topic_filter, check_topic_name

# Types whose reserved flags are 0010 [MQTT-2.2.2-1]; a PUBLISH has flags of its own, all others are 0000.
_FLAGGED_0010: Final = frozenset({PacketType.PUBREL, PacketType.SUBSCRIBE, PacketType.UNSUBSCRIBE})
_FLAG_CLAUSES: Final = {
    PacketType.PUBREL: "3.6.1-1",
    PacketType.SUBSCRIBE: "3.8.1-1",
    PacketType.UNSUBSCRIBE: "3.10.1-1",
    PacketType.DISCONNECT: "3.14.1-1",
    PacketType.AUTH: "3.15.1-1",
}
_TYPES: Final[Mapping[int, Mapping[int, PacketType]]] = {
    LEVEL_3_1_1: {int(packet_type): packet_type for packet_type in PacketType if packet_type is not PacketType.AUTH},
    LEVEL_5: {int(packet_type): packet_type for packet_type in PacketType},
}

MAX_FILTERS: Final = 10_000
"""Of one SUBSCRIBE or UNSUBSCRIBE: about 0.1 s of work. A packet of 1 MB could name 260,000."""

# The options of a subscription, 5.0 section 3.8.3.1.
_OPTION_QOS: Final = 0b0000_0011
OPTION_NO_LOCAL: Final = 0b0000_0100
OPTION_RETAIN_AS_PUBLISHED: Final = 0b0000_1000
_OPTION_RETAIN_HANDLING: Final = 0b0011_0000
_OPTION_RESERVED: Final = 0b1100_0000


def check_flags(head: int, level: int = LEVEL_3_1_1) -> PacketType:
    """The type in a packet's first byte; MalformedPacketError if it is none or its flags are not the type's."""
    packet_type = _TYPES[level].get(head >> 4)
    if packet_type is None:
        clause = CLAUSES[level].packet_type
        raise MalformedPacketError(clause, f"packet type {head >> 4} is forbidden", offset=0)
    flags = head & 15
    if packet_type is PacketType.PUBLISH:
        if flags & (FLAG_QOS_1 | FLAG_QOS_2) == FLAG_QOS_1 | FLAG_QOS_2:
            raise MalformedPacketError(CLAUSES[level].publish_qos, "a PUBLISH has both QoS bits set", offset=0)
        if flags & FLAG_DUP and not flags & (FLAG_QOS_1 | FLAG_QOS_2):
            raise MalformedPacketError(CLAUSES[level].publish_dup, "a PUBLISH with QoS 0 has DUP set", offset=0)
    elif flags != (2 if packet_type in _FLAGGED_0010 else 0):
        numbered = _FLAG_CLAUSES.get(packet_type)
        version = "MQTT" if level == LEVEL_3_1_1 else "MQTT5"
        clause = CLAUSES[level].flags if numbered is None else f"{version}-{numbered}"
        raise MalformedPacketError(clause, f"the flags of a {packet_type.name} are {flags:04b}", offset=0)
    return packet_type


def decode_packet(packet: bytes, level: int = LEVEL_3_1_1) -> Packet:
    """One whole packet, nothing before or behind it. Raises ProtocolError.

    `level` is the connection's. A CONNECT says its own, whatever `level` is, up to what its flags and length may be.
    """
    clause = CLAUSES[level].length
    if not packet:
        raise MalformedPacketError(clause, "an empty packet", offset=0)
    packet_type = check_flags(packet[0], level)
    header = decode_remaining_length(packet, 1, level)
    if header is None or header[0] + header[1] != len(packet):
        raise MalformedPacketError(clause, "the remaining length is not the packet's", offset=1)
    return DECODERS[packet_type](packet, header[1], level)


def decode_publish(packet: bytes, body: int, level: int = LEVEL_3_1_1) -> Publish:
    """A PUBLISH whose variable header begins at `body`, section 3.3."""
    flags = packet[0] & 15
    reader = PacketReader(packet, body, level)
    topic = reader.string("topic name")  # [MQTT-3.3.2-1] [MQTT5-3.3.2-1]
    if topic or level == LEVEL_3_1_1:
        check_topic_name(topic, level)
    qos = flags >> 1 & 3
    packet_id = reader.packet_id() if qos else None
    properties = NO_PUBLISH_PROPERTIES
    if level == LEVEL_5:
        properties, reader.at = property_codec.PUBLISH.read(packet, reader.at, len(packet))
        if not topic and properties.topic_alias is None:
            raise ProtocolError("MQTT5-3.3.2.1", "a PUBLISH without topic name and topic alias", offset=body)
    return Publish(
        topic=topic,
        payload=reader.rest(),
        qos=qos,
        retain=bool(flags & FLAG_RETAIN),
        dup=bool(flags & FLAG_DUP),
        packet_id=packet_id,
        properties=properties,
    )


def decode_subscribe(packet: bytes, body: int, level: int = LEVEL_3_1_1) -> Subscribe:
    """A SUBSCRIBE, section 3.8, of at most `MAX_FILTERS`."""
    reader = PacketReader(packet, body, level)
    packet_id = reader.packet_id()
    properties = NO_SUBSCRIBE_PROPERTIES
    if level == LEVEL_5:
        properties, reader.at = property_codec.SUBSCRIBE.read(packet, reader.at, len(packet))
    subscriptions: list[TopicSubscription] = []
    while reader.left:
        _bound_filters(len(subscriptions), reader)
        topic_filter = reader.string("topic filter")  # [MQTT-3.8.3-1] [MQTT5-3.8.3-1]
        check_topic_filter(topic_filter, level)
        subscriptions.append(_subscription(reader, topic_filter))
    if not subscriptions:
        raise _without_filter(reader, reader.clauses.subscribe_empty, "a SUBSCRIBE")
    return Subscribe(packet_id=packet_id, subscriptions=tuple(subscriptions), properties=properties)


def _subscription(reader: PacketReader, topic_filter: str) -> TopicSubscription:
    at = reader.at
    options = reader.byte("requested QoS")
    if reader.level == LEVEL_3_1_1:
        if options > 2:
            raise MalformedPacketError("MQTT-3.8.3-4", f"the requested QoS byte is {options:#04x}", offset=at)
        return TopicSubscription(filter=topic_filter, qos=options)
    if options & _OPTION_RESERVED:
        clause = reader.clauses.subscribe_options
        raise MalformedPacketError(clause, f"the subscription options are {options:#04x}", offset=at)
    qos, handling = options & _OPTION_QOS, (options & _OPTION_RETAIN_HANDLING) >> 4
    if qos == 3 or handling == 3:
        what = "maximum QoS" if qos == 3 else "retain handling"
        raise ProtocolError("MQTT5-3.8.3.1", f"the {what} of a subscription is 3", offset=at)
    if options & OPTION_NO_LOCAL and topic_filter.startswith(SHARE_PREFIX):
        raise ProtocolError("MQTT5-3.8.3-4", "a shared subscription has No Local set", offset=at)
    return TopicSubscription(
        filter=topic_filter,
        qos=qos,
        no_local=bool(options & OPTION_NO_LOCAL),
        retain_as_published=bool(options & OPTION_RETAIN_AS_PUBLISHED),
        retain_handling=RetainHandling(handling),
    )


def decode_unsubscribe(packet: bytes, body: int, level: int = LEVEL_3_1_1) -> Unsubscribe:
    """An UNSUBSCRIBE, section 3.10, of at most `MAX_FILTERS`."""
    reader = PacketReader(packet, body, level)
    packet_id = reader.packet_id()
    properties = NO_UNSUBSCRIBE_PROPERTIES
    if level == LEVEL_5:
        properties, reader.at = property_codec.UNSUBSCRIBE.read(packet, reader.at, len(packet))
    filters: list[str] = []
    while reader.left:
        _bound_filters(len(filters), reader)
        topic_filter = reader.string("topic filter")  # [MQTT-3.10.3-1] [MQTT5-3.10.3-1]
        check_topic_filter(topic_filter, level)
        filters.append(topic_filter)
    if not filters:
        raise _without_filter(reader, reader.clauses.unsubscribe_empty, "an UNSUBSCRIBE")
    return Unsubscribe(packet_id=packet_id, filters=tuple(filters), properties=properties)


def _bound_filters(count: int, reader: PacketReader) -> None:
    """No standard bounds them: the client is told that it is too much (5.0), not that it is wrong."""
    if count == MAX_FILTERS:
        raise ProtocolError(
            reader.clauses.length,
            f"a packet names more than {MAX_FILTERS} topic filters",
            offset=reader.at,
            mend="spread them over several packets",
            reason_code=ReasonCode.QUOTA_EXCEEDED,
        )


def _without_filter(reader: PacketReader, clause: str, what: str) -> ProtocolError:
    fault = MalformedPacketError if reader.level == LEVEL_3_1_1 else ProtocolError
    return fault(clause, f"{what} without a topic filter", offset=reader.at)


def decode_empty(packet: bytes, body: int, level: int = LEVEL_3_1_1) -> None:
    """Nothing follows the fixed header of PINGREQ, PINGRESP and, in 3.1.1, DISCONNECT."""
    PacketReader(packet, body, level).finish()


def _decode_pingreq(packet: bytes, body: int, level: int) -> PingReq:
    decode_empty(packet, body, level)
    return PingReq()


def _decode_pingresp(packet: bytes, body: int, level: int) -> PingResp:
    decode_empty(packet, body, level)
    return PingResp()


def decode_disconnect(packet: bytes, body: int, level: int = LEVEL_3_1_1) -> Disconnect:
    """A DISCONNECT, section 3.14. In 5.0 reason and properties may be left out from the end."""
    reader = PacketReader(packet, body, level)
    if level == LEVEL_3_1_1 or not reader.left:
        reader.finish()
        return Disconnect()
    reason = read_reason(reader, PacketType.DISCONNECT, "MQTT5-3.14.2-1")
    if not reader.left:
        return Disconnect(reason_code=reason)
    properties, reader.at = property_codec.DISCONNECT.read(packet, reader.at, len(packet))
    reader.finish()
    return Disconnect(reason_code=reason, properties=properties)


def decode_auth(packet: bytes, body: int, level: int = LEVEL_5) -> Auth:
    """An AUTH, 5.0 section 3.15. Nothing at all stands for success without properties; otherwise both are there."""
    reader = PacketReader(packet, body, level)
    if not reader.left:
        return Auth()
    reason = read_reason(reader, PacketType.AUTH, "MQTT5-3.15.2-1")
    properties, reader.at = property_codec.AUTH.read(packet, reader.at, len(packet))
    reader.finish()
    if properties.authentication_method is None and (reason or properties != NO_AUTH_PROPERTIES):
        raise ProtocolError("MQTT5-3.15.2.2.2", "an AUTH without an authentication method", offset=body + 1)
    return Auth(reason_code=reason, properties=properties)


Decoder = Callable[[bytes, int, int], Packet]
DECODERS: Final[Mapping[PacketType, Decoder]] = {
    PacketType.CONNECT: lambda packet, body, level: decode_connect(packet, body),
    PacketType.CONNACK: decode_connack,
    PacketType.PUBLISH: decode_publish,
    PacketType.PUBACK: decode_puback,
    PacketType.PUBREC: decode_pubrec,
    PacketType.PUBREL: decode_pubrel,
    PacketType.PUBCOMP: decode_pubcomp,
    PacketType.SUBSCRIBE: decode_subscribe,
    PacketType.SUBACK: decode_suback,
    PacketType.UNSUBSCRIBE: decode_unsubscribe,
    PacketType.UNSUBACK: decode_unsuback,
    PacketType.PINGREQ: _decode_pingreq,
    PacketType.PINGRESP: _decode_pingresp,
    PacketType.DISCONNECT: decode_disconnect,
    PacketType.AUTH: decode_auth,
}
"""How each type is read: (whole packet, where its variable header begins, level) -> value. Flags are checked before."""
