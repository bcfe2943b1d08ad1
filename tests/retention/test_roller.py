"""Windows close at wall-clock multiples and by size: policy pure, worker against a scripted log."""

from __future__ import annotations

from typing import Any

import pytest

from commitlog.base import ClosedWindow, TopicInfo
from retention.policy import next_boundary_ms, roll_reason
from retention.roller import Roller
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
    assert roll_reason(now_ms=now, boundary_ms=10, grown_bytes=grown, roll_bytes=100) == expected


class FakeClock:
    def __init__(self) -> None:
        self.now_ms = 0

    def time_ms(self) -> int:
        return self.now_ms

    def monotonic_ms(self) -> int:
        return self.now_ms


class ScriptedLog:
    """Knows two topics and how much each has grown; notes what is rolled."""

    def __init__(self) -> None:
        self.grown = {"a": 0, "b": 0}
        self.rolled: list[tuple[str, str]] = []

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
    roller = Roller(log, RetentionSettings(roll_interval="10s"), clock)  # type: ignore[arg-type]
    log.grown["a"] = 5
    clock.now_ms = 9_999
    boundary = await roller.look(10_000)
    assert log.rolled == []
    clock.now_ms = 25_000
    boundary = await roller.look(boundary)
    assert log.rolled == [("a", "time"), ("b", "time")]
    assert boundary == 30_000
    assert roller.closed == {("a", "time"): 1}
    await roller.look(boundary)
    assert len(log.rolled) == 2


async def test_a_topic_that_has_grown_rolls_early_alone() -> None:
    log, clock = ScriptedLog(), FakeClock()
    roller = Roller(log, RetentionSettings(roll_interval="1h", roll_bytes="1MB"), clock)  # type: ignore[arg-type]
    log.grown["b"] = 1 << 20
    await roller.look(3_600_000)
    assert log.rolled == [("b", "size")]
