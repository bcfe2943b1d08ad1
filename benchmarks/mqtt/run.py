"""All rounds of some scenarios on some servers, taking turns, each from an empty directory."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.measure import BenchmarkError
from benchmarks.mqtt.scenario import Outcome, Plan, Scenario
from benchmarks.mqtt.table import Round
from benchmarks.servers import Server, log_of, log_tail


def run_rounds(
    plans: Mapping[str, Plan], scenarios: Sequence[Scenario], servers: Sequence[Server], rounds: int, directory: Path
) -> list[Round]:
    """The order of the servers is turned round every other round, so that a drift of the machine hits both."""
    done: list[Round] = []
    for number in range(1, rounds + 1):
        for scenario in scenarios:
            for server in servers if number % 2 else servers[::-1]:
                one = measure_once(plans[scenario.name], scenario, server, number, directory)
                done.append(one)
                print(
                    f"round {number}/{rounds}  {scenario.name:<8} {server.name:<12} {_told(scenario, one)}", flush=True
                )
    return done


def measure_once(plan: Plan, scenario: Scenario, server: Server, number: int, directory: Path) -> Round:
    """One server once; a run that breaks off is a void round with its reason."""
    data_dir = directory / f"data-{server.name}"
    outcome: Outcome | None = None
    try:
        outcome = _on_fresh_server(plan, scenario, server, data_dir)
        void = outcome.void
    except BenchmarkError as error:
        print(f"the end of the log of {server.name}:\n{log_tail(log_of(data_dir))}", file=sys.stderr)
        void = (f"broke off: {error.what}",)
    return Round(scenario=scenario.name, server=server.name, number=number, outcome=outcome, void=void)


def _on_fresh_server(plan: Plan, scenario: Scenario, server: Server, data_dir: Path) -> Outcome:
    shutil.rmtree(data_dir, ignore_errors=True)
    data_dir.mkdir(parents=True)
    log_of(data_dir).unlink(missing_ok=True)
    try:
        running = server.start(data_dir)
        try:
            return scenario.run(plan, running)
        finally:
            running.stop()
    finally:
        shutil.rmtree(data_dir)


def _told(scenario: Scenario, one: Round) -> str:
    told = ""
    if one.outcome is not None:
        shown = (column for column in scenario.columns if column.name in one.outcome.figures)
        told = "  ".join(
            f"{column.head} {one.outcome.figures[column.name] * column.scale:,.{column.digits}f}" for column in shown
        )
    return told + "".join(f"  VOID: {reason}" for reason in one.void)
