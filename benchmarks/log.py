"""What the log costs by itself, without sockets: ratios in one run, medians with spread.

    python -m benchmarks.log [append] [read] [behind] [freshness] [memory] [--rounds 5] [--seconds 5]

append     append+commit of 120-byte JSON values over 8 partitions, every commit synced, 1,000 records outstanding in
           chunks of 10: records/s and CPU per record, against the bare loop (`log_bare.py`)
read       sequential read with decode through `FileLogReader`, against the record-batch library iterating the same
           bytes in memory
behind     appends beside a process that reads the log from its start, over and over (`log_behind.py`)
freshness  a reader in another process sees a committed record: latency at paced 10,000 and 50,000 records/s
memory     resident memory of the writing process over ten million records

Each measurement runs in a process of its own. Data lies in `benchmarks/build/log-*`, removed afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import uvloop
from aiokafka.record._crecords import MemoryRecords

from benchmarks.log_bare import BareLog
from benchmarks.log_behind import KINDS, measure_behind
from benchmarks.log_load import DEVICES, PARTITIONS, VALUE_BYTES, ClosedLoop, devices, fresh, open_log
from benchmarks.measure import Spread, process_memory
from commitlog.reader import FileLogReader
from commitlog.segment import LOG_SUFFIX
from commitlog.storage import LOG_DIR


async def measure_append(kind: str, seconds: float) -> dict[str, float]:
    directory = fresh(f"log-{kind}")
    log: Any
    if kind == "bare":
        log = BareLog(directory, PARTITIONS, commit_records=64, interval_s=0.01)
        partitions: Sequence[Any] = log.partitions()
    else:
        log = await open_log(directory)
        partitions = log.partitions("telemetry")
    loop = ClosedLoop(log, partitions, seconds)
    cpu_s, started_s = time.process_time(), time.monotonic()
    loop.start()
    await loop.done.wait()
    wall_s, used_s = time.monotonic() - started_s, time.process_time() - cpu_s
    await log.close()
    shutil.rmtree(directory)
    return {"records_per_s": loop.acked / wall_s, "cpu_us": used_s / loop.acked * 1e6}


async def measure_read(seconds: float) -> dict[str, float]:
    directory = fresh("log-read")
    log = await open_log(directory)
    loop = ClosedLoop(log, log.partitions("telemetry"), seconds)
    loop.start()
    await loop.done.wait()
    await log.close()
    reader = FileLogReader(directory)
    count, started_s = 0, time.monotonic()
    for partition, mark in enumerate(reader.watermarks("telemetry")):
        offset = mark.start
        while offset < mark.high:
            piece = reader.read("telemetry", partition, offset)
            for record in piece.records:
                count += record.value is not None
            offset = piece.next_offset
    ours_s = time.monotonic() - started_s
    reader.close()
    files = sorted((directory / LOG_DIR).glob(f"telemetry-*/*{LOG_SUFFIX}"))
    contents = [file.read_bytes() for file in files]
    other, started_s = 0, time.monotonic()
    for content in contents:
        records = MemoryRecords(content)
        while (batch := records.next_batch()) is not None:
            for record in batch:
                other += record.value is not None
    bare_s = time.monotonic() - started_s
    shutil.rmtree(directory)
    if count != other:
        raise RuntimeError(f"{count} records read, {other} there")
    return {"records": count, "records_per_s": count / ours_s, "bare_records_per_s": other / bare_s}


FOLLOWER = """
import json, sys, time
from pathlib import Path
from commitlog.reader import FileLogReader
reader = FileLogReader(Path(sys.argv[1])); seconds = float(sys.argv[2])
offsets = [0] * len(reader.watermarks("telemetry")); seen = []; end = time.monotonic() + seconds
print("ready", flush=True)
while time.monotonic() < end:
    for partition in range(len(offsets)):
        piece = reader.read("telemetry", partition, offsets[partition])
        now = time.monotonic_ns()
        for record in piece.records:
            seen.append(now - int(record.value[:20]))
        offsets[partition] = piece.next_offset
    reader.wait(0.5)
