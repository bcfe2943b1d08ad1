"""The loop of a retention worker: a look every few seconds; what fails is counted, told and tried again, ever later."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from core.errors import HeadraceError
from core.tasks import log_unexpected

FIRST_PAUSE_S: Final = 5.0
LONGEST_PAUSE_S: Final = 300.0
_log = structlog.get_logger("headrace.retention")


class Rounds:
    """See the module. `failures` counts failed looks by their error's code."""

    def __init__(self, name: str, look: Callable[[], Awaitable[None]], *, interval_s: float) -> None:
        self.failures: Counter[str] = Counter()
        self.pause_s = 0.0
        """How long the last look makes the next one wait beyond the interval."""
        self.name = name
        self._look = look
        self._interval_s = interval_s

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(max(self._interval_s, self.pause_s))
            await self.once()

    async def once(self) -> None:
        """One look; never raises."""
        try:
            await self._look()
        except Exception as error:  # noqa: BLE001 - whatever it is, what could not go now goes later
            self._failed(error)
        else:
            self.pause_s = 0.0

    def _failed(self, error: Exception) -> None:
        self.pause_s = min(max(FIRST_PAUSE_S, 2 * self.pause_s), LONGEST_PAUSE_S)
        facts = {"worker": self.name, "retry_in_s": self.pause_s}
        if isinstance(error, HeadraceError):
            self.failures[error.code] += 1
            _log.warning("retention failed", what=error.what, where=error.where, mend=error.mend, **facts)
        elif isinstance(error, OSError):
            self.failures["storage"] += 1
            mend = "may the directory be written?"
            _log.warning("retention failed", what=str(error), where=str(error.filename or ""), mend=mend, **facts)
        else:
            self.failures["unexpected"] += 1
            log_unexpected("retention failed", error, **facts)
