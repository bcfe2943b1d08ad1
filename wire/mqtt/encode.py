"""Packet values to bytes, for both directions. ValueError tells the caller which rule its value breaks."""

from __future__ import annotations

from typing import Final, assert_never

from wire.mqtt.decode_connect import CLEAN_SESSION, PASSWORD, PROTOCOL_NAME, USER_NAME, WILL, WILL_RETAIN
from wire.mqtt.fields import encode_binary, encode_packet_id, encode_remaining_length, encode_string
from wire.mqtt.packets import (
    FLAG_DUP,
    FLAG_RETAIN,
    ConnAck,
    Connect,
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
    Subscribe,
    UnsubAck,
    Unsubscribe,
)

PINGREQ: Final = bytes((PacketType.PINGREQ << 4, 0))
PINGRESP: Final = bytes((PacketType.PINGRESP << 4, 0))
DISCONNECT: Final = bytes((PacketType.DISCONNECT << 4, 0))
_RESERVED_0010: Final = 2


def encode_connect(connect: Connect) -> bytes:
    """A CONNECT, section 3.1. Raises ValueError for what [MQTT-3.1.2-14] and [MQTT-3.1.2-22] forbid."""
    if connect.password is not None and connect.username is None:
        raise ValueError("[MQTT-3.1.2-22] a password needs a user name")
    flags = CLEAN_SESSION if connect.clean_session else 0
    payload = [encode_string(connect.client_id)]
    if connect.will is not None:
        flags |= WILL | _checked_qos(connect.will.qos) << 3 | (WILL_RETAIN if connect.will.retain else 0)
        payload += encode_string(connect.will.topic), encode_binary(connect.will.payload)
    if connect.username is not None:
        flags |= USER_NAME
        payload.append(encode_string(connect.username))
    if connect.password is not None:
        flags |= PASSWORD
        payload.append(encode_binary(connect.password))
    variable = encode_string(PROTOCOL_NAME) + bytes((connect.protocol_level, flags))
    return _packet(PacketType.CONNECT, 0, variable + connect.keep_alive_s.to_bytes(2, "big") + b"".join(payload))


def encode_connack(connack: ConnAck) -> bytes:
    """A CONNACK, section 3.2."""
    return bytes((PacketType.CONNACK << 4, 2, connack.session_present, connack.return_code))


def encode_publish(publish: Publish) -> bytes:
    """A PUBLISH, section 3.3. Raises ValueError when QoS, DUP and packet identifier do not agree."""
    qos = _checked_qos(publish.qos)
    if (publish.packet_id is None) != (qos == 0):
        raise ValueError("[MQTT-2.3.1-1] [MQTT-2.3.1-5] a packet identifier belongs to QoS 1 and 2 alone")
    if publish.dup and not qos:
        raise ValueError("[MQTT-3.3.1-2] DUP belongs to QoS 1 and 2 alone")
    flags = (FLAG_DUP if publish.dup else 0) | qos << 1 | (FLAG_RETAIN if publish.retain else 0)
    packet_id = b"" if publish.packet_id is None else encode_packet_id(publish.packet_id)
    return _packet(PacketType.PUBLISH, flags, encode_string(publish.topic) + packet_id + publish.payload)


def encode_subscribe(subscribe: Subscribe) -> bytes:
    """A SUBSCRIBE, section 3.8. Raises ValueError without a filter [MQTT-3.8.3-3]."""
    if not subscribe.subscriptions:
        raise ValueError("[MQTT-3.8.3-3] a SUBSCRIBE needs a topic filter")
    payload = [encode_string(wanted.filter) + bytes((_checked_qos(wanted.qos),)) for wanted in subscribe.subscriptions]
    return _packet(PacketType.SUBSCRIBE, _RESERVED_0010, encode_packet_id(subscribe.packet_id) + b"".join(payload))


def encode_suback(suback: SubAck) -> bytes:
    """A SUBACK, section 3.9: the request's packet identifier, one code per filter [MQTT-3.8.4-2]."""
    return _packet(PacketType.SUBACK, 0, encode_packet_id(suback.packet_id) + bytes(suback.return_codes))


def encode_unsubscribe(unsubscribe: Unsubscribe) -> bytes:
    """An UNSUBSCRIBE, section 3.10. Raises ValueError without a filter [MQTT-3.10.3-2]."""
    if not unsubscribe.filters:
        raise ValueError("[MQTT-3.10.3-2] an UNSUBSCRIBE needs a topic filter")
    filters = b"".join(map(encode_string, unsubscribe.filters))
    return _packet(PacketType.UNSUBSCRIBE, _RESERVED_0010, encode_packet_id(unsubscribe.packet_id) + filters)


def encode_packet(packet: Packet) -> bytes:
    """Any packet."""
    match packet:
        case Connect():
            return encode_connect(packet)
        case ConnAck():
            return encode_connack(packet)
        case Publish():
            return encode_publish(packet)
        case Subscribe():
            return encode_subscribe(packet)
        case SubAck():
            return encode_suback(packet)
        case Unsubscribe():
            return encode_unsubscribe(packet)
        case PingReq():
            return PINGREQ
        case PingResp():
            return PINGRESP
        case Disconnect():
            return DISCONNECT
        case _:
            return encode_acknowledgement(packet)


def encode_acknowledgement(packet: PubAck | PubRec | PubRel | PubComp | UnsubAck) -> bytes:
    """The packets that consist of a packet identifier."""
    match packet:
        case PubAck():
            packet_type, flags = PacketType.PUBACK, 0
        case PubRec():
            packet_type, flags = PacketType.PUBREC, 0
        case PubRel():
            packet_type, flags = PacketType.PUBREL, _RESERVED_0010
        case PubComp():
            packet_type, flags = PacketType.PUBCOMP, 0
        case UnsubAck():
            packet_type, flags = PacketType.UNSUBACK, 0
        case _:
            assert_never(packet)
    return _packet(packet_type, flags, encode_packet_id(packet.packet_id))


def _packet(packet_type: PacketType, flags: int, remaining: bytes) -> bytes:
    return bytes((packet_type << 4 | flags,)) + encode_remaining_length(len(remaining)) + remaining


def _checked_qos(qos: int) -> int:
    if not 0 <= qos <= 2:
        raise ValueError(f"[MQTT-3.3.1-4] a QoS is 0, 1 or 2, not {qos}")
    return qos
