"""Logs broken on purpose, each in one place, to show that the seeds would find it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast
from unittest.mock import patch

from commitlog.base import TopicInfo
from commitlog.behind import SegmentWriter
from commitlog.commit import Commit
from commitlog.durability import Durability
from commitlog.engine import Engine
from commitlog.intake import BatchIntake, Surroundings
from commitlog.journal import Change, Journal
from commitlog.open_commit import OpenCommit
from commitlog.replay import JOURNAL_NAME
from commitlog.space import Space
from commitlog.storage import Storage
from tests.commitlog.sim.sim_disk import SimStorage
from tests.commitlog.sim.sim_world import Breakage

LATER_S: Final = 0.002


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


class LateRows:
    """An `OpenCommit` as producers' rows find it: they come into it only a while later."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self.whole = around.open_commit.whole

    def change(self, change: Change) -> None:
        asyncio.get_running_loop().call_later(LATER_S, self._change, change)

    def _change(self, change: Change) -> None:
        self._around.open_commit.change(change)
        self._around.commits.appended(0, 0)


class RowInTheNextCommit(BatchIntake):
    """Notes what a producer has sent only after the batch is in the log."""

    def __init__(self, around: Surroundings, rows: Mapping[str, Any]) -> None:
        super().__init__(replace(around, open_commit=cast(OpenCommit, LateRows(around))), rows)


class NoNoteOfTheUnsynced(Engine):
    """Acknowledges before the sync, and no checkpoint says so."""

    def _note_unsynced(self, noted: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(noted)


class DeletesAtOnce(SegmentWriter):
    """Deletes segments before any checkpoint says that they are gone."""

    def delete_segments(self, topic: TopicInfo, before: Mapping[int, int]) -> Mapping[int, int]:
        with patch.object(self, "checkpoint", lambda: None):
            return super().delete_segments(topic, before)


def impatient(storage: Storage, _space: Space) -> Storage:
    """In the place of `PatientStorage`: a write that finds no space has failed."""
    return storage


BROKEN = {
    "ack before fsync": Breakage(patches={"commitlog.recovery.Journal": AckBeforeSyncJournal}),
    "no directory fsync": Breakage(storage_class=NoDirectorySync),
    "watermark before fsync": Breakage(
        patches={"commitlog.embedded.Engine": ShownBeforeSync}, slow=0.3, dies_syncing=JOURNAL_NAME
    ),
    "a producer's row in the next commit": Breakage(patches={"commitlog.engine.BatchIntake": RowInTheNextCommit}),
    "no note of what is unsynced": Breakage(patches={"commitlog.embedded.Engine": NoNoteOfTheUnsynced}),
    "deletion before the checkpoint": Breakage(patches={"commitlog.engine.SegmentWriter": DeletesAtOnce}),
    "a full disk is a failure": Breakage(patches={"commitlog.opening.PatientStorage": impatient}),
}
