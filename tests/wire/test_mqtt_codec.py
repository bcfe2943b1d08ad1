"""Decoders and encoders of both versions against the tables of packets, cut and corrupted, and against each other."""

from __future__ import annotations

import mqtt5_packets
import mqtt_packets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mqtt_oracle import parses_or_is_refused
from mqtt_packets import Case
from mqtt_strategies import packets

from wire.mqtt.clauses import LEVELS
from wire.mqtt.decode import decode_packet
from wire.mqtt.encode import encode_packet
from wire.mqtt.errors import ProtocolError
from wire.mqtt.fields import decode_remaining_length, encode_remaining_length
from wire.mqtt.packets import (
    ConnAck,
    Connect,
    Packet,
    Publish,
    SubAck,
    Subscribe,
    TopicSubscription,
    Unsubscribe,
    Will,
)
from wire.mqtt.reasons import ReasonCode

GOOD = [*mqtt_packets.GOOD, *mqtt5_packets.GOOD]
ALL = [*mqtt_packets.ALL, *mqtt5_packets.ALL]
BROKEN = [
    *mqtt5_packets.BAD,
    *mqtt_packets.BAD,
    *mqtt_packets.BAD_CONNECTS,
    *mqtt_packets.OTHER_LEVELS,
    *mqtt_packets.BAD_FROM_SERVER,
]


@pytest.mark.parametrize("case", GOOD, ids=str)
def test_packet_means(case: Case) -> None:
    assert decode_packet(case.data, case.level) == case.packet


@pytest.mark.parametrize("case", [case for case in GOOD if case.canonical], ids=str)
def test_packet_is_written(case: Case) -> None:
    assert case.packet is not None
    assert encode_packet(case.packet, case.level) == case.data


@pytest.mark.parametrize("case", [case for case in GOOD if not case.canonical], ids=str)
def test_packet_is_written_shorter(case: Case) -> None:
    assert case.packet is not None
    encoded = encode_packet(case.packet, case.level)
    assert len(encoded) <= len(case.data)
    assert decode_packet(encoded, case.level) == case.packet


def test_every_case_has_a_name_of_its_own() -> None:
    assert len({str(case) for case in ALL}) == len(ALL)


@pytest.mark.parametrize("case", BROKEN, ids=str)
def test_broken_packet_names_its_clause(case: Case) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_packet(case.data, case.level)
    assert caught.value.clause == case.clause
    assert caught.value.reason_code is case.reason_code
    assert f"[{case.clause}]" in str(caught.value)
    assert caught.value.offset is None or 0 <= caught.value.offset <= len(case.data)


