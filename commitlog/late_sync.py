"""Syncs that come after the acknowledgement: what `commitlog.durability` says of the levels below `fsync`, carried out.

It decides for each commit whether it may do without its own sync, counts what is then unsynced, and syncs it in time:
`log.sync_interval` after the first commit of level `interval`, and soon after each checkpoint, whatever the level. The
syncs are done by the journal's thread, between commits, so that one covers exactly the commits that landed before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from commitlog.durability import Durability, Unsynced
from commitlog.settings import LogSettings


class LateSync:
    """See the module. Used on the event loop only."""

    def __init__(
        self,
        settings: LogSettings,
        unsynced: Unsynced,
        *,
        sync: Callable[[Callable[[], None]], None],
        note: Callable[[Callable[[], None]], None],
    ) -> None:
        """`sync` has the journal's thread sync it, `note` has a checkpoint say that weaker levels are in use.

        Both call what they are handed, on the loop, once that is done; not if the log fails before.
        """
        self._interval_s = settings.sync_interval_ms / 1000
        self._limit = settings.unsynced_records
        self._unsynced = unsynced
        self._sync = sync
        self._note = note
        self._loop = asyncio.get_running_loop()
        self._noting = self._noted = self._syncing = self._closed = False
        self._timer: asyncio.TimerHandle | None = None

    def permit(self, asked: Durability, records: int) -> Durability:
        """The level at which a commit of so many records is written: as asked, or stricter."""
        if asked is Durability.FSYNC:
            return asked
        if not self._noted:
            if not self._noting:
                self._noting = True
                self._note(self._is_noted)
            return Durability.FSYNC
        return asked if self._unsynced.records + records <= self._limit else Durability.FSYNC

    def landed(self, durability: Durability, records: int, size_bytes: int, since_s: float) -> None:
        """A commit was written at a level that `permit` gave; it is about to be acknowledged."""
        if durability is Durability.FSYNC:
            self._all_synced()
            return
        self._unsynced.add(records, size_bytes, since_s)
        if durability is Durability.INTERVAL and self._timer is None:
            self._timer = self._loop.call_later(self._interval_s, self.start)

    def start(self) -> None:
        """Sync what is unsynced: its time has come."""
        self._cancel()
        if self._unsynced.records and not self._syncing and not self._closed:
            self._syncing = True
            self._sync(self._synced)

    def close(self) -> None:
        """Start no sync any more."""
        self._closed = True
        self._cancel()

    def _is_noted(self) -> None:
        self._noted = True

    def _synced(self) -> None:
        # The thread does one thing after another: no commit that it wrote after this sync has landed yet.
        self._syncing = False
        self._all_synced()

    def _all_synced(self) -> None:
        self._unsynced.clear()
        self._cancel()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
