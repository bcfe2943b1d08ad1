"""Rules of the specification that no other test is about: what is always offered, and what never waits."""

from __future__ import annotations

import random
import string
from pathlib import Path

import pytest

from ingest.settings import MqttSettings
from tests.ingest.broker_client import LEVELS, MqttClient, payloads
from tests.ingest.edge_box import edge_box
from wire.mqtt.encode import encode_packet
from wire.mqtt.packets import ConnAck, PingReq, PingResp, PubAck, Publish, SubAck, TopicSubscription, Will
from wire.mqtt.reasons import ReasonCode

TOPIC = "devices/d/x"


@pytest.mark.parametrize(
    "level",
    [pytest.param(4, id="MQTT-3.1.3-5-MQTT-7.0.0-2"), pytest.param(5, id="MQTT5-3.1.3-5")],
)
async def test_every_simple_client_id_is_accepted(tmp_path: Path, level: int) -> None:
    letters = string.digits + string.ascii_letters
    async with edge_box(tmp_path) as box:
        for client_id in [*(letters[:length] for length in range(1, 24)), letters[-23:], letters[20:43]]:
            await MqttClient.open(box, client_id, level)
            assert client_id in box.broker.sessions


@pytest.mark.parametrize(
    "level",
    [
        pytest.param(4, id="MQTT-7.1.1-1-MQTT-7.1.1-2"),
        pytest.param(5, id="MQTT5-4.2-1"),
    ],
)
async def test_a_stream_over_tcp_arrives_whole_and_in_order(tmp_path: Path, level: int) -> None:
    rng = random.Random(level)
    sent = [rng.randbytes(rng.choice((0, 1, 120, 3000))) for _ in range(300)]
    stream = b"".join(
        encode_packet(Publish(topic=TOPIC, payload=payload, qos=1, packet_id=number + 1), level)
        for number, payload in enumerate(sent)
    )
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", level)
        while stream:
            size = rng.randint(1, 5000)
            client.send(stream[:size])
            stream = stream[size:]
        assert [(await client.take(PubAck)).packet_id for _ in sent] == list(range(1, 301))
        assert [record.value for record in await box.records("telemetry", 300)] == sent


@pytest.mark.parametrize("keep", [False, True], ids=["clean", "kept"])
@pytest.mark.parametrize(
    "level",
    [
        pytest.param(4, id="MQTT-2.3.1-4"),
        pytest.param(5, id="MQTT5-2.2.1-4-MQTT5-4.3.2-1-MQTT5-4.3.3-1"),
    ],
)
async def test_no_two_messages_under_way_have_the_same_identifier(tmp_path: Path, level: int, keep: bool) -> None:
    async with edge_box(tmp_path) as box:
        subscriber = await MqttClient.open(box, "sub", level, keep=keep)
        publisher = await MqttClient.open(box, "pub", level)
        await subscriber.subscribe(TOPIC, qos=2)
        under_way: dict[int | None, Publish] = {}
        for number in range(60):
            await publisher.publish(TOPIC, b"%d" % number, qos=1 + number % 2)
            message = await subscriber.message(ack=False)
            assert message.packet_id not in under_way
            under_way[message.packet_id] = message
            if number % 3 == 0:  # some are completed in between, the others stay open
                await subscriber.complete(under_way.pop(message.packet_id))
        assert len(under_way) == 40


@pytest.mark.parametrize("keep", [False, True], ids=["clean", "kept"])
async def test_mqtt_4_1_0_2_a_session_lasts_as_long_as_its_connection(tmp_path: Path, keep: bool) -> None:
    async with edge_box(tmp_path) as box:
        subscriber = await MqttClient.open(box, "sub", 4, keep=keep)
        await subscriber.subscribe(TOPIC)
        box.pass_time(400 * 24 * 3600)
        assert "sub" in box.broker.sessions
        publisher = await MqttClient.open(box, "pub", 4)
        await publisher.publish(TOPIC, b"late")
        assert (await subscriber.message()).payload == b"late"


@pytest.mark.parametrize(
    "level",
    [pytest.param(4, id="MQTT-4.8.0-2"), pytest.param(5, id="5.0")],
)
async def test_a_transient_error_closes_the_connection(tmp_path: Path, level: int) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", level)
        await box.log.drain()
        box.storage.fail = True
        client.put(Publish(topic=TOPIC, payload=b"1", qos=1, packet_id=7))
        assert await client.rest() == b""  # and nothing is acknowledged
        assert len(box.failures) == 1


@pytest.mark.parametrize("asked", [None, False, True])
async def test_mqtt5_3_1_2_28_there_is_no_response_information(tmp_path: Path, asked: bool | None) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", request_response_information=asked)
        assert client.connack.properties.response_information is None


