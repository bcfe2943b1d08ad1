"""Guarding: clients that dawdle, vanish, come all at once, send garbage or never read."""

from __future__ import annotations

import asyncio
import gc
import random
from pathlib import Path

import pytest
from websockets.frames import Opcode

from ingest.limits import allow_files
from ingest.listener import _CLOSING_S, _SLICES
from ingest.mqtt.connection import MqttConnection
from ingest.settings import MqttSettings
from tests.conftest import wait_until_async
from tests.ingest.edge_box import Client, EdgeBox, edge_box
from tests.ingest.websocket_client import WebSocketClient, frame, request
from wire.mqtt.clauses import LEVEL_5
from wire.mqtt.encode import encode_connect, encode_publish, encode_subscribe
from wire.mqtt.packets import Connect, Publish, Subscribe, TopicSubscription

PINGREQ, PINGRESP = b"\xc0\0", b"\xd0\0"
CONNACK = b"\x20\x02\0\0"


def publish(payload: bytes = b"1", packet_id: int | None = 1, topic: str = "devices/d/x") -> bytes:
    qos = 0 if packet_id is None else 1
    return encode_publish(Publish(topic=topic, payload=payload, qos=qos, packet_id=packet_id))


def only(box: EdgeBox) -> MqttConnection:
    (connection,) = box.mqtt._all()
    assert isinstance(connection, MqttConnection)
    return connection


# Too long


@pytest.mark.parametrize(
    ("options", "code_5", "code_3"),
    [
        ({"client_id": "ü" * 51}, 0x85, 2),
        ({"client_id": "c", "username": "ü" * 51}, 0x86, 4),
    ],
    ids=["client-id-MQTT5-3.1.3-8", "username"],
)
async def test_names_kept_with_a_session_are_bounded(
    tmp_path: Path, options: dict[str, str], code_5: int, code_3: int
) -> None:
    settings = MqttSettings(max_client_id_bytes=100, max_username_bytes=100)
    async with edge_box(tmp_path, mqtt=settings) as box:
        old, new = await Client.connect(box.mqtt_port), await Client.connect(box.mqtt_port)
        old.send(encode_connect(Connect(**options)))
        assert await old.rest() == bytes((0x20, 2, 0, code_3))
        new.send(encode_connect(Connect(protocol_level=LEVEL_5, **options)))
        answer = await new.rest()
        assert (answer[0], answer[3]) == (0x20, code_5)
        assert not box.mqtt.broker.sessions
        fitting = {name: value[:50] for name, value in options.items()}
        await Client.mqtt(box.mqtt_port, **fitting)


# Too slow


async def test_one_byte_a_second_of_a_connect_keeps_nothing_alive_mqtt_3_1_4(tmp_path: Path) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(connect_timeout="5s")) as box:
        client = await Client.connect(box.mqtt_port)
        await wait_until_async(lambda: box.mqtt.counters.connections)
        connection = only(box)
        sent = encode_connect(Connect(client_id="slow"))
        for count, byte in enumerate(sent[:5], 1):
            client.send(bytes([byte]))
            await wait_until_async(lambda count=count: connection.unfinished_size_bytes == count)
            connection.tick()
            assert not connection.transport.is_closing()
        connection.tick()
        assert await client.rest() == b""
        assert box.mqtt.counters.refused_connections == {"connect timeout": 1}


async def test_half_a_packet_for_ever_is_not_waited_for_whatever_drips(tmp_path: Path) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(packet_timeout="5s")) as box:
        client = await Client.mqtt(box.mqtt_port, "drip")
        connection = only(box)
        sent = publish(b"x" * 100)
        client.send(sent[:10])
        await wait_until_async(lambda: connection.unfinished_size_bytes == 10)
        ticks = 0
        while not connection.transport.is_closing():
            client.send(sent[10 + ticks : 11 + ticks])
            await wait_until_async(lambda count=11 + ticks: connection.unfinished_size_bytes == count)
            connection.tick()
            ticks += 1
        assert ticks == 7  # the first one sees it, and six more are more than five seconds
        assert box.mqtt.counters.refused_connections == {"slow packet": 1}


async def test_packets_that_end_have_no_time_to_keep_together(tmp_path: Path) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(packet_timeout="1s")) as box:
        client = await Client.mqtt(box.mqtt_port, "steady")
        connection = only(box)
        sent = publish(b"x" * 100, None)
        for count in range(1, 10):  # at every tick some packet is incomplete, each time another one
            client.send((sent[10:] if count > 1 else b"") + sent[:10])
            await wait_until_async(lambda count=count: box.mqtt.counters.records == count - 1)
            await wait_until_async(lambda: connection.unfinished_size_bytes == 10)
            connection.tick()
        assert not connection.transport.is_closing()


# Gone, or not reading


