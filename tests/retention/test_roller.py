"""Windows close at wall-clock multiples and by size: policy pure, worker against a scripted log."""

from __future__ import annotations

from typing import Any

import pytest

from commitlog.base import ClosedWindow, TopicInfo
from commitlog.settings import TopicSettings
from retention.limits import TopicLimits
from retention.roller import Roller
from retention.rolling import Boundary, jitter_ms, next_boundary, next_boundary_ms, roll_reason
from retention.settings import RetentionSettings


@pytest.mark.parametrize(
    ("now", "interval", "expected"),
    [(0, 1000, 1000), (999, 1000, 1000), (1000, 1000, 2000), (3_600_001, 3_600_000, 7_200_000)],
)
def test_boundaries_are_multiples_after_now(now: int, interval: int, expected: int) -> None:
    assert next_boundary_ms(now, interval) == expected


@pytest.mark.parametrize(
    ("now", "grown", "expected"), [(9, 0, None), (10, 0, "time"), (9, 100, "size"), (10, 100, "time")]
)
def test_reasons(now: int, grown: int, expected: str | None) -> None:
    boundary = Boundary(wall_ms=10, monotonic_ms=1_000)
    found = roll_reason(now_ms=now, monotonic_ms=0, boundary=boundary, grown_bytes=grown, roll_bytes=100)
    assert found == expected


def test_the_monotonic_clock_rolls_where_the_wall_clock_does_not() -> None:
    boundary = next_boundary(now_ms=7_000, monotonic_ms=100, interval_ms=10_000)
    assert boundary == Boundary(wall_ms=10_000, monotonic_ms=100 + 3_000 + 1_000)
    for monotonic_ms, expected in ((4_099, None), (4_100, "time")):
        found = roll_reason(now_ms=-1, monotonic_ms=monotonic_ms, boundary=boundary, grown_bytes=0, roll_bytes=100)
        assert found == expected


def test_a_clock_that_is_only_slow_is_waited_for() -> None:
    hour_ms = 3_600_000
    boundary = next_boundary(now_ms=0, monotonic_ms=0, interval_ms=hour_ms)
    assert boundary.monotonic_ms - hour_ms == 60_000 > hour_ms * 0.0005


def limits(*topics: TopicSettings, **settings: Any) -> TopicLimits:
    """Without jitter, unless it is given."""
    return TopicLimits(RetentionSettings(**{"roll_jitter": "0", **settings}), topics)


class FakeClock:
    def __init__(self) -> None:
        self.now_ms = 0
        self.monotonic = 0

    def time_ms(self) -> int:
        return self.now_ms

    def monotonic_ms(self) -> int:
        return self.monotonic

    def pass_ms(self, elapsed_ms: int) -> None:
        self.now_ms += elapsed_ms
        self.monotonic += elapsed_ms


class ScriptedLog:
    """Knows two topics and how much each has grown; notes what is rolled."""

    def __init__(self) -> None:
        self.grown = {"a": 0, "b": 0}
        self.rolled: list[tuple[str, str]] = []
        self.newest_ms = 0

    def topics(self) -> list[TopicInfo]:
        return [TopicInfo(name=name, topic_id="00" * 16, partitions=1) for name in self.grown]

    def bytes_since_roll(self, topic: str) -> int:
        return self.grown[topic]

    async def roll(self, topic: str, reason: str) -> ClosedWindow | None:
        self.rolled.append((topic, reason))
        if not self.grown[topic]:
            return None
        return ClosedWindow(
            topic=topic, topic_id="00" * 16, number=0, start_ms=0, end_ms=1, offsets={0: (0, 1)}, reason=reason
        )

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the roller has no business with {name}")


async def test_every_topic_rolls_at_the_boundary_also_when_late_and_only_once() -> None:
    log, clock = ScriptedLog(), FakeClock()
    roller = Roller(log, limits(roll_interval="10s"), clock)  # type: ignore[arg-type]
    log.grown["a"] = 5
    await roller.look()
    clock.pass_ms(9_999)
    await roller.look()
    assert log.rolled == []
    clock.pass_ms(15_001)
    await roller.look()
    assert log.rolled == [("a", "time"), ("b", "time")]
    assert roller.closed == {("a", "time"): 1}
    clock.pass_ms(4_999)
    await roller.look()
    assert len(log.rolled) == 2
    clock.pass_ms(1)
    await roller.look()
    assert len(log.rolled) == 4, "at 30 s, a multiple again"


async def test_a_topic_that_has_grown_rolls_early_alone() -> None:
    log, clock = ScriptedLog(), FakeClock()
    roller = Roller(log, limits(roll_interval="1h", roll_bytes="1MB"), clock)  # type: ignore[arg-type]
    log.grown["b"] = 1 << 20
    await roller.look()
    assert log.rolled == [("b", "size")]


