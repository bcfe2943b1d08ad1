"""Where two things meet: what is under way when a session, a subscription or a connection changes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from commitlog.reader import FileLogReader
from ingest.broker import catch_up, fan_out
from ingest.broker.queue import QueueLimits
from ingest.broker.recent import Recent
from ingest.broker.rows import QUEUES, subscription_row
from ingest.broker.session import MqttSession
from ingest.broker.state import RECEIVED, SESSIONS, received_key, restore_sessions
from ingest.broker.subscriptions import Subscription
from ingest.settings import MqttSettings
from tests.conftest import wait_until_async
from tests.ingest.broker_client import MqttClient
from tests.ingest.edge_box import FAST_LOG, EdgeBox, edge_box
from tests.ingest.test_broker_sessions import vanish
from tests.ingest.test_broker_slow import LARGER_LOG, flood, numbers
from wire.mqtt.packets import PubAck, Publish, PubRel, SubAck, TopicSubscription, Will

TOPIC = "devices/d/x"


class GatedReader:
    """Reads the log when the test lets it."""

    def __init__(self, reader: FileLogReader, gate: threading.Event) -> None:
        self._reader = reader
        self._gate = gate

    def read(self, *args: Any, **options: Any) -> Any:
        self._gate.wait(10)
        return self._reader.read(*args, **options)

    def close(self) -> None:
        self._reader.close()


def gate_reads(box: EdgeBox) -> threading.Event:
    """Have subscribers' slices of the log wait for what is returned; nothing is served from memory."""
    gate = threading.Event()
    gate.set()
    box.broker.fan_out.recent = Recent(0)
    reader = GatedReader(FileLogReader(box.data_dir), gate)
    box.broker._catch_up._open_reader = lambda: reader  # type: ignore[assignment,return-value]
    return gate


async def readable(box: EdgeBox, count: int) -> None:
    await box.records("telemetry", count)


async def test_a_slice_that_was_asked_for_on_an_earlier_connection_is_nobodys(tmp_path: Path) -> None:
    """It begins behind what the new connection is sent again: that is not gone from the log."""
    async with edge_box(tmp_path, log_settings=LARGER_LOG) as box:
        gate = gate_reads(box)
        client = await MqttClient.open(box, "c", 4, keep=True)
        await client.subscribe("#", qos=1)
        await vanish(box, client, "c")
        await flood(box, 3_000, 100, chunk=100)
        await readable(box, 3_000)
        client = await MqttClient.open(box, "c", 4, keep=True)
        reading = box.broker._catch_up
        assert numbers(await client.messages(1, ack=False)) == [0]
        await wait_until_async(lambda: not reading._reading, describe="the window is full")
        sent = box.broker.sessions["c"].queue.in_flight
        gate.clear()
        # Acknowledge all but the first, until a slice is asked for that begins behind it.
        for packet_id in range(2, sent + 1):
            client.put(PubAck(packet_id=packet_id))
        await client.messages(sent - 1, ack=False)
        await wait_until_async(lambda: bool(reading._reading), describe="a slice is asked for")
        await vanish(box, client, "c")
        client = await MqttClient.open(box, "c", 4, keep=True)
        await wait_until_async(lambda: bool(reading._reading), describe="the first message is asked for again")
        gate.set()
        assert numbers(await client.messages(1)) == [0]
        assert box.broker.counters.lost == 0


async def test_what_is_handed_over_is_read_though_it_stands_before_what_was_read(tmp_path: Path) -> None:
    async with edge_box(tmp_path, log_settings=LARGER_LOG) as box:
        gate_reads(box)
        leaving = await MqttClient.open(box, "leaving", keep=True, receive_maximum=2)
        await leaving.subscribe("$share/g/#", qos=1)
        await vanish(box, leaving, "leaving")
        await flood(box, 20, 100, chunk=10)
        staying = await MqttClient.open(box, "staying", keep=True, receive_maximum=1)
        await staying.subscribe("$share/g/#", "#", qos=1)
        await flood(box, 20, 100, first=20, chunk=10)
        await readable(box, 40)
        await staying.message(ack=False)
        box.broker.ending.end_session(box.broker.sessions["leaving"])  # twenty old ones behind some of forty new ones
        await flood(box, 1, 100, first=40, chunk=1)
        session = box.broker.sessions["staying"]
        await vanish(box, staying, "staying")
        staying = await MqttClient.open(box, "staying", keep=True)
        found = numbers(await staying.messages(session.queue.count))
        assert set(found) == set(range(41))
        assert box.broker.counters.lost == 0


