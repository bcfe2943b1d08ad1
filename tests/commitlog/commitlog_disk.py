"""A disk in memory behind `Storage`: it can stop at any call, and lose what was not synced.

Two ways to die. `revive(power_cut=None)`: the process was killed; the page cache, so everything written, is kept.
`revive(power_cut=rng)`: what was not synced may be lost: of each file's writes since its last sync any subset
survives, the last of them possibly torn at a sector; of the names made, renamed and removed since the last `sync_dir`
of their directory a prefix survives.
"""

from __future__ import annotations

import errno
import itertools
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from commitlog.storage import Bytes

SECTOR_BYTES = 512
_numbers = itertools.count(1)


class _Inode:
    def __init__(self) -> None:
        self.number = next(_numbers)
        self.now = bytearray()
        self.durable = bytearray()
        self.allocated = 0
        self.pending: list[tuple[int, bytes | None]] = []  # (position, data), or (size, None) for a truncation

    def apply(self, position: int, data: bytes | None) -> None:
        _apply(self.now, position, data)
        self.pending.append((position, data))

    def sync(self) -> None:
        for position, data in self.pending:
            _apply(self.durable, position, data)
        self.pending.clear()

    def lose(self, rng: random.Random) -> None:
        for position, data in self.pending:
            if rng.random() < 0.5:
                continue
            if data is not None and rng.random() < 0.3:
                data = data[: rng.randrange(len(data) + 1) // SECTOR_BYTES * SECTOR_BYTES]
            _apply(self.durable, position, data)
        self.pending.clear()
        self.now = bytearray(self.durable)


def _apply(content: bytearray, position: int, data: bytes | None) -> None:
    size = position if data is None else position + len(data)
    if len(content) < size:
        content.extend(bytes(size - len(content)))
    if data is None:
        del content[position:]
    else:
        content[position:size] = data


class DiskStoppedError(OSError):
    """The disk took no more calls."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "the disk has stopped")


class MemoryDisk:
    """`Storage`. `before(operation, path)` is called under the lock before each call, and may raise OSError."""

    def __init__(self) -> None:
        self.before: Callable[[str, Path], None] | None = None
        self.capacity_bytes: int | None = None
        """Room on the disk; a write that would need more is torn and finds no space."""
        self.calls = 0
        self.stop_at: int | None = None
        """The number of the call that fails, as do all after it until `revive`; a write is torn there."""
        self._lock = threading.RLock()
        self._life = 0
        self._names: dict[Path, _Inode] = {}
        self._durable_names: dict[Path, _Inode] = {}
        self._pending_names: list[tuple[Path, _Inode | None]] = []
        self._dirs: set[Path] = set()

    # -- dying

    def revive(self, *, power_cut: random.Random | None = None) -> None:
        """Start again with what survived; handles of the life before are dead."""
        with self._lock:
            self._life += 1
            self.stop_at = None
            if power_cut is None:
                return
            for path, inode in self._pending_names[: power_cut.randint(0, len(self._pending_names))]:
                _name(self._durable_names, path, inode)
            self._pending_names.clear()
            self._names = dict(self._durable_names)
            for inode in {id(inode): inode for inode in self._names.values()}.values():
                inode.lose(power_cut)

    def free_bytes(self, path: Path) -> int:
        with self._lock:
            self.step("free_bytes", path)
            if self.capacity_bytes is None:
                return 1 << 50
            inodes = {id(inode): inode for inode in self._names.values()}.values()
            return max(0, self.capacity_bytes - sum(max(len(inode.now), inode.allocated) for inode in inodes))

    def take_room(self, inode: _Inode, end: int) -> int:
        """How much of a file that is to reach `end` there is room for."""
        have = max(len(inode.now), inode.allocated)
        if self.capacity_bytes is None or end <= have:
            return end
        return min(end, have + self.free_bytes(Path()))

    def content(self, path: Path) -> bytearray:
        """A file's bytes, to look at or to damage."""
        return self._names[path].now

    def step(self, operation: str, path: Path, life: int | None = None) -> None:
        self.calls += 1
        if (life is not None and life != self._life) or (self.stop_at is not None and self.calls >= self.stop_at):
            raise DiskStoppedError
        if self.before is not None:
            self.before(operation, path)

    # -- Storage

    def open(self, path: Path, *, create: bool = False) -> MemoryFile:
        with self._lock:
            self.step("open", path)
            if path not in self._names:
                if not create:
                    raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
                self._rename_to(path, _Inode())
            return MemoryFile(self, self._lock, path, self._names[path], self._life)

    def open_read(self, path: Path) -> MemoryFile:
        return self.open(path)

    def names(self, path: Path) -> Sequence[str]:
        with self._lock:
            self.step("names", path)
            return sorted({one.name for one in (*self._names, *self._dirs) if one.parent == path})

    def sizes(self, path: Path) -> Mapping[str, int]:
        with self._lock:
            self.step("sizes", path)
            return {one.name: len(inode.now) for one, inode in self._names.items() if one.parent == path}

    def make_dir(self, path: Path) -> None:
        """Directories are durable at once: what the log needs of them is tested on their contents."""
        with self._lock:
            self.step("make_dir", path)
            self._dirs.update((path, *path.parents))

    def rename(self, source: Path, target: Path) -> None:
        with self._lock:
            self.step("rename", target)
            inode = self._names[source]
            self._rename_to(source, None)
            self._rename_to(target, inode)

    def remove(self, path: Path) -> None:
        with self._lock:
            self.step("remove", path)
            if path in self._names:
                self._rename_to(path, None)

    def sync_dir(self, path: Path) -> None:
        with self._lock:
            self.step("sync_dir", path)
            for name, inode in self._pending_names:
                if name.parent == path:
                    _name(self._durable_names, name, inode)
            self._pending_names = [pair for pair in self._pending_names if pair[0].parent != path]

    def inode(self, path: Path) -> int:
        with self._lock:
            self.step("inode", path)
            inode = self._names.get(path)
            return 0 if inode is None else inode.number

    def _rename_to(self, path: Path, inode: _Inode | None) -> None:
        _name(self._names, path, inode)
        self._pending_names.append((path, inode))


def _name(names: dict[Path, _Inode], path: Path, inode: _Inode | None) -> None:
    if inode is None:
        names.pop(path, None)
    else:
        names[path] = inode


class MemoryFile:
    """`StorageFile`."""

    def __init__(self, disk: MemoryDisk, lock: threading.RLock, path: Path, inode: _Inode, life: int) -> None:
        self._disk = disk
        self._lock = lock
        self._path = path
        self._inode = inode
        self._life = life

    def read(self, size: int, position: int) -> bytes:
        with self._lock:
            self._disk.step("read", self._path, self._life)
            return bytes(self._inode.now[position : position + size])

    def write(self, data: Bytes, position: int) -> None:
        with self._lock:
            try:
                self._disk.step("write", self._path, self._life)
            except DiskStoppedError:
                if self._disk.calls == self._disk.stop_at:  # the kill came in the middle of this write
                    self._inode.apply(position, bytes(data[: len(data) // 2]))
                raise
            room = self._disk.take_room(self._inode, position + len(data)) - position
            self._inode.apply(position, bytes(data[: max(0, room)]))
            if room < len(data):
                raise OSError(errno.ENOSPC, "no space left on device", str(self._path))

    def sync(self) -> None:
        with self._lock:
            self._disk.step("sync", self._path, self._life)
            self._inode.sync()

    def size(self) -> int:
        with self._lock:
            self._disk.step("size", self._path, self._life)
            return len(self._inode.now)

    def truncate(self, size: int) -> None:
        with self._lock:
            self._disk.step("truncate", self._path, self._life)
            if size != len(self._inode.now):
                self._inode.apply(size, None)

    def allocate(self, size: int) -> None:
        """Not written out: a reserve may be large. It survives what a written file would survive."""
        with self._lock:
            self._disk.step("allocate", self._path, self._life)
            if self._disk.take_room(self._inode, size) < size:
                raise OSError(errno.ENOSPC, "no space left on device", str(self._path))
            self._inode.allocated = max(self._inode.allocated, size)

    def close(self) -> None:
        return
