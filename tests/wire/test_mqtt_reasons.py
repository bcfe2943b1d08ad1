"""The reason codes of 5.0 against the specification's own table, and what is left of them in 3.1.1."""

from __future__ import annotations

import pytest

from wire.mqtt.clauses import LEVEL_3_1_1, LEVEL_5, LEVELS
from wire.mqtt.encode import encode_packet
from wire.mqtt.errors import (
    MalformedPacketError,
    PacketTooLargeError,
    ProtocolError,
    PublishRefusedError,
    UnacceptableLevelError,
)
from wire.mqtt.packets import (
    Auth,
    ConnAck,
    Disconnect,
    Packet,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    UnsubAck,
)
from wire.mqtt.properties import AckProperties, AuthProperties, ConnAckProperties, PublishProperties
from wire.mqtt.reasons import (
    REASONS,
    ConnectReturnCode,
    PacketType,
    ReasonCode,
    connect_return_code,
    suback_return_code,
)

TABLE_2_6 = {
    0x00: "CONNACK PUBACK PUBREC PUBREL PUBCOMP SUBACK UNSUBACK AUTH DISCONNECT",
    0x01: "SUBACK",
    0x02: "SUBACK",
    0x04: "DISCONNECT",
    0x10: "PUBACK PUBREC",
    0x11: "UNSUBACK",
    0x18: "AUTH",
    0x19: "AUTH",
    0x80: "CONNACK PUBACK PUBREC SUBACK UNSUBACK DISCONNECT",
    0x81: "CONNACK DISCONNECT",
    0x82: "CONNACK DISCONNECT",
    0x83: "CONNACK PUBACK PUBREC SUBACK UNSUBACK DISCONNECT",
    0x84: "CONNACK",
    0x85: "CONNACK",
    0x86: "CONNACK",
    0x87: "CONNACK PUBACK PUBREC SUBACK UNSUBACK DISCONNECT",
    0x88: "CONNACK",
    0x89: "CONNACK DISCONNECT",
    0x8A: "CONNACK",
    0x8B: "DISCONNECT",
    0x8C: "CONNACK DISCONNECT",
    0x8D: "DISCONNECT",
    0x8E: "DISCONNECT",
    0x8F: "SUBACK UNSUBACK DISCONNECT",
    0x90: "CONNACK PUBACK PUBREC DISCONNECT",
    0x91: "PUBACK PUBREC SUBACK UNSUBACK",
    0x92: "PUBREL PUBCOMP",
    0x93: "DISCONNECT",
    0x94: "DISCONNECT",
    0x95: "CONNACK DISCONNECT",
    0x96: "DISCONNECT",
    0x97: "CONNACK PUBACK PUBREC SUBACK DISCONNECT",
    0x98: "DISCONNECT",
    0x99: "CONNACK PUBACK PUBREC DISCONNECT",
    0x9A: "CONNACK DISCONNECT",
    0x9B: "CONNACK DISCONNECT",
    0x9C: "CONNACK DISCONNECT",
    0x9D: "CONNACK DISCONNECT",
    0x9E: "SUBACK DISCONNECT",
    0x9F: "CONNACK DISCONNECT",
    0xA0: "DISCONNECT",
    0xA1: "SUBACK DISCONNECT",
    0xA2: "SUBACK DISCONNECT",
}
CLAUSES = {
    "CONNACK": "MQTT5-3.2.2-8",
    "PUBACK": "MQTT5-3.4.2-1",
    "PUBREC": "MQTT5-3.5.2-1",
    "PUBREL": "MQTT5-3.6.2-1",
    "PUBCOMP": "MQTT5-3.7.2-1",
    "SUBACK": "MQTT5-3.9.3-2",
    "UNSUBACK": "MQTT5-3.11.3-2",
    "DISCONNECT": "MQTT5-3.14.2-1",
    "AUTH": "MQTT5-3.15.2-1",
}


def test_the_codes_are_the_specifications() -> None:
    assert {int(code) for code in ReasonCode} == set(TABLE_2_6)
    for packet_type, carried in REASONS.items():
        assert set(carried) == {code for code, packets in TABLE_2_6.items() if packet_type.name in packets.split()}


