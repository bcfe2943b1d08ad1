"""A `Storage` whose writes outlive a full disk.

Every write names its position, so it can be done again after it found no space, whatever part of it had been written:
the next try writes over it, and readers never look beyond the high watermark. Syncs are not retried (a failed one says
that written data may be gone), nor are the journal's writes: what follows a failed one is decided by the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from commitlog.replay import JOURNAL_NAME
from commitlog.space import Space
from commitlog.storage import Bytes, Storage, StorageFile

_NEVER_RETRIED: Final = JOURNAL_NAME


class PatientFile:
    """A file whose writes wait for space."""

    __slots__ = ("_file", "_space")

    def __init__(self, file: StorageFile, space: Space) -> None:
        self._file = file
        self._space = space

    def read(self, size: int, position: int) -> bytes:
        """See `StorageFile.read`."""
        return self._file.read(size, position)

    def write(self, data: Bytes, position: int) -> None:
        """See `StorageFile.write`; waits for space."""
        self._space.retried(lambda: self._file.write(data, position))

    def sync(self) -> None:
        """See `StorageFile.sync`."""
        self._file.sync()

    def size(self) -> int:
        """See `StorageFile.size`."""
        return self._file.size()

    def truncate(self, size: int) -> None:
        """See `StorageFile.truncate`."""
        self._file.truncate(size)

    def allocate(self, size: int) -> None:
        """See `StorageFile.allocate`."""
        self._file.allocate(size)

    def close(self) -> None:
        """See `StorageFile.close`."""
        self._file.close()


class PatientStorage:
    """`Storage` for recovery and the thread that writes segments."""

    def __init__(self, storage: Storage, space: Space) -> None:
        self._storage = storage
        self._space = space

    def open(self, path: Path, *, create: bool = False) -> StorageFile:
        """See `Storage.open`."""
        if path.name == _NEVER_RETRIED:
            return self._storage.open(path, create=create)
        return PatientFile(self._space.retried(lambda: self._storage.open(path, create=create)), self._space)

    def open_read(self, path: Path) -> StorageFile:
        """See `Storage.open_read`."""
        return self._storage.open_read(path)

    def names(self, path: Path) -> Sequence[str]:
        """See `Storage.names`."""
        return self._storage.names(path)

    def sizes(self, path: Path) -> Mapping[str, int]:
        """See `Storage.sizes`."""
        return self._storage.sizes(path)

    def make_dir(self, path: Path) -> None:
        """See `Storage.make_dir`; waits for space."""
        self._space.retried(lambda: self._storage.make_dir(path))

    def rename(self, source: Path, target: Path) -> None:
        """See `Storage.rename`; waits for space (a directory may have to grow)."""
        self._space.retried(lambda: self._storage.rename(source, target))

    def remove(self, path: Path) -> None:
        """See `Storage.remove`."""
        self._storage.remove(path)

    def sync_dir(self, path: Path) -> None:
        """See `Storage.sync_dir`."""
        self._storage.sync_dir(path)

    def free_bytes(self, path: Path) -> int:
        """See `Storage.free_bytes`."""
        return self._storage.free_bytes(path)

    def inode(self, path: Path) -> int:
        """See `Storage.inode`."""
        return self._storage.inode(path)
