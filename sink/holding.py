"""Which closed windows of a topic are exported now: pure decisions.

A window with next to nothing in it would become a file with next to nothing in it. It is held back and published with
the next one; not for longer than `hold_ms`, and not when somebody asked for it (`headrace export --now`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from commitlog.base import ClosedWindow

MAX_JOINED: Final = 1_000  # windows exported at once: bounds what a plan and an export row hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A unit of export is published when it has `small_records` offsets, or has waited for `hold_ms`."""

    small_records: int = 0
    hold_ms: int = 0

    def due(
        self, windows: Sequence[ClosedWindow], *, now_ms: int, flush_through: int = -1, begun: int | None = None
    ) -> Sequence[ClosedWindow]:
        """The windows to be exported together now; none while they are held back."""
        return next(self.units(windows, now_ms=now_ms, flush_through=flush_through, begun=begun), [])

    def units(
        self, windows: Sequence[ClosedWindow], *, now_ms: int, flush_through: int = -1, begun: int | None = None
    ) -> Iterator[Sequence[ClosedWindow]]:
        """What is to be exported now, one unit after the other; the windows behind the last one are held back.

        `windows` are those that are not exported, in order. `flush_through` is the number of the last window that
        somebody waits for; `begun` that of the last window of an export that was begun: it is always ended as it was.
        """
        if begun is not None:
            yield [window for window in windows if window.number <= begun]
            windows = [window for window in windows if window.number > begun]
        unit: list[ClosedWindow] = []
        span = 0
        for window in windows:
            if unit and not _joins(unit[-1], window):
                if not self._ends(unit, now_ms, flush_through):
                    return
                yield unit
                unit, span = [], 0
            unit.append(window)
            span += window.span
            if span >= self.small_records or len(unit) >= MAX_JOINED:
                yield unit
                unit, span = [], 0
        if unit and self._ends(unit, now_ms, flush_through):
            yield unit

    def _ends(self, unit: Sequence[ClosedWindow], now_ms: int, flush_through: int) -> bool:
        """Whether a unit of few records is held back no longer."""
        first, last = unit[0], unit[-1]
        waited_ms = max(now_ms, last.end_ms) - first.end_ms  # a clock that was set back must not hold for ever
        return flush_through >= first.number or waited_ms >= self.hold_ms


def _joins(before: ClosedWindow, window: ClosedWindow) -> bool:
    """Whether no offset is missing between two windows."""
    return all(before.offsets.get(p, (0, first))[1] == first for p, (first, _) in window.offsets.items())
