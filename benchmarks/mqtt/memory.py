"""Resident memory of a server while something goes on."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from benchmarks.measure import process_memory

EVERY_S: Final = 0.25


class MemorySeries:
    """Samples the resident memory of a process, from a thread of its own, as long as its context lasts."""

    def __init__(self, pid: int, *, every_s: float = EVERY_S) -> None:
        self._pid = pid
        self._every_s = every_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="memory-series", daemon=True)
        self.rss_bytes: list[float] = []  # never empty within the context

    def __enter__(self) -> Self:
        self.rss_bytes.append(process_memory(self._pid).rss_bytes)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._end.wait(self._every_s):
            try:
                self.rss_bytes.append(process_memory(self._pid).rss_bytes)
            except FileNotFoundError:
                return  # the server has ended: its loaders say why


def growth_bytes(series: Sequence[float]) -> float:
    """How far the last quarter lies above the second: what comes while buffers fill for the first time is left out."""
    quarter = len(series) // 4
    if quarter == 0:
        return 0.0
    return statistics.median(series[-quarter:]) - statistics.median(series[quarter : 2 * quarter])
