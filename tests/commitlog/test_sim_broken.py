"""Seven logs that are broken on purpose: the seeds of every test run catch each of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.commitlog.sim.sim_broken import BROKEN
from tests.commitlog.sim.sim_lives import run_seed
from tests.commitlog.sim.sim_promises import WrongError
from tests.commitlog.sim.sim_seeds import CI_SEEDS

PROMISES = {
    "ack before fsync": (
        "what was acknowledged is there",
        "an acknowledged row is there",
        "a closed window is not lost",
    ),
    "no directory fsync": ("a topic that was made is there", "what was acknowledged is there"),
    "watermark before fsync": (
        "what a reader was shown stays",
        "no offset that anybody may have seen is given to another record",
    ),
    "a producer's row in the next commit": ("a batch sent again is answered with its place",),
    "no note of what is unsynced": ("no offset that anybody may have seen is given to another record",),
    "deletion before the checkpoint": ("a log start never goes back",),
    "a full disk is a failure": ("a log fails only with its disk", "only a failing disk keeps the log from opening"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_seeds_catch(name: str, volatile_dir: Path) -> None:
    """By the promise that it breaks, not by an accident of how it was broken."""
    told = []
    for seed in range(CI_SEEDS):
        try:
            run_seed(seed, volatile_dir / str(seed), BROKEN[name])
        except WrongError as wrong:
            told.append(str(wrong))
            if told[-1].startswith(PROMISES[name]):
                return
    pytest.fail(f"{CI_SEEDS} seeds did not catch it; they said: {told}")


def test_a_failing_seed_says_how_to_run_it_again_and_fails_again(volatile_dir: Path) -> None:
    wrong = _first_wrong(volatile_dir / "once", range(CI_SEEDS))
    (seed,) = [int(word.split("=")[1]) for word in wrong.__notes__[-1].split() if word.startswith("HEADRACE_SIM_SEED=")]
    again = _first_wrong(volatile_dir / "again", [seed])
    assert (str(again), again.__notes__) == (str(wrong), wrong.__notes__)


def _first_wrong(directory: Path, numbers: Iterable[int]) -> WrongError:
    for seed in numbers:
        try:
            run_seed(seed, directory / str(seed), BROKEN["ack before fsync"])
        except WrongError as wrong:
            return wrong
    pytest.fail("no seed was wrong")
