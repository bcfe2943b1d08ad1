"""Hundreds of lives of a log on a disk that forgets: see tests/commitlog/sim/.

HEADRACE_SIM_SEEDS says how many seeds are run (here 300), HEADRACE_SIM_SEED runs a single one again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import astuple, fields
from pathlib import Path

import pytest

from tests.commitlog.sim.sim_lives import run_seed
from tests.commitlog.sim.sim_outcome import Outcome
from tests.commitlog.sim.sim_seeds import seeds
from tests.commitlog.sim.sim_world import Breakage


@pytest.mark.parametrize("seed", seeds())
def test_a_recovered_log_holds_everything_acknowledged_or_shown(seed: int, volatile_dir: Path) -> None:
    run_seed(seed, volatile_dir / "data")


@pytest.mark.parametrize("seed", seeds())
def test_a_lost_checkpoint_loses_nothing_besides(seed: int, volatile_dir: Path) -> None:
    run_seed(seed, volatile_dir / "data", Breakage(checkpoints=True))


def test_a_seed_is_the_same_run_again_in_another_process(volatile_dir: Path) -> None:
    here = run_seed(5, volatile_dir / "here")
    code = (
        "import pathlib, sys; from tests.commitlog.sim.sim_lives import run_seed; "
        "print(run_seed(5, pathlib.Path(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(volatile_dir / "there")],
        capture_output=True,
        check=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "4711"},
    )
    assert done.stdout.decode().splitlines()[-1] == repr(here)  # before it, what the log had to say


def test_another_seed_is_another_run(volatile_dir: Path) -> None:
    assert run_seed(5, volatile_dir / "a").trace != run_seed(6, volatile_dir / "b").trace


def test_the_seeds_see_every_kind_of_trouble(volatile_dir: Path) -> None:
    outcomes = [run_seed(seed, volatile_dir / str(seed)) for seed in range(60)]
    names = [one.name for one in fields(Outcome)]
    totals = dict(zip(names, map(sum, zip(*map(astuple, outcomes), strict=True)), strict=True))
    least = {"deaths": 40, "deaths_in_recovery": 15, "power_cuts": 60, "failures": 1, "records": 1_000, "windows": 40}
    least |= {"checkpoints": 80, "replayed": 150, "resent": 30, "deletions": 4, "followed": 250}
    least |= {"full_disks": 8, "starts_on_full": 2, "refused": 1, "lost": 3}
    assert {name: totals[name] for name, count in least.items() if totals[name] < count} == {}
