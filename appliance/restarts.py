"""When a child that died is started again. Pure: what happened goes in, what to do comes out.

    starting --ready--> established --died--> waiting --delay over--> starting
    starting --died, a restart could mend it--> waiting
    starting, never established, --died of its settings, its directory or its port--> given up

The delay doubles from `first_delay_s` to `max_delay_s` and begins anew after `healthy_after_s` of life, so that a
child that dies at once costs two starts a minute and one that dies once a day is back within a fifth of a second.
Given up is only what a person must mend, and only at the very first start, while that person is still looking.
Later even these errors are tried again: a port may come free, a disk may be mounted again.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Final

from core.errors import ConfigError, DataDirError, PortTakenError

UNMENDABLE_EXIT_CODES: Final = frozenset({ConfigError.exit_code, DataDirError.exit_code, PortTakenError.exit_code})


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartRule:
    """The numbers of a restart policy, in seconds."""

    first_delay_s: float = 0.2
    max_delay_s: float = 30.0
    healthy_after_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """Start it again after a pause."""

    delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """End the appliance with this exit code: the child's own message says what to mend."""

    exit_code: int


class RestartPolicy:
    """One child's history, as far as it decides what happens next. Times are monotonic seconds."""

    def __init__(self, rule: RestartRule) -> None:
        self._rule = rule
        self._established = False
        self._started_s = 0.0
        self._next_delay_s = rule.first_delay_s

    def started(self, now_s: float) -> None:
        """The process was started."""
        self._started_s = now_s

    def ready(self) -> None:
        """The process said that it does its work."""
        self._established = True

    def died(self, now_s: float, exit_code: int) -> Restart | GiveUp:
        """The process ended without being asked to; `exit_code` as subprocess gives it (negative: a signal)."""
        healthy = now_s - self._started_s >= self._rule.healthy_after_s
        self._established = self._established or healthy
        if not self._established and exit_code in UNMENDABLE_EXIT_CODES:
            return GiveUp(exit_code=exit_code)
        delay_s = self._rule.first_delay_s if healthy else self._next_delay_s
        self._next_delay_s = min(delay_s * 2, self._rule.max_delay_s)
        return Restart(delay_s=delay_s)


def describe_exit(exit_code: int) -> str:
    """`SIGKILL` for -9, `exit code 3` for 3."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"


def shell_exit_code(exit_code: int) -> int:
    """An exit code that a process may end with itself: 128 + n for death by signal n, as shells do."""
    return exit_code if exit_code >= 0 else 128 - exit_code
