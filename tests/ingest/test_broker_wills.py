"""Wills: published for who vanishes, after their delay, and for nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingest.settings import MqttSettings
from tests.conftest import wait_until_async
from tests.ingest.broker_client import LEVELS, MqttClient, payloads
from tests.ingest.edge_box import EdgeBox, edge_box
from tests.ingest.test_broker_sessions import away, vanish
from wire.mqtt.packets import Publish, Will
from wire.mqtt.properties import WillProperties
from wire.mqtt.reasons import ReasonCode


def will(delay_s: int | None = None, payload: bytes = b"gone", **properties: object) -> Will:
    given = WillProperties(will_delay_interval_s=delay_s, **properties)  # type: ignore[arg-type]
    return Will(topic="will", payload=payload, qos=1, properties=given)


async def watch(box: EdgeBox) -> MqttClient:
    witness = await MqttClient.open(box, "witness")
    await witness.subscribe("will", qos=2, retain_as_published=True)
    return witness


@pytest.mark.parametrize("retain", [False, True], ids=["MQTT-3.1.2-16-MQTT5-3.1.2-14", "MQTT-3.1.2-17-MQTT5-3.1.2-15"])
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize(
    "level", [pytest.param(4, id="MQTT-3.1.2-8"), pytest.param(5, id="MQTT5-3.1.2-8-MQTT5-3.1.2-7")]
)
async def test_a_will_is_published_as_it_says(tmp_path: Path, level: int, qos: int, retain: bool) -> None:
    async with edge_box(tmp_path) as box:
        witness = await watch(box)
        client = await MqttClient.open(
            box, "c", level, will=Will(topic="will", payload=b"gone", qos=qos, retain=retain)
        )
        client.abort()
        message = await witness.message()
        assert (message.payload, message.qos, message.retain) == (b"gone", qos, retain)
        later = await MqttClient.open(box, "later")
        await later.subscribe("will")
        if retain:
            assert payloads(await later.messages(1)) == [b"gone"]
        await later.hears_nothing()


@pytest.mark.parametrize(
    "level",
    [
        pytest.param(4, id="MQTT-3.1.2-10-MQTT-3.14.4-3-MQTT-3.1.2-12"),
        pytest.param(5, id="MQTT5-3.1.2-10-MQTT5-3.14.4-3"),
    ],
)
async def test_who_says_goodbye_has_no_will(tmp_path: Path, level: int) -> None:
    async with edge_box(tmp_path) as box:
        witness = await watch(box)
        client = await MqttClient.open(box, "c", level, will=will() if level == 5 else Will(topic="will", payload=b"1"))
        await client.disconnect()
        await away(box, "c")
        assert not len(box.broker.wills)
        client = await MqttClient.open(box, "c", level)
        await vanish(box, client, "c")  # without a will this time
        await witness.hears_nothing()
        await wait_until_async(lambda: not box.log.rows_now("mqtt.wills"))


async def test_goodbye_with_will_publishes_it_0x04(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        witness = await watch(box)
        client = await MqttClient.open(box, "c", will=will())
        await client.disconnect(ReasonCode.DISCONNECT_WITH_WILL_MESSAGE)
        assert payloads(await witness.messages(1)) == [b"gone"]
        await witness.hears_nothing()


@pytest.mark.parametrize("level", [pytest.param(4, id="MQTT-3.1.2-8"), pytest.param(5, id="MQTT5-3.1.2-8")])
@pytest.mark.parametrize("how", ["keep-alive", "garbage", "second connect", "kicked"])
async def test_whoever_ends_the_connection_the_will_is_published_once(tmp_path: Path, how: str, level: int) -> None:
    async with edge_box(tmp_path) as box:
        witness = await watch(box)
        client = await MqttClient.open(box, "c", level, keep_alive_s=1, will=Will(topic="will", payload=b"gone", qos=1))
        match how:
            case "keep-alive":
                for _ in range(4):
                    box.connection("c").tick()
                    if "c" not in box.broker.sessions:
                        break
            case "garbage":
                client.send(b"\xff" * 10)
            case "second connect":
                client.put(client.connect_packet("c"))
            case "kicked":
                box.mqtt.kick("c")
        assert payloads(await witness.messages(1)) == [b"gone"]
        await away(box, "c")
        await witness.hears_nothing()


async def test_a_will_waits_for_its_delay(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        witness = await watch(box)
        client = await MqttClient.open(box, "c", keep=True, will=will(30))
        await vanish(box, client, "c")
        box.pass_time(29)
        await witness.hears_nothing()
        box.pass_time(2)
        assert payloads(await witness.messages(1)) == [b"gone"]
        box.pass_time(100)
        await witness.hears_nothing()


async def test_the_session_resumed_within_the_delay_has_no_will_mqtt5_3_1_3_9(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        witness = await watch(box)
        client = await MqttClient.open(box, "c", keep=True, will=will(30))
        await vanish(box, client, "c")
        box.pass_time(29)
        await MqttClient.open(box, "c", keep=True)
        box.pass_time(100)
        await witness.hears_nothing()


@pytest.mark.parametrize("how", ["expires", "clean start", "never kept"])
async def test_the_end_of_the_session_comes_before_the_delay_mqtt5_3_1_2_8(tmp_path: Path, how: str) -> None:
    async with edge_box(tmp_path) as box:
        witness = await watch(box)
        expiry_s = 0 if how == "never kept" else 10
        client = await MqttClient.open(box, "c", session_expiry_interval_s=expiry_s, will=will(1000))
        await vanish(box, client, "c")
        if how == "expires":
            await witness.hears_nothing()
            box.pass_time(11)
        elif how == "clean start":
            await MqttClient.open(box, "c", will=will(payload=b"new"))
        assert payloads(await witness.messages(1)) == [b"gone"]
        await witness.hears_nothing()


@pytest.mark.parametrize("delay_s", [None, 30], ids=["at-once", "resumed-MQTT5-3.1.3-9"])
async def test_taken_over_mqtt5_3_1_4_3(tmp_path: Path, delay_s: int | None) -> None:
    async with edge_box(tmp_path) as box:
        witness = await watch(box)
        await MqttClient.open(box, "c", keep=True, will=will(delay_s))
        await MqttClient.open(box, "c", keep=True)
        if delay_s is None:
            assert payloads(await witness.messages(1)) == [b"gone"]
        box.pass_time(100)
        await witness.hears_nothing()


async def test_properties_of_a_will_are_those_of_its_message_mqtt5_3_1_3_10(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        witness = await watch(box)
        user = (("b", "1"), ("a", "2"), ("b", "3"))
        given = will(
            content_type="text", response_topic="r", correlation_data=b"\0", user_properties=user,
            payload_format_indicator=True, message_expiry_interval_s=77,
        )  # fmt: skip
        client = await MqttClient.open(box, "c", will=given)
        client.abort()
        found = (await witness.message()).properties
        assert (found.content_type, found.response_topic, found.correlation_data) == ("text", "r", b"\0")
        assert (found.user_properties, found.payload_format_indicator) == (user, True)
        assert found.message_expiry_interval_s == 77


@pytest.mark.parametrize("delay_s", [None, 30])
async def test_a_will_that_is_due_while_the_log_is_behind_comes_when_it_has_caught_up(
    tmp_path: Path, delay_s: int | None
) -> None:
    async with edge_box(tmp_path) as box:
        witness = await watch(box)
        client = await MqttClient.open(box, "c", keep=True, will=will(delay_s))
        flood = await MqttClient.open(box, "flood", 4)
        if delay_s is not None:
            await vanish(box, client, "c")
        await box.log.drain()
        box.storage.gate.clear()
        for number in range(1, 60):
            flood.put(Publish(topic="t", payload=b"x" * 60_000, qos=1, packet_id=number))
        await wait_until_async(lambda: box.log.congested)
        if delay_s is None:
            await vanish(box, client, "c")
        box.pass_time(31)
        box.pass_time(1)
        await witness.silent()
        box.storage.gate.set()
        assert payloads(await witness.messages(1)) == [b"gone"]
        await witness.hears_nothing()


@pytest.mark.parametrize("level", LEVELS)
async def test_a_will_that_may_not_be_published_refuses_the_connect(tmp_path: Path, level: int) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(refuse_publish=["will"])) as box:
        client = await MqttClient.dial(box, level)
        answer = await client.hello("c", will=Will(topic="will", payload=b"1"))
        assert answer.reason_code is ReasonCode.NOT_AUTHORIZED
        assert await client.rest() == b""
        assert not box.broker.sessions
