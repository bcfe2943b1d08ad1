"""What many connections may hold together: open files, commits, wills, unfinished packets, remembered topics."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from ingest.limits import Admission, FileShare, files_wanted, share_files
from ingest.settings import MqttSettings, RouteSettings
from tests.conftest import wait_until_async
from tests.ingest.edge_box import FAST_LOG, Client, EdgeBox, edge_box
from wire.mqtt.encode import encode_connect, encode_publish
from wire.mqtt.packets import Connect, Publish, Will


def publish(payload: bytes, packet_id: int | None = None, topic: str = "devices/d/x") -> bytes:
    qos = 0 if packet_id is None else 1
    return encode_publish(Publish(topic=topic, payload=payload, qos=qos, packet_id=packet_id))


async def congest(box: EdgeBox) -> Client:
    """A client that has filled what the log buffers, behind a sync that hangs."""
    client = await Client.mqtt(box.mqtt_port, "flood")
    await box.log.drain()
    box.storage.gate.clear()
    for number in range(1, 60):
        client.send(publish(b"x" * 60_000, number))
    await wait_until_async(lambda: box.log.congested and box.mqtt.stashed_bytes > 0)
    return client


# Open files


def test_files_are_kept_for_the_log_whatever_the_limit() -> None:
    for files in (1024, 4096, 20_000, 1 << 20):
        share = share_files(files, log_files=1536, listeners=2)
        assert share.connections + 2 * share.backlog + min(1536, files // 4) + 256 <= files
        assert share.connections >= files // 4


def test_with_the_files_wanted_there_is_room_for_every_connection() -> None:
    wanted = files_wanted(40_000, log_files=1536, listeners=2)
    assert share_files(wanted, log_files=1536, listeners=2).connections >= 40_000


def test_the_soft_limit_is_raised_as_far_as_the_hard_one() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2000 if hard == resource.RLIM_INFINITY else min(hard, 2000)
    program = (
        "import resource; from ingest.limits import allow_files\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (200, {wanted}))\n"
        "assert allow_files(1000) == 1000 and allow_files(10) == 1000, 'raised once'\n"
        f"assert allow_files(10**6) == {wanted} == resource.getrlimit(resource.RLIMIT_NOFILE)[0]\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


async def test_listeners_share_the_open_files(tmp_path: Path) -> None:
    admission = Admission(FileShare(files=1000, connections=1, backlog=64))
    async with edge_box(tmp_path, admission=admission) as box:
        first = await Client.mqtt(box.mqtt_port, "c1")
        second = await Client.connect(box.tcp_port)
        assert await second.rest() == b""
        assert box.tcp.counters.refused_connections == {"too many open files": 1}
        await first.close()
        await wait_until_async(lambda: not box.mqtt.counters.connections)
        third = await Client.connect(box.tcp_port)
        third.send(b'{"device": "d"}\n')
        assert await third.line() == b"OK 1\n"


# Commits


async def test_wills_of_a_fleet_that_vanishes_at_once_fit_the_journal(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        fleet = []
        for number in range(80):  # 4.8 MB against a journal of 4 MB
            will = Will(topic=f"devices/w{number}/will", payload=b"w" * 60_000, qos=1, retain=False)
            fleet.append(await Client.mqtt(box.mqtt_port, f"w{number}", will=will))
        await box.log.drain()
        box.storage.gate.clear()
        for client in fleet:
            client.abort()
        await wait_until_async(lambda: not box.mqtt.counters.connections)
        box.storage.gate.set()
        assert len(await box.records("telemetry", 80)) == 80
        assert not box.failures
        assert box.mqtt.will_bytes == box.mqtt.topic_memory_bytes == 0
        await box.events(160)


async def test_devices_of_gateways_that_vanish_at_once_fit_the_journal(tmp_path: Path) -> None:
    gateways, devices = 8, 2500  # 20,000 events of some 200 bytes against a journal of 4 MB
    async with edge_box(tmp_path) as box:
        fleet = []
        for gateway in range(gateways):
            client = await Client.mqtt(box.mqtt_port, f"g{gateway}")
            client.send(b"".join(publish(b"1", topic=f"devices/{gateway}-{number}/x") for number in range(devices)))
            client.send(publish(b"1", 1, topic=f"devices/{gateway}-0/x"))
            assert await client.read(4) == b"\x40\x02\x00\x01"
            fleet.append(client)
        await box.log.drain()
        box.storage.gate.clear()
        for client in fleet:
            client.abort()
        await wait_until_async(lambda: not box.mqtt.counters.connections)
        box.storage.gate.set()
        events = await box.events(2 * gateways * devices)
        assert len({e["device"] for e in events if e["event"] == "disconnected"}) == gateways * devices
        assert not box.failures


@pytest.mark.parametrize(
    ("packet", "count"),
    [(publish(b"", topic="a"), 300_000), (publish(b"", topic="p/" + "t" * 30_000), 280)],
    ids=["tiny", "long-topic"],
)
async def test_records_much_larger_than_their_packets_fit_the_journal(
    tmp_path: Path, packet: bytes, count: int
) -> None:
    routes = [RouteSettings(filter="p/{name}", device=None, key="{name}{name}", field="{name}")]  # the topic four times
    async with edge_box(tmp_path, routes=routes) as box:  # a journal of 4 MB, the smallest
        client = await Client.mqtt(box.mqtt_port, "c")
        await box.log.drain()
        box.storage.gate.clear()
        client.send(publish(b"first"))
        await wait_until_async(lambda: box.mqtt.counters.records == 1)
        client.send(packet * count)
        await wait_until_async(lambda: box.log.congested)
        box.storage.gate.set()
        client.send(publish(b"last", 1))
        assert await client.read(4) == b"\x40\x02\x00\x01"
        assert not box.failures
        assert box.mqtt.counters.records == count + 2


async def test_an_mqtt_topic_that_a_route_repeats_without_measure_is_refused(tmp_path: Path) -> None:
    routes = [RouteSettings(filter="p/{name}", device=None, key="{name}" * 6)]
    async with edge_box(tmp_path, routes=routes) as box:
        will = Will(topic="p/" + "w" * 60_000, payload=b"will", qos=1, retain=False)
        client = await Client.mqtt(box.mqtt_port, "c", will=will)
        client.send(publish(b"1", 1, topic="p/" + "t" * 1_000))
        assert await client.read(4) == b"\x40\x02\x00\x01"
        client.send(publish(b"2", 2, topic="p/" + "t" * 60_000))
        assert await client.rest() == b""
        assert box.mqtt.counters.refused_connections == {"topic-refused": 1}
        await wait_until_async(lambda: box.mqtt.counters.dropped == {"topic-refused": 1}, describe="the will")
        assert not box.failures


async def test_the_largest_reading_that_settings_allow_fits_the_smallest_journal(tmp_path: Path) -> None:
    size_bytes = FAST_LOG.record_limit_bytes
    mqtt = MqttSettings(max_packet_size=f"{size_bytes >> 10}KB")
    routes = [RouteSettings(filter="p/{name}", device=None, key="{name}{name}{name}", field="{name}")]
    async with edge_box(tmp_path, mqtt=mqtt, routes=routes) as box:
        client = await Client.mqtt(box.mqtt_port, "c")
        topic = "p/" + "t" * 65_000
        for number in range(1, 9):
            client.send(publish(bytes(size_bytes - len(topic) - 8), number, topic=topic))
            assert await client.read(4) == b"\x40\x02" + number.to_bytes(2, "big")
        assert not box.failures


# Congestion


async def test_silence_is_not_a_clients_while_nobody_reads_from_it(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        await congest(box)
        connection = box.mqtt.clients["flood"]
        connection._limit_s = 2
        for _ in range(10):
            connection.tick()
        assert not connection.transport.is_closing()
        box.storage.gate.set()
        await wait_until_async(lambda: box.mqtt.counters.records == 59)
        for _ in range(10):
            connection.tick()
        assert connection.transport.is_closing()


async def test_much_put_aside_stops_reading_from_everybody_and_closes_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.listener._HOLD_BYTES", 1)
    async with edge_box(tmp_path) as box:
        other = await Client.mqtt(box.mqtt_port, "other")
        await congest(box)
        assert box.mqtt.held
        late = await Client.connect(box.mqtt_port)  # is let in, and waits too
        first_words = encode_connect(Connect(client_id="late")) + publish(b"3", 3)
        late.send(first_words)
        other.send(publish(b"2", 2))
        stashed = box.mqtt.stashed_bytes
        await wait_until_async(lambda: box.mqtt.counters.connections == 3)
        assert await other.silent()
        # Some versions of asyncio read once from a connection that was paused while it was made; uvloop does not.
        assert box.mqtt.stashed_bytes - stashed in (0, len(first_words))
        box.storage.gate.set()
        assert await other.read(4) == b"\x40\x02\x00\x02"
        assert await late.read(8) == b"\x20\x02\x00\x00\x40\x02\x00\x03"
        await wait_until_async(lambda: box.mqtt.counters.records == 61)
        assert not box.mqtt.held
        assert not box.mqtt.counters.refused_connections


# Memory


async def test_unfinished_packets_are_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.listener.MAX_UNFINISHED_BYTES", 100_000)
    async with edge_box(tmp_path) as box:
        small, large = await Client.mqtt(box.mqtt_port, "small"), await Client.mqtt(box.mqtt_port, "large")
        small.send(publish(b"x" * 30_000, 1)[:-1])
        large.send(publish(b"x" * 90_000, 1)[:-1])
        assert await large.rest() == b""
        assert box.mqtt.counters.refused_connections == {"unfinished": 1}
        small.send(b"x")
        assert await small.read(4) == b"\x40\x02\x00\x01"


async def test_wills_are_bounded_together_mqtt_3_2_2_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.mqtt.MAX_WILL_BYTES", 1000)
    will = Will(topic="devices/d/will", payload=b"w" * 600, qos=1, retain=False)
    async with edge_box(tmp_path) as box:
        first = await Client.mqtt(box.mqtt_port, "c1", will=will)
        second = await Client.connect(box.mqtt_port)
        second.send(encode_connect(Connect(client_id="c2", will=will)))
        assert await second.rest() == b"\x20\x02\x00\x03"
        await first.close()
        await wait_until_async(lambda: not box.mqtt.will_bytes)
        await Client.mqtt(box.mqtt_port, "c3", will=will)


async def test_remembered_topics_are_bounded_together(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        box.mqtt.max_topic_memory_bytes = 5000
        clients = [await Client.mqtt(box.mqtt_port, f"c{number}") for number in range(3)]
        for number in range(1, 21):
            for client in clients:
                client.send(publish(b"1", number, topic=f"devices/d{number}/x"))
                assert await client.read(4) == b"\x40\x02\x00" + bytes([number])
                assert box.mqtt.topic_memory_bytes < 5000 + len(clients) * 700
        for client in clients:
            await client.close()
        await wait_until_async(lambda: not box.mqtt.counters.connections)
        assert box.mqtt.topic_memory_bytes == 0
