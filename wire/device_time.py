"""Time as devices write it, turned into microseconds since the epoch (UTC).

Numbers are epoch time whose unit shows in the magnitude: below 1e11 seconds, below 1e14 milliseconds, below 1e17
microseconds, beyond that nanoseconds (each unit holds 1973 to 2100 without meeting its neighbour). Text is RFC 3339
with its offset; anything looser is not guessed at. What is finer than a microsecond is cut off.

A clock may be wrong. How far a device's time may be from the time received, before the box's own is used instead, is
the `Skew`: little ahead, since nothing is measured in the future, and much behind, since devices buffer readings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

US_PER_MS: Final = 1_000
US_PER_S: Final = 1_000_000
US_PER_DAY: Final = 86_400 * US_PER_S
END_US: Final = 4_102_444_800 * US_PER_S  # 2100-01-01: no device of today means a later time

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_RFC_3339: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d):(\d\d)(?:\.(\d+))?(?:([Zz])|([+-]\d\d:\d\d))", re.ASCII
)
SECONDS_BELOW: Final = 10**11
MS_FROM: Final = SECONDS_BELOW
"""From here on a number is milliseconds."""
MILLISECONDS_BELOW: Final = 10**14
MICROSECONDS_BELOW: Final = 10**17
MS_TO: Final = END_US // US_PER_MS
"""The first millisecond that no device means (`END_US`)."""


def epoch_us(value: float) -> int | None:
    """Microseconds of a number that is epoch seconds, milli-, micro- or nanoseconds; None before 1970."""
    if value < 0:
        return None
    if value < SECONDS_BELOW:
        return round(value * US_PER_S)
    if value < MILLISECONDS_BELOW:
        return round(value * US_PER_MS)
    return int(value) if value < MICROSECONDS_BELOW else int(value) // 1_000


def rfc3339_us(text: str) -> int | None:
    """Microseconds of an RFC 3339 date-time (section 5.6; a leap second is the start of the next minute), or None."""
    match = _RFC_3339.fullmatch(text)
    if match is None:
        return None
    day, minute, second, fraction, _zulu, offset = match.groups()
    leap = second == "60"
    try:
        moment = datetime.fromisoformat(f"{day}T{minute}:{'59' if leap else second}{offset or '+00:00'}")
    except ValueError:
        return None
    us = (moment - _EPOCH) // timedelta(microseconds=1)
    if leap:
        return us + US_PER_S
    return us + int(((fraction or "") + "000000")[:6])


@dataclass(frozen=True, slots=True, kw_only=True)
class Skew:
    """How far a device's time may be ahead of, or behind, the time received and still be believed."""

    ahead_us: int = US_PER_DAY
    """A time zone mistaken for UTC is within a day."""
    behind_us: int = 400 * US_PER_DAY
    """A year of buffered readings and some; a clock that begins in 1970 or 2000 is beyond it."""

    @classmethod
    def of_seconds(cls, ahead_s: float, behind_s: float) -> Skew:
        """From settings."""
        return cls(ahead_us=round(ahead_s * US_PER_S), behind_us=round(behind_s * US_PER_S))


def time_us(value: Any) -> int | None:
    """The time that a decoded value says, from 1970 to 2099, or None when it says none."""
    kind = type(value)
    if kind is int or kind is float:
        us = epoch_us(value)
    elif kind is str:
        us = rfc3339_us(value)
    else:
        return None
    return us if us is not None and 0 <= us < END_US else None


def device_time_us(value: Any, received_us: int, skew: Skew) -> int | None:
    """`time_us`, but None also when it is further from `received_us` than `skew` allows."""
    us = time_us(value)
    if us is None or us > received_us + skew.ahead_us or us < received_us - skew.behind_us:
        return None
    return us
