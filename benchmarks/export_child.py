"""What is measured of an export, in a process of its own: `python -m benchmarks.export_child sink|duckdb ...`.

`sink DATA_DIR` exports the closed window of a log that another process has open, as the appliance's sink process does:
the runner with the Parquet sink, reading segments, checkpointing over the local channel. `duckdb LINES FILE THREADS`
has DuckDB make a sorted Parquet file of the same readings as JSON lines, and syncs it.

Both print what it took from the first read to the last sync as one JSON object (`Spent`). Starting Python and importing
are left out on both sides. The peak of memory is the process' own `VmHWM`; `ru_maxrss` of a child begins with its
parent's. What this file calls is all that the benchmark knows of the sink.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import duckdb
import structlog

from appliance.settings import Settings, load_settings
from appliance.sink import parquet_sink
from benchmarks.export_load import TOPIC
from benchmarks.measure import BenchmarkError, process_memory
from commitlog.reader import FileLogReader
from commitlog.remote import RemoteLog
from core.channel import ChannelClient
from core.clock import SystemClock
from core.collector import collect_seldom
from sink.attempts import Pauses
from sink.base import Export
from sink.metrics import SinkMetrics
from sink.runner import Runner


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Wall and CPU seconds of all threads, and resident memory before and at its peak."""

    wall_s: float
    user_s: float
    system_s: float
    start_rss_bytes: int
    peak_rss_bytes: int


class Meter:
    """Begins with its construction, ends with `stop`, which may be called at the very moment it is over."""

    def __init__(self) -> None:
        self._start_rss_bytes = process_memory(os.getpid()).rss_bytes
        self._before = resource.getrusage(resource.RUSAGE_SELF)
        self._started_s = time.perf_counter()

    def stop(self) -> Self:
        self._wall_s = time.perf_counter() - self._started_s
        self._after = resource.getrusage(resource.RUSAGE_SELF)
        return self

    def spent(self) -> Spent:
        return Spent(
            wall_s=self._wall_s,
            user_s=self._after.ru_utime - self._before.ru_utime,
            system_s=self._after.ru_stime - self._before.ru_stime,
            start_rss_bytes=self._start_rss_bytes,
            peak_rss_bytes=process_memory(os.getpid()).peak_rss_bytes,
        )


class Watch(SinkMetrics):
    """Notices the topic's first checkpoint, and any failure, which would otherwise only be tried again."""

    def __init__(self, stop: asyncio.Event) -> None:
        super().__init__()
        self.export: Export | None = None
        self.failure = ""
        self.meter = Meter()
        self._stop = stop

    def exported(self, topic: str, export: Export, now_ms: int) -> None:
        super().exported(topic, export, now_ms)
        if topic == TOPIC:
            self.meter.stop()
            self.export = export
            self._stop.set()

    def failed(self, kind: str) -> None:
        super().failed(kind)
        self.failure = kind
        self._stop.set()


async def export(settings: Settings) -> tuple[Spent, Export]:
    """The closed window of `TOPIC`, from the log to synced files and the checkpoint."""
    channel = ChannelClient(settings.data_dir / "run" / "edge.sock")
    stop = asyncio.Event()
    watch = Watch(stop)
    runner = Runner(
        parquet_sink(settings),
        open_reader=lambda: FileLogReader(settings.data_dir),
        log=RemoteLog(channel),
        clock=SystemClock(),
        metrics=watch,
        pauses=Pauses(retry_max_s=settings.sink.retry_max_s),
    )
    try:
        await runner.run(stop)
    finally:
        await channel.close()
    if watch.export is None:
        raise BenchmarkError(f"the export failed: {watch.failure}", mend="the lines above say why")
    return watch.meter.spent(), watch.export


def run_sink(data_dir: Path) -> dict[str, object]:
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(30), logger_factory=structlog.PrintLoggerFactory(sys.stderr)
    )
    collect_seldom()
    spent, done = asyncio.run(export(load_settings(None, data_dir, [], environ={})))
    return dataclasses.asdict(spent) | {
        "rows": done.rows,
        "quarantined": sum(done.quarantined.values()),
        "files": len(done.files),
        "size_bytes": sum(file.size_bytes for file in done.files),
    }


def run_duckdb(lines: Path, target: Path, threads: int) -> dict[str, object]:
    connection = duckdb.connect()
    connection.execute(f"SET threads={threads}")
    meter = Meter()
    counted = connection.execute(
        f"COPY (SELECT * FROM read_json('{lines}', format='newline_delimited') ORDER BY device, ts) "
        f"TO '{target}' (FORMAT parquet, COMPRESSION zstd)"
    ).fetchone()
    for path, flags in ((target, os.O_RDWR), (target.parent, os.O_RDONLY | os.O_DIRECTORY)):
        descriptor = os.open(path, flags)
        os.fsync(descriptor)
        os.close(descriptor)
    meter.stop()
    rows = counted[0] if counted else 0
    facts = {"rows": rows, "quarantined": 0, "files": 1, "size_bytes": target.stat().st_size}
    return dataclasses.asdict(meter.spent()) | facts


def main(words: list[str]) -> None:
    kind, *rest = words
    result = run_sink(Path(rest[0])) if kind == "sink" else run_duckdb(Path(rest[0]), Path(rest[1]), int(rest[2]))
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])
