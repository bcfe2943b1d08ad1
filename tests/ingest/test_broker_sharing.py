"""Shared subscriptions (5.0, 4.8.2): each message goes to one member of a group."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import wait_until_async
from tests.ingest.broker_client import MqttClient, payloads
from tests.ingest.edge_box import edge_box
from tests.ingest.test_broker_sessions import vanish
from wire.mqtt.packets import PubAck, PubComp, Publish, PubRec, PubRel
from wire.mqtt.reasons import ReasonCode

TOPIC = "devices/d/x"


@pytest.mark.parametrize("keep", [False, True], ids=["clean", "kept"])
async def test_members_take_turns_and_each_message_goes_to_one(tmp_path: Path, keep: bool) -> None:
    async with edge_box(tmp_path) as box:
        members = [await MqttClient.open(box, f"m{number}", keep=keep) for number in range(3)]
        for member in members:
            await member.subscribe("$share/g/devices/#", qos=1)
        other = await MqttClient.open(box, "other")
        own = await MqttClient.open(box, "own")
        await own.subscribe("$share/h/#", "#", qos=1)  # another group, and a subscription of its own
        for number in range(30):
            await other.publish(TOPIC, b"%d" % number)
        heard = [payloads(await member.messages(10)) for member in members]
        for member in members:
            await member.hears_nothing()
        assert sorted(int(one) for ones in heard for one in ones) == list(range(30))
        assert all(sorted(map(int, ones)) == list(map(int, ones)) for ones in heard)
        assert Counter(payloads(await own.messages(60))) == Counter({b"%d" % number: 2 for number in range(30)})


async def test_a_member_that_is_away_is_passed_by(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        here = await MqttClient.open(box, "here", keep=True)
        gone = await MqttClient.open(box, "gone", keep=True)
        for member in (here, gone):
            await member.subscribe("$share/g/#", qos=1)
        await vanish(box, gone, "gone")
        other = await MqttClient.open(box, "other")
        for number in range(10):
            await other.publish(TOPIC, b"%d" % number)
        assert len(await here.messages(10)) == 10
        await vanish(box, here, "here")
        for number in range(10):  # nobody is here: they wait for whoever comes
            await other.publish(TOPIC, b"%d" % number)
        here = await MqttClient.open(box, "here", keep=True)
        gone = await MqttClient.open(box, "gone", keep=True)
        assert len(await here.messages(5)) == len(await gone.messages(5)) == 5


async def test_a_full_window_is_passed_by(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        slow = await MqttClient.open(box, "slow", receive_maximum=2)
        fast = await MqttClient.open(box, "fast")
        for member in (slow, fast):
            await member.subscribe("$share/g/#", qos=1)
        other = await MqttClient.open(box, "other")
        for number in range(20):
            await other.publish(TOPIC, b"%d" % number)
        assert len(await slow.messages(2, ack=False)) == 2
        await fast.messages(17)
        await fast.hears_nothing()
        await wait_until_async(lambda: box.broker.sessions["slow"].queue.count == 3)


@pytest.mark.parametrize("keep", [False, True], ids=["clean", "kept"])
async def test_what_a_member_leaves_unacknowledged_goes_to_another(tmp_path: Path, keep: bool) -> None:
    async with edge_box(tmp_path) as box:
        leaving = await MqttClient.open(box, "leaving", keep=keep, receive_maximum=2)
        await leaving.subscribe("$share/g/#", qos=1, identifier=7)
        other = await MqttClient.open(box, "other")
        for number in range(5):
            await other.publish(TOPIC, b"%d" % number)
        seen = await leaving.messages(2, ack=False)
        assert [message.properties.subscription_identifiers for message in seen] == [(7,), (7,)]
        leaving.put(PubAck(packet_id=seen[0].packet_id or 0))
        await leaving.messages(1, ack=False)
        staying = await MqttClient.open(box, "staying")
        await staying.subscribe("$share/g/#", qos=1, identifier=9)
        await vanish(box, leaving, "leaving")
        if keep:
            await staying.hears_nothing()  # it may come back
            box.pass_time(3601)
        found = await staying.messages(4)
        assert sorted(payloads(found)) == [b"1", b"2", b"3", b"4"]
        assert {message.properties.subscription_identifiers for message in found} == {(9,)}


async def test_what_was_chosen_for_a_member_that_leaves_before_the_commit_goes_to_another(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        leaving = await MqttClient.open(box, "leaving")
        await leaving.subscribe("$share/g/#", qos=1)
        staying = await MqttClient.open(box, "staying", keep=True)
        await staying.subscribe("$share/g/#", qos=1)
        other = await MqttClient.open(box, "other", 4)
        await box.log.drain()
        box.storage.gate.clear()
        for number in range(1, 5):
            other.put(Publish(topic=TOPIC, payload=b"%d" % number, qos=1, packet_id=number))
        await wait_until_async(lambda: box.mqtt.counters.records == 4)
        await vanish(box, leaving, "leaving")
        box.storage.gate.set()
        assert sorted(payloads(await staying.messages(4))) == [b"1", b"2", b"3", b"4"]


async def test_qos_2_stays_with_its_member_mqtt5_4_8_2_4_mqtt5_4_8_2_5(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        one = await MqttClient.open(box, "one", keep=True, receive_maximum=1)
        await one.subscribe("$share/g/#", qos=2)
        other = await MqttClient.open(box, "other")
        for number in range(3):
            await other.publish(TOPIC, b"%d" % number, 2)
        first = await one.message(ack=False)
        two = await MqttClient.open(box, "two")
        await two.subscribe("$share/g/#", qos=2)
        await vanish(box, one, "one")
        await two.hears_nothing()
        one = await MqttClient.open(box, "one", keep=True, receive_maximum=1)
        again = await one.message(ack=False)
        assert (again.payload, again.dup) == (first.payload, True)
        await vanish(box, one, "one")
        box.pass_time(3601)
        found = await two.messages(2)  # what was never sent to anybody; the first one is nobody's any more
        assert sorted(payloads(found)) == [b"1", b"2"]
        for _ in range(2):
            two.put(PubComp(packet_id=(await two.take(PubRel)).packet_id))
        await two.hears_nothing()


async def test_a_refused_message_goes_to_nobody_else_mqtt5_4_8_2_6(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        one = await MqttClient.open(box, "one")
        await one.subscribe("$share/g/#", qos=2)
        other = await MqttClient.open(box, "other")
        await other.publish(TOPIC, b"1", 1)
        await other.publish(TOPIC, b"2", 2)
        first, second = await one.messages(2, ack=False)
        two = await MqttClient.open(box, "two")
        await two.subscribe("$share/g/#", qos=2)
        one.put(PubAck(packet_id=first.packet_id or 0, reason_code=ReasonCode.QUOTA_EXCEEDED))
        one.put(PubRec(packet_id=second.packet_id or 0, reason_code=ReasonCode.UNSPECIFIED_ERROR))
        await one.disconnect()
        await two.hears_nothing()


async def test_what_is_handed_over_comes_with_the_qos_of_who_gets_it_mqtt5_4_8_2_3(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        leaving = await MqttClient.open(box, "leaving", keep=True, receive_maximum=1)
        await leaving.subscribe("$share/g/#", qos=2)
        other = await MqttClient.open(box, "other")
        for number in range(3):
            await other.publish(TOPIC, b"%d" % number, 2)
        await leaving.message(ack=False)
        without = await MqttClient.open(box, "without")  # has no queue to put anything into
        await without.subscribe("$share/g/#", qos=0)
        staying = await MqttClient.open(box, "staying")
        await staying.subscribe("$share/g/#", qos=1)
        await vanish(box, leaving, "leaving")
        box.pass_time(3601)
        assert [(m.payload, m.qos) for m in await staying.messages(2)] == [(b"1", 1), (b"2", 1)]
        await without.hears_nothing()


async def test_in_3_1_1_a_share_is_a_filter_like_any_other(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        clients = [await MqttClient.open(box, f"c{number}", 4) for number in range(2)]
        for client in clients:
            await client.subscribe("$share/g/t")
        other = await MqttClient.open(box, "other", 4)
        await other.publish("t")
        await other.publish("$share/g/t", b"literal")
        for client in clients:
            assert payloads(await client.messages(1)) == [b"literal"]
