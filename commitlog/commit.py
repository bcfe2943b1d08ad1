"""Group commit: many appends, one sync.

A commit starts when enough waits (records or bytes) or the interval since the first waiter has passed, never while one
is in flight; whatever arrives meanwhile is the next one. What it takes is written in the journal thread, and synced if
anything in it wants to be (`commitlog.durability`); only then do its waiters hear `committed`. A failed write or sync
is never retried: its waiters and everybody after them hear `failed`, and nothing is accepted any more.

Memory is bounded by `pending_bytes` and one chunk: beyond that the log is congested and listeners stop reading. What is
open is cut where it would be more than one commit may hold (`commitlog.open_commit`): the log is then congested until
all that was cut is on its way, and commits follow each other at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from commitlog.base import Waiter
from commitlog.behind import Flush
from commitlog.durability import Durability
from commitlog.journal import Change
from commitlog.late_sync import LateSync
from commitlog.partition import TakenBatch
from commitlog.settings import LogSettings
from commitlog.stats import LogStats
from core.tasks import log_unexpected
from core.threads import Threads


@dataclass(slots=True, kw_only=True)
class Commit:
    """What one journal entry holds, and who waits for it. `flush` comes with it once it is durable at its level.

    `rolls` were asked for with it, and are answered by `after_flush`. `pieces` of what had been cut are in it, and all
    else that is open, unless there is a `rest`. `size_bytes`: as written, known after that.
    """

    batches: Sequence[TakenBatch]
    changes: Sequence[Change]
    flush: Flush | None
    after_flush: Callable[[], None]
    rolls: int
    records: int
    durability: Durability
    pieces: int = 0
    rest: bool = False
    size_bytes: int = 0
    waiters: list[tuple[Waiter, Any]] = field(default_factory=list)
    first_at_s: float = 0.0


class GroupCommit:
    """Decides when to commit, and tells those who wait. Used on the event loop only."""

    def __init__(
        self,
        settings: LogSettings,
        stats: LogStats,
        *,
        threads: Threads,
        take: Callable[[Durability], Commit],
        write: Callable[[Commit], None],
        sync: Callable[[], None],
        durable: Callable[[Commit], None],
        note_unsynced: Callable[[Callable[[], None]], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        """`take` empties the open batches, and is told the strictest level that was asked for.

        `write` and `sync` run in the journal thread, `durable` before the acks. `note_unsynced`: see `LateSync`.
        """
        self.congested = False
        self._settings = settings
        self._interval_s = settings.commit_interval_ms / 1000
        self._enough_records, self._enough_bytes = settings.commit_records, settings.commit_bytes
        self._most_pending_bytes = settings.pending_bytes
        self._stats = stats
        self._take = take
        self._write = write
        self._durable = durable
        self._loop = asyncio.get_running_loop()
        self._thread = threads.worker("journal", on_error)
        self._level = Durability.named(settings.durability)
        self._asked = Durability.OS
        self._late = LateSync(
            settings,
            stats.unsynced,
            sync=lambda done: self._thread.submit(sync, lambda _: done()),
            note=note_unsynced,
        )
        self._waiters: list[tuple[Waiter, Any]] = []
        self._cut_waiters: deque[list[tuple[Waiter, Any]]] = deque()  # one list for each piece
        self._resume: deque[Callable[[], None]] = deque()
        self._pending_records = self._pending_bytes = 0
        self._first_at_s = 0.0
        self._flying: Commit | None = None
        self._overdue = self._soon = self._failed = False
        self._timer: asyncio.TimerHandle | None = None
        self._landed = asyncio.Event()

    @property
    def in_flight(self) -> bool:
        """Whether a commit is being written."""
        return self._flying is not None

    def appended(
        self,
        count: int,
        size_bytes: int,
        waiter: Waiter | None = None,
        token: Any = None,
        durability: Durability | None = None,
    ) -> None:
        """See `Appender.appended`."""
        if self._failed:
            if waiter is not None:
                waiter.failed(token)
            return
        if waiter is not None:
            self._waiters.append((waiter, token))
        if durability is None:
            durability = self._level
        if durability > self._asked:
            self._asked = durability
        if self._timer is None and not self._overdue:
            self._first_at_s = self._loop.time()
            self._timer = self._loop.call_later(self._interval_s, self._timed_out)
        self._pending_records += count
        self._pending_bytes += size_bytes
        if self._pending_bytes >= self._most_pending_bytes:
            self.congested = True
        if (
            self._flying is None
            and not self._soon
            and (self._pending_records >= self._enough_records or self._pending_bytes >= self._enough_bytes)
        ):
            # Not at once: everybody whose data arrived in this turn of the loop shares the sync.
            self._soon = True
            self._loop.call_soon(self.start)

    def join(self, waiter: Waiter, token: Any) -> None:
        """See `Appender.join`: the commit that is being taken gets everybody who waits once it is taken."""
        self._waiters.append((waiter, token))

    def when_clear(self, resume: Callable[[], None]) -> None:
        """See `Appender.when_clear`."""
        self._resume.append(resume)

    def cut(self) -> None:
        """What was appended before now is a piece by itself, and the log congested until it is on its way.

        Not everybody who appended it may have said at which level: it is as strict as can be.
        """
        if not (self._pending_records or self._waiters or self._cut_waiters):
            self._first_at_s = self._loop.time()
        self._asked = Durability.FSYNC
        self._cut_waiters.append(self._waiters)
        self._waiters = []
        self._pending_records = self._pending_bytes = 0
        self.congested = True
        if self._flying is not None:
            self._overdue = True
        elif not self._soon:
            self._soon = True
            self._loop.call_soon(self.start)

    def start(self) -> None:
        """Commit everything open now, as far as one commit holds it; if one is in flight, as soon as it is back."""
        self._soon = False
        if self._failed:
            return
        if self._flying is not None:
            self._overdue = True
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        commit = self._take(self._asked)
        commit.first_at_s = self._first_at_s
        self._claim_waiters(commit)
        self._overdue = commit.rest
        if commit.batches or commit.changes:  # an empty one asks for no level, and must not be taken for a weak one
            commit.durability = self._late.permit(commit.durability, commit.records)
            self._flying = commit
            self._thread.submit(lambda: self._write(commit), self._back)
        else:
            self._durable(commit)
            self._settle(commit)

    def sync_late(self) -> None:
        """Sync what commits have left unsynced: a checkpoint was taken."""
        self._late.start()

    async def drain(self) -> None:
        """Wait until nothing is open or in flight, everybody who waited was told, or the log has failed."""
        while not self._failed and (
            self._flying is not None or self._pending_records or self._waiters or self._cut_waiters
        ):
            self._landed.clear()
            self.start()
            if self._flying is not None:
                await self._landed.wait()

    def fail(self) -> None:
        """Tell everybody that nothing of theirs may be acknowledged; from now on nothing is."""
        self._failed = True
        self._late.close()
        waiters = [] if self._flying is None else list(self._flying.waiters)
        for cut in self._cut_waiters:
            waiters += cut
        waiters += self._waiters
        self._cut_waiters.clear()
        self._waiters = []
        for waiter, token in waiters:
            try:
                waiter.failed(token)
            except Exception as error:  # noqa: BLE001 - as below
                log_unexpected("a waiter failed on hearing of a failed commit", error)
        self._landed.set()

    async def close(self) -> None:
        """End the journal thread. Whoever still appends hears at once that it failed."""
        self._failed = True
        self._late.close()
        if self._timer is not None:
            self._timer.cancel()
        await self._thread.close()

    def _claim_waiters(self, commit: Commit) -> None:
        for _ in range(commit.pieces):
            commit.waiters += self._cut_waiters.popleft()
        if not commit.rest:
            commit.waiters += self._waiters
            self._waiters = []
            self._pending_records = self._pending_bytes = 0
            self._asked = Durability.OS

    def _enough(self) -> bool:
        return self._pending_records >= self._enough_records or self._pending_bytes >= self._enough_bytes

    def _timed_out(self) -> None:
        self._timer = None
        self.start()

    def _back(self, _: None) -> None:
        """The journal thread has written the commit in flight, and synced it if its level asks for that."""
        commit = self._flying
        if self._failed or commit is None:
            return  # `fail` has told its waiters already
        self._flying = None
        self._late.landed(commit.durability, commit.records, commit.size_bytes, commit.first_at_s)
        self._durable(commit)
        self._settle(commit)
        if self._overdue or self._enough():
            self.start()
        self._landed.set()

    def _settle(self, commit: Commit) -> None:
        """Tell everybody who waited, and let those read on who had to stop."""
        for waiter, token in commit.waiters:
            try:
                waiter.committed(token)
            except Exception as error:  # noqa: BLE001 - one session's bug must not keep the others from their answers
                log_unexpected("a waiter failed on hearing of its commit", error)
        if commit.records:
            self._stats.acknowledged(commit.records, self._loop.time() - commit.first_at_s)
        self.congested = bool(self._cut_waiters)
        while self._resume and not self.congested:
            self._resume.popleft()()
