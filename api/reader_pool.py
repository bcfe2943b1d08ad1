"""Log readers for requests: a reader must not be shared between threads, and opening one costs files."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from commitlog.base import ClosedWindow, LogReader
from core.errors import UnavailableError

READERS: Final = 2  # scans at a time: one slow query leaves room for a page, and neither fills both cores
WAIT_S: Final = 3.0


class ReaderPool:
    """At most `READERS` readers, lent one at a time; who finds none free waits, then is told to come back."""

    def __init__(self, open_reader: Callable[[], LogReader], *, wait_s: float = WAIT_S) -> None:
        self._open_reader = open_reader
        self._wait_s = wait_s
        self._free: queue.LifoQueue[LogReader | None] = queue.LifoQueue()
        self._last_windows: dict[str, ClosedWindow] = {}  # by topic id, so that a topic's windows are read once
        for _ in range(READERS):
            self._free.put(None)

    @contextmanager
    def reader(self) -> Iterator[LogReader]:
        """Borrow a reader. Blocks, so call it in a worker thread. Raises UnavailableError when all stay busy."""
        try:
            reader = self._free.get(timeout=self._wait_s)
        except queue.Empty:
            raise UnavailableError(
                f"{READERS} other queries are reading the log", where="console", mend="try again in a few seconds"
            ) from None
        opened = reader
        try:
            if opened is None:
                opened = self._open_reader()
            yield opened
        except OSError:
            if opened is not None:  # its files may be gone: the next borrower opens a fresh one
                opened.close()
            opened = None
            raise
        finally:
            self._free.put(opened)

    def last_window(self, reader: LogReader, topic: str, topic_id: str) -> ClosedWindow | None:
        """The newest closed window of a topic, reading only those closed since it was last asked for."""
        known = self._last_windows.get(topic_id)
        windows = reader.windows(topic, after=-1 if known is None else known.number)
        if windows:
            known = self._last_windows[topic_id] = windows[-1]
        return known

    def close(self) -> None:
        """Close the readers that are not lent."""
        for _ in range(self._free.qsize()):
            reader = self._free.get_nowait()
            if reader is not None:
                reader.close()
