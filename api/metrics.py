"""`/metrics`: one Prometheus text made of three parts - the edge's, the sink's, this process's own.

Each part says its own families; where two parts have a family of one name, its samples are put together under one
heading, as the format demands. A part that is not there is left out, and `headrace_scrape_part_up{part}` is 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.context import Services
from core.errors import HeadraceError
from devices.status import StatusView
from devices.tail import TailState

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
SINK_FILE: Final = "sink.prom"
_MAX_PART_BYTES: Final = 8 << 20  # a part is a few hundred lines; more is no metrics file of ours


class ConsoleCollector(Collector):
    """This process's own metrics, computed when asked."""

    def __init__(self, services: Services, requests: Mapping[tuple[str, int], int]) -> None:
        self._services = services
        self._requests = requests

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        view: StatusView = self._services.view
        status = self._services.tail.status()
        yield _gauge("headrace_status_devices", "Devices in the status view.", view.devices)
        yield _gauge("headrace_status_connected_devices", "Devices with an open session.", view.connected_devices)
        yield _gauge("headrace_status_lag_records", "Records not yet in the status view.", status.lag_records)
        yield _counter("headrace_status_evicted_devices", "Devices that gave way: table full.", view.evicted_devices)
        yield _counter("headrace_status_fed_records", "Records taken into the status view.", view.fed_records)
        yield _counter(
            "headrace_status_records_without_device", "Records that name no device.", view.records_without_device
        )
        yield _counter("headrace_status_bad_events", "Records of device.events that cannot be read.", view.bad_events)
        yield _counter(
            "headrace_status_undecodable_records", "Records of which no field can be read.", view.undecodable_records
        )
        keeper = self._services.keeper
        yield _counter("headrace_status_snapshots", "Snapshots of the status view written.", keeper.snapshots)
        yield _counter("headrace_status_snapshot_failures", "Snapshots not written, or not usable.", keeper.failures)
        yield _gauge("headrace_status_snapshot_bytes", "Size of the newest snapshot.", keeper.size_bytes)
        states = GaugeMetricFamily("headrace_status_state", "State of the status view (1 for now).", labels=["state"])
        for state in TailState:
            states.add_metric([state.value], float(state is status.state))
        yield states
        registry = self._services.registry
        yield _gauge("headrace_registry_loaded", "Whether the device registry is loaded.", float(registry.view.loaded))
        yield _gauge("headrace_registry_devices", "Devices with an entry in the registry.", registry.view.devices)
        yield _counter("headrace_registry_bad_rows", "Rows of the registry that cannot be read.", registry.bad_rows)
        yield _counter("headrace_registry_failed_looks", "Looks for changes that failed.", registry.failed_looks)
        requests = CounterMetricFamily("headrace_http_requests", "HTTP answers.", labels=["route", "status"])
        for (route, code), count in list(self._requests.items()):
            requests.add_metric([route, str(code)], count)
        yield requests


def own_registry(services: Services, requests: Counter[tuple[str, int]]) -> CollectorRegistry:
    """A registry with this process's metrics alone."""
    registry = CollectorRegistry()
    registry.register(ConsoleCollector(services, requests))
    return registry


async def edge_part(services: Services) -> str | None:
    """The edge's metrics, None while it does not answer."""
    try:
        text = await services.ask("metrics")
    except HeadraceError:
        return None
    return text if isinstance(text, str) else None


def sink_part(run_dir: Path) -> str | None:
    """What the sink last wrote of itself, None when there is no such file."""
    try:
        with (run_dir / SINK_FILE).open("rb") as file:
            return file.read(_MAX_PART_BYTES).decode("utf-8", "replace")
    except OSError:
        return None


async def all_metrics(services: Services, registry: CollectorRegistry) -> str:
    """The whole text."""
    parts = {"edge": await edge_part(services), "sink": sink_part(services.run_dir)}
    parts["console"] = generate_latest(registry).decode()
    up = ["# HELP headrace_scrape_part_up Whether this part is in the scrape.", "# TYPE headrace_scrape_part_up gauge"]
    up += [f'headrace_scrape_part_up{{part="{name}"}} {int(text is not None)}' for name, text in parts.items()]
    return join_parts([*(text for text in parts.values() if text is not None), "\n".join(up)])


def join_parts(parts: Iterable[str]) -> str:
    """One text in which every family stands once, headed as the first part heads it."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for part in parts:
        family = ""
        started: set[str] = set()  # families this part may still head: the first part to name one does
        for line in part.splitlines():
            if line.startswith(("# HELP ", "# TYPE ")):
                family = line.split(" ", 3)[2]
                if family not in heads:
                    heads[family] = []
                    started.add(family)
                if family in started:
                    heads[family].append(line)
            elif line and not line.startswith("#"):
                samples.setdefault(family, []).append(line)
    names = dict.fromkeys([*heads, *samples])
    lines = [line for name in names for line in (*heads.get(name, ()), *samples.get(name, ()))]
    return "\n".join(lines) + "\n"


def sample_values(text: str, name: str) -> list[float]:
    """The values of all samples of one name."""
    values = []
    for line in text.splitlines():
        if line.startswith(name) and line[len(name) : len(name) + 1] in ("{", " "):
            values.append(float(line.rsplit(" ", 1)[1]))
    return values


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value=value)
