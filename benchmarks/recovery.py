"""How long a log takes to be ready again: killed with active segments of several sizes, and with many closed ones.

`python -m benchmarks.recovery [--segment-mb 16 --segment-mb 256] [--closed 10000]`. Each figure is the median of the
rounds, each round a process of its own that was killed while it had up to `log.checkpoint_bytes` behind the last
checkpoint. The page cache is warm, as after a kill; after a power cut reading the same bytes comes on top.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from commitlog.base import NewRecord
from commitlog.checkpoint import read_checkpoint, write_checkpoint
from commitlog.embedded import EmbeddedLog
from commitlog.segment import SUFFIXES, segment_path
from commitlog.settings import LogSettings
from commitlog.storage import LOG_DIR, SystemStorage
from core.clock import SystemClock

PARTITIONS = 8
VALUE_BYTES = 16 << 10  # large, so that filling is the disk's work and not the benchmark's
PER_APPEND = 64
TOPIC = "telemetry"


def fail(error: Exception) -> None:
    """The log failed: the figures would mean nothing."""
    print(f"the log has failed: {error!r}", file=sys.stderr)
    os._exit(1)


async def open_log(data_dir: Path) -> EmbeddedLog:
    """The log as the edge opens it."""
    return await EmbeddedLog.open(
        data_dir, LogSettings(), clock=SystemClock(), storage=SystemStorage(), on_failure=fail
    )


async def fill(data_dir: Path, segment_mb: int) -> None:
    """Grow the active segment of each partition to the size, then die without a word."""
    log = await open_log(data_dir)
    await log.create_topic(TOPIC, PARTITIONS)
    rng = random.Random(1)
    wanted = segment_mb * (1 << 20) // VALUE_BYTES * PARTITIONS
    for start in range(0, wanted, PER_APPEND):
        records = [
            NewRecord(topic=TOPIC, key=None, value=rng.randbytes(VALUE_BYTES), partition=number % PARTITIONS)
            for number in range(start, min(start + PER_APPEND, wanted))
        ]
        await log.append(records)
    os.kill(os.getpid(), signal.SIGKILL)


async def measure(data_dir: Path) -> None:
    """Open, and print what it took."""
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    log = await open_log(data_dir)
    seconds = time.perf_counter() - started
    report = log.report
    facts = {
        "seconds": seconds,
        "rss_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) / 1024,
        "entries": report.entries_replayed,
        "replayed": report.records_replayed,
        "cuts": len(report.cuts),
    }
    print(json.dumps(facts), flush=True)
    await log.close()


async def closed_segments(data_dir: Path, count: int) -> None:
    """A log that was closed in order, with that many closed segments (empty files: none of them is read at a start)."""
    log = await open_log(data_dir)
    await log.create_topic(TOPIC, PARTITIONS)
    await log.close()
    storage = SystemStorage()
    checkpoint = read_checkpoint(storage, data_dir / LOG_DIR)
    assert checkpoint is not None
    each = count // PARTITIONS
    for partition in range(PARTITIONS):
        for number in range(each):
            for suffix in SUFFIXES:
                segment_path(data_dir / LOG_DIR / f"{TOPIC}-{partition}", number * 100, suffix).touch()
    points = [msgspec.structs.replace(point, next_offset=each * 100) for point in checkpoint.partitions]
    write_checkpoint(storage, data_dir / LOG_DIR, msgspec.structs.replace(checkpoint, partitions=points))


def child(step: str, data_dir: Path, number: int = 0) -> dict[str, Any]:
    """Run one step in a process of its own; what it printed."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.recovery",
        "--step",
        step,
        "--dir",
        str(data_dir),
        "--number",
        str(number),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(done.stderr)
    facts: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
    return facts


def run_round(name: str, prepare: str, number: int, rounds: int, where: Path) -> None:
    """Prepare and open in turns; one line of figures."""
    facts = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir=where) as scratch:
            child(prepare, Path(scratch), number)
            facts.append(child("measure", Path(scratch)))
    seconds = [one["seconds"] for one in facts]
    print(
        f"| {name} | {statistics.median(seconds):.3f} | {min(seconds):.3f}-{max(seconds):.3f} "
        f"| {statistics.median(one['replayed'] for one in facts) * VALUE_BYTES / (1 << 20):.1f} "
        f"| {max(one['rss_mb'] for one in facts):.0f} | {sum(one['cuts'] for one in facts)} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segment-mb", type=int, action="append", help="size of each active segment")
    parser.add_argument("--closed", type=int, default=10_000, help="closed segments of a clean log")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=Path.cwd(), help="on the disk to measure")
    parser.add_argument("--step", choices=("fill", "closed", "measure"), help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step == "fill":
        asyncio.run(fill(args.dir, args.number))
    elif args.step == "closed":
        asyncio.run(closed_segments(args.dir, args.number))
    elif args.step == "measure":
        asyncio.run(measure(args.dir))
    else:
        print("| log | ready after s | spread | replayed MB | memory grew MB | cuts |")
        print("|---|---|---|---|---|---|")
        for segment_mb in args.segment_mb or (16, 256):
            run_round(f"killed, {PARTITIONS} x {segment_mb} MB active", "fill", segment_mb, args.rounds, args.dir)
        run_round(f"clean, {args.closed} closed segments", "closed", args.closed, args.rounds, args.dir)


if __name__ == "__main__":
    main()
