"""Steps of the wall clock against the monotonic one."""

from __future__ import annotations

import pytest

from core.clock import SETTLE_MS, ClockState, ClockWatch

HOUR_MS = 3_600_000
NOON_MS = 1_800_000_000_000


class TwoClocks:
    def __init__(self, now_ms: int = NOON_MS) -> None:
        self.now_ms, self.monotonic = now_ms, 5_000

    def time_ms(self) -> int:
        return self.now_ms

    def monotonic_ms(self) -> int:
        return self.monotonic

    def pass_ms(self, elapsed_ms: int) -> None:
        self.now_ms += elapsed_ms
        self.monotonic += elapsed_ms


def test_an_ordinary_clock_is_ok_also_when_it_is_slewed() -> None:
    clock = TwoClocks()
    watch = ClockWatch(clock)
    for _ in range(10_000):
        clock.pass_ms(1000)
        clock.now_ms += 1  # 1,000 ppm, twice what a kernel slews
        assert watch.look(clock.now_ms) is ClockState.OK


@pytest.mark.parametrize("step_ms", [HOUR_MS, -HOUR_MS])
def test_a_step_is_told_until_it_has_settled(step_ms: int) -> None:
    clock = TwoClocks()
    watch = ClockWatch(clock)
    clock.now_ms += step_ms
    assert watch.look(0) is ClockState.STEPPED
    assert watch.last_step_ms == step_ms
    clock.pass_ms(SETTLE_MS - 1)
    assert watch.look(0) is ClockState.STEPPED
    clock.pass_ms(1)
    assert watch.look(0) is ClockState.OK


def test_behind_until_it_is_past_the_newest_record() -> None:
    clock = TwoClocks()
    watch = ClockWatch(clock)
    clock.now_ms -= HOUR_MS
    assert watch.look(NOON_MS) is ClockState.BEHIND
    clock.pass_ms(HOUR_MS + 1)
    assert watch.look(NOON_MS) is ClockState.OK


def test_a_boot_in_1970_is_behind_then_stepped_when_the_time_is_set() -> None:
    clock = TwoClocks(now_ms=60_000)
    watch = ClockWatch(clock)
    assert watch.look(NOON_MS) is ClockState.BEHIND
    clock.now_ms = NOON_MS + HOUR_MS
    assert watch.look(NOON_MS) is ClockState.STEPPED
    clock.pass_ms(SETTLE_MS)
    assert watch.look(NOON_MS) is ClockState.OK


def test_a_new_box_without_a_record_in_1970_is_ok() -> None:
    clock = TwoClocks(now_ms=60_000)
    assert ClockWatch(clock).look(0) is ClockState.OK
