"""A line on a terminal that says how far something is."""

from __future__ import annotations

import sys
import time
from typing import Final

from appliance.commands.log_text import size_text

_SHOWN_EVERY_S: Final = 0.2


class Progress:
    """One line that is written over; nothing where standard error is no terminal."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._wanted = sys.stderr.isatty()
        self._next_s = 0.0

    def __call__(self, done: int, total: int) -> None:
        """Show bytes done and in all."""
        if self._wanted and time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _SHOWN_EVERY_S
            share = 100 * done // total if total else 100
            sys.stderr.write(f"\r\x1b[K{self._doing}: {size_text(done)} of {size_text(total)}, {share} %")
            sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._wanted:
            sys.stderr.write("\r\x1b[K")
