"""The full disk, as the event loop knows it: whether readings are refused, and who wants to hear when that changes.

The disk is looked at in the threads that write (`commitlog.space`); what they find is told here, on the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from commitlog.space import DiskState, Space
from core.errors import UnavailableError


class Fullness:
    """See the module. Used on the event loop, whose it is."""

    def __init__(self, space: Space) -> None:
        loop = asyncio.get_running_loop()
        self._space = space
        self.full = space.state.full
        self._watchers: list[Callable[[bool], None]] = []  # one for each listener
        space.on_change = lambda state: loop_call(loop, lambda: self.become(state.full))

    @property
    def disk(self) -> DiskState:
        """What the last look at the disk found."""
        return self._space.state

    def watch(self, changed: Callable[[bool], None]) -> None:
        """See `Appender.watch_full`."""
        self._watchers.append(changed)

    def become(self, full: bool) -> None:
        """The disk is full, or has room again."""
        if full == self.full:
            return
        self.full = full
        for changed in self._watchers:
            changed(full)

    def check(self) -> None:
        """Raise UnavailableError while readings are refused; changes of tables alone are small, and go on."""
        if self.full:
            disk = self.disk
            raise UnavailableError(
                f"the disk is full: {disk.free_bytes >> 20} MB are free, {disk.needed_bytes >> 20} MB have to be",
                mend="free some space: it goes on by itself",
            )


def loop_call(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Have the loop call it, from whatever thread."""
    loop.call_soon_threadsafe(call)
