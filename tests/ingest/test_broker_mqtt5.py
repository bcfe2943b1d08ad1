"""What 5.0 adds to a message: properties, aliases, identifiers, expiry, request and response; and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingest.headers import MQTT_CONTENT_TYPE
from ingest.settings import MqttSettings
from tests.conftest import wait_until_async
from tests.ingest.broker_client import LEVELS, MqttClient, payloads
from tests.ingest.edge_box import edge_box
from tests.ingest.test_broker_sessions import away, vanish
from wire.mqtt.packets import ConnAck, Connect, PubAck, PubComp, Publish, PubRec, PubRel, SubAck, TopicSubscription
from wire.mqtt.properties import ConnectProperties, PublishProperties
from wire.mqtt.reasons import ReasonCode

TOPIC = "devices/d/x"
ALL = PublishProperties(
    payload_format_indicator=True,
    content_type="text/plain",
    response_topic="answers/1",
    correlation_data=b"\x00\xff",
    user_properties=(("b", "1"), ("a", "ü"), ("b", "")),
)


@pytest.mark.parametrize("way", ["live", "recent", "log", "retained"])
@pytest.mark.parametrize(
    "qos",
    [
        pytest.param(1, id="qos1-MQTT5-3.3.2-4-MQTT5-3.3.2-15-MQTT5-3.3.2-16"),
        pytest.param(2, id="qos2-MQTT5-3.3.2-17-MQTT5-3.3.2-18-MQTT5-3.3.2-20"),
    ],
)
async def test_properties_arrive_as_they_were_sent(tmp_path: Path, qos: int, way: str) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", keep=True, receive_maximum=1)
        await client.subscribe("#" if way != "retained" else "nothing", qos=2)
        if way == "log":
            await vanish(box, client, "c")
        other = await MqttClient.open(box, "other")
        if way == "recent":
            await other.publish("first", b"0", 1)
        other.put(Publish(topic=TOPIC, payload=b"x", qos=qos, packet_id=500, retain=way == "retained", properties=ALL))
        await other.take(PubAck if qos == 1 else PubRec)
        if way == "log":
            client = await MqttClient.open(box, "c", keep=True)
        elif way == "recent":
            await client.message()
        elif way == "retained":
            client.put(client.subscribe_packet(TopicSubscription(filter=TOPIC, qos=2)))
            await client.take(SubAck)
        message = await client.message()
        assert message.properties == ALL
        (record,) = [one for one in await box.records("telemetry", 1) if one.value == b"x"]
        assert (MQTT_CONTENT_TYPE, b"text/plain") in record.headers


async def test_request_and_response(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        worker = await MqttClient.open(box, "worker")
        await worker.subscribe("requests", qos=1)
        asker = await MqttClient.open(box, "asker")
        await asker.subscribe("answers/asker", qos=1)
        await asker.publish("requests", b"2+2", response_topic="answers/asker", correlation_data=b"17")
        request = await worker.message()
        assert request.properties.response_topic
        await worker.publish(
            request.properties.response_topic, b"4", correlation_data=request.properties.correlation_data
        )
        answer = await asker.message()
        assert (answer.payload, answer.properties.correlation_data) == (b"4", b"17")


# Topic aliases


async def test_aliases_of_the_client_stand_for_their_topics_mqtt5_3_3_2_12_mqtt5_3_3_2_7(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        witness = await MqttClient.open(box, "witness")
        await witness.subscribe("#", qos=1)
        client = await MqttClient.open(box, "c")
        most = client.connack.properties.topic_alias_maximum or 0
        assert most == 10
        sent = [("a", 1), ("b", most), ("", 1), ("", most), ("c", 1), ("", 1)]
        for number, (topic, alias) in enumerate(sent, 1):
            properties = PublishProperties(topic_alias=alias)
            client.put(Publish(topic=topic, payload=b"1", qos=1, packet_id=number, properties=properties))
        assert sorted(m.topic for m in await witness.messages(6)) == ["a", "a", "b", "b", "c", "c"]
        await client.disconnect()
        client = await MqttClient.open(box, "c")
        client.put(Publish(topic="", payload=b"1", properties=PublishProperties(topic_alias=1)))
        assert await client.told_goodbye() is ReasonCode.PROTOCOL_ERROR


async def test_an_alias_beyond_the_maximum_ends_the_connection_0x94(tmp_path: Path) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(topic_alias_maximum=0)) as box:
        client = await MqttClient.open(box, "c")
        assert client.connack.properties.topic_alias_maximum is None
        client.put(Publish(topic="a", payload=b"1", properties=PublishProperties(topic_alias=1)))
        assert await client.told_goodbye() is ReasonCode.TOPIC_ALIAS_INVALID


async def test_aliases_for_the_client_keep_to_its_maximum_mqtt5_3_1_2_26_mqtt5_3_1_2_27_mqtt5_3_3_2_11(
    tmp_path: Path,
) -> None:
    async with edge_box(tmp_path) as box:
        plain = await MqttClient.open(box, "plain")
        client = await MqttClient.open(box, "c", topic_alias_maximum=2)
        for one in (plain, client):
            await one.subscribe("#", qos=1)
        other = await MqttClient.open(box, "other")
        topics = [f"some/longer/topic/{number % 3}" for number in range(9)]
        for topic in topics:
            await other.publish(topic)
        heard = await plain.messages(9)
        assert {message.properties.topic_alias for message in heard} == {None}
        assert [message.topic for message in heard] == topics
        known: dict[int, str] = {}
        found: list[str] = []
        shortened = 0
        for message in await client.messages(9):
            alias = message.properties.topic_alias
            if alias is None:
                found.append(message.topic)
                continue
            assert 1 <= alias <= 2
            shortened += not message.topic
            found.append(known.setdefault(alias, message.topic) if message.topic else known[alias])
        assert found == topics
        assert shortened == 4
        await client.disconnect()
        client = await MqttClient.open(box, "c", topic_alias_maximum=2)  # aliases end with the connection
        await client.subscribe("#", qos=1)
        await other.publish(topics[0])
        assert (await client.message()).topic == topics[0]


# Subscription identifiers


@pytest.mark.parametrize("way", ["live", "log"])
async def test_one_copy_carries_all_identifiers_mqtt5_3_3_4_3_mqtt5_3_3_4_4(tmp_path: Path, way: str) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", keep=True)
        await client.subscribe("devices/#", qos=1, identifier=268_435_455)
        await client.subscribe("devices/+/x", qos=2, identifier=3)
        await client.subscribe(TOPIC, qos=0)
        if way == "log":
            await vanish(box, client, "c")
        other = await MqttClient.open(box, "other")
        await other.publish(TOPIC)
        if way == "log":
            client = await MqttClient.open(box, "c", keep=True)
        message = await client.message()
        assert sorted(message.properties.subscription_identifiers) == [3, 268_435_455]
        await client.subscribe("devices/+/x", qos=2)  # replaced: without an identifier now
        await other.publish(TOPIC)
        assert (await client.message()).properties.subscription_identifiers == (268_435_455,)
        await client.hears_nothing()


async def test_each_shared_copy_carries_its_own_mqtt5_3_3_4_5(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c")
        await client.subscribe("#", qos=1, identifier=1)
        await client.subscribe("$share/g/#", qos=1, identifier=2)
        other = await MqttClient.open(box, "other")
        await other.publish(TOPIC)
        found = [message.properties.subscription_identifiers for message in await client.messages(2)]
        assert sorted(found) == [(1,), (2,)]


async def test_retained_messages_carry_the_identifier(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        other = await MqttClient.open(box, "other")
        await other.publish(TOPIC, retain=True)
        client = await MqttClient.open(box, "c")
        await client.subscribe("#", qos=1, identifier=5)
        assert (await client.message()).properties.subscription_identifiers == (5,)


# Expiry


async def test_expiry_counts_down_and_then_the_message_is_not_sent_mqtt5_3_3_2_5_mqtt5_3_3_2_6(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        live = await MqttClient.open(box, "live")
        await live.subscribe("#", qos=1)
        client = await MqttClient.open(box, "c", keep=True)
        await client.subscribe("#", qos=2)
        await vanish(box, client, "c")
        other = await MqttClient.open(box, "other")
        for expiry_s in (50, 1000, None):
            await other.publish(TOPIC, b"%d" % (expiry_s or 0), 2, message_expiry_interval_s=expiry_s)
        assert [m.properties.message_expiry_interval_s for m in await live.messages(3)] == [50, 1000, None]
        box.pass_time(100)
        client = await MqttClient.open(box, "c", keep=True)
        first, second = await client.messages(2)
        assert first.payload == b"1000"
        assert 898 <= (first.properties.message_expiry_interval_s or 0) <= 900
        assert second.properties.message_expiry_interval_s is None
        assert box.broker.counters.expired == 1


async def test_expiry_counts_for_what_waits_in_memory_as_well(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", receive_maximum=1)
        await client.subscribe("#", qos=1)
        other = await MqttClient.open(box, "other")
        await other.publish(TOPIC, b"first")
        await other.publish(TOPIC, b"short", message_expiry_interval_s=10)
        await other.publish(TOPIC, b"long", message_expiry_interval_s=100)
        first = await client.message(ack=False)
        box.pass_time(50)
        client.answer(first)
        second = await client.message()
        assert second.payload == b"long"
        assert 48 <= (second.properties.message_expiry_interval_s or 0) <= 50


async def test_a_qos_2_message_that_was_sent_does_not_expire_mqtt5_4_3_3_7(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", keep=True)
        await client.subscribe("#", qos=2)
        other = await MqttClient.open(box, "other")
        await other.publish(TOPIC, b"1", 1, message_expiry_interval_s=10)
        await other.publish(TOPIC, b"2", 2, message_expiry_interval_s=10)
        sent = await client.messages(2, ack=False)
        await vanish(box, client, "c")
        box.pass_time(100)
        client = await MqttClient.open(box, "c", keep=True)
        message = await client.message(ack=False)
        assert (message.payload, message.packet_id, message.dup) == (b"2", sent[1].packet_id, True)
        await client.complete(message)
        await client.hears_nothing()


async def test_an_expired_qos_2_publish_is_released_all_the_same_mqtt5_4_3_3_13(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c")
        properties = PublishProperties(message_expiry_interval_s=1)
        client.put(Publish(topic=TOPIC, payload=b"1", qos=2, packet_id=1, properties=properties))
        await client.take(PubRec)
        box.pass_time(10)
        client.put(PubRel(packet_id=1))
        assert (await client.take(PubComp)).reason_code is ReasonCode.SUCCESS


# Refusals and limits


@pytest.mark.parametrize("level", [pytest.param(4, id="MQTT-3.3.5-2"), pytest.param(5, id="MQTT5-4.3.3-9")])
async def test_a_publish_that_is_not_permitted(tmp_path: Path, level: int) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(refuse_publish=["no/#"])) as box:
        client = await MqttClient.open(box, "c", level)
        client.put(Publish(topic="no/x", payload=b"1"))
        await client.hears_nothing()
        assert box.mqtt.counters.dropped["publish-refused"] == 1
        if level == 4:
            client.put(Publish(topic="no/x", payload=b"1", qos=1, packet_id=1))
            assert await client.rest() == b""
        else:
            assert await client.publish("no/x", qos=1) is ReasonCode.NOT_AUTHORIZED
            assert await client.publish("no/x", qos=2, packet_id=7) is ReasonCode.NOT_AUTHORIZED
            assert await client.publish("yes", b"after", qos=2, packet_id=7) is ReasonCode.SUCCESS
        other = await MqttClient.open(box, "other", level)
        await other.publish("last")
        assert {record.value for record in await box.records("mqtt", 2 if level == 5 else 1)} <= {b"after", b"1"}
        assert {dict(record.headers)["mqtt.topic"] for record in box.records_now("mqtt")} <= {b"yes", b"last"}


@pytest.mark.parametrize("level", LEVELS)
async def test_subscriptions_that_are_not_permitted_or_not_possible(tmp_path: Path, level: int) -> None:
    settings = MqttSettings(refuse_subscribe=["no/#"], max_subscriptions_per_client=2)
    async with edge_box(tmp_path, mqtt=settings) as box:
        client = await MqttClient.open(box, "c", level)
        deep = "/".join("+" * 129)
        wanted = [TopicSubscription(filter=one, qos=1) for one in ("no/x", "a", deep, "b", "c", "a", "#")]
        client.put(client.subscribe_packet(*wanted))
        codes = (await client.take(SubAck)).reason_codes
        full = 0x97 if level == 5 else 0x80
        assert codes == (0x80, 1, 0x8F if level == 5 else 0x80, 1, full, 1, full)
        await client.unsubscribe("a")
        assert await client.subscribe("c") == (1,)


async def test_sessions_are_bounded_0x97(tmp_path: Path) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(max_sessions=2)) as box:
        kept = await MqttClient.open(box, "kept", keep=True)
        await kept.disconnect()
        await MqttClient.open(box, "here")
        for level, answer in ((4, ReasonCode.SERVER_UNAVAILABLE), (5, ReasonCode.QUOTA_EXCEEDED)):
            client = await MqttClient.dial(box, level)
            assert (await client.hello("more")).reason_code is answer
            assert await client.rest() == b""
        assert (await MqttClient.open(box, "kept", keep=True)).connack.session_present


async def test_subscriptions_of_all_are_bounded(tmp_path: Path) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(max_subscriptions=3)) as box:
        one, two = await MqttClient.open(box, "one"), await MqttClient.open(box, "two")
        assert await one.subscribe("a", "b") == (1, 1)
        assert await two.subscribe("a", "b") == (1, 0x97)
        await one.disconnect()
        await away(box, "one")
        assert await two.subscribe("b") == (1,)


@pytest.mark.parametrize("present", [False, True], ids=["away", "here"])
async def test_a_queue_that_is_full_ends_the_session_and_says_so_0x97(tmp_path: Path, present: bool) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(max_queued_messages=10)) as box:
        client = await MqttClient.open(box, "c", keep=True, receive_maximum=1)
        await client.subscribe("#", qos=1)
        if not present:
            await vanish(box, client, "c")
        other = await MqttClient.open(box, "other", 4)
        await other.publish(TOPIC, packet_id=100)
        if present:
            await client.message(ack=False)
        for number in range(1, 41):
            other.put(Publish(topic=TOPIC, payload=b"1", qos=1, packet_id=number))
        for _ in range(40):
            await other.take(PubAck)
        await wait_until_async(lambda: "c" not in box.broker.sessions)
        assert box.broker.counters.sessions_overflowed == 1
        if present:
            assert await client.told_goodbye() is ReasonCode.QUOTA_EXCEEDED
        assert not (await MqttClient.open(box, "c", keep=True)).connack.session_present
        await wait_until_async(lambda: not box.log.rows_now("mqtt.queues"))


async def test_all_queues_together_are_bounded_by_ending_the_longest(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        box.broker._backlog.max_size_bytes = 300
        for name, topic in (("long", "#"), ("short", "some")):
            client = await MqttClient.open(box, name, keep=True)
            await client.subscribe(topic, qos=1)
            await vanish(box, client, name)
        other = await MqttClient.open(box, "other", 4)
        for number in range(1, 201):
            other.put(Publish(topic=TOPIC, payload=b"1", qos=1, packet_id=number))
        for _ in range(200):
            await other.take(PubAck)
        await other.publish("some", packet_id=300)
        for _ in range(5):
            box.broker.tick()
        await wait_until_async(lambda: "long" not in box.broker.sessions)
        assert "short" in box.broker.sessions


async def test_retained_messages_that_wait_count_as_well(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        box.broker._backlog.max_size_bytes = 300
        other = await MqttClient.open(box, "other", 4)
        for number in range(200):
            other.put(Publish(topic=f"r/{number}", payload=b"1", qos=1, packet_id=number + 1, retain=True))
        for _ in range(200):
            await other.take(PubAck)
        client = await MqttClient.open(box, "c", receive_maximum=1)
        await client.subscribe("r/#", qos=1)
        await wait_until_async(lambda: box.broker.sessions["c"].queue.count == 200)
        for _ in range(5):
            box.broker.tick()
        await client.message(ack=False)
        assert await client.told_goodbye() is ReasonCode.QUOTA_EXCEEDED


@pytest.mark.parametrize("qos", [1, 2])
async def test_on_a_full_disk_a_5_0_client_is_told_0x97_after_what_was_taken(
    tmp_path: Path, qos: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commitlog.space.WAIT_S", 0.01)
    async with edge_box(tmp_path) as box:
        witness = await MqttClient.open(box, "witness")
        await witness.subscribe("#", qos=1)
        client = await MqttClient.open(box, "c")
        await client.publish(TOPIC, b"before", qos)
        box.storage.free = 0
        await wait_until_async(lambda: box.log.full)
        client.put(Publish(topic=TOPIC, payload=b"refused", qos=qos, packet_id=9))
        assert await client.told_goodbye() is ReasonCode.QUOTA_EXCEEDED
        assert payloads(await witness.messages(1)) == [b"before"]
        await witness.hears_nothing()
        box.storage.free = None
        await wait_until_async(lambda: not box.log.full)
        client = await MqttClient.open(box, "c")
        assert await client.publish(TOPIC, b"after", qos) is ReasonCode.SUCCESS


async def test_on_a_full_disk_acknowledgements_come_before_the_goodbye_mqtt5_3_14_4_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c")
        await box.log.drain()
        box.storage.gate.clear()
        client.put(Publish(topic=TOPIC, payload=b"1", qos=1, packet_id=1))
        await wait_until_async(lambda: box.mqtt.counters.records == 1)
        monkeypatch.setattr("ingest.listener._REFUSALS_PER_SLICE", 0)  # its turn to be closed has not come
        box.log._engine.fullness.become(True)
        client.put(Publish(topic=TOPIC, payload=b"2", qos=1, packet_id=2))
        await wait_until_async(lambda: box.mqtt.refused)
        assert await client.silent()
        box.storage.gate.set()
        assert await client.packet() == PubAck(packet_id=1)
        assert await client.silent()
        box.log._engine.fullness.become(False)
        assert await client.told_goodbye() is ReasonCode.QUOTA_EXCEEDED


async def test_enhanced_authentication_is_not_offered_mqtt5_4_12_0_1(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.dial(box)
        properties = ConnectProperties(authentication_method="SCRAM-SHA-256")
        client.put(Connect(client_id="c", protocol_level=5, properties=properties))
        assert (await client.take(ConnAck)).reason_code is ReasonCode.BAD_AUTHENTICATION_METHOD
        assert await client.rest() == b""


async def test_a_client_that_publishes_too_fast_is_told_0x97(tmp_path: Path) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(max_publish_rate=10)) as box:
        client = await MqttClient.open(box, "c")
        client.put(*(Publish(topic=TOPIC, payload=b"1") for _ in range(11)))
        assert await client.told_goodbye() is ReasonCode.QUOTA_EXCEEDED


async def test_a_5_0_client_that_reads_nothing_does_not_hold_the_shutdown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.listener._CLOSE_PATIENCE_S", 0.05)
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c")
        await client.subscribe("#", qos=0)
        client.stop_reading()
        other = await MqttClient.open(box, "other")
        connection = box.connection("c")
        while connection.can_take:
            await other.publish(TOPIC, b"x" * 500_000, 1)
        await box.mqtt.drain()
        await box.mqtt.close()
        assert not box.mqtt.counters.connections
