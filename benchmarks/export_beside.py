"""What an export costs those who publish meanwhile: ack latency of a paced load, with and without one beside it.

    python -m benchmarks.export_beside                   # five pairs, 10,000 readings a second, about 15 minutes
    python -m benchmarks.export_beside --quick           # one short pair, few readings: a look, not a figure

A log is filled with closed windows once. Each run starts the appliance as users run it on that log, with its sink or
without; the sink finds nothing exported and begins, the loader connects, warms up, and measures. A run in which the
export was not under way to the end is void. Between runs the log forgets that it was exported; what the runs themselves
publish stays in it. The two kinds take turns, and whichever began comes second in the next pair.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import datetime
import json
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import measure
from benchmarks.export import forget_exports
from benchmarks.export_load import TOPIC, Mix, MovingClock, fill, open_log
from benchmarks.ingest import BUILD, RESULTS, Bench, only_one, prepare, under_load
from benchmarks.loads import Load, parse_load
from benchmarks.measure import BenchmarkError, Spread
from benchmarks.report import Figures, disturbed, reasons_to_void
from benchmarks.servers import Headrace, Running, log_of, log_tail
from commitlog.committed import committed_from_row, committed_table
from commitlog.remote import RemoteLog
from core.channel import ChannelClient
from core.clock import SystemClock
from core.errors import HeadraceError

DATA: Final = BUILD / "data-export-beside"
LOAD: Final = "1000@10"
KINDS: Final = ("without", "with")
MOST_TIMES: Final = 2.0  # of the 99th percentile without an export, or
MOST_MORE_MS: Final = 5.0  # milliseconds above it, whichever is larger
START_PATIENCE_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One measured interval; `sink_share` is the sink's CPU as a share of one core, 0 without an export."""

    kind: str
    pair: int
    figures: Figures | None
    sink_share: float = 0.0
    sink_peak_bytes: int = 0
    void: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Both kinds of one number, both valid."""

    without: Figures
    beside: Figures

    @property
    def more_ms(self) -> float:
        """By how much the export raised the 99th percentile."""
        return (self.beside.p99_us - self.without.p99_us) / 1000

    @property
    def allowed_ms(self) -> float:
        """By how much it may."""
        return max((MOST_TIMES - 1) * self.without.p99_us / 1000, MOST_MORE_MS)


class Appliance(Headrace):
    """The appliance with or without its sink."""

    def __init__(self, kind: str, overrides: Sequence[str]) -> None:
        super().__init__((f"sink.enabled={'true' if kind == 'with' else 'false'}", *overrides))
        self.name = kind


async def fill_windows(data_dir: Path, windows: int, readings: int) -> int:
    """Closed windows of so many readings each, received up to now; gives the number of the first that is not there."""
    start_ms = SystemClock().time_ms() - windows * (readings + 1_000)
    clock = MovingClock(start_ms)
    log = await open_log(data_dir, clock)
    try:
        for _ in range(windows):
            window = await fill(log, clock, Mix(readings=readings), start_ms, None)
            start_ms = clock.now_ms
        return window.number + 1
    finally:
        await log.close()


async def forget(data_dir: Path) -> None:
    """Nothing of it is exported; nobody else has the log open."""
    log = await open_log(data_dir, SystemClock())
    try:
        await forget_exports(log, data_dir / "lake")
    finally:
        await log.close()


async def next_window(data_dir: Path) -> int:
    """The first window of the filled topic that the sink has not exported yet, as the running edge knows it."""
    channel = ChannelClient(data_dir / "run" / "edge.sock")
    try:
        rows = await RemoteLog(channel).rows(committed_table("parquet"))
    finally:
        await channel.close()
    return max((committed_from_row(row).next_window for row in rows.values() if row["topic"] == TOPIC), default=0)


def run_once(bench: Bench, options: argparse.Namespace, kind: str, pair: int, windows: int) -> Run:
    """The load on an appliance that exports, or does not. A run that breaks off is void, with its reason."""
    asyncio.run(forget(DATA))
    try:
        running = Appliance(kind, options.set).start(DATA)
        try:
            return _measured(bench, running, options.load, kind, pair, windows)
        finally:
            running.stop()
    except BenchmarkError as error:
        print(f"the end of the appliance's log:\n{log_tail(log_of(DATA))}", file=sys.stderr)
        return Run(kind=kind, pair=pair, figures=None, void=(f"broke off: {error.what}",))


def _measured(bench: Bench, running: Running, load: Load, kind: str, pair: int, windows: int) -> Run:
    if kind == "without":
        figures = under_load(bench, running, load)
        return Run(kind=kind, pair=pair, figures=figures, void=reasons_to_void(figures))
    sink = _exporting_sink()
    before, started_s = measure.process_cpu(sink), time.monotonic()
    figures = under_load(bench, running, load)
    share = measure.process_cpu(sink).since(before).total_s / (time.monotonic() - started_s)
    over = asyncio.run(next_window(DATA)) >= windows
    return Run(
        kind=kind,
        pair=pair,
        figures=figures,
        sink_share=share,
        sink_peak_bytes=measure.process_memory(sink).peak_rss_bytes,
        void=(
            *reasons_to_void(figures),
            *(("the export was over before the interval: more --windows",) if over else ()),
        ),
    )


def _exporting_sink() -> int:
    """The sink's process, once it has made its folders: from then on it reads the first window."""
    give_up_s = time.monotonic() + START_PATIENCE_S
    while not (DATA / "lake" / ".tmp").is_dir():
        if time.monotonic() > give_up_s:
            raise BenchmarkError(f"no export began within {START_PATIENCE_S:.0f} s")
        time.sleep(0.02)
    pids: Mapping[str, int] = json.loads((DATA / "run" / "pids.json").read_text())
    return pids["sink"]


