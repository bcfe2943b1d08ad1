"""Watches how much of the disk is in use, and says how much has to be freed. Decides by `retention.disk`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from core.clock import Clock
from retention.disk import DiskPressure, Forecast, Growth, Marks, budget_marks, file_system_marks, pressure_after
from retention.settings import RetentionSettings
from retention.usage import Usage

_WALK_MS: Final = 30_000  # between two walks through the lake's folders while there is room
_log = structlog.get_logger("headrace.retention")


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskLook:
    """What the last look found. `used_bytes`: of the budget, or of the file system where there is none."""

    usage: Usage
    log_bytes: int
    used_bytes: int
    marks: Marks
    forecast: Forecast


class Measure(Protocol):
    """Looks at the disk; called in a thread."""

    def __call__(self, *, walk: bool) -> Usage:
        """See `UsageMeter.look`. Raises OSError."""
        ...


class DiskWatch:
    """See the module. Used on the event loop."""

    def __init__(self, settings: RetentionSettings, clock: Clock, measure: Measure) -> None:
        self.pressure = DiskPressure.OK
        self.last: DiskLook | None = None
        self._settings = settings
        self._clock = clock
        self._measure = measure
        self._growth = Growth()
        self._walked_ms: int | None = None

    @property
    def to_free_bytes(self) -> int:
        """How much has to go now; 0 while the disk is not over its high mark."""
        if self.last is None or self.pressure is DiskPressure.OK:
            return 0
        return max(1, self.last.used_bytes - self.last.marks.low_bytes)

    @property
    def budget_bytes(self) -> int:
        """What log and lake may take together; 0: the file system is the limit."""
        return self._settings.disk_budget_bytes

    @property
    def lake_bytes(self) -> int:
        """What the lake takes, as last measured; 0 before."""
        return 0 if self.last is None else self.last.usage.lake_bytes

    async def look(self, topics_bytes: int, needed_bytes: int) -> None:
        """Look at the disk; segments take `topics_bytes`, and `needed_bytes` free are what readings ask for.

        Raises OSError.
        """
        now_ms = self._clock.monotonic_ms()
        walk = self._walked_ms is None or now_ms - self._walked_ms >= _WALK_MS
        usage = await asyncio.to_thread(lambda: self._measure(walk=walk or self.pressure is not DiskPressure.OK))
        if walk:
            self._walked_ms = now_ms
        log_bytes = topics_bytes + usage.log_other_bytes
        used_bytes = usage.total_bytes - usage.free_bytes
        if self._settings.disk_budget_bytes:
            used_bytes = log_bytes + usage.lake_bytes
        marks = self._marks(usage, needed_bytes)
        self._growth.note(now_ms, used_bytes)
        self.last = DiskLook(
            usage=usage,
            log_bytes=log_bytes,
            used_bytes=used_bytes,
            marks=marks,
            forecast=self._growth.forecast(marks.limit_bytes),
        )
        self._become(pressure_after(self.pressure, used_bytes=used_bytes, marks=marks), self.last)

    def tried(self, *, found: bool) -> None:
        """Something was to go: was there anything that may?

        Where there was not, and what went has brought it below the high mark, that is good enough.
        """
        last = self.last
        if last is None:
            return
        nothing = DiskPressure.STUCK if last.used_bytes >= last.marks.high_bytes else DiskPressure.OK
        self._become(DiskPressure.OVER if found else nothing, last)

    def _marks(self, usage: Usage, needed_bytes: int) -> Marks:
        high, low = self._settings.high_mark_percent, self._settings.low_mark_percent
        if self._settings.disk_budget_bytes:
            return budget_marks(self._settings.disk_budget_bytes, high_percent=high, low_percent=low)
        return file_system_marks(usage.total_bytes, needed_bytes=needed_bytes, high_percent=high, low_percent=low)

    def _become(self, pressure: DiskPressure, disk: DiskLook) -> None:
        before, self.pressure = self.pressure, pressure
        if pressure is before:
            return
        facts = {"used_bytes": disk.used_bytes, "high_bytes": disk.marks.high_bytes, "low_bytes": disk.marks.low_bytes}
        if pressure is DiskPressure.OK:
            _log.info("the disk is below its mark again", **facts)
        elif pressure is DiskPressure.OVER:
            _log.warning("the disk is over its high mark: the oldest exported windows leave the log", **facts)
        else:
            _log.error(
                "the disk is over its high mark, and nothing in the log may go",
                mend="is the sink exporting? does something else fill the disk? docs/retention.md says more",
                **facts,
            )
