"""When windows close: pure decisions, no clock and no I/O.

Windows close at wall-clock multiples, as seen on the wall clock or, should that be set back or stand still, when as
much monotonic time has passed as was left to the multiple. Whichever comes first; the next boundary is a multiple.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_MOST_GRACE_MS: Final = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """When windows close next: at `wall_ms` on the wall clock, or at `monotonic_ms` on the monotonic one."""

    wall_ms: int
    monotonic_ms: int


def next_boundary_ms(now_ms: int, interval_ms: int) -> int:
    """The first wall-clock multiple of the interval (UTC) after `now_ms`."""
    return (now_ms // interval_ms + 1) * interval_ms


def next_boundary(*, now_ms: int, monotonic_ms: int, interval_ms: int) -> Boundary:
    """The boundary after now.

    The monotonic clock is given a tenth of the interval more, at most a minute: a wall clock that is merely being
    corrected must come first, or a sliver of a window would follow.
    """
    wall_ms = next_boundary_ms(now_ms, interval_ms)
    grace_ms = min(interval_ms // 10, _MOST_GRACE_MS)
    return Boundary(wall_ms=wall_ms, monotonic_ms=monotonic_ms + wall_ms - now_ms + grace_ms)


def roll_reason(*, now_ms: int, monotonic_ms: int, boundary: Boundary, grown_bytes: int, roll_bytes: int) -> str | None:
    """Why a topic's window should close now: `time`, `size`, or None if it should not."""
    if now_ms >= boundary.wall_ms or monotonic_ms >= boundary.monotonic_ms:
        return "time"
    if grown_bytes >= roll_bytes:
        return "size"
    return None
