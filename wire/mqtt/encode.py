"""Packet values to bytes, for both directions and both versions, in the shortest form that the version knows.

ValueError tells the caller which rule its value breaks. What a version cannot say is such a fault too: properties,
a reason for a single message or the options of a subscription do not exist in 3.1.1, and leaving them out in silence
would turn a refusal into an acceptance. Only the reasons of CONNACK and SUBACK have something near them there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from wire.mqtt import property_codec
from wire.mqtt.clauses import LEVEL_3_1_1, LEVELS
from wire.mqtt.decode import OPTION_NO_LOCAL, OPTION_RETAIN_AS_PUBLISHED
from wire.mqtt.decode_connect import CLEAN_SESSION, PASSWORD, PROTOCOL_NAME, USER_NAME, WILL, WILL_RETAIN
from wire.mqtt.errors import ProtocolError
from wire.mqtt.fields import encode_binary, encode_packet_id, encode_remaining_length, encode_string
from wire.mqtt.packets import (
    FLAG_DUP,
    FLAG_RETAIN,
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    TopicSubscription,
    UnsubAck,
    Unsubscribe,
    Will,
)
from wire.mqtt.property_codec import Carrier
from wire.mqtt.reasons import (
    REASONS,
    PacketType,
    ReasonCode,
    connect_return_code,
    suback_return_code,
)
from wire.mqtt.topics import SHARE_PREFIX, check_topic_filter, check_topic_name

PINGREQ: Final = bytes((PacketType.PINGREQ << 4, 0))
PINGRESP: Final = bytes((PacketType.PINGRESP << 4, 0))
DISCONNECT: Final = bytes((PacketType.DISCONNECT << 4, 0))
"""The same bytes in both versions: 5.0's normal disconnection without properties."""
_RESERVED_0010: Final = 2
_P = TypeVar("_P")


def encode_connect(connect: Connect) -> bytes:
    """A CONNECT, section 3.1, of the level that it names.

    Raises ValueError for what [MQTT-3.1.2-14] and [MQTT-3.1.2-22] forbid.
    """
    level = connect.protocol_level
    if level not in LEVELS:
        raise ValueError(f"[MQTT-3.1.2-2] a protocol level is one of {LEVELS}, not {level}")
    if level == LEVEL_3_1_1 and connect.password is not None and connect.username is None:
        raise ValueError("[MQTT-3.1.2-22] a password needs a user name")
    flags = CLEAN_SESSION if connect.clean_session else 0
    payload = [encode_string(connect.client_id)]
    if connect.will is not None:
        flags |= WILL | _checked_qos(connect.will.qos) << 3 | (WILL_RETAIN if connect.will.retain else 0)
        payload.append(_will(connect.will, level))
    if connect.username is not None:
        flags |= USER_NAME
        payload.append(encode_string(connect.username))
    if connect.password is not None:
        flags |= PASSWORD
        payload.append(encode_binary(connect.password))
    variable = encode_string(PROTOCOL_NAME) + bytes((level, flags)) + connect.keep_alive_s.to_bytes(2, "big")
    properties = _properties(property_codec.CONNECT, connect.properties, level)
    return _packet(PacketType.CONNECT, 0, variable + properties + b"".join(payload))


def _will(will: Will, level: int) -> bytes:
    properties = _properties(property_codec.WILL, will.properties, level)
    return properties + _topic(check_topic_name, will.topic, level) + encode_binary(will.payload)


def encode_connack(connack: ConnAck, level: int = LEVEL_3_1_1) -> bytes:
    """A CONNACK, section 3.2. Raises ValueError for a reason that the version has no code for [MQTT-3.2.2-6]."""
    if level == LEVEL_3_1_1:
        code = connect_return_code(connack.reason_code)
        if code is None:
            raise ValueError(f"[MQTT-3.2.2-6] 3.1.1 has no return code for {connack.reason_code.name}")
        _properties(property_codec.CONNACK, connack.properties, level)
        return bytes((PacketType.CONNACK << 4, 2, connack.session_present, code))
    reason = _reasons(PacketType.CONNACK, (connack.reason_code,))
    properties = property_codec.CONNACK.encode(connack.properties)
    return _packet(PacketType.CONNACK, 0, bytes((connack.session_present,)) + reason + properties)


