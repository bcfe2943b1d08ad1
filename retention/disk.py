"""The disk: how much may be in use, how much is, and how long that lasts. Pure: figures in, decisions out.

One budget for the box, or its file system. Above the *high* mark windows have to go, until less than the *low* mark is
in use; between the two, what began goes on and what did not does not begin (so that a box at its mark does not delete
one segment every few seconds).

    ok      --in use reaches high--> over
    over    --in use below low--> ok
    stuck   over, and nothing may go: sinks have not exported what is there, or it is not the log that fills the disk
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Final

DAY_MS: Final = 86_400_000
SAMPLE_MS: Final = 300_000  # between two samples of the growth
MAX_SAMPLES: Final = 289  # a day of them
ENOUGH_MS: Final = 3_600_000  # what has to have been seen before anything is said
MAX_DAYS: Final = 3_650.0  # growth that would take longer is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """In bytes: what is the most, and where deleting begins and ends."""

    limit_bytes: int
    high_bytes: int
    low_bytes: int


def budget_marks(budget_bytes: int, *, high_percent: int, low_percent: int) -> Marks:
    """The marks of a budget for log and lake."""
    return Marks(
        limit_bytes=budget_bytes,
        high_bytes=budget_bytes * high_percent // 100,
        low_bytes=budget_bytes * low_percent // 100,
    )


def file_system_marks(total_bytes: int, *, needed_bytes: int, high_percent: int, low_percent: int) -> Marks:
    """The marks of a file system, on which `needed_bytes` have to be free for readings to be accepted.

    Deleting begins while a quarter more than that is still free: on a small disk the percentage would come too late.
    """
    limit_bytes = max(0, total_bytes - needed_bytes)
    high_bytes = max(0, min(total_bytes * high_percent // 100, limit_bytes - needed_bytes // 4))
    return Marks(limit_bytes=limit_bytes, high_bytes=high_bytes, low_bytes=high_bytes * low_percent // high_percent)


class DiskPressure(Enum):
    """See the module."""

    OK = "ok"
    OVER = "over"
    STUCK = "stuck"


def pressure_after(before: DiskPressure, *, used_bytes: int, marks: Marks) -> DiskPressure:
    """The state by what is in use now; whether it is stuck is found by trying."""
    if used_bytes >= marks.high_bytes:
        return before if before is not DiskPressure.OK else DiskPressure.OVER
    if used_bytes < marks.low_bytes:
        return DiskPressure.OK
    return before


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """When the disk will be full if it goes on as in the last day: `unknown`, `steady` (never), or `growing`."""

    state: str
    bytes_per_day: float | None = None
    days_left: float | None = None


UNKNOWN: Final = Forecast(state="unknown")


class Growth:
    """What was in use, every few minutes of the last day. By the monotonic clock; nothing is kept over a restart."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, int]] = deque(maxlen=MAX_SAMPLES)

    def note(self, monotonic_ms: int, used_bytes: int) -> None:
        """What is in use now; most calls come too early to be kept."""
        if not self._samples or monotonic_ms - self._samples[-1][0] >= SAMPLE_MS:
            self._samples.append((monotonic_ms, used_bytes))

    def forecast(self, limit_bytes: int) -> Forecast:
        """By the straight line through all samples. What retention deletes meanwhile has shrunk what was in use."""
        if len(self._samples) < 2 or self._samples[-1][0] - self._samples[0][0] < ENOUGH_MS:
            return UNKNOWN
        per_day = _slope(list(self._samples)) * DAY_MS
        left_bytes = max(0, limit_bytes - self._samples[-1][1])
        if per_day <= 0 or left_bytes / per_day > MAX_DAYS:
            return Forecast(state="steady", bytes_per_day=per_day)
        return Forecast(state="growing", bytes_per_day=per_day, days_left=left_bytes / per_day)


def _slope(samples: list[tuple[int, int]]) -> float:
    """Bytes per millisecond, by least squares."""
    mean_at = sum(at for at, _ in samples) / len(samples)
    mean_used = sum(used for _, used in samples) / len(samples)
    covariance = sum((at - mean_at) * (used - mean_used) for at, used in samples)
    return covariance / sum((at - mean_at) ** 2 for at, _ in samples)
