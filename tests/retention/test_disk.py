"""Marks, pressure and forecast: pure; and how the disk is measured."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UnavailableError
from retention.disk import (
    DAY_MS,
    ENOUGH_MS,
    MAX_SAMPLES,
    SAMPLE_MS,
    UNKNOWN,
    DiskPressure,
    Growth,
    Marks,
    budget_marks,
    file_system_marks,
    pressure_after,
)
from retention.rounds import FIRST_PAUSE_S, LONGEST_PAUSE_S, Rounds
from retention.usage import FolderSizes, UsageMeter

GB = 1 << 30
MB = 1 << 20


def test_a_budget_has_its_percents() -> None:
    marks = budget_marks(1000, high_percent=85, low_percent=75)
    assert marks == Marks(limit_bytes=1000, high_bytes=850, low_bytes=750)


@pytest.mark.parametrize(
    ("total", "high", "low"),
    [
        (100 * GB, 85 * GB, 75 * GB),
        (1 * GB, 1024 * MB - 176 * MB - 44 * MB, 804 * MB * 75 // 85),  # 85 % would leave less free than readings need
        (100 * MB, 0, 0),  # too small for readings at all
    ],
)
def test_on_a_file_system_deleting_begins_before_readings_are_refused(total: int, high: int, low: int) -> None:
    marks = file_system_marks(total, needed_bytes=176 * MB, high_percent=85, low_percent=75)
    assert (marks.high_bytes, marks.low_bytes) == (high, low)
    assert total < 176 * MB or marks.high_bytes < marks.limit_bytes == total - 176 * MB


@pytest.mark.parametrize(
    ("before", "used", "expected"),
    [
        (DiskPressure.OK, 849, DiskPressure.OK),
        (DiskPressure.OK, 850, DiskPressure.OVER),
        (DiskPressure.OVER, 849, DiskPressure.OVER),
        (DiskPressure.OVER, 750, DiskPressure.OVER),
        (DiskPressure.OVER, 749, DiskPressure.OK),
        (DiskPressure.STUCK, 900, DiskPressure.STUCK),
        (DiskPressure.STUCK, 749, DiskPressure.OK),
    ],
)
def test_between_the_marks_it_stays_as_it_was(before: DiskPressure, used: int, expected: DiskPressure) -> None:
    marks = Marks(limit_bytes=1000, high_bytes=850, low_bytes=750)
    assert pressure_after(before, used_bytes=used, marks=marks) is expected


def grown(*, per_day: float, minutes: int, start: int = 10 * GB) -> Growth:
    growth = Growth()
    for minute in range(minutes + 1):
        growth.note(minute * 60_000, round(start + per_day * minute / 1440))
    return growth


def test_nothing_is_foretold_before_an_hour_was_seen() -> None:
    assert Growth().forecast(100 * GB) == UNKNOWN
    assert grown(per_day=GB, minutes=59).forecast(100 * GB) == UNKNOWN
    assert grown(per_day=GB, minutes=60).forecast(100 * GB) != UNKNOWN


def test_days_left_are_what_is_left_by_the_growth() -> None:
    found = grown(per_day=2 * GB, minutes=24 * 60).forecast(100 * GB)
    assert found.state == "growing"
    assert found.bytes_per_day == pytest.approx(2 * GB)
    assert found.days_left == pytest.approx(44)  # 10 GB, and 2 GB since


@pytest.mark.parametrize("per_day", [0.0, -GB, MB / 100])
def test_what_does_not_grow_or_hardly_lasts_for_ever(per_day: float) -> None:
    found = grown(per_day=per_day, minutes=600).forecast(100 * GB)
    assert (found.state, found.days_left) == ("steady", None)


def test_over_the_limit_no_day_is_left() -> None:
    assert grown(per_day=GB, minutes=600).forecast(5 * GB).days_left == 0


def test_a_saw_of_windows_that_come_and_go_is_steady_and_only_a_day_counts() -> None:
    growth = Growth()
    for step in range(3 * 288):
        growth.note(step * SAMPLE_MS, 10 * GB + (step % 12) * 100 * MB)
    assert growth.forecast(100 * GB).state == "steady" or (growth.forecast(100 * GB).days_left or 0) > 1000
    growth = grown(per_day=50 * GB, minutes=1440)
    for step in range(MAX_SAMPLES):
        growth.note(2 * DAY_MS + step * SAMPLE_MS, 60 * GB)
    assert growth.forecast(100 * GB).state == "steady", "what grew the day before is forgotten"


@given(st.lists(st.tuples(st.integers(1, ENOUGH_MS), st.integers(0, 1 << 50)), max_size=50), st.integers(0, 1 << 50))
def test_whatever_is_measured_the_forecast_is_no_nonsense(steps: list[tuple[int, int]], limit: int) -> None:
    growth, at_ms = Growth(), 0
    for step_ms, used in steps:
        at_ms += step_ms
        growth.note(at_ms, used)
    found = growth.forecast(limit)
    assert found.state in ("unknown", "steady", "growing")
    assert (found.days_left is not None) == (found.state == "growing")
    assert found.days_left is None or 0 <= found.days_left <= 3650


def old(path: Path) -> None:
    """As if nothing had happened in a folder for a while."""
    os.utime(path, ns=(0, path.stat().st_mtime_ns - 10_000_000_000))


def test_folders_are_looked_into_again_when_something_came_or_went(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    sizes = FolderSizes(lake)
    assert sizes.total_bytes() == 0, "not there yet"
    day = lake / "telemetry" / "date=2026-11-20"
    day.mkdir(parents=True)
    (day / "a.parquet").write_bytes(bytes(100))
    assert sizes.total_bytes() == 100
    for folder in (day, day.parent, lake):
        old(folder)
    assert sizes.total_bytes() == 100
    (day / "a.parquet").write_bytes(bytes(7))  # what never happens in a lake: it shows what is not read again
    assert sizes.total_bytes() == 100
    (day / "b.parquet").write_bytes(bytes(30))
    assert sizes.total_bytes() == 37
    (day / "a.parquet").unlink()
    (day / "b.parquet").unlink()
    day.rmdir()
    assert sizes.total_bytes() == 0


def test_what_grows_in_a_hidden_folder_is_seen(tmp_path: Path) -> None:
    hidden = tmp_path / "lake" / ".tmp"
    hidden.mkdir(parents=True)
    (hidden / "a").write_bytes(bytes(10))
    sizes = FolderSizes(tmp_path / "lake")
    old(hidden)
    assert sizes.total_bytes() == 10
    (hidden / "a").write_bytes(bytes(20))
    old(hidden)
    assert sizes.total_bytes() == 20


def test_a_look_at_a_data_directory(tmp_path: Path) -> None:
    tables = tmp_path / "log" / "tables"
    tables.mkdir(parents=True)
    (tmp_path / "log" / "journal").write_bytes(bytes(1000))
    (tables / "windows-1.snapshot").write_bytes(bytes(50))
    (tmp_path / "log" / "telemetry-0").mkdir()
    (tmp_path / "log" / "telemetry-0" / "0.log").write_bytes(bytes(9999))
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "x").write_bytes(bytes(3))
    meter = UsageMeter(tmp_path / "log", tmp_path / "lake", tables)
    assert meter.look(walk=False).lake_bytes == 0, "never walked"
    meter.look(walk=True)
    usage = meter.look(walk=False)
    assert (usage.log_other_bytes, usage.lake_bytes) == (1050, 3)
    assert 0 < usage.free_bytes <= usage.total_bytes


async def test_what_fails_is_counted_and_waited_for_ever_longer_until_it_goes() -> None:
    errors: list[Exception] = [OSError(5, "input/output error", "/x"), UnavailableError("away"), ValueError("a bug")]
    errors += [OSError(5, "again")] * 10

    async def look() -> None:
        if errors:
            raise errors.pop(0)

    rounds = Rounds("log", look, interval_s=1)
    pauses = []
    while errors:
        await rounds.once()
        pauses.append(rounds.pause_s)
    assert rounds.failures == {"storage": 11, "unavailable": 1, "unexpected": 1}
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert pauses[-1] == LONGEST_PAUSE_S
    await rounds.once()
    assert rounds.pause_s == 0
