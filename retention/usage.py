"""What is in use on the disk: the file system, the lake, and what of the log is no segment. Blocks: for a thread."""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SETTLED_NS: Final = 2_000_000_000  # file systems' clocks tick in steps of up to two seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """One look. `log_other_bytes`: journal, reserve, tables, everything of the log but its topics."""

    total_bytes: int
    free_bytes: int
    lake_bytes: int
    log_other_bytes: int


class FolderSizes:
    """What the files below a directory take. A folder is looked into again only when something in it came or went.

    Right for a lake, whose files never change once they have their names. Folders whose names begin with a dot, where
    files grow, are looked into every time, and so are those that have changed just now: the next change may be too
    soon to show in the folder's time.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, tuple[int, int]] = {}  # modified at (ns), bytes of its own files

    def total_bytes(self) -> int:
        """The sum, as of now. What vanishes meanwhile is left out. Raises OSError."""
        folders: dict[str, tuple[int, int]] = {}
        total = 0
        now_ns = time.time_ns()
        waiting = [str(self._root)]
        while waiting:
            path = waiting.pop()
            try:
                modified_ns = os.stat(path).st_mtime_ns  # noqa: PTH116 - thousands of them: no Path for each
                own_bytes, inner = self._look_into(path, self._folders.get(path), modified_ns)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if now_ns - modified_ns > _SETTLED_NS and not path.rpartition(os.sep)[2].startswith("."):
                folders[path] = (modified_ns, own_bytes)
            total += own_bytes
            waiting += inner
        self._folders = folders
        return total

    def _look_into(self, path: str, known: tuple[int, int] | None, modified_ns: int) -> tuple[int, list[str]]:
        unchanged = known is not None and known[0] == modified_ns
        own_bytes, inner = (known[1] if unchanged and known is not None else 0), []
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    inner.append(entry.path)
                elif not unchanged:
                    with suppress(FileNotFoundError):
                        own_bytes += _regular_bytes(entry)
        return own_bytes, inner


def _regular_bytes(entry: os.DirEntry[str]) -> int:
    found = entry.stat(follow_symlinks=False)
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


class UsageMeter:
    """Looks at a data directory's disk."""

    def __init__(self, log_dir: Path, lake_dir: Path, tables_dir: Path) -> None:
        self._log_dir = log_dir
        self._tables_dir = tables_dir
        self._lake = FolderSizes(lake_dir)
        self._lake_bytes = 0

    def look(self, *, walk: bool) -> Usage:
        """As of now; the lake as it was at the last look with `walk`, which takes a while. Raises OSError."""
        found = os.statvfs(self._log_dir)
        if walk:
            self._lake_bytes = self._lake.total_bytes()
        return Usage(
            total_bytes=found.f_blocks * found.f_frsize,
            free_bytes=found.f_bavail * found.f_frsize,
            lake_bytes=self._lake_bytes,
            log_other_bytes=_own_bytes(self._log_dir) + _own_bytes(self._tables_dir),
        )


def _own_bytes(directory: Path) -> int:
    """What the files right in a directory take; 0 where it is absent."""
    total = 0
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                total += _regular_bytes(entry)
    return total
