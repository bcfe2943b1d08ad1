"""The publisher's side: acknowledgements in, however they are cut; and it never mistakes a packet for another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.mqtt.client import ClientConnection
from wire.mqtt.encode import encode_acknowledgement, encode_connack, encode_packet, encode_suback
from wire.mqtt.errors import PacketTooLargeError, ProtocolError
from wire.mqtt.packets import (
    ConnAck,
    PingResp,
    PubAck,
    Publish,
    SubAck,
    UnsubAck,
)
from wire.mqtt.reasons import ReasonCode

CONNACK = encode_connack(ConnAck(session_present=True))


def puback(packet_id: int) -> bytes:
    return encode_acknowledgement(PubAck(packet_id=packet_id))


def test_the_answer_to_connect() -> None:
    client = ClientConnection()
    assert not client.accepted
    assert client.receive(CONNACK) == []
    assert client.connack == ConnAck(session_present=True)
    assert client.accepted


def test_a_refusal_is_kept() -> None:
    client = ClientConnection()
    client.receive(encode_connack(ConnAck(reason_code=ReasonCode.SERVER_UNAVAILABLE)))
    assert client.connack == ConnAck(reason_code=ReasonCode.SERVER_UNAVAILABLE)
    assert not client.accepted


@given(st.lists(st.integers(1, 65535), max_size=20), st.integers(1, 7))
def test_acks_come_in_order_whatever_the_chunks(packet_ids: list[int], step: int) -> None:
    stream = CONNACK + b"".join(map(puback, packet_ids)) + encode_packet(PingResp())
    client = ClientConnection()
    acked = [packet_id for at in range(0, len(stream), step) for packet_id in client.receive(stream[at : at + step])]
    assert acked == packet_ids
    assert client.pings_answered == 1


def test_other_answers_are_handed_over() -> None:
    suback = SubAck(packet_id=3, reason_codes=(ReasonCode.UNSPECIFIED_ERROR,))
    unsuback = UnsubAck(packet_id=4)
    client = ClientConnection()
    assert client.receive(CONNACK + encode_suback(suback) + puback(9) + encode_acknowledgement(unsuback)) == [9]
    assert client.received == [suback, unsuback]
    client.receive(b"")
    assert client.received == []


@pytest.mark.parametrize(
    ("stream", "clause"),
    [
        (puback(1), "MQTT-3.2.0-1"),
        (CONNACK + CONNACK, "MQTT-3.2.0-1"),
        (encode_connack(ConnAck(reason_code=ReasonCode.NOT_AUTHORIZED)) + puback(1), "MQTT-3.2.0-1"),
        (CONNACK + encode_packet(Publish(topic="a", payload=b"")), "MQTT-2.2.1"),
        (CONNACK + b"\x40\x02\x00\x00", "MQTT-2.3.1-1"),
        (CONNACK + b"\x41\x02\x00\x01", "MQTT-2.2.2-2"),
        (CONNACK + b"\xff\x00", "MQTT-2.2.1"),
    ],
    ids=["ack first", "second connack", "ack after refusal", "publish", "ack of id 0", "flags", "type 15"],
)
def test_what_a_server_must_not_send(stream: bytes, clause: str) -> None:
    client = ClientConnection()
    with pytest.raises(ProtocolError) as caught:
        client.receive(stream)
    assert caught.value.clause == clause
    with pytest.raises(ProtocolError):
        client.receive(b"\xd0\x00")


def test_a_packet_that_announces_too_much_is_refused() -> None:
    client = ClientConnection(max_packet_size_bytes=100)
    with pytest.raises(PacketTooLargeError):
        client.receive(CONNACK + b"\x90\x80\x01")
