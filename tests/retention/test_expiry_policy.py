"""What leaves the log: the pure policy, by tables and for whatever windows there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commitlog.base import ClosedWindow, TopicInfo
from commitlog.committed import Committed
from retention.expiry import MAX_WINDOWS, Decision, Reason, TopicState, by_limits, for_disk, settled_before
from tests.retention.retention_support import HOUR_MS, SINK, TOPIC_ID, holding, limits, regular, window


def decide(topic: TopicState, *, now_h: float = 100, clock_ok: bool = True, allow_loss: bool = False) -> Decision:
    return by_limits(topic, now_ms=round(now_h * HOUR_MS), clock_ok=clock_ok, allow_loss=allow_loss)


def told(decision: Decision) -> list[tuple[int, int, dict[int, tuple[int, int]], int, Reason]]:
    return [(e.first_number, e.last.number, dict(e.ranges), e.size_bytes, e.reason) for e in decision.expiries]


@pytest.mark.parametrize(
    ("case", "topic", "options", "expected"),
    [
        ("nothing is limited", regular(5, exported=5), {}, []),
        ("window 1 ended at 2 h: not older than 2 h", regular(5, exported=5, max_age_ms=2 * HOUR_MS), {"now_h": 3}, []),
        (
            "and just older",
            regular(5, exported=5, max_age_ms=2 * HOUR_MS),
            {"now_h": 4.001},
            [(0, 1, {0: (0, 20)}, 200, Reason.AGE)],
        ),
        ("never while the clock is wrong", regular(5, exported=5, max_age_ms=1), {"clock_ok": False}, []),
        (
            "size does not ask the clock",
            regular(5, exported=5, max_bytes=450, max_age_ms=1),
            {"clock_ok": False},
            [(0, 1, {0: (0, 20)}, 200, Reason.BYTES)],
        ),
        ("600 bytes are not more than 600", regular(5, exported=5, max_bytes=600), {}, []),
        ("the newest stays", regular(5, exported=5, max_age_ms=1), {}, [(0, 3, {0: (0, 40)}, 400, Reason.AGE)]),
        ("a single window stays", regular(1, exported=1, max_age_ms=1, max_bytes=1), {}, []),
        ("no window at all", regular(0, exported=0, max_age_ms=1, max_bytes=1), {}, []),
        ("only what is exported", regular(5, exported=2, max_age_ms=1), {}, [(0, 1, {0: (0, 20)}, 200, Reason.AGE)]),
        ("nothing is exported", regular(5, exported=0, max_age_ms=1), {}, []),
        ("no sink", regular(5, max_age_ms=1), {}, [(0, 3, {0: (0, 40)}, 400, Reason.AGE)]),
        (
            "what has gone makes no step",
            regular(5, exported=5, gone=2, max_age_ms=1),
            {},
            [(2, 3, {0: (20, 40)}, 200, Reason.AGE)],
        ),
        (
            "one reason at a time: by age first, the next look goes on by size",
            regular(8, exported=8, max_age_ms=2 * HOUR_MS, max_bytes=300),
            {"now_h": 5.5},
            [(0, 2, {0: (0, 30)}, 300, Reason.AGE)],
        ),
        (
            "a bounded number at once",
            regular(50, exported=50, max_age_ms=1),
            {"now_h": 1000},
            [(0, MAX_WINDOWS - 1, {0: (0, 10 * MAX_WINDOWS)}, 100 * MAX_WINDOWS, Reason.AGE)],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_goes(case: str, topic: TopicState, options: dict[str, Any], expected: list[Any]) -> None:
    assert told(decide(topic, **options)) == expected


def test_what_is_due_and_not_exported_is_said_once_for_the_oldest() -> None:
    decision = decide(regular(5, exported=2, max_bytes=100))
    (held,) = decision.held
    assert (held.topic, held.number, held.reason, held.sinks) == ("t", 2, Reason.BYTES, (SINK,))


def test_unexported_windows_go_only_where_the_loss_is_allowed_and_by_themselves() -> None:
    topic = regular(5, exported=2, max_age_ms=1)
    assert told(decide(topic, allow_loss=True)) == [(0, 1, {0: (0, 20)}, 200, Reason.AGE)]
    assert decide(topic, allow_loss=True).expiries[0].unexported == ()
    (expiry,) = decide(regular(5, exported=0, max_age_ms=1), allow_loss=True).expiries
    assert (expiry.unexported, expiry.text, expiry.span) == ((SINK,), "older than max_age, not exported", 40)


def test_every_sink_counts_and_a_checkpoint_without_the_offsets_is_none() -> None:
    topic = regular(5, exported=5, max_age_ms=1)
    two = replace(topic, committed={**topic.committed, "other": Committed(next_window=1, offsets={0: 10})})
    assert told(decide(two)) == [(0, 0, {0: (0, 10)}, 100, Reason.AGE)]
    assert decide(two).held[0].sinks == ("other",)
    short = replace(topic, committed={SINK: Committed(next_window=5, offsets={0: 25})})
    assert told(decide(short)) == [(0, 1, {0: (0, 20)}, 200, Reason.AGE)]


def reaching() -> TopicState:
    """Partition 0 has a segment that reaches from window 1 into window 2; partition 1 wrote in window 0 only."""
    windows = [window(n, {0: (10 * n, 10 * n + 10), 1: (0 if n == 0 else 7, 7)}) for n in range(4)]
    return TopicState(
        info=TopicInfo(name="t", topic_id=TOPIC_ID, partitions=2),
        windows=windows,
        partitions=[holding(0, 0, (0, 10, 50), (10, 25, 60), (25, 40, 70)), holding(1, 0, (0, 7, 30))],
        committed={SINK: Committed(next_window=4, offsets={0: 40, 1: 7})},
        limits=limits(max_age_ms=1),
    )


def test_a_segment_goes_with_the_window_of_its_last_record_and_the_newest_of_a_partition_stays() -> None:
    assert told(decide(reaching())) == [(0, 2, {0: (0, 25)}, 110, Reason.AGE)]
    until_1 = replace(reaching(), committed={SINK: Committed(next_window=2, offsets={0: 20, 1: 7})})
    assert told(decide(until_1)) == [(0, 0, {0: (0, 10)}, 50, Reason.AGE)]


def test_rows_of_windows_are_forgotten_when_nothing_more_of_them_can_go() -> None:
    after = replace(reaching(), partitions=[holding(0, 25, (25, 40, 70)), holding(1, 0, (0, 7, 30))])
    settled = settled_before(after, now_ms=100 * HOUR_MS, clock_ok=True)
    assert settled == 3, "though partition 1 still has its only segment"
    assert settled_before(reaching(), now_ms=100 * HOUR_MS, clock_ok=True) == 0, "what can go has to go first"
    assert settled_before(after, now_ms=100 * HOUR_MS, clock_ok=False) == 0, "not due without a clock, and not all gone"


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        (regular(5, exported=5, gone=3), 3),
        (regular(5, exported=2, gone=3), 2),
        (regular(5, gone=5), 4),
        (regular(5, exported=5), 0),
        (regular(0, exported=0), 0),
    ],
)
def test_rows_are_forgotten_when_gone_and_every_sink_is_past_them(topic: TopicState, expected: int) -> None:
    assert settled_before(topic, now_ms=0, clock_ok=True) == expected


def other(count: int, *, exported: int, later_h: int) -> TopicState:
    """Another topic, whose windows end some hours later."""
    topic = regular(count, exported=exported, topic="u", topic_id="cd" * 16)
    windows = [replace(one, end_ms=one.end_ms + later_h * HOUR_MS) for one in topic.windows]
    return replace(topic, windows=windows)


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (1, {"t": 0}),
        (100, {"t": 0}),
        (101, {"t": 1}),
        (201, {"t": 2}),
        (301, {"t": 2, "u": 0}),
        (501, {"t": 3, "u": 1}),
        (10**9, {"t": 3, "u": 3}),
    ],
)
def test_for_the_disk_the_oldest_windows_of_all_topics_go(free: int, expected: dict[str, int]) -> None:
    topics = [other(5, exported=5, later_h=2.5), regular(5, exported=5)]  # type: ignore[arg-type]
    decision = for_disk(topics, free_bytes=free, allow_loss=False)
    assert {one.info.name: one.last.number for one in decision.expiries} == expected
    assert {one.reason for one in decision.expiries} == {Reason.DISK}


def test_for_the_disk_exported_windows_go_before_older_ones_that_are_not() -> None:
    topics = [regular(5, exported=0), other(5, exported=5, later_h=50)]
    decision = for_disk(topics, free_bytes=10**9, allow_loss=True)
    assert [(one.info.name, one.unexported) for one in decision.expiries] == [("u", ())]
    topics = [regular(5, exported=0), other(5, exported=0, later_h=50)]
    assert for_disk(topics, free_bytes=10**9, allow_loss=False).expiries == ()
    assert {held.topic for held in for_disk(topics, free_bytes=1, allow_loss=False).held} == {"t", "u"}
    assert [one.info.name for one in for_disk(topics, free_bytes=1, allow_loss=True).expiries] == ["t"]


@st.composite
def topics(draw: st.DrawFn) -> TopicState:
    """Windows over some partitions, segments that end where windows do or elsewhere, sinks anywhere."""
    partitions = draw(st.integers(1, 3))
    count = draw(st.integers(0, 8))
    ends = [0] * partitions
    windows: list[ClosedWindow] = []
    for number in range(count):
        before = list(ends)
        ends = [end + draw(st.integers(0, 9)) for end in ends]
        windows.append(window(number, {p: (before[p], ends[p]) for p in range(partitions)}))
    holdings = [_holding(draw, p, [one.offsets[p][1] for one in windows], ends[p]) for p in range(partitions)]
    return TopicState(
        info=TopicInfo(name="t", topic_id=TOPIC_ID, partitions=partitions),
        windows=windows,
        partitions=holdings,
        committed=_committed(draw, windows),
        limits=limits(max_age_ms=draw(st.integers(0, 8 * HOUR_MS)), max_bytes=draw(st.integers(0, 2000))),
    )


def _holding(draw: st.DrawFn, partition: int, ends: Sequence[int], last: int) -> Any:
    high = last + draw(st.integers(0, 5))
    cuts = sorted({0, *ends, *draw(st.lists(st.integers(0, max(1, high)), max_size=4)), high})
    kept = cuts[draw(st.integers(0, max(0, len(cuts) - 2))) :]
    spans = [(first, following, draw(st.integers(1, 300))) for first, following in pairwise(kept)]
    return holding(partition, kept[0], *spans)


def _committed(draw: st.DrawFn, windows: Sequence[ClosedWindow]) -> dict[str, Committed]:
    sinks = draw(st.lists(st.integers(0, len(windows)), max_size=2))
    found = {}
    for index, through in enumerate(sinks):
        offsets = {p: n for p, (_, n) in windows[through - 1].offsets.items()} if through else {}
        found[f"s{index}"] = Committed(next_window=through, offsets=offsets)
    return found


@given(topic=topics(), now_h=st.integers(0, 12), clock_ok=st.booleans(), free=st.integers(1, 5000), allow=st.booleans())
def test_never_the_newest_nor_what_a_sink_wants_and_only_whole_segments(
    topic: TopicState, now_h: int, clock_ok: bool, free: int, allow: bool
) -> None:
    limited = by_limits(topic, now_ms=now_h * HOUR_MS, clock_ok=clock_ok, allow_loss=allow)
    for decision in (limited, for_disk([topic], free_bytes=free, allow_loss=allow)):
        for expiry in decision.expiries:
            assert expiry.last.number < topic.windows[-1].number
            assert expiry.span > 0
            assert bool(expiry.unexported) == bool(topic.behind(expiry.last))
            for holding_ in topic.partitions:
                first, following = expiry.ranges.get(holding_.partition, (0, 0))
                if first == following:
                    continue
                assert first == holding_.log_start
                assert following <= expiry.last.offsets[holding_.partition][1]
                assert following in {one.base_offset for one in holding_.segments}, "what stays begins there"
                for committed in topic.committed.values():
                    assert allow or following <= committed.offset(holding_.partition)
        if not allow:
            assert all(not expiry.unexported for expiry in decision.expiries)
    if not clock_ok:
        assert all(expiry.reason is not Reason.AGE for expiry in limited.expiries)


@given(topic=topics(), now_h=st.integers(0, 12), later_h=st.integers(0, 12))
def test_what_goes_once_goes_later_too(topic: TopicState, now_h: int, later_h: int) -> None:
    """Monotone: more time, and more exported, never keeps what would have gone."""
    now = by_limits(topic, now_ms=now_h * HOUR_MS, clock_ok=True, allow_loss=False)
    later = by_limits(topic, now_ms=(now_h + later_h) * HOUR_MS, clock_ok=True, allow_loss=False)
    no_sink = by_limits(replace(topic, committed={}), now_ms=now_h * HOUR_MS, clock_ok=True, allow_loss=False)
    for expiry in now.expiries:
        for more in (later, no_sink):
            assert more.expiries
            assert more.expiries[0].last.number >= expiry.last.number or more.expiries[0].reason != expiry.reason


@given(topic=topics(), now_h=st.integers(0, 12), clock_ok=st.booleans())
def test_forgotten_windows_are_a_beginning_that_every_sink_has_passed(
    topic: TopicState, now_h: int, clock_ok: bool
) -> None:
    before = settled_before(topic, now_ms=now_h * HOUR_MS, clock_ok=clock_ok)
    forgotten = [one for one in topic.windows if one.number < before]
    assert len(forgotten) < max(1, len(topic.windows))
    for one in forgotten:
        assert not topic.behind(one)
        assert topic.leaving_bytes(one) == 0
