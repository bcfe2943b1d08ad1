"""Logs broken on purpose, each in one place, to show that the seeds would find it."""

from __future__ import annotations

from pathlib import Path

from commitlog.commit import Commit
from commitlog.durability import Durability
from commitlog.engine import Engine
from commitlog.journal import Journal
from tests.commitlog.sim.sim_disk import SimStorage
from tests.commitlog.sim.sim_lives import Breakage


class AckBeforeSyncJournal(Journal):
    """Says that an entry is durable when it is written, and syncs it together with the next one."""

    def write(self, body: bytes, *, sync: bool = True) -> tuple[int, int]:
        if sync:
            self.sync()
        return super().write(body, sync=False)


class NoDirectorySync(SimStorage):
    """Forgets that a name is durable only when its directory has been synced."""

    def sync_dir(self, path: Path) -> None:
        self._dir(path)


class ShownBeforeSync(Engine):
    """Writes a flush to segments, and shows it to readers, while its last commit is still on the way to the disk."""

    def _take(self, asked: Durability) -> Commit:
        commit = super()._take(asked)
        flush, commit.flush = commit.flush, None
        if flush is not None:
            self.flusher.submit(flush, commit.after_flush)
        return commit


BROKEN = {
    "ack before fsync": Breakage(patches={"commitlog.recovery.Journal": AckBeforeSyncJournal}),
    "no directory fsync": Breakage(storage_class=NoDirectorySync),
    "watermark before fsync": Breakage(patches={"commitlog.embedded.Engine": ShownBeforeSync}),
}
