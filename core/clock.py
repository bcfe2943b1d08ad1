"""Time as a parameter: everything that needs a clock is handed one, so that tests can hold it still."""

from __future__ import annotations

import time
from typing import Protocol


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