async def test_clients_that_take_nothing_keep_nobody_from_catching_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catch_up, "MAX_READING", 2)
    monkeypatch.setattr(catch_up, "IDLE_S", 0.01)
    async with edge_box(tmp_path, log_settings=LARGER_LOG) as box:
        gate_reads(box)
        names = [f"c{number}" for number in range(5)]
        for name in names:
            client = await MqttClient.open(box, name, keep=True)
            await client.subscribe("#", qos=1)
            await vanish(box, client, name)
        await flood(box, 100, 100, chunk=100)
        await readable(box, 100)
        stuck = [await MqttClient.open(box, name, keep=True, receive_maximum=1) for name in names[:3]]
        for client in stuck:
            await client.message(ack=False)
        others = [await MqttClient.open(box, name, keep=True) for name in names[3:]]
        for client in others:
            assert numbers(await client.messages(100)) == list(range(100))
        stuck[0].put(PubAck(packet_id=1))
        assert numbers(await stuck[0].messages(99)) == list(range(1, 100))


async def test_who_has_no_use_for_a_free_place_leaves_it_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catch_up, "MAX_READING", 1)
    async with edge_box(tmp_path, log_settings=LARGER_LOG) as box:
        gate = gate_reads(box)
        names = ["first", "second", "third"]
        for name in names:
            client = await MqttClient.open(box, name, keep=True)
            await client.subscribe("#", qos=1)
            await vanish(box, client, name)
        await flood(box, 10, 100, chunk=10)
        await readable(box, 10)
        gate.clear()
        first, _, third = [await MqttClient.open(box, name, keep=True) for name in names]
        await wait_until_async(lambda: len(box.broker._catch_up._waiting) == 2)
        box.connection("second").can_take = False
        gate.set()
        assert numbers(await first.messages(10)) == list(range(10))
        assert numbers(await third.messages(10)) == list(range(10))


async def test_retained_messages_of_one_commit_share_what_room_there_is(tmp_path: Path) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(max_retained_messages=2)) as box:
        other = await MqttClient.open(box, "pub", 4)
        await other.publish("a", b"1", retain=True)
        other.put(*[Publish(topic=one, payload=b"1", qos=1, packet_id=9, retain=True) for one in ("b", "c", "d", "b")])
        for _ in range(4):
            await other.take(PubAck)
        assert box.broker._retaining.refused == 2
        assert not box.broker._retaining._in_flight
        client = await MqttClient.open(box, "c", 4)
        await client.subscribe("#", qos=1)
        assert sorted(message.topic for message in await client.messages(2)) == ["a", "b"]
        await box.log.drain()
        assert sorted(box.log.rows_now("mqtt.retained")) == ["a", "b"]


