"""When a device is silent: how long it may go unheard is its own rhythm's business.

An operator may say how often a device is expected (the registry). Else it is learned from the times between its
readings, each taken at the moment it was received. What follows within `MARK_MS` belongs to the same burst and says
nothing of the rhythm. Of the other gaps the slow ones count, because a device that sends ten readings and then rests
a minute is not silent while it rests: the learned interval follows a longer gap at once, but at most to four times
itself, so that one outage does not make a second one invisible, and falls by a 64th of the way with each shorter gap,
so that bursts of up to 40 gaps do not make it forget the rest between them.

A device is silent once it has not been heard for `allowed_ms`, and from that moment on, not from its last reading
on (which is told beside it). One that was heard once, or in one burst, has no rhythm: not known.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

MARK_MS: Final = 500
"""Readings closer to each other are one burst: several topics of one machine, or lines of one packet."""
MARGIN_MS: Final = 2_000
"""Granted beside any interval: commits, reconnects, the network's bad moments."""
_LEARNED_TIMES: Final = 3  # two may be lost in a row before a learned rhythm counts as broken
_RISE: Final = 4
_FALL: Final = 64


class Reporting(Enum):
    """Whether a device is heard as often as is expected of it."""

    REPORTING = "reporting"
    SILENT = "silent"
    UNKNOWN = "unknown"


def learn_ms(interval_ms: int, gap_ms: int) -> int:
    """The learned interval after one more gap; `interval_ms` is 0 before the first."""
    if interval_ms == 0:
        return gap_ms
    if gap_ms > interval_ms:
        return min(gap_ms, _RISE * interval_ms)
    return interval_ms - (interval_ms - gap_ms) // _FALL


def allowed_ms(learned_ms: int, configured_ms: int | None) -> int | None:
    """How long a device may be unheard before it is silent; None: it has no interval, neither told nor learned."""
    if configured_ms is not None:
        return configured_ms + configured_ms // 2 + MARGIN_MS
    return _LEARNED_TIMES * learned_ms + MARGIN_MS if learned_ms else None