def carrying(packet_type: PacketType, reason: ReasonCode) -> Packet:
    """A packet of this type with this reason."""
    match packet_type:
        case PacketType.CONNACK:
            return ConnAck(reason_code=reason)
        case PacketType.SUBACK:
            return SubAck(packet_id=1, reason_codes=(reason,))
        case PacketType.UNSUBACK:
            return UnsubAck(packet_id=1, reason_codes=(reason,))
        case PacketType.DISCONNECT:
            return Disconnect(reason_code=reason)
        case PacketType.AUTH:
            return Auth(reason_code=reason, properties=AuthProperties(authentication_method="m"))
        case _:
            kinds = {
                PacketType.PUBACK: PubAck,
                PacketType.PUBREC: PubRec,
                PacketType.PUBREL: PubRel,
                PacketType.PUBCOMP: PubComp,
            }
            return kinds[packet_type](packet_id=1, reason_code=reason)


@pytest.mark.parametrize(
    "packet_type", REASONS, ids=lambda packet_type: f"{CLAUSES[packet_type.name]} {packet_type.name}"
)
def test_only_the_packets_own_codes_are_written(packet_type: PacketType) -> None:
    for reason in ReasonCode:
        packet = carrying(packet_type, reason)
        if reason in REASONS[packet_type]:
            assert encode_packet(packet, LEVEL_5)
        else:
            with pytest.raises(ValueError, match="cannot carry"):
                encode_packet(packet, LEVEL_5)


def test_every_error_has_a_code_that_a_server_can_say_goodbye_with() -> None:
    kinds = (ProtocolError, MalformedPacketError, PacketTooLargeError, PublishRefusedError)
    for kind in kinds:
        assert kind("MQTT5-4.13", "what").reason_code in REASONS[PacketType.DISCONNECT]
        assert kind("MQTT5-4.13", "what", reason_code=ReasonCode.BANNED).reason_code is ReasonCode.BANNED
    assert {kind("MQTT5-4.13", "what").reason_code for kind in kinds} == {0x82, 0x81, 0x95, 0x87}


@pytest.mark.parametrize(
    ("level", "answer_level"),
    [(3, LEVEL_3_1_1), (0x83, LEVEL_3_1_1), (0x84, LEVEL_3_1_1), (6, LEVEL_5), (0, LEVEL_3_1_1)],
)
def test_a_level_that_is_not_offered_is_answered_in_one_that_the_client_reads(level: int, answer_level: int) -> None:
    error = UnacceptableLevelError("MQTT-3.1.2-2", "what", level=level)
    assert error.answer_level == answer_level
    assert encode_packet(ConnAck(reason_code=error.reason_code), error.answer_level) == (
        b"\x20\x02\0\x01" if answer_level == LEVEL_3_1_1 else b"\x20\x03\0\x84\0"
    )


def test_3_1_1_has_its_own_codes() -> None:
    own = {code: connect_return_code(code) for code in ReasonCode}
    assert {code for code in own.values() if code is not None} == set(ConnectReturnCode)
    assert own[ReasonCode.SUCCESS] is ConnectReturnCode.ACCEPTED
    assert own[ReasonCode.SERVER_BUSY] is ConnectReturnCode.SERVER_UNAVAILABLE
    assert own[ReasonCode.BANNED] is ConnectReturnCode.NOT_AUTHORIZED
    assert own[ReasonCode.MALFORMED_PACKET] is None
    assert [suback_return_code(ReasonCode(code)) for code in (0, 1, 2, 0x87, 0x97)] == [0, 1, 2, 0x80, 0x80]


@pytest.mark.parametrize(
    "packet",
    [
        PubAck(packet_id=1, reason_code=ReasonCode.NOT_AUTHORIZED),
        PubAck(packet_id=1, properties=AckProperties(reason_string="x")),
        UnsubAck(packet_id=1, reason_codes=(ReasonCode.SUCCESS,)),
        Disconnect(reason_code=ReasonCode.SERVER_BUSY),
        Publish(topic="", payload=b"", properties=PublishProperties(topic_alias=1)),
        ConnAck(properties=ConnAckProperties(maximum_qos=1)),
        Auth(),
    ],
    ids=repr,
)
def test_what_3_1_1_cannot_say_is_not_said_in_silence(packet: Packet) -> None:
    with pytest.raises(ValueError, match=r"3\.1\.1 has no"):
        encode_packet(packet, LEVEL_3_1_1)


def test_nothing_else_than_the_two_levels_is_spoken() -> None:
    assert LEVELS == (4, 5)
