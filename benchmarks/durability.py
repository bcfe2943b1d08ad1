"""What an acknowledgement costs the disk: its latency against bytes and writes, by durability and commit interval.

    python -m benchmarks.durability                      # every level x interval, three rounds, about 20 minutes
    python -m benchmarks.durability --quick              # one short round: a look, not a figure
    python -m benchmarks.durability --level fsync --interval 10ms --directory /mnt/sdcard

The load is the everyday one, paced: 1,000 devices send a reading a second each. Each point is a fresh appliance on an
empty directory, measured as benchmarks/ingest.py measures; points take turns within a round, and every other round
goes through them backwards. docs/performance.md has the table that the profiles' defaults were chosen from.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from benchmarks.ingest import BUILD, RESULTS, measure_once, only_one, prepare
from benchmarks.loads import Load, parse_load
from benchmarks.measure import BenchmarkError
from benchmarks.report import Round, Row, disturbed, summarise
from benchmarks.servers import Headrace
from commitlog.settings import PROFILES

LEVELS: Final = ("fsync", "interval", "os")
INTERVALS: Final = ("0", "1ms", "2ms", "5ms", "10ms", "20ms", "50ms", "100ms")
LOAD: Final = "1000@1"
_ALONE: Final = ("log.commit_records=1000000",)  # so that the interval alone says when a commit starts


class Point(Headrace):
    """The appliance with the settings of one point of the curve."""

    def __init__(self, name: str, *overrides: str) -> None:
        super().__init__(overrides)
        self.name = name


def points(levels: Sequence[str], intervals: Sequence[str], profiles: Sequence[str]) -> list[Point]:
    """Every level with every interval, then the profiles as they stand."""
    curve = [
        Point(f"{level}-{interval}", *_ALONE, f"log.durability={level}", f"log.commit_interval={interval}")
        for level in levels
        for interval in intervals
    ]
    return [*curve, *(Point(f"profile-{name}", f"log.profile={name}") for name in profiles)]


def table(rows: Sequence[Row]) -> str:
    """Markdown, a row per point."""
    heads = ["level and interval", *(name for name, _ in _COLUMNS), "rounds"]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    for row in rows:
        cells = [row.server.replace("-", " ", 1), *(cell(row) for _, cell in _COLUMNS), _rounds(row)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _figure(name: str, scale: float, digits: int) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        spread = row.spreads.get(name)
        if spread is None:
            return "-"
        middle, low, high = (f"{value * scale:,.{digits}f}" for value in (spread.median, spread.low, spread.high))
        return middle if row.valid < 2 else f"{middle} ({low}..{high})"

    return cell


_COLUMNS: Final[Sequence[tuple[str, Callable[[Row], str]]]] = (
    ("p50 ms", _figure("p50_us", 1e-3, 1)),
    ("p99 ms", _figure("p99_us", 1e-3, 1)),
    ("device B/payload B", _figure("device_bytes_per_payload_byte", 1, 1)),
    ("device writes/s", _figure("device_writes_per_s", 1, 0)),
    ("flushes/s", _figure("device_flushes_per_s", 1, 0)),
    ("CPU us/msg", _figure("cpu_us_per_message", 1, 0)),
)


def _rounds(row: Row) -> str:
    return f"{row.valid} of {row.rounds}" + (f", {row.disturbed} disturbed" if row.disturbed else "")


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.durability", description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="one short round: a look, not a figure")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="measured interval (10)")
    parser.add_argument("--warmup", type=float, default=2.0, help="load before the interval, in seconds (2)")
    parser.add_argument("--load", type=parse_load, default=parse_load(LOAD), help=f"paced or saturated ({LOAD})")
    parser.add_argument("--level", action="append", choices=LEVELS, help="all if not given")
    parser.add_argument("--interval", action="append", metavar="DURATION", help=f"commit interval ({INTERVALS})")
    parser.add_argument("--profile", action="append", choices=list(PROFILES), help="a profile as it stands, besides")
    parser.add_argument("--only-profiles", action="store_true", help="leave the curve out")
    parser.add_argument("--directory", type=Path, default=BUILD, help="where the data goes: the disk to be measured")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds, options.warmup = 1, 3.0, 1.0
    if min(options.rounds, options.seconds) <= 0 or options.warmup < 0:
        parser.error("--rounds and --seconds are above zero, --warmup is not below it")
    if options.directory != BUILD and not options.directory.is_dir():
        parser.error(f"{options.directory} is no directory")
    options.qos, options.payload_bytes = 1, 120
    return options


def chosen(options: argparse.Namespace) -> list[Point]:
    if options.only_profiles:
        return points((), (), options.profile or list(PROFILES))
    return points(options.level or LEVELS, options.interval or INTERVALS, options.profile or ())


def run(options: argparse.Namespace) -> tuple[dict[str, str], list[Round]]:
    """All rounds. Raises BenchmarkError when they cannot begin."""
    servers = chosen(options)
    bench, environment = prepare(options, servers[:1], options.directory.resolve())
    print("\n".join(f"{name}: {value}" for name, value in environment.items()) + "\n", flush=True)
    load: Load = options.load
    rounds: list[Round] = []
    for number in range(1, options.rounds + 1):
        for server in servers if number % 2 else servers[::-1]:
            one = measure_once(bench, server, load, number)
            rounds.append(one)
            print(f"round {number}/{options.rounds}  {server.name:<16} {_line(one)}", flush=True)
    return environment, rounds


def _line(one: Round) -> str:
    it = one.figures
    void = "".join(f"  VOID: {reason}" for reason in one.void)
    if it is None:
        return void
    device = it.device_bytes_per_payload_byte
    shown = "-" if device is None else f"{device:.1f}"
    said = f"p50 {it.p50_us / 1000:.1f} ms  p99 {it.p99_us / 1000:.1f} ms  device B/payload B {shown}"
    return said + ("  disturbed" if disturbed(it) else "") + void


def main(arguments: Sequence[str]) -> int:
    options = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # stops the server, removes its data
    try:
        only_one()
        environment, rounds = run(options)
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    rows = summarise(rounds, None)
    text = "\n".join(f"- {name}: {value}" for name, value in environment.items()) + "\n\n" + table(rows)
    print("\n" + text)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"durability-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}.json"
    whole = {"environment": environment, "rounds": rounds}
    path.write_text(json.dumps(whole, default=dataclasses.asdict, indent=1) + "\n")
    path.with_suffix(".md").write_text(text)
    print(f"written to benchmarks/results/{path.name} and .md")
    return 0 if all(row.valid for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
