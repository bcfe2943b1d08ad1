"""MQTT over WebSocket: handshake, frames, endings, limits."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from websockets.frames import Close, Opcode

from ingest.listener import _CLOSING_S
from ingest.mqtt import MqttConnection
from ingest.settings import MqttSettings
from ingest.websocket import MAX_HANDSHAKE_BYTES, WebSocket
from tests.conftest import wait_until_async
from tests.ingest.edge_box import Client, EdgeBox, edge_box
from tests.ingest.websocket_client import CONNACK, WebSocketClient, frame, request
from wire.mqtt.clauses import LEVEL_3_1_1, LEVEL_5
from wire.mqtt.encode import encode_connect, encode_publish, encode_subscribe
from wire.mqtt.packets import Connect, Publish, Subscribe, TopicSubscription, Will

PINGREQ, PINGRESP, DISCONNECT = b"\xc0\0", b"\xd0\0", b"\xe0\0"


def publish(payload: bytes = b"1", packet_id: int | None = 1, topic: str = "devices/d/x") -> bytes:
    qos = 0 if packet_id is None else 1
    return encode_publish(Publish(topic=topic, payload=payload, qos=qos, packet_id=packet_id))


def connection_of(box: EdgeBox) -> MqttConnection:
    """The only one."""
    (connection,) = box.mqtt._all()
    assert isinstance(connection, MqttConnection)
    return connection


def socket_of(box: EdgeBox) -> WebSocket:
    websocket = connection_of(box).transport
    assert isinstance(websocket, WebSocket)
    return websocket


# Handshake


async def test_the_subprotocol_is_mqtt_mqtt_6_0_0_4_mqtt5_6_0_0_4(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await Client.connect(box.websocket_port)
        client.send(request(subprotocol="chat, mqtt"))
        head = await WebSocketClient(client).head()
        assert b"Sec-WebSocket-Protocol: mqtt\r\n" in head
        assert b"Sec-WebSocket-Extensions" not in head


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request(subprotocol=None), 400),
        (request(subprotocol="mqttv3.1"), 400),
        (request(upgrade=""), 426),
        (request(first="POST /mqtt HTTP/1.1"), 405),
        (request(first="GET /mqtt HTTP/1.0"), 505),
        (request(Cookie="c" * 8_300), 431),
        (request(**{f"X-{n}": "c" * 4_000 for n in range(5)}), 431),
        (request(first="GET /" + "p" * 9_000 + " HTTP/1.1"), 414),
    ],
    ids=["none-MQTT-6.0.0-3", "other-MQTT-6.0.0-3", "no-upgrade", "post", "1.0", "long-line", "long", "long-path"],
)
async def test_a_refused_handshake_is_answered_and_counted(tmp_path: Path, sent: bytes, status: int) -> None:
    async with edge_box(tmp_path) as box:
        client = await Client.connect(box.websocket_port)
        client.send(sent)
        assert (await client.rest()).startswith(b"HTTP/1.1 %d " % status)
        assert box.mqtt.counters.refused_connections == {"websocket handshake": 1}
        await wait_until_async(lambda: not box.mqtt.counters.connections)


async def test_a_client_that_speaks_mqtt_to_the_websocket_port_is_closed_and_counted(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await Client.connect(box.websocket_port)
        client.send(encode_connect(Connect(client_id="c\n")))
        assert b"HTTP/1.1 101" not in await client.rest()
        assert box.mqtt.counters.refused_connections == {"websocket handshake": 1}


async def test_a_handshake_without_end_is_bounded(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await Client.connect(box.websocket_port)
        client.send(b"GET / HTTP/1.1\r\n")
        for _ in range(MAX_HANDSHAKE_BYTES // 100 + 1):
            client.send(b"X: " + b"x" * 100 + b"\r\n")
        assert b" 431 " in await client.rest()
        assert box.mqtt.counters.refused_connections == {"websocket handshake": 1}


async def test_a_handshake_has_the_time_of_a_connect(tmp_path: Path) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(connect_timeout="3s")) as box:
        client = await Client.connect(box.websocket_port)
        await wait_until_async(lambda: box.mqtt.counters.connections)
        connection = connection_of(box)
        for byte in request()[:3]:  # one byte a second keeps nothing alive
            client.send(bytes([byte]))
            connection.tick()
            assert not connection.transport.is_closing()
        connection.tick()
        assert connection.transport.is_closing()
        assert box.mqtt.counters.refused_connections == {"connect timeout": 1}
        assert await client.rest() == b""


async def test_a_handshake_in_single_bytes_and_a_connect_right_behind_it(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = WebSocketClient(await Client.connect(box.websocket_port))
        for byte in request():
            client.raw.send(bytes([byte]))
        client.send(encode_connect(Connect(client_id="c")))
        assert b" 101 " in await client.head()
        assert await client.data(4) == CONNACK


@pytest.mark.parametrize(
    ("allowed", "origins", "let_in"),
    [
        ((), (), True),
        ((), ("http://localhost:8080",), True),
        ((), ("http://127.0.0.1",), True),
        ((), ("https://elsewhere.example",), False),
        ((), ("null",), False),
        ((), ("http://localhost", "https://elsewhere.example"), False),
        (("https://plant.example",), ("https://plant.example",), True),
        (("https://plant.example",), (), True),
        (("https://plant.example",), ("http://localhost:8080",), True),
        (("https://plant.example",), ("http://plant.example",), False),
        (("https://plant.example",), ("https://plant.example.elsewhere.example",), False),
        (("*",), ("https://elsewhere.example",), True),
    ],
)
async def test_which_pages_may_connect(
    tmp_path: Path, allowed: tuple[str, ...], origins: tuple[str, ...], let_in: bool
) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(websocket_origins=allowed)) as box:
        client = WebSocketClient(await Client.connect(box.websocket_port))
        client.raw.send(request()[:-2] + b"".join(b"Origin: %s\r\n" % one.encode() for one in origins) + b"\r\n")
        if let_in:
            assert (await client.head()).startswith(b"HTTP/1.1 101 ")
            return
        answer = await client.raw.rest()
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert f"Pages from {', '.join(origins)!a} may not connect: mqtt.websocket_origins".encode() in answer
        assert box.mqtt.counters.refused_connections == {"websocket handshake": 1}


# Frames


@pytest.mark.parametrize(
    "level",
    [pytest.param(LEVEL_3_1_1, id="MQTT-6.0.0-2"), pytest.param(LEVEL_5, id="MQTT5-6.0.0-2")],
)
async def test_packets_need_not_fit_frames(tmp_path: Path, level: int) -> None:
    seeded = random.Random(1)
    async with edge_box(tmp_path) as box:
        client = await WebSocketClient.open(box.websocket_port)
        publishes = [Publish(topic="devices/d/x", payload=b"%d" % n, qos=1, packet_id=n) for n in range(1, 51)]
        stream = encode_connect(Connect(client_id="c", protocol_level=level))
        stream += b"".join(encode_publish(one, level) for one in publishes)
        acks = b"".join(b"\x40\x02" + n.to_bytes(2, "big") for n in range(1, 51))
        at = 0
        while at < len(stream):
            size = seeded.choice((0, 1, 2, 7, 130))
            client.send(stream[at : at + size])
            if seeded.random() < 0.1:
                client.raw.send(frame(b"", Opcode.PONG))  # nobody asked; allowed
            at += size
        data = b""
        while not data.endswith(acks):
            opcode, more = await client.frame()
            assert opcode is Opcode.BINARY
            data += more
        assert data[0] == 0x20
        assert [record.value for record in await box.records("telemetry", 50)] == [b"%d" % n for n in range(1, 51)]


async def test_a_message_in_many_frames_with_a_ping_in_between(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await WebSocketClient.mqtt(box.websocket_port, "c")
        packet = publish(b"x" * 1000)
        client.raw.send(frame(packet[:10], fin=False))
        client.raw.send(frame(b"are you there", Opcode.PING))
        assert await client.frame() == (Opcode.PONG, b"are you there")
        for byte in packet[10:]:
            client.raw.send(frame(bytes([byte]), Opcode.CONT, fin=False))
        client.raw.send(frame(PINGREQ, Opcode.CONT))
        assert sorted([await client.frame(), await client.frame()]) == [
            (Opcode.BINARY, b"\x40\x02\0\x01"),
            (Opcode.BINARY, PINGRESP),
        ]


async def test_many_small_frames_in_one_chunk_are_taken_in_order_and_in_slices(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await WebSocketClient.mqtt(box.websocket_port, "c")
        other = await Client.mqtt(box.mqtt_port, "other")
        websocket = next(c.transport for c in box.mqtt._all() if isinstance(c.transport, WebSocket))
        numbers = range(1, 3001)
        taken = box.mqtt.counters
        websocket.data_received(b"".join(frame(publish(b"%d" % n, n)) for n in numbers))  # as one read brings it
        assert 0 < taken.records < 500
        other.send(PINGREQ)
        assert await other.read(2) == PINGRESP
        acks = b"".join(b"\x40\x02" + n.to_bytes(2, "big") for n in numbers)
        assert await client.data(len(acks)) == acks
        assert [int(record.value or b"") for record in await box.records("telemetry", 3000)] == list(numbers)
        client.send(PINGREQ)  # it is read from again
        assert await client.data(2) == PINGRESP


async def test_a_payload_of_a_megabyte_both_ways(tmp_path: Path) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(max_packet_size="1MB")) as box:
        client = await WebSocketClient.mqtt(box.websocket_port, "c")
        subscribe = Subscribe(packet_id=9, subscriptions=(TopicSubscription(filter="devices/#", qos=0),))
        client.send(encode_subscribe(subscribe))
        assert await client.data(5) == b"\x90\x03\0\x09\0"
        payload = random.Random(2).randbytes((1 << 20) - 100)
        client.send(publish(payload, 5))
        ack, echo = b"\x40\x02\0\x05", publish(payload, None)
        data = await client.data(len(ack) + len(echo))
        assert data in (ack + echo, echo + ack)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(b"MQTT as text", Opcode.TEXT), 1003),
        (frame(PINGREQ, mask=False), 1002),
        (b"\x83\x80\0\0\0\0", 1002),
        (frame(PINGREQ, Opcode.CONT), 1002),
        (frame(PINGREQ, fin=False) + frame(PINGREQ), 1002),
        (b"\xf2\x80\0\0\0\0", 1002),
        (b"\x82\xff" + (1 << 40).to_bytes(8, "big"), 1009),
        (b"\x89\xfe\0\xc8" + bytes(204), 1002),
    ],
    ids=[
        "text-MQTT-6.0.0-1-MQTT5-6.0.0-1",
        "unmasked",
        "opcode-3",
        "nothing-to-continue",
        "not-continued",
        "reserved-bits",
        "too-large",
        "long-ping",
    ],
)
async def test_bad_frames_end_their_own_connection_with_the_code_for_it(tmp_path: Path, sent: bytes, code: int) -> None:
    async with edge_box(tmp_path) as box:
        good = await WebSocketClient.mqtt(box.websocket_port, "good")
        bad = await WebSocketClient.mqtt(box.websocket_port, "bad")
        bad.raw.send(frame(publish(b"before", None)) + sent)
        assert (await bad.closed()).code == code
        assert box.mqtt.counters.refused_connections == {"websocket error": 1}
        good.send(publish())
        assert await good.data(4) == b"\x40\x02\0\x01"
        assert len(await box.records("telemetry", 2)) == 2


# Endings


async def test_disconnect_and_the_close_frames_behind_it(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await WebSocketClient.mqtt(box.websocket_port, "c", will=Will(topic="devices/d/w", payload=b"gone"))
        client.send(publish(packet_id=None) + DISCONNECT)
        close = await client.closed()
        assert (close.code, close.reason) == (1000, "disconnected")
        await wait_until_async(lambda: not box.mqtt.counters.connections)
        events = await box.events(2)
        assert [event["reason"] for event in events if event["event"] == "disconnected"] == ["disconnected"]


async def test_a_close_frame_is_echoed_and_without_a_disconnect_the_will_is_published_mqtt_3_1_2_8(
    tmp_path: Path,
) -> None:
    async with edge_box(tmp_path) as box:
        client = await WebSocketClient.mqtt(box.websocket_port, "c", will=Will(topic="devices/d/w", payload=b"gone"))
        client.raw.send(frame(Close(1001, "leaving").serialize(), Opcode.CLOSE))
        close = await client.closed()
        assert (close.code, close.reason) == (1001, "leaving")
        assert [record.value for record in await box.records("telemetry", 1)] == [b"gone"]
        assert not box.mqtt.counters.refused_connections


async def test_the_close_frame_says_why(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await WebSocketClient.mqtt(box.websocket_port, "c")
        client.send(b"\xf0\0")  # AUTH, which 3.1.1 does not know
        close = await client.closed()
        assert close.code == 1008
        assert box.mqtt.counters.refused_connections == {close.reason: 1}


async def test_a_shutdown_says_so_and_waits_for_nobody_for_long(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await WebSocketClient.mqtt(box.websocket_port, "c")
        await box.mqtt.drain()
        for connection in box.mqtt._all():
            connection.close("shutdown")
        close = await client.closed()
        assert (close.code, close.reason) == (1001, "shutdown")


async def test_who_does_not_answer_our_close_frame_is_cut_off(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await WebSocketClient.mqtt(box.websocket_port, "c")
        client.send(b"\xf0\0")
        opcode, _ = await client.frame()
        assert opcode is Opcode.CLOSE
        connection = connection_of(box)
        client.send(publish())  # too late: neither stored nor acknowledged
        for _ in range(_CLOSING_S):
            connection.second_passed()
        assert box.mqtt.counters.connections == 1
        connection.second_passed()
        await wait_until_async(lambda: not box.mqtt.counters.connections)
        assert not box.mqtt.counters.records
        assert await client.raw.rest() == b""


async def test_who_goes_on_sending_while_we_close_is_read_slice_by_slice(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await WebSocketClient.mqtt(box.websocket_port, "c")
        websocket, connection = socket_of(box), connection_of(box)
        flood = b"".join(frame(publish(b"late", None)) for _ in range(2000))
        websocket.data_received(flood)
        taken = box.mqtt.counters.records
        assert websocket._rest
        connection.close("kicked")
        assert not websocket._transport.is_reading(), "nothing more comes before the rest is gone"
        assert (await client.closed()).code == 1008
        assert box.mqtt.counters.records == taken


# Limits


async def test_a_frame_that_never_ends_counts_as_unfinished_and_has_its_time(tmp_path: Path) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(packet_timeout="5s")) as box:
        client = await WebSocketClient.mqtt(box.websocket_port, "c", keep_alive_s=2)
        connection = connection_of(box)
        sent = frame(publish(b"x" * 100))
        client.raw.send(sent[:20])
        await wait_until_async(lambda: connection.unfinished_size_bytes)
        seconds = 0
        for byte in sent[20:40]:
            if connection.transport.is_closing():
                break
            client.raw.send(bytes([byte]))
            before = connection.unfinished_size_bytes
            await wait_until_async(lambda before=before: connection.unfinished_size_bytes > before)
            connection.tick()
            seconds += 1
        assert seconds == 7  # first seen by the first tick, too long with the sixth after it
        assert box.mqtt.counters.refused_connections == {"slow packet": 1}


async def test_frames_that_come_whole_have_no_time_to_keep_together(tmp_path: Path) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(packet_timeout="1s")) as box:
        client = await WebSocketClient.mqtt(box.websocket_port, "c")
        connection = connection_of(box)
        sent = frame(publish(b"x" * 100, None))
        rest = b""
        for number in range(1, 6):
            client.raw.send(rest + sent[:50])
            await wait_until_async(lambda number=number: box.mqtt.counters.records == number - 1)
            await wait_until_async(lambda: connection.unfinished_size_bytes)
            connection.tick()
            rest = sent[50:]
        assert not connection.transport.is_closing()


async def test_what_arrives_under_congestion_is_put_aside(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await WebSocketClient.mqtt(box.websocket_port, "c")
        await box.log.drain()
        box.storage.gate.clear()
        numbers = range(1, 60)
        for number in numbers:
            client.send(publish(b"x" * 60_000, number))
        await wait_until_async(lambda: box.log.congested and box.mqtt.stashed_bytes > 0)
        box.storage.gate.set()
        acks = b"".join(b"\x40\x02" + n.to_bytes(2, "big") for n in numbers)
        assert await client.data(len(acks)) == acks
        assert not box.mqtt.stashed_bytes
        assert not box.mqtt.counters.refused_connections


async def test_who_does_not_read_is_not_read_from(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await WebSocketClient.mqtt(box.websocket_port, "c")
        websocket, connection = socket_of(box), connection_of(box)
        frames = 0
        while not connection._unread:  # nobody reads: until the sockets' buffers and ours are full
            connection.transport.write(bytes(4096))
            frames += 1
            assert frames < 10_000
        assert websocket._paused
        for _ in range(frames):
            assert await client.frame() == (Opcode.BINARY, bytes(4096))
        await wait_until_async(lambda: not websocket._paused)
        client.send(PINGREQ)
        assert await client.data(2) == PINGRESP
