from __future__ import annotations

import pytest

from sink.payload.times import US_PER_DAY, Skew, compact_utc, day_name, device_time_us, received_us, time_us
from sink.settings import SinkSettings

RECEIVED = 1_763_633_700_000_000  # 2025-11-20T10:15:00Z


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1_763_633_700, RECEIVED),
        (1_763_633_700.25, RECEIVED + 250_000),
        (1_763_633_700_123, RECEIVED + 123_000),
        (1_763_633_700_123.5, RECEIVED + 123_500),
        (1_763_633_700_123_456, RECEIVED + 123_456),
        (1_763_633_700_123_456_789, RECEIVED + 123_456),
        (0, 0),
        ("2025-11-20T10:15:00Z", RECEIVED),
        ("2025-11-20t10:15:00z", RECEIVED),
        ("2025-11-20 10:15:00Z", RECEIVED),
        ("2025-11-20T11:15:00.123456789+01:00", RECEIVED + 123_456),
        ("2025-11-20T10:15:00.5Z", RECEIVED + 500_000),
        ("2016-12-31T23:59:60Z", 1_483_228_800_000_000),
    ],
)
def test_times_are_read_by_magnitude_or_rfc_3339(value: object, expected: int) -> None:
    assert time_us(value) == expected
    assert device_time_us(value, expected, Skew(ahead_us=0, behind_us=0)) == expected


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -1,
        "",
        "yesterday",
        "1763633700",
        "2025-11-20",
        "2025-11-20T10:15:00",
        "2025-13-20T10:15:00Z",
        "2025-11-20T10:15:00+25:00",
        "٢025-11-20T10:15:00Z",
        [1],
        4_102_444_800,
        10**30,
        1e300,
        "1969-12-31T23:59:59Z",
        "2100-01-01T00:00:00Z",
    ],
)
def test_what_says_no_time_is_none(value: object) -> None:
    assert time_us(value) is None
    assert device_time_us(value, RECEIVED, Skew(ahead_us=2**62, behind_us=2**62)) is None


@pytest.mark.parametrize(
    ("skew", "seconds", "believed"),
    [
        (Skew(), 86_400, True),
        (Skew(), 86_401, False),
        (Skew(), -400 * 86_400, True),
        (Skew(), -400 * 86_400 - 1, False),
        (Skew(ahead_us=0), 0, True),
        (Skew(ahead_us=0), 1, False),
        (Skew(behind_us=0), 0, True),
        (Skew(behind_us=0), -1, False),
    ],
)
def test_a_clock_is_believed_within_the_skew(skew: Skew, seconds: int, believed: bool) -> None:
    us = device_time_us(1_763_633_700 + seconds, RECEIVED, skew)
    assert us == (RECEIVED + seconds * 1_000_000 if believed else None)


def test_skew_comes_from_settings_in_seconds() -> None:
    given = SinkSettings.model_validate({"max_clock_ahead": "90s", "max_clock_behind": "2d"})
    assert Skew.of_seconds(given.max_clock_ahead_s, given.max_clock_behind_s) == Skew(
        ahead_us=90_000_000, behind_us=2 * US_PER_DAY
    )
    assert Skew.of_seconds(SinkSettings().max_clock_ahead_s, SinkSettings().max_clock_behind_s) == Skew()


@pytest.mark.parametrize(
    ("timestamp_ms", "expected"), [(-1, 0), (1_000, 1_000_000), (2**63 - 1, 4_102_444_799_999_999)]
)
def test_record_timestamps_are_held_in_range(timestamp_ms: int, expected: int) -> None:
    assert received_us(timestamp_ms) == expected


def test_names() -> None:
    assert day_name(0) == "1970-01-01"
    assert compact_utc(1_763_633_700_999) == "20251120T101500Z"
