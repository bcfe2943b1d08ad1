"""Ingest from end to end: this appliance's MQTT listener beside another broker, in one run, taking turns.

    python -m benchmarks.ingest                    # five rounds of five loads on both servers, about 15 minutes
    python -m benchmarks.ingest --quick            # one short round, about a minute
    python -m benchmarks.ingest --server headrace --load 1000x10 --set log.commit_interval=5ms

Each measurement starts its server on an empty directory on a real disk, connects, warms up, measures an interval and
stops the server. Servers take turns within a round and swap their order from round to round, so that a drift of the
machine hits both. docs/performance.md says how to read the figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import fcntl
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import measure
from benchmarks.loader import compile_loader
from benchmarks.loads import Load, Loader, LoadResult, Timing, parse_load
from benchmarks.measure import BenchmarkError, BlockDevice, DiskRate
from benchmarks.report import Figures, Round, disturbed, markdown_table, reasons_to_void, summarise, text_table
from benchmarks.servers import (
    CommandServer,
    Headrace,
    Mosquitto,
    MosquittoPersistent,
    Running,
    Server,
    log_of,
    log_tail,
)

HERE: Final = Path(__file__).resolve().parent
BUILD: Final = HERE / "build"
RESULTS: Final = HERE / "results"
LOADS: Final = ("100x10", "1000x10", "1000x1", "1000@1", "5000@1")
BUILT_IN: Final = ("headrace", "mosquitto", "mosquitto-persistent")
SETTLE_S: Final = 0.5  # for what a server writes behind its acks to leave its memory, before the last sync
NOISY_WRITES_PER_S: Final = 20.0  # an idle system makes a few; somebody who works makes hundreds, and never evenly


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What stays the same over a whole run."""

    loader: Path
    timing: Timing
    device: BlockDevice | None
    idle: DiskRate
    directory: Path = BUILD


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The counters read at both ends of the interval."""

    server: measure.ProcessCpu
    machine: measure.MachineCpu
    at_s: float

    @staticmethod
    def now(pid: int) -> Reading:
        return Reading(server=measure.process_cpu(pid), machine=measure.machine_cpu(), at_s=time.monotonic())


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What the device and the server's processes have written so far."""

    device: measure.DiskCounters | None
    process_bytes: int
    at_s: float

    @staticmethod
    def now(device: BlockDevice | None, pids: Sequence[int]) -> Written:
        """After a sync, so that nothing written before is still on its way."""
        os.sync()
        return Written(
            device=device.counters() if device else None,
            process_bytes=sum(map(measure.process_write_bytes, pids)),
            at_s=time.monotonic(),
        )


def measure_once(bench: Bench, server: Server, load: Load, number: int) -> Round:
    """One server under one load, from an empty directory; a run that breaks off is a void round with its reason."""
    data_dir = bench.directory / f"data-{server.name}"
    shutil.rmtree(data_dir, ignore_errors=True)
    data_dir.mkdir(parents=True)
    log_of(data_dir).unlink(missing_ok=True)
    try:
        running = server.start(data_dir)
        try:
            figures = under_load(bench, running, load)
        finally:
            running.stop()
    except BenchmarkError as error:
        print(f"the end of the log of {server.name}:\n{log_tail(log_of(data_dir))}", file=sys.stderr)
        return Round(server=server.name, load=load, number=number, figures=None, void=(f"broke off: {error.what}",))
    finally:
        shutil.rmtree(data_dir)
    return Round(server=server.name, load=load, number=number, figures=figures, void=reasons_to_void(figures))


def under_load(bench: Bench, running: Running, load: Load) -> Figures:
    """One measured interval of a server that runs. Raises BenchmarkError when it breaks off."""
    before_load = Written.now(bench.device, running.pids)
    with Loader(bench.loader, running.port, load, bench.timing) as loader:
        loader.wait_for("connected")
        loader.wait_for("measuring")
        start = Reading.now(running.pid)
        result = loader.result()
        end = Reading.now(running.pid)
        memory = measure.process_memory(running.pid)
        pss_all_bytes = sum(measure.process_memory(pid).pss_bytes for pid in running.pids)
        time.sleep(SETTLE_S)
        after_load = Written.now(bench.device, running.pids)
    return Figures(
        **_load_figures(result),
        **_cpu_figures(result, start, end),
        **_disk_figures(bench, result, before_load, after_load),
        rss_bytes=memory.rss_bytes,
        pss_bytes=memory.pss_bytes,
        pss_all_processes_bytes=pss_all_bytes,
        peak_rss_bytes=memory.peak_rss_bytes,
    )


