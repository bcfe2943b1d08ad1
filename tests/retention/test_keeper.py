"""Retention put together: the clock at a start, settings for topics, subscribers whose place has expired."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from appliance.settings import load_settings
from core.clock import SETTLE_MS, ClockState
from core.errors import ConfigError
from retention.expirer import Expirer
from retention.keeper import Retention
from retention.limits import TopicLimits
from retention.settings import RetentionSettings
from retention.usage import UsageMeter
from tests.ingest.broker_client import MqttClient
from tests.ingest.edge_box import edge_box
from tests.ingest.test_broker_sessions import vanish
from tests.retention.retention_support import HOUR_MS, RetentionBox
from wire.mqtt.reasons import ReasonCode

TOPIC = "devices/d/x"


@pytest.mark.parametrize(("away_h", "waits"), [(1, False), (24, False), (25, True), (24 * 365 * 14, True)])
async def test_a_clock_far_past_the_newest_record_is_not_believed_for_an_hour(
    tmp_path: Path, away_h: int, waits: bool
) -> None:
    it = await RetentionBox(tmp_path, max_age="1h").open()
    await it.window()
    it.clock.now_ms += away_h * HOUR_MS - 1
    retention = Retention(it.log, tmp_path, it.settings, it.clock)
    assert retention.clock_state() is (ClockState.STEPPED if waits else ClockState.OK)
    assert retention.storage()["clock"] == retention.clock_state().value
    it.clock.now_ms += SETTLE_MS
    assert retention.clock_state() is ClockState.OK
    await it.log.close()


async def test_what_the_roller_sees_of_the_clock_counts(tmp_path: Path) -> None:
    it = await RetentionBox(tmp_path).open()
    await it.window()
    retention = Retention(it.log, tmp_path, it.settings, it.clock)
    it.clock.now_ms -= 2 * HOUR_MS
    await retention.roller.look()
    assert retention.clock_state() is ClockState.BEHIND
    await it.log.close()


async def test_the_workers_run_until_they_are_cancelled(tmp_path: Path) -> None:
    it = await RetentionBox(tmp_path).open()
    retention = Retention(it.log, tmp_path, it.settings, it.clock)
    tasks: set[asyncio.Task[None]] = set()
    retention.start(tasks)
    assert {task.get_name() for task in tasks} == {"roller", "retention-log", "retention-lake"}
    for task in list(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await it.log.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[retention]\nmax_age = "30m"\n', "max_age must be at least roll_interval"),
        ("[retention]\nlow_mark_percent = 90\n", "low_mark_percent is 90, and retention.high_mark_percent is 85"),
        ('[[topics]]\nname = "t"\nmax_age = "10m"\n', "is kept for 10m, and its windows close every 1h"),
        ('[[topics]]\nname = "t"\nroll_interval = "30d"\n', "is kept for 7d, and its windows close every 30d"),
        ('[[topics]]\nname = "t"\nmax_bytes = "lots"\n', "'lots' is not a number"),
    ],
)
def test_limits_that_cannot_work_are_said_with_their_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "headrace.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(path, environ={})
    assert said in str(caught.value)
    assert "headrace.toml" in str(caught.value)


def test_limits_of_topics_are_read(tmp_path: Path) -> None:
    path = tmp_path / "headrace.toml"
    path.write_text(
        '[retention]\nmax_bytes = "8GB"\n[[topics]]\nname = "t"\nmax_age = "0"\nmax_bytes = "1GB"\n'
        'roll_interval = "10m"\nroll_bytes = "64MB"\n'
    )
    settings = load_settings(path, environ={})
    limits = TopicLimits(settings.retention, settings.topics)
    own, others = limits.of("t"), limits.of("u")
    assert (own.max_age_ms, own.max_bytes, own.roll_interval_ms, own.roll_bytes) == (0, 1 << 30, 600_000, 64 << 20)
    assert (others.max_age_ms, others.max_bytes, others.roll_bytes) == (7 * 86_400_000, 8 << 30, 1 << 30)


async def test_a_subscriber_whose_place_has_expired_is_told_and_starts_anew(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as edge:
        client = await MqttClient.open(edge, "c", keep=True)
        await client.subscribe("#", qos=1)
        await vanish(edge, client, "c")
        other = await MqttClient.open(edge, "o")
        for number in range(3):
            await other.publish(TOPIC, b"%d" % number)
            await edge.records("telemetry", number + 1)
            await edge.log.roll("telemetry", "test")
        settings = RetentionSettings(max_bytes="1B")
        tables = tmp_path / "log" / "tables"
        expirer = Expirer(
            edge.log,
            settings,
            TopicLimits(settings),
            edge.clock,
            sinks=(),
            clock_state=lambda: ClockState.OK,
            measure=UsageMeter(tmp_path / "log", tmp_path / "lake", tables).look,
        )
        await expirer.look()
        assert expirer.expired_windows["telemetry", "topic over max_bytes"] == 2
        client = await MqttClient.open(edge, "c", keep=True)
        assert client.connack.session_present
        assert await client.told_goodbye() is ReasonCode.ADMINISTRATIVE_ACTION
        assert edge.broker.counters.sessions_behind == 1
        client = await MqttClient.open(edge, "c", keep=True)
        assert not client.connack.session_present
