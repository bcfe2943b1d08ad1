"""Deleting segments from the old end of a partition.

Whole segments go, never the newest one: it says where the offsets go on should the checkpoint be lost. In an order that
any crash may interrupt:

1. the new log start is made durable by a checkpoint; 2. readers are told; 3. the files are renamed to `.deleted`, and
the directory is synced; 4. at the next beat they are unlinked. A start after 1. finishes the deletion, one after 3.
removes what was renamed. A reader that has a segment open reads on; one that comes too late meets an `expired` gap.
Whether somebody still needs the records is the caller's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from commitlog.segment import DELETED_SUFFIX, SUFFIXES, base_offsets, segment_path
from commitlog.storage import Storage


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
    """Renamed files that wait to be unlinked. Used by the segment thread alone."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._waiting: list[Path] = []

    def bury(self, deletion: Deletion) -> None:
        """Take the segments out of the log, once the new log start is durable. Raises OSError."""
        names = set(self._storage.names(deletion.directory))
        for base in deletion.bases:
            for suffix in SUFFIXES:
                path = segment_path(deletion.directory, base, suffix)
                if path.name in names:
                    renamed = path.with_name(path.name + DELETED_SUFFIX)
                    self._storage.rename(path, renamed)
                    self._waiting.append(renamed)
        self._storage.sync_dir(deletion.directory)

    def sweep(self) -> None:
        """Unlink what was buried before. Raises OSError."""
        for path in self._waiting:
            self._storage.remove(path)
        self._waiting.clear()
