"""Three logs that are broken on purpose: the seeds of every test run catch each of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commitlog.sim.sim_broken import BROKEN
from tests.commitlog.sim.sim_lives import run_seed
from tests.commitlog.sim.sim_model import WrongError
from tests.commitlog.sim.sim_seeds import CI_SEEDS

PROMISES = {
    "ack before fsync": (
        "what was acknowledged is there",
        "an acknowledged row is there",
        "a closed window is not lost",
    ),
    "no directory fsync": ("a topic that was made is there", "what was acknowledged is there"),
    "watermark before fsync": ("what a reader was shown stays",),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_seeds_catch(name: str, tmp_path: Path) -> None:
    """By the promise that it breaks, not by an accident of how it was broken."""
    told = []
    for seed in range(CI_SEEDS):
        try:
            run_seed(seed, tmp_path / str(seed), BROKEN[name])
        except WrongError as wrong:
            told.append(str(wrong))
            assert any(f"HEADRACE_SIM_SEED={seed} " in note for note in wrong.__notes__)
            if told[-1].startswith(PROMISES[name]):
                return
    pytest.fail(f"{CI_SEEDS} seeds did not catch it; they said: {told}")
