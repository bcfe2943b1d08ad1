"""What waits in all queues together is counted in rounds of bounded slices, and bounded by ending the longest."""

from __future__ import annotations

import pytest

from ingest.broker import backlog
from ingest.broker.backlog import Backlog
from ingest.broker.queue import Kind, QueueLimits
from ingest.broker.session import MqttSession

KIND = Kind(log_topic="telemetry", partition=0, qos=1, retain=False, identifiers=())


def waiting_with(*counts: int) -> dict[MqttSession, None]:
    """Sessions with so many messages each."""
    sessions: dict[MqttSession, None] = {}
    for number, count in enumerate(counts):
        session = MqttSession(
            f"client {number}", level=5, expiry_s=60, created_ms=0, username=None, limits=QueueLimits()
        )
        session.number = number
        for offset in range(count):
            session.queue.append(KIND, offset)
        sessions[session] = None
    return sessions


def size_bytes_of(sessions: dict[MqttSession, None]) -> int:
    return sum(session.queue.size_bytes for session in sessions)


@pytest.fixture
def slice_of_4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "SLICE", 4)


@pytest.mark.usefixtures("slice_of_4")
def test_a_second_looks_at_no_more_than_a_slice_and_the_figures_are_those_of_a_whole_round() -> None:
    waiting = waiting_with(*range(10))
    backlog_of_all = Backlog(waiting, max_size_bytes=1 << 20, overflowed=lambda session: pytest.fail("none is to end"))
    empty = next(iter(waiting))
    seen = []
    for _ in range(3):
        backlog_of_all.look()
        seen.append((backlog_of_all.messages, backlog_of_all.size_bytes, empty in waiting))
    assert seen == [(0, 0, True), (0, 0, True), (sum(range(10)), size_bytes_of(waiting), False)]


@pytest.mark.usefixtures("slice_of_4")
def test_what_ends_or_begins_to_wait_within_a_round_is_counted_right() -> None:
    waiting = waiting_with(*[1] * 10)
    backlog_of_all = Backlog(waiting, max_size_bytes=1 << 20, overflowed=lambda session: pytest.fail("none is to end"))
    backlog_of_all.look()
    for session in list(waiting)[:3]:
        del waiting[session]
    waiting.update(waiting_with(5))
    for _ in range(2):
        backlog_of_all.look()
    assert backlog_of_all.messages == 7
    for _ in range(2):
        backlog_of_all.look()
    assert backlog_of_all.messages == 12


@pytest.mark.usefixtures("slice_of_4")
def test_the_longest_of_the_round_end_until_the_rest_fits() -> None:
    waiting = waiting_with(10, 500, 20, 30, 900, 40, 700, 50)
    longest = sorted(waiting, key=lambda session: session.queue.count)[-3:]
    fits = size_bytes_of(waiting) - size_bytes_of(dict.fromkeys(longest[1:]))
    ended: list[MqttSession] = []
    backlog_of_all = Backlog(waiting, max_size_bytes=fits, overflowed=ended.append)
    backlog_of_all.look()
    assert not ended
    backlog_of_all.look()
    assert [session.queue.count for session in ended] == [900, 700]
    assert not set(ended) & set(waiting)
    assert (backlog_of_all.messages, backlog_of_all.size_bytes) == (650, fits)


def test_where_a_round_may_not_end_enough_the_next_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "LONGEST", 2)
    waiting = waiting_with(100, 200, 300, 400, 500)
    ended: list[MqttSession] = []
    backlog_of_all = Backlog(waiting, max_size_bytes=0, overflowed=ended.append)
    so_far = []
    for _ in range(4):
        backlog_of_all.look()
        so_far.append(len(ended))
    assert so_far == [2, 4, 5, 5]
    assert [session.queue.count for session in ended] == [500, 400, 300, 200, 100]
    assert not waiting
    assert (backlog_of_all.messages, backlog_of_all.size_bytes) == (0, 0)