def pairs_of(runs: Sequence[Run]) -> list[Pair]:
    """The pairs of which both runs are valid."""
    valid = {(one.kind, one.pair): one.figures for one in runs if one.figures is not None and not one.void}
    return [
        Pair(without=without, beside=beside)
        for number in dict.fromkeys(one.pair for one in runs)
        if (without := valid.get(("without", number))) and (beside := valid.get(("with", number)))
    ]


def report(runs: Sequence[Run]) -> str:
    """A table of both kinds over the valid pairs, and whether the bar is met by the median pair."""
    pairs = pairs_of(runs)
    lines = ["| export | acked/s | p50 ms | p99 ms | edge CPU us/msg | sink % | sink peak MiB | pairs |"]
    lines += ["| --- |" + " ---: |" * 7]
    for kind, figures in zip(KINDS, ([pair.without for pair in pairs], [pair.beside for pair in pairs]), strict=True):
        sinks = [one for one in runs if one.kind == kind and one.figures in figures]
        if figures:
            lines.append(f"| {kind} | {_cells(figures, sinks)} | {len(pairs)} |")
    lines += ["", *(f"Void: pair {one.pair}, {one.kind}: {reason}." for one in runs for reason in one.void)]
    if pairs:
        more, allowed = (Spread.of([getattr(pair, name) for pair in pairs]) for name in ("more_ms", "allowed_ms"))
        times = Spread.of([pair.beside.p99_us / pair.without.p99_us for pair in pairs])
        met = "met" if Spread.of([pair.more_ms - pair.allowed_ms for pair in pairs]).median < 0 else "MISSED"
        lines.append(
            f"- p99 rises by {more.median:.1f} ms ({more.low:.1f}..{more.high:.1f}), to {times.median:.2f} times "
            f"({times.low:.2f}..{times.high:.2f}); allowed: {allowed.median:.1f} ms: {met}"
        )
    return "\n".join(lines) + "\n"


