"""Closed windows as a reader holds them: taken from the table's snapshot, and kept up with what is added to it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from commitlog.base import ClosedWindow
from commitlog.checkpoint import read_checkpoint
from commitlog.snapshots import Rows, read_blocks
from commitlog.storage import Storage
from commitlog.tables import TABLES_DIR, unpack
from commitlog.windows import WINDOWS_TABLE, window_from_row
from core.errors import UnavailableError

_TRIES: Final = 5  # a checkpoint may replace a snapshot between reading its name and opening it


class WindowList:
    """See the module."""

    def __init__(self, storage: Storage, log_dir: Path) -> None:
        self._storage = storage
        self._log_dir = log_dir
        self._name = ""
        self._end = 0
        self._rows: dict[str, bytes] = {}
        self._windows: dict[str, list[ClosedWindow]] = {}

    def after(self, topic_id: str, number: int) -> Sequence[ClosedWindow]:
        """The windows of a topic as of the last `refresh` with a higher number, in order."""
        windows = self._windows.get(topic_id, [])
        return windows[bisect_right(windows, number, key=lambda window: window.number) :]

    def refresh(self) -> None:
        """Take over what the newest checkpoint names; only what was added since is read. Raises UnavailableError."""
        for _ in range(_TRIES):
            checkpoint = read_checkpoint(self._storage, self._log_dir)
            name = checkpoint.tables.get(WINDOWS_TABLE, "") if checkpoint else ""
            if not name:
                self._take("", [], 0)
                return
            start = self._end if name == self._name else 0
            try:
                blocks, snapshot = read_blocks(self._storage, self._log_dir / TABLES_DIR / name, start)
            except FileNotFoundError:
                continue
            self._take(name, blocks, snapshot.end)
            return
        raise UnavailableError("the windows table changes faster than it can be read", where=str(self._log_dir))

    def _take(self, name: str, blocks: Sequence[Rows], end: int) -> None:
        if name != self._name:
            self._rows.clear()
            self._windows.clear()
        self._name, self._end = name, end
        in_order = True
        for block in blocks:
            for key, value in block.items():
                in_order = self._set(key, value) and in_order
        if not in_order:
            self._sort()

    def _set(self, key: str, value: bytes | None) -> bool:
        """Whether the row simply went behind those before it: they come in order, and mostly one by one."""
        if value is None:
            self._rows.pop(key, None)
            return False
        again = key in self._rows
        self._rows[key] = value
        window = window_from_row(unpack(value))
        group = self._windows.setdefault(window.topic_id, [])
        if again or (group and group[-1].number > window.number):
            return False
        group.append(window)
        return True

    def _sort(self) -> None:
        self._windows.clear()
        for value in self._rows.values():
            window = window_from_row(unpack(value))
            self._windows.setdefault(window.topic_id, []).append(window)
        for group in self._windows.values():
            group.sort(key=lambda window: window.number)
