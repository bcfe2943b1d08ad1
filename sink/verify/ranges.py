"""Ranges of offsets: sets of whole numbers as sorted pairs (first, next), first <= n < next, that do not meet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Range = tuple[int, int]


def union(ranges: Iterable[Range]) -> list[Range]:
    """The ranges in order, those that meet or overlap as one; empty ones are left out."""
    joined: list[Range] = []
    for first, following in sorted(ranges):
        if first >= following:
            continue
        if joined and first <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], following))
        else:
            joined.append((first, following))
    return joined


def without(ranges: Sequence[Range], taken: Sequence[Range]) -> list[Range]:
    """What is left of sorted ranges; `taken` are sorted, too. Linear in both."""
    left: list[Range] = []
    index = 0
    for first, following in ranges:
        while index < len(taken) and taken[index][1] <= first:
            index += 1
        at = index
        while at < len(taken) and taken[at][0] < following:
            if taken[at][0] > first:
                left.append((first, taken[at][0]))
            first = max(first, taken[at][1])
            at += 1
        if first < following:
            left.append((first, following))
    return left


def common(ranges: Sequence[Range], others: Sequence[Range]) -> list[Range]:
    """What both have; both are sorted."""
    return without(ranges, without(ranges, others))


def size(ranges: Iterable[Range]) -> int:
    """How many numbers."""
    return sum(following - first for first, following in ranges)
