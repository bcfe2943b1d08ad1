"""The MQTT server as a whole, beside mosquitto, in one run: what the ingest loads do not ask.

    python -m benchmarks.mqtt fan-in fan-out               # some scenarios, three rounds on both servers
    python -m benchmarks.mqtt all --rounds 5 --markdown
    python -m benchmarks.mqtt away --server mosquitto --size 100000

Scenarios: fan-in, fan-out, idle, away, storm, qos0. docs/performance.md says what each measures and how.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from benchmarks import measure
from benchmarks.ingest import BUILD, HERE, RESULTS, commit, only_one
from benchmarks.loader import compile_loader
from benchmarks.measure import BenchmarkError
from benchmarks.mqtt.away import Away
from benchmarks.mqtt.fan_in import FanIn
from benchmarks.mqtt.fan_out import FanOut
from benchmarks.mqtt.idle import Idle
from benchmarks.mqtt.qos0 import Qos0
from benchmarks.mqtt.run import run_rounds
from benchmarks.mqtt.scenario import LOADERS, Plan, Scenario
from benchmarks.mqtt.storm import Storm
from benchmarks.mqtt.table import Round, cells, judge, markdown_table, summarise, text_table
from benchmarks.servers import Headrace, Mosquitto, Server

SCENARIOS: Final[Mapping[str, Scenario]] = {
    scenario.name: scenario for scenario in (FanIn(), FanOut(), Idle(), Away(), Storm(), Qos0())
}
SERVERS: Final = ("headrace", "mosquitto")
# Above its default of 20, with which its subscriber falls behind for good; without any limit it delivers less.
MOSQUITTO_INFLIGHT: Final = 1000
QUICK_PART: Final = 10  # --quick makes every scenario this much smaller


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mqtt", description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("scenario", nargs="+", choices=[*SCENARIOS, "all"])
    parser.add_argument("--rounds", type=int, help="rounds of every scenario on every server (3)")
    parser.add_argument("--seconds", type=float, help="measured interval (10)")
    parser.add_argument("--warmup", type=float, help="load before the interval, in seconds (3)")
    parser.add_argument("--payload-bytes", type=int, default=120)
    parser.add_argument("--size", type=int, help="connections, subscribers, clients or messages instead of the default")
    parser.add_argument("--quick", action="store_true", help="one short round, a tenth of the size: no figure")
    parser.add_argument("--server", action="append", choices=SERVERS, help="both if not given")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting for headrace")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    options = parser.parse_args(arguments)
    rounds, seconds, warmup = (1, 2.0, 0.5) if options.quick else (3, 10.0, 3.0)
    options.rounds = rounds if options.rounds is None else options.rounds
    options.seconds = seconds if options.seconds is None else options.seconds
    options.warmup = warmup if options.warmup is None else options.warmup
    options.scenario = list(SCENARIOS) if "all" in options.scenario else list(dict.fromkeys(options.scenario))
    if min(options.rounds, options.seconds) <= 0 or options.warmup < 0:
        parser.error("--rounds and --seconds are above zero, --warmup is not below it")
    if options.size is not None and (options.size <= 0 or len(options.scenario) > 1):
        parser.error("--size is above zero, and for one scenario")
    return options


def make_plans(options: argparse.Namespace) -> dict[str, Plan]:
    """Compiles the loaders. Raises BenchmarkError."""
    programs = {name: compile_loader(HERE / f"{name}.c", BUILD) for name in LOADERS}
    plans = {}
    for name in options.scenario:
        own = SCENARIOS[name].size
        plans[name] = Plan(
            programs=programs,
            warmup_s=options.warmup,
            interval_s=options.seconds,
            payload_bytes=options.payload_bytes,
            size=options.size or (own // QUICK_PART if options.quick else own),
        )
    return plans


def describe(options: argparse.Namespace, servers: Sequence[Server]) -> dict[str, str]:
    """What the figures are made on, and lift the limit on open files, which the servers inherit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    environment = measure.describe_machine(measure.block_device_of(BUILD))
    environment["open files"] = f"{hard} (soft limit was {soft})"
    environment |= {server.name: server.version() for server in servers}
    environment["commit"] = commit()
    environment["load"] = (
        f"{options.payload_bytes}-byte JSON, {options.seconds:g} s after {options.warmup:g} s of warm-up, "
        f"medians of {options.rounds} rounds (smallest..largest)"
    )
    return environment


def report(options: argparse.Namespace, plans: Mapping[str, Plan], rounds: Sequence[Round]) -> tuple[str, bool]:
    """All tables and bars, and whether every server has a valid round in every scenario."""
    reference = Mosquitto.name if len(options.server) > 1 else None
    blocks, whole = [], True
    for name, plan in plans.items():
        scenario = SCENARIOS[name]
        rows = summarise(scenario, rounds, reference)
        whole = whole and all(row.valid for row in rows)
        table = markdown_table if options.markdown else text_table
        blocks += [f"**{scenario.title(plan.size)}**", table(cells(scenario, rows, reference))]
        said = [f"Void rounds of {row.server}: {reason}." for row in rows for reason in row.void]
        said += [f"Bar: {judge(bar, row)}." for row in rows if row.server == Headrace.name for bar in scenario.bars]
        blocks += ["\n".join(f"- {line}" for line in said)] if said else []
    return "\n\n".join(blocks) + "\n", whole


def write_results(text: str, environment: Mapping[str, Any], rounds: Sequence[Round]) -> str:
    """JSON with every round and series, and the tables, in `benchmarks/results/`; returns the file's name."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"mqtt-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}.json"
    whole = {"environment": environment, "rounds": rounds}
    path.write_text(json.dumps(whole, default=dataclasses.asdict, indent=1) + "\n")
    path.with_suffix(".md").write_text(
        "\n".join(f"- {key}: {value}" for key, value in environment.items()) + "\n\n" + text
    )
    return path.name


def _end_on_sigterm(_number: int, _frame: object) -> NoReturn:
    raise SystemExit("ended by SIGTERM")


def main(arguments: Sequence[str]) -> int:
    options = parse_arguments(arguments)
    options.server = list(dict.fromkeys(options.server or SERVERS))
    signal.signal(signal.SIGTERM, _end_on_sigterm)  # so that a server under way is stopped and its data removed
    built_in: dict[str, Server] = {
        "headrace": Headrace(options.set),
        "mosquitto": Mosquitto(inflight=MOSQUITTO_INFLIGHT),
    }
    servers = [built_in[name] for name in options.server]
    try:
        only_one()
        plans = make_plans(options)
        environment = describe(options, servers)
        print("\n".join(f"{name}: {value}" for name, value in environment.items()) + "\n", flush=True)
        rounds = run_rounds(plans, [SCENARIOS[name] for name in plans], servers, options.rounds, BUILD)
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    environment["load average at end"] = " ".join(f"{value:.2f}" for value in os.getloadavg())
    text, whole = report(options, plans, rounds)
    print("\n" + text)
    print(f"written to benchmarks/results/{write_results(text, environment, rounds)} and .md")
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
