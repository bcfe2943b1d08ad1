"""Steps of the box's clock: nothing ends early because the clock was set.

Times at which sessions end and wills are due are wall-clock times, since they have to survive a restart. A box that
starts without a clock and is set by NTP a minute later would find all of them passed. So the wall clock is watched
against the monotonic one, and where it has stepped, what is counting moves with it (docs/decisions/0015-clocks.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

LEAST_STEP_MS: Final = 2_000  # less is drift, or a tick that came late


class ClockSteps:
    """Asked about once a second."""

    def __init__(self, wall_ms: Callable[[], int], monotonic_ms: Callable[[], int]) -> None:
        self._wall_ms = wall_ms
        self._monotonic_ms = monotonic_ms
        self._ahead_ms = wall_ms() - monotonic_ms()

    def take(self) -> int:
        """How far the wall clock has stepped since it was asked last, in milliseconds; negative: backwards."""
        ahead_ms = self._wall_ms() - self._monotonic_ms()
        step_ms = ahead_ms - self._ahead_ms
        if abs(step_ms) < LEAST_STEP_MS:
            return 0
        self._ahead_ms = ahead_ms
        return step_ms
