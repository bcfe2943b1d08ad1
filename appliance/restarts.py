"""When a child that died is started again. Pure: what happened goes in, what to do comes out.

    starting --ready--> established --died--> waiting --pause over--> starting
    starting --died, a restart could mend it--> waiting
    starting, never established, --died of its settings, its directory or its port--> given up

A child that had been ready for `healthy_after_s` is started again at once: it was killed, or met something rare, and
every second without it is one that devices and people notice. Any other death is a start that came to nothing: the
pause doubles from `first_delay_s` to `max_delay_s`, so that a child that dies at its start costs two starts a minute.
What counts is the time since it was ready, not since it was started: a recovery that takes an hour and dies is a start
that came to nothing too. As every start without a growing pause has cost `healthy_after_s` of work before, a child that
dies over and over can be started at most six times a minute, and serves nearly all of that minute.

Given up is only what a person must mend, and only while the very first start is young enough for that person to be
still looking. Later even these errors are tried again: a port may come free, a disk may be mounted again.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Final

from core.errors import ConfigError, DataDirError, PortTakenError

UNMENDABLE_EXIT_CODES: Final = frozenset({ConfigError.exit_code, DataDirError.exit_code, PortTakenError.exit_code})


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartRule:
    """The numbers of a restart policy, in seconds.

    `healthy_after_s` counts from ready: longer than what a process that is broken needs to fall over its first work,
    shorter than anybody wants to wait for. `watched_s` counts from the start.
    """

    first_delay_s: float = 0.2
    max_delay_s: float = 30.0
    healthy_after_s: float = 10.0
    watched_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """Start it again after a pause; 0: at once."""

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
        self._ready_s: float | None = None
        self._next_delay_s = rule.first_delay_s

    def started(self, now_s: float) -> None:
        """The process was started."""
        self._started_s = now_s
        self._ready_s = None

    def ready(self, now_s: float) -> None:
        """The process said that it does its work."""
        self._ready_s = now_s
        self._established = True

    def died(self, now_s: float, exit_code: int) -> Restart | GiveUp:
        """The process ended without being asked to; `exit_code` as subprocess gives it (negative: a signal)."""
        watched = now_s - self._started_s < self._rule.watched_s
        self._established = self._established or not watched
        if not self._established and exit_code in UNMENDABLE_EXIT_CODES:
            return GiveUp(exit_code=exit_code)
        if self._ready_s is not None and now_s - self._ready_s >= self._rule.healthy_after_s:
            self._next_delay_s = self._rule.first_delay_s
            return Restart(delay_s=0.0)
        delay_s = self._next_delay_s
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
