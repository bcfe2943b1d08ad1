"""The sink's own metrics, and the files through which the console shows them and how the sink stands."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from sink.base import Export
from sink.standing import STANDING_FILE, Standing, gauges, write_standing

_log: Final = structlog.get_logger("headrace.sink")

WRITE_INTERVAL_S: Final = 5.0  # how old the file may get while nothing is exported


class StandingCollector(Collector):
    """The gauges of how the sink stands, computed when asked."""

    def __init__(self, standing: Callable[[], Standing]) -> None:
        self._standing = standing

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        standing = self._standing()
        return gauges(standing.topics, standing.at_ms)


class SinkMetrics:
    """Counts since this process started, and what fails now. `changed` is set when there is something new to write."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        registry = self._registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"headrace_sink_{name}", text, labels, registry=registry)

        self._windows = counter("windows_exported", "Windows recorded as exported.", "topic")
        self._rows = counter("rows", "Decoded rows in published files.", "topic")
        self._quarantined = counter("quarantined", "Records kept raw in quarantine.", "topic", "reason")
        self._files = counter("files", "Files published.", "topic")
        self._bytes = counter("bytes", "Bytes of published files.", "topic")
        self._clashes = counter("clashes", "Values that went to a side column.", "topic")
        self._taken_over = counter("taken_over", "Exports found in the lake and recorded as they stood.", "topic")
        self._lost = counter("lost_records", "Offsets listed as lost.", "topic")
        self._failures = counter("failures", "Failed attempts, by kind of error.", "kind")
        self._replays = counter("replays", "Quarantine files read again, by outcome.", "topic", "outcome")
        self._replayed = counter("replayed_rows", "Rows that replays made of quarantine.", "topic")
        self._last = Gauge(
            "headrace_sink_last_export_timestamp_seconds",
            "Wall-clock time of the last checkpoint.",
            ("topic",),
            registry=registry,
        )

    def show(self, standing: Callable[[], Standing]) -> None:
        """Have the gauges of how the sink stands among the metrics."""
        self._registry.register(StandingCollector(standing))

    def exported(self, topic: str, export: Export, now_ms: int) -> None:
        """Count a window whose checkpoint is durable; one that was only recorded has been counted when it was made."""
        if export.taken_over:
            self._taken_over.labels(topic).inc()
            return
        self._windows.labels(topic).inc()
        self._rows.labels(topic).inc(export.rows)
        self._files.labels(topic).inc(len(export.files))
        self._bytes.labels(topic).inc(sum(file.size_bytes for file in export.files))
        self._clashes.labels(topic).inc(sum(export.clashes.values()))
        self._lost.labels(topic).inc(sum(lost.next - lost.first for lost in export.lost))
        for reason, count in export.quarantined.items():
            self._quarantined.labels(topic, reason).inc(count)
        self._last.labels(topic).set(now_ms / 1000)

    def replayed(self, path: str, topic: str, outcome: str, rows: int) -> None:
        """Count a replay that is recorded; `outcome` as in table `sink.replayed`."""
        self._replays.labels(topic, outcome).inc()
        self._replayed.labels(topic).inc(rows)
        self.changed.set()

    def failed(self, kind: str) -> None:
        """Count a failed attempt; `kind` is an error code."""
        self._failures.labels(kind).inc()
        self.changed.set()

    def text(self) -> str:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry).decode()


def write_metrics(metrics: SinkMetrics, path: Path) -> None:
    """Replace the metrics file whole. Raises OSError; on a full disk the file then keeps its old figures.

    Its time says that this process lives, so that much is written in any case.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.write_text(metrics.text())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)
        raise


async def keep_written(
    metrics: SinkMetrics, path: Path, interval_s: float, standing: Callable[[], Standing] | None = None
) -> None:
    """Write the metrics file, and beside it how the sink stands, at each change and every `interval_s` seconds.

    Goes on until it is cancelled.
    """
    beside = path.with_name(STANDING_FILE)
    while True:
        metrics.changed.clear()
        written = _written(path, lambda: write_metrics(metrics, path))
        if standing is not None:
            written &= _written(beside, lambda: write_standing(standing(), beside))
        if not written:
            await asyncio.sleep(interval_s)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(metrics.changed.wait(), interval_s)


def _written(path: Path, write: Callable[[], None]) -> bool:
    try:
        write()
    except OSError as error:
        _log.warning("metrics not written", what=str(error), where=str(path), mend="is there space?")
        return False
    return True
