"""A 5.0 client reads why its connection ends, also while it is still sending [MQTT5-4.13.1-1]."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from tests.conftest import wait_until_async
from tests.ingest.edge_box import edge_box
from wire.mqtt.encode import encode_packet
from wire.mqtt.packets import Connect, Disconnect, Publish
from wire.mqtt.reasons import ReasonCode

CONNECT = encode_packet(Connect(client_id="c", protocol_level=5), 5)
PUBLISH = encode_packet(Publish(topic="t", payload=b"x" * 100), 5)
MALFORMED = b"\xf0\x01\xff"  # an AUTH nobody asked for, and a remaining length that is not there


def talk(port: int, sent: bytes, more: bytes) -> bytes:
    """What a client that sends all of it before it reads anything gets until the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(CONNECT)
        answer = client.recv(4096)
        client.sendall(sent)
        client.sendall(more)  # arrives when the connection has ended already
        client.shutdown(socket.SHUT_WR)
        while chunk := client.recv(4096):
            answer += chunk
    return answer


async def test_the_reason_arrives_though_input_was_left_unread_mqtt5_4_13_1_1(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        answer = await asyncio.to_thread(talk, box.mqtt_port, MALFORMED, PUBLISH * 3000)
        assert answer.endswith(encode_packet(Disconnect(reason_code=ReasonCode.PROTOCOL_ERROR), 5))
        assert box.mqtt.counters.records == 0
        await wait_until_async(lambda: box.mqtt.counters.connections == 0)


@pytest.mark.parametrize("more", [b"", PUBLISH * 3000], ids=["silent", "sending"])
async def test_patience_ends_with_a_client_that_does_not_close(tmp_path: Path, more: bytes) -> None:
    async with edge_box(tmp_path) as box:
        reader, writer = await asyncio.open_connection("127.0.0.1", box.mqtt_port)
        writer.write(CONNECT)
        await asyncio.wait_for(reader.read(4096), 10)
        writer.write(MALFORMED + more)
        answer = await asyncio.wait_for(reader.read(), 10)  # up to the end of what the server sends
        assert answer == encode_packet(Disconnect(reason_code=ReasonCode.PROTOCOL_ERROR), 5)
        (connection,) = box.mqtt._all()
        for _ in range(12):
            connection.second_passed()
        await wait_until_async(lambda: box.mqtt.counters.connections == 0)
        writer.close()