def _cells(figures: Sequence[Figures], sinks: Sequence[Run]) -> str:
    def cell(values: Sequence[float], digits: int) -> str:
        spread = Spread.of(values)
        return f"{spread.median:,.{digits}f} ({spread.low:,.{digits}f}..{spread.high:,.{digits}f})"

    return " | ".join(
        [
            cell([one.acked_per_s for one in figures], 0),
            cell([one.p50_us / 1000 for one in figures], 2),
            cell([one.p99_us / 1000 for one in figures], 2),
            cell([one.cpu_us_per_message for one in figures], 1),
            cell([one.sink_share * 100 for one in sinks], 0),
            cell([one.sink_peak_bytes / 2**20 for one in sinks], 0),
        ]
    )


# --- command line


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export_beside", description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="one short pair: a look, not a figure")
    parser.add_argument("--pairs", type=int, help="runs of each kind, in turns (5)")
    parser.add_argument("--windows", type=int, default=4, help="closed windows that wait to be exported (4)")
    parser.add_argument("--rows", type=int, help="readings in each (5,000,000)")
    parser.add_argument("--load", type=parse_load, default=parse_load(LOAD), help=f"paced or saturated ({LOAD})")
    parser.add_argument("--seconds", type=float, help="measured interval (10)")
    parser.add_argument("--warmup", type=float, help="load before the interval, in seconds (3)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting for headrace")
    options = parser.parse_args(arguments)
    pairs, rows, seconds, warmup = (1, 250_000, 3.0, 1.0) if options.quick else (5, 5_000_000, 10.0, 3.0)
    options.pairs, options.rows = options.pairs or pairs, options.rows or rows
    options.seconds = options.seconds or seconds
    options.warmup = warmup if options.warmup is None else options.warmup
    if min(options.pairs, options.rows, options.windows, options.seconds) <= 0 or options.warmup < 0:
        parser.error("--pairs, --rows, --windows and --seconds are above zero, --warmup is not below it")
    options.qos, options.payload_bytes, options.rounds = 1, 120, options.pairs
    return options


def run(options: argparse.Namespace) -> tuple[dict[str, str], list[Run]]:
    """All pairs. Raises BenchmarkError when they cannot begin."""
    bench, environment = prepare(options, [Appliance(kind, options.set) for kind in KINDS])
    environment["backlog"] = f"{options.windows} windows of {options.rows:,} readings"
    environment["paced"] = options.load.title
    print("\n".join(f"{name}: {value}" for name, value in environment.items()) + "\n", flush=True)
    shutil.rmtree(DATA, ignore_errors=True)
    DATA.mkdir(parents=True)
    runs: list[Run] = []
    try:
        windows = asyncio.run(fill_windows(DATA, options.windows, options.rows))
        for pair in range(1, options.pairs + 1):
            for kind in KINDS if pair % 2 else KINDS[::-1]:
                one = run_once(bench, options, kind, pair, windows)
                runs.append(one)
                print(f"pair {pair}/{options.pairs}  {kind:<7}  {_line(one)}", flush=True)
    finally:
        shutil.rmtree(DATA)
    return environment, runs


def _line(one: Run) -> str:
    void = "".join(f"  VOID: {reason}" for reason in one.void)
    it = one.figures
    if it is None:
        return void
    said = f"{it.acked_per_s:,.0f} acked/s  p50 {it.p50_us / 1000:.2f} ms  p99 {it.p99_us / 1000:.2f} ms"
    said += f"  sink {one.sink_share:.0%}" if one.kind == "with" else "  disturbed" if disturbed(it) else ""
    return said + (f"  skipped {it.skipped}" if it.skipped else "") + void


def main(arguments: Sequence[str]) -> int:
    options = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # stops the server, removes its data
    try:
        only_one()
        environment, runs = run(options)
    except HeadraceError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    text = "\n".join(f"- {name}: {value}" for name, value in environment.items()) + "\n\n" + report(runs)
    print("\n" + text)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"export-beside-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}.json"
    whole = {"environment": environment, "runs": runs}
    path.write_text(json.dumps(whole, default=dataclasses.asdict, indent=1) + "\n")
    path.with_suffix(".md").write_text(text)
    print(f"written to benchmarks/results/{path.name} and .md")
    return 0 if pairs_of(runs) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
