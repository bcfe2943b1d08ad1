"""A listener's durability level decides whether its clients wait for the sync."""

from __future__ import annotations

from pathlib import Path

import pytest

from commitlog.durability import DurabilityName
from ingest.settings import MqttSettings, TcpSettings
from tests.conftest import wait_until_async
from tests.ingest.edge_box import FAST_LOG, Client, EdgeBox, edge_box
from wire.mqtt.encode import encode_publish
from wire.mqtt.packets import Publish

LINE = b'{"device": "d", "x": 1}\n'
LATE = FAST_LOG.model_copy(update={"sync_interval_ms": 600_000, "checkpoint_interval_ms": 3_600_000})


def publish(packet_id: int) -> bytes:
    return encode_publish(Publish(topic="devices/d/telemetry", payload=b"1", qos=1, packet_id=packet_id))


async def weak_levels_are_noted(box: EdgeBox, client: Client) -> None:
    """The first weaker acknowledgements still wait for a sync: until one has not."""

    async def unsynced() -> bool:
        client.send(publish(1))
        assert await client.read(4) == b"\x40\x02\x00\x01"
        return box.log.stats.unsynced_records > 0

    await wait_until_async(unsynced, describe="an acknowledgement without a sync")


@pytest.mark.parametrize("level", ["interval", "os"])
async def test_a_weaker_listener_does_not_wait_and_the_other_does(tmp_path: Path, level: DurabilityName) -> None:
    async with edge_box(tmp_path, mqtt=MqttSettings(durability=level), log_settings=LATE) as box:
        mqtt = await Client.mqtt(box.mqtt_port, "c1")
        tcp = await Client.connect(box.tcp_port)
        tcp.send(LINE)
        assert await tcp.line() == b"OK 1\n"
        await weak_levels_are_noted(box, mqtt)
        box.storage.gate.clear()
        mqtt.send(publish(7))
        assert await mqtt.read(4) == b"\x40\x02\x00\x07"
        assert box.log.stats.unsynced_records >= 1
        tcp.send(LINE)
        await wait_until_async(lambda: box.tcp.counters.records == 2)
        assert await tcp.silent()
        box.storage.gate.set()
        assert await tcp.line() == b"OK 2\n"
        assert box.log.stats.unsynced_records == 0


async def test_a_stricter_listener_than_the_log(tmp_path: Path) -> None:
    settings = LATE.model_copy(update={"durability": "os"})
    async with edge_box(tmp_path, tcp=TcpSettings(durability="fsync"), log_settings=settings) as box:
        mqtt = await Client.mqtt(box.mqtt_port, "c1")
        await weak_levels_are_noted(box, mqtt)
        tcp = await Client.connect(box.tcp_port)
        before = box.log.stats.syncs
        box.storage.gate.clear()
        tcp.send(LINE)
        await wait_until_async(lambda: box.tcp.counters.records == 1)
        assert await tcp.silent()
        box.storage.gate.set()
        assert await tcp.line() == b"OK 1\n"
        assert (box.log.stats.syncs, box.log.stats.unsynced_records) == (before + 1, 0)
