"""When a device does things: its readings on a schedule, its attempts to connect with growing pauses. Pure."""

from __future__ import annotations

import random
from typing import Final

JITTER_SHARE: Final = 0.1  # of the period, either way: devices that fell into step fall out of it again
MAX_BEHIND_S: Final = 1.0  # a simulator that was stopped for longer (or ten periods) skips instead of bursting
MAX_DOUBLINGS: Final = 16  # keeps the arithmetic finite; the longest pause is reached well before


class Schedule:
    """Ticks 0, 1, ... at every period from a start of the device's own, each a little early or late."""

    def __init__(self, period_s: float, draw: random.Random, now_s: float) -> None:
        self._period_s = period_s
        self._random = draw
        self._start_s = now_s + draw.random() * period_s
        self._next_tick = 0

    def advance(self, now_s: float) -> tuple[int, float, int]:
        """The next tick, when it is due (loop time, seconds), and how many before it are given up as missed."""
        due_s = self._start_s + self._next_tick * self._period_s
        behind_s = now_s - due_s
        missed = int(behind_s / self._period_s) if behind_s > max(MAX_BEHIND_S, 10 * self._period_s) else 0
        tick = self._next_tick + missed
        self._next_tick = tick + 1
        due_s += missed * self._period_s
        return tick, due_s + self._period_s * self._random.uniform(-JITTER_SHARE, JITTER_SHARE), missed


class Backoff:
    """Pauses that double from the shortest to the longest, each drawn from the upper half of its range."""

    def __init__(self, min_s: float, max_s: float, draw: random.Random) -> None:
        self._min_s = min_s
        self._max_s = max_s
        self._random = draw
        self._failures = 0

    def failed(self) -> None:
        """Another connection came to nothing, or nothing has come of it yet."""
        self._failures += 1

    def succeeded(self) -> None:
        """The box answers: the next pause is a short one again."""
        self._failures = 0

    def pause_s(self) -> float:
        """How long to wait before the next attempt."""
        doublings = min(max(self._failures - 1, 0), MAX_DOUBLINGS)
        return min(self._max_s, self._min_s * 2.0**doublings) * self._random.uniform(0.5, 1.0)
