"""What is published goes to who subscribed: QoS, order, topics, acknowledgements, flow control."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from ingest.settings import MqttSettings
from tests.conftest import wait_until_async
from tests.ingest.broker_client import LEVELS, MqttClient, payloads
from tests.ingest.edge_box import edge_box
from wire.mqtt.packets import (
    PingReq,
    PingResp,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    TopicSubscription,
    UnsubAck,
    Unsubscribe,
)
from wire.mqtt.properties import PublishProperties
from wire.mqtt.reasons import ReasonCode

TOPIC = "devices/d/x"


@pytest.mark.parametrize("keep", [False, True], ids=["clean", "kept"])
@pytest.mark.parametrize(
    "level",
    [
        pytest.param(4, id="MQTT-3.8.4-6-MQTT-4.3.2-1-MQTT-4.3.3-1-MQTT-3.3.4-1"),
        pytest.param(5, id="MQTT5-3.8.4-8-MQTT5-3.3.4-1-MQTT5-4.3.2-2-MQTT5-4.3.3-2-MQTT5-4.3.3-4"),
    ],
)
async def test_a_message_comes_with_the_lower_of_both_qos(tmp_path: Path, level: int, keep: bool) -> None:
    async with edge_box(tmp_path) as box:
        subscriber = await MqttClient.open(box, "sub", level, keep=keep)
        publisher = await MqttClient.open(box, "pub", level)
        for wanted, sent in product((0, 1, 2), repeat=2):
            assert await subscriber.subscribe("devices/+/x", qos=wanted) == (wanted,)
            await publisher.publish(TOPIC, b"21.5", sent)
            message = await subscriber.message(ack=False)
            assert (message.topic, message.payload, message.qos) == (TOPIC, b"21.5", min(sent, wanted))
            assert not message.retain
            assert not message.dup
            await subscriber.complete(message)
            await subscriber.hears_nothing()
        assert len(await box.records("telemetry", 9)) == 9


@pytest.mark.parametrize("publisher_level", LEVELS, ids=["from-3.1.1", "from-5.0"])
@pytest.mark.parametrize("level", LEVELS, ids=["to-3.1.1", "to-5.0"])
async def test_versions_hear_each_other(tmp_path: Path, level: int, publisher_level: int) -> None:
    async with edge_box(tmp_path) as box:
        subscriber = await MqttClient.open(box, "sub", level)
        publisher = await MqttClient.open(box, "pub", publisher_level)
        await subscriber.subscribe("#", qos=2)
        for qos in (0, 1, 2):
            await publisher.publish(TOPIC, b"%d" % qos, qos)
        assert payloads(await subscriber.messages(3)) == [b"0", b"1", b"2"]


@pytest.mark.parametrize(
    "level",
    [
        pytest.param(4, id="MQTT-4.6.0-6-MQTT-4.6.0-5-MQTT-3.3.2-3"),
        pytest.param(5, id="MQTT5-4.6.0-5-MQTT5-4.6.0-6-MQTT5-3.3.2-3"),
    ],
)
async def test_messages_of_a_topic_keep_their_order(tmp_path: Path, level: int) -> None:
    async with edge_box(tmp_path) as box:
        subscriber = await MqttClient.open(box, "sub", level)
        await subscriber.subscribe("devices/#", qos=1)
        publisher = await MqttClient.open(box, "pub", level)
        topics = [f"devices/d{number % 7}/x" for number in range(700)]
        for number, topic in enumerate(topics):
            publisher.put(Publish(topic=topic, payload=b"%d" % number, qos=1, packet_id=number + 1))
        found = await subscriber.messages(700)
        assert sorted(int(message.payload) for message in found) == list(range(700))
        for topic in set(topics):
            numbers = [int(message.payload) for message in found if message.topic == topic]
            assert numbers == sorted(numbers)
        assert all(topics[int(message.payload)] == message.topic for message in found)
        acked = [(await publisher.take(PubAck)).packet_id for _ in range(700)]
        assert acked == list(range(1, 701))


MATCHES = [
    ("a/b", "a/b", True),
    ("a/b", "a/B", False),
    ("a/b/", "a/b", False),
    ("/a", "a", False),
    ("a/+", "a/b/c", False),
    ("a/#", "a", True),
    ("+/+", "/a", True),
    ("#", "$other/a", False),
    ("+/a", "$other/a", False),
    ("$other/#", "$other/a", True),
]


@pytest.mark.parametrize(
    "level",
    [pytest.param(4, id="MQTT-4.7.2-1-MQTT-4.7.3-4"), pytest.param(5, id="MQTT5-4.7.2-1-MQTT5-4.7.3-4")],
)
async def test_topics_match_filters(tmp_path: Path, level: int) -> None:
    async with edge_box(tmp_path) as box:
        subscriber = await MqttClient.open(box, "sub", level)
        publisher = await MqttClient.open(box, "pub", level)
        for topic_filter, topic, found in MATCHES:
            await subscriber.subscribe(topic_filter, "last", qos=1)
            await publisher.publish(topic)
            await publisher.publish("last")
            heard = [message.topic for message in await subscriber.messages(1 + found)]
            assert heard == [topic, "last"][1 - found :], topic_filter
            await subscriber.unsubscribe(topic_filter)


@pytest.mark.parametrize(
    "level",
    [
        pytest.param(4, id="MQTT-3.3.5-1-MQTT-3.8.4-3-MQTT-3.8.4-4-MQTT-3.8.4-5"),
        pytest.param(5, id="MQTT5-3.3.4-2-MQTT5-3.8.4-3-MQTT5-3.8.4-5-MQTT5-3.8.4-6-MQTT5-3.8.4-7"),
    ],
)
async def test_overlapping_subscriptions_give_one_copy_of_the_highest_qos(tmp_path: Path, level: int) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", level)
        wanted = (
            TopicSubscription(filter="devices/#", qos=0),
            TopicSubscription(filter="devices/+/x", qos=2),
            TopicSubscription(filter=TOPIC, qos=1),
        )
        client.put(client.subscribe_packet(*wanted))
        assert (await client.take(SubAck)).reason_codes == (0, 2, 1)
        other = await MqttClient.open(box, "other", level)
        await other.publish(TOPIC, b"1", 2)
        assert (await client.message()).qos == 2
        await client.take(PubRel)
        assert await client.subscribe("devices/+/x", qos=0) == (0,)  # replaces that of the same filter
        await other.publish(TOPIC, b"2", 2)
        assert (await client.message()).qos == 1
        await client.hears_nothing()


@pytest.mark.parametrize(
    "level",
    [
        pytest.param(4, id="MQTT-3.10.4-1-MQTT-3.10.4-2-MQTT-3.10.4-4-MQTT-3.10.4-5-MQTT-3.10.4-6-MQTT-2.3.1-7"),
        pytest.param(5, id="MQTT5-3.10.4-1-MQTT5-3.10.4-2-MQTT5-3.10.4-4-MQTT5-3.10.4-5-MQTT5-3.10.4-6-MQTT5-2.2.1-6"),
    ],
)
async def test_after_unsubscribe_nothing_new_comes(tmp_path: Path, level: int) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", level)
        await client.subscribe("a", "b", "b/c")
        client.put(Unsubscribe(packet_id=77, filters=("a", "B", "b/c")))
        answer = await client.take(UnsubAck)
        assert answer.packet_id == 77
        assert answer.reason_codes == ((0x00, 0x11, 0x00) if level == 5 else ())
        other = await MqttClient.open(box, "other", level)
        for topic in ("a", "b", "b/c"):
            await other.publish(topic)
        assert (await client.message()).topic == "b"
        await client.hears_nothing()


@pytest.mark.parametrize("level", [pytest.param(4, id="MQTT-3.10.4-3"), pytest.param(5, id="MQTT5-3.10.4-3")])
async def test_what_is_under_way_is_completed_after_unsubscribe(tmp_path: Path, level: int) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", level)
        await client.subscribe("a", qos=2)
        other = await MqttClient.open(box, "other", level)
        await other.publish("a", qos=2)
        message = await client.message(ack=False)
        await client.unsubscribe("a")
        await client.complete(message)
        await client.hears_nothing()


@pytest.mark.parametrize(
    "level",
    [
        pytest.param(4, id="MQTT-4.3.3-2-MQTT-2.3.1-6-MQTT-4.6.0-3"),
        pytest.param(5, id="MQTT5-4.3.3-8-MQTT5-4.3.3-10-MQTT5-4.3.3-11-MQTT5-4.3.3-12-MQTT5-4.6.0-3"),
    ],
)
async def test_qos_2_is_taken_once_until_it_is_released(tmp_path: Path, level: int) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", level)
        first = Publish(topic=TOPIC, payload=b"1", qos=2, packet_id=5)
        second = Publish(topic=TOPIC, payload=b"2", qos=2, packet_id=4)
        client.put(first, second, Publish(topic=TOPIC, payload=b"1", qos=2, packet_id=5, dup=True))
        assert [(await client.take(PubRec)).packet_id for _ in range(3)] == [5, 4, 5]
        client.put(PubRel(packet_id=5))
        assert (await client.take(PubComp)).packet_id == 5
        client.put(Publish(topic=TOPIC, payload=b"3", qos=2, packet_id=5))
        assert (await client.take(PubRec)).packet_id == 5
        client.put(PubRel(packet_id=4), PubRel(packet_id=5), PubRel(packet_id=9))
        answers = [await client.take(PubComp) for _ in range(3)]
        assert [answer.packet_id for answer in answers] == [4, 5, 9]
        unknown = ReasonCode.PACKET_IDENTIFIER_NOT_FOUND if level == 5 else ReasonCode.SUCCESS
        assert answers[2].reason_code is unknown
        assert [record.value for record in await box.records("telemetry", 3)] == [b"1", b"2", b"3"]


async def test_what_is_not_on_disk_is_delivered_to_nobody_mqtt_4_5_0_1(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        subscriber = await MqttClient.open(box, "sub")
        await subscriber.subscribe("#", qos=0)
        publisher = await MqttClient.open(box, "pub")
        await box.log.drain()
        box.storage.gate.clear()
        publisher.put(Publish(topic=TOPIC, payload=b"1", qos=1, packet_id=1))
        await wait_until_async(lambda: box.mqtt.counters.records == 1)
        await subscriber.hears_nothing()
        assert await publisher.silent()
        box.storage.gate.set()
        assert payloads(await subscriber.messages(1)) == [b"1"]
        assert (await publisher.take(PubAck)).packet_id == 1


async def test_a_failed_sync_delivers_nothing(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        subscriber = await MqttClient.open(box, "sub")
        await subscriber.subscribe("#", qos=0)
        publisher = await MqttClient.open(box, "pub")
        await box.log.drain()
        box.storage.fail = True
        publisher.put(Publish(topic=TOPIC, payload=b"1", qos=1, packet_id=1))
        await wait_until_async(lambda: box.failures)
        box.mqtt.fail()
        assert await publisher.rest() == b""
        assert await subscriber.rest() == b""


# Flow control


async def test_the_clients_receive_maximum_bounds_what_is_in_flight_mqtt5_3_3_4_9_mqtt5_4_9_0_2(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", receive_maximum=3)
        await client.subscribe("#", qos=2)
        other = await MqttClient.open(box, "other")
        for number in range(10):
            await other.publish(TOPIC, b"%d" % number, 1 + number % 2)
        flight = await client.messages(3, ack=False)
        await client.hears_nothing()  # [MQTT5-4.9.0-3]
        await other.publish("loud", b"0", 0)
        assert (await client.message()).topic == "loud"  # QoS 0 does not count [MQTT5-3.3.4-10]
        seen = payloads(flight)
        while len(seen) < 10:
            await client.complete(flight.pop(0))
            flight += await client.messages(1, ack=False)
            seen.append(flight[-1].payload)
            await client.hears_nothing()
        assert seen == [b"%d" % number for number in range(10)]


async def test_a_pubrec_does_not_open_the_window_a_refusing_one_does_mqtt5_4_9_0_1_mqtt5_4_4_0_2(
    tmp_path: Path,
) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", receive_maximum=1)
        await client.subscribe("#", qos=2)
        other = await MqttClient.open(box, "other")
        for number in range(3):
            await other.publish(TOPIC, b"%d" % number, 2)
        first = await client.message(ack=False)
        client.answer(first)
        await client.take(PubRel)
        await client.hears_nothing()
        client.put(PubComp(packet_id=first.packet_id or 0))
        second = await client.message(ack=False)
        client.put(PubRec(packet_id=second.packet_id or 0, reason_code=ReasonCode.QUOTA_EXCEEDED))
        assert (await client.message(ack=False)).payload == b"2"


async def test_a_receive_maximum_of_one_gets_everything_in_order(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", receive_maximum=1)
        await client.subscribe("#", qos=1)
        other = await MqttClient.open(box, "other")
        for number in range(1, 501):
            other.put(Publish(topic=TOPIC, payload=b"%d" % number, qos=1, packet_id=number))
        assert [int(m.payload) for m in await client.messages(500)] == list(range(1, 501))


async def test_a_client_beyond_our_receive_maximum_is_told_so_mqtt5_3_3_4_7(tmp_path: Path) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(receive_maximum=2)) as box:
        client = await MqttClient.open(box, "c")
        assert client.connack.properties.receive_maximum == 2
        await box.log.drain()
        box.storage.gate.clear()
        client.put(*(Publish(topic=TOPIC, payload=b"1", qos=1, packet_id=number) for number in (1, 2)))
        await client.hears_nothing()
        client.put(Publish(topic=TOPIC, payload=b"1", qos=2, packet_id=3))
        assert await client.told_goodbye() is ReasonCode.RECEIVE_MAXIMUM_EXCEEDED


async def test_answers_give_the_receive_maximum_back(tmp_path: Path) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(receive_maximum=2)) as box:
        client = await MqttClient.open(box, "c")
        for _ in range(10):
            await client.publish(TOPIC, qos=1)
            await client.publish(TOPIC, qos=2)
        await client.hears_nothing()


async def test_a_packet_beyond_the_clients_maximum_is_not_sent_mqtt5_3_1_2_24_mqtt5_3_1_2_25(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", keep=True, maximum_packet_size_bytes=100, receive_maximum=1)
        await client.subscribe("#", qos=2)
        other = await MqttClient.open(box, "other")
        for qos in (0, 1, 2):
            await other.publish(TOPIC, b"x" * 100, qos)
            await other.publish(TOPIC, b"small", qos)
            message = await client.message(ack=False)
            assert message.payload == b"small"
            await client.complete(message)
        await client.hears_nothing()
        assert box.broker.counters.dropped_too_large == 3
        assert not box.broker.sessions["c"].queue.count


# Both directions on one connection, and what is not right


@pytest.mark.parametrize("level", [pytest.param(4, id="MQTT-3.3.2-3"), pytest.param(5, id="MQTT5-3.3.2-3")])
async def test_a_client_hears_itself(tmp_path: Path, level: int) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", level)
        await client.subscribe(TOPIC, qos=1)
        client.put(Publish(topic=TOPIC, payload=b"1", qos=1, packet_id=9), PingReq())
        answers = [await client.packet() for _ in range(3)]
        assert {type(answer) for answer in answers} == {PingResp, PubAck, Publish}


async def test_no_local_keeps_own_messages_away_mqtt5_3_8_3_3(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c")
        await client.subscribe("#", qos=1, no_local=True)
        await client.publish(TOPIC, b"own")
        other = await MqttClient.open(box, "other")
        await other.publish(TOPIC, b"other's")
        assert payloads(await client.messages(1)) == [b"other's"]
        await client.hears_nothing()


@pytest.mark.parametrize("level", LEVELS)
async def test_acknowledgements_of_nothing_are_passed_by(tmp_path: Path, level: int) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", level)
        client.put(PubAck(packet_id=3), PubComp(packet_id=3), PubRec(packet_id=3))
        released = await client.take(PubRel)
        unknown = ReasonCode.PACKET_IDENTIFIER_NOT_FOUND if level == 5 else ReasonCode.SUCCESS
        assert (released.packet_id, released.reason_code) == (3, unknown)
        await client.hears_nothing()


@pytest.mark.parametrize(
    "garbage",
    [b"\xf0\x00" * 2, b"\x30\xff\xff\xff\xff\x7f", b"\x82\x02\x00\x00", b"\x36\x05\x00\x01a\x00\x01", b"\x10\x00"],
    ids=["auth-MQTT5-4.12.0-1", "length", "subscribe-MQTT5-3.8.3-2", "qos3-MQTT5-3.3.1-4", "connect-MQTT5-3.1.0-2"],
)
@pytest.mark.parametrize("level", [pytest.param(4, id="MQTT-4.8.0-1"), pytest.param(5, id="MQTT5-4.13.1-1")])
async def test_garbage_in_the_middle_ends_the_session_and_what_came_before_is_kept(
    tmp_path: Path, level: int, garbage: bytes
) -> None:
    async with edge_box(tmp_path) as box:
        witness = await MqttClient.open(box, "witness")
        await witness.subscribe("#", qos=1)
        client = await MqttClient.open(box, "c", level)
        await client.publish(TOPIC, b"before", 1)
        client.send(garbage)
        reason = await client.told_goodbye()
        assert reason is None if level == 4 else reason is not None and reason.failed
        assert payloads(await witness.messages(1)) == [b"before"]
        again = await MqttClient.open(box, "c", level)
        await again.publish(TOPIC, b"after", 1)
        assert payloads(await witness.messages(1)) == [b"after"]


async def test_properties_of_one_publish_are_not_the_next_ones(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "sub")
        await client.subscribe("#", qos=1)
        other = await MqttClient.open(box, "pub")
        sent = [PublishProperties(content_type="a"), PublishProperties(), PublishProperties(content_type="b")] * 3
        for number, properties in enumerate(sent, 1):
            other.put(Publish(topic=TOPIC, payload=b"1", qos=1, packet_id=number, properties=properties))
        assert [message.properties for message in await client.messages(9)] == sent