class Box:
    """A roller that looks every quarter of a second, over windows of an hour."""

    HOUR_MS = 3_600_000

    def __init__(self, now_ms: int) -> None:
        self.log, self.clock = ScriptedLog(), FakeClock()
        self.log.grown["a"] = 5
        self.clock.now_ms = now_ms
        self.log.newest_ms = now_ms
        self.roller = Roller(self.log, limits(roll_interval="1h"), self.clock)  # type: ignore[arg-type]

    async def begun(self) -> Box:
        await self.roller.look()
        return self

    async def rolls(self, elapsed_ms: int) -> list[int]:
        """Let time pass; the wall-clock minutes at which windows closed, in minutes since the epoch."""
        at: list[int] = []
        for _ in range(elapsed_ms // 10_000):
            self.clock.pass_ms(10_000)
            self.log.rolled.clear()
            await self.roller.look()
            if self.log.rolled:
                at.append(self.clock.now_ms // 60_000)
        return at


async def test_a_step_back_of_an_hour_closes_the_window_once_by_the_monotonic_clock_then_aligned() -> None:
    box = await Box(now_ms=10 * Box.HOUR_MS).begun()
    assert await box.rolls(30 * 60_000) == []
    box.clock.now_ms -= Box.HOUR_MS
    # The boundary at 11:00 stays what it was; the wall clock shows 10:01 when as much time as was left has passed.
    assert await box.rolls(3 * Box.HOUR_MS) == [10 * 60 + 1, 11 * 60, 12 * 60]
    assert box.roller.clock_state.value == "ok", "newest record was at 10:00, and the step is over an hour ago"


async def test_a_step_forward_of_an_hour_closes_the_window_at_once_then_aligned() -> None:
    box = await Box(now_ms=10 * Box.HOUR_MS).begun()
    assert await box.rolls(30 * 60_000) == []
    box.clock.now_ms += Box.HOUR_MS
    assert await box.rolls(2 * Box.HOUR_MS) == [11 * 60 + 30, 12 * 60, 13 * 60]


async def test_a_boot_in_1970_closes_windows_all_the_same_and_says_behind() -> None:
    box = Box(now_ms=0)
    box.log.newest_ms = 1_800_000_000_000
    await box.begun()
    assert await box.rolls(2 * Box.HOUR_MS) == [60, 120]
    assert box.roller.clock_state.value == "behind"


async def test_a_wall_clock_that_stands_still_does_not_keep_windows_open() -> None:
    box = await Box(now_ms=10 * Box.HOUR_MS).begun()
    rolled = 0
    for _ in range(3 * 360):
        box.clock.monotonic += 10_000
        box.log.rolled.clear()
        await box.roller.look()
        rolled += bool(box.log.rolled)
    assert rolled == 2, "every hour and a minute"


async def test_a_topic_may_have_an_interval_and_a_size_of_its_own() -> None:
    log, clock = ScriptedLog(), FakeClock()
    own = TopicSettings(name="b", roll_interval="2s", roll_bytes="1MB")
    roller = Roller(log, limits(own, roll_interval="10s", roll_bytes="2MB"), clock)  # type: ignore[arg-type]
    await roller.look()
    for _ in range(10):
        clock.pass_ms(1000)
        await roller.look()
    assert log.rolled == [("b", "time")] * 4 + [("a", "time"), ("b", "time")]
    log.rolled.clear()
    log.grown = dict.fromkeys(("a", "b"), 1 << 20)
    await roller.look()
    assert log.rolled == [("b", "size")]


async def test_a_box_closes_its_windows_at_a_second_of_its_own_and_they_are_all_as_long() -> None:
    closed: dict[str, list[int]] = {}
    for box_id in ("a1", "b2", "c3"):
        log, clock = ScriptedLog(), FakeClock()
        log.grown = {"a": 5}
        roller = Roller(log, limits(roll_interval="1h", roll_jitter="30s"), clock, box_id=box_id)  # type: ignore[arg-type]
        await roller.look()
        at = closed[box_id] = []
        for _ in range(3 * 3600):
            clock.pass_ms(1000)
            log.rolled.clear()
            await roller.look()
            at += [clock.now_ms // 1000] * len(log.rolled)
    for at in closed.values():
        late = {second % 3600 for second in at[-2:]}
        assert len(late) == 1
        assert late.pop() <= 30
        assert at[-1] - at[-2] == 3600
    assert len({at[-1] for at in closed.values()}) == 3


@pytest.mark.parametrize("most", [0, 1, 1000, 30_000])
def test_jitter_is_fixed_and_within_its_bound(most: int) -> None:
    found = {jitter_ms(f"box {number}", most) for number in range(500)}
    assert found <= set(range(most + 1))
    assert len(found) >= min(most + 1, 300)
    assert jitter_ms("box 7", most) == jitter_ms("box 7", most)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (3_600_000, 30_000, 1 << 30)),
        ({"roll_interval": "10s"}, (10_000, 1000, 1 << 30)),
        ({"max_bytes": "400MB"}, (3_600_000, 30_000, 100 << 20)),
        ({"disk_budget": "800MB"}, (3_600_000, 30_000, 100 << 20)),
        ({"disk_budget": "800MB", "max_bytes": "40MB"}, (3_600_000, 30_000, 10 << 20)),
    ],
)
def test_windows_stay_far_below_what_the_log_may_hold(settings: dict[str, str], expected: tuple[int, int, int]) -> None:
    found = TopicLimits(RetentionSettings(**settings)).of("t")
    assert (found.roll_interval_ms, found.roll_jitter_ms, found.roll_bytes) == expected
