"""Closes windows on time: runs in the process that writes the log, and decides by `retention.policy`.

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
from retention.policy import Boundary, next_boundary, roll_reason
from retention.settings import RetentionSettings

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
    """Rolls every topic at aligned wall-clock boundaries, and early where one has grown enough."""

    def __init__(self, log: RollableLog, settings: RetentionSettings, clock: Clock) -> None:
        self.closed: Counter[tuple[str, str]] = Counter()
        """Windows closed since the start, by topic and reason."""
        self._log = log
        self._settings = settings
        self._clock = clock
        self._watch = ClockWatch(clock)

    @property
    def clock_state(self) -> ClockState:
        """How far the wall clock could be trusted at the last look."""
        return self._watch.state

    async def run(self) -> None:
        """Look until cancelled."""
        boundary = self.next_boundary()
        while True:
            await asyncio.sleep(_LOOK_S)
            boundary = await self.look(boundary)

    def next_boundary(self) -> Boundary:
        """When windows close next, as the clocks stand now."""
        return next_boundary(
            now_ms=self._clock.time_ms(),
            monotonic_ms=self._clock.monotonic_ms(),
            interval_ms=self._settings.roll_interval_ms,
        )

    async def look(self, boundary: Boundary) -> Boundary:
        """Roll what is due; returns the boundary to look for next."""
        self._look_at_clock()
        now_ms, monotonic_ms = self._clock.time_ms(), self._clock.monotonic_ms()
        due = now_ms >= boundary.wall_ms or monotonic_ms >= boundary.monotonic_ms
        following = self.next_boundary() if due else boundary
        for topic in self._log.topics():
            reason = roll_reason(
                now_ms=now_ms,
                monotonic_ms=monotonic_ms,
                boundary=boundary,
                grown_bytes=self._log.bytes_since_roll(topic.name),
                roll_bytes=self._settings.roll_bytes,
            )
            if reason is not None:
                await self.roll(topic.name, reason)
        return following

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
