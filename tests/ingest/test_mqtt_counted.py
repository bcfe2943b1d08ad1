"""Every reason that a client is told is counted; a protocol error is one line that names client, packet and clause."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from ingest.settings import MqttSettings
from tests.conftest import wait_until_async
from tests.ingest.edge_box import Client, EdgeBox, edge_box
from wire.mqtt.encode import encode_connect, encode_packet, encode_publish
from wire.mqtt.packets import Connect, Publish, PubRec, PubRel, Subscribe, TopicSubscription, Unsubscribe
from wire.mqtt.reasons import PacketType, ReasonCode

SETTINGS = MqttSettings(refuse_publish=["no/#"], refuse_subscribe=["no/#"], max_subscriptions_per_client=2)


async def connected(box: EdgeBox, level: int, client_id: str = "c") -> Client:
    client = await Client.connect(box.mqtt_port)
    client.send(encode_connect(Connect(client_id=client_id, protocol_level=level)))
    head = await client.read(2)
    assert (await client.read(head[1]))[1] == 0
    return client


def subscribe(*filters: str, level: int) -> bytes:
    subscriptions = tuple(TopicSubscription(filter=one, qos=1) for one in filters)
    return encode_packet(Subscribe(packet_id=1, subscriptions=subscriptions), level)


def told(box: EdgeBox) -> Counter[tuple[str, int]]:
    return Counter({(kind.name, code): count for (kind, code), count in box.mqtt.broker.counters.reasons.items()})


async def expect(box: EdgeBox, reasons: dict[tuple[str, int], int]) -> None:
    await wait_until_async(lambda: told(box) == reasons, describe=lambda: f"{reasons}, counted: {told(box)}")


@pytest.mark.parametrize("level", [4, 5])
async def test_connack_suback_and_unsuback(tmp_path: Path, level: int) -> None:
    async with edge_box(tmp_path, mqtt=SETTINGS) as box:
        client = await connected(box, level)
        client.send(subscribe("a", "no/1", "b", "c", level=level))
        client.send(encode_packet(Unsubscribe(packet_id=2, filters=("a", "nothing")), level))
        unsuback = {("UNSUBACK", 0): 1, ("UNSUBACK", 0x11): 1}
        suback = {("SUBACK", 1): 2, ("SUBACK", 0x80): 1, ("SUBACK", 0x97): 1}
        await expect(box, {("CONNACK", 0): 1, **suback, **(unsuback if level == 5 else {})})


async def test_a_refused_connect(tmp_path: Path) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(max_sessions=1)) as box:
        await connected(box, 5, "first")
        for level in (4, 5):
            client = await Client.connect(box.mqtt_port)
            client.send(encode_connect(Connect(client_id=f"more {level}", protocol_level=level)))
            assert await client.rest()
        await expect(box, {("CONNACK", 0): 1, ("CONNACK", 0x97): 2})


async def test_refused_publishes_and_unknown_packet_ids_of_5_0(tmp_path: Path) -> None:
    async with edge_box(tmp_path, mqtt=SETTINGS) as box:
        client = await connected(box, 5)
        for qos in (0, 1, 2, 2):
            packet_id = 7 + qos if qos else None
            client.send(encode_packet(Publish(topic="no/1", payload=b"", qos=qos, packet_id=packet_id), 5))
        client.send(encode_packet(PubRel(packet_id=99), 5))
        client.send(encode_packet(PubRec(packet_id=99), 5))
        so_far = {("CONNACK", 0): 1, ("PUBACK", 0x87): 1, ("PUBREC", 0x87): 2, ("PUBREL", 0x92): 1}
        await expect(box, so_far)
        assert box.mqtt.counters.dropped == {"publish-refused": 1}
        client.abort()
        await expect(box, {**so_far, ("PUBCOMP", 0x92): 1})


async def test_disconnects_that_were_sent_and_no_others(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        old = await connected(box, 4, "old")
        new = await connected(box, 5, "new")
        for client in (old, new):
            client.send(b"\xf3")  # flags that AUTH does not have, and 3.1.1 has no AUTH
        assert await old.rest() == b""
        assert await new.rest() == b"\xe0\x01\x81"
        kicked = await connected(box, 5, "kicked")
        assert box.mqtt.kick("kicked")
        assert await kicked.rest() == b"\xe0\x01\x98"
        again = await connected(box, 4, "again")
        await connected(box, 4, "again")
        assert await again.rest() == b""
        await expect(box, {("CONNACK", 0): 5, ("DISCONNECT", 0x81): 1, ("DISCONNECT", 0x98): 1})
        gone = await connected(box, 5, "gone")
        gone.send(encode_packet_disconnect(ReasonCode.DISCONNECT_WITH_WILL_MESSAGE))
        assert await gone.rest() == b""
        assert box.mqtt.broker.counters.disconnects == {4: 1}


def encode_packet_disconnect(reason: ReasonCode) -> bytes:
    return bytes((PacketType.DISCONNECT << 4, 1, reason))


@pytest.mark.parametrize(
    ("data", "packet", "clause"),
    [
        pytest.param(b"\x36\0", "PUBLISH", "MQTT-3.3.1-4", id="publish"),
        pytest.param(encode_publish(Publish(topic="a", payload=b"", qos=1, packet_id=1))[:-2] + b"\0\0", "PUBLISH",
                     "MQTT-2.3.1-1", id="publish-without-an-id"),
        pytest.param(b"\x82\x02\0\x01", "SUBSCRIBE", "MQTT-3.8.3-3", id="subscribe"),
        pytest.param(b"\xc0\x01\0", "PINGREQ", "", id="pingreq"),
        pytest.param(b"\x00\x00", "type 0", "MQTT-2.2.1", id="type-0"),
        pytest.param(b"\x20\x02\0\0", "CONNACK", "MQTT-2.2.1", id="connack"),
    ],
)  # fmt: skip
async def test_a_protocol_error_names_client_packet_and_clause_in_one_line(
    tmp_path: Path, data: bytes, packet: str, clause: str
) -> None:
    with capture_logs() as lines:
        async with edge_box(tmp_path) as box:
            client = await connected(box, 4, "press-17")
            client.send(data)
            assert await client.rest() == b""
    (line,) = [line for line in lines if line["event"] == "protocol error"]
    assert (line["client_id"], line["packet"]) == ("press-17", packet)
    assert f"[{clause}" in line["where"]
    assert line["peer"].startswith("127.0.0.1:")
    assert line["what"]


async def test_a_flood_of_protocol_errors_is_a_few_lines(tmp_path: Path) -> None:
    with capture_logs() as lines:
        async with edge_box(tmp_path) as box:
            for number in range(60):
                client = await connected(box, 4, f"c{number}")
                client.send(b"\xff\xff")
                assert await client.rest() == b""
            assert box.mqtt.counters.refused_connections["malformed"] == 60
    shown: list[Any] = [line for line in lines if line["event"] == "protocol error"]
    assert 1 <= len(shown) < 20
