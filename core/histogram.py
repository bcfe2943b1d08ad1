"""A histogram that takes many equal observations at once, since metrics are counted per batch and never per message."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """Counts per bucket in the manner of Prometheus; `bounds` are inclusive upper bounds, ascending."""

    __slots__ = ("_counts", "bounds", "count", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self._counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0
        self.count = 0

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value` `times` times."""
        self._counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times
        self.count += times

    def cumulative(self) -> list[tuple[str, int]]:
        """(upper bound as text, count at or below it) pairs, ending with `+Inf`."""
        pairs: list[tuple[str, int]] = []
        total = 0
        for bound, count in zip((*self.bounds, None), self._counts, strict=True):
            total += count
            pairs.append(("+Inf" if bound is None else repr(float(bound)), total))
        return pairs
