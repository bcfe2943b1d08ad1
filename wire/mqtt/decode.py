"""Bytes of one whole packet to its value, for both directions. Every fault is a ProtocolError,
most of them MalformedPacketError.

`check_flags` looks at the first byte alone, so that a stream can be refused before its packet is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from wire.mqtt.decode_connect import decode_connect
from wire.mqtt.errors import MalformedPacketError
from wire.mqtt.fields import PacketReader, decode_remaining_length
from wire.mqtt.packets import (
    FLAG_DUP,
    FLAG_QOS_1,
    FLAG_QOS_2,
    FLAG_RETAIN,
    ConnAck,
    ConnectReturnCode,
    Disconnect,
    Packet,
    PacketType,
    PingReq,
    PingResp,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    SubackReturnCode,
    Subscribe,
    TopicSubscription,
    UnsubAck,
    Unsubscribe,
)
from wire.mqtt.topics import check_topic_filter, check_topic_name

# Types whose reserved flags are 0010 [MQTT-2.2.2-1]; a PUBLISH has flags of its own, all others are 0000.
_FLAGGED_0010: Final = frozenset({PacketType.PUBREL, PacketType.SUBSCRIBE, PacketType.UNSUBSCRIBE})
_FLAG_CLAUSES: Final = {
    PacketType.PUBREL: "MQTT-3.6.1-1",
    PacketType.SUBSCRIBE: "MQTT-3.8.1-1",
    PacketType.UNSUBSCRIBE: "MQTT-3.10.1-1",
    PacketType.DISCONNECT: "MQTT-3.14.1-1",
}
_TYPES: Final = {int(packet_type): packet_type for packet_type in PacketType}


def check_flags(head: int) -> PacketType:
    """The type in a packet's first byte; MalformedPacketError if it is none or its flags are not the type's."""
    packet_type = _TYPES.get(head >> 4)
    if packet_type is None:
        raise MalformedPacketError("MQTT-2.2.1", f"packet type {head >> 4} is forbidden", offset=0)
    flags = head & 15
    if packet_type is PacketType.PUBLISH:
        if flags & (FLAG_QOS_1 | FLAG_QOS_2) == FLAG_QOS_1 | FLAG_QOS_2:
            raise MalformedPacketError("MQTT-3.3.1-4", "a PUBLISH has both QoS bits set", offset=0)
        if flags & FLAG_DUP and not flags & (FLAG_QOS_1 | FLAG_QOS_2):
            raise MalformedPacketError("MQTT-3.3.1-2", "a PUBLISH with QoS 0 has DUP set", offset=0)
    elif flags != (2 if packet_type in _FLAGGED_0010 else 0):
        clause = _FLAG_CLAUSES.get(packet_type, "MQTT-2.2.2-2")
        raise MalformedPacketError(clause, f"the flags of a {packet_type.name} are {flags:04b}", offset=0)
    return packet_type


def decode_packet(packet: bytes) -> Packet:
    """One whole packet, nothing before or behind it. Raises ProtocolError."""
    if not packet:
        raise MalformedPacketError("MQTT-2.2.3", "an empty packet", offset=0)
    packet_type = check_flags(packet[0])
    header = decode_remaining_length(packet, 1)
    if header is None or header[0] + header[1] != len(packet):
        raise MalformedPacketError("MQTT-2.2.3", "the remaining length is not the packet's", offset=1)
    return DECODERS[packet_type](packet, header[1])


def decode_publish(packet: bytes, body: int) -> Publish:
    """A PUBLISH whose variable header begins at `body`, section 3.3."""
    flags = packet[0] & 15
    reader = PacketReader(packet, body)
    topic = reader.string("topic name")
    check_topic_name(topic)
    qos = flags >> 1 & 3
    packet_id = reader.packet_id() if qos else None
    return Publish(
        topic=topic,
        payload=reader.rest(),
        qos=qos,
        retain=bool(flags & FLAG_RETAIN),
        dup=bool(flags & FLAG_DUP),
        packet_id=packet_id,
    )


def decode_subscribe(packet: bytes, body: int) -> Subscribe:
    """A SUBSCRIBE, section 3.8. The number of filters is bounded by the packet's size."""
    reader = PacketReader(packet, body)
    packet_id = reader.packet_id()
    subscriptions = []
    while reader.left:
        topic_filter = reader.string("topic filter")  # [MQTT-3.8.3-1]
        check_topic_filter(topic_filter)
        at = reader.offset
        qos = reader.byte("requested QoS")
        if qos > 2:
            raise MalformedPacketError("MQTT-3.8.3-4", f"the requested QoS byte is {qos:#04x}", offset=at)
        subscriptions.append(TopicSubscription(filter=topic_filter, qos=qos))
    if not subscriptions:
        raise MalformedPacketError("MQTT-3.8.3-3", "a SUBSCRIBE without a topic filter", offset=body + 2)
    return Subscribe(packet_id=packet_id, subscriptions=tuple(subscriptions))


