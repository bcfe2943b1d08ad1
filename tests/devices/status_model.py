"""A slow status view that keeps everything and works every fact out anew: what the quick one is held against."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import exp
from typing import Any

from commitlog.base import Header
from devices.field_store import MAX_FIELDS, MAX_VALUE_BYTES
from devices.rhythm import Reporting


@dataclass
class Heard:
    """A reading of one device, all of them in one partition."""

    time_ms: int
    value: bytes
    headers: Sequence[Header] = ()

    @property
    def rows(self) -> list[dict[str, Any]]:
        decoded = json.loads(self.value)
        if isinstance(decoded, list):
            return [row for row in decoded if isinstance(row, dict)]
        if isinstance(decoded, dict) and isinstance(decoded.get("readings"), list):
            envelope = {name: value for name, value in decoded.items() if name != "readings"}
            return [{**envelope, **row} for row in decoded["readings"] if isinstance(row, dict)]
        return [decoded if isinstance(decoded, dict) else {dict(self.headers)["headrace.field"].decode(): decoded}]


@dataclass
class SlowDevice:
    """Everything that one device ever said."""

    heard: list[Heard] = field(default_factory=list)

    def fields(self) -> dict[str, tuple[int, Any]]:
        newest: dict[str, tuple[int, Any]] = {}
        for one in self.heard:
            for row in one.rows:
                for path, value in paths("", row):
                    newest[path] = (one.time_ms, value)
        assert len(newest) <= MAX_FIELDS
        return {path: (time_ms, shown(value)) for path, (time_ms, value) in newest.items()}

    def rates(self, at_ms: int) -> tuple[float, float]:
        rates = []
        for over_s in (60, 900):
            rate, keep = 0.0, exp(-5 / over_s)
            for period in range(self.heard[0].time_ms // 5000, at_ms // 5000):
                count = sum(one.time_ms // 5000 == period for one in self.heard)
                rate = rate * keep + count / 5 * (1 - keep)
            rates.append(rate)
        return rates[0], rates[1]

    def marks(self) -> list[Heard]:
        marks: list[Heard] = []
        for one in self.heard:
            if not marks or one.time_ms - marks[-1].time_ms >= 500:
                marks.append(one)
        return marks

    def silence(self, at_ms: int) -> tuple[Reporting, int | None]:
        marks = self.marks()
        interval, since = 0, marks[0].time_ms
        for before, one in pairwise(marks):
            gap = one.time_ms - before.time_ms
            if interval and gap > 3 * interval + 2000:
                since = one.time_ms
            if not interval:
                interval = gap
            elif gap > interval:
                interval = min(gap, 4 * interval)
            else:
                interval -= (interval - gap) // 64
        if not interval:
            return Reporting.UNKNOWN, None
        due = self.heard[-1].time_ms + 3 * interval + 2000
        return (Reporting.SILENT, due) if at_ms > due else (Reporting.REPORTING, since)

    def skew(self) -> int | None:
        skews = [rows[-1]["ts"] - one.time_ms for one in self.marks() if (rows := one.rows) and "ts" in rows[-1]]
        newest = sorted(skews[-9:])
        return newest[(len(newest) - 1) // 2] if newest else None

    def missing_and_duplicates(self) -> tuple[int, int]:
        """For numbers that never leap far nor begin anew: what never came, and what came again."""
        numbers = [row["seq"] for one in self.heard for row in one.rows if "seq" in row]
        if not numbers:
            return 0, 0
        return max(numbers) - min(numbers) + 1 - len(set(numbers)), len(numbers) - len(set(numbers))


def paths(prefix: str, row: dict[str, Any]) -> list[tuple[str, Any]]:
    found = []
    for name, value in row.items():
        found += paths(f"{prefix}{name}.", value) if isinstance(value, dict) and value else [(prefix + name, value)]
    return found


def shown(value: Any) -> Any:
    """The value, None where it is too large to keep."""
    return value if len(json.dumps(value).encode()) <= MAX_VALUE_BYTES else TOO_LARGE


TOO_LARGE = object()
