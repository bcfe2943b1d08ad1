"""A persistent subscriber goes away, a million messages come, it returns: the cost to it, the server and others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.ingest import Reading
from benchmarks.loads import Load, Loader, LoadResult, Timing
from benchmarks.measure import BenchmarkError, process_memory
from benchmarks.mqtt.memory import MemorySeries
from benchmarks.mqtt.scenario import MIB, Bar, Column, Outcome, Plan, reasons_to_void, share_columns, shares
from benchmarks.mqtt.subscriber import Mark, Subscribers
from benchmarks.servers import Running

DEVICES: Final = 100
FILTER: Final = "devices/+/telemetry"
OTHERS: Final = Load(connections=1000, window=10, rate_per_s=1.0)  # to another last level, which nobody subscribes to
PATIENCE_S: Final = 300.0  # for the million to be taken, and again for it to be delivered
GROWTH_LIMIT_BYTES: Final = 50_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Return:
    """The subscriber's return, from before its CONNECT to its last message, and what the others saw of it."""

    start: Reading
    done: Mark
    end: Reading
    others: LoadResult

    @property
    def seconds(self) -> float:
        return self.done.at_s - self.start.at_s


class Away:
    """Others publish once a second each the whole time: their 99th percentile before and during the return."""

    name = "away"
    size = 1_000_000
    columns: Sequence[Column] = (
        Column(name="delivered_per_s", head="caught up msg/s", compared=True),
        Column(name="return_s", head="caught up in s", digits=1),
        Column(name="acked_per_s", head="acked/s while away", compared=True),
        Column(name="lost", head="lost"),
        Column(name="disordered", head="out of order"),
        Column(name="rss_before_bytes", head="RSS before MiB", scale=1 / MIB),
        Column(name="rss_growth_bytes", head="RSS growth MiB", scale=1 / MIB, compared=True),
        Column(name="p99_before_us", head="others p99 before ms", scale=1e-3, digits=1),
        Column(name="p99_during_us", head="others p99 during ms", scale=1e-3, digits=1),
        Column(name="p99_ratio", head="p99 during to before", digits=2),
        *share_columns("subscriber"),
    )
    bars: Sequence[Bar] = (
        Bar(name="lost", limit=0, at_most=True, words="all of it delivered"),
        Bar(name="disordered", limit=0, at_most=True, words="in order, each once"),
        Bar(name="rss_growth_bytes", limit=GROWTH_LIMIT_BYTES, at_most=True, words="RSS growth below 50 MB"),
        Bar(name="p99_ratio", limit=2.0, at_most=True, words="ack p99 of others below twice that before"),
    )

    def title(self, size: int) -> str:
        return f"away: a persistent QoS 1 subscriber misses {size:,} messages and returns"

    def run(self, plan: Plan, running: Running) -> Outcome:
        """Subscribe and leave; others alone; the messages, saturated; others, and the return."""
        with Subscribers(plan, running.port, filter=FILTER, qos=1, name="away", persistent=True) as subscriber:
            subscriber.connected()
        before = _others_alone(plan, running)
        rss_before = process_memory(running.pid).rss_bytes
        with MemorySeries(running.pid) as memory:
            missed = _messages(plan, running)
            rss_away = process_memory(running.pid).rss_bytes
            back = _return(plan, running)
        figures = {
            **_figures(missed, back),
            "rss_before_bytes": rss_before,
            "rss_away_bytes": rss_away,
            "rss_growth_bytes": max(memory.rss_bytes) - rss_before,
            "p99_before_us": before.p99_us,
            "p99_during_us": back.others.p99_us,
            "p99_ratio": back.others.p99_us / max(before.p99_us, 1),
        }
        return Outcome(
            figures=figures, void=reasons_to_void(figures, ["subscriber"]), series={"rss_bytes": memory.rss_bytes}
        )


def _figures(missed: LoadResult, back: Return) -> dict[str, float]:
    paced_s = back.others.user_s + back.others.system_s
    return {
        "delivered_per_s": back.done.unique / back.seconds,
        "return_s": back.seconds,
        "acked_per_s": missed.acked_per_s,
        "lost": max(missed.acked_total - back.done.unique, 0) + back.done.missing,
        "disordered": back.done.missing + back.done.repeated,
        **shares(back.start, back.end, {"subscriber": back.done.cpu_s, "paced": paced_s}),
    }


def _others(plan: Plan, running: Running, interval_s: float) -> Loader:
    timing = Timing(warmup_s=plan.warmup_s, interval_s=interval_s, qos=1, payload_bytes=plan.payload_bytes)
    return Loader(plan.programs["loadgen"], running.port, OTHERS, timing, name="other", leaf="status")


def _others_alone(plan: Plan, running: Running) -> LoadResult:
    with _others(plan, running, plan.interval_s) as others:
        others.wait_for("connected")
        others.wait_for("measuring")
        return others.result()


def _messages(plan: Plan, running: Running) -> LoadResult:
    """Exactly the wanted number, as fast as they are acknowledged."""
    load = Load(connections=DEVICES, window=10)
    timing = Timing(warmup_s=0, interval_s=PATIENCE_S, qos=1, payload_bytes=plan.payload_bytes)
    with Loader(plan.programs["loadgen"], running.port, load, timing, messages=plan.size) as publishers:
        publishers.wait_for("connected")
        publishers.wait_for("measuring")
        result = publishers.result()
    if result.acked_total < plan.size:
        raise BenchmarkError(f"{result.acked_total:,} of {plan.size:,} messages were acked in {PATIENCE_S:.0f} s")
    return result


def _return(plan: Plan, running: Running) -> Return:
    with _others(plan, running, PATIENCE_S) as others:
        others.wait_for("connected")
        others.wait_for("measuring")
        start = Reading.now(running.pid)
        with Subscribers(plan, running.port, filter=FILTER, qos=1, name="away", resume=True) as subscriber:
            subscriber.connected()
            done = subscriber.drain(plan.size)
            end = Reading.now(running.pid)
        others.send_line()
        return Return(start=start, done=done, end=end, others=others.result())