def decode_unsubscribe(packet: bytes, body: int) -> Unsubscribe:
    """An UNSUBSCRIBE, section 3.10."""
    reader = PacketReader(packet, body)
    packet_id = reader.packet_id()
    filters = []
    while reader.left:
        topic_filter = reader.string("topic filter")  # [MQTT-3.10.3-1]
        check_topic_filter(topic_filter)
        filters.append(topic_filter)
    if not filters:
        raise MalformedPacketError("MQTT-3.10.3-2", "an UNSUBSCRIBE without a topic filter", offset=body + 2)
    return Unsubscribe(packet_id=packet_id, filters=tuple(filters))


def decode_packet_id(packet: bytes, body: int) -> int:
    """The whole variable header of PUBACK, PUBREC, PUBREL, PUBCOMP and UNSUBACK."""
    reader = PacketReader(packet, body)
    packet_id = reader.packet_id()
    reader.finish()
    return packet_id


def decode_empty(packet: bytes, body: int) -> None:
    """Nothing follows the fixed header of PINGREQ, PINGRESP and DISCONNECT."""
    PacketReader(packet, body).finish()


def _decode_connack(packet: bytes, body: int) -> ConnAck:
    reader = PacketReader(packet, body)
    flags = reader.byte("acknowledge flags")
    if flags > 1:
        raise MalformedPacketError("MQTT-3.2.2", f"the acknowledge flags are {flags:#04x}", offset=body)
    code = reader.byte("return code")
    reader.finish()
    if code not in ConnectReturnCode.__members__.values():
        raise MalformedPacketError("MQTT-3.2.2", f"the return code {code} is reserved", offset=body + 1)
    if flags and code:
        raise MalformedPacketError("MQTT-3.2.2-4", "a refusal that claims a present session", offset=body)
    return ConnAck(return_code=ConnectReturnCode(code), session_present=bool(flags))


def _decode_suback(packet: bytes, body: int) -> SubAck:
    reader = PacketReader(packet, body)
    packet_id = reader.packet_id()
    codes = []
    for index, code in enumerate(reader.rest()):
        if code not in SubackReturnCode.__members__.values():
            raise MalformedPacketError("MQTT-3.9.3-2", f"the return code {code} is reserved", offset=body + 2 + index)
        codes.append(SubackReturnCode(code))
    return SubAck(packet_id=packet_id, return_codes=tuple(codes))


def _decode_pingreq(packet: bytes, body: int) -> PingReq:
    decode_empty(packet, body)
    return PingReq()


def _decode_pingresp(packet: bytes, body: int) -> PingResp:
    decode_empty(packet, body)
    return PingResp()


def _decode_disconnect(packet: bytes, body: int) -> Disconnect:
    decode_empty(packet, body)
    return Disconnect()


DECODERS: Final[Mapping[PacketType, Callable[[bytes, int], Packet]]] = {
    PacketType.CONNECT: decode_connect,
    PacketType.CONNACK: _decode_connack,
    PacketType.PUBLISH: decode_publish,
    PacketType.PUBACK: lambda packet, body: PubAck(packet_id=decode_packet_id(packet, body)),
    PacketType.PUBREC: lambda packet, body: PubRec(packet_id=decode_packet_id(packet, body)),
    PacketType.PUBREL: lambda packet, body: PubRel(packet_id=decode_packet_id(packet, body)),
    PacketType.PUBCOMP: lambda packet, body: PubComp(packet_id=decode_packet_id(packet, body)),
    PacketType.SUBSCRIBE: decode_subscribe,
    PacketType.SUBACK: _decode_suback,
    PacketType.UNSUBSCRIBE: decode_unsubscribe,
    PacketType.UNSUBACK: lambda packet, body: UnsubAck(packet_id=decode_packet_id(packet, body)),
    PacketType.PINGREQ: _decode_pingreq,
    PacketType.PINGRESP: _decode_pingresp,
    PacketType.DISCONNECT: _decode_disconnect,
}
"""How each type is read: (whole packet, where its variable header begins) -> value. Flags are checked before."""