@pytest.mark.parametrize(
    ("data", "offset"),
    [
        (b"\x36\x06\x00\x01a\x00\x07x", 0),
        (b"\x30\x04\x00\x02a\xff", 5),
        (b"\x30\x84\x00\x00\x02\x00a", 5),
        (b"\x32\x05\x00\x01a\x00\x00", 5),
        (b"\x32\x04\x00\x01a\x00", 6),
        (b"\x40\x03\x00\x01\x00", 4),
        (b"\x82\x06\x00\x01\x00\x01#\x03", 7),
    ],
    ids=["flags", "bad UTF-8", "U+0000 behind a long length", "packet id 0", "cut", "too much", "requested QoS"],
)
def test_an_error_names_its_offset(data: bytes, offset: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_packet(data)
    assert caught.value.offset == offset
    assert f"byte {offset} of the packet" in caught.value.where


@pytest.mark.parametrize("case", ALL, ids=str)
def test_every_truncation_is_malformed(case: Case) -> None:
    for size in range(len(case.data)):
        with pytest.raises(ProtocolError):
            decode_packet(case.data[:size], case.level)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_every_truncation_with_a_fitting_length_parses_or_is_refused(case: Case) -> None:
    for size in range(2, min(len(case.data), 129)):
        parses_or_is_refused(bytes((case.data[0], size - 2)) + case.data[2:size], case.level)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_every_corrupted_byte_parses_or_is_refused(case: Case) -> None:
    for at in range(min(len(case.data), 64)):
        was = case.data[at]
        for byte in {*(was ^ 1 << bit for bit in range(8)), 0, 1, 2, 127, 128, 255, (was + 1) % 256, (was - 1) % 256}:
            parses_or_is_refused(case.data[:at] + bytes((byte,)) + case.data[at + 1 :], case.level)


@pytest.mark.parametrize("level", LEVELS)
@given(data=st.data())
def test_what_is_written_is_read(level: int, data: st.DataObject) -> None:
    packet = data.draw(packets(level))
    assert decode_packet(encode_packet(packet, level), level) == packet


@pytest.mark.parametrize("level", LEVELS)
@given(data=st.binary(max_size=64))
def test_noise_parses_or_is_refused(level: int, data: bytes) -> None:
    parses_or_is_refused(data, level)


@pytest.mark.parametrize(
    ("length", "encoded"),
    [
        (0, b"\x00"),
        (127, b"\x7f"),
        (128, b"\x80\x01"),
        (16_383, b"\xff\x7f"),
        (16_384, b"\x80\x80\x01"),
        (2_097_151, b"\xff\xff\x7f"),
        (2_097_152, b"\x80\x80\x80\x01"),
        (268_435_455, b"\xff\xff\xff\x7f"),
    ],
    ids=lambda value: f"2.2.3 table 2.4 {value}",
)
def test_remaining_length(length: int, encoded: bytes) -> None:
    assert encode_remaining_length(length) == encoded
    assert decode_remaining_length(b"\x30" + encoded, 1) == (length, 1 + len(encoded))
    for size in range(len(encoded)):
        assert decode_remaining_length(encoded[:size], 0) is None


@pytest.mark.parametrize("length", [-1, 268_435_456])
def test_remaining_length_beyond_its_range_is_not_written(length: int) -> None:
    with pytest.raises(ValueError, match="remaining length"):
        encode_remaining_length(length)


@pytest.mark.parametrize(
    "packet",
    [
        Publish(topic="a", payload=b"", qos=1),
        Publish(topic="a", payload=b"", packet_id=1),
        Publish(topic="a", payload=b"", dup=True),
        Publish(topic="a", payload=b"", qos=3, packet_id=1),
        Publish(topic="a", payload=b"", qos=1, packet_id=0),
        Publish(topic="a", payload=b"", qos=1, packet_id=65536),
        Publish(topic="a\0", payload=b""),
        Publish(topic="a" * 65536, payload=b""),
        Publish(topic="\ud800", payload=b""),
        Connect(client_id="c", password=b"p"),
        Connect(client_id="c", will=Will(topic="a", payload=b"", qos=3)),
        Publish(topic="", payload=b""),
        Publish(topic="a/#", payload=b""),
        Subscribe(packet_id=1, subscriptions=()),
        Subscribe(packet_id=1, subscriptions=(TopicSubscription(filter="#/a", qos=0),)),
        Unsubscribe(packet_id=1, filters=()),
        Unsubscribe(packet_id=1, filters=("a+",)),
        ConnAck(reason_code=ReasonCode.PAYLOAD_FORMAT_INVALID),
        SubAck(packet_id=1, reason_codes=(ReasonCode.BANNED,)),
    ],
    ids=repr,
)
def test_what_the_protocol_forbids_is_not_written(packet: Packet) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the messages are the clauses; which one is no contract
        encode_packet(packet)


def test_mqtt_3_2_2_4_a_refusal_has_no_session() -> None:
    with pytest.raises(ValueError, match=r"3\.2\.2-4"):
        ConnAck(reason_code=ReasonCode.NOT_AUTHORIZED, session_present=True)


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(Connect(client_id="c", username="u", password=b"secret"))
