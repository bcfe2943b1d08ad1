"""The file system as a parameter.

The log touches the disk only through `Storage`, so that tests can hand it one that fails, tears or forgets. The rules
that callers keep: a file's contents are durable after `sync`, a file's name after `sync_dir` of its directory, a
rename replaces atomically. Nothing is retried here; an OSError passes through to whoever knows what it means.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

Bytes = bytes | bytearray | memoryview


class StorageFile(Protocol):
    """An open file, read and written at positions."""

    def read(self, size: int, position: int) -> bytes:
        """Up to `size` bytes at `position`; shorter only at the end of the file."""
        ...

    def write(self, data: Bytes, position: int) -> None:
        """Write all of `data` at `position`."""
        ...

    def sync(self) -> None:
        """Make what was written durable (fdatasync)."""
        ...

    def size(self) -> int:
        """Length in bytes."""
        ...

    def truncate(self, size: int) -> None:
        """Cut or extend to `size` bytes."""
        ...

    def allocate(self, size: int) -> None:
        """Extend to `size` bytes that are really there, so that nobody else can take them; shorter is left as it is."""
        ...

    def close(self) -> None:
        """Release the descriptor; says nothing about durability."""
        ...


class Storage(Protocol):
    """Files and directories of one data directory."""

    def open(self, path: Path, *, create: bool = False) -> StorageFile:
        """Open for reading and writing. Raises FileNotFoundError unless `create`."""
        ...

    def open_read(self, path: Path) -> StorageFile:
        """Open for reading only."""
        ...

    def names(self, path: Path) -> Sequence[str]:
        """Sorted names in a directory; empty if it does not exist."""
        ...

    def sizes(self, path: Path) -> Mapping[str, int]:
        """Lengths in bytes of the files in a directory, by name; empty if it does not exist."""
        ...

    def make_dir(self, path: Path) -> None:
        """Make a directory and those above it; it may exist."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Rename, replacing `target`."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a file; it may be absent."""
        ...

    def sync_dir(self, path: Path) -> None:
        """Make names made, renamed or removed in a directory durable."""
        ...

    def free_bytes(self, path: Path) -> int:
        """Bytes that may still be written to the file system that `path` is on; 0 when it takes no more files."""
        ...

    def inode(self, path: Path) -> int:
        """A file's number on its file system, which a copy does not share; 0 if it is absent or has none."""
        ...


class SystemFile:
    """A file of the operating system."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, size: int, position: int) -> bytes:
        """See `StorageFile.read`."""
        data = os.pread(self._fd, size, position)
        while data and len(data) < size:
            more = os.pread(self._fd, size - len(data), position + len(data))
            if not more:
                break
            data += more
        return data

    def write(self, data: Bytes, position: int) -> None:
        """See `StorageFile.write`."""
        written = os.pwrite(self._fd, data, position)
        if written == len(data):
            return
        rest = memoryview(data)
        while written < len(rest):
            written += os.pwrite(self._fd, rest[written:], position + written)

    def sync(self) -> None:
        """See `StorageFile.sync`."""
        _fdatasync(self._fd)

    def size(self) -> int:
        """See `StorageFile.size`."""
        return os.fstat(self._fd).st_size

    def truncate(self, size: int) -> None:
        """See `StorageFile.truncate`."""
        os.ftruncate(self._fd, size)

    def allocate(self, size: int) -> None:
        """See `StorageFile.allocate`."""
        allocate(self._fd, size)

    def close(self) -> None:
        """See `StorageFile.close`."""
        os.close(self._fd)


class SystemStorage:
    """The operating system's file system."""

    def open(self, path: Path, *, create: bool = False) -> SystemFile:
        """See `Storage.open`."""
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        return SystemFile(os.open(path, flags, 0o640))

    def open_read(self, path: Path) -> SystemFile:
        """See `Storage.open_read`."""
        return SystemFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def names(self, path: Path) -> Sequence[str]:
        """See `Storage.names`."""
        try:
            return sorted(entry.name for entry in path.iterdir())
        except FileNotFoundError:
            return ()

    def sizes(self, path: Path) -> Mapping[str, int]:
        """See `Storage.sizes`; what is removed meanwhile is left out."""
        found = {}
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        if entry.is_file():
                            found[entry.name] = entry.stat().st_size
        except FileNotFoundError:
            return {}
        return found

    def make_dir(self, path: Path) -> None:
        """See `Storage.make_dir`."""
        path.mkdir(parents=True, exist_ok=True)

    def rename(self, source: Path, target: Path) -> None:
        """See `Storage.rename`."""
        source.replace(target)

    def remove(self, path: Path) -> None:
        """See `Storage.remove`."""
        path.unlink(missing_ok=True)

    def sync_dir(self, path: Path) -> None:
        """See `Storage.sync_dir`."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def free_bytes(self, path: Path) -> int:
        """See `Storage.free_bytes`: what is kept for root is not counted."""
        found = os.statvfs(path)
        if found.f_files and not found.f_favail:
            return 0
        return found.f_bavail * found.f_frsize

    def inode(self, path: Path) -> int:
        """See `Storage.inode`."""
        try:
            return path.stat().st_ino
        except FileNotFoundError:
            return 0


def allocate(fd: int, size: int) -> None:
    """Extend a file to `size` bytes that are really there. Raises OSError (ENOSPC) when they are not to be had."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
        return
    for at in range(os.fstat(fd).st_size, size, _ZEROS_BYTES):  # macOS
        os.pwrite(fd, bytes(min(_ZEROS_BYTES, size - at)), at)


_ZEROS_BYTES = 1 << 20

# macOS has no fdatasync in Python; fsync there does less than F_FULLFSYNC, which is good enough to develop on.
_fdatasync = getattr(os, "fdatasync", os.fsync)

LOG_DIR = "log"  # below the data directory: topics, journal, tables, checkpoint
RUN_DIR = "run"  # below the data directory: sockets and maps of the running processes
TEMPORARY_SUFFIX = ".tmp"


def write_atomically(storage: Storage, path: Path, data: bytes) -> None:
    """Replace a whole file so that after a crash it has either its old or its new contents, durably when returned."""
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    storage.remove(temporary)
    file = storage.open(temporary, create=True)
    try:
        file.write(data, 0)
        file.sync()
    finally:
        file.close()
    storage.rename(temporary, path)
    storage.sync_dir(path.parent)


def read_whole(storage: Storage, path: Path) -> bytes:
    """A small file's contents. Raises FileNotFoundError."""
    file = storage.open_read(path)
    try:
        return file.read(file.size(), 0)
    finally:
        file.close()


_PARTITION_DIR = re.compile(r"(?P<topic>[a-zA-Z0-9._-]{1,249})-(?P<partition>0|[1-9]\d{0,4})\Z")


def partition_dir_name(topic: str, partition: int) -> str:
    """`<topic>-<partition>`, as Kafka names it."""
    return f"{topic}-{partition}"


def parse_partition_dir_name(name: str) -> tuple[str, int] | None:
    """Topic and partition of a directory name, or None for something else."""
    match = _PARTITION_DIR.match(name)
    return None if match is None else (match["topic"], int(match["partition"]))
