"""`log stats`: the numbers are those of the files."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from commitlog.base import TableChange
from commitlog.log_stats import Numbers, log_numbers
from commitlog.storage import LOG_DIR
from core.errors import DataDirError
from tests.commitlog.log_support import log_settings, opened, record
from tests.log_fakes import FakeClock


async def test_numbers_are_those_of_the_files(tmp_path: Path) -> None:
    clock, rng = FakeClock(), random.Random(1)
    started_ms = clock.now_ms
    settings = log_settings(flush_bytes="3KB")
    async with opened(tmp_path, clock=clock, settings=settings) as log:
        await log.create_topic("telemetry", 2)
        await log.create_topic("empty", 1)
        for number in range(60):
            clock.now_ms += 10  # all of it within one heartbeat
            value = rng.randbytes(2_000) if number % 2 else bytes(2_000)
            await log.append(
                [record("telemetry", "d", value, partition=0)],
                [TableChange(table="state", key=str(number % 3), value=number)],
            )
        await log.roll("telemetry", "flushed")
        await log.append([record("telemetry", "d", "x", partition=1)])
        live = log_numbers(tmp_path, clock=clock)
        assert live.live
        assert live.topics()["telemetry"].records >= 60
        await log.roll("telemetry", "flushed")
    numbers = log_numbers(tmp_path, clock=clock)
    assert not numbers.live
    assert [(one.topic, one.partition, one.start, one.next) for one in numbers.partitions] == [
        ("empty", 0, 0, 0),
        ("telemetry", 0, 0, 60),
        ("telemetry", 1, 0, 1),
    ]
    telemetry = numbers.topics()["telemetry"]
    assert (telemetry.records, telemetry.first_ms, telemetry.last_ms) == (61, started_ms + 10, started_ms + 600)
    directories = [tmp_path / LOG_DIR / f"telemetry-{partition}" for partition in range(2)]
    for suffix, have in ((".log", telemetry.log_bytes), (".index", telemetry.index_bytes)):
        paths = [path for directory in directories for path in directory.iterdir() if path.suffix == suffix]
        assert have == sum(path.stat().st_size for path in paths)
        assert telemetry.segments == len(paths)
    assert telemetry.compression_ratio is not None
    assert 1.5 < telemetry.compression_ratio < 2.5  # half of the values are zeros, the others cannot be compressed
    assert numbers.topics()["empty"] == Numbers()
    assert {name: rows for name, (rows, _) in numbers.tables.items()} == {"state": 3, "windows": 2}
    assert numbers.journal_size_bytes == settings.journal_size_bytes
    assert numbers.journal_entries == 0, "the last roll was a checkpoint"


async def test_damage_is_passed_over(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await log.create_topic("telemetry", 2)
        for partition in range(2):
            await log.append([record("telemetry", "d", "x", partition=partition)])
    log_dir = tmp_path / LOG_DIR
    (log_dir / "telemetry-0" / f"{0:020}.log").write_bytes(b"\xff" * 100)
    for name in ("checkpoint", "journal"):
        (log_dir / name).write_bytes(b"nothing")
    numbers = log_numbers(tmp_path, clock=FakeClock())
    assert [one.numbers.records for one in numbers.partitions] == [0, 1]


def test_a_directory_without_a_log_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(DataDirError, match="no log"):
        log_numbers(tmp_path)
