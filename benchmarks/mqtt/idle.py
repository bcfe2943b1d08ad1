"""Many connections that do nothing: what a client costs in memory before its first message."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from benchmarks.ingest import Reading
from benchmarks.measure import process_memory
from benchmarks.mqtt.scenario import MIB, Bar, Column, Outcome, Plan
from benchmarks.mqtt.subscriber import Subscribers
from benchmarks.servers import Running

KEEP_ALIVE_S: Final = 600  # so that the server watches over each of them, and none has to ping meanwhile
LIMIT_BYTES: Final = 4096


class Idle:
    """Before any connection and with all of them, after as long a rest as a measured interval."""

    name = "idle"
    size = 10_000
    columns: Sequence[Column] = (
        Column(name="rss_bytes_each", head="RSS B/connection", compared=True),
        Column(name="pss_bytes_each", head="PSS B/connection", compared=True),
        Column(name="rss_before_bytes", head="RSS before MiB", scale=1 / MIB, digits=1),
        Column(name="rss_after_bytes", head="RSS with all MiB", scale=1 / MIB, digits=1),
        Column(name="connect_s", head="to connect s", digits=2),
        Column(name="server_share", head="server % idle", scale=100, digits=1),
    )
    bars: Sequence[Bar] = (
        Bar(name="rss_bytes_each", limit=LIMIT_BYTES, at_most=True, words="RSS at most 4 KB a connection"),
    )

    def title(self, size: int) -> str:
        return f"idle: {size:,} connections, keep-alive {KEEP_ALIVE_S} s"

    def run(self, plan: Plan, running: Running) -> Outcome:
        before = process_memory(running.pid)
        with Subscribers(plan, running.port, connections=plan.size, keep_alive=KEEP_ALIVE_S) as clients:
            connect_s = clients.connected()
            start = Reading.now(running.pid)
            time.sleep(plan.interval_s)
            end = Reading.now(running.pid)
            after = process_memory(running.pid)
            clients.mark()  # an error, should any of them have lost its connection meanwhile
        figures = {
            "rss_bytes_each": (after.rss_bytes - before.rss_bytes) / plan.size,
            "pss_bytes_each": (after.pss_bytes - before.pss_bytes) / plan.size,
            "rss_before_bytes": before.rss_bytes,
            "rss_after_bytes": after.rss_bytes,
            "connect_s": connect_s,
            "server_share": end.server.since(start.server).total_s / (end.at_s - start.at_s),
        }
        return Outcome(figures=figures)
