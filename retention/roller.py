"""Closes windows on time: runs in the process that writes the log, and decides by `retention.rolling`.

It also keeps an eye on the clock, since whoever decides by time has to know how far it can be trusted.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from commitlog.base import ClosedWindow, Log, TopicInfo
from core.clock import Clock, ClockState, ClockWatch
from retention.limits import TopicLimits
from retention.rolling import Boundary, jitter_ms, next_boundary, roll_reason

_LOOK_S: Final = 0.25  # how often sizes are looked at, and how late a window may close
_log = structlog.get_logger("headrace.retention")


class RollableLog(Log, Protocol):
    """What the roller needs of the log beyond `Log`."""

    def topics(self) -> Sequence[TopicInfo]:
        """Every topic."""
        ...

    def bytes_since_roll(self, topic: str) -> int:
        """About how many bytes a topic has taken in since its last window closed."""
        ...

    @property
    def newest_ms(self) -> int:
        """The newest time that a record carries, or may carry."""
        ...


class Roller:
    """Rolls topics at aligned wall-clock boundaries, each at its own interval, and early where one has grown enough."""

    def __init__(self, log: RollableLog, limits: TopicLimits, clock: Clock, *, box_id: str = "") -> None:
        """`box_id` decides how late within the jitter this box closes its windows."""
        self.closed: Counter[tuple[str, str]] = Counter()
        """Windows closed since the start, by topic and reason."""
        self._log = log
        self._limits = limits
        self._clock = clock
        self._box_id = box_id
        self._boundaries: dict[tuple[int, int], Boundary] = {}  # by interval and lateness: most topics share one
        self._watch = ClockWatch(clock)

    @property
    def clock_state(self) -> ClockState:
        """How far the wall clock could be trusted at the last look."""
        return self._watch.state

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_S)

    async def look(self) -> None:
        """Roll what is due. A topic's first boundary is the one after the first look at it."""
        self._look_at_clock()
        now_ms, monotonic_ms = self._clock.time_ms(), self._clock.monotonic_ms()
        due: dict[TopicInfo, str] = {}
        boundaries: dict[tuple[int, int], Boundary] = {}
        for topic in self._log.topics():
            limits = self._limits.of(topic.name)
            at = limits.roll_interval_ms, jitter_ms(self._box_id, limits.roll_jitter_ms)
            boundary = self._boundaries.get(at) or self._next_boundary(*at)
            boundaries[at] = boundary
            reason = roll_reason(
                now_ms=now_ms,
                monotonic_ms=monotonic_ms,
                boundary=boundary,
                grown_bytes=self._log.bytes_since_roll(topic.name),
                roll_bytes=limits.roll_bytes,
            )
            if reason is not None:
                due[topic] = reason
        self._boundaries = {
            at: self._next_boundary(*at) if one.passed(now_ms=now_ms, monotonic_ms=monotonic_ms) else one
            for at, one in boundaries.items()
        }
        for topic, reason in due.items():
            await self.roll(topic.name, reason)

    def _next_boundary(self, interval_ms: int, late_ms: int) -> Boundary:
        return next_boundary(
            now_ms=self._clock.time_ms(),
            monotonic_ms=self._clock.monotonic_ms(),
            interval_ms=interval_ms,
            late_ms=late_ms,
        )

    def _look_at_clock(self) -> None:
        before = self._watch.state
        state = self._watch.look(self._log.newest_ms)
        if state is before:
            return
        if state is ClockState.OK:
            _log.info("the clock can be trusted again", before=before.value)
            return
        _log.warning(
            "the clock cannot be trusted",
            what={
                ClockState.BEHIND: "it is before the newest record, whose time records carry until it is past it",
                ClockState.STEPPED: f"it has jumped by {self._watch.last_step_ms / 1000:.0f} s",
            }[state],
            mend="nothing is expired by age meanwhile; is the time synchronised (chrony, systemd-timesyncd)?",
        )

    async def roll(self, topic: str, reason: str) -> ClosedWindow | None:
        """Close a topic's window, if there is anything in it."""
        window = await self._log.roll(topic, reason)
        if window is not None:
            self.closed[topic, reason] += 1
            _log.info("window closed", topic=topic, number=window.number, records=window.span, reason=reason)
        return window
