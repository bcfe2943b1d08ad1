"""How planned files become visible: a plan made durable, its files renamed, what cannot be carried out taken back.

What exports of windows and replays of quarantine files have in common. The steps are those of `sink.parquet.sink`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog

from sink.base import ExportedFile
from sink.parquet.plan import Plan, PlannedFile, to_json
from sink.storage import Storage

_log: Final = structlog.get_logger("headrace.sink")


class Publisher:
    """Files of one lake. Used by the sink's thread."""

    def __init__(self, lake: Path, storage: Storage) -> None:
        self.lake = lake
        self.plans = lake / ".plans"
        self.tmp = lake / ".tmp"
        self.storage = storage

    def keep(self, plan: Plan, path: Path) -> None:
        """Make a plan durable; what it names is there when it is."""
        self.storage.sync_dir(self.tmp)
        self.storage.replace_text(path, self.tmp / path.name, to_json(plan))

    def publish(self, plan: Plan) -> None:
        """Give every file of a plan its final name; what stands there stays as it is."""
        for file in plan.files:
            self._publish(file)
        self._sync_directories(plan)

    def _publish(self, file: PlannedFile) -> None:
        staged, final = self.tmp / file.staged, self.lake / file.path
        if not staged.exists():  # it is published: a plan is carried out only when each file is here or there
            return
        if final.exists():
            _log.warning(
                "a file of the lake is replaced",
                what="it bears the name of an export that is published only now, so that nothing tells what it is",
                where=str(final),
            )
        self.storage.make_dirs(final.parent)
        self.storage.rename(staged, final)

    def _sync_directories(self, plan: Plan) -> None:
        """Sync all directories up to the lake's: what is found there may be the work of a process that was killed
        before it synced them, files and folders alike.
        """
        for directory in sorted({self.lake / parent for file in plan.files for parent in Path(file.path).parents}):
            self.storage.sync_dir(directory)

    def is_at_hand(self, file: PlannedFile) -> bool:
        """Whether a file stands under its final name, or is ready to."""
        places = (self.lake / file.path, self.tmp / file.staged)
        return any(place.is_file() and place.stat().st_size == file.size_bytes for place in places)

    def take_back(self, paths: Sequence[str]) -> None:
        """Remove published files: another attempt will publish the same rows."""
        for path in paths:
            final = self.lake / path
            if final.exists():
                self.storage.remove(final)
                self.storage.sync_dir(final.parent)

    def clear(self, names: Sequence[str]) -> None:
        """Remove what a failed attempt left in `.tmp`: on a full disk it would be in its own way."""
        for name in names:
            self.storage.remove(self.tmp / name)


def exported_files(plan: Plan) -> tuple[ExportedFile, ...]:
    """A plan's files as the runner hears of them."""
    return tuple(
        ExportedFile(
            path=file.path,
            kind=file.kind,
            rows=file.rows,
            size_bytes=file.size_bytes,
            crc32c=file.crc32c,
            date=file.date,
        )
        for file in plan.files
    )
