from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commitlog.base import Header
from devices.status_model import DeviceStatus
from tests.devices.status_box import START_MS, StatusBox
from tests.devices.status_model import TOO_LARGE, Heard, SlowDevice

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.text(max_size=4), st.just("x" * 300))
NESTED = st.dictionaries(st.sampled_from(["x", "y"]), st.one_of(SCALARS, st.just({}), st.just({"z": 1})), max_size=2)
ROWS = st.fixed_dictionaries(
    {},
    optional={
        "a": SCALARS,
        "b": st.one_of(SCALARS, NESTED),
        "c": st.one_of(NESTED, st.lists(st.integers(0, 9), max_size=3)),
        "long": st.just("x" * 1100),
        "ts": st.integers(START_MS - 10**7, START_MS + 10**7),
    },
)
PAYLOADS = st.one_of(
    st.tuples(ROWS, st.just("")),
    st.tuples(st.lists(ROWS, min_size=1, max_size=3), st.just("")),
    st.tuples(st.builds(lambda rows: {"readings": rows}, st.lists(ROWS, min_size=1, max_size=3)), st.just("")),
    st.tuples(SCALARS.filter(lambda value: value is not None), st.sampled_from(["a", "value", "temp"])),
)
GAPS_MS = st.one_of(st.integers(0, 1200), st.integers(1000, 20_000), st.sampled_from([499, 500, 5000, 300_000]))


def told(status: DeviceStatus) -> dict[str, tuple[int, Any]]:
    assert status.fields is not None
    return {
        path: (one.time_ms, TOO_LARGE if one.value is None else json.loads(one.value))
        for path, one in status.fields.items()
    }


@given(st.lists(st.tuples(GAPS_MS, PAYLOADS), min_size=1, max_size=30), GAPS_MS)
@settings(max_examples=150, deadline=None)
def test_the_view_agrees_with_one_that_keeps_everything(
    readings: list[tuple[int, tuple[Any, str]]], rest_ms: int
) -> None:
    box, slow = StatusBox(), SlowDevice()
    for gap_ms, (payload, field) in readings:
        box.after(gap_ms)
        value = json.dumps(payload).encode()
        headers: list[Header] = [("headrace.field", field.encode())] if field else []
        slow.heard.append(Heard(box.clock.now_ms, value, headers))
        box.log.append("telemetry", b"d", value, headers)
    box.after(rest_ms)
    status = box.status("d")
    assert told(status) == slow.fields()
    assert (status.rate_1m, status.rate_15m) == pytest.approx(slow.rates(box.clock.now_ms), abs=1e-12)
    assert (status.silence.state, status.silence.since_ms) == slow.silence(box.clock.now_ms)
    assert status.clock_skew_ms == slow.skew()
    assert (status.messages, status.undecodable) == (len(readings), 0)
    assert (status.first_seen_ms, status.last_seen_ms) == (slow.heard[0].time_ms, slow.heard[-1].time_ms)


@given(st.lists(st.integers(-6, 8), max_size=60), st.booleans())
@settings(max_examples=150, deadline=None)
def test_numbers_that_never_came_and_came_twice_are_counted(steps: list[int], in_rows: bool) -> None:
    """Numbers that go to and fro by less than the window: what is counted is what a list of all of them says."""
    box, slow, number = StatusBox(), SlowDevice(), 1000
    for step in [1, *steps]:
        number = max(1001, number + step)
        rows: Any = [{"seq": number, "a": 1}, {"seq": number + 1}] if in_rows else {"seq": number}
        value = json.dumps(rows).encode()
        slow.heard.append(Heard(box.clock.now_ms, value))
        box.log.append("telemetry", b"d", value)
    numbering = box.status("d").numbering
    assert numbering is not None
    numbers = [row["seq"] for one in slow.heard for row in one.rows]
    if max((max(numbers[:at]) - one for at, one in enumerate(numbers) if at), default=0) < 64:
        assert (numbering.missing, numbering.duplicates) == slow.missing_and_duplicates()
        assert (numbering.newest, numbering.restarts) == (max(numbers), 0)
