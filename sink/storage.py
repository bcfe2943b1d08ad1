"""The few file operations a sink needs, each durable when it returns.

A parameter of the sink: tests hand in one that fails, or dies, at any of its calls.
"""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

SYNC_BYTES: Final = 4 << 20  # some ten milliseconds of a hard disk's time


class SteadilySynced(io.BufferedWriter):
    """A new file that is synced every `SYNC_BYTES`.

    One sync of a hundred megabytes at the end would keep the disk busy for seconds, and with it every acknowledgement
    that waits for the journal.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "wb"), buffer_size=1 << 18)
        self._unsynced = 0

    def write(self, data: Any, /) -> int:
        """Write, and sync what has come together."""
        written = super().write(data)
        self._unsynced += written
        if self._unsynced >= SYNC_BYTES:
            self._unsynced = 0
            self.flush()
            os.fdatasync(self.fileno())
        return written


class Storage:
    """Files of the operating system."""

    def make_dirs(self, path: Path) -> None:
        """Make a directory and its parents, each entered durably into its own parent."""
        missing = []
        while not path.is_dir():
            missing.append(path)
            path = path.parent
        for directory in reversed(missing):
            directory.mkdir(exist_ok=True)
            self.sync_dir(directory.parent)

    @contextmanager
    def create(self, path: Path) -> Iterator[BinaryIO]:
        """A new file to be written front to back; synced when the block ends without an error."""
        with SteadilySynced(path) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())

    def rename(self, source: Path, target: Path) -> None:
        """Move a file within one file system and sync the directory it went to."""
        source.rename(target)
        self.sync_dir(target.parent)

    def remove(self, path: Path) -> None:
        """Remove a file; it may be gone already. Not synced: what comes back after a power cut is removed again."""
        path.unlink(missing_ok=True)

    def sync_dir(self, path: Path) -> None:
        """Make what was entered into or removed from a directory durable."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def lock(self, path: Path) -> BinaryIO | None:
        """Take a lock that ends with the returned file, or with the process; None when another one holds it."""
        file = path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return file

    def replace_text(self, path: Path, temporary: Path, text: str) -> None:
        """Write a whole small file through `temporary`, so that a reader sees the old or the new one."""
        with self.create(temporary) as file:
            file.write(text.encode())
        self.rename(temporary, path)
