from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commitlog.base import ClosedWindow
from sink.base import joined
from sink.holding import MAX_JOINED, Holding

HOUR_MS = 3_600_000


def closed(*spans: int) -> list[ClosedWindow]:
    """Consecutive windows of an hour each, with so many offsets in partition 0."""
    found, first = [], 0
    for number, span in enumerate(spans):
        found.append(
            ClosedWindow(
                topic="t",
                topic_id="0" * 32,
                number=number,
                start_ms=number * HOUR_MS,
                end_ms=(number + 1) * HOUR_MS,
                offsets={0: (first, first + span), 1: (5, 5)},
                reason="time",
            )
        )
        first += span
    return found


def numbers(windows: Sequence[ClosedWindow]) -> list[int]:
    return [window.number for window in windows]


@pytest.mark.parametrize(
    ("spans", "now_h", "due"),
    [
        pytest.param([], 9, [], id="nothing"),
        pytest.param([100], 1, [0], id="large enough"),
        pytest.param([100, 5], 2, [0], id="large ones go alone"),
        pytest.param([5], 1, [], id="tiny: held"),
        pytest.param([5, 6, 7], 3, [], id="tiny ones: held together"),
        pytest.param([5, 100, 3], 3, [0, 1], id="published with the next one"),
        pytest.param([60, 60, 60], 3, [0, 1], id="enough together"),
        pytest.param([5], 7, [0], id="held as long as it may be"),
        pytest.param([5, 5, 5, 5, 5, 5, 5], 1, [0, 1, 2, 3, 4, 5, 6], id="clock set back: their own times count"),
    ],
)
def test_which_windows_are_due(spans: list[int], now_h: int, due: list[int]) -> None:
    holding = Holding(small_records=100, hold_ms=6 * HOUR_MS)
    assert numbers(holding.due(closed(*spans), now_ms=now_h * HOUR_MS)) == due


def test_who_asks_gets_what_is_held_and_not_more() -> None:
    holding = Holding(small_records=100, hold_ms=6 * HOUR_MS)
    assert numbers(holding.due(closed(5, 5), now_ms=2 * HOUR_MS, flush_through=0)) == [0, 1]
    assert numbers(holding.due(closed(5, 5)[1:], now_ms=2 * HOUR_MS, flush_through=0)) == []


@pytest.mark.parametrize(
    ("spans", "asked", "units"),
    [
        pytest.param([100, 5, 6], {}, [[0]], id="the tail is held"),
        pytest.param([100, 5, 95, 7], {}, [[0], [1, 2]], id="unit by unit"),
        pytest.param([100, 5, 6], {"flush_through": 1}, [[0], [1, 2]], id="asked for"),
        pytest.param([5, 6, 100, 7], {"begun": 1}, [[0, 1], [2]], id="begun first"),
    ],
)
def test_units_end_where_holding_back_begins(spans: list[int], asked: dict[str, int], units: list[list[int]]) -> None:
    holding = Holding(small_records=100, hold_ms=6 * HOUR_MS)
    found = holding.units(closed(*spans), now_ms=4 * HOUR_MS, **asked)
    assert [numbers(unit) for unit in found] == units


def test_a_hole_ends_a_unit_and_what_is_behind_it_waits_too() -> None:
    before, _, after = closed(5, 5, 500)
    holding = Holding(small_records=100, hold_ms=6 * HOUR_MS)
    assert list(holding.units([before, after], now_ms=2 * HOUR_MS)) == []
    assert [numbers(unit) for unit in holding.units([before, after], now_ms=9 * HOUR_MS)] == [[0], [2]]


def test_what_was_begun_is_ended_as_it_was() -> None:
    holding = Holding(small_records=100, hold_ms=6 * HOUR_MS)
    assert numbers(holding.due(closed(5, 5, 500), now_ms=0, begun=1)) == [0, 1]


def test_windows_with_a_hole_between_them_are_not_joined() -> None:
    before, _, after = closed(5, 5, 500)
    assert numbers(Holding(small_records=100).due([before, after], now_ms=10**9)) == [0]


def test_joined_windows_are_bounded() -> None:
    holding = Holding(small_records=10**6, hold_ms=10**12)
    assert len(holding.due(closed(*[1] * (MAX_JOINED + 5)), now_ms=0)) == MAX_JOINED


def _one_by_one(holding: Holding, left: Sequence[ClosedWindow]) -> Iterator[Sequence[ClosedWindow]]:
    """What `due` gives as the runner asks it: for what is left, again and again."""
    while due := holding.due(left, now_ms=10**12):
        yield list(due)
        left = left[len(due) :]


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(0, 100), st.integers(0, 10))
def test_windows_come_out_once_in_order_and_without_a_hole(spans: list[int], small: int, hold_h: int) -> None:
    windows = closed(*spans)
    holding = Holding(small_records=small, hold_ms=hold_h * HOUR_MS)
    seen: list[int] = []
    left: Sequence[ClosedWindow] = windows
    assert [list(unit) for unit in holding.units(windows, now_ms=10**12)] == list(_one_by_one(holding, windows))
    while due := holding.due(left, now_ms=10**12):
        seen += numbers(due)
        unit = joined(due)
        assert (unit.first_number, unit.number) == (due[0].number, due[-1].number)
        assert unit.span == sum(window.span for window in due)
        left = left[len(due) :]
    assert seen == list(range(len(windows)))


def test_joined_spans_all_partitions() -> None:
    first, second = closed(3, 4)
    second = replace(second, offsets={**second.offsets, 2: (0, 9)})
    unit = joined([first, second])
    assert unit.offsets == {0: (0, 7), 1: (5, 5), 2: (0, 9)}
    assert (unit.start_ms, unit.end_ms) == (0, 2 * HOUR_MS)
