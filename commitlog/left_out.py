"""Why offsets are missing: recovery left them out, or they expired between the look at the log start and the read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from commitlog.base import Gap
from commitlog.gaps import LEFT_OUT, MISSING
from commitlog.report import KeptReport

Known = tuple[int, int, str]
"""Offsets from the first up to, not including, the second, and the reason why they are not there."""


def left_out(report: KeptReport, topic: str, partition: int) -> list[Known]:
    """Ranges of a partition that no record ever had, by what this start and earlier ones reported."""
    return sorted(
        (cut.first, cut.next, LEFT_OUT)
        for cut in (*report.cuts, *report.earlier)
        if (cut.topic, cut.partition) == (topic, partition) and cut.reason.startswith(LEFT_OUT)
    )


def explained(gaps: Sequence[Gap], known: Sequence[Known]) -> list[Gap]:
    """The gaps, with the parts of missing ones that have a better reason as gaps of their own; `known` is sorted."""
    return [part for gap in gaps for part in (_split(gap, known) if gap.reason == MISSING else (gap,))]


def _split(gap: Gap, known: Sequence[Known]) -> Iterator[Gap]:
    at = gap.first
    for first, following, reason in known:
        low, high = max(at, first), min(gap.next, following)
        if low >= high:
            continue
        if low > at:
            yield Gap(first=at, next=low, reason=MISSING)
        yield Gap(first=low, next=high, reason=reason)
        at = high
    if at < gap.next:
        yield Gap(first=at, next=gap.next, reason=MISSING)
