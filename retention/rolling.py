"""When windows close: pure decisions, no clock and no I/O.

Windows close at wall-clock multiples, as seen on the wall clock or, should that be set back or stand still, when as
much monotonic time has passed as was left to the multiple. Whichever comes first; the next boundary is a multiple.

A box is late by a *jitter* of its own, always the same: a fleet's boxes, which all know the time, do not export in the
same second, and each box's windows still are equally long.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

_MOST_GRACE_MS: Final = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """When windows close next: at `wall_ms` on the wall clock, or at `monotonic_ms` on the monotonic one."""

    wall_ms: int
    monotonic_ms: int

    def passed(self, *, now_ms: int, monotonic_ms: int) -> bool:
        """Whether it is time, by either clock."""
        return now_ms >= self.wall_ms or monotonic_ms >= self.monotonic_ms


def jitter_ms(box_id: str, most_ms: int) -> int:
    """How late this box closes its windows: 0 to `most_ms`, the same whenever it is asked."""
    digest = hashlib.sha256(box_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") % (most_ms + 1)


def next_boundary_ms(now_ms: int, interval_ms: int, late_ms: int = 0) -> int:
    """The first wall-clock multiple of the interval (UTC), put off by `late_ms`, after `now_ms`."""
    return ((now_ms - late_ms) // interval_ms + 1) * interval_ms + late_ms


def next_boundary(*, now_ms: int, monotonic_ms: int, interval_ms: int, late_ms: int = 0) -> Boundary:
    """The boundary after now.

    The monotonic clock is given a tenth of the interval more, at most a minute: a wall clock that is merely being
    corrected must come first, or a sliver of a window would follow.
    """
    wall_ms = next_boundary_ms(now_ms, interval_ms, late_ms)
    grace_ms = min(interval_ms // 10, _MOST_GRACE_MS)
    return Boundary(wall_ms=wall_ms, monotonic_ms=monotonic_ms + wall_ms - now_ms + grace_ms)


def roll_reason(*, now_ms: int, monotonic_ms: int, boundary: Boundary, grown_bytes: int, roll_bytes: int) -> str | None:
    """Why a topic's window should close now: `time`, `size`, or None if it should not."""
    if boundary.passed(now_ms=now_ms, monotonic_ms=monotonic_ms):
        return "time"
    if grown_bytes >= roll_bytes:
        return "size"
    return None
