"""The MQTT link: what it says, what it makes of the answers, and when it gives a box up."""

from __future__ import annotations

import asyncio

import pytest

from devices.simulator.link import PeerError, Timing
from devices.simulator.mqtt_link import PACKET_IDS, PONG_TIMEOUT_S, MqttLink
from devices.simulator.outbox import Outbox
from devices.simulator.ranges import numbers_in
from tests.devices.simulator_transport import FakeTransport

CONNECT = b"\x10\x15\x00\x04MQTT\x04\x00\x00\x3c\x00\x09pump-0001"
TOPIC = b"\x00\x1bdevices/pump-0001/telemetry"
ACCEPTED = b"\x20\x02\x00\x00"


def _link(outbox: Outbox, answer: bytes = ACCEPTED) -> tuple[MqttLink, FakeTransport]:
    link = MqttLink("pump-0001", outbox, Timing(), lambda: None)
    transport = FakeTransport(link)
    link.connection_made(transport)
    assert transport.taken() == CONNECT
    link.data_received(answer)
    return link, transport


def _publish(packet_id: int, payload: bytes, *, dup: bool = False) -> bytes:
    body = TOPIC + packet_id.to_bytes(2, "big") + payload
    return bytes((0x3A if dup else 0x32, len(body))) + body


async def test_mqtt_3_1_0_1_nothing_goes_out_before_the_connack() -> None:
    link, transport = _link(Outbox(9), answer=b"")
    assert not link.is_up
    assert transport.written == b""
    link.data_received(ACCEPTED[:3])
    assert not link.is_up
    link.data_received(ACCEPTED[3:])
    assert link.is_up


async def test_mqtt_4_4_0_1_a_resend_is_the_same_packet_with_dup() -> None:
    outbox = Outbox(9)
    first, transport = _link(outbox)
    for payload in (b"a", b"b", b"c"):
        first.send(outbox.put(payload))
    assert transport.taken() == _publish(1, b"a") + _publish(2, b"b") + _publish(3, b"c")
    first.data_received(b"\x40\x02\x00\x02")
    transport.abort()
    outbox.put(b"d")  # made while there is no connection: its first attempt is the next one [MQTT-3.3.1-1]
    second, transport = _link(outbox)
    second.send_pending()
    assert transport.taken() == _publish(1, b"a", dup=True) + _publish(3, b"c", dup=True) + _publish(4, b"d")
    assert outbox.resent_ranges() == ((1, 1), (3, 3))


async def test_acks_come_in_any_order() -> None:
    outbox = Outbox(9)
    link, _ = _link(outbox)
    for _ in range(4):
        link.send(outbox.put(b"x"))
    link.data_received(b"\x40\x02\x00\x03\x40\x02\x00\x01\x40\x02")
    assert list(numbers_in(outbox.acked_ranges())) == [1, 3]
    link.data_received(b"\x00\x04")
    assert list(numbers_in(outbox.acked_ranges())) == [1, 3, 4]


async def test_mqtt_2_3_1_1_packet_ids_go_around_without_zero() -> None:
    outbox = Outbox(9)
    link, transport = _link(outbox)
    for _ in range(PACKET_IDS - 1):
        outbox.going_out(outbox.put(b"x"))
        outbox.ack(outbox.sent)
    for payload in (b"last", b"first", b"second"):
        link.send(outbox.put(payload))
    assert transport.taken() == _publish(65535, b"last") + _publish(1, b"first") + _publish(2, b"second")
    link.data_received(b"\x40\x02\x00\x01\x40\x02\xff\xff")
    assert list(numbers_in(outbox.pending_ranges())) == [PACKET_IDS + 2]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"\x40\x02\x00\x02", id="PUBACK of an unused packet id"),
        pytest.param(b"\x40\x02\x00\x01\x40\x02\x00\x01", id="PUBACK twice"),
        pytest.param(b"\x40\x02\x00\x00", id="MQTT-2.3.1-1 PUBACK of packet id 0"),
        pytest.param(ACCEPTED, id="MQTT-3.2.0-1 a second CONNACK"),
        pytest.param(b"\x30\x03\x00\x01a", id="a PUBLISH nobody asked for"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n" + b"Content-Type: text/plain\r\n" * 5, id="not MQTT"),
    ],
)
async def test_what_a_server_may_not_send_ends_the_connection(answer: bytes) -> None:
    outbox = Outbox(9)
    link, transport = _link(outbox)
    link.send(outbox.put(b"x"))
    link.data_received(answer)
    assert transport.aborted
    assert link.closed.result()


@pytest.mark.parametrize("code", range(1, 6))
async def test_mqtt_3_2_2_5_a_refused_connect_says_why(code: int) -> None:
    link, transport = _link(Outbox(9), answer=bytes((0x20, 2, 0, code)))
    assert transport.aborted
    with pytest.raises(PeerError, match=f"refused with CONNACK {code}, [a-z]"):
        await link.established
    assert not link.is_up


async def test_mqtt_3_1_2_23_a_quiet_device_pings() -> None:
    link, transport = _link(Outbox(9))
    now_s = asyncio.get_running_loop().time()
    link.watch(now_s)
    assert transport.taken() == b""
    link.watch(now_s + 29)
    assert transport.taken() == b""
    link.watch(now_s + 31)
    assert transport.taken() == b"\xc0\x00"
    link.data_received(b"\xd0\x00")
    link.watch(now_s + 32)
    link.watch(now_s + 63)
    assert transport.taken() == b"\xc0\x00"
    link.watch(now_s + 63 + PONG_TIMEOUT_S)
    assert transport.aborted
    assert "PINGRESP" in link.closed.result()


async def test_a_reading_without_answer_ends_the_connection() -> None:
    outbox = Outbox(9)
    link, transport = _link(outbox)
    now_s = asyncio.get_running_loop().time()
    for second in range(3):
        link.send(outbox.put(b"x"))
        link.watch(now_s + second)
    link.data_received(b"\x40\x02\x00\x01")
    link.watch(now_s + 29)
    link.data_received(b"\x40\x02\x00\x03")
    link.watch(now_s + 58)
    assert not transport.aborted, "the oldest has been the oldest for 29 s"
    link.watch(now_s + 60)
    assert "reading 2" in link.closed.result()


async def test_an_orderly_end_says_disconnect() -> None:
    link, transport = _link(Outbox(9))
    link.close()
    assert transport.written == b"\xe0\x00"
    assert transport.aborted
