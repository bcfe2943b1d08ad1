"""A box that was closed in order or killed comes back with everything that it promised."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import wait_until_async
from tests.ingest.broker_client import MqttClient, payloads
from tests.ingest.edge_box import EdgeBox, edge_box
from tests.ingest.test_broker_sessions import vanish
from wire.mqtt.packets import PubAck, PubComp, Publish, PubRec, PubRel, Will
from wire.mqtt.properties import WillProperties
from wire.mqtt.reasons import ReasonCode

TOPIC = "devices/d/x"


class Box:
    """One data directory and the lives of the box on it."""

    def __init__(self, root: Path, how: str) -> None:
        self._root = root
        self._how = how
        self._life = 0
        self._shift_ms = 0

    @asynccontextmanager
    async def life(self, **options: Any) -> AsyncIterator[EdgeBox]:
        """From a start to the end, which comes by a kill or in order, at the end of the block."""
        here, following = (self._root / f"life{life}" for life in (self._life, self._life + 1))
        async with edge_box(here, shift_ms=self._shift_ms, **options) as box:
            yield box
            self._shift_ms = box.clock.shift_ms
            if self._how == "killed":
                await box.log.drain()
                box.kill(following)
        if self._how == "closed":
            here.rename(following)
        self._life += 1

    def time_passes(self, seconds: int) -> None:
        self._shift_ms += 1000 * seconds


@pytest.fixture(params=["closed", "killed"])
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Box:
    return Box(tmp_path, request.param)


@pytest.mark.parametrize(
    "level", [pytest.param(4, id="MQTT-4.1.0-1-MQTT-3.1.2-5"), pytest.param(5, id="MQTT5-4.1.0-1-MQTT5-4.5.0-1")]
)
async def test_sessions_subscriptions_and_what_waits(box: Box, level: int) -> None:
    async with box.life() as edge:
        client = await MqttClient.open(edge, "c", level, keep=True)
        await client.subscribe("devices/+/x", "other", qos=2, identifier=7 if level == 5 else None)
        await client.unsubscribe("other")
        await vanish(edge, client, "c")
        clean = await MqttClient.open(edge, "clean", level)
        await clean.subscribe("#")
        other = await MqttClient.open(edge, "o", level)
        for number in range(10):
            await other.publish(TOPIC, b"%d" % number, 1 + number % 2)
    async with box.life() as edge:
        assert "clean" not in edge.broker.sessions
        other = await MqttClient.open(edge, "o", level)
        for number in range(10, 20):
            await other.publish(TOPIC, b"%d" % number, 1 + number % 2)
    async with box.life() as edge:
        client = await MqttClient.open(edge, "c", level, keep=True)
        assert client.connack.session_present
        found = await client.messages(20)
        assert payloads(found) == [b"%d" % number for number in range(20)]
        assert [message.qos for message in found] == [1, 2] * 10
        if level == 5:
            assert {message.properties.subscription_identifiers for message in found} == {(7,)}
        for _ in range(10):
            client.put(PubComp(packet_id=(await client.take(PubRel)).packet_id))
        await client.hears_nothing()
    async with box.life() as edge:
        client = await MqttClient.open(edge, "c", level, keep=True)
        await client.hears_nothing()
        other = await MqttClient.open(edge, "o", level)
        await other.publish("other")
        await other.publish(TOPIC, b"live")
        assert payloads(await client.messages(1)) == [b"live"]


async def first_half(edge: EdgeBox, level: int) -> tuple[MqttClient, list[Publish]]:
    client = await MqttClient.open(edge, "c", level, keep=True)
    await client.subscribe("#", qos=2)
    other = await MqttClient.open(edge, "o", level)
    for number in range(6):
        await other.publish(TOPIC, b"%d" % number, 1 + number % 2)
    return client, await client.messages(6, ack=False)


@pytest.mark.parametrize("level", [pytest.param(4, id="MQTT-4.4.0-1"), pytest.param(5, id="MQTT5-4.4.0-1")])
async def test_each_half_of_an_exchange_goes_on_where_it_was(box: Box, level: int) -> None:
    async with box.life() as edge:
        client, first = await first_half(edge, level)
        ids = [message.packet_id or 0 for message in first]
        client.put(PubAck(packet_id=ids[0]), PubRec(packet_id=ids[1]), PubRec(packet_id=ids[3]))
        assert [(await client.take(PubRel)).packet_id for _ in range(2)] == [ids[1], ids[3]]
        client.put(PubComp(packet_id=ids[1]))
        await client.hears_nothing()
    async with box.life() as edge:
        client = await MqttClient.open(edge, "c", level, keep=True)
        again: dict[int, Publish] = {}
        released: set[int] = set()
        while ids[5] not in again:
            packet = await client.packet()
            if isinstance(packet, PubRel):
                released.add(packet.packet_id)
                client.put(PubComp(packet_id=packet.packet_id))
            else:
                assert isinstance(packet, Publish)
                assert packet.dup
                again[packet.packet_id or 0] = packet
                client.answer(packet)
        # Those that were complete may come again at QoS 1, and as PUBREL at QoS 2; never as a PUBLISH.
        assert {ids[3]} <= released <= {ids[1], ids[3]}
        assert {ids[2], ids[4], ids[5]} <= set(again) <= {ids[0], ids[2], ids[4], ids[5]}
        for packet_id, message in again.items():
            assert message.payload == first[ids.index(packet_id)].payload


@pytest.mark.parametrize(
    "level", [pytest.param(4, id="MQTT-4.3.3-2"), pytest.param(5, id="MQTT5-4.3.3-10-MQTT5-4.3.3-11")]
)
async def test_a_qos_2_publish_is_in_the_log_once(box: Box, level: int) -> None:
    publishes = [Publish(topic=TOPIC, payload=b"%d" % number, qos=2, packet_id=number) for number in range(1, 6)]
    async with box.life() as edge:
        client = await MqttClient.open(edge, "c", level, keep=True)
        client.put(*publishes)
        for _ in publishes:
            await client.take(PubRec)
        client.put(PubRel(packet_id=1))
        await client.take(PubComp)
    async with box.life() as edge:
        client = await MqttClient.open(edge, "c", level, keep=True)
        assert client.connack.session_present
        client.put(PubRel(packet_id=1))
        answer = await client.take(PubComp)
        assert answer.reason_code is (ReasonCode.PACKET_IDENTIFIER_NOT_FOUND if level == 5 else ReasonCode.SUCCESS)
        client.put(*publishes[1:])
        assert [(await client.take(PubRec)).packet_id for _ in publishes[1:]] == [2, 3, 4, 5]
        client.put(*(PubRel(packet_id=number) for number in range(2, 6)))
        for _ in range(4):
            assert (await client.take(PubComp)).reason_code is ReasonCode.SUCCESS
        client.put(publishes[0])  # the identifier is free: another message
        await client.take(PubRec)
        values = [record.value for record in await edge.records("telemetry", 6)]
        assert values == [b"1", b"2", b"3", b"4", b"5", b"1"]


async def test_retained_messages(box: Box) -> None:
    async with box.life() as edge:
        other = await MqttClient.open(edge, "o")
        await other.publish("a", b"1", retain=True, content_type="text", user=(("k", "v"),))
        await other.publish("b", b"1", retain=True)
        await other.publish("b", b"", retain=True)
        await other.publish("c", b"1", 2, retain=True, message_expiry_interval_s=50)
        await other.publish("d", b"old", 0, retain=True)
        await other.publish("d", b"new", 1, retain=True)
    box.time_passes(100)
    async with box.life() as edge:
        client = await MqttClient.open(edge, "c")
        await client.subscribe("#", qos=2)
        first, second = await client.messages(2)
        assert (first.topic, first.payload, second.topic, second.payload) == ("a", b"1", "d", b"new")
        assert first.properties.content_type == "text"
        assert first.properties.user_properties == (("k", "v"),)
        await client.hears_nothing()


async def test_wills_of_who_was_connected_are_published_and_delays_go_on(box: Box) -> None:
    async with box.life() as edge:
        will = Will(topic="will/at-once", payload=b"1", qos=1, retain=True)
        late = Will(topic="will/late", payload=b"1", qos=1, properties=WillProperties(will_delay_interval_s=1000))
        for name, one in (("a", will), ("b", late), ("d", late)):
            await MqttClient.open(edge, name, keep=True, will=one)
        waiting = await MqttClient.open(edge, "c", keep=True, will=late)
        await vanish(edge, waiting, "c")
        witness = await MqttClient.open(edge, "w", keep=True)
        await witness.subscribe("will/#", qos=1)
        await witness.disconnect()
    async with box.life() as edge:
        edge.pass_time(1)
        await MqttClient.open(edge, "d", keep=True)  # back in time
        edge.pass_time(995)
        witness = await MqttClient.open(edge, "w", keep=True)
        assert [message.topic for message in await witness.messages(1)] == ["will/at-once"]
        await witness.hears_nothing()
        edge.pass_time(10)
        assert [message.topic for message in await witness.messages(2)] == ["will/late"] * 2
        await witness.hears_nothing()
        await wait_until_async(lambda: not edge.log.rows_now("mqtt.wills"))


async def test_sessions_expire_though_nobody_was_there_to_see_it(box: Box) -> None:
    async with box.life() as edge:
        for name, expiry_s in (("short", 100), ("long", 1000), ("here", 100)):
            client = await MqttClient.open(edge, name, session_expiry_interval_s=expiry_s)
            await client.subscribe("#")
            if name != "here":
                await vanish(edge, client, name)
    box.time_passes(200)
    async with box.life() as edge:
        edge.pass_time(0)
        assert "short" not in edge.broker.sessions
        assert {"long", "here"} - set(edge.broker.sessions) <= {"here"}
        edge.pass_time(1001)
        assert not edge.broker.sessions
        for table in ("mqtt.queues", "mqtt.sessions", "mqtt.subscriptions"):
            await wait_until_async(lambda: not edge.log.rows_now(table), describe=table)  # noqa: B023


async def test_only_what_was_synced_was_promised(tmp_path: Path) -> None:
    """A kill while the sync hangs: what a client was told is there, and what it was not told may be, but whole."""
    async with edge_box(tmp_path / "one") as edge:
        client = await MqttClient.open(edge, "c", keep=True)
        await client.subscribe("#", qos=1)
        await vanish(edge, client, "c")
        other = await MqttClient.open(edge, "o", 4)
        await other.publish(TOPIC, b"told", retain=True, packet_id=7)
        await edge.log.drain()
        edge.storage.gate.clear()
        other.put(Publish(topic=TOPIC, payload=b"not told", qos=1, packet_id=1, retain=True))
        await wait_until_async(lambda: edge.mqtt.counters.records == 2)
        left = edge.kill(tmp_path / "two")
        edge.storage.gate.set()
    async with edge_box(left) as edge:
        client = await MqttClient.open(edge, "c", keep=True)
        stored = [record.value for record in edge.records_now("telemetry")]
        assert stored in ([b"told"], [b"told", b"not told"])
        assert payloads(await client.messages(len(stored))) == stored  # the record and its place: both or none
        await client.hears_nothing()
        new = await MqttClient.open(edge, "new")
        await new.subscribe(TOPIC)
        assert payloads(await new.messages(1)) == [stored[-1]]


async def test_a_position_behind_the_log_start_ends_the_session(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as edge:
        client = await MqttClient.open(edge, "c", keep=True)
        await client.subscribe("#", qos=1)
        await vanish(edge, client, "c")
        other = await MqttClient.open(edge, "o")
        for number in range(5):
            await other.publish(TOPIC, b"%d" % number)
        await edge.records("telemetry", 5)
        await edge.log.roll("telemetry", "test")
        await other.publish(TOPIC, b"5")
        await edge.records("telemetry", 6)
        for index in range(len(edge.log.partitions("telemetry"))):
            await edge.log.delete_segments("telemetry", index, 5, "test")
        client = await MqttClient.open(edge, "c", keep=True)
        assert client.connack.session_present
        assert await client.told_goodbye() is ReasonCode.ADMINISTRATIVE_ACTION
        assert edge.broker.counters.lost == 6
        client = await MqttClient.open(edge, "c", keep=True)
        assert not client.connack.session_present
        await client.hears_nothing()
