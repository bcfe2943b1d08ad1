"""One device: its pace, its silences, and its patience."""

from __future__ import annotations

import asyncio
import itertools
import random

from core.clock import SystemClock
from devices.simulator.device import Device, Identity
from devices.simulator.link import Timing
from devices.simulator.outbox import Outbox
from devices.simulator.pace import Backoff, Schedule
from devices.simulator.tcp_link import TcpLink
from tests.conftest import wait_until_async
from tests.devices.simulator_box import FakeBox


def test_ticks_follow_their_period_and_never_pass_each_other() -> None:
    schedule = Schedule(2.0, random.Random(1), 100.0)
    now_s, dues = 100.0, []
    for expected in range(50):
        tick, due_s, missed = schedule.advance(now_s)
        assert (tick, missed) == (expected, 0)
        dues.append(due_s)
        now_s = max(now_s, due_s)
    assert 99.8 <= dues[0] <= 102.2
    gaps = [after - before for before, after in itertools.pairwise(dues)]
    assert all(1.6 <= gap <= 2.4 for gap in gaps)
    assert len(set(gaps)) > 40
    assert abs(dues[-1] - dues[0] - 98.0) <= 0.4, "jitter does not add up"


def test_a_short_delay_is_made_up_for() -> None:
    schedule = Schedule(1.0, random.Random(1), 0.0)
    assert [schedule.advance(5.0)[0] for _ in range(3)] == [0, 1, 2]


def test_what_was_due_in_a_long_stop_is_missed_and_counted() -> None:
    schedule = Schedule(1.0, random.Random(1), 0.0)
    first, _, _ = schedule.advance(0.0)
    tick, due_s, missed = schedule.advance(3600.0)
    assert (first, tick) == (0, missed + 1)
    assert 3590 < missed < 3600
    assert 3598.5 < due_s < 3601
    assert schedule.advance(3600.0)[2] == 0


def test_pauses_double_up_to_the_longest_and_start_again_after_an_answer() -> None:
    backoff = Backoff(0.5, 10.0, random.Random(1))
    for longest_s in (0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0):
        backoff.failed()
        pauses = {backoff.pause_s() for _ in range(50)}
        assert all(longest_s / 2 <= pause_s <= longest_s for pause_s in pauses)
        assert len(pauses) > 40
    for _ in range(5000):
        backoff.failed()
    assert backoff.pause_s() <= 10.0
    backoff.succeeded()
    assert backoff.pause_s() <= 0.5


class Metronome:
    """A machine that is silent at every odd tick."""

    def silent(self, tick: int) -> bool:
        """Odd ticks."""
        return tick % 2 == 1

    def reading(self, tick: int) -> dict[str, int]:
        """The tick itself."""
        return {"tick": tick}


async def test_silence_takes_a_tick_but_no_number() -> None:
    async with FakeBox().listening() as box:
        identity = Identity(
            device_id="pump-0001", protocol="tcp", host="127.0.0.1", port=box.tcp_port, seed=1, period_s=0.01
        )
        timing = Timing()
        device = Device(
            identity,
            Metronome(),
            Outbox(100),
            lambda outbox, on_progress: TcpLink(outbox, timing, on_progress),
            timing=timing,
            clock=SystemClock(),
            gate=asyncio.Semaphore(1),
        )
        task = asyncio.create_task(device.stay_connected())
        device.start()
        await wait_until_async(lambda: len(box.arrivals["pump-0001"]) > 10)
        device.stop_reading()
        await asyncio.wait_for(device.drained(), 10)
        task.cancel()
        await asyncio.wait({task})
    payloads = [arrival.payload for arrival in box.arrivals["pump-0001"]]
    assert [(payload["seq"], payload["tick"]) for payload in payloads] == [
        (number + 1, 2 * number) for number in range(len(payloads))
    ]
    assert device.report().skipped == 0
