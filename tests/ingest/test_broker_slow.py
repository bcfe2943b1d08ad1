"""Subscribers that read slowly or not at all: bounded memory, others undisturbed, everything in order at the end."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from ingest.broker.recent import Recent
from ingest.settings import MqttSettings
from tests.conftest import wait_until_async
from tests.ingest.broker_client import LEVELS, MqttClient
from tests.ingest.edge_box import FAST_LOG, EdgeBox, edge_box
from tests.ingest.test_broker_sessions import vanish
from wire.mqtt.encode import encode_publish
from wire.mqtt.packets import PubAck, Publish

TOPIC = "devices/d/x"
LARGER_LOG = FAST_LOG.model_copy(update={"pending_bytes": 4 << 20, "journal_size_bytes": 32 << 20})
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES


async def flood(box: EdgeBox, count: int, payload_bytes: int, *, first: int = 0, chunk: int = 500) -> None:
    """Publish numbered messages with QoS 1, and wait until every one of them is acknowledged."""
    publisher = await MqttClient.open(box, "flood", 4)
    filler = b"x" * (payload_bytes - 10)
    for start in range(first, first + count, chunk):
        publisher.send(
            b"".join(
                encode_publish(
                    Publish(topic=TOPIC, payload=b"%09d " % number + filler, qos=1, packet_id=number % chunk + 1)
                )
                for number in range(start, start + chunk)
            )
        )
        assert len(await publisher.read(4 * chunk)) == 4 * chunk
    await publisher.disconnect()


def numbers(messages: list[Publish]) -> list[int]:
    return [int(message.payload[:9]) for message in messages]


@pytest.mark.parametrize("keep", [False, True], ids=["clean", "kept"])
async def test_a_client_that_does_not_read_costs_places_only_and_catches_up_in_order(
    tmp_path: Path, keep: bool
) -> None:
    count, stretch = 50_000, 10_000
    async with edge_box(tmp_path, log_settings=LARGER_LOG) as box:
        box.broker.fan_out.recent = Recent(2 << 20)
        slow = await MqttClient.open(box, "slow", keep=keep)
        await slow.subscribe("#", qos=1)
        slow.stop_reading()
        quick = await MqttClient.open(box, "quick")
        await quick.subscribe("devices/+/x", qos=1)
        before = 0
        for first in range(0, count, stretch):
            _, found = await asyncio.gather(flood(box, stretch, 800, first=first), quick.messages(stretch))
            assert numbers(found) == list(range(first, first + stretch))
            if first == stretch:  # what is kept in memory is full, and Python has what it takes
                before = resident_bytes()
        grown_bytes = resident_bytes() - before
        assert grown_bytes < 12 << 20, f"{grown_bytes >> 20} MB for 24 MB that were not read"
        assert box.broker.sessions["slow"].queue.size_bytes < 4 * count
        slow.read_on()
        assert numbers(await slow.messages(count)) == list(range(count))
        await slow.hears_nothing()
        assert not box.broker.sessions["slow"].queue.count


@pytest.mark.parametrize("level", LEVELS)
async def test_a_client_that_was_away_catches_up_from_the_log_while_more_comes(tmp_path: Path, level: int) -> None:
    async with edge_box(tmp_path, log_settings=LARGER_LOG) as box:
        client = await MqttClient.open(box, "c", level, keep=True)
        await client.subscribe("#", qos=1)
        await vanish(box, client, "c")
        await flood(box, 10_000, 100)
        client = await MqttClient.open(box, "c", level, keep=True)
        await flood(box, 5_000, 100, first=10_000)
        assert numbers(await client.messages(15_000)) == list(range(15_000))
        await flood(box, 500, 100, first=15_000)
        assert numbers(await client.messages(500)) == list(range(15_000, 15_500))
        assert box.broker.sessions["c"].keeps_up


async def test_what_is_acknowledged_while_catching_up_does_not_come_again(tmp_path: Path) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(max_inflight=50), log_settings=LARGER_LOG) as box:
        client = await MqttClient.open(box, "c", keep=True)
        await client.subscribe("#", qos=1)
        await vanish(box, client, "c")
        await flood(box, 5_000, 100)
        seen: list[int] = []
        while len(seen) < 4_500:
            client = await MqttClient.open(box, "c", keep=True)
            found = await client.messages(500)
            # An acknowledgement may be lost with its connection: what was sent beyond comes again, with DUP.
            fresh = [message for message in found if int(message.payload[:9]) not in set(seen)]
            assert all(message.dup for message in found if message not in fresh)
            seen += numbers(fresh)
            await vanish(box, client, "c")
        assert seen == list(range(len(seen)))


async def test_many_that_were_away_catch_up_together(tmp_path: Path) -> None:
    """More of them than may hold slices of the log at once."""
    async with edge_box(tmp_path, log_settings=LARGER_LOG) as box:
        names = [f"c{number}" for number in range(40)]
        for name in names:
            client = await MqttClient.open(box, name, 4, keep=True)
            await client.subscribe("#", qos=1)
            await vanish(box, client, name)
        await flood(box, 1_000, 100)
        clients = [await MqttClient.open(box, name, 4, keep=True) for name in names]
        for client in clients:
            assert numbers(await client.messages(1_000)) == list(range(1_000))
        assert not box.broker._catch_up._cursors


async def test_qos_0_for_who_does_not_read_is_dropped_and_counted(tmp_path: Path) -> None:
    async with edge_box(tmp_path, log_settings=LARGER_LOG) as box:
        slow = await MqttClient.open(box, "slow")
        await slow.subscribe("#", qos=0)
        slow.stop_reading()
        await flood(box, 10_000, 2_000)
        dropped = box.broker.counters.dropped_qos_0
        assert dropped > 0
        slow.read_on()
        found = numbers(await slow.messages(10_000 - dropped))
        assert found == sorted(found)
        await wait_until_async(lambda: box.connection("slow").can_take)
        await flood(box, 500, 100)
        assert len(await slow.messages(500)) == 500


async def test_a_busy_subscriber_acknowledges_and_publishes_meanwhile(tmp_path: Path) -> None:
    async with edge_box(tmp_path, log_settings=LARGER_LOG) as box:
        client = await MqttClient.open(box, "c", keep=True, receive_maximum=5)
        await client.subscribe("devices/#", qos=1)
        await vanish(box, client, "c")
        await flood(box, 500, 100)
        client = await MqttClient.open(box, "c", keep=True, receive_maximum=5)
        acked = 0
        seen: list[int] = []
        for number in range(500):
            client.put(Publish(topic="own", payload=b"1", qos=1, packet_id=number + 1))
        while acked < 500 or len(seen) < 500:
            packet = await client.packet()
            if isinstance(packet, PubAck):
                acked += 1
                continue
            assert isinstance(packet, Publish)
            client.answer(packet)
            seen += numbers([packet])
        assert seen == list(range(500))
