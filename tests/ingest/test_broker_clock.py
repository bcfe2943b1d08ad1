"""The box's clock is set while sessions and wills count down: nothing ends by it."""

from __future__ import annotations

from pathlib import Path

from ingest.broker.clock_steps import LEAST_STEP_MS, ClockSteps
from tests.ingest.broker_client import MqttClient
from tests.ingest.edge_box import edge_box
from tests.ingest.test_broker_sessions import vanish
from tests.ingest.test_broker_wills import will


class Hands:
    """A wall clock and a monotonic one, moved by hand."""

    def __init__(self) -> None:
        self.wall = 1_000_000
        self.monotonic = 5_000

    def pass_ms(self, ms: int) -> None:
        self.wall += ms
        self.monotonic += ms


def test_time_that_passes_is_no_step() -> None:
    hands = Hands()
    steps = ClockSteps(lambda: hands.wall, lambda: hands.monotonic)
    for _ in range(100):
        hands.pass_ms(1_000)
        hands.wall += 10  # drift
        assert abs(steps.take()) in (0, LEAST_STEP_MS)


def test_a_step_is_told_once() -> None:
    hands = Hands()
    steps = ClockSteps(lambda: hands.wall, lambda: hands.monotonic)
    hands.pass_ms(1_000)
    hands.wall += 3_600_000
    assert steps.take() == 3_600_000
    assert steps.take() == 0
    hands.wall -= 3_600_000
    assert steps.take() == -3_600_000


async def test_sessions_and_wills_count_on_where_they_were(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await MqttClient.open(box, "c", will=will(300), session_expiry_interval_s=600)
        await vanish(box, client, "c")
        box.clock.step_ms = 50 * 365 * 86_400_000  # NTP sets the clock of a box that had none
        box.pass_time(0)
        assert "c" in box.broker.sessions
        assert box.broker.counters.wills == 0
        box.pass_time(290)
        assert box.broker.counters.wills == 0
        box.pass_time(20)
        assert box.broker.counters.wills == 1
        assert "c" in box.broker.sessions
        box.pass_time(300)
        assert "c" not in box.broker.sessions
