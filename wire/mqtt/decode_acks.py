"""The acknowledgements: a packet identifier, and in 5.0 why, for the packet or for each filter.

PUBACK, PUBREC, PUBREL and PUBCOMP of 5.0 leave out what says nothing: two bytes are success without properties, three
are a reason without properties.
"""

from __future__ import annotations

from typing import TypeVar

from wire.mqtt import property_codec
from wire.mqtt.clauses import LEVEL_3_1_1, LEVEL_5
from wire.mqtt.errors import MalformedPacketError, ProtocolError
from wire.mqtt.fields import PacketReader
from wire.mqtt.packets import PubAck, PubComp, PubRec, PubRel, SubAck, UnsubAck
from wire.mqtt.properties import NO_ACK_PROPERTIES
from wire.mqtt.reasons import REASONS, SUBACK_REASONS_3_1_1, PacketType, ReasonCode

_A = TypeVar("_A", PubAck, PubRec, PubRel, PubComp)


def read_reason(reader: PacketReader, packet_type: PacketType, clause: str) -> ReasonCode:
    """A reason code that a packet of this type may carry; ProtocolError with `clause` for any other."""
    at = reader.at
    return _known(packet_type, reader.byte("reason code"), clause, at)


def _known(packet_type: PacketType, code: int, clause: str, at: int) -> ReasonCode:
    reason = REASONS[packet_type].get(code)
    if reason is None:
        raise ProtocolError(clause, f"{code:#04x} is no reason code of a {packet_type.name}", offset=at)
    return reason


def decode_packet_id(packet: bytes, body: int) -> int:
    """The whole variable header of 3.1.1's PUBACK, PUBREC, PUBREL, PUBCOMP and UNSUBACK."""
    reader = PacketReader(packet, body)
    packet_id = reader.packet_id()
    reader.finish()
    return packet_id


def decode_puback(packet: bytes, body: int, level: int = LEVEL_3_1_1) -> PubAck:
    """A PUBACK, section 3.4."""
    return _decode(PubAck, PacketType.PUBACK, "MQTT5-3.4.2-1", PacketReader(packet, body, level))


def decode_pubrec(packet: bytes, body: int, level: int = LEVEL_3_1_1) -> PubRec:
    """A PUBREC, section 3.5."""
    return _decode(PubRec, PacketType.PUBREC, "MQTT5-3.5.2-1", PacketReader(packet, body, level))


def decode_pubrel(packet: bytes, body: int, level: int = LEVEL_3_1_1) -> PubRel:
    """A PUBREL, section 3.6."""
    return _decode(PubRel, PacketType.PUBREL, "MQTT5-3.6.2-1", PacketReader(packet, body, level))


def decode_pubcomp(packet: bytes, body: int, level: int = LEVEL_3_1_1) -> PubComp:
    """A PUBCOMP, section 3.7."""
    return _decode(PubComp, PacketType.PUBCOMP, "MQTT5-3.7.2-1", PacketReader(packet, body, level))


def _decode(make: type[_A], packet_type: PacketType, clause: str, reader: PacketReader) -> _A:
    packet_id = reader.packet_id()
    if reader.level == LEVEL_3_1_1 or not reader.left:
        reader.finish()
        return make(packet_id=packet_id)
    reason = read_reason(reader, packet_type, clause)
    properties = NO_ACK_PROPERTIES
    if reader.left:
        properties, reader.at = property_codec.ACK.read(reader.packet, reader.at, len(reader.packet))
    reader.finish()
    return make(packet_id=packet_id, reason_code=reason, properties=properties)


def decode_suback(packet: bytes, body: int, level: int = LEVEL_3_1_1) -> SubAck:
    """A SUBACK, section 3.9. That there are as many reasons as filters is known to who asked."""
    reader = PacketReader(packet, body, level)
    packet_id = reader.packet_id()
    if level == LEVEL_5:
        properties, reader.at = property_codec.ACK.read(packet, reader.at, len(packet))
        reasons = _reasons(reader, PacketType.SUBACK, "MQTT5-3.9.3-2")
        return SubAck(packet_id=packet_id, reason_codes=reasons, properties=properties)
    codes = []
    for at, code in enumerate(reader.rest(), start=body + 2):
        reason = SUBACK_REASONS_3_1_1.get(code)
        if reason is None:
            raise MalformedPacketError("MQTT-3.9.3-2", f"the return code {code} is reserved", offset=at)
        codes.append(reason)
    return SubAck(packet_id=packet_id, reason_codes=tuple(codes))


def decode_unsuback(packet: bytes, body: int, level: int = LEVEL_3_1_1) -> UnsubAck:
    """An UNSUBACK, section 3.11."""
    if level == LEVEL_3_1_1:
        return UnsubAck(packet_id=decode_packet_id(packet, body))
    reader = PacketReader(packet, body, level)
    packet_id = reader.packet_id()
    properties, reader.at = property_codec.ACK.read(packet, reader.at, len(packet))
    reasons = _reasons(reader, PacketType.UNSUBACK, "MQTT5-3.11.3-2")
    return UnsubAck(packet_id=packet_id, reason_codes=reasons, properties=properties)


def _reasons(reader: PacketReader, packet_type: PacketType, clause: str) -> tuple[ReasonCode, ...]:
    begin = reader.at
    codes = enumerate(reader.rest(), start=begin)
    return tuple(_known(packet_type, code, clause, at) for at, code in codes)
