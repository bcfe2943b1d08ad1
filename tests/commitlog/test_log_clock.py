"""A wall clock that steps, or has not been set: timestamps never decrease, and time lookups go on."""

from __future__ import annotations

import random
from contextlib import closing
from itertools import pairwise
from pathlib import Path

from commitlog.reader import FileLogReader
from tests.commitlog.log_support import opened, read_partition, record
from tests.log_fakes import FakeClock

HOUR_MS = 3_600_000


class TwoClocks(FakeClock):
    """The wall clock steps, the monotonic one goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.monotonic = 1_000

    def monotonic_ms(self) -> int:
        return self.monotonic


def timestamps(data_dir: Path) -> list[int]:
    with closing(FileLogReader(data_dir)) as reader:
        return [one.timestamp for one in read_partition(reader, "telemetry", 0)]


async def test_steps_of_an_hour_both_ways_and_a_boot_in_1970_never_turn_timestamps_back(tmp_path: Path) -> None:
    clock, rng = TwoClocks(), random.Random(3)
    started_ms = clock.now_ms
    appended = 0
    for life in range(6):
        if life == 3:
            clock.now_ms = 60_000  # booted without a battery
        async with opened(tmp_path, clock=clock) as log:
            await log.create_topic("telemetry", 1)
            for _ in range(20):
                clock.now_ms = max(0, clock.now_ms + rng.choice((-HOUR_MS, 1_000, 1_000, HOUR_MS)))
                clock.monotonic += 1_000
                await log.append([record("telemetry", "a", b"%d" % appended)])
                appended += 1
            window = await log.roll("telemetry", "test")
            assert window is not None
            assert window.start_ms <= window.end_ms
            assert not log.report.cuts
    found = timestamps(tmp_path)
    assert len(found) == appended == 120
    assert found == sorted(found)
    assert found[0] >= started_ms - HOUR_MS
    with closing(FileLogReader(tmp_path)) as reader:
        assert reader.offset_for_time("telemetry", 0, found[50]) == found.index(found[50])
        windows = reader.windows("telemetry")
    assert [w.offsets[0] for w in windows] == [(first, first + 20) for first in range(0, 120, 20)]
    assert all(a.end_ms <= b.start_ms for a, b in pairwise(windows))


async def test_in_1970_records_carry_the_newest_time_there_was(tmp_path: Path) -> None:
    clock = TwoClocks()
    newest_ms = clock.now_ms
    async with opened(tmp_path, clock=clock) as log:
        await log.create_topic("telemetry", 1)
        await log.append([record("telemetry", "a", "before")])
    clock.now_ms = 0
    async with opened(tmp_path, clock=clock) as log:
        await log.append([record("telemetry", "a", "in 1970")])
        clock.now_ms = newest_ms + 5
        await log.append([record("telemetry", "a", "set")])
    assert timestamps(tmp_path) == [newest_ms, newest_ms, newest_ms + 5]


async def test_looking_at_the_newest_time_does_not_move_it(tmp_path: Path) -> None:
    clock = TwoClocks()
    async with opened(tmp_path, clock=clock) as log:
        await log.create_topic("telemetry", 1)
        before_ms = log.newest_ms
        clock.now_ms += HOUR_MS  # a wrong step, taken back before anything was received
        assert log.newest_ms == before_ms
        clock.now_ms -= HOUR_MS
        await log.append([record("telemetry", "a", "v")])
    assert timestamps(tmp_path) == [before_ms]
