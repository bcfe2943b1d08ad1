"""Exporting: a closed window of the log becomes Parquet, beside DuckDB doing its part of the same, taking turns.

    python -m benchmarks.export                          # five million readings, five rounds, with DuckDB
    python -m benchmarks.export --quick                  # two hundred thousand, one round: a look, not a figure
    python -m benchmarks.export --rows 20000000 --rounds 1 --mix plain --alone     # memory of a large window

The log is filled once and stays open in this process, as the edge has it open; each export is a process of its own, on
as many processors as DuckDB may use threads, from the first read of a segment to synced files and the checkpoint in
the log. The peer sorts the same readings, as JSON lines, into one synced Parquet file. Between rounds the log forgets
that it was exported. A second mix, with awkward readings, has no peer. docs/performance.md says how to read it.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import datetime
import itertools
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow

from appliance.child import LARGE_PAGES
from benchmarks import measure
from benchmarks.export_load import START_MS, Mix, MovingClock, fill, open_log, readings
from benchmarks.export_report import (
    Figures,
    Round,
    disturbed,
    markdown_table,
    reason_to_void,
    summarise,
    text_table,
    verdicts,
)
from benchmarks.ingest import BUILD, RESULTS, commit, only_one
from benchmarks.measure import BenchmarkError
from commitlog.base import TableChange
from commitlog.committed import committed_table
from commitlog.embedded import EmbeddedLog
from commitlog.ledger import LEDGER_TABLE
from commitlog.remote import log_handlers
from commitlog.settings import LogSettings
from commitlog.storage import LOG_DIR, RUN_DIR
from core.channel import ChannelServer
from core.errors import HeadraceError
from sink.progress import EXPORTS_TABLE

PEER: Final = "duckdb"
SINK: Final = "headrace"
AWKWARD_PERCENT: Final = 10
PATIENCE_S_PER_READING: Final = 1e-4  # a hundredth of the rate that is expected
_FORGOTTEN: Final = (committed_table("parquet"), EXPORTS_TABLE, LEDGER_TABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A filled log, open and served, and the same readings as lines where they are wanted."""

    log: EmbeddedLog
    data_dir: Path
    lines: Path
    mix: Mix
    log_bytes: int


async def forget_exports(log: EmbeddedLog, lake: Path) -> None:
    """As if nothing had been exported: no rows in the state tables that a sink writes, no lake."""
    changes = [TableChange(table=table, key=key, value=None) for table in _FORGOTTEN for key in await log.rows(table)]
    if changes:
        await log.append([], changes)
    shutil.rmtree(lake, ignore_errors=True)


@asynccontextmanager
async def prepared(directory: Path, mix: Mix, settings: LogSettings, *, with_lines: bool) -> AsyncIterator[Prepared]:
    """Fill a log in an empty directory and serve it as the edge does; all of it is removed afterwards."""
    shutil.rmtree(directory, ignore_errors=True)
    data_dir, lines = directory / "data", directory / "readings.ndjson"
    clock = MovingClock(START_MS)
    directory.mkdir(parents=True)
    try:
        log = await open_log(data_dir, clock, settings)
        try:
            if with_lines:
                with lines.open("wb", buffering=1 << 20) as file:
                    await fill(log, clock, mix, START_MS, file)
            else:
                await fill(log, clock, mix, START_MS, None)
            server = ChannelServer(data_dir / RUN_DIR / "edge.sock", log_handlers(log))
            await server.start()
            log_bytes = sum(path.stat().st_size for path in (data_dir / LOG_DIR).glob("*-*/*.log"))
            try:
                yield Prepared(log=log, data_dir=data_dir, lines=lines, mix=mix, log_bytes=log_bytes)
            finally:
                await server.close()
        finally:
            await log.close()
    finally:
        shutil.rmtree(directory)


async def export_once(ready: Prepared, exporter: str, threads: int) -> Figures:
    """One export in a process of its own, from the same state. Raises BenchmarkError when it fails or is not whole."""
    lake, target = ready.data_dir / "lake", ready.lines.with_suffix(".parquet")
    await forget_exports(ready.log, lake)
    target.unlink(missing_ok=True)
    os.sync()  # what is on its way to the disk is not this export's
    words = ["sink", str(ready.data_dir)] if exporter == SINK else [PEER, str(ready.lines), str(target), str(threads)]
    machine, started_s = measure.machine_cpu(), time.monotonic()
    spent = await _child(words, threads, ready.mix.readings * PATIENCE_S_PER_READING + 120)
    busy, elapsed_s = measure.machine_cpu().since(machine), time.monotonic() - started_s
    own_s = spent.pop("process_s")
    if spent["rows"] + spent["quarantined"] < ready.mix.readings:
        raise BenchmarkError(f"{spent['rows']} rows of {ready.mix.readings} readings", where=exporter)
    return Figures(
        readings=ready.mix.readings,
        others_share=max(busy.busy_s - own_s, 0.0) / elapsed_s,
        steal_share=busy.steal_s / elapsed_s,
        **spent,
    )


