"""Clients that mean harm, or are badly written: what they cost is bounded, and others do not notice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from ingest.broker.retained import RetainedMessage
from ingest.settings import MqttSettings
from ingest.together import Together
from tests.conftest import wait_until_async
from tests.ingest.broker_client import LEVELS, MqttClient
from tests.ingest.edge_box import Client, EdgeBox, edge_box
from wire.mqtt.clauses import LEVEL_5
from wire.mqtt.decode import MAX_FILTERS
from wire.mqtt.encode import encode_packet
from wire.mqtt.packets import ConnAck, Publish, SubAck, Subscribe, TopicSubscription, Unsubscribe
from wire.mqtt.reasons import ReasonCode

REFUSED_LINES = b"[1]\n" * 25_000  # 100 KB, answered with more than a megabyte


# What is written and not read


def test_together_those_with_the_most_go_until_the_rest_is_within_the_limit() -> None:
    held = {"a": 10, "b": 70, "c": 20, "d": 40, "e": 0}
    together = Together[str](2, held.__getitem__)
    assert list(together.excess(0, "abc", 100)) == []
    assert list(together.excess(1, "de", 100)) == ["d"]
    assert together.size_bytes == 100
    assert list(together.excess(0, "abc", 25)) == ["b", "c"]
    held["a"] = 30
    assert list(together.excess(1, "e", 5)) == [], "nobody goes who holds nothing"
    assert list(together.excess(0, "a", 25)) == ["a"]
    assert together.size_bytes == 0


async def test_answers_that_wait_for_a_commit_count_for_the_logs_limit(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client, other = await Client.connect(box.tcp_port), await Client.connect(box.tcp_port)
        await box.log.drain()
        box.storage.gate.clear()
        other.send(b'{"device": "d"}\n')
        await wait_until_async(lambda: box.tcp.counters.records)
        for _ in range(2):
            client.send(REFUSED_LINES)
        await wait_until_async(lambda: box.log.congested, describe="answers of some megabytes to be too much")
        box.storage.gate.set()
        assert await other.line() == b"OK 1\n"
        for number in range(1, 50_001):
            assert (await client.line()).startswith(b"ERR %d " % number)


async def test_lines_refused_by_a_full_disk_count_as_well(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client, other = await Client.connect(box.tcp_port), await Client.connect(box.tcp_port)
        await box.log.drain()
        box.storage.gate.clear()
        other.send(b'{"device": "d"}\n')
        await wait_until_async(lambda: box.tcp.counters.records)
        box.storage.free = 0
        await wait_until_async(lambda: box.log.full)
        client.send(b"1\n" * 100_000)
        await wait_until_async(lambda: box.log.congested, describe="answers of some megabytes to be too much")
        box.storage.free = None
        box.storage.gate.set()
        assert await client.line() == b"ERR 1 disk full\n"


async def test_answers_left_unread_are_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.listener.MAX_UNREAD_BYTES", 1 << 20)
    async with edge_box(tmp_path) as box:
        good = await Client.connect(box.tcp_port)
        for _ in range(3):
            silent = await Client.connect(box.tcp_port)
            silent.stop_reading()
            for _ in range(8):
                silent.send(REFUSED_LINES)
        await wait_until_async(lambda: box.tcp.counters.refused_connections["unread"] >= 1)
        await wait_until_async(lambda: sum(one.unread_size_bytes for one in box.tcp._all()) <= 1 << 20)
        good.send(b'{"device": "d"}\n')
        assert await good.line() == b"OK 1\n"
        assert set(box.tcp.counters.refused_connections) == {"unread"}


async def test_messages_left_unread_are_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.listener.MAX_UNREAD_BYTES", 1000)
    async with edge_box(tmp_path) as box:
        silent = await MqttClient.open(box, "silent", keep=True)
        await silent.subscribe("devices/#", qos=1)
        silent.stop_reading()
        publisher = await MqttClient.open(box, "publisher")
        for _ in range(1000):
            if box.mqtt.counters.refused_connections["unread"]:
                break
            await publisher.publish("devices/d/x", b"x" * 60_000)
        assert box.mqtt.counters.refused_connections == Counter({"unread": 1})
        assert box.broker.sessions["silent"].connection is None, "its session is kept, and what it has to get waits"


# Subscriptions


@pytest.mark.parametrize("level", LEVELS)
async def test_filters_for_which_there_is_no_room_are_refused_one_by_one(tmp_path: Path, level: int) -> None:
    async with edge_box(tmp_path) as box:
        box.broker.tree._leaves._max_nodes = 4
        client = await MqttClient.open(box, "c", level, keep=True)
        filters = ["a/b/+", "c/+", "a/b/#", "exact/filter", "+"]
        client.put(Subscribe(packet_id=7, subscriptions=tuple(TopicSubscription(filter=one, qos=1) for one in filters)))
        quota = ReasonCode.QUOTA_EXCEEDED if level == LEVEL_5 else ReasonCode.UNSPECIFIED_ERROR
        granted = ReasonCode.GRANTED_QOS_1
        suback = await client.take(SubAck)
        assert list(suback.reason_codes) == [granted, quota, granted, granted, quota]
        await client.hears_nothing()
        assert box.broker.tree.members("g", "not/+/there/at/all") == ()


async def test_texts_of_filters_are_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.broker.subscribing.MAX_FILTER_BYTES", 1_000)
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c")
        granted, quota = ReasonCode.GRANTED_QOS_1, ReasonCode.QUOTA_EXCEEDED
        assert list(await client.subscribe("a" * 600, "b" * 600, "c" * 300)) == [granted, quota, granted]
        assert list(await client.subscribe("a" * 600)) == [granted]
        await client.unsubscribe("a" * 600)
        assert list(await client.subscribe("b" * 600)) == [granted]
        await client.disconnect()
        assert box.broker.tree.size_bytes == 0


@pytest.mark.parametrize("packet", ["subscribe", "unsubscribe"])
async def test_a_packet_names_so_many_filters_and_no_more(tmp_path: Path, packet: str) -> None:
    def naming(count: int) -> Subscribe | Unsubscribe:
        if packet == "subscribe":
            return Subscribe(packet_id=1, subscriptions=(TopicSubscription(filter="a", qos=0),) * count)
        return Unsubscribe(packet_id=1, filters=("a",) * count)

    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c")
        client.put(naming(MAX_FILTERS))
        answer = await client.packet()
        assert len(answer.reason_codes) == MAX_FILTERS  # type: ignore[union-attr]
        client.put(naming(MAX_FILTERS + 1))
        assert await client.told_goodbye() is ReasonCode.QUOTA_EXCEEDED


def retain(box: EdgeBox, *topics: str) -> None:
    for topic in topics:
        box.broker.retained.set(RetainedMessage(topic=topic, payload=b"1", qos=0, timestamp_ms=box.log.now_ms()))


async def test_a_subscription_made_again_and_again_waits_once_for_what_is_retained(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        publisher, client = await MqttClient.open(box, "publisher"), await MqttClient.open(box, "c")
        await box.log.drain()
        box.storage.gate.clear()
        publisher.put(Publish(topic="devices/d/x", payload=b"1", qos=0, retain=True))
        await wait_until_async(lambda: box.mqtt.counters.records)
        for _ in range(50):
            await client.subscribe("devices/#")
        await client.subscribe("other/#")
        client.put(Unsubscribe(packet_id=9, filters=("other/#",)))
        await client.packet()
        retaining = box.broker._retaining
        waiting = [key for calls in (retaining._waiting, *retaining._in_flight) for key in calls]
        assert len(waiting) <= 2, "one for each commit that may hold it"
        assert {topic_filter for _, topic_filter in waiting} == {"devices/#"}  # type: ignore[misc]
        box.storage.gate.set()
        assert (await client.message()).topic == "devices/d/x"


async def test_walks_through_what_is_retained_are_one_for_each_filter(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        retain(box, *(f"devices/d{number}/x" for number in range(100)))
        client = await MqttClient.open(box, "c")
        connection, sender = box.connection("c"), box.broker.sender
        connection.can_take = False
        for topic_filter in ("devices/#", "+/+/x", "devices/#", "gone/#"):
            await client.subscribe(topic_filter)
        client.put(Unsubscribe(packet_id=9, filters=("gone/#",)))
        await client.packet()
        (walks,) = sender._retained_for.values()
        assert list(walks) == ["+/+/x", "devices/#"]
        connection.can_take = True
        sender.soon(box.broker.sessions["c"])
        topics = Counter(message.topic for message in await client.messages(200))
        assert set(topics.values()) == {2}
        assert not sender._retained_for


async def test_a_walk_that_finds_nothing_gives_the_loop_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Spent:
        spent = True

    monkeypatch.setattr("ingest.broker.sender.Budget", Spent)
    async with edge_box(tmp_path) as box:
        retain(box, *(f"devices/d{number}/x" for number in range(100)))
        client = await MqttClient.open(box, "c")
        box.connection("c").can_take = False
        await client.subscribe("+/+/none")
        box.connection("c").can_take = True
        session, sender = box.broker.sessions["c"], box.broker.sender
        for _ in range(20):
            sender.pump(session)
            ((walk, _),) = sender._retained_for[session].values()
            assert not walk.done
        await wait_until_async(lambda: not sender._retained_for)


# Flow


@pytest.mark.parametrize("stalled", [False, True])
async def test_a_large_chunk_leaves_others_their_turn(tmp_path: Path, stalled: bool) -> None:
    async with edge_box(tmp_path) as box:
        flood, other = await MqttClient.open(box, "flood", 4), await MqttClient.open(box, "other", 4)
        connection = box.connection("flood")
        numbers = range(1, 15_001)
        packets = [Publish(topic="devices/d/x", payload=b"%d" % n, qos=1, packet_id=n) for n in numbers]
        chunk = b"".join(encode_packet(packet, 4) for packet in packets)
        if stalled:
            box.storage.gate.clear()
        connection.data_received(chunk)  # as one read brings it
        assert 0 < box.mqtt.counters.records < 2_000
        assert connection.unread
        await other.hears_nothing()
        assert box.mqtt.counters.records < 15_000
        box.storage.gate.set()
        acks = await flood.read(4 * len(numbers))
        assert acks == b"".join(b"\x40\x02" + n.to_bytes(2, "big") for n in numbers)
        assert not box.mqtt.stashed_bytes
        await flood.hears_nothing()
        assert [int(record.value or b"") for record in await box.records("telemetry", 15_000)] == list(numbers)


async def test_a_large_chunk_and_the_end_of_what_a_device_sends(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await Client.connect(box.tcp_port)
        client.send(b'{"device": "d"}\n' * 10_000)
        client.end()
        assert (await client.rest()).endswith(b"OK 10000\n")
        assert box.tcp.counters.records == 10_000


async def test_answers_behind_a_connack_that_waits_are_bounded(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        await box.log.drain()
        box.storage.gate.clear()
        client = await MqttClient.dial(box)
        client.put(client.connect_packet("c", keep=True))
        client.send(b"\x50\x02\x00\x07" * 30_000)  # PUBRECs for what nobody sent
        await wait_until_async(lambda: box.mqtt.counters.refused_connections["overloaded"])
        box.storage.gate.set()
        assert await client.rest() == b""


async def test_a_connack_waits_until_the_session_that_it_forgets_is_gone_from_the_disk(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", keep=True)
        await client.disconnect()
        await box.log.drain()
        box.storage.gate.clear()
        client = await MqttClient.dial(box)
        client.put(client.connect_packet("c", keep=False))
        await wait_until_async(lambda: not box.broker.sessions["c"].durable)
        assert await client.silent()
        box.storage.gate.set()
        assert not (await client.take(ConnAck)).session_present


async def test_what_is_unanswered_is_counted_right_where_commits_are_cut(tmp_path: Path) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(receive_maximum=10)) as box:
        client = await MqttClient.open(box, "c")
        for _ in range(10):
            client.put(
                *(Publish(topic="devices/d/x", payload=b"x" * 250_000, qos=1, packet_id=n) for n in range(1, 11))
            )
            for number in range(1, 11):
                assert (await client.packet()).packet_id == number  # type: ignore[union-attr]
        core = box.connection("c")._core
        await wait_until_async(lambda: core._in_flight == 0)
        assert not box.connection("c")._unanswered


async def test_subscriptions_of_a_client_with_a_long_name_fit_the_smallest_journal(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        name = "c" * 1_000
        client = await MqttClient.open(box, name, keep=True)
        filters = [TopicSubscription(filter=f"f/{number}", qos=1) for number in range(5_000)]
        client.put(Subscribe(packet_id=1, subscriptions=tuple(filters)))
        assert set((await client.take(SubAck)).reason_codes) == {ReasonCode.GRANTED_QOS_1}
        await client.disconnect()
        again = await MqttClient.open(box, name, keep=False)  # they go all at once
        await again.hears_nothing()
        await box.log.drain()
        assert not box.failures
