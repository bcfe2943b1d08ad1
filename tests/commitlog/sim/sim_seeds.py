"""Which seeds are run, and how far the long loops go."""

from __future__ import annotations

import os

CI_SEEDS = 300


def seeds() -> range:
    """HEADRACE_SIM_SEED=n: that one. HEADRACE_SIM_SEEDS=n: the first n. Otherwise those of every test run."""
    one = os.environ.get("HEADRACE_SIM_SEED")
    if one is not None:
        return range(int(one), int(one) + 1)
    return range(int(os.environ.get("HEADRACE_SIM_SEEDS", CI_SEEDS)))
