"""How often a device is heard: averages that forget, as `uptime` shows of a machine's load.

Time received is cut into periods of 5 s that begin at multiples of 5 s since the epoch. When a period with `n` readings
has ended, `rate = rate * e + n / 5 * (1 - e)` with `e = exp(-5 s / 60 s)`, or `/ 900 s` for the slow one; a rate
begins at 0. The period under way does not count yet. So the fast rate has come 63 % of the way to a new rhythm after a
minute, the slow one after 15. Nothing is done at the end of a period: periods that have passed are made up for, in
closed form, when the next reading comes or somebody looks.
"""

from __future__ import annotations

from math import exp
from typing import Final

PERIOD_MS: Final = 5_000
_PERIOD_S: Final = PERIOD_MS / 1000
KEEP_1M: Final = exp(-_PERIOD_S / 60)
KEEP_15M: Final = exp(-_PERIOD_S / 900)


def after_periods(rate: float, readings: int, periods: int, keep: float) -> float:
    """The rate (1/s) after `periods` >= 1 more have ended, the first of them with `readings`, the others with none."""
    rate = rate * keep + readings / _PERIOD_S * (1 - keep)
    return rate if periods == 1 else rate * keep ** (periods - 1)
