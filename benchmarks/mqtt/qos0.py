"""QoS 0 in: devices that want no answer, counted by what the server has parsed (see docs/performance.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.ingest import Reading
from benchmarks.loads import Load, Loader, Timing
from benchmarks.measure import process_memory
from benchmarks.mqtt.scenario import MIB, Bar, Column, Outcome, Plan, reasons_to_void, share_columns, shares
from benchmarks.servers import Running

WINDOW: Final = 10


class Qos0:
    """The saturated load of `benchmarks.ingest` at QoS 0."""

    name = "qos0"
    size = 100
    columns: Sequence[Column] = (
        Column(name="taken_per_s", head="taken/s", compared=True),
        Column(name="p99_us", head="p99 ms", scale=1e-3, digits=1),
        Column(name="cpu_us_per_message", head="CPU us/msg", digits=2, compared=True),
        Column(name="rss_bytes", head="RSS MiB", scale=1 / MIB),
        *share_columns("loader"),
    )
    bars: Sequence[Bar] = (
        Bar(name="taken_per_s", limit=0.6, at_most=False, ratio=True, words="taken/s to mosquitto at least 0.6"),
    )

    def title(self, size: int) -> str:
        return f"QoS 0 in: {size:,} connections x window {WINDOW}, no subscriber"

    def run(self, plan: Plan, running: Running) -> Outcome:
        load = Load(connections=plan.size, window=WINDOW)
        timing = Timing(warmup_s=plan.warmup_s, interval_s=plan.interval_s, qos=0, payload_bytes=plan.payload_bytes)
        with Loader(plan.programs["loadgen"], running.port, load, timing) as loader:
            loader.wait_for("connected")
            loader.wait_for("measuring")
            start = Reading.now(running.pid)
            result = loader.result()
            end = Reading.now(running.pid)
            rss_bytes = process_memory(running.pid).rss_bytes
        figures = {
            "taken_per_s": result.acked_per_s,
            "p50_us": result.p50_us,
            "p99_us": result.p99_us,
            "cpu_us_per_message": end.server.since(start.server).total_s / max(result.acked, 1) * 1e6,
            "rss_bytes": rss_bytes,
            **shares(start, end, {"loader": result.user_s + result.system_s}),
        }
        return Outcome(figures=figures, void=reasons_to_void(figures, ["loader"]))
