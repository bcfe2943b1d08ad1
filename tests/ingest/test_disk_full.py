"""What clients meet while the disk is full: honest refusals at a limited rate, and service as soon as there is room."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from commitlog import space as space_module
from commitlog.base import TableChange
from core.errors import UnavailableError
from ingest import listener as listener_module
from tests.commitlog.log_support import record
from tests.conftest import wait_until_async
from tests.ingest.edge_box import Client, EdgeBox, edge_box
from wire.mqtt.encode import encode_publish
from wire.mqtt.packets import Publish, Will

PINGREQ, PINGRESP = b"\xc0\0", b"\xd0\0"


def publish(payload: bytes, packet_id: int | None = None) -> bytes:
    qos = 0 if packet_id is None else 1
    return encode_publish(Publish(topic="devices/d/x", payload=payload, qos=qos, packet_id=packet_id))


class Box:
    """An edge whose disk is full when the test says so."""

    def __init__(self, edge: EdgeBox) -> None:
        self.edge = edge

    async def fill(self, free_bytes: int = 0) -> None:
        self.edge.storage.free = free_bytes
        await wait_until_async(lambda: self.edge.log.full, describe="full")

    async def free(self) -> None:
        self.edge.storage.free = None
        await wait_until_async(lambda: not self.edge.log.full, describe="room again")

    def values(self) -> list[bytes | None]:
        return [one.value for one in self.edge.records_now("telemetry")]


@pytest.fixture
async def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Box]:
    monkeypatch.setattr(space_module, "WAIT_S", 0.01)
    async with edge_box(tmp_path) as edge:
        yield Box(edge)
        assert not edge.failures


async def test_a_publish_ends_its_connection_others_stay_mqtt_3_3_5_2(box: Box) -> None:
    sender = await Client.mqtt(box.edge.mqtt_port, "sender")
    idle = await Client.mqtt(box.edge.mqtt_port, "idle")
    sender.send(publish(b"1", 1))
    assert await sender.read(4) == b"\x40\x02\0\1"
    await box.fill()
    sender.send(publish(b"2", 2))
    assert await sender.rest() == b"", "closed, and never a PUBACK"
    idle.send(PINGREQ)
    assert await idle.read(2) == PINGRESP
    assert box.edge.mqtt.counters.refused_connections["disk full"] == 1
    await box.free()
    idle.send(publish(b"3", 3))
    assert await idle.read(4) == b"\x40\x02\0\3"
    await box.edge.records("telemetry", 2)
    assert box.values() == [b"1", b"3"]


async def test_what_was_taken_before_the_publish_that_met_the_full_disk_is_acknowledged(box: Box) -> None:
    client = await Client.mqtt(box.edge.mqtt_port, "c")
    await box.edge.log.drain()
    box.edge.storage.gate.clear()
    client.send(publish(b"1", 1))
    await wait_until_async(lambda: box.edge.mqtt.counters.records == 1)
    box.edge.log._engine.fullness.become(True)
    client.send(publish(b"2", 2))
    box.edge.storage.gate.set()
    assert (await client.rest()) in (b"\x40\x02\0\1", b"")
    box.edge.log._engine.fullness.become(False)
    await box.edge.records("telemetry", 1)
    assert box.values() == [b"1"]


async def test_qos_0_is_dropped_and_counted_and_the_connection_stays(box: Box) -> None:
    client = await Client.mqtt(box.edge.mqtt_port, "c")
    client.send(publish(b"1"))
    await box.edge.records("telemetry", 1)
    await box.fill()
    client.send(publish(b"2") + publish(b"3") + PINGREQ)
    assert await client.read(2) == PINGRESP
    assert box.edge.mqtt.counters.dropped["disk full"] == 2
    await box.free()
    client.send(publish(b"4"))
    await box.edge.records("telemetry", 2)
    assert box.values() == [b"1", b"4"]


async def test_new_publishers_are_refused_at_a_limited_rate(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "_REFUSALS_PER_SLICE", 0)
    await box.fill()
    clients = [await Client.mqtt(box.edge.mqtt_port, f"c{number}") for number in range(5)]
    for client in clients:
        client.send(publish(b"x", 1) + PINGREQ)
    await wait_until_async(lambda: len(box.edge.mqtt.refused) == 5, describe="all wait for their turn")
    clients[0].send(publish(b"y", 2))
    assert await clients[0].silent()
    monkeypatch.setattr(listener_module, "_REFUSALS_PER_SLICE", 1)
    for left in (4, 3):
        await wait_until_async(lambda: len(box.edge.mqtt.refused) == left, describe=f"{left} left")  # noqa: B023
    monkeypatch.setattr(listener_module, "_REFUSALS_PER_SLICE", 0)
    await box.free()
    for client in clients:
        assert await client.rest() == b"", "the rest is let go when there is room"
    assert not box.edge.mqtt.refused


async def test_a_will_is_dropped_and_counted(box: Box) -> None:
    client = await Client.mqtt(box.edge.mqtt_port, "c", will=Will(topic="devices/d/x", payload=b"gone"))
    await box.fill()
    client.abort()
    await wait_until_async(lambda: box.edge.mqtt.counters.dropped["disk full"] == 1)
    await box.free()
    assert box.values() == []


async def test_tcp_lines_are_refused_by_number_and_the_connection_goes_on(box: Box) -> None:
    client = await Client.connect(box.edge.tcp_port)
    client.send(b'{"device": "d", "n": 1}\n')
    assert await client.line() == b"OK 1\n"
    await box.fill()
    client.send(b'{"device": "d", "n": 2}\n\n{"device": "d", "n": 4}\n')
    assert [await client.line() for _ in range(3)] == [b"ERR 2 disk full\n", b"OK 3\n", b"ERR 4 disk full\n"]
    assert box.edge.tcp.counters.refused_lines["disk full"] == 2
    await box.free()
    client.send(b'{"device": "d", "n": 5}\n')
    assert await client.line() == b"OK 5\n"
    await box.edge.records("telemetry", 2)
    assert box.values() == [b'{"device": "d", "n": 1}', b'{"device": "d", "n": 5}']


async def test_device_events_and_small_changes_go_on(box: Box) -> None:
    client = await Client.mqtt(box.edge.mqtt_port, "c")
    client.send(publish(b"1", 1))
    await client.read(4)
    await box.fill()
    client.abort()
    events = await box.edge.events(2)
    assert {event["event"] for event in events} == {"connected", "disconnected"}
    await box.edge.log.append([], [TableChange(table="exports", key="k", value=1)])
    with pytest.raises(UnavailableError, match="disk is full"):
        await box.edge.log.append([record("telemetry", "d", b"x")])
