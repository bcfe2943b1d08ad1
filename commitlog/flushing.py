"""When what is committed goes on to the segment thread: flushes, and what has to be looked after while nothing arrives.

A flush goes with a commit, once that is durable, when the last one is `flush_interval` ago, when `flush_bytes` wait for
one partition, when a window was closed, or when the commit brings the journal's used part to `checkpoint_bytes`: the
flush then ends in a checkpoint, which gives room for the next one. While nothing arrives a timer sees to the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from commitlog.base import ClosedWindow
from commitlog.behind import Flush, SegmentWriter
from commitlog.journal import Change, Journal
from commitlog.open_commit import OpenCommit
from commitlog.settings import LogSettings
from commitlog.topics import Topics
from core.threads import Worker


class Flusher:
    """See the module. Used on the event loop only."""

    def __init__(
        self,
        settings: LogSettings,
        *,
        topics: Topics,
        open_commit: OpenCommit,
        journal: Journal,
        segments: SegmentWriter,
        thread: Worker,
        newest_ms: Callable[[], int],
        in_flight: Callable[[], bool],
    ) -> None:
        """`thread` is the segment thread. `newest_ms`: the newest time given to a record; `in_flight`: of a commit."""
        self._interval_s = settings.flush_interval_ms / 1000
        self._flush_bytes = settings.flush_bytes
        self._checkpoint_bytes = settings.checkpoint_bytes
        self._topics = topics
        self._open = open_commit
        self._journal = journal
        self._segments = segments
        self._thread = thread
        self._newest_ms = newest_ms
        self._in_flight = in_flight
        self._loop = asyncio.get_running_loop()
        self._changes: list[Change] = []
        self._last_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def take(self, changes: Sequence[Change], windows: Sequence[ClosedWindow], size_bytes: int) -> Flush | None:
        """The flush that goes with a commit of so many bytes and these changes, if one is due."""
        self._changes.extend(changes)
        return self._take(windows) if windows or self._due(size_bytes) else None

    def submit(self, flush: Flush, done: Callable[[], None]) -> None:
        """Its last commit is in the journal, and none in flight: have it written, then call `done`."""
        flush.reaches(self._journal)
        self._thread.submit(lambda: self._segments.flush(flush), lambda _: done())

    def later(self) -> None:
        """See to what a commit has left unflushed."""
        if self._timer is None and (self._open.unflushed or self._changes):
            self._timer = self._loop.call_later(self._interval_s, self._timed_out)

    def flush_now(self) -> None:
        """Flush what is committed but not yet in segments, while nothing is open."""
        if self._open.unflushed or self._changes:
            self.submit(self._take(()), lambda: None)

    def close(self) -> None:
        """Flush nothing by itself any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _due(self, size_bytes: int) -> bool:
        return (
            self._loop.time() - self._last_s >= self._interval_s
            or self._journal.used + size_bytes >= self._checkpoint_bytes
            or self._open.flush_wanted(self._flush_bytes)
        )

    def _take(self, windows: Sequence[ClosedWindow]) -> Flush:
        """Everything since the last flush; only right with a commit that was just taken, or while none is open."""
        batches = self._open.take_segment_batches()
        for taken in batches:
            self._topics.named(taken.partition.topic).bytes_since_roll += taken.size_bytes
        for window in windows:
            self._topics.named(window.topic).bytes_since_roll = 0
        changes, self._changes = self._changes, []
        self._last_s = self._loop.time()
        return Flush(batches=batches, changes=changes, windows=windows, last_timestamp_ms=self._newest_ms())

    def _timed_out(self) -> None:
        self._timer = None
        if self._open.empty and not self._in_flight():
            self.flush_now()
        # Otherwise a commit is open or in flight: the next one finds that a flush is due and takes it along.


class Heartbeat:
    """Every half second: says that the log lives, and lets its thread look after what is due."""

    def __init__(
        self,
        *,
        interval_s: float,
        beat: Callable[[], None],
        tend: Callable[[], None],
        thread: Worker,
        alive: Callable[[], bool],
    ) -> None:
        """`beat` is called on the loop while the log is `alive`, `tend` in the segment thread, one at a time."""
        self._interval_s = interval_s
        self._beat = beat
        self._tend = tend
        self._thread = thread
        self._alive = alive
        self._tending = False
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle = self._loop.call_soon(self.tick)

    def tick(self) -> None:
        """One beat; a log that has failed has none, so that readers take it for gone."""
        if not self._alive():
            return
        self._beat()
        if not self._tending:  # the thread may be waiting for space, for hours
            self._tending = True
            self._thread.submit(self._tend, self._tended)
        self._timer = self._loop.call_later(self._interval_s, self.tick)

    def close(self) -> None:
        """Beat no more."""
        self._timer.cancel()

    def _tended(self, _: None) -> None:
        self._tending = False
