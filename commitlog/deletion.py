"""Deleting segments from the old end of a partition.

Whole segments go, never the newest one: it says where the offsets go on should the checkpoint be lost. In an order that
any crash may interrupt:

1. the new log start is made durable by a checkpoint; 2. readers are told; 3. the files are renamed to `.deleted`, and
the directory is synced; 4. at the next beat they are unlinked. A start after 1. finishes the deletion, one after 3.
removes what was renamed. A reader that has a segment open reads on; one that comes too late meets an `expired` gap.
Whether somebody still needs the records is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final

import structlog

from commitlog.segment import DELETED_SUFFIX, SUFFIXES, base_offsets, segment_path
from commitlog.storage import Storage

_LONGEST_PAUSE_BEATS: Final = 120  # a minute
_log = structlog.get_logger("headrace.log")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion:
    """Segments that may go, and the log start after it."""

    directory: Path
    bases: Sequence[int]
    log_start: int


def plan_deletion(storage: Storage, directory: Path, before_offset: int) -> Deletion | None:
    """The segments of a partition that end before an offset; None when there are none."""
    bases = base_offsets(storage, directory)
    gone = [base for base, following in pairwise(bases) if following <= before_offset]
    return Deletion(directory=directory, bases=gone, log_start=bases[len(gone)]) if gone else None


class Graveyard:
    """Files that leave the log, until they are unlinked. Used by the segment thread alone.

    The log has started behind them since before they came here, so that a file which cannot be renamed or unlinked does
    no harm but to the space it takes: it is tried again, at growing pauses. (What syncs is never tried again.)
    """

    def __init__(self, storage: Storage) -> None:
        self.failures = 0
        """Attempts that failed."""
        self._storage = storage
        self._unburied: list[Path] = []
        self._waiting: list[Path] = []
        self._pause_beats = self._skip_beats = 0

    def bury(self, deletion: Deletion) -> None:
        """Take the segments out of the log, once the new log start is durable. Raises OSError when a sync fails."""
        names = set(self._storage.names(deletion.directory))
        for base in deletion.bases:
            for suffix in SUFFIXES:
                path = segment_path(deletion.directory, base, suffix)
                if path.name in names:
                    self._unburied.append(path)
        self._rename()
        self._storage.sync_dir(deletion.directory)

    def sweep(self) -> None:
        """Unlink what was buried before; called twice a second."""
        if self._skip_beats:
            self._skip_beats -= 1
            return
        failures = self.failures
        self._rename()
        waiting, self._waiting = self._waiting, []
        for path in waiting:
            if not self._tried(partial(self._storage.remove, path), path):
                self._waiting.append(path)
        failed = self.failures > failures
        self._pause_beats = min(max(1, 2 * self._pause_beats), _LONGEST_PAUSE_BEATS) if failed else 0
        self._skip_beats = self._pause_beats

    def _rename(self) -> None:
        unburied, self._unburied = self._unburied, []
        for path in unburied:
            renamed = path.with_name(path.name + DELETED_SUFFIX)
            if self._tried(partial(self._storage.rename, path, renamed), path):
                self._waiting.append(renamed)
            else:
                self._unburied.append(path)

    def _tried(self, work: Callable[[], None], path: Path) -> bool:
        try:
            work()
        except OSError as error:
            self.failures += 1
            _log.warning(
                "a deleted segment cannot be removed",
                what=str(error),
                where=str(path),
                mend="may its directory be written? It is tried again, and at the next start",
            )
            return False
        return True