async def _child(words: Sequence[str], threads: int, patience_s: float) -> dict[str, Any]:
    """Run `benchmarks.export_child` on that many processors; what it measured, and all its CPU as `process_s`."""
    every = os.sched_getaffinity(0)
    before = os.times()
    os.sched_setaffinity(0, sorted(every)[-threads:])  # of this thread, and so of the process that it starts
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.export_child", *words),
            stdout=asyncio.subprocess.PIPE,
            env={**LARGE_PAGES, **os.environ},  # as the supervisor starts the sink; DuckDB's allocator is another
        )
    finally:
        os.sched_setaffinity(0, every)
    try:
        out, _ = await asyncio.wait_for(process.communicate(), patience_s)
    except TimeoutError:
        raise BenchmarkError(f"no end after {patience_s:.0f} s", where=words[0]) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise BenchmarkError(f"the process ended with code {process.returncode}", where=words[0])
    after = os.times()
    result: dict[str, Any] = json.loads(out)
    used_s = after.children_user + after.children_system - before.children_user - before.children_system
    return result | {"process_s": used_s}


async def run_mix(options: argparse.Namespace, mix: Mix, name: str) -> list[Round]:
    """All rounds on one mix; whoever began a round comes second in the next."""
    exporters = [SINK] if options.alone or mix.awkward_percent else [SINK, PEER]
    settings = LogSettings(flush_bytes=options.flush_bytes)
    done: list[Round] = []
    started_s = time.monotonic()
    async with prepared(BUILD / "data-export", mix, settings, with_lines=PEER in exporters) as ready:
        print(
            f"{name}: {mix.readings:,} readings in {time.monotonic() - started_s:.0f} s, "
            f"{ready.log_bytes / mix.readings:.1f} bytes each in the log; the first:\n"
            f"{next(readings(mix)).payload.decode()}",
            flush=True,
        )
        for number, at in itertools.product(range(1, options.rounds + 1), range(len(exporters))):
            exporter = (exporters if number % 2 else exporters[::-1])[at]
            try:
                figures = await export_once(ready, exporter, options.threads)
                one = Round(exporter=exporter, mix=name, number=number, figures=figures, void=reason_to_void(figures))
            except BenchmarkError as error:
                one = Round(exporter=exporter, mix=name, number=number, figures=None, void=f"broke off: {error.what}")
            done.append(one)
            print(f"round {number}/{options.rounds}  {exporter:<9} {_line(one)}", flush=True)
    return done


def _line(one: Round) -> str:
    void = f"  VOID: {one.void}" if one.void else ""
    it = one.figures
    if it is None:
        return void
    said = (
        f"{it.rows_per_s:>11,.0f} rows/s  CPU {it.cpu_us_per_row:.3f} us/row  peak {it.peak_rss_bytes / 2**20:,.0f} MiB"
        f"  {it.files} files  {it.bytes_per_row:.2f} bytes/row  others {it.others_share:.0%}"
    )
    return said + ("  disturbed" if disturbed(it, os.cpu_count() or 1) else "") + void


# --- command line


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="few readings, one round: a look, not a figure")
    parser.add_argument("--rows", type=int, help="readings in the window (5,000,000)")
    parser.add_argument("--rounds", type=int, help="exports by each, in turns (5)")
    parser.add_argument("--mix", action="append", choices=("plain", "awkward"), help="both if not given")
    parser.add_argument("--alone", action="store_true", help="without the peer")
    parser.add_argument("--threads", type=int, default=1, help="processors and threads of each (1)")
    parser.add_argument("--flush-bytes", default="64KB", help="log.flush_bytes: shorter batches, as a slow fleet's")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    options = parser.parse_args(arguments)
    options.rows = options.rows or (200_000 if options.quick else 5_000_000)
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.mix = list(dict.fromkeys(options.mix or ("plain", "awkward")))
    if min(options.rows, options.rounds) < 1:
        parser.error("--rows and --rounds are above zero")
    if not 1 <= options.threads <= len(os.sched_getaffinity(0)):
        parser.error(f"--threads: there are {len(os.sched_getaffinity(0))} processors")
    return options


def describe(options: argparse.Namespace) -> dict[str, str]:
    """What is measured, and on what."""
    return measure.describe_machine(measure.block_device_of(BUILD)) | {
        SINK: f"commit {commit()}, PyArrow {pyarrow.__version__}",
        PEER: f"DuckDB {duckdb.__version__}",
        "window": f"{options.rows:,} readings, log.flush_bytes {options.flush_bytes}",
        "processors and threads of each": str(options.threads),
        "rounds": f"medians of {options.rounds} (smallest..largest), files of the log and lines in the page cache",
    }


async def run(options: argparse.Namespace) -> list[Round]:
    mixes = {
        "plain": (Mix(readings=options.rows), "plain readings"),
        "awkward": (
            Mix(readings=options.rows, awkward_percent=AWKWARD_PERCENT),
            f"{AWKWARD_PERCENT} % awkward readings",
        ),
    }
    rounds: list[Round] = []
    for name in options.mix:
        rounds += await run_mix(options, *mixes[name])
    return rounds


def main(arguments: Sequence[str]) -> int:
    options = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that the data is removed
    try:
        only_one()
        environment = describe(options)
        print("\n".join(f"{name}: {value}" for name, value in environment.items()) + "\n", flush=True)
        rounds = asyncio.run(run(options))
    except HeadraceError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    environment["load average at end"] = " ".join(f"{value:.2f}" for value in os.getloadavg())
    rows = summarise(rounds, PEER, os.cpu_count() or 1)
    markdown = markdown_table(rows, PEER, environment)
    print("\n" + markdown if options.markdown else "\n".join([text_table(rows, PEER), *verdicts(rows, PEER)]))
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"export-{stamp}.json"
    path.write_text(
        json.dumps({"environment": environment, "rounds": rounds}, default=dataclasses.asdict, indent=1) + "\n"
    )
    path.with_suffix(".md").write_text(markdown)
    print(f"\nwritten to benchmarks/results/{path.name} and .md")
    return 0 if all(row.valid for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
