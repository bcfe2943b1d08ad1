"""Offsets that recovery left out: telling them apart from those whose records are missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from commitlog.base import Gap
from commitlog.gaps import LEFT_OUT, MISSING
from commitlog.report import KeptReport


def left_out(report: KeptReport, topic: str, partition: int) -> list[tuple[int, int]]:
    """Ranges of a partition that no record ever had, by what this start and earlier ones reported."""
    return sorted(
        (cut.first, cut.next)
        for cut in (*report.cuts, *report.earlier)
        if (cut.topic, cut.partition) == (topic, partition) and cut.reason.startswith(LEFT_OUT)
    )


def without_left_out(gaps: Sequence[Gap], ranges: Sequence[tuple[int, int]]) -> list[Gap]:
    """The gaps, with the parts of missing ones that were left out as gaps of their own."""
    return [part for gap in gaps for part in (_split(gap, ranges) if gap.reason == MISSING else (gap,))]


def _split(gap: Gap, ranges: Sequence[tuple[int, int]]) -> Iterator[Gap]:
    at = gap.first
    for first, following in ranges:
        low, high = max(at, first), min(gap.next, following)
        if low >= high:
            continue
        if low > at:
            yield Gap(first=at, next=low, reason=MISSING)
        yield Gap(first=low, next=high, reason=LEFT_OUT)
        at = high
    if at < gap.next:
        yield Gap(first=at, next=gap.next, reason=MISSING)
