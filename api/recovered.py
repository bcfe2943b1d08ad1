"""What recovery could not keep, as `/api/v1/topics` tells it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from api.models import RecoveredRange
from api.times import to_datetime
from commitlog.base import Watermark
from commitlog.report import Cut, KeptReport, read_report
from commitlog.storage import LOG_DIR, SystemStorage


class Recovered:
    """The report that recovery left beside the log; nothing where there is none."""

    def __init__(self, data_dir: Path) -> None:
        self._report: KeptReport | None = read_report(SystemStorage(), data_dir / LOG_DIR)

    def since_start(self, topic: str, partition: int) -> list[RecoveredRange]:
        """What the last start could not keep of a partition."""
        cuts = () if self._report is None else self._report.cuts
        return [_range(cut) for cut in cuts if (cut.topic, cut.partition) == (topic, partition)]

    def records(self, topic: str, partition: int, mark: Watermark) -> int:
        """Offsets in the readable range, without those that a start reported as gone."""
        report = self._report
        cuts = () if report is None else (*report.cuts, *report.earlier)
        gone = [(cut.first, cut.next) for cut in cuts if (cut.topic, cut.partition) == (topic, partition)]
        return mark.high - mark.start - _covered(gone, mark)


def _covered(ranges: Sequence[tuple[int, int]], mark: Watermark) -> int:
    """How many offsets of the readable range the ranges cover, which may overlap."""
    covered, at = 0, mark.start
    for first, following in sorted(ranges):
        low, high = max(at, first), min(mark.high, following)
        if low < high:
            covered, at = covered + high - low, high
    return covered


def _range(cut: Cut) -> RecoveredRange:
    return RecoveredRange(
        first=cut.first,
        next=cut.next,
        reason=cut.reason,
        after=None if cut.start_ms is None else to_datetime(cut.start_ms),
        before=None if cut.end_ms is None else to_datetime(cut.end_ms),
        devices=list(cut.devices),
    )