async def test_a_message_that_replaces_one_that_expires_meanwhile_stays_retained(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        other = await MqttClient.open(box, "pub")
        await other.publish("r", b"old", retain=True, message_expiry_interval_s=10)
        await box.log.drain()
        box.storage.gate.clear()
        other.put(Publish(topic="r", payload=b"new", qos=1, packet_id=9, retain=True))
        await wait_until_async(lambda: bool(box.broker._retaining._in_flight), describe="it is being committed")
        box.pass_time(11)
        box.storage.gate.set()
        await other.take(PubAck)
        await box.log.drain()
        assert box.log.rows_now("mqtt.retained")["r"]["payload"] == b"new"
        assert len(box.broker.retained) == 1


async def test_qos_0_comes_in_the_version_that_its_receiver_has_by_now(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", 5, keep=True)
        await client.subscribe("#", qos=0)
        other = await MqttClient.open(box, "other", 4)
        await box.log.drain()
        box.storage.gate.clear()
        other.put(Publish(topic="hold", payload=b"1", qos=1, packet_id=1))  # a commit that is under way
        await wait_until_async(lambda: box.log._commits.in_flight, describe="a commit is under way")
        other.put(Publish(topic=TOPIC, payload=b"x", qos=1, packet_id=2))
        await wait_until_async(lambda: box.mqtt.counters.records == 2)
        await vanish(box, client, "c")
        client = await MqttClient.dial(box, 4)
        client.put(client.connect_packet("c", keep=True))
        await wait_until_async(lambda: box.broker.sessions["c"].connection is not None)
        box.storage.gate.set()
        await client.packet()
        await other.take(PubAck)
        await other.take(PubAck)
        assert (await client.message()).payload == b"x"


async def test_what_a_client_publishes_behind_its_subscription_comes_to_it(tmp_path: Path) -> None:
    """In one chunk, and the topic is known already."""
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", 4)
        await client.publish("t", b"before")
        subscribe = client.subscribe_packet
        publish = Publish(topic="t", payload=b"behind", qos=1, packet_id=77)
        client.put(publish, subscribe(TopicSubscription(filter="t", qos=1)), publish)
        found = [await client.packet() for _ in range(4)]
        assert [type(one) for one in found if not isinstance(one, (PubAck, SubAck))] == [Publish]


def test_nothing_of_a_session_whose_queue_is_damaged_becomes_part_of_the_next_one() -> None:
    subscription = Subscription(client_id="c", filter="old/#", qos=1)
    _, key, value = subscription_row(subscription)
    tables: dict[str, dict[str, Any]] = {
        SESSIONS: {"c": [4, 3600, 1, None, None]},
        "mqtt.subscriptions": {key: value},
        RECEIVED: {received_key("c", 7): 1},
        QUEUES: {f"c\0{0:016x}": b"rubbish"},
    }
    restored = restore_sessions(lambda table: tables.get(table, {}), QueueLimits())
    assert not restored.sessions
    for table, row_key, _ in restored.removals:
        del tables[table][row_key]
    assert not any(tables.values())


async def test_who_waits_longest_for_its_pubrel_is_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit takes the rows of a few sessions only; those that come later must not overtake for ever."""
    monkeypatch.setattr(fan_out, "TOUCHED_BYTES", 1)  # one session a commit
    async with edge_box(tmp_path) as box:
        clients = {}
        for name in ("first", "second", "third"):
            clients[name] = await MqttClient.open(box, name, 4, keep=True)
            await clients[name].subscribe("#", qos=2)
        other = await MqttClient.open(box, "other", 4)
        await other.publish(TOPIC, b"1", 2)
        found = {name: await client.message(ack=False) for name, client in clients.items()}
        await box.log.drain()
        box.storage.gate.clear()
        other.put(Publish(topic="$x", payload=b"1", qos=1, packet_id=9))
        await wait_until_async(lambda: box.log._commits.in_flight, describe="a commit is under way")
        waiting = box.broker.fan_out._touched
        for name, client in clients.items():
            client.answer(found[name])
            await wait_until_async(partial(waiting.__contains__, box.broker.sessions[name]))
        order: list[str] = []
        released = box.broker.fan_out._released

        def note(session: MqttSession, packet_ids: Sequence[int]) -> None:
            order.append(session.client_id)
            released(session, packet_ids)

        box.broker.fan_out._released = note
        box.storage.gate.set()
        for client in clients.values():
            await client.take(PubRel)
        assert order == ["first", "second", "third"]


async def test_the_wills_of_all_who_were_connected_fit_the_journal(tmp_path: Path) -> None:
    """More than one commit holds: a box whose clients all had a large will comes back nevertheless."""
    seldom = FAST_LOG.model_copy(update={"journal_size_bytes": 64 << 20, "checkpoint_bytes": 16 << 20})
    async with edge_box(tmp_path / "before", log_settings=seldom) as box:  # no checkpoint while it is copied
        for number in range(90):
            will = Will(topic=f"will/{number}", payload=bytes(60_000), qos=1)
            await MqttClient.open(box, f"c{number}", 4, will=will)
        await box.log.drain()
        after = box.kill(tmp_path / "after")
    async with edge_box(after) as box:
        box.broker.tick()
        await box.records("mqtt", 90)
        assert not box.failures


async def test_sweeping_long_topics_fits_the_journal(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        other = await MqttClient.open(box, "pub")
        for number in range(150):
            await other.publish(f"{number}/" + "x" * 30_000, retain=True, message_expiry_interval_s=10)
        box.pass_time(11)
        await other.publish("after")
        await box.log.drain()
        assert not box.failures
        assert not box.log.rows_now("mqtt.retained")


async def test_what_messages_were_published_as_counts_in_what_is_kept_of_them(tmp_path: Path) -> None:
    """Each has a user property of its own, which is larger than its payload."""
    async with edge_box(tmp_path) as box:
        box.broker.fan_out.recent = recent = Recent(100_000)
        slow = await MqttClient.open(box, "slow", receive_maximum=1)
        await slow.subscribe("#", qos=1)
        other = await MqttClient.open(box, "other")
        for number in range(50):
            await other.publish(TOPIC, b"1", user=(("trace", f"{number:04}" * 500),))
        assert 5 < len(recent) < 20
        for number in range(50):
            message = await slow.message()
            assert message.properties.user_properties == (("trace", f"{number:04}" * 500),)
        for _ in range(50):
            await other.publish(TOPIC, b"1")
        assert len(recent) > 50
        recent.clear()
        assert recent.size_bytes == 0
