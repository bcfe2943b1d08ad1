"""Closes windows on time: runs in the process that writes the log, and decides by `retention.policy`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from commitlog.base import ClosedWindow, Log, TopicInfo
from core.clock import Clock
from retention.policy import next_boundary_ms, roll_reason
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


class Roller:
    """Rolls every topic at aligned wall-clock boundaries, and early where one has grown enough."""

    def __init__(self, log: RollableLog, settings: RetentionSettings, clock: Clock) -> None:
        self.closed: Counter[tuple[str, str]] = Counter()
        """Windows closed since the start, by topic and reason."""
        self._log = log
        self._settings = settings
        self._clock = clock

    async def run(self) -> None:
        """Look until cancelled."""
        boundary_ms = next_boundary_ms(self._clock.time_ms(), self._settings.roll_interval_ms)
        while True:
            await asyncio.sleep(_LOOK_S)
            boundary_ms = await self.look(boundary_ms)

    async def look(self, boundary_ms: int) -> int:
        """Roll what is due; returns the boundary to look for next."""
        now_ms = self._clock.time_ms()
        for topic in self._log.topics():
            reason = roll_reason(
                now_ms=now_ms,
                boundary_ms=boundary_ms,
                grown_bytes=self._log.bytes_since_roll(topic.name),
                roll_bytes=self._settings.roll_bytes,
            )
            if reason is not None:
                await self.roll(topic.name, reason)
        return next_boundary_ms(now_ms, self._settings.roll_interval_ms)

    async def roll(self, topic: str, reason: str) -> ClosedWindow | None:
        """Close a topic's window, if there is anything in it."""
        window = await self._log.roll(topic, reason)
        if window is not None:
            self.closed[topic, reason] += 1
            _log.info("window closed", topic=topic, number=window.number, records=window.span, reason=reason)
        return window
