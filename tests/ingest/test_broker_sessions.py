"""Sessions: opened, resumed, taken over, kept and ended; what is in flight when a connection goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingest.settings import MqttSettings
from tests.conftest import wait_until_async
from tests.ingest.broker_client import LEVELS, MqttClient, payloads
from tests.ingest.edge_box import EdgeBox, edge_box
from wire.mqtt.packets import (
    ConnAck,
    Disconnect,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    TopicSubscription,
    Will,
)
from wire.mqtt.properties import NEVER_EXPIRES_S, DisconnectProperties
from wire.mqtt.reasons import ReasonCode

TOPIC = "devices/d/x"


async def away(box: EdgeBox, client_id: str) -> None:
    """Until the box has noticed that a client is gone."""
    await wait_until_async(
        lambda: client_id not in box.broker.sessions or box.broker.sessions[client_id].connection is None,
        describe=f"{client_id} is away",
    )


async def vanish(box: EdgeBox, client: MqttClient, client_id: str) -> None:
    client.abort()
    await away(box, client_id)


# Kept and resumed


@pytest.mark.parametrize(
    "level",
    [
        pytest.param(4, id="MQTT-3.1.2-4-MQTT-3.1.2-5-MQTT-3.2.2-2-MQTT-3.2.2-3-MQTT-4.1.0-1-MQTT-3.1.3-2"),
        pytest.param(5, id="MQTT5-3.1.2-5-MQTT5-3.1.2-6-MQTT5-3.1.2-23-MQTT5-3.2.2-3-MQTT5-4.5.0-1-MQTT5-3.1.3-2"),
    ],
)
async def test_a_kept_session_gets_what_came_while_it_was_away(tmp_path: Path, level: int) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", level, keep=True)
        assert not client.connack.session_present
        await client.subscribe("devices/#", qos=2)
        await client.disconnect()
        other = await MqttClient.open(box, "other", level)
        for qos in (0, 1, 2):
            await other.publish(TOPIC, b"%d" % qos, qos)
        client = await MqttClient.open(box, "c", level, keep=True)
        assert client.connack.session_present
        found = await client.messages(2)  # QoS 0 is not kept for anybody
        assert [(m.payload, m.qos, m.dup) for m in found] == [(b"1", 1, False), (b"2", 2, False)]
        await client.take(PubRel)
        await other.publish(TOPIC, b"now", 1)  # the subscription is there
        assert payloads(await client.messages(1)) == [b"now"]


@pytest.mark.parametrize(
    "level",
    [
        pytest.param(4, id="MQTT-3.1.2-6-MQTT-3.2.2-1-MQTT-3.1.4-3"),
        pytest.param(5, id="MQTT5-3.1.2-4-MQTT5-3.2.2-2-MQTT5-3.1.4-4"),
    ],
)
async def test_a_clean_start_discards_the_session(tmp_path: Path, level: int) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", level, keep=True)
        await client.subscribe("#", qos=1)
        await client.disconnect()
        other = await MqttClient.open(box, "other", level)
        await other.publish(TOPIC)
        client = await MqttClient.open(box, "c", level, keep=False)
        assert not client.connack.session_present
        await other.publish(TOPIC)
        await client.hears_nothing()
        for table in ("mqtt.queues", "mqtt.sessions", "mqtt.subscriptions"):
            await wait_until_async(lambda: not box.log.rows_now(table), describe=table)  # noqa: B023


async def test_a_session_ends_with_its_connection_unless_agreed_otherwise_mqtt5_4_1_0_2(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c")
        await client.subscribe("#", qos=1)
        await vanish(box, client, "c")
        assert "c" not in box.broker.sessions
        client = await MqttClient.dial(box)
        assert not (await client.hello("c", clean=False)).session_present
        await client.hears_nothing()


@pytest.mark.parametrize(
    "level",
    [
        pytest.param(4, id="MQTT-4.4.0-1-MQTT-2.3.1-4-MQTT-3.3.1-1-MQTT-4.6.0-4"),
        pytest.param(
            5, id="MQTT5-4.4.0-1-MQTT5-3.3.1-1-MQTT5-4.6.0-1-MQTT5-4.6.0-4-MQTT5-4.3.2-3-MQTT5-4.3.3-3-MQTT5-4.3.3-6"
        ),
    ],
)
async def test_what_was_in_flight_comes_again_with_its_identifier(tmp_path: Path, level: int) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", level, keep=True)
        await client.subscribe("devices/#", qos=2)
        other = await MqttClient.open(box, "other", level)
        for number in range(6):
            await other.publish(TOPIC, b"%d" % number, 1 + number % 2)
        first = await client.messages(6, ack=False)
        client.put(PubAck(packet_id=first[2].packet_id or 0))  # out of turn
        client.put(PubRec(packet_id=first[3].packet_id or 0), PubRec(packet_id=first[1].packet_id or 0))
        assert [(await client.take(PubRel)).packet_id for _ in range(2)] == [first[3].packet_id, first[1].packet_id]
        await vanish(box, client, "c")
        client = await MqttClient.open(box, "c", level, keep=True)
        released = {(await client.take(PubRel)).packet_id for _ in range(2)}
        assert released == {first[1].packet_id, first[3].packet_id}
        client.put(*(PubComp(packet_id=number) for number in released))
        again = await client.messages(3, ack=False)
        assert [(m.payload, m.packet_id, m.dup) for m in again] == [
            (first[index].payload, first[index].packet_id, True) for index in (0, 4, 5)
        ]
        for message in again:
            await client.complete(message)
        await client.hears_nothing()
        await other.publish(TOPIC, b"new", 1)
        assert not (await client.message()).dup  # [MQTT-3.3.1-3]
        await wait_until_async(lambda: not box.broker.sessions["c"].queue.count)


async def test_nothing_is_sent_again_without_a_reconnect_mqtt5_4_4_0_1(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", keep=True)
        await client.subscribe("#", qos=1)
        other = await MqttClient.open(box, "other")
        await other.publish(TOPIC)
        await client.message(ack=False)
        connection = box.connection("c")
        await box.log.drain()
        box.storage.gate.clear()
        client.put(client.subscribe_packet(TopicSubscription(filter="more", qos=1)))  # its answer waits for a commit
        await wait_until_async(lambda: box.broker.tree.count_of("c") == 2)
        connection.pause_writing()  # the socket is full for a moment meanwhile
        connection.resume_writing()
        box.storage.gate.set()
        await client.take(SubAck)
        await other.publish(TOPIC, b"2")
        assert payloads(await client.messages(1)) == [b"2"]


@pytest.mark.parametrize("level", [pytest.param(4, id="MQTT-3.3.1-3"), pytest.param(5, id="MQTT5-3.3.1-3")])
async def test_the_publishers_dup_is_not_the_subscribers(tmp_path: Path, level: int) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", level)
        await client.subscribe("#", qos=1)
        other = await MqttClient.open(box, "other", level)
        other.put(Publish(topic=TOPIC, payload=b"1", qos=1, packet_id=1, dup=True))
        assert not (await client.message()).dup


@pytest.mark.parametrize("level", [pytest.param(4, id="MQTT-4.3.3-2"), pytest.param(5, id="MQTT5-4.3.3-10")])
async def test_a_qos_2_publish_is_in_the_log_once_across_connections(tmp_path: Path, level: int) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", level, keep=True)
        publish = Publish(topic=TOPIC, payload=b"1", qos=2, packet_id=9)
        client.put(publish)
        await client.take(PubRec)
        await vanish(box, client, "c")
        client = await MqttClient.open(box, "c", level, keep=True)
        client.put(Publish(topic=TOPIC, payload=b"1", qos=2, packet_id=9, dup=True))
        await client.take(PubRec)
        client.put(PubRel(packet_id=9))
        await client.take(PubComp)
        await client.publish(TOPIC, b"2", 2, packet_id=9)
        assert [record.value for record in await box.records("telemetry", 2)] == [b"1", b"2"]
        assert not box.log.rows_now("mqtt.received")


async def test_a_released_identifier_that_comes_back_at_once_stays_taken(tmp_path: Path) -> None:
    """PUBREL and the next PUBLISH of the same identifier in one chunk: the row of the second one is the last word."""
    async with edge_box(tmp_path / "a") as box:
        client = await MqttClient.open(box, "c", keep=True)
        client.put(Publish(topic=TOPIC, payload=b"1", qos=2, packet_id=9))
        await client.take(PubRec)
        client.put(PubRel(packet_id=9), Publish(topic=TOPIC, payload=b"2", qos=2, packet_id=9))
        await client.take(PubRec)
        await client.take(PubComp)
        assert len(box.log.rows_now("mqtt.received")) == 1


async def test_a_session_changes_its_version_with_its_client(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", 5, keep=True)
        await client.subscribe("#", qos=1)
        other = await MqttClient.open(box, "other")
        await other.publish(TOPIC, b"1", content_type="text")
        assert (await client.message(ack=False)).properties.content_type == "text"
        for level in (4, 5, 4):
            client = await MqttClient.open(box, "c", level, keep=True)
            assert client.connack.session_present
            assert payloads(await client.messages(1, ack=False)) == [b"1"]
            await other.publish(TOPIC, b"live", 0, content_type="text")
            assert (await client.message()).properties.content_type == ("text" if level == 5 else None)


# Taken over


@pytest.mark.parametrize("keep", [False, True], ids=["clean", "kept"])
@pytest.mark.parametrize("level", [pytest.param(4, id="MQTT-3.1.4-2"), pytest.param(5, id="MQTT5-3.1.4-3")])
async def test_a_second_connection_takes_over(tmp_path: Path, level: int, keep: bool) -> None:
    async with edge_box(tmp_path) as box:
        first = await MqttClient.open(box, "c", level, keep=keep)
        await first.subscribe("#", qos=1)
        other = await MqttClient.open(box, "other", level)
        await other.publish(TOPIC, b"1")
        await first.message(ack=False)
        second = await MqttClient.open(box, "c", level, keep=keep)
        assert await first.told_goodbye() is (None if level == 4 else ReasonCode.SESSION_TAKEN_OVER)
        assert second.connack.session_present is keep
        if keep:
            assert (await second.message()).dup
        await second.hears_nothing()


async def test_many_connections_of_one_client_id_leave_one(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        clients = [await MqttClient.dial(box) for _ in range(50)]
        for client in clients:
            client.put(client.connect_packet("c", keep=True))
        await wait_until_async(lambda: box.mqtt.counters.connections == 1)
        connected = [client for client in clients if await self_evidently_open(client)]
        assert len(connected) == 1
        assert len(box.broker.sessions) == 1


async def self_evidently_open(client: MqttClient) -> bool:
    client.put(Disconnect())
    rest = await client.rest()
    return b"\xe0\x01\x8e" not in rest and rest[:1] == b"\x20"


async def test_nothing_is_sent_before_connack_mqtt_3_2_0_1_mqtt5_3_2_0_1(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", keep=True)
        await client.subscribe("#", qos=2)
        other = await MqttClient.open(box, "other")
        await other.publish(TOPIC, b"1", 2)
        message = await client.message(ack=False)
        await box.log.drain()
        box.storage.gate.clear()
        client.answer(message)  # its PUBREL has to wait for a commit, which is under way when the client is back
        await client.hears_nothing()
        second = await MqttClient.dial(box)
        second.put(second.connect_packet("c", keep=True), PubRec(packet_id=77))
        await client.told_goodbye()
        assert await second.silent()
        box.storage.gate.set()
        await second.take(ConnAck)


@pytest.mark.parametrize("keep", [False, True], ids=["clean", "kept"])
async def test_a_client_that_does_not_wait_for_connack_gets_everything(tmp_path: Path, keep: bool) -> None:
    async with edge_box(tmp_path) as box:
        other = await MqttClient.open(box, "other")
        await other.publish("r", b"kept", retain=True)
        client = await MqttClient.dial(box)
        will = Will(topic="w", payload=b"1")  # its row makes the CONNACK wait
        subscribe = client.subscribe_packet(
            TopicSubscription(filter="r", qos=1), TopicSubscription(filter=TOPIC, qos=1)
        )
        client.put(
            client.connect_packet("c", keep=keep, will=will),
            subscribe,
            Publish(topic=TOPIC, payload=b"own", qos=1, packet_id=1),
        )
        await client.take(ConnAck)
        packets = [await client.packet() for _ in range(4)]
        kinds = sorted(type(packet).__name__ for packet in packets)
        assert kinds == ["PubAck", "Publish", "Publish", "SubAck"]
        assert {packet.payload for packet in packets if isinstance(packet, Publish)} == {b"kept", b"own"}


# Expiry


@pytest.mark.parametrize("level", [pytest.param(4, id="MQTT-4.1.0-1"), pytest.param(5, id="MQTT5-4.1.0-2")])
async def test_a_session_is_kept_until_it_expires(tmp_path: Path, level: int) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(max_session_expiry="100s")) as box:
        client = await MqttClient.open(box, "c", level, keep=True)
        if level == 5:
            assert client.connack.properties.session_expiry_interval_s == 100
        await client.subscribe("#")
        box.pass_time(200)  # not while it is connected
        await client.hears_nothing()
        await vanish(box, client, "c")
        box.pass_time(99)
        client = await MqttClient.open(box, "c", level, keep=True)
        assert client.connack.session_present
        await vanish(box, client, "c")
        box.pass_time(101)
        assert not box.broker.sessions
        assert box.broker.counters.sessions_expired == 1
        client = await MqttClient.open(box, "c", level, keep=True)
        assert not client.connack.session_present


async def test_disconnect_changes_the_expiry(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", session_expiry_interval_s=10)
        await client.disconnect(session_expiry_interval_s=1000)
        await away(box, "c")
        box.pass_time(999)
        client = await MqttClient.dial(box)
        assert (await client.hello("c", clean=False, session_expiry_interval_s=5)).session_present
        await client.disconnect(session_expiry_interval_s=0)
        await away(box, "c")
        assert "c" not in box.broker.sessions


async def test_a_reconnect_changes_the_expiry_to_none_and_the_session_ends_with_the_connection(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", keep=True)
        await client.subscribe("#")
        await client.disconnect()
        client = await MqttClient.dial(box)
        assert (await client.hello("c", clean=False)).session_present
        await client.disconnect()
        await away(box, "c")
        for table in ("mqtt.queues", "mqtt.sessions", "mqtt.subscriptions"):
            await wait_until_async(lambda: not box.log.rows_now(table), describe=table)  # noqa: B023


async def test_never_is_bounded_by_the_settings(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", session_expiry_interval_s=NEVER_EXPIRES_S)
        assert client.connack.properties.session_expiry_interval_s == 30 * 86_400


async def test_from_zero_to_an_expiry_is_an_error_and_no_disconnect(tmp_path: Path) -> None:
    """5.0, 3.14.2.2.2: it is not treated as a valid DISCONNECT, so the will is published."""
    async with edge_box(tmp_path) as box:
        witness = await MqttClient.open(box, "witness")
        await witness.subscribe("w", qos=1)
        client = await MqttClient.open(box, "c", will=Will(topic="w", payload=b"gone", qos=1))
        client.put(Disconnect(properties=DisconnectProperties(session_expiry_interval_s=9)))
        assert await client.told_goodbye() is ReasonCode.PROTOCOL_ERROR
        assert payloads(await witness.messages(1)) == [b"gone"]
        assert "c" not in box.broker.sessions


async def test_what_waits_for_expiry_is_bounded_by_the_sessions_there_are(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        for _ in range(300):
            client = await MqttClient.open(box, "c", keep=True, will=Will(topic="w", payload=b"1"))
            await client.disconnect(ReasonCode.DISCONNECT_WITH_WILL_MESSAGE)
        await away(box, "c")
        assert len(box.broker._book._expiring) < 150


# Names and keep-alive


@pytest.mark.parametrize(
    "level",
    [pytest.param(4, id="MQTT-3.1.3-6"), pytest.param(5, id="MQTT5-3.1.3-6-MQTT5-3.1.3-7-MQTT5-3.2.2-16")],
)
async def test_a_client_without_a_name_gets_one(tmp_path: Path, level: int) -> None:
    async with edge_box(tmp_path) as box:
        clients = [await MqttClient.open(box, "", level) for _ in range(2)]
        assert len(box.broker.sessions) == 2
        if level == 5:
            names = {client.connack.properties.assigned_client_identifier for client in clients}
            assert names == set(box.broker.sessions)
            named = await MqttClient.open(box, "mine", level)
            assert named.connack.properties.assigned_client_identifier is None


async def test_a_client_without_a_name_may_keep_its_session_in_5_0_mqtt5_3_1_3_6(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "", keep=True)
        name = client.connack.properties.assigned_client_identifier
        assert name
        await client.disconnect()
        assert (await MqttClient.open(box, name, keep=True)).connack.session_present


async def test_a_client_without_a_name_keeps_no_session_mqtt_3_1_3_8(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.dial(box, 4)
        assert (await client.hello("", keep=True)).reason_code is ReasonCode.CLIENT_IDENTIFIER_NOT_VALID
        assert await client.rest() == b""


async def test_the_server_says_its_keep_alive_mqtt5_3_2_2_22_mqtt5_3_1_2_22(tmp_path: Path) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(max_keep_alive="10s")) as box:
        for asked_s, told_s in ((5, None), (10, None), (11, 10), (0, 10)):
            client = await MqttClient.open(box, f"c{asked_s}", keep_alive_s=asked_s)
            assert client.connack.properties.server_keep_alive_s == told_s
            connection = box.connection(f"c{asked_s}")
            ticks = 0
            while not connection.transport.is_closing():
                connection.tick()
                ticks += 1
            assert ticks == 2 + int(1.5 * min(asked_s or 10, 10))
            assert await client.told_goodbye() is ReasonCode.KEEP_ALIVE_TIMEOUT


@pytest.mark.parametrize("level", LEVELS)
async def test_shutdown_is_said_and_sessions_are_kept_0x8b(tmp_path: Path, level: int) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", level, keep=True)
        await box.mqtt.drain()
        await box.log.drain()
        await box.mqtt.close()
        assert await client.told_goodbye() is (None if level == 4 else ReasonCode.SERVER_SHUTTING_DOWN)
        assert "c" in box.broker.sessions


async def test_a_kicked_client_is_told_0x98(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c")
        assert box.mqtt.kick("c")
        assert not box.mqtt.kick("c")
        assert await client.told_goodbye() is ReasonCode.ADMINISTRATIVE_ACTION


async def test_nothing_follows_a_disconnect_mqtt5_3_14_4_1_mqtt5_3_14_4_2(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", keep=True)
        await client.subscribe("#", qos=1)
        await box.log.drain()
        box.storage.gate.clear()
        client.put(Publish(topic=TOPIC, payload=b"1", qos=0), Disconnect())
        assert await client.rest() == b""
        box.storage.gate.set()
        await away(box, "c")
