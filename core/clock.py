"""Time as a parameter: everything that needs a clock is handed one, so that tests can hold it still.

A box's wall clock cannot be trusted: it starts in 1970 where no battery keeps it, is set by hand, and jumps when the
network tells the time. The monotonic clock can, but knows no date. `ClockWatch` holds one against the other:

    ok       they agree, and the wall clock is past the newest record
    behind   the wall clock is before the newest record: it was set back, is not set yet, or had been ahead
    stepped  it has jumped against the monotonic clock within the last hour

Nothing may be expired by age unless the state is `ok`.
"""

from __future__ import annotations

import time
from enum import Enum
from typing import Final, Protocol


class Clock(Protocol):
    """Wall time and monotonic time of the box."""

    def time_ms(self) -> int:
        """Wall-clock milliseconds since the Unix epoch (UTC); may step in either direction."""
        ...

    def monotonic_ms(self) -> int:
        """Milliseconds that only go forward, comparable between the processes of one boot."""
        ...


class SystemClock:
    """The operating system's clocks."""

    def time_ms(self) -> int:
        """Wall-clock milliseconds since the Unix epoch (UTC)."""
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        """Milliseconds of CLOCK_MONOTONIC."""
        return time.monotonic_ns() // 1_000_000


STEP_MS: Final = 2_000  # more than a correction by slewing (0.05 %) makes between looks, less than any step that hurts
SETTLE_MS: Final = 3_600_000  # an hour in which somebody can see it, before the new time counts as the right one


class ClockState(Enum):
    """How far the wall clock can be trusted."""

    OK = "ok"
    BEHIND = "behind"
    STEPPED = "stepped"


class ClockWatch:
    """Finds steps of the wall clock. `look` is to be called every second or so."""

    def __init__(self, clock: Clock) -> None:
        self.state = ClockState.OK
        self.last_step_ms = 0
        """How far the last step went; negative: backwards."""
        self._clock = clock
        self._ahead_ms = clock.time_ms() - clock.monotonic_ms()
        self._stepped_at_ms: int | None = None

    def look(self, newest_ms: int) -> ClockState:
        """The state now, where the newest record carries `newest_ms`."""
        now_ms, monotonic_ms = self._clock.time_ms(), self._clock.monotonic_ms()
        step_ms = now_ms - monotonic_ms - self._ahead_ms
        self._ahead_ms += step_ms
        if abs(step_ms) >= STEP_MS:
            self.last_step_ms = step_ms
            self._stepped_at_ms = monotonic_ms
        if newest_ms - now_ms >= STEP_MS:
            self.state = ClockState.BEHIND
        elif self._stepped_at_ms is not None and monotonic_ms - self._stepped_at_ms < SETTLE_MS:
            self.state = ClockState.STEPPED
        else:
            self.state = ClockState.OK
        return self.state
