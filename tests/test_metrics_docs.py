"""docs/metrics.md and what the processes really export: names, types and labels agree."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from api.metrics import all_metrics, own_registry, sample_values
from appliance.edge_metrics import EdgeCollector, metrics_text
from commitlog.holdings import PartitionHolding
from core.channel import ChannelServer
from core.clock import SystemClock
from ingest.counters import ListenerCounters
from retention.disk import Forecast, Marks
from retention.disk_watch import DiskLook
from retention.expiry import Held, Reason, TopicState
from retention.keeper import Retention
from retention.limits import TopicLimits
from retention.settings import RetentionSettings
from retention.usage import Usage
from sink.base import Export, Missing
from sink.metrics import SinkMetrics
from sink.standing import Standing, TopicStanding, Waiting
from tests.api.api_box import ApiBox
from tests.ingest.edge_box import edge_box
from wire.mqtt.reasons import PacketType

DOCS = Path(__file__).parent.parent / "docs" / "metrics.md"
_ROW = re.compile(r"\| `(headrace_\w+)` \| (\w+) \| ([^|]*)\|")
_LABEL = re.compile(r'(\w+)="')
_REASON = re.compile(r"^\| ((?:`[a-z -]+`(?:, )?)+) \|")


def documented() -> dict[str, tuple[str, frozenset[str]]]:
    rows = _ROW.findall(DOCS.read_text())
    names = [name for name, _, _ in rows]
    assert len(names) == len(set(names)), "a metric stands in the tables twice"
    return {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def exported(text: str) -> tuple[dict[str, str], dict[str, set[frozenset[str]]]]:
    """Types by name, and the label sets that stood on samples."""
    kinds: dict[str, str] = {}
    labels: dict[str, set[frozenset[str]]] = defaultdict(set)
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            kinds[name] = kind
        elif line and not line.startswith("#"):
            name = re.sub(r"_(bucket|sum|count)$", "", line.split("{")[0].split(" ")[0])
            labels[name].add(frozenset(_LABEL.findall(line.split("} ")[0])) - {"le"} if "{" in line else frozenset())
    created = {name for name in kinds if name.endswith("_created")}
    return {name: kind for name, kind in kinds.items() if name not in created}, labels


def sink_text() -> str:
    metrics = SinkMetrics()
    lost = (Missing(partition=0, first=1, next=2, reason="r"),)
    metrics.exported("t", Export(quarantined={"not-json": 1}, lost=lost, clashes={"a": 1}), 1000)
    metrics.exported("t", Export(taken_over=True), 1000)
    metrics.failed("unavailable")
    waiting = Waiting(windows=1, held=0, oldest_end_ms=1, counted_at_ms=1)
    topics = [TopicStanding(topic="t", topic_id="1", waiting=waiting)]
    metrics.show(lambda: Standing(at_ms=1, state="idle", topics=topics))
    metrics.replayed("file", "t", "done", 1)
    return metrics.text()


def retained(box: Any, data_dir: Path) -> Retention:
    """Retention that has done and found everything that there are metrics of."""
    retention = Retention(box.log, data_dir, RetentionSettings(), SystemClock())
    retention.roller.closed["telemetry", "time"] += 1
    expirer = retention.expirer
    for counter in (expirer.expired_windows, expirer.expired_bytes):
        counter["telemetry", "older than max_age"] += 1
    expirer.unexported_offsets["telemetry"] += 1
    expirer.held = [Held(topic="telemetry", number=1, reason=Reason.AGE, sinks=("parquet",))]
    info = next(topic for topic in box.log.topics() if topic.name == "telemetry")
    held = [PartitionHolding(partition=0, log_start=0, segments=())]
    limits = TopicLimits(RetentionSettings()).of("telemetry")
    expirer.topics = [TopicState(info=info, windows=[], partitions=held, committed={}, limits=limits)]
    expirer.disk.last = DiskLook(
        usage=Usage(total_bytes=1, free_bytes=1, lake_bytes=1, log_other_bytes=1),
        log_bytes=1,
        used_bytes=1,
        marks=Marks(limit_bytes=1, high_bytes=1, low_bytes=1),
        forecast=Forecast(state="growing", bytes_per_day=1.0, days_left=1.0),
    )
    for counter in (retention.lake.dropped_files, retention.lake.dropped_bytes):
        counter["telemetry", "older than lake_max_age"] += 1
    retention.rounds[0].failures["storage"] += 1
    return retention


def edge_text(box: Any, run_dir: Path) -> str:
    listeners = ListenerCounters("mqtt"), ListenerCounters("tcp")
    for counters in listeners:
        counters.refused_connections["malformed"] += 1
        counters.refused_lines["no-device"] += 1
        counters.dropped["disk full"] += 1
    retention = retained(box, run_dir)
    box.log.stats.batches["appended"] += 1
    box.mqtt.broker.counters.reasons[PacketType.CONNACK, 0] += 1
    box.mqtt.broker.counters.disconnects[4] += 1
    channel = ChannelServer(run_dir / "edge.sock", {})
    return metrics_text(
        EdgeCollector(box.log, listeners, box.sessions, retention, channel, SystemClock(), broker=box.mqtt.broker)
    )


async def scrape(tmp_path: Path) -> str:
    console = ApiBox(tmp_path)
    console.sink_reports(sink_text())
    async with edge_box(tmp_path / "data") as box:
        console.edge["metrics"] = edge_text(box, tmp_path)
    registry = own_registry(console.services, Counter({("/healthz", 200): 1}))
    return await all_metrics(console.services, registry)


async def test_every_metric_is_documented_with_its_type_and_labels(tmp_path: Path) -> None:
    kinds, labels = exported(await scrape(tmp_path))
    written = documented()
    assert {name: kind for name, (kind, _) in written.items()} == kinds
    for name, (_, wanted) in written.items():
        assert labels[name] == {wanted}, name


def closing_reasons() -> Iterator[str]:
    """Every reason that the sources give a closed connection."""
    root = Path(__file__).parent.parent
    for path in [*(root / "ingest").rglob("*.py"), root / "appliance" / "edge.py"]:
        source = path.read_text()
        yield from re.findall(r'\.(?:close|end)\(\s*"([a-z -]+)"', source)
        yield from re.findall(r'_refuse\("([a-z -]+)"', source)
        constants = "DISK_FULL|SHUTDOWN|TAKEN_OVER|OVERFLOWED|BEHIND_THE_LOG|UNREADABLE"
        yield from re.findall(rf'^(?:{constants}): Final = "([a-z -]+)"', source, re.MULTILINE)
    source = (root / "wire" / "mqtt" / "errors.py").read_text()
    yield from re.findall(r'^    reason(?:: ClassVar\[str\])? = "([a-z-]+)"', source, re.MULTILINE)


def test_every_reason_of_a_closed_connection_is_documented() -> None:
    table = DOCS.read_text().split("| reason |")[1].split("## ")[0]
    told = {
        name for line in table.splitlines() if (row := _REASON.match(line)) for name in re.findall("`(.*?)`", row[1])
    }
    assert set(closing_reasons()) - {"protocol-level"} == told  # that one is answered with a CONNACK: `connect refused`


async def test_a_clock_set_back_is_seen(tmp_path: Path) -> None:
    class Slow(SystemClock):
        def time_ms(self) -> int:
            return super().time_ms() - 3_600_000

    async with edge_box(tmp_path / "data") as box:
        retention = Retention(box.log, tmp_path, RetentionSettings(), SystemClock())
        channel = ChannelServer(tmp_path / "edge.sock", {})
        text = metrics_text(
            EdgeCollector(box.log, (), box.sessions, retention, channel, Slow(), broker=box.mqtt.broker)
        )
    (behind_s,) = sample_values(text, "headrace_clock_behind_seconds")
    assert 3590 < behind_s < 3610
