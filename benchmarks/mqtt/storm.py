"""Everybody loses the connection at once, and comes back at once: an access point restarted, a switch replaced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from benchmarks.loader import LoaderProcess
from benchmarks.mqtt.memory import MemorySeries
from benchmarks.mqtt.scenario import MIB, Bar, Column, Outcome, Plan
from benchmarks.mqtt.subscriber import Mark, Subscribers
from benchmarks.servers import Running

PATIENCE_S: Final = 60.0  # until the last one is back: the kernel itself waits 1, 3, 7 s for a SYN that was dropped


class Storm:
    """One reading a second each, QoS 1, and a subscriber that stays, to see that nothing acknowledged is wanting."""

    name = "storm"
    size = 5_000
    columns: Sequence[Column] = (
        Column(name="back_s", head="all back s", digits=2, compared=True),
        Column(name="retries", head="connects refused"),
        Column(name="steady_p99_us", head="p99 before ms", scale=1e-3, digits=1),
        Column(name="storm_p50_us", head="p50 since ms", scale=1e-3, digits=1),
        Column(name="storm_p99_us", head="p99 since ms", scale=1e-3),
        Column(name="resent", head="sent again"),
        Column(name="lost", head="lost"),
        Column(name="repeated", head="repeated"),
        Column(name="rss_bytes", head="RSS before MiB", scale=1 / MIB),
        Column(name="peak_rss_bytes", head="RSS peak MiB", scale=1 / MIB),
    )
    bars: Sequence[Bar] = (Bar(name="lost", limit=0, at_most=True, words="all back, nothing acked is lost"),)

    def title(self, size: int) -> str:
        return f"storm: {size:,} devices x 1/s, QoS 1, all connecting again at once"

    def run(self, plan: Plan, running: Running) -> Outcome:
        options = {
            "port": running.port,
            "connections": plan.size,
            "payload-bytes": plan.payload_bytes,
            "steady": plan.warmup_s + plan.interval_s,
            "after": plan.interval_s,
            "patience": PATIENCE_S,
            "abandon": True,
        }
        life_s = plan.warmup_s + 2 * plan.interval_s + 2 * PATIENCE_S
        with Subscribers(plan, running.port, filter="devices/#", qos=1, devices=plan.size, name="witness") as witness:
            witness.connected()
            with LoaderProcess(plan.programs["stormgen"], options, life_s=life_s) as devices:
                devices.wait_for("connected")
                steady = devices.wait_for("steady")
                with MemorySeries(running.pid) as memory:
                    back = devices.wait_for("back")
                    result = devices.wait_for("result")
                final = witness.drain(result["sent_total"])
        series = {"rss_bytes": memory.rss_bytes}
        figures = _figures(steady, back, result, final)
        figures |= {"rss_bytes": memory.rss_bytes[0], "peak_rss_bytes": max(memory.rss_bytes)}
        return Outcome(figures=figures, series=series)


def _figures(steady: dict[str, Any], back: dict[str, Any], result: dict[str, Any], final: Mark) -> dict[str, float]:
    return {
        "back_s": back["elapsed_s"],
        "retries": result["retries"],
        "resent": result["resent"],
        "sent": result["sent_total"],
        "steady_p50_us": steady["p50_us"],
        "steady_p99_us": steady["p99_us"],
        "storm_p50_us": result["p50_us"],
        "storm_p99_us": result["p99_us"],
        "storm_max_us": result["max_us"],
        "lost": max(result["sent_total"] - final.unique, 0) + final.missing,  # all that was sent is acked by then
        "repeated": final.repeated,
    }