async def test_mqtt5_3_2_2_9_mqtt5_3_2_2_10_mqtt5_3_2_2_12_mqtt5_3_2_2_13_everything_is_offered(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        for qos in (0, 1, 2):
            will = Will(topic="gone", payload=b"", qos=qos, retain=True)
            client = await MqttClient.open(box, f"c{qos}", will=will)
            told = client.connack.properties
            assert (told.maximum_qos, told.retain_available) == (None, None)
            assert told.wildcard_subscription_available is None
            assert told.subscription_identifier_available is None
            assert told.shared_subscription_available is None
            assert await client.subscribe(TOPIC, "+/a/#", "$share/g/b", qos=qos, identifier=3) == (qos, qos, qos)


async def test_mqtt_3_8_3_2_filters_with_wildcards_are_supported(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", 4)
        assert await client.subscribe("+/d/#", "#", "+") == (1, 1, 1)
        publisher = await MqttClient.open(box, "pub", 4)
        for topic in ("one/d/two/three", "one/d", "alone"):
            await publisher.publish(topic)
            assert (await client.message()).topic == topic


@pytest.mark.parametrize("authenticated", ["SCRAM-SHA-1", "GS2-KRB5"])
async def test_mqtt5_4_12_0_1_mqtt5_4_12_0_4_mqtt5_4_12_0_6_mqtt5_3_1_4_2_unknown_methods_are_refused(
    tmp_path: Path, authenticated: str
) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.dial(box)
        connack = await client.hello("c", authentication_method=authenticated)  # and no AUTH before it
        assert connack.reason_code is ReasonCode.BAD_AUTHENTICATION_METHOD
        assert await client.rest() == b""
        assert "c" not in box.broker.sessions


async def test_mqtt5_3_1_4_2_what_fails_further_checks_is_told_and_closed(tmp_path: Path) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(refuse_publish=["secret/#"])) as box:
        client = await MqttClient.dial(box)
        connack = await client.hello("c", will=Will(topic="secret/x", payload=b"1"))
        assert connack.reason_code is ReasonCode.NOT_AUTHORIZED
        assert await client.rest() == b""
        assert "c" not in box.broker.sessions


@pytest.mark.parametrize("keep", [False, True], ids=["clean", "kept"])
async def test_mqtt5_3_3_4_10_mqtt5_4_9_0_3_nothing_else_waits_for_the_receive_maximum(
    tmp_path: Path, keep: bool
) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", keep=keep, receive_maximum=1)
        publisher = await MqttClient.open(box, "pub")
        await client.subscribe("once", qos=0)
        await client.subscribe(TOPIC, qos=1)
        for number in range(5):
            await publisher.publish(TOPIC, b"%d" % number)
        first = await client.message(ack=False)
        assert first.payload == b"0"
        await client.hears_nothing()  # of QoS 1; PINGRESP comes
        await publisher.publish("once", b"now", qos=0)
        assert (await client.message()).payload == b"now"
        assert await client.subscribe("other", qos=2) == (2,)
        assert await client.unsubscribe("other") == (ReasonCode.SUCCESS,)
        assert await client.publish("elsewhere", qos=2) is ReasonCode.SUCCESS
        client.answer(first)
        assert payloads(await client.messages(4)) == [b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("level", LEVELS)
async def test_mqtt5_3_8_4_4_replacing_a_subscription_loses_no_message(tmp_path: Path, level: int) -> None:
    async with edge_box(tmp_path) as box:
        subscriber = await MqttClient.open(box, "sub", level, keep=True)
        publisher = await MqttClient.open(box, "pub", level)
        await subscriber.subscribe("devices/#", qos=1)
        found: list[Publish] = []
        for part in range(10):
            for number in range(20):
                packet_id = part * 20 + number + 1
                publisher.put(Publish(topic=TOPIC, payload=b"%d" % packet_id, qos=1, packet_id=packet_id))
            subscriber.put(subscriber.subscribe_packet(TopicSubscription(filter="devices/#", qos=1 + part % 2)))
        while len(found) < 200:
            packet = await subscriber.packet()
            if isinstance(packet, Publish):
                found.append(packet)
                subscriber.answer(packet)
        # Each in its place; what came with QoS 2 was received once.
        assert [int(message.payload) for message in found] == list(range(1, 201))


async def test_answers_to_pings_do_not_wait_for_the_disk(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c")
        box.storage.gate.clear()
        client.put(Publish(topic=TOPIC, payload=b"1", qos=1, packet_id=7), PingReq())
        await client.take(PingResp)
        box.storage.gate.set()
        assert (await client.take(PubAck)).packet_id == 7
        assert isinstance(client.connack, ConnAck)
        client.put(client.subscribe_packet(TopicSubscription(filter="a", qos=0)))
        await client.take(SubAck)