seen.sort()
print(json.dumps({"records": len(seen), "p50_ms": seen[len(seen)//2]/1e6, "p99_ms": seen[len(seen)*99//100]/1e6}))
"""


async def measure_freshness(rate: int, seconds: float) -> dict[str, float]:
    """The latency counts from the append, so the commit interval is in it."""
    directory = fresh("log-fresh")
    log = await open_log(directory)
    targets = [(log.partitions("telemetry")[index].append, key, headers) for index, key, headers in devices()]
    follower = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FOLLOWER, str(directory), str(seconds + 1), stdout=asyncio.subprocess.PIPE
    )
    assert follower.stdout is not None
    await follower.stdout.readline()
    sent, started_s = 0, time.monotonic()
    while (passed_s := time.monotonic() - started_s) < seconds:
        now_ms, due = log.now_ms(), int(passed_s * rate)
        value = b"%020d" % time.monotonic_ns() + VALUE_BYTES[20:]
        for number in range(sent, due):
            append, key, headers = targets[number % DEVICES]
            append(now_ms, key, value, headers)
        if due > sent:
            log.appended(due - sent, 170 * (due - sent))
        sent = due
        await asyncio.sleep(0.001)
    result: dict[str, float] = json.loads((await follower.communicate())[0])
    await log.close()
    shutil.rmtree(directory)
    return result | {"sent": sent}


async def measure_memory(records: int) -> dict[str, Any]:
    directory = fresh("log-memory")
    log = await open_log(directory)
    series: list[float] = []
    for _ in range(10):
        loop = ClosedLoop(log, log.partitions("telemetry"), 3600)
        loop.start()
        while loop.acked < records // 10:
            await asyncio.sleep(0.05)
        loop._end_s = 0.0
        await loop.done.wait()
        series.append(round(process_memory(os.getpid()).rss_bytes / 2**20, 1))
    await log.close()
    shutil.rmtree(directory)
    return {"records": records, "rss_mib": series}


def in_process(*words: str) -> dict[str, Any]:
    """One measurement in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.log", "--one", *words], capture_output=True, text=True, check=True
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def run_one(words: Sequence[str]) -> dict[str, Any]:
    match words:
        case ["append", kind, seconds]:
            return uvloop.run(measure_append(kind, float(seconds)))
        case ["read", seconds]:
            return uvloop.run(measure_read(float(seconds)))
        case ["behind", order, seconds]:
            return uvloop.run(measure_behind(order.split(","), float(seconds)))
        case ["freshness", rate, seconds]:
            return uvloop.run(measure_freshness(int(rate), float(seconds)))
        case ["memory", records]:
            return uvloop.run(measure_memory(int(records)))
    raise SystemExit(f"not a measurement: {words}")


def spread(values: Sequence[float], digits: int = 2) -> str:
    s = Spread.of(values)
    return f"{s.median:,.{digits}f} ({s.low:,.{digits}f}..{s.high:,.{digits}f})"


def report_append(rounds: int, seconds: float) -> None:
    results: dict[str, list[dict[str, Any]]] = {"log": [], "bare": []}
    for number in range(rounds):
        for kind in ("log", "bare") if number % 2 == 0 else ("bare", "log"):
            results[kind].append(in_process("append", kind, str(seconds)))
    pairs = list(zip(results["log"], results["bare"], strict=True))
    print("| | records/s | CPU us/record | records/s to bare | CPU bare to log |\n|---|---:|---:|---:|---:|")
    ratio = spread([a["records_per_s"] / b["records_per_s"] for a, b in pairs])
    cpu = spread([b["cpu_us"] / a["cpu_us"] for a, b in pairs])
    for kind, extra in (("log", f"{ratio} | {cpu}"), ("bare", "- | -")):
        rate = spread([r["records_per_s"] for r in results[kind]], 0)
        print(f"| append, {kind} | {rate} | {spread([r['cpu_us'] for r in results[kind]])} | {extra} |", flush=True)


def report_read(rounds: int, seconds: float) -> None:
    results = [in_process("read", str(seconds)) for _ in range(rounds)]
    rate, bare = ([r[name] for r in results] for name in ("records_per_s", "bare_records_per_s"))
    print("| | records/s | library over memory, records/s | ratio |\n|---|---:|---:|---:|")
    ratio = spread([a / b for a, b in zip(rate, bare, strict=True)])
    print(f"| sequential read | {spread(rate, 0)} | {spread(bare, 0)} | {ratio} |", flush=True)


def report_behind(rounds: int, seconds: float) -> None:
    results = [
        in_process("behind", ",".join(KINDS[number % 3 :] + KINDS[: number % 3]), str(seconds))
        for number in range(rounds)
    ]
    print("| beside the writer | records/s | to alone | p50 ms | p99 ms | CPU us/record | read/s |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for kind in KINDS:
        runs = [r[kind] for r in results]
        rate = spread([run["records_per_s"] for run in runs], 0)
        ratio = spread([r[kind]["records_per_s"] / r["alone"]["records_per_s"] for r in results])
        p50, p99, cpu = (spread([run[name] for run in runs]) for name in ("p50_ms", "p99_ms", "cpu_us"))
        read = spread([run["read"] / seconds for run in runs], 0) if kind == "reader" else "-"
        print(f"| {kind} | {rate} | {ratio} | {p50} | {p99} | {cpu} | {read} |", flush=True)


def report_freshness(rounds: int, seconds: float) -> None:
    print("| paced | p50 ms | p99 ms |\n|---|---:|---:|")
    for rate in (10_000, 50_000):
        results = [in_process("freshness", str(rate), str(seconds)) for _ in range(rounds)]
        p50, p99 = (spread([r[name] for r in results], 1) for name in ("p50_ms", "p99_ms"))
        print(f"| {rate:,} records/s | {p50} | {p99} |", flush=True)


def report_memory() -> None:
    result = in_process("memory", "10000000")
    print(f"RSS in MiB after each million of {result['records']:,} records: {result['rss_mib']}", flush=True)


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["--one"]:
        print(json.dumps(run_one(arguments[1:])))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["append", "read", "behind", "freshness", "memory"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args(arguments)
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    print(f"commit {commit.stdout.strip()}, CPython {platform.python_version()}, load {os.getloadavg()[0]:.2f}\n")
    for what in options.what:
        if what == "append":
            report_append(options.rounds, options.seconds)
        elif what == "read":
            report_read(options.rounds, options.seconds)
        elif what == "behind":
            report_behind(options.rounds, options.seconds)
        elif what == "freshness":
            report_freshness(options.rounds, options.seconds)
        elif what == "memory":
            report_memory()
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
