"""Retained messages over real sockets: set, replaced, removed, expired, and who gets them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ingest.broker.retained import RetainedMessage
from ingest.settings import MqttSettings
from tests.conftest import wait_until_async
from tests.ingest.broker_client import LEVELS, MqttClient, payloads
from tests.ingest.edge_box import edge_box
from tests.ingest.test_broker_sessions import vanish
from wire.mqtt.packets import PubComp, Publish, PubRel, RetainHandling, SubAck, TopicSubscription


@pytest.mark.parametrize(
    "level",
    [
        pytest.param(4, id="MQTT-3.3.1-5-MQTT-3.3.1-6-MQTT-3.3.1-7-MQTT-3.3.1-8-MQTT-3.3.1-9-MQTT-3.3.1-12"),
        pytest.param(5, id="MQTT5-3.3.1-5-MQTT5-3.3.1-8-MQTT5-3.3.1-9-MQTT5-3.3.1-12"),
    ],
)
@pytest.mark.parametrize("keep", [False, True], ids=["clean", "kept"])
async def test_a_new_subscription_gets_what_is_retained(tmp_path: Path, level: int, keep: bool) -> None:
    async with edge_box(tmp_path) as box:
        publisher = await MqttClient.open(box, "pub", level)
        early = await MqttClient.open(box, "early", level)
        await early.subscribe("#", qos=2)
        for qos in (0, 1, 2):
            await publisher.publish(f"r/{qos}", b"old", 2, retain=True)
            await publisher.publish(f"r/{qos}", b"%d" % qos, qos, retain=True)
            await publisher.publish(f"r/{qos}", b"not retained", qos)
        assert {message.retain for message in await early.messages(9)} == {False}
        client = await MqttClient.open(box, "c", level, keep=keep)
        for wanted in (0, 1, 2):
            client.put(client.subscribe_packet(TopicSubscription(filter="r/+", qos=wanted)))
            packets = [await client.packet() for _ in range(4)]  # messages may come before the SUBACK (3.8.4)
            assert [p.reason_codes for p in packets if isinstance(p, SubAck)] == [(wanted,)]
            found = sorted((p for p in packets if isinstance(p, Publish)), key=lambda message: message.topic)
            for message in found:
                client.answer(message)
            for _ in range(sum(message.qos == 2 for message in found)):
                client.put(PubComp(packet_id=(await client.take(PubRel)).packet_id))
            assert [(m.payload, m.qos) for m in found] == [(b"%d" % qos, min(qos, wanted)) for qos in (0, 1, 2)]
            assert all(message.retain and not message.dup for message in found)


@pytest.mark.parametrize(
    "level",
    [
        pytest.param(4, id="MQTT-3.3.1-10-MQTT-3.3.1-11-MQTT-3.1.2-7"),
        pytest.param(5, id="MQTT5-3.3.1-6-MQTT5-3.3.1-7"),
    ],
)
async def test_an_empty_message_removes_it(tmp_path: Path, level: int) -> None:
    async with edge_box(tmp_path) as box:
        publisher = await MqttClient.open(box, "pub", level)
        early = await MqttClient.open(box, "early", level)
        await early.subscribe("r", qos=1)
        await publisher.publish("r", b"1", retain=True)
        await vanish(box, publisher, "pub")  # retained messages are no part of a session
        publisher = await MqttClient.open(box, "pub", level)
        assert len(box.broker.retained) == 1
        await publisher.publish("r", b"", retain=True)
        assert payloads(await early.messages(2)) == [b"1", b""]
        client = await MqttClient.open(box, "c", level)
        await client.subscribe("r")
        await client.hears_nothing()
        assert not box.log.rows_now("mqtt.retained")


async def test_retain_handling_mqtt5_3_3_1_9_mqtt5_3_3_1_10_mqtt5_3_3_1_11(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        publisher = await MqttClient.open(box, "pub")
        await publisher.publish("r", b"1", retain=True)
        client = await MqttClient.open(box, "c")
        for handling, times in (
            (RetainHandling.DO_NOT_SEND, 0),
            (RetainHandling.SEND_IF_NEW, 0),  # the filter is subscribed to already
            (RetainHandling.SEND, 1),
            (RetainHandling.SEND, 1),
        ):
            await client.subscribe("r", retain_handling=handling)
            await client.messages(times)
            await client.hears_nothing()
        await client.unsubscribe("r")
        await client.subscribe("r", retain_handling=RetainHandling.SEND_IF_NEW)
        await client.messages(1)
        await client.hears_nothing()


async def test_retain_as_published_mqtt5_3_3_1_13_mqtt5_3_3_1_12(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c")
        other = await MqttClient.open(box, "pub")
        for asked in (True, False):
            await client.subscribe("r", retain_as_published=asked, retain_handling=RetainHandling.DO_NOT_SEND)
            for qos in (0, 1):
                await other.publish("r", b"1", qos, retain=True)
                await other.publish("r", b"1", qos, retain=False)
            assert [message.retain for message in await client.messages(4)] == [asked, False, asked, False]


async def test_a_shared_subscription_gets_nothing_retained(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        other = await MqttClient.open(box, "pub")
        await other.publish("r", b"1", retain=True)
        client = await MqttClient.open(box, "c")
        await client.subscribe("$share/g/r")
        await client.hears_nothing()


async def test_what_is_retained_expires_mqtt5_3_3_2_5_mqtt5_3_3_2_6(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        other = await MqttClient.open(box, "pub")
        await other.publish("r", b"1", retain=True, message_expiry_interval_s=100)
        await other.publish("s", b"1", retain=True)
        box.pass_time(40)
        client = await MqttClient.open(box, "c")
        await client.subscribe("r")
        left_s = (await client.message()).properties.message_expiry_interval_s
        assert left_s is not None
        assert 58 <= left_s <= 60
        box.pass_time(61)
        client = await MqttClient.open(box, "c")
        await client.subscribe("r")
        await client.hears_nothing()
        assert len(box.broker.retained) == 1


async def test_who_subscribes_before_the_commit_gets_it_and_is_not_kept_waiting_by_others(tmp_path: Path) -> None:
    """A publisher that always has something retained on the way must not keep new subscribers from what there is."""
    async with edge_box(tmp_path) as box:
        busy = await MqttClient.open(box, "busy", 4)
        await busy.publish("old", b"1", retain=True)
        client = await MqttClient.open(box, "c")
        stop = asyncio.Event()

        async def publish_on() -> None:
            while not stop.is_set():
                for number in range(1, 21):
                    busy.put(Publish(topic="busy", payload=b"1", qos=1, packet_id=number, retain=True))
                    await asyncio.sleep(0)
                for _ in range(20):
                    await busy.packet()

        publishing = asyncio.create_task(publish_on())
        await wait_until_async(lambda: box.mqtt.counters.records > 100)
        await client.subscribe("old", qos=1)
        assert payloads(await client.messages(1)) == [b"1"]
        stop.set()
        await publishing
        await box.log.drain()
        box.storage.gate.clear()
        busy.put(Publish(topic="new", payload=b"2", qos=0, retain=True))
        await wait_until_async(lambda: "new" in box.broker._retaining._staged or box.broker._retaining._in_flight)
        client.put(client.subscribe_packet(TopicSubscription(filter="new", qos=0)))
        await client.take(SubAck)
        await client.hears_nothing()
        box.storage.gate.set()
        assert payloads(await client.messages(1)) == [b"2"]


@pytest.mark.parametrize("level", LEVELS)
async def test_what_does_not_fit_is_delivered_and_not_retained(tmp_path: Path, level: int) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(max_retained_messages=1)) as box:
        other = await MqttClient.open(box, "pub", level)
        early = await MqttClient.open(box, "early", level)
        await early.subscribe("#", qos=1)
        for topic in ("a", "b", "a"):
            await other.publish(topic, b"1", retain=True)
        assert [message.topic for message in await early.messages(3)] == ["a", "b", "a"]
        client = await MqttClient.open(box, "c", level)
        await client.subscribe("#", qos=1)
        assert [message.topic for message in await client.messages(1)] == ["a"]
        await client.hears_nothing()
        assert box.broker._retaining.refused == 1


async def test_ten_thousand_retained_messages_come_as_fast_as_the_client_takes_them(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        other = await MqttClient.open(box, "pub", 4)
        for number in range(10_000):
            other.put(Publish(topic=f"r/{number:05}", payload=b"%d" % number, qos=0, retain=True))
            if number % 1000 == 999:
                await other.hears_nothing()
        await other.publish("last", retain=True)
        client = await MqttClient.open(box, "c", receive_maximum=10)
        await client.subscribe("r/#", qos=1)
        found = await client.messages(10_000)
        assert [message.topic for message in found] == [f"r/{number:05}" for number in range(10_000)]
        await client.hears_nothing()


@pytest.mark.parametrize("keep", [False, True], ids=["clean", "kept"])
async def test_more_is_retained_than_may_wait_for_a_client(tmp_path: Path, keep: bool) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(max_queued_messages=1_500)) as box:
        topics = [f"r/{number}" for number in range(2_500)]
        for topic in topics:
            box.broker.retained.set(RetainedMessage(topic=topic, payload=b"kept", qos=1, timestamp_ms=box.log.now_ms()))
        client = await MqttClient.open(box, "c", keep=keep)
        await client.subscribe("r/#", qos=1)
        found = {message.topic for message in await client.messages(len(topics))}  # each is acknowledged as it comes
        assert found == set(topics)
        assert box.broker.counters.sessions_overflowed == 0


async def test_what_was_still_to_be_offered_comes_on_the_next_connection(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        topics = [f"r/{number}" for number in range(2_500)]
        for topic in topics:
            box.broker.retained.set(RetainedMessage(topic=topic, payload=b"kept", qos=1, timestamp_ms=box.log.now_ms()))
        client = await MqttClient.open(box, "c", keep=True, receive_maximum=10)
        await client.subscribe("r/#", qos=1)
        await vanish(box, client, "c")
        client = await MqttClient.open(box, "c", keep=True)
        assert client.connack.session_present
        found = {message.topic for message in await client.messages(len(topics))}
        assert found == set(topics)