def _load_figures(result: LoadResult) -> dict[str, Any]:
    names = ("acked", "acked_per_s", "p50_us", "p99_us", "max_us", "skipped", "loader_share", "connect_s")
    return {name: getattr(result, name) for name in names}


def _cpu_figures(result: LoadResult, start: Reading, end: Reading) -> dict[str, Any]:
    used, machine, elapsed_s = end.server.since(start.server), end.machine.since(start.machine), end.at_s - start.at_s
    messages = max(result.acked, 1)
    others_s = machine.busy_s - used.total_s - result.user_s - result.system_s
    return {
        "cpu_us_per_message": used.total_s / messages * 1e6,
        "user_us_per_message": used.user_s / messages * 1e6,
        "system_us_per_message": used.system_s / messages * 1e6,
        "server_share": used.total_s / elapsed_s,
        "others_share": max(others_s, 0.0) / elapsed_s,
        "steal_share": machine.steal_s / elapsed_s,
    }


def _disk_figures(bench: Bench, result: LoadResult, before: Written, after: Written) -> dict[str, Any]:
    payload_bytes = max(result.acked_total, 1) * bench.timing.payload_bytes
    process_bytes = after.process_bytes - before.process_bytes
    figures: dict[str, Any] = {"process_bytes_per_payload_byte": process_bytes / payload_bytes}
    names = ("device_bytes_per_payload_byte", "device_writes_per_s", "device_flushes_per_s")
    if before.device is None or after.device is None:
        return figures | dict.fromkeys(names)
    done, elapsed_s, idle = after.device.since(before.device), after.at_s - before.at_s, bench.idle
    own = (
        (done.written_bytes - idle.bytes_per_s * elapsed_s) / payload_bytes,
        (done.writes - idle.writes_per_s * elapsed_s) / result.total_s,
        (done.flushes - idle.flushes_per_s * elapsed_s) / result.total_s,
    )
    return figures | {name: max(value, 0.0) for name, value in zip(names, own, strict=True)}


def run_rounds(bench: Bench, servers: Sequence[Server], loads: Sequence[Load], rounds: int) -> list[Round]:
    """All rounds; the order of the servers is turned round every other time."""
    done: list[Round] = []
    for number, load in itertools.product(range(1, rounds + 1), loads):
        for server in servers if number % 2 else servers[::-1]:
            one = measure_once(bench, server, load, number)
            done.append(one)
            print(f"round {number}/{rounds}  {load.name:>8}  {server.name:<21} {_line(one)}", flush=True)
    return done


def _line(one: Round) -> str:
    said = ""
    if one.figures is not None:
        it = one.figures
        said = (
            f"{it.acked_per_s:>9,.0f} acked/s  p50 {it.p50_us / 1000:.2f} ms  p99 {it.p99_us / 1000:.2f} ms  "
            f"CPU {it.cpu_us_per_message:.2f} us/msg  server {it.server_share:.0%}  loader {it.loader_share:.0%}  "
            f"others {it.others_share:.0%}  steal {it.steal_share:.0%}"
            + (f"  skipped {it.skipped}" if it.skipped else "")
        )
        said += "  disturbed" if disturbed(it) else ""
    return said + "".join(f"  VOID: {reason}" for reason in one.void)


# --- command line


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest", description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="one short round of every load: a look, not a figure")
    parser.add_argument("--rounds", type=int, help="rounds of every load on every server (5)")
    parser.add_argument("--seconds", type=float, help="measured interval (10)")
    parser.add_argument("--warmup", type=float, help="load before the interval, in seconds (3)")
    parser.add_argument("--load", action="append", type=parse_load, metavar="LOAD", help=f"one of your own ({LOADS})")
    parser.add_argument("--server", action="append", choices=BUILT_IN, help="headrace and mosquitto if not given")
    parser.add_argument("--command", action="append", default=[], metavar="NAME=COMMAND", help=CommandServer.__doc__)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting for headrace")
    parser.add_argument("--qos", type=int, choices=(0, 1), default=1)
    parser.add_argument("--payload-bytes", type=int, default=120, help="JSON reading, 110 to 8192 bytes (120)")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    options = parser.parse_args(arguments)
    rounds, seconds, warmup = (1, 3.0, 1.0) if options.quick else (5, 10.0, 3.0)
    options.rounds = options.rounds or rounds
    options.seconds = options.seconds or seconds
    options.warmup = warmup if options.warmup is None else options.warmup
    options.load = options.load or [parse_load(name) for name in LOADS]
    if min(options.rounds, options.seconds) <= 0 or options.warmup < 0:
        parser.error("--rounds and --seconds are above zero, --warmup is not below it")
    return options


