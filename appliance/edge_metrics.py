"""The edge's counters as Prometheus text. Read when asked for; nothing is counted here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from appliance.edge_mqtt_metrics import mqtt_metrics
from appliance.edge_retention_metrics import retention_metrics
from commitlog.embedded import EmbeddedLog
from core.channel import ChannelServer
from core.clock import Clock, ClockState
from core.histogram import Histogram
from ingest.broker.broker import Broker
from ingest.counters import ListenerCounters
from ingest.sessions import Sessions
from retention.keeper import Retention


class EdgeCollector(Collector):
    """Collects what log, listeners, MQTT server and retention count."""

    def __init__(
        self,
        log: EmbeddedLog,
        listeners: Sequence[ListenerCounters],
        sessions: Sessions,
        retention: Retention,
        channel: ChannelServer,
        clock: Clock,
        *,
        broker: Broker,
    ) -> None:
        self._log = log
        self._listeners = listeners
        self._sessions = sessions
        self._retention = retention
        self._channel = channel
        self._clock = clock
        self._broker = broker

    def collect(self) -> Iterator[Metric]:
        """Everything, as of now."""
        yield from self._commit_metrics()
        yield from self._unsynced_metrics()
        yield from self._written_metrics()
        yield from self._clock_metrics()
        yield from self._disk_metrics()
        yield from self._recovery_metrics()
        yield from self._listener_metrics()
        yield from mqtt_metrics(self._broker)
        yield from self._window_metrics()
        yield from retention_metrics(self._retention)
        yield CounterMetricFamily(
            "headrace_channel_refused",
            "Connections to the local channel that did not speak its protocol, or were too many.",
            value=self._channel.refused,
        )
        if (resident_bytes := _resident_bytes()) is not None:
            yield GaugeMetricFamily("headrace_edge_resident_bytes", "Memory of the edge process.", value=resident_bytes)

    def _commit_metrics(self) -> Iterator[Metric]:
        stats = self._log.stats
        yield CounterMetricFamily(
            "headrace_acked_records", "Records acknowledged after their commit.", value=stats.acked_records
        )
        yield CounterMetricFamily("headrace_commits", "Commits written to the journal.", value=stats.commits)
        yield CounterMetricFamily(
            "headrace_journal_syncs", "Syncs of the journal, one per commit at durability fsync.", value=stats.syncs
        )
        yield CounterMetricFamily(
            "headrace_journal_waits", "Commits that waited for a checkpoint to make room.", value=stats.journal_waits
        )
        batches = CounterMetricFamily("headrace_batches", "Record batches from Kafka clients.", labels=["outcome"])
        for outcome, count in sorted(stats.batches.items()):
            batches.add_metric([outcome], count)
        yield batches
        yield _histogram(
            "headrace_ack_latency_seconds",
            "Time from an append to its acknowledgement; each record counts as the oldest of its commit.",
            stats.ack_latency_s,
        )
        yield _histogram("headrace_sync_seconds", "Time of one sync of the journal, its write included.", stats.sync_s)

    def _unsynced_metrics(self) -> Iterator[Metric]:
        stats = self._log.stats
        yield GaugeMetricFamily(
            "headrace_unsynced_records", "Records acknowledged but not yet on disk.", value=stats.unsynced_records
        )
        yield GaugeMetricFamily(
            "headrace_unsynced_bytes",
            "Journal bytes of records acknowledged but not yet on disk.",
            value=stats.unsynced.size_bytes,
        )
        yield GaugeMetricFamily(
            "headrace_unsynced_age_seconds",
            "Age of the oldest record acknowledged but not yet on disk.",
            value=self._log.unsynced_age_s,
        )

    def _written_metrics(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "headrace_journal_bytes", "Bytes written to the journal.", value=self._log.journal_bytes_written
        )
        yield CounterMetricFamily(
            "headrace_segment_bytes", "Bytes written to segments.", value=self._log.segment_bytes_written
        )
        yield CounterMetricFamily("headrace_checkpoints", "Checkpoints taken.", value=self._log.checkpoints)

    def _clock_metrics(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "headrace_clock_behind_seconds",
            "How far the box's clock is behind the newest record; until it is past it, records carry that time.",
            value=max(0, self._log.newest_ms - self._clock.time_ms()) / 1000,
        )
        clock = GaugeMetricFamily("headrace_clock_state", "How far the wall clock is trusted.", labels=["state"])
        for state in ClockState:
            clock.add_metric([state.value], float(state is self._retention.roller.clock_state))
        yield clock

    def _disk_metrics(self) -> Iterator[Metric]:
        disk = self._log.disk
        yield GaugeMetricFamily(
            "headrace_disk_full", "1 while readings are refused because the disk is full.", value=float(self._log.full)
        )
        yield GaugeMetricFamily("headrace_disk_free_bytes", "Free on the log's disk.", value=disk.free_bytes)
        yield GaugeMetricFamily(
            "headrace_disk_needed_bytes",
            "What has to be free for a full disk to count as full no more.",
            value=disk.needed_bytes,
        )
        yield GaugeMetricFamily(
            "headrace_disk_reserve_bytes",
            "What the log keeps for itself; 0 while it is in use.",
            value=disk.reserve_bytes,
        )

    def _recovery_metrics(self) -> Iterator[Metric]:
        report = self._log.report
        yield GaugeMetricFamily(
            "headrace_recovery_seconds", "How long recovery took at the last start.", value=report.duration_s
        )
        yield GaugeMetricFamily(
            "headrace_recovery_replayed_records",
            "Records brought back from the journal.",
            value=report.records_replayed,
        )
        yield GaugeMetricFamily(
            "headrace_recovery_cuts", "Stretches that recovery could not keep.", value=len(report.cuts)
        )
        yield GaugeMetricFamily(
            "headrace_recovery_lost_offsets",
            "Offsets in those stretches, without the ones that no record ever had.",
            value=report.lost_offsets,
        )
        yield GaugeMetricFamily(
            "headrace_recovery_cut_bytes", "Bytes cut from the ends of segments.", value=report.bytes_cut
        )

    def _listener_metrics(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("headrace_sessions", "Open sessions.", value=len(self._sessions))
        connections = GaugeMetricFamily("headrace_connections", "Open connections.", labels=["protocol"])
        accepted = CounterMetricFamily("headrace_accepted_connections", "Connections accepted.", labels=["protocol"])
        records = CounterMetricFamily("headrace_received_records", "Records received.", labels=["protocol"])
        sizes = CounterMetricFamily("headrace_received_bytes", "Bytes of records received.", labels=["protocol"])
        closed = CounterMetricFamily(
            "headrace_closed_connections", "Connections refused or closed by the box.", labels=["protocol", "reason"]
        )
        refused = CounterMetricFamily(
            "headrace_refused_lines", "Readings answered with an error and not stored.", labels=["protocol", "reason"]
        )
        dropped = CounterMetricFamily(
            "headrace_dropped_records",
            "Readings that have no answer in their protocol and were not stored.",
            labels=["protocol", "reason"],
        )
        for counters in self._listeners:
            label = [counters.protocol]
            connections.add_metric(label, counters.connections)
            accepted.add_metric(label, counters.accepted)
            records.add_metric(label, counters.records)
            sizes.add_metric(label, counters.size_bytes)
            for reason, count in counters.refused_connections.items():
                closed.add_metric([*label, reason], count)
            for reason, count in counters.refused_lines.items():
                refused.add_metric([*label, reason], count)
            for reason, count in counters.dropped.items():
                dropped.add_metric([*label, reason], count)
        yield from (connections, accepted, records, sizes, closed, refused, dropped)

    def _window_metrics(self) -> Iterator[Metric]:
        windows = CounterMetricFamily("headrace_windows_closed", "Windows closed.", labels=["topic", "reason"])
        for (topic, reason), count in self._retention.roller.closed.items():
            windows.add_metric([topic, reason], count)
        yield windows


def metrics_text(collector: EdgeCollector) -> str:
    """Prometheus text format of everything the collector knows."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry).decode()


def _resident_bytes() -> int | None:
    """The process's resident memory; None where there is no /proc (macOS)."""
    try:
        pages = Path("/proc/self/statm").read_bytes().split()[1]
    except OSError:
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _histogram(name: str, documentation: str, histogram: Histogram) -> HistogramMetricFamily:
    return HistogramMetricFamily(name, documentation, buckets=histogram.cumulative(), sum_value=histogram.sum)
