"""What retention counts, as Prometheus metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from retention.disk import DiskPressure
from retention.disk_watch import DiskLook
from retention.expirer import Expirer
from retention.keeper import Retention

_FIGURES: Final[Sequence[tuple[str, str, Callable[[DiskLook], float | None]]]] = (
    ("log_bytes", "What the log takes.", lambda look: look.log_bytes),
    ("lake_bytes", "What the lake takes.", lambda look: look.usage.lake_bytes),
    ("disk_used_bytes", "In use of the budget, or of the file system.", lambda look: look.used_bytes),
    ("disk_limit_bytes", "The most that may be in use.", lambda look: look.marks.limit_bytes),
    ("disk_high_bytes", "From where on windows leave the log.", lambda look: look.marks.high_bytes),
    ("disk_low_bytes", "Until where.", lambda look: look.marks.low_bytes),
    ("disk_days_left", "Days until the limit, as of the last day.", lambda look: look.forecast.days_left),
)
"""What is told of the disk; what is not known has no sample."""


def retention_metrics(retention: Retention) -> Iterator[Metric]:
    """Everything, as of the last look."""
    yield from _expired(retention.expirer)
    yield from _kept(retention.expirer)
    yield from _disk(retention.expirer)
    yield from _lake(retention)
    failures = CounterMetricFamily(
        "headrace_retention_failures", "Looks of retention that failed.", labels=["worker", "kind"]
    )
    for rounds in retention.rounds:
        for kind, count in sorted(rounds.failures.items()):
            failures.add_metric([rounds.name, kind], count)
    yield failures


def _expired(expirer: Expirer) -> Iterator[Metric]:
    yield _by_reason("headrace_retention_expired_windows", "Windows that left the log.", expirer.expired_windows)
    yield _by_reason("headrace_retention_expired_bytes", "Bytes of their segments.", expirer.expired_bytes)
    lost = CounterMetricFamily(
        "headrace_retention_unexported_offsets", "Offsets that left the log unexported.", labels=["topic"]
    )
    for topic, count in sorted(expirer.unexported_offsets.items()):
        lost.add_metric([topic], count)
    yield lost


def _kept(expirer: Expirer) -> Iterator[Metric]:
    held = GaugeMetricFamily(
        "headrace_retention_held", "1: windows are due and stay, because they are not exported.", labels=["topic"]
    )
    sizes = GaugeMetricFamily("headrace_log_topic_bytes", "What a topic takes in the log.", labels=["topic"])
    windows = GaugeMetricFamily("headrace_log_windows", "Closed windows in the log.", labels=["topic"])
    waiting = {one.topic for one in expirer.held}
    for topic in expirer.topics:
        held.add_metric([topic.info.name], float(topic.info.name in waiting))
        sizes.add_metric([topic.info.name], topic.size_bytes)
        windows.add_metric([topic.info.name], len(topic.windows))
    yield from (held, sizes, windows)


def _disk(expirer: Expirer) -> Iterator[Metric]:
    state = GaugeMetricFamily("headrace_retention_disk_state", "Whether the disk is over its mark.", labels=["state"])
    for pressure in DiskPressure:
        state.add_metric([pressure.value], float(pressure is expirer.disk.pressure))
    yield state
    look = expirer.disk.last
    for name, documentation, figure in _FIGURES:
        gauge = GaugeMetricFamily(f"headrace_{name}", documentation)
        if look is not None and (value := figure(look)) is not None:
            gauge.add_metric([], value)
        yield gauge


def _lake(retention: Retention) -> Iterator[Metric]:
    yield _by_reason("headrace_retention_dropped_files", "Files that left the lake.", retention.lake.dropped_files)
    yield _by_reason("headrace_retention_dropped_bytes", "Their bytes.", retention.lake.dropped_bytes)
    yield GaugeMetricFamily(
        "headrace_retention_files_left_alone", "Old files of the lake not placed.", value=retention.lake.left_alone
    )


def _by_reason(name: str, documentation: str, counts: Counter[tuple[str, str]]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, documentation, labels=["topic", "reason"])
    for (topic, reason), count in sorted(counts.items()):
        family.add_metric([topic, reason], count)
    return family
