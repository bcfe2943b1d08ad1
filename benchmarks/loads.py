"""The loads, and the loader process that puts them on a server (`loadgen.c`)."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from benchmarks.measure import BenchmarkError

PACED_WINDOW: Final = 10  # unanswered messages before a paced device skips one: ten seconds of silence at 1/s

_SPARE_S: Final = 60.0  # beyond its own warm-up and interval: connecting has 30 s in the loader
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


def compile_loader(source: Path, build: Path) -> Path:
    """The loader's program, compiled when it is missing or older than its source."""
    program = build / "loadgen"
    if program.exists() and program.stat().st_mtime_ns >= source.stat().st_mtime_ns:
        return program
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise BenchmarkError("there is no C compiler to build the loader with", mend="apt-get install gcc libc6-dev")
    build.mkdir(parents=True, exist_ok=True)
    words = [compiler, "-std=c17", "-O2", "-Wall", "-Wextra", "-Wconversion", "-o", str(program), str(source)]
    built = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    if built.returncode != 0:
        raise BenchmarkError(f"the loader does not compile:\n{built.stderr}", where=source.name)
    return program


class Loader:
    """One run of the loader; its connections stay open until this context ends.

    The process has a deadline: if the server stalls for good, it is killed and the wait for its next event fails.
    """

    def __init__(self, program: Path, port: int, load: Load, timing: Timing) -> None:
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
        self._words = [str(program), *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
        self._deadline_s = timing.warmup_s + timing.interval_s + _SPARE_S

    def __enter__(self) -> Self:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._words, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        self._timer = threading.Timer(self._deadline_s, self._process.kill)
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        self._process.communicate()  # closes its standard input, upon which it disconnects and ends
        self._timer.cancel()

    def wait_for(self, event: str) -> dict[str, Any]:
        """The next event, which has to be this one. Raises BenchmarkError with the loader's own words if it is not."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            _, said = self._process.communicate()
            raise BenchmarkError(said.strip() or f"the loader was ended after {self._deadline_s:.0f} s")
        told: dict[str, Any] = json.loads(line)
        if told.pop("event") != event:
            raise BenchmarkError(f"the loader said {line.strip()} where {event!r} was due")
        return told

    def result(self) -> LoadResult:
        """What it measured, once its interval is over."""
        return LoadResult(**self.wait_for("result"))
