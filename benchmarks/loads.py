"""The loads that publish, and the loader process that puts them on a server (`loadgen.c`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.loader import LoaderProcess

PACED_WINDOW: Final = 10  # unanswered messages before a paced device skips one: ten seconds of silence at 1/s

_NAME: Final = re.compile(r"(?P<connections>\d+)(?:x(?P<window>\d+)|@(?P<rate>\d+(?:\.\d+)?))")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Connections that publish: as fast as answers come, `window` unanswered each (rate 0), or at `rate` per second."""

    connections: int
    window: int
    rate_per_s: float = 0.0

    @property
    def name(self) -> str:
        if self.rate_per_s:
            return f"{self.connections}@{self.rate_per_s:g}"
        return f"{self.connections}x{self.window}"

    @property
    def title(self) -> str:
        if self.rate_per_s:
            return f"paced, {self.connections:,} devices x {self.rate_per_s:g}/s"
        return f"saturated, {self.connections:,} connections x window {self.window}"


def parse_load(text: str) -> Load:
    """`100x10` is saturated, connections x window; `1000@1` is paced, devices @ messages/s each. Raises ValueError."""
    match = _NAME.fullmatch(text)
    if match is None or int(match["connections"]) == 0 or not float(match["window"] or match["rate"]):
        raise ValueError(f"{text!r} is no load: write 100x10 (connections x window) or 1000@1 (devices @ rate)")
    if match["rate"]:
        return Load(connections=int(match["connections"]), window=PACED_WINDOW, rate_per_s=float(match["rate"]))
    return Load(connections=int(match["connections"]), window=int(match["window"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long a load lasts before and while it is measured, in seconds, and what it sends."""

    warmup_s: float
    interval_s: float
    qos: int
    payload_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """What the loader saw in the measured interval; `acked_total` and `total_s` include the warm-up."""

    interval_s: float
    total_s: float
    connect_s: float
    acked: int
    acked_per_s: float
    acked_total: int
    sent_total: int
    skipped: int
    p50_us: int
    p99_us: int
    max_us: int
    user_s: float
    system_s: float

    @property
    def loader_share(self) -> float:
        """CPU of the loader as a share of one core, which is all that its one thread can have."""
        return (self.user_s + self.system_s) / self.interval_s


class Loader(LoaderProcess):
    """One run of `loadgen`; its connections stay open until this context ends."""

    def __init__(self, program: Path, port: int, load: Load, timing: Timing, **more: float | str) -> None:
        options = {
            "port": port,
            "connections": load.connections,
            "window": load.window,
            "rate": load.rate_per_s,
            "qos": timing.qos,
            "payload-bytes": timing.payload_bytes,
            "warmup": timing.warmup_s,
            "seconds": timing.interval_s,
        }
        super().__init__(program, options | more, life_s=timing.warmup_s + timing.interval_s)

    def result(self) -> LoadResult:
        """What it measured, once its interval is over."""
        return LoadResult(**self.wait_for("result"))
