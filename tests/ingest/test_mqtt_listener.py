"""The MQTT listener over real sockets: acknowledged means synced, sessions, takeover, limits, bad input."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingest.settings import MqttSettings, RouteSettings
from tests.conftest import wait_until_async
from tests.ingest.edge_box import Client, edge_box
from wire.mqtt.encode import encode_connect, encode_publish, encode_subscribe
from wire.mqtt.packets import Connect, Publish, Subscribe, TopicSubscription, Will

TOPIC = "devices/press-17/telemetry"
DISCONNECT = b"\xe0\x00"


def publish(payload: bytes = b'{"t": 1}', packet_id: int | None = 1, topic: str = TOPIC, **flags: bool) -> bytes:
    qos = 0 if packet_id is None else 1
    return encode_publish(Publish(topic=topic, payload=payload, qos=qos, packet_id=packet_id, **flags))


async def test_puback_comes_only_after_the_sync_mqtt_4_3_2(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await Client.mqtt(box.mqtt_port, "c1")
        await box.log.drain()
        box.storage.gate.clear()
        client.send(publish(packet_id=7))
        await wait_until_async(lambda: box.mqtt.counters.records == 1)
        assert await client.silent()
        assert box.log.stats.unsynced_records == 0
        box.storage.gate.set()
        assert await client.read(4) == b"\x40\x02\x00\x07"


async def test_a_failed_sync_acknowledges_nothing_and_closes_the_session(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await Client.mqtt(box.mqtt_port, "c1")
        await box.log.drain()
        box.storage.fail = True
        client.send(publish(packet_id=7))
        assert await client.rest() == b""
        assert len(box.failures) == 1
        assert isinstance(box.failures[0], OSError)
        assert box.mqtt.counters.refused_connections["log failed"] == 1


async def test_records_carry_key_payload_and_mqtt_facts(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await Client.mqtt(box.mqtt_port, "c1")
        client.send(publish(b"one", 1) + publish(b"two", None) + publish(b"three", 2, retain=True, dup=True))
        assert await client.read(8) == b"\x40\x02\x00\x01\x40\x02\x00\x02"
        records = await box.records("telemetry", 3)
        assert [(r.key, r.value, r.headers) for r in records] == [
            (b"press-17", b"one", [("mqtt.topic", TOPIC.encode())]),
            (b"press-17", b"two", [("mqtt.topic", TOPIC.encode()), ("mqtt.qos", b"0")]),
            (
                b"press-17",
                b"three",
                [("mqtt.topic", TOPIC.encode()), ("mqtt.retain", b"1"), ("mqtt.dup", b"1")],
            ),
        ]


async def test_unrouted_topics_are_kept_under_their_own_name_without_a_device(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await Client.mqtt(box.mqtt_port, "c1")
        client.send(publish(b"x", 1, topic="some/where"))
        assert await client.read(4) == b"\x40\x02\x00\x01"
        (record,) = await box.records("mqtt", 1)
        assert record.key == b"some/where"
        assert ("headrace.device", b"") in record.headers


async def test_field_and_device_headers_come_from_the_route(tmp_path: Path) -> None:
    routes = [RouteSettings(filter="p/{line}/{device}/{field}", key="{line}", field="{field}")]
    async with edge_box(tmp_path, routes=routes) as box:
        client = await Client.mqtt(box.mqtt_port, "c1")
        client.send(publish(b"21.5", 1, topic="p/l1/m1/temp"))
        await client.read(4)
        (record,) = await box.records("telemetry", 1)
        assert record.key == b"l1"
        assert record.headers[1:] == [("headrace.device", b"m1"), ("headrace.field", b"temp")]


async def test_takeover_closes_the_older_connection_mqtt_3_1_4_2(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        first = await Client.mqtt(box.mqtt_port, "same")
        first.send(publish())
        await first.read(4)
        second = await Client.mqtt(box.mqtt_port, "same")
        assert await first.rest() == b""
        second.send(publish(packet_id=2))
        assert await second.read(4) == b"\x40\x02\x00\x02"
        events = await box.events(3)
        sessions = {event["session"] for event in events}
        assert len(sessions) == 2
        assert [e["reason"] for e in events if e["event"] == "disconnected"] == ["taken over"]


async def test_device_events_of_a_gateway_session(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await Client.mqtt(box.mqtt_port, "gateway")
        for number, device in enumerate(("a", "b", "a", "b"), 1):
            client.send(publish(packet_id=number, topic=f"devices/{device}/x"))
        await client.read(16)
        client.send(DISCONNECT)
        await client.rest()
        events = await box.events(4)
        assert sorted((e["event"], e["device"]) for e in events) == [
            ("connected", "a"),
            ("connected", "b"),
            ("disconnected", "a"),
            ("disconnected", "b"),
        ]
        connected = next(e for e in events if e["event"] == "connected")
        assert connected["client_id"] == "gateway"
        assert connected["protocol"] == "mqtt"
        assert {e.get("reason") for e in events if e["event"] == "disconnected"} == {"disconnected"}


@pytest.mark.parametrize("clean", [True, False], ids=["disconnect-MQTT-3.14.4-3", "vanished-MQTT-3.1.2-8"])
async def test_the_will_is_published_unless_the_client_says_goodbye(tmp_path: Path, clean: bool) -> None:
    async with edge_box(tmp_path) as box:
        will = Will(topic="devices/press-17/status", payload=b'"gone"', qos=1, retain=True)
        client = await Client.mqtt(box.mqtt_port, "c1", will=will)
        client.send(publish())
        await client.read(4)
        if clean:
            client.send(DISCONNECT)
            await client.rest()
        await client.close()
        await box.events(2)
        values = [r.value for r in await box.records("telemetry", 1 if clean else 2)]
        assert values == ([b'{"t": 1}'] if clean else [b'{"t": 1}', b'"gone"'])


async def test_edge_started_stands_in_every_partition(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        records = await box.records("device.events", 8)
        assert len(records) == 8
        assert {r.value for r in records} == {b'{"event":"edge.started","boot_id":"%b"}' % box.log.boot_id.encode()}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "malformed"),
        (b"\x00" * 64, "malformed"),
        (publish(), "protocol"),
        (encode_connect(Connect(client_id="x")) + b"\x32\xff\xff\xff\x7f", "too-large"),
        (encode_connect(Connect(client_id="x")) + b"\x36\x07\x00\x03a/b\x00\x01", "malformed"),
        (encode_connect(Connect(client_id="x")) + b"\x30\x05\x00\x03\xff\xfeb", "malformed"),
    ],
    ids=[
        "http",
        "zeros",
        "publish-first-MQTT-3.1.0-1",
        "256MB-announced-MQTT-2.2.3",
        "qos3-MQTT-3.3.1-4",
        "utf8-MQTT-1.5.3-1",
    ],
)
async def test_bad_input_closes_only_its_own_connection_and_is_counted(
    tmp_path: Path, data: bytes, reason: str
) -> None:
    async with edge_box(tmp_path) as box:
        good = await Client.mqtt(box.mqtt_port, "good")
        bad = await Client.connect(box.mqtt_port)
        bad.send(data)
        await bad.rest()
        assert box.mqtt.counters.refused_connections[reason] == 1
        good.send(publish(packet_id=3))
        assert await good.read(4) == b"\x40\x02\x00\x03"


async def test_other_protocol_levels_are_answered_then_closed_mqtt_3_1_2_2(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        for level, answer in ((3, b"\x20\x02\x00\x01"), (6, b"\x20\x03\x00\x84\x00")):
            client = await Client.connect(box.mqtt_port)
            client.send(b"\x10\x0d\x00\x04MQTT" + bytes([level]) + b"\x02\x00\x3c\x00\x01c")
            assert await client.rest() == answer


async def test_subscriptions_are_refused_per_filter_mqtt_3_9_3_1(tmp_path: Path) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(refuse_subscribe=["a/#"])) as box:
        client = await Client.mqtt(box.mqtt_port, "c1")
        wanted = (TopicSubscription(filter="#", qos=1), TopicSubscription(filter="a/+", qos=0))
        client.send(encode_subscribe(Subscribe(packet_id=9, subscriptions=wanted)))
        assert await client.read(6) == b"\x90\x04\x00\x09\x01\x80"


async def test_too_many_connections_are_closed_at_once(tmp_path: Path) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(max_connections=1)) as box:
        first = await Client.mqtt(box.mqtt_port, "c1")
        second = await Client.connect(box.mqtt_port)
        assert await second.rest() == b""
        assert box.mqtt.counters.refused_connections["too many connections"] == 1
        first.send(publish())
        assert await first.read(4) == b"\x40\x02\x00\x01"


async def test_silence_beyond_the_keep_alive_ends_the_connection_mqtt_3_1_2_24(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await Client.mqtt(box.mqtt_port, "c1", keep_alive_s=2)
        connection = box.connection("c1")
        ticks = 0
        while not connection.transport.is_closing():
            connection.tick()  # stands for a second each
            ticks += 1
        assert ticks == 5  # one that notes the CONNECT, then silence for more than 1.5 x 2 s
        assert await client.rest() == b""
        assert box.mqtt.counters.refused_connections["keep-alive timeout"] == 1


async def test_a_connection_that_never_connects_is_closed(tmp_path: Path) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(connect_timeout="2s")) as box:
        client = await Client.connect(box.mqtt_port)
        (connection,) = await wait_until_async(lambda: box.mqtt._all())
        for _ in range(3):
            client.send(b"\x10")  # slow, but never whole
            connection.heard = True
            connection.tick()
        assert await client.rest() == b""
        assert box.mqtt.counters.refused_connections["connect timeout"] == 1


async def test_drain_acknowledges_what_was_read_and_accepts_nothing_more(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await Client.mqtt(box.mqtt_port, "c1")
        await box.log.drain()
        box.storage.gate.clear()
        client.send(publish(packet_id=5))
        await wait_until_async(lambda: box.mqtt.counters.records == 1)
        await box.mqtt.drain()
        with pytest.raises(ConnectionRefusedError):
            await Client.connect(box.mqtt_port)
        box.storage.gate.set()
        await box.log.drain()
        await box.mqtt.close()
        assert await client.rest() == b"\x40\x02\x00\x05"


async def test_congestion_stops_reading_and_loses_nothing(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await Client.mqtt(box.mqtt_port, "c1")
        await box.log.drain()
        box.storage.gate.clear()
        payload = b"x" * 60_000
        count = 60  # 3.6 MB against 1 MB of pending_bytes
        for number in range(1, count + 1):
            client.send(publish(payload, number))
        await wait_until_async(lambda: box.log.congested)
        taken = box.mqtt.counters.records
        assert taken < count
        box.storage.gate.set()
        acks = await client.read(4 * count)
        assert [int.from_bytes(acks[i + 2 : i + 4], "big") for i in range(0, len(acks), 4)] == list(range(1, count + 1))
        assert not box.log.congested
        assert len(await box.records("telemetry", count)) == count


async def test_more_topics_than_remembered_end_nobodys_session(tmp_path: Path) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(max_topics_per_connection=2)) as box:
        client = await Client.mqtt(box.mqtt_port, "gateway")
        for number, device in enumerate("abcabc", 1):
            client.send(publish(packet_id=number, topic=f"devices/{device}/x"))
            assert await client.read(4) == b"\x40\x02\x00" + bytes([number])
        await box.records("telemetry", 6)
        assert sorted(e["device"] for e in await box.events(3)) == ["a", "b", "c"]


async def test_more_devices_than_are_followed_give_way_one_by_one(tmp_path: Path) -> None:
    async with edge_box(tmp_path, max_devices=2) as box:
        client = await Client.mqtt(box.mqtt_port, "gateway")
        for number, device in enumerate("abca", 1):
            client.send(publish(packet_id=number, topic=f"devices/{device}/x"))
            await client.read(4)
        events = await box.events(6)
        connected = [e["device"] for e in events if e["event"] == "connected"]
        gone = [e["device"] for e in events if e["event"] == "disconnected"]
        assert (sorted(connected), sorted(gone)) == (["a", "a", "b", "c"], ["a", "b"])
        other = await Client.mqtt(box.mqtt_port, "other")  # each session follows one in any case
        other.send(publish(packet_id=1, topic="devices/z/x"))
        await other.read(4)
        assert "z" in {e["device"] for e in await box.events(7)}
