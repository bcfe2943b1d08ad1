"""The clients that receive: `subgen` driven from Python, mark by mark."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from benchmarks.loader import LoaderProcess
from benchmarks.mqtt.scenario import Plan

LIFE_S: Final = 900.0  # longer than any scenario: a forgotten process still ends
PATIENCE_S: Final = 5.0  # without a single delivery, before what is missing is taken for lost
_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Counts since the subscribers' start, and the latencies since the mark before."""

    at_s: float
    delivered: int
    missing: int
    repeated: int
    acked: int
    published: int
    dropped: int
    p50_us: int
    p99_us: int
    max_us: int
    user_s: float
    system_s: float

    @property
    def unique(self) -> int:
        return self.delivered - self.repeated

    @property
    def cpu_s(self) -> float:
        return self.user_s + self.system_s


class Subscribers(LoaderProcess):
    """Clients that receive, or only stay connected; in this context from CONNECT to DISCONNECT."""

    def __init__(self, plan: Plan, port: int, **options: float | str) -> None:
        known = {"port": port, "seconds": LIFE_S, **{name.replace("_", "-"): value for name, value in options.items()}}
        super().__init__(plan.programs["subgen"], known, life_s=LIFE_S)

    def connected(self) -> float:
        """Waits until all are connected and subscribed; how long that took, in seconds."""
        connect_s: float = self.wait_for("connected")["connect_s"]
        return connect_s

    def mark(self) -> Mark:
        self.send_line()
        return Mark(**self.wait_for("mark"))

    def drain(self, wanted: int, *, patience_s: float = PATIENCE_S) -> Mark:
        """The mark at which `wanted` different readings have come, or nothing more came for `patience_s`."""
        now = self.mark()
        give_up_s = now.at_s + patience_s
        while now.unique < wanted and now.at_s < give_up_s:
            time.sleep(_POLL_S)
            before, now = now, self.mark()
            if now.delivered > before.delivered:
                give_up_s = now.at_s + patience_s
        return now
