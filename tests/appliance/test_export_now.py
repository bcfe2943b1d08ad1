"""`headrace export --now` against a real log and its channel, with a real sink, a failing one, or none."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.export_now import SINK_AWAY_S, export_now
from appliance.settings import Settings, load_settings
from appliance.sink import run as run_sink
from commitlog.base import NewRecord
from commitlog.embedded import EmbeddedLog
from commitlog.remote import log_handlers
from commitlog.storage import SystemStorage
from core.channel import ChannelServer
from core.clock import SystemClock
from core.errors import NotFoundError, UnavailableError
from sink.attempts import Attempts, trouble_of
from sink.metrics import SinkMetrics, write_metrics
from sink.requests import REQUESTS_TABLE
from sink.standing import STANDING_FILE, Standing, TopicStanding, read_standing, tried, write_standing
from tests.conftest import wait_until_async


@pytest.fixture(name="settings")
def _settings(tmp_path: Path) -> Settings:
    given = ["log.journal_size=4MB", "log.pending_bytes=1MB", "log.checkpoint_bytes=1MB", "log.partitions=2"]
    return load_settings(None, tmp_path, [*given, "sink.small_window_records=1000", "sink.hold_back=6h"], environ={})


@pytest.fixture(name="log")
async def _log(settings: Settings) -> AsyncIterator[EmbeddedLog]:
    failures: list[Exception] = []
    log = await EmbeddedLog.open(
        settings.data_dir, settings.log, clock=SystemClock(), storage=SystemStorage(), on_failure=failures.append
    )
    server = ChannelServer(settings.data_dir / "run" / "edge.sock", log_handlers(log))
    await server.start()
    await log.create_topic("telemetry")
    await log.create_topic("quiet")
    yield log
    await server.close()
    await log.close()
    assert failures == []


@pytest.fixture(name="sink")
async def _sink(settings: Settings, log: EmbeddedLog) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(run_sink(settings, stop))
    path = settings.data_dir / "run" / "sink.prom"
    await wait_until_async(path.exists)
    yield
    stop.set()
    await task


def failing(run_dir: Path) -> list[str]:
    standing = read_standing(run_dir)
    return [] if standing is None else [name for name, _ in standing.failing()]


async def publish(log: EmbeddedLog, count: int = 5) -> None:
    await log.append([NewRecord(topic="telemetry", key=b"d", value=b'{"n": 1}') for _ in range(count)])


@pytest.mark.usefixtures("sink")
async def test_it_waits_for_the_files_and_says_which(settings: Settings, log: EmbeddedLog) -> None:
    """The window is tiny, and would be held back for hours."""
    await publish(log)
    telemetry, quiet = sorted(
        await export_now(settings.data_dir, timeout_s=30), key=lambda one: one.topic, reverse=True
    )
    assert (telemetry.topic, telemetry.closed) == ("telemetry", 5)
    (file,) = telemetry.files
    assert file["rows"] == 5
    assert (settings.data_dir / "lake" / file["path"]).is_file()
    assert (quiet.closed, quiet.files) == (None, [])
    assert not await log.rows(REQUESTS_TABLE), "nothing is left to be asked"


@pytest.mark.usefixtures("sink")
async def test_a_window_that_was_held_back_is_exported_too(settings: Settings, log: EmbeddedLog) -> None:
    await publish(log, 3)
    window = await log.roll("telemetry", "interval")
    assert window is not None
    (telemetry,) = await export_now(settings.data_dir, ["telemetry"], timeout_s=30)
    assert telemetry.closed is None
    assert [file["rows"] for file in telemetry.files] == [3]
    (again,) = await export_now(settings.data_dir, ["telemetry"], timeout_s=30)
    assert (again.closed, again.files) == (None, [])


@pytest.mark.usefixtures("sink")
async def test_a_topic_that_is_not_there(settings: Settings) -> None:
    with pytest.raises(NotFoundError, match="no topic 'other'") as caught:
        await export_now(settings.data_dir, ["other"], timeout_s=1)
    assert "telemetry" in caught.value.mend


async def test_without_an_appliance(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="does not answer") as caught:
        await export_now(tmp_path, timeout_s=1)
    assert "headrace run" in caught.value.mend


async def test_where_exporting_is_switched_off(settings: Settings, log: EmbeddedLog) -> None:
    with pytest.raises(UnavailableError, match="switched off"):
        await export_now(settings.data_dir, timeout_s=1, sink_enabled=False)


async def test_without_a_sink(settings: Settings, log: EmbeddedLog) -> None:
    await publish(log)
    with pytest.raises(UnavailableError, match="has not started"):
        await export_now(settings.data_dir, timeout_s=1)
    path = settings.data_dir / "run" / "sink.prom"
    write_metrics(SinkMetrics(), path)
    os.utime(path, (path.stat().st_mtime - SINK_AWAY_S - 5,) * 2)
    with pytest.raises(UnavailableError, match="no sign of life for 25 s"):
        await export_now(settings.data_dir, timeout_s=1)
    assert await log.roll("telemetry", "test") is not None, "nothing was closed in vain"


async def test_a_sink_that_fails_is_told_with_its_last_error(settings: Settings, log: EmbeddedLog) -> None:
    """Something stands where the lake should be."""
    (settings.data_dir / "lake").write_text("not a folder")
    stop = asyncio.Event()
    task = asyncio.create_task(run_sink(settings, stop))
    run_dir = settings.data_dir / "run"
    await wait_until_async(lambda: failing(run_dir))
    await publish(log)
    told: list[str] = []
    with pytest.raises(UnavailableError, match=r"not exported within 0\.5 s: telemetry. The sink is failing: .*lake"):
        await export_now(settings.data_dir, ["telemetry"], timeout_s=0.5, tell=told.append)
    assert told
    assert "lake" in told[0]
    (settings.data_dir / "lake").unlink()
    (telemetry,) = await export_now(settings.data_dir, ["telemetry"], timeout_s=60)
    assert [file["rows"] for file in telemetry.files] == [5], "what was closed before is exported by now"
    await wait_until_async(lambda: not failing(run_dir))
    stop.set()
    await task


async def test_a_sink_that_is_slow(settings: Settings, log: EmbeddedLog) -> None:
    write_metrics(SinkMetrics(), settings.data_dir / "run" / "sink.prom")
    await publish(log)
    with pytest.raises(UnavailableError, match="not exported within 0 s: telemetry") as caught:
        await export_now(settings.data_dir, ["telemetry"], timeout_s=0)
    assert "--timeout" in caught.value.mend
    (request,) = (await log.rows(REQUESTS_TABLE)).values()
    assert request["through"] == 0, "the sink still gets to hear of it"


async def test_an_error_of_a_sink_that_is_gone_is_none_of_now(settings: Settings, log: EmbeddedLog) -> None:
    """Another topic's is not told either."""
    run_dir = settings.data_dir / "run"
    write_metrics(SinkMetrics(), run_dir / "sink.prom")
    await publish(log)
    now_ms = SystemClock().time_ms()
    attempts = Attempts()
    attempts.failed(trouble_of(OSError(30, "Read-only file system"), "export failed", now_ms), 1, SystemClock())
    fields = tried(attempts)
    told: list[str] = []

    async def message(topic: str, at_ms: int) -> str:
        topics = [TopicStanding(topic=topic, topic_id="1", **fields)]
        write_standing(Standing(at_ms=at_ms, state="idle", topics=topics), run_dir / STANDING_FILE)
        with pytest.raises(UnavailableError) as caught:
            await export_now(settings.data_dir, ["telemetry"], timeout_s=0, tell=told.append)
        return caught.value.what

    assert "failing" not in await message("telemetry", now_ms - 60_000)
    assert "failing" not in await message("quiet", now_ms)
    assert told == []
    assert "The sink is failing: [Errno 30] Read-only file system" in await message("telemetry", now_ms)
    assert told == ["the sink is failing (exporting telemetry, 1 times so far): [Errno 30] Read-only file system"]