def encode_publish(publish: Publish, level: int = LEVEL_3_1_1) -> bytes:
    """A PUBLISH, section 3.3. Raises ValueError when QoS, DUP and packet identifier do not agree."""
    qos = _checked_qos(publish.qos)
    if (publish.packet_id is None) != (qos == 0):
        raise ValueError("[MQTT-2.3.1-1] [MQTT-2.3.1-5] a packet identifier belongs to QoS 1 and 2 alone")
    if publish.dup and not qos:
        raise ValueError("[MQTT-3.3.1-2] DUP belongs to QoS 1 and 2 alone")
    properties = _properties(property_codec.PUBLISH, publish.properties, level)
    if not publish.topic and publish.properties.topic_alias is None:
        raise ValueError("[MQTT-4.7.3-1] [MQTT5-3.3.2.1] a PUBLISH needs a topic name or a topic alias")
    flags = (FLAG_DUP if publish.dup else 0) | qos << 1 | (FLAG_RETAIN if publish.retain else 0)
    packet_id = b"" if publish.packet_id is None else encode_packet_id(publish.packet_id)
    topic = _topic(check_topic_name, publish.topic, level) if publish.topic else b"\0\0"
    remaining = topic + packet_id + properties + publish.payload
    return _packet(PacketType.PUBLISH, flags, remaining)


def encode_subscribe(subscribe: Subscribe, level: int = LEVEL_3_1_1) -> bytes:
    """A SUBSCRIBE, section 3.8. Raises ValueError without a filter [MQTT-3.8.3-3] [MQTT5-3.8.3-2]."""
    if not subscribe.subscriptions:
        raise ValueError("[MQTT-3.8.3-3] a SUBSCRIBE needs a topic filter")
    properties = _properties(property_codec.SUBSCRIBE, subscribe.properties, level)
    payload = b"".join(_subscription(wanted, level) for wanted in subscribe.subscriptions)
    variable = encode_packet_id(subscribe.packet_id) + properties
    return _packet(PacketType.SUBSCRIBE, _RESERVED_0010, variable + payload)


def _subscription(wanted: TopicSubscription, level: int) -> bytes:
    return _topic(check_topic_filter, wanted.filter, level) + bytes((_options(wanted, level),))


def _options(wanted: TopicSubscription, level: int) -> int:
    options = (
        _checked_qos(wanted.qos)
        | (OPTION_NO_LOCAL if wanted.no_local else 0)
        | (OPTION_RETAIN_AS_PUBLISHED if wanted.retain_as_published else 0)
        | wanted.retain_handling << 4
    )
    if level == LEVEL_3_1_1 and options > 2:
        raise ValueError("[MQTT-3.8.3-4] 3.1.1 has no subscription options")
    if wanted.no_local and wanted.filter.startswith(SHARE_PREFIX):
        raise ValueError("[MQTT5-3.8.3-4] a shared subscription cannot have No Local")
    return options


def encode_suback(suback: SubAck, level: int = LEVEL_3_1_1) -> bytes:
    """A SUBACK, section 3.9: the request's packet identifier, one reason per filter [MQTT-3.8.4-2] [MQTT5-3.8.4-6]."""
    properties = _properties(property_codec.ACK, suback.properties, level)
    reasons = _reasons(PacketType.SUBACK, suback.reason_codes)
    if level == LEVEL_3_1_1:
        reasons = bytes(map(suback_return_code, suback.reason_codes))
    return _packet(PacketType.SUBACK, 0, encode_packet_id(suback.packet_id) + properties + reasons)


def encode_unsubscribe(unsubscribe: Unsubscribe, level: int = LEVEL_3_1_1) -> bytes:
    """An UNSUBSCRIBE, section 3.10. Raises ValueError without a filter [MQTT-3.10.3-2] [MQTT5-3.10.3-2]."""
    if not unsubscribe.filters:
        raise ValueError("[MQTT-3.10.3-2] an UNSUBSCRIBE needs a topic filter")
    properties = _properties(property_codec.UNSUBSCRIBE, unsubscribe.properties, level)
    filters = b"".join(_topic(check_topic_filter, topic_filter, level) for topic_filter in unsubscribe.filters)
    variable = encode_packet_id(unsubscribe.packet_id) + properties
    return _packet(PacketType.UNSUBSCRIBE, _RESERVED_0010, variable + filters)


def encode_unsuback(unsuback: UnsubAck, level: int = LEVEL_3_1_1) -> bytes:
    """An UNSUBACK, section 3.11: in 5.0 one reason per filter [MQTT5-3.11.3-1], in 3.1.1 none."""
    properties = _properties(property_codec.ACK, unsuback.properties, level)
    if level == LEVEL_3_1_1 and unsuback.reason_codes:
        raise ValueError("[MQTT-3.11] 3.1.1 has no reasons in an UNSUBACK")
    reasons = _reasons(PacketType.UNSUBACK, unsuback.reason_codes)
    return _packet(PacketType.UNSUBACK, 0, encode_packet_id(unsuback.packet_id) + properties + reasons)