async def test_a_client_that_never_reads_is_not_read_from_and_ends_with_its_keep_alive(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        silent = await Client.mqtt(box.mqtt_port, "silent", keep_alive_s=4)
        connection = only(box)
        subscribe = Subscribe(packet_id=9, subscriptions=(TopicSubscription(filter="devices/#", qos=0),))
        silent.send(encode_subscribe(subscribe))
        await silent.read(5)
        other = await Client.mqtt(box.mqtt_port, "other")
        number = 0
        while not connection._unread:  # until the sockets' buffers and ours are full
            number += 1
            other.send(publish(b"x" * 60_000, number))
            assert await other.read(4) == b"\x40\x02" + number.to_bytes(2, "big")
            assert number < 1_000
        silent.send(PINGREQ)  # it still sends, but nobody reads that
        connection.heard = False
        for _ in range(6):
            connection.tick()
            assert not connection.transport.is_closing()
        connection.tick()
        await wait_until_async(lambda: box.mqtt.counters.connections == 1)
        assert box.mqtt.counters.refused_connections == {"keep-alive timeout": 1}
        other.send(publish(packet_id=number + 1))
        assert await other.read(4) == b"\x40\x02" + (number + 1).to_bytes(2, "big")


async def test_a_closing_connection_does_not_wait_for_ever_for_a_client_that_does_not_read(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        await Client.mqtt(box.mqtt_port, "c")
        connection = only(box)
        while not connection._unread:
            connection.transport.write(bytes(60_000))
        connection.close("kicked")
        for _ in range(_CLOSING_S):
            connection.second_passed()
        assert box.mqtt.counters.connections == 1, "what was written may still be on its way"
        connection.second_passed()
        await wait_until_async(lambda: not box.mqtt.counters.connections)


# All at once


async def test_a_fleet_that_comes_vanishes_and_comes_back_at_once(tmp_path: Path) -> None:
    fleet = 1_000
    allow_files(2 * fleet + 500)
    async with edge_box(tmp_path) as box:

        async def come(number: int) -> Client:
            client = await Client.connect(box.mqtt_port)
            client.send(encode_connect(Connect(client_id=f"c{number}", clean_session=False)))
            answer = await client.read(4)
            assert answer[:2] == b"\x20\x02"
            assert answer[3] == 0
            return client

        first = await asyncio.gather(*(come(number) for number in range(fleet)))
        assert box.mqtt.counters.connections == fleet
        assert {len(connections) for connections in box.mqtt._slices} == {fleet // _SLICES}
        for client in first:
            client.abort()
        again = await asyncio.gather(*(come(number) for number in range(fleet)))  # takes over what is still there
        await wait_until_async(lambda: box.mqtt.counters.connections == fleet)
        assert sum(map(len, box.mqtt._slices)) == fleet
        assert len(box.mqtt.broker.sessions) == fleet
        assert not box.mqtt.counters.refused_connections.keys() - {"taken over"}
        for client in again:
            client.abort()
        await wait_until_async(lambda: not box.mqtt.counters.connections)
        assert not any(box.mqtt._slices)


async def test_a_connection_is_forgotten_without_a_search(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        await Client.mqtt(box.mqtt_port, "c")
        connection = only(box)

        class Unasked(set[object]):
            def __contains__(self, item: object) -> bool:
                raise AssertionError("looked for a connection in a set that it is not in")

        slices = box.mqtt._slices
        for index, connections in enumerate(slices):
            if connections is not connection.among:
                slices[index] = Unasked()  # type: ignore[assignment]
        assert box.mqtt.forget(connection)
        assert not box.mqtt.forget(connection), "counted out once"
        box.mqtt.counters.connections += 1
        box.mqtt._admission.enter()
        connection.among = slices[0]


# Garbage

GARBAGE_BYTES = 100 << 20
CHUNK_BYTES = 256 << 10
MOST_GROWTH_BYTES = 20 << 20


def resident_bytes() -> int:
    """What of this process is in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def garbage_for_tcp(seeded: random.Random, piece: bytes) -> bytes:
    """Noise; or a good beginning and then noise, which gets further."""
    good = encode_connect(Connect(client_id=f"g{seeded.randrange(50)}"))
    return seeded.choice((piece, good + piece, good + publish(b"1", None)[:-1] + piece, good[:-3] + piece))


def garbage_for_websocket(seeded: random.Random, piece: bytes) -> bytes:
    good = request()
    connect = encode_connect(Connect(client_id=f"g{seeded.randrange(50)}"))
    return seeded.choice(
        (
            piece,
            good + piece,
            good[:-2] + piece,
            good + frame(piece),
            good + frame(connect + piece),
            good + frame(connect) + piece,
            good + frame(piece, Opcode.BINARY, fin=False) + frame(piece, Opcode.CONT, fin=False),
        )
    )


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc to see the memory in use")
@pytest.mark.parametrize("transport", ["tcp", "websocket"])
async def test_a_hundred_megabytes_of_garbage_disturb_nobody_and_leave_nothing(tmp_path: Path, transport: str) -> None:
    seeded = random.Random(7)
    noise = seeded.randbytes(CHUNK_BYTES)
    make = garbage_for_tcp if transport == "tcp" else garbage_for_websocket
    async with edge_box(tmp_path) as box:
        port = box.mqtt_port if transport == "tcp" else box.websocket_port
        good = await Client.mqtt(box.mqtt_port, "good")
        other = await WebSocketClient.mqtt(box.websocket_port, "other")
        sent = number = before = 0

        async def pour() -> int:
            at = seeded.randrange(CHUNK_BYTES)
            garbage = make(seeded, noise[at:] + noise[:at])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(garbage)
            try:
                await asyncio.wait_for(writer.drain(), 10)
                writer.write_eof()
                await asyncio.wait_for(reader.read(), 10)
            except OSError:
                pass  # cut off in the middle of it
            finally:
                writer.transport.abort()
            return len(garbage)

        while sent < GARBAGE_BYTES:
            sent += sum(await asyncio.gather(*(pour() for _ in range(8))))
            number = number % 60_000 + 1
            good.send(publish(packet_id=number))
            other.send(PINGREQ)
            assert await good.read(4) == b"\x40\x02" + number.to_bytes(2, "big")
            assert await other.data(2) == PINGRESP
            if not before and sent > GARBAGE_BYTES // 10:  # what is allocated once is there by now
                gc.collect()
                before = resident_bytes()
        await wait_until_async(lambda: box.mqtt.counters.connections == 2)
        gc.collect()
        assert resident_bytes() - before < MOST_GROWTH_BYTES
        assert sum(connection.unfinished_size_bytes for connection in box.mqtt._all()) == 0
        assert not box.failures
