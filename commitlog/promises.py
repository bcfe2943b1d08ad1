"""Promises: what callers wait for, so that nobody waits for what will not come once the log has failed."""

from __future__ import annotations

import asyncio
from typing import Any

from core.errors import UnavailableError


class Promises:
    """Futures that fail with the log, and whether it has failed or is closed. Used on the event loop only."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._open: dict[asyncio.Future[Any], None] = {}  # one for each call under way

    def promise(self) -> asyncio.Future[Any]:
        """A future that fails with the log. Raises UnavailableError when it has failed: nobody would keep it."""
        if self.failure is not None:
            raise self._unavailable()
        promise: asyncio.Future[Any] = self._loop.create_future()
        self._open[promise] = None
        promise.add_done_callback(self._open.pop)
        return promise

    def check(self) -> None:
        """Raise UnavailableError unless the log accepts."""
        if self.failure is not None:
            raise self._unavailable()
        if self.closed:
            raise UnavailableError("the log is closed")

    def fail(self, error: Exception) -> None:
        """The log has failed: nothing that is open will be kept."""
        self.failure = error
        for promise in list(self._open):
            if not promise.done():
                promise.set_exception(self._unavailable())

    def _unavailable(self) -> UnavailableError:
        return UnavailableError(f"the log has failed: {self.failure!r}", mend="the edge process restarts and recovers")