_ACKNOWLEDGEMENTS: Final = {
    PubAck: (PacketType.PUBACK, 0),
    PubRec: (PacketType.PUBREC, 0),
    PubRel: (PacketType.PUBREL, _RESERVED_0010),
    PubComp: (PacketType.PUBCOMP, 0),
}


def encode_acknowledgement(packet: PubAck | PubRec | PubRel | PubComp | UnsubAck, level: int = LEVEL_3_1_1) -> bytes:
    """The packets that consist of a packet identifier and, in 5.0, of a reason and properties where there are any."""
    if isinstance(packet, UnsubAck):
        return encode_unsuback(packet, level)
    packet_type, flags = _ACKNOWLEDGEMENTS[type(packet)]
    packet_id = encode_packet_id(packet.packet_id)
    tail = _reason_and_properties(packet_type, packet.reason_code, property_codec.ACK, packet.properties, level)
    return _packet(packet_type, flags, packet_id + tail)


def encode_disconnect(disconnect: Disconnect, level: int = LEVEL_3_1_1) -> bytes:
    """A DISCONNECT, section 3.14."""
    carrier, properties = property_codec.DISCONNECT, disconnect.properties
    tail = _reason_and_properties(PacketType.DISCONNECT, disconnect.reason_code, carrier, properties, level)
    return _packet(PacketType.DISCONNECT, 0, tail)


def encode_auth(auth: Auth) -> bytes:
    """An AUTH, 5.0 section 3.15. Raises ValueError when one that says anything names no method [MQTT5-3.15.2.2.2]."""
    reason = _reasons(PacketType.AUTH, (auth.reason_code,))
    properties = property_codec.AUTH.encode(auth.properties)
    if reason + properties == b"\0\0":
        return _packet(PacketType.AUTH, 0, b"")
    if auth.properties.authentication_method is None:
        raise ValueError("[MQTT5-3.15.2.2.2] an AUTH needs an authentication method")
    return _packet(PacketType.AUTH, 0, reason + properties)


def encode_packet(packet: Packet, level: int = LEVEL_3_1_1) -> bytes:
    """Any packet, for a connection of this level. A CONNECT is of the level that it names."""
    match packet:
        case Connect():
            return encode_connect(packet)
        case ConnAck():
            return encode_connack(packet, level)
        case Publish():
            return encode_publish(packet, level)
        case Subscribe():
            return encode_subscribe(packet, level)
        case SubAck():
            return encode_suback(packet, level)
        case Unsubscribe():
            return encode_unsubscribe(packet, level)
        case PingReq():
            return PINGREQ
        case PingResp():
            return PINGRESP
        case Disconnect():
            return encode_disconnect(packet, level)
        case Auth():
            if level == LEVEL_3_1_1:
                raise ValueError("[MQTT-2.2.1] 3.1.1 has no AUTH")
            return encode_auth(packet)
        case _:
            return encode_acknowledgement(packet, level)


def _reason_and_properties(
    packet_type: PacketType, reason: ReasonCode, carrier: Carrier[_P], properties: _P, level: int
) -> bytes:
    """What may be left out from the end when it says nothing, 5.0 sections 3.4.2.1 and 3.14.2.1."""
    encoded = _properties(carrier, properties, level)
    if level == LEVEL_3_1_1:
        if reason is not ReasonCode.SUCCESS:
            raise ValueError(f"[MQTT-2.2.1] 3.1.1 has no reason in a {packet_type.name}")
        return b""
    code = _reasons(packet_type, (reason,))
    if encoded != b"\0":
        return code + encoded
    return code if reason else b""


def _reasons(packet_type: PacketType, reasons: tuple[ReasonCode, ...]) -> bytes:
    for reason in reasons:
        if reason not in REASONS[packet_type]:
            raise ValueError(f"[MQTT5-2.4] a {packet_type.name} cannot carry the reason {reason.name}")
    return bytes(reasons)


def _properties(carrier: Carrier[_P], properties: _P, level: int) -> bytes:
    if level != LEVEL_3_1_1:
        return carrier.encode(properties)
    if properties is not carrier.empty and properties != carrier.empty:
        raise ValueError("[MQTT5-2.2.2] 3.1.1 has no properties")
    return b""


def _topic(check: Callable[[str, int], None], topic: str, level: int) -> bytes:
    try:
        check(topic, level)
    except ProtocolError as error:
        raise ValueError(str(error)) from None
    return encode_string(topic)


def _packet(packet_type: PacketType, flags: int, remaining: bytes) -> bytes:
    return bytes((packet_type << 4 | flags,)) + encode_remaining_length(len(remaining)) + remaining


def _checked_qos(qos: int) -> int:
    if not 0 <= qos <= 2:
        raise ValueError(f"[MQTT-3.3.1-4] a QoS is 0, 1 or 2, not {qos}")
    return qos
