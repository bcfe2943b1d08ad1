from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.units import (
    format_duration_ms,
    format_duration_s,
    format_size_bytes,
    parse_duration_ms,
    parse_duration_s,
    parse_size_bytes,
)


@pytest.mark.parametrize(
    ("text", "value_ms"),
    [("10ms", 10), ("1.5s", 1500), ("5m", 300_000), (" 1 h ", 3_600_000), ("7d", 604_800_000), ("0", 0), (0, 0)],
)
def test_durations_are_read_with_their_unit(text: object, value_ms: int) -> None:
    assert parse_duration_ms(text) == value_ms


@pytest.mark.parametrize(("text", "size"), [("64KB", 65536), ("1b", 1), ("1.5MB", 1_572_864), ("2gb", 2 << 30)])
def test_sizes_are_binary(text: str, size: int) -> None:
    assert parse_size_bytes(text) == size


@pytest.mark.parametrize("value", [10, 1.5, True, None, "", "10", "ten ms", "10 parsecs", "-5ms", "1e3ms", [1]])
def test_what_has_no_unit_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"unit|quantity|not a number"):
        parse_duration_ms(value)
    with pytest.raises(ValueError, match=r"unit|quantity|not a number"):
        parse_size_bytes(value)


@pytest.mark.parametrize(
    ("text", "written"),
    [("60s", "1m"), ("90s", "90s"), ("1000ms", "1s"), ("0ms", "0"), ("36h", "36h"), ("1500ms", "1500ms")],
)
def test_durations_are_written_in_the_largest_whole_unit(text: str, written: str) -> None:
    assert format_duration_ms(parse_duration_ms(text)) == written


def test_sizes_are_written_in_the_largest_whole_unit() -> None:
    assert [format_size_bytes(size) for size in (0, 1, 1024, 1536, 256 << 20)] == ["0", "1B", "1KB", "1536B", "256MB"]


@given(st.integers(min_value=0, max_value=10**15))
def test_integers_survive_the_round_trip(value: int) -> None:
    assert parse_duration_ms(format_duration_ms(value)) == value
    assert parse_size_bytes(format_size_bytes(value)) == value


@given(st.integers(min_value=1, max_value=10**9), st.sampled_from(["us", "ms", "s", "m", "h"]))
def test_seconds_survive_the_round_trip(count: int, unit: str) -> None:
    value = parse_duration_s(f"{count}{unit}")
    assert parse_duration_s(format_duration_s(value)) == value


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_seconds_with_a_fraction_are_read_back(value: float) -> None:
    assert parse_duration_s(format_duration_s(value)) == pytest.approx(value, rel=1e-12)