def chosen_servers(options: argparse.Namespace) -> list[Server]:
    built_in: dict[str, Server] = {
        "headrace": Headrace(options.set),
        "mosquitto": Mosquitto(),
        "mosquitto-persistent": MosquittoPersistent(),
    }
    names = options.server or ([] if options.command else ["headrace", "mosquitto"])
    pairs = [given.partition("=") for given in options.command]
    return [*(CommandServer(name, command) for name, _, command in pairs), *(built_in[name] for name in names)]


def only_one() -> int:
    """A lock for as long as this process lives: two benchmarks at once would measure each other, in one directory."""
    BUILD.mkdir(parents=True, exist_ok=True)
    lock = os.open(BUILD / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise BenchmarkError("another benchmark is running here", mend="wait for its end") from None
    return lock


def prepare(
    options: argparse.Namespace, servers: Sequence[Server], directory: Path = BUILD
) -> tuple[Bench, dict[str, str]]:
    """Compile the loader, look at the machine and say what will be measured, on the disk of `directory`."""
    loader = compile_loader(HERE / "loadgen.c", BUILD)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the servers inherit it; a soft limit of 1,024 is common
    device = measure.block_device_of(directory)
    environment = measure.describe_machine(device) | {"open files": f"{hard} (soft limit was {soft})"}
    environment |= {server.name: server.version() for server in servers}
    environment["commit"] = commit()
    environment["load"] = (
        f"QoS {options.qos}, {options.payload_bytes}-byte JSON, {options.seconds:g} s after {options.warmup:g} s of "
        f"warm-up, medians of {options.rounds} rounds (smallest..largest)"
    )
    idle_s = 2.0 if options.quick else 5.0
    idle = measure.idle_disk_rate(device, idle_s) if device else DiskRate()
    environment["idle device, taken off"] = f"{idle.bytes_per_s:,.0f} B/s, {idle.writes_per_s:.1f} writes/s"
    if idle.writes_per_s > NOISY_WRITES_PER_S:
        environment["warning"] = "the disk was busy before the load: its figures are worth little"
    timing = Timing(
        warmup_s=options.warmup, interval_s=options.seconds, qos=options.qos, payload_bytes=options.payload_bytes
    )
    return Bench(loader=loader, timing=timing, device=device, idle=idle, directory=directory), environment


def commit() -> str:
    """The commit that is measured, marked when the tree differs from it."""
    words = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=12"]
    told = subprocess.run(words, capture_output=True, text=True, check=False, timeout=10)
    return told.stdout.strip() or "not in a git work tree"


def _end_on_sigterm(_number: int, _frame: object) -> None:
    raise SystemExit("ended by SIGTERM")


def main(arguments: Sequence[str]) -> int:
    options = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, _end_on_sigterm)  # so that a server under way is stopped and its data removed
    servers = chosen_servers(options)
    reference = next((server.name for server in servers if server.name == Mosquitto.name and len(servers) > 1), None)
    try:
        only_one()
        bench, environment = prepare(options, servers)
        print("\n".join(f"{name}: {value}" for name, value in environment.items()) + "\n", flush=True)
        rounds = run_rounds(bench, servers, options.load, options.rounds)
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    environment["load average at end"] = " ".join(f"{value:.2f}" for value in os.getloadavg())
    rows = summarise(rounds, reference)
    text, markdown = text_table(rows, reference), markdown_table(rows, reference, environment)
    print("\n" + markdown if options.markdown else text)
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    RESULTS.mkdir(exist_ok=True)
    whole = {"environment": environment, "idle": bench.idle, "timing": bench.timing, "rounds": rounds, "rows": rows}
    path = RESULTS / f"ingest-{stamp}.json"
    path.write_text(json.dumps(whole, default=dataclasses.asdict, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown)
    print(f"written to benchmarks/results/{path.name} and .md; load average {environment['load average at end']}")
    return 0 if all(row.valid for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
