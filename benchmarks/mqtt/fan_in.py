"""Many publishers at QoS 1, one QoS 1 subscriber to everything: an ingester that reads a fleet through the broker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks.ingest import Reading
from benchmarks.loads import Load, Loader, LoadResult, Timing
from benchmarks.mqtt.memory import MemorySeries, growth_bytes
from benchmarks.mqtt.scenario import MIB, Bar, Column, Outcome, Plan, reasons_to_void, share_columns, shares
from benchmarks.mqtt.subscriber import Mark, Subscribers
from benchmarks.servers import Running

WINDOW: Final = 10
FLAT_BYTES: Final = 8 * MIB  # an allocator's step or two; a queue at these rates outgrows it within a second


class FanIn:
    """The publishers are a closed loop on their acks; how far the subscriber falls behind them is a figure."""

    name = "fan-in"
    size = 100
    columns: Sequence[Column] = (
        Column(name="delivered_per_s", head="delivered/s", compared=True),
        Column(name="acked_per_s", head="acked/s", compared=True),
        Column(name="ack_p99_us", head="ack p99 ms", scale=1e-3, digits=1),
        Column(name="delivery_p99_us", head="delivery p99 ms", scale=1e-3),
        Column(name="cpu_us_per_delivery", head="CPU us/delivery", digits=2, compared=True),
        Column(name="behind", head="behind"),
        Column(name="lost", head="lost"),
        Column(name="disordered", head="out of order"),
        Column(name="rss_bytes", head="RSS MiB", scale=1 / MIB),
        Column(name="rss_growth_bytes", head="RSS growth MiB", scale=1 / MIB, digits=1),
        *share_columns("publisher", "subscriber"),
    )
    bars: Sequence[Bar] = (
        Bar(
            name="delivered_per_s", limit=1.0, at_most=False, ratio=True, words="delivered/s to mosquitto at least 1.0"
        ),
        Bar(name="rss_growth_bytes", limit=FLAT_BYTES, at_most=True, words="memory flat (growth at most 8 MiB)"),
        Bar(name="lost", limit=0, at_most=True, words="nothing acked is lost"),
        Bar(name="disordered", limit=0, at_most=True, words="each MQTT topic in order"),
    )

    def title(self, size: int) -> str:
        return f"fan-in: QoS 1, {size:,} publishers x window {WINDOW}, one QoS 1 subscriber to #"

    def run(self, plan: Plan, running: Running) -> Outcome:
        load = Load(connections=plan.size, window=WINDOW)
        timing = Timing(warmup_s=plan.warmup_s, interval_s=plan.interval_s, qos=1, payload_bytes=plan.payload_bytes)
        with Subscribers(plan, running.port, filter="#", qos=1, devices=plan.size) as subscriber:
            subscriber.connected()
            with Loader(plan.programs["loadgen"], running.port, load, timing) as publishers:
                publishers.wait_for("connected")
                publishers.wait_for("measuring")
                with MemorySeries(running.pid) as memory:
                    start, first = Reading.now(running.pid), subscriber.mark()
                    result = publishers.result()
                    last, end = subscriber.mark(), Reading.now(running.pid)
                final = subscriber.drain(result.acked_total)
        figures = _figures(result, first, last, final)
        delivered = max(last.delivered - first.delivered, 1)
        figures["cpu_us_per_delivery"] = end.server.since(start.server).total_s / delivered * 1e6
        figures["rss_bytes"], figures["rss_growth_bytes"] = memory.rss_bytes[-1], growth_bytes(memory.rss_bytes)
        loaders_s = {"publisher": result.user_s + result.system_s, "subscriber": last.cpu_s - first.cpu_s}
        figures |= shares(start, end, loaders_s)
        void = reasons_to_void(figures, list(loaders_s))
        return Outcome(figures=figures, void=void, series={"rss_bytes": memory.rss_bytes})


def _figures(result: LoadResult, first: Mark, last: Mark, final: Mark) -> dict[str, float]:
    return {
        "delivered_per_s": (last.delivered - first.delivered) / (last.at_s - first.at_s),
        "acked_per_s": result.acked_per_s,
        "ack_p50_us": result.p50_us,
        "ack_p99_us": result.p99_us,
        "delivery_p50_us": last.p50_us,
        "delivery_p99_us": last.p99_us,
        "behind": max(result.acked_total - last.unique, 0),
        "lost": max(result.acked_total - final.unique, 0) + final.missing,
        "disordered": final.missing + final.repeated,
    }
