from __future__ import annotations

from collections.abc import Iterator

import pytest

from commitlog.base import Slice, WriterState
from core.errors import UnavailableError
from devices.status import StatusView
from devices.tail import BEHIND_AFTER_MS, StatusTail, TailState
from tests.conftest import wait_until
from tests.log_fakes import FakeClock, FakeLog, FakeReader


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def log(clock: FakeClock) -> FakeLog:
    log = FakeLog(clock)
    log.topic("telemetry")
    log.topic("device.events")
    return log


@pytest.fixture
def tail(log: FakeLog, clock: FakeClock) -> Iterator[StatusTail]:
    tail = StatusTail(StatusView(max_devices=100), log.reader, clock)
    yield tail
    tail.stop()


def test_it_replays_then_follows(log: FakeLog, clock: FakeClock) -> None:
    view = StatusView(max_devices=100)
    tail = StatusTail(view, log.reader, clock)
    for number in range(500):
        log.reading(f"d{number % 7}")
    assert tail.status().state is TailState.REPLAYING
    assert tail.status().as_of_ms is None
    tail.start()
    try:
        wait_until(lambda: tail.caught_up, describe="caught up")
        assert view.fed_records == 500
        log.reading("late")
        wait_until(lambda: view.get(b"late", current=True), describe="the new reading")
        assert tail.status().state is TailState.LIVE
    finally:
        tail.stop()


def test_what_is_told_while_it_replays(log: FakeLog, clock: FakeClock) -> None:
    view = StatusView(max_devices=100)
    tail = StatusTail(view, log.reader, clock)
    for number in range(100):
        log.append("telemetry", b"d", b"x", partition=0, time_ms=number)
    states = []

    class Watching(FakeReader):
        def read(self, topic: str, partition: int, offset: int, *, max_bytes: int = 1 << 20) -> Slice:
            states.append((tail.status().state, tail.status().replayed, tail.status().lag_records))
            return super().read(topic, partition, offset)

    tail.round(Watching(log, max_records=25))
    assert [state for state, _, _ in states] == [TailState.REPLAYING] * 4
    assert [share for _, share, _ in states] == [0.0, 0.25, 0.5, 0.75]
    assert [lag for _, _, lag in states] == [100, 75, 50, 25]
    assert tail.status().state is TailState.LIVE
    assert tail.status().lag_records == 0


def test_a_dead_writer_is_stale_and_comes_back(log: FakeLog, tail: StatusTail) -> None:
    tail.round(log.reader())
    assert tail.status().current
    log.state = WriterState.STALE
    tail.round(log.reader())
    assert tail.status().state is TailState.STALE
    assert not tail.status().current
    log.state = WriterState.LIVE
    tail.round(log.reader())
    assert tail.status().state is TailState.LIVE


def test_it_is_behind_when_rounds_no_longer_end(log: FakeLog, clock: FakeClock, tail: StatusTail) -> None:
    tail.round(log.reader())
    clock.now_ms += BEHIND_AFTER_MS
    assert tail.status().state is TailState.LIVE
    clock.now_ms += 1
    assert tail.status().state is TailState.BEHIND
    assert not tail.status().current


def test_the_rate_is_of_the_last_seconds_and_not_of_the_replay(
    log: FakeLog, clock: FakeClock, tail: StatusTail
) -> None:
    for _ in range(1000):
        log.reading("d")
    tail.round(log.reader())
    assert tail.status().records_per_s is None
    for _ in range(8):
        clock.now_ms += 1000
        for _ in range(20):
            log.reading("d")
        tail.round(log.reader())
    assert tail.status().records_per_s == pytest.approx(20)


def test_a_log_that_cannot_be_read_is_said_and_tried_again(log: FakeLog, clock: FakeClock) -> None:
    log.failure = UnavailableError("the run file is missing")
    opened: list[FakeReader] = []

    def open_reader() -> FakeReader:
        opened.append(log.reader())
        return opened[-1]

    tail = StatusTail(StatusView(max_devices=10), open_reader, clock)
    tail.start()
    try:
        wait_until(lambda: tail.status().state is TailState.FAILED, describe="failed")
        assert "the run file is missing" in (tail.status().failure or "")
        log.failure = None
        wait_until(lambda: tail.status().state is TailState.LIVE, describe="live again")
        assert len(opened) >= 2
        assert opened[0].closed
    finally:
        tail.stop()
    assert opened[-1].closed


def test_topics_that_appear_later_are_followed(log: FakeLog, clock: FakeClock) -> None:
    view = StatusView(max_devices=10)
    tail = StatusTail(view, log.reader, clock)
    tail.round(log.reader())
    log.append("other", b"d", b"x")
    tail.round(log.reader())
    assert view.get(b"d", current=True) is not None


def test_a_topic_made_anew_is_read_from_its_start(log: FakeLog, clock: FakeClock) -> None:
    view = StatusView(max_devices=10)
    tail = StatusTail(view, log.reader, clock)
    log.event("d", "connected", "s1")
    tail.round(log.reader())
    del log.infos["device.events"]
    log.infos["filler"] = log.infos["telemetry"]
    log.topic("device.events")
    tail.round(log.reader())
    status = view.get(b"d", current=True)
    assert status is not None
    assert status.connected is None
    log.event("d", "connected", "s2")
    tail.round(log.reader())
    again = view.get(b"d", current=True)
    assert again is not None
    assert again.connected is True


def test_gaps_in_readings_are_passed_over(log: FakeLog, clock: FakeClock) -> None:
    view = StatusView(max_devices=10)
    tail = StatusTail(view, log.reader, clock)
    log.append("telemetry", b"d", b"1", partition=2)
    log.skip("telemetry", 2, 5)
    log.append("telemetry", b"d", b"2", partition=2)
    tail.round(log.reader())
    status = view.get(b"d", current=True)
    assert status is not None
    assert status.last is not None
    assert status.last.offset == 6


def test_a_reader_that_ends_before_the_high_watermark_is_waited_for(log: FakeLog, tail: StatusTail) -> None:
    log.append("telemetry", b"d", b"1", partition=0)

    class Short(FakeReader):
        def read(self, topic: str, partition: int, offset: int, *, max_bytes: int = 1 << 20) -> Slice:
            return Slice(records=[], next_offset=offset)

    tail.round(Short(log))
    assert tail.status().state is TailState.REPLAYING
    assert tail.status().lag_records == 1
    tail.round(log.reader())
    assert tail.status().state is TailState.LIVE
