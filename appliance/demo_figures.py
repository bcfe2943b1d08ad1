"""The demo's figures, pure: Prometheus text and export rows in, numbers and lines of text out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

Buckets = Mapping[float, float]
"""Upper bound in seconds -> observations at or below it (cumulative, as Prometheus counts)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeFigures:
    """What the edge says of itself at one moment. Counters count from the edge process's start."""

    at_s: float
    acked: float
    unsynced: float
    connections: float
    ack_buckets: Buckets = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LakeFigures:
    """What this run's exports put into the lake."""

    windows: int = 0
    files: int = 0
    rows: int = 0
    size_bytes: int = 0
    quarantined: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoFigures:
    """One line of the live summary. Latencies in milliseconds, None before the first ack."""

    elapsed_s: float
    acked: int
    acked_per_s: float
    ack_p50_ms: float | None
    ack_p99_ms: float | None
    unsynced: int
    connections: int
    lake: LakeFigures


def edge_figures(metrics: str, at_s: float) -> EdgeFigures:
    """Read the edge's Prometheus text. Absent metrics read as zero. Raises ValueError for text of another format."""
    values: dict[str, float] = {}
    buckets: dict[float, float] = {}
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            if sample.name == "headrace_ack_latency_seconds_bucket":
                buckets[float(sample.labels["le"])] = sample.value
            else:
                values[sample.name] = values.get(sample.name, 0.0) + sample.value
    return EdgeFigures(
        at_s=at_s,
        acked=values.get("headrace_acked_records_total", 0.0),
        unsynced=values.get("headrace_unsynced_records", 0.0),
        connections=values.get("headrace_connections", 0.0),
        ack_buckets=buckets,
    )


def lake_figures(exports: Mapping[str, Mapping[str, Any]], topics: Sequence[str], since_ms: int) -> LakeFigures:
    """Sum the rows of state table `exports` that belong to these topics and were exported since."""
    rows = [row for row in exports.values() if row["topic"] in topics and row["exported_at_ms"] >= since_ms]
    files = [file for row in rows for file in row["files"]]
    return LakeFigures(
        windows=len(rows),
        files=len(files),
        rows=sum(row["rows"] for row in rows),
        size_bytes=sum(file["bytes"] for file in files),
        quarantined=sum(row["quarantined"] for row in rows),
    )


def between(earlier: EdgeFigures, later: EdgeFigures) -> tuple[float, Buckets]:
    """Acks per second and ack latencies between two moments; an edge that was started anew counts from its start."""
    if later.acked < earlier.acked:
        earlier = EdgeFigures(at_s=earlier.at_s, acked=0, unsynced=0, connections=0)
    span_s = later.at_s - earlier.at_s
    rate = (later.acked - earlier.acked) / span_s if span_s > 0 else 0.0
    return rate, {bound: count - earlier.ack_buckets.get(bound, 0.0) for bound, count in later.ack_buckets.items()}


def quantile_ms(buckets: Buckets, share: float) -> float | None:
    """The latency that `share` of the observations do not exceed, in milliseconds, interpolated within its bucket.

    What lies beyond the last finite bound is given as that bound. None without observations.
    """
    bounds = sorted(buckets)
    if not bounds or buckets[bounds[-1]] <= 0:
        return None
    wanted, below, lower = share * buckets[bounds[-1]], 0.0, 0.0
    for bound in bounds:
        count = buckets[bound]
        if count >= wanted and count > below:
            if math.isinf(bound):
                break
            return 1000 * (lower + (bound - lower) * (wanted - below) / (count - below))
        below, lower = count, bound if math.isfinite(bound) else lower
    return 1000 * lower


def figure_rows(figures: DemoFigures) -> Iterator[tuple[str, str]]:
    """The live summary, as pairs of name and value."""
    lake = figures.lake
    yield "acknowledged", f"{figures.acked:,} ({figures.acked_per_s:,.0f}/s)"
    yield "ack latency", f"p50 {_ms(figures.ack_p50_ms)}, p99 {_ms(figures.ack_p99_ms)}"
    yield "acked, not yet on disk", f"{figures.unsynced:,}"
    yield "connections", f"{figures.connections:,}"
    yield "lake", f"{lake.windows:,} windows, {lake.files:,} files, {lake.rows:,} rows, {size_text(lake.size_bytes)}"


def figure_line(figures: DemoFigures) -> str:
    """The live summary on one line, for what is no terminal."""
    return f"{figures.elapsed_s:6.0f} s  " + "; ".join(f"{name}: {value}" for name, value in figure_rows(figures))


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def size_text(size_bytes: int) -> str:
    """A size for people, in binary units."""
    if size_bytes < 1 << 20:
        return f"{size_bytes / 1024:.1f} KB"
    return f"{size_bytes / (1 << 20):.1f} MB"
