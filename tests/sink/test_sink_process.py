"""The sink process against the real log: its files, its channel, its reader."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.settings import Settings, load_settings
from appliance.sink import readings, run
from commitlog.base import NewRecord
from commitlog.embedded import EmbeddedLog
from commitlog.remote import log_handlers
from commitlog.storage import SystemStorage
from core.channel import ChannelServer
from core.clock import SystemClock
from tests.conftest import wait_until_async
from tests.sink.sink_fakes import lake_rows


@pytest.fixture(name="settings")
def _settings(tmp_path: Path) -> Settings:
    given = [
        "log.journal_size=4MB",
        "log.pending_bytes=1MB",
        "log.checkpoint_bytes=1MB",
        "log.partitions=3",
        "sink.hold_back=0",
    ]
    return load_settings(None, tmp_path, given, environ={})


@pytest.fixture(name="log")
async def _log(settings: Settings) -> AsyncIterator[EmbeddedLog]:
    failures: list[Exception] = []
    log = await EmbeddedLog.open(
        settings.data_dir, settings.log, clock=SystemClock(), storage=SystemStorage(), on_failure=failures.append
    )
    server = ChannelServer(settings.data_dir / "run" / "edge.sock", log_handlers(log))
    await server.start()
    yield log
    await server.close()
    await log.close()
    assert failures == []


async def publish(log: EmbeddedLog, count: int, topic: str = "telemetry") -> Counter[tuple[int, int]]:
    """Append readings of ten devices, one in a hundred of them not JSON, and close the window."""
    records = [
        NewRecord(
            topic=topic,
            key=b"press-%d" % (number % 10),
            value=b"oops" if number % 100 == 99 else json.dumps({"n": number}).encode(),
            headers=[("mqtt.topic", b"devices/press-%d/n" % (number % 10))],
        )
        for number in range(count)
    ]
    positions = await log.append(records)
    await log.roll(topic, "test")
    return Counter((position.partition, position.offset) for position in positions)


def visible(lake: Path, topic: str = "telemetry") -> Counter[tuple[int, int]]:
    rows = [*lake_rows(lake, topic), *lake_rows(lake, f"_quarantine/{topic}")]
    return Counter((row["_partition"], row["_offset"]) for row in rows)


async def exported(log: EmbeddedLog, topic_id: str, windows: int) -> None:
    async def done() -> bool:
        row = (await log.rows("sink.parquet")).get(topic_id)
        return row is not None and row["next_window"] >= windows

    await wait_until_async(done, 60)


async def test_windows_of_the_real_log_reach_the_lake(settings: Settings, log: EmbeddedLog) -> None:
    topic = await log.create_topic("telemetry")
    unrouted = await log.create_topic("mqtt")
    stop = asyncio.Event()
    task = asyncio.create_task(run(settings, stop))
    expected = await publish(log, 250)
    raw = await publish(log, 100, "mqtt")
    await exported(log, topic.topic_id, 1)
    expected += await publish(log, 120)
    await exported(log, topic.topic_id, 2)
    await exported(log, unrouted.topic_id, 1)
    stop.set()
    await task
    lake = settings.data_dir / "lake"
    assert visible(lake) == expected
    assert visible(lake, "mqtt") == raw
    assert {row["payload"] for row in lake_rows(lake, "mqtt")} >= {b"oops", b'{"n": 0}'}
    assert sorted(row["n"] for row in lake_rows(lake))[:3] == [0, 0, 1]
    prom = (settings.data_dir / "run" / "sink.prom").read_text()
    assert "headrace_sink_windows_exported_total" in prom


async def test_process_killed_while_it_exports_comes_back_and_finishes(settings: Settings, log: EmbeddedLog) -> None:
    """kill -9 of the real process, each time as soon as it has published one more file."""
    topic = await log.create_topic("telemetry")
    expected: Counter[tuple[int, int]] = Counter()
    for _ in range(4):
        expected += await publish(log, 2_500)
    path = settings.data_dir / "settings.json"
    path.write_text(settings.to_json())
    lake = settings.data_dir / "lake"

    async def start() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "appliance.sink", str(path), stderr=asyncio.subprocess.DEVNULL
        )

    def published() -> int:
        return sum(".tmp" not in found.parts for found in lake.glob("**/*.parquet"))

    for _ in range(2):
        before = published()
        process = await start()
        await wait_until_async(lambda seen=before: published() > seen, 60)
        os.kill(process.pid, signal.SIGKILL)
        assert await process.wait() == -signal.SIGKILL
    process = await start()
    await exported(log, topic.topic_id, 4)
    process.terminate()
    assert await process.wait() == 0
    assert visible(lake) == expected
    assert [path.name for folder in (".plans", ".tmp") for path in (lake / folder).iterdir()] == ["lock"]


def test_decoders_follow_the_settings(tmp_path: Path) -> None:
    config = tmp_path / "headrace.toml"
    config.write_text(
        '[[topics]]\nname = "mqtt"\npartitions = 2\n'
        '[[topics]]\nname = "bytes"\ndecoder = "raw"\n'
        '[[topics]]\nname = "plc"\ntimestamp_field = "t"\n'
    )
    reading_of = readings(load_settings(config, tmp_path, [], environ={}))
    versions = {name: reading_of(name).decoder.version for name in ("mqtt", "bytes", "plc", "else")}
    assert versions == {"mqtt": "raw/1", "bytes": "raw/1", "plc": "json/2", "else": "json/2"}
    assert (reading_of("plc").timestamp_field, reading_of("else").timestamp_field) == ("t", "ts")
    assert readings(load_settings(None, tmp_path, [], environ={}))("mqtt").decoder.version == "raw/1"
    unrouted = '[[topics]]\nname = "mqtt"\ndecoder = "json"\n'
    config.write_text(unrouted)
    assert readings(load_settings(config, tmp_path, [], environ={}))("mqtt").decoder.version == "json/2"
