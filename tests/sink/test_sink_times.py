from __future__ import annotations

import pytest

from sink.times import compact_utc, day_name, device_time_us, received_us

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
    assert device_time_us(value, RECEIVED) == expected


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
        1_763_633_700 + 86_401,
    ],
)
def test_what_says_no_sensible_time_is_none(value: object) -> None:
    assert device_time_us(value, RECEIVED) is None


def test_a_day_ahead_is_still_believed() -> None:
    assert device_time_us(1_763_633_700 + 86_400, RECEIVED) == RECEIVED + 86_400_000_000


@pytest.mark.parametrize(
    ("timestamp_ms", "expected"), [(-1, 0), (1_000, 1_000_000), (2**63 - 1, 4_102_444_799_999_999)]
)
def test_record_timestamps_are_held_in_range(timestamp_ms: int, expected: int) -> None:
    assert received_us(timestamp_ms) == expected


def test_names() -> None:
    assert day_name(0) == "1970-01-01"
    assert compact_utc(1_763_633_700_999) == "20251120T101500Z"
