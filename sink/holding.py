"""Which closed windows of a topic are exported now: pure decisions.

A window with next to nothing in it would become a file with next to nothing in it. It is held back and published with
the next one; not for longer than `hold_ms`, and not when somebody asked for it (`headrace export --now`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
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
        """The windows to be exported together now; none while they are held back.

        `windows` are those that are not exported, in order. `flush_through` is the number of the last window that
        somebody waits for; `begun` that of the last window of an export that was begun: it is always ended as it was.
        """
        if begun is not None:
            return [window for window in windows if window.number <= begun]
        chosen: list[ClosedWindow] = []
        for window in _following_each_other(windows)[:MAX_JOINED]:
            chosen.append(window)
            if sum(one.span for one in chosen) >= self.small_records:
                return chosen
        if not chosen:
            return []
        first, last = chosen[0], chosen[-1]
        waited_ms = max(now_ms, last.end_ms) - first.end_ms  # a clock that was set back must not hold for ever
        asked = flush_through >= first.number
        return chosen if asked or waited_ms >= self.hold_ms or len(chosen) >= MAX_JOINED else []


def _following_each_other(windows: Sequence[ClosedWindow]) -> Sequence[ClosedWindow]:
    """The windows up to the first hole between two of them."""
    for index, (before, window) in enumerate(pairwise(windows), 1):
        joins = all(before.offsets.get(p, (0, first))[1] == first for p, (first, _) in window.offsets.items())
        if not joins:
            return windows[:index]
    return windows
