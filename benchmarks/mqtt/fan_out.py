"""One publisher, many QoS 0 subscribers: a set point or a dashboard feed that everybody wants."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from benchmarks.ingest import Reading
from benchmarks.measure import process_memory
from benchmarks.mqtt.scenario import MIB, Bar, Column, Outcome, Plan, reasons_to_void, share_columns, shares
from benchmarks.mqtt.subscriber import Subscribers
from benchmarks.servers import Running

WINDOW: Final = 10


class FanOut:
    """A closed loop on the slowest subscriber, since QoS 0 has no other brake: no server is driven into dropping."""

    name = "fan-out"
    size = 500
    columns: Sequence[Column] = (
        Column(name="delivered_per_s", head="delivered/s", compared=True),
        Column(name="published_per_s", head="published/s"),
        Column(name="delivery_p99_us", head="delivery p99 ms", scale=1e-3),
        Column(name="cpu_us_per_delivery", head="CPU us/delivery", digits=2, compared=True),
        Column(name="dropped", head="dropped"),
        Column(name="rss_bytes", head="RSS MiB", scale=1 / MIB),
        *share_columns("loader"),
    )
    bars: Sequence[Bar] = (
        Bar(
            name="delivered_per_s", limit=0.5, at_most=False, ratio=True, words="delivered/s to mosquitto at least 0.5"
        ),
    )

    def title(self, size: int) -> str:
        return f"fan-out: QoS 0, one publisher x window {WINDOW}, {size:,} subscribers"

    def run(self, plan: Plan, running: Running) -> Outcome:
        options: dict[str, float | str] = {
            "filter": "devices/#",
            "publish": WINDOW,
            "payload_bytes": plan.payload_bytes,
        }
        with Subscribers(plan, running.port, connections=plan.size, devices=1, **options) as clients:
            clients.connected()
            time.sleep(plan.warmup_s)
            start, first = Reading.now(running.pid), clients.mark()
            time.sleep(plan.interval_s)
            last, end = clients.mark(), Reading.now(running.pid)
            rss_bytes = process_memory(running.pid).rss_bytes
        delivered, elapsed_s = last.delivered - first.delivered, last.at_s - first.at_s
        figures = {
            "delivered_per_s": delivered / elapsed_s,
            "published_per_s": (last.published - first.published) / elapsed_s,
            "delivery_p50_us": last.p50_us,
            "delivery_p99_us": last.p99_us,
            "cpu_us_per_delivery": end.server.since(start.server).total_s / max(delivered, 1) * 1e6,
            "dropped": last.dropped,
            "rss_bytes": rss_bytes,
            **shares(start, end, {"loader": last.cpu_s - first.cpu_s}),
        }
        return Outcome(figures=figures, void=reasons_to_void(figures, ["loader"]))
