"""What leaves the lake: pure decisions over units of export, whole ones, from the oldest on.

A *unit* is what a sink published in one step: all files of one or several windows of a topic, decoded and quarantined,
of several dates where readings were late. Its files go together, or the offsets of those that stay could not be told
from those that went. So it is as old as its newest day.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import Enum
from typing import Final

DAY_MS: Final = 86_400_000
MAX_UNITS: Final = 16  # that one decision drops: their files are deleted by a thread of the process that takes readings


class DropReason(Enum):
    """Why a unit leaves the lake; the values stand in the ledger, in metrics and in answers."""

    AGE = "older than lake_max_age"
    BYTES = "lake over lake_max_bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class LakeUnit:
    """A unit: its windows, the offsets whose rows its files hold, and its files by path relative to the lake."""

    topic: str
    topic_id: str
    first_number: int
    number: int
    end_ms: int
    offsets: Mapping[int, tuple[int, int]]
    files: Mapping[str, int]
    newest_date: date

    @property
    def size_bytes(self) -> int:
        """What its files take."""
        return sum(self.files.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """A unit that leaves the lake, and why."""

    unit: LakeUnit
    reason: DropReason


def cutoff_date(now_ms: int, max_age_ms: int) -> date | None:
    """The newest date whose day ended longer ago than `max_age_ms`; None where nothing is that old."""
    if not max_age_ms or now_ms - max_age_ms < DAY_MS:
        return None
    return date.fromordinal(datetime.fromtimestamp((now_ms - max_age_ms) / 1000, UTC).date().toordinal() - 1)


def to_drop(
    units: Sequence[LakeUnit], *, cutoff: date | None, excess_bytes: int, exported: Mapping[str, int]
) -> Sequence[Drop]:
    """Those of the units that go now.

    `cutoff`: see `cutoff_date`. `excess_bytes`: what the lake takes beyond its limit. `exported`: by topic id the
    number of the first window that the sink has not recorded as exported; nothing from there on is touched, for its
    files may be just being published.
    """
    drops: list[Drop] = []
    for unit in sorted(units, key=lambda one: (one.end_ms, one.topic_id, one.number)):
        if len(drops) == MAX_UNITS:
            break
        if unit.number >= exported.get(unit.topic_id, 0):
            continue
        if cutoff is not None and unit.newest_date <= cutoff:
            drops.append(Drop(unit=unit, reason=DropReason.AGE))
        elif excess_bytes > 0:
            drops.append(Drop(unit=unit, reason=DropReason.BYTES))
        else:
            continue
        excess_bytes -= unit.size_bytes
    return drops
