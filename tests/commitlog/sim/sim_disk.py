"""A disk that keeps only what it was made to keep.

`SimDisk` is the medium: of every file what is durable and what was written since, of every directory which names are
durable and which were made, replaced or removed since. `SimStorage` is one process's view of it, behind
`commitlog.storage.Storage`: each call asks `gate` first, which may let other workers run, fail the call, or end the
process before, in the middle of, or after it.

What a power cut leaves is drawn independently for every write since the file's last sync, down to sectors, and for
every change of a name since the directory's last sync. A rename is one change of names; its file's bytes are another
matter. A failed sync leaves its writes readable and never writes them again (Linux does so): until the process or
its successor writes them anew, a later sync that succeeds says nothing of them.
"""

from __future__ import annotations

import errno
import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TypeVar

from commitlog.storage import Bytes

SECTOR_BYTES = 512
FREE_BYTES = 1 << 40  # what a disk without a limit says of itself
T = TypeVar("T")


class CrashError(BaseException):
    """The process ends here. Not an `Exception`: no code of the log may catch it."""


class Loss(Enum):
    """What a power cut leaves of what was not synced."""

    ALL = "all is lost"
    SOME = "some is lost"
    NONE = "nothing is lost"


class Stop(Enum):
    """Where in a call the process ends."""

    BEFORE = "before"
    MIDDLE = "in the middle"
    AFTER = "after"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What happens to one call."""

    error: int = 0
    stop: Stop | None = None


GO = Fate()
Gate = Callable[[str, Path], Fate]


@dataclass(frozen=True, slots=True)
class _Write:
    """Bytes at a position; `data` None: a truncation to `position`."""

    position: int
    data: bytes | None

    def apply(self, content: bytearray) -> None:
        end = self.position if self.data is None else self.position + len(self.data)
        if len(content) < end:
            content.extend(bytes(end - len(content)))
        if self.data is None:
            del content[self.position :]
        else:
            content[self.position : end] = self.data

    def torn(self, rng: random.Random) -> list[_Write]:
        """Any subset of the sectors that it touches."""
        if self.data is None:
            return [self] if rng.random() < 0.5 else []
        first = SECTOR_BYTES - self.position % SECTOR_BYTES
        edges = [0, *range(first, len(self.data), SECTOR_BYTES), len(self.data)]
        pieces = itertools.pairwise(edges)
        return [_Write(self.position + a, self.data[a:b]) for a, b in pieces if rng.random() < 0.5]


@dataclass(eq=False, slots=True)
class _File:
    now: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    pending: list[_Write] = field(default_factory=list)

    def write(self, position: int, data: bytes | None) -> None:
        one = _Write(position, data)
        one.apply(self.now)
        self.pending.append(one)

    def sync(self) -> None:
        for one in self.pending:
            one.apply(self.durable)
        self.pending.clear()

    def lose(self, loss: Loss, rng: random.Random) -> None:
        """Only what is durable, and what happened to be written out, is left of what is pending."""
        for one in self.pending:
            if loss is Loss.NONE or (loss is Loss.SOME and rng.random() < 0.4):
                one.apply(self.durable)
            elif loss is Loss.SOME and rng.random() < 0.6:
                for piece in one.torn(rng):
                    piece.apply(self.durable)
        self.pending.clear()

    def cut(self, loss: Loss, rng: random.Random) -> None:
        self.lose(loss, rng)
        self.now = bytearray(self.durable)


@dataclass(frozen=True, slots=True)
class _Names:
    """One change of a directory: a name gone, a name set, or both at once (a rename)."""

    removed: str | None
    added: tuple[str, _File | _Dir] | None

    def apply(self, names: dict[str, _File | _Dir]) -> None:
        if self.removed is not None:
            names.pop(self.removed, None)
        if self.added is not None:
            names[self.added[0]] = self.added[1]


@dataclass(eq=False, slots=True)
class _Dir:
    now: dict[str, _File | _Dir] = field(default_factory=dict)
    durable: dict[str, _File | _Dir] = field(default_factory=dict)
    pending: list[_Names] = field(default_factory=list)

    def change(self, removed: str | None, added: tuple[str, _File | _Dir] | None) -> None:
        one = _Names(removed, added)
        one.apply(self.now)
        self.pending.append(one)

    def size_bytes(self) -> int:
        return sum(len(one.now) if isinstance(one, _File) else one.size_bytes() for one in self.now.values())

    def sync(self) -> None:
        for one in self.pending:
            one.apply(self.durable)
        self.pending.clear()

    def cut(self, loss: Loss, rng: random.Random) -> None:
        for one in self.pending:
            if loss is Loss.NONE or (loss is Loss.SOME and rng.random() < 0.5):
                one.apply(self.durable)
        self.pending.clear()
        self.now = dict(self.durable)
        for name in sorted(self.now):
            self.now[name].cut(loss, rng)


class SimDisk:
    """The medium; `root` is the data directory, which is durable."""

    def __init__(self, root: Path) -> None:
        self.capacity: Callable[[], float] = lambda: math.inf
        """How many bytes its files may have in all, now; whoever shares the disk may fill it and make room again."""
        self._root = root
        self._dir = _Dir()
        self._numbers: dict[_File, int] = {}

    def used(self) -> int:
        """Bytes of all files that have a name."""
        return self._dir.size_bytes()

    def free(self) -> int:
        """Bytes that files may still grow by."""
        capacity = self.capacity()
        return FREE_BYTES if capacity == math.inf else max(0, int(capacity) - self.used())

    def room_for(self, have: int, want: int, path: Path) -> None:
        """Raise OSError when a file cannot grow from one size to another."""
        if want > have and want - have > self.free():
            raise OSError(errno.ENOSPC, "the disk is full", str(path))

    def number(self, path: Path) -> int:
        """The file's inode number; 0 for an absent one."""
        parent = self.dir(path.parent)
        if parent is None or path.name not in parent.now:
            return 0
        return self._numbers.setdefault(self.file(path), len(self._numbers) + 1)

    def power_cut(self, loss: Loss, rng: random.Random) -> None:
        """Forget what was not synced. (When only a process is killed, the page cache outlives it: nothing happens.)"""
        self._dir.cut(loss, rng)

    def content(self, path: Path) -> bytearray:
        """A file's bytes as they are read, to look at or to damage; durable as they are afterwards."""
        file = self.file(path)
        file.sync()
        file.now = file.durable
        return file.durable

    def dir(self, path: Path) -> _Dir | None:
        """The directory at a path, if there is one."""
        node: _File | _Dir | None = self._dir
        for part in path.parts[len(self._root.parts) :]:
            node = node.now.get(part) if isinstance(node, _Dir) else None
        return node if isinstance(node, _Dir) else None

    def file(self, path: Path) -> _File:
        """The file at a path. Raises FileNotFoundError."""
        parent = self.dir(path.parent)
        node = parent.now.get(path.name) if parent is not None else None
        if not isinstance(node, _File):
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return node


def calm(_operation: str, _path: Path) -> Fate:
    """The gate of a process to which nothing happens."""
    return GO


class SimStorage:
    """`Storage`: what one process does with the disk. When it has ended, every call raises `CrashError`."""

    def __init__(self, disk: SimDisk, rng: random.Random, gate: Gate = calm) -> None:
        self.ended = False
        self._disk = disk
        self._rng = rng
        self._gate = gate

    def open(self, path: Path, *, create: bool = False) -> SimFile:
        def act() -> SimFile:
            parent = self._parent(path)
            if create and path.name not in parent.now:
                self._disk.room_for(0, 1, path)
                parent.change(None, (path.name, _File()))
            return SimFile(self, path, self._disk.file(path))

        return self.call("create" if create else "open", path, act)

    def open_read(self, path: Path) -> SimFile:
        return self.call("open", path, lambda: SimFile(self, path, self._disk.file(path)))

    def names(self, path: Path) -> Sequence[str]:
        def act() -> Sequence[str]:
            found = self._disk.dir(path)
            return sorted(found.now) if found is not None else ()

        return self.call("names", path, act)

    def sizes(self, path: Path) -> Mapping[str, int]:
        def act() -> Mapping[str, int]:
            found = self._disk.dir(path)
            files = found.now.items() if found is not None else ()
            return {name: len(one.now) for name, one in files if isinstance(one, _File)}

        return self.call("sizes", path, act)

    def make_dir(self, path: Path) -> None:
        def act() -> None:
            for one in (*reversed(path.parents), path):
                parent = self._disk.dir(one.parent)
                if parent is not None and self._disk.dir(one) is None:
                    parent.change(None, (one.name, _Dir()))

        self.call("make_dir", path, act)

    def rename(self, source: Path, target: Path) -> None:
        def act() -> None:
            assert source.parent == target.parent, "a rename over directories is two changes that a crash can part"
            self._parent(target).change(source.name, (target.name, self._disk.file(source)))

        self.call("rename", target, act)

    def remove(self, path: Path) -> None:
        def act() -> None:
            parent = self._parent(path)
            if path.name in parent.now:
                parent.change(path.name, None)

        self.call("remove", path, act)

    def sync_dir(self, path: Path) -> None:
        self.call("sync_dir", path, lambda: self._dir(path).sync())

    def free_bytes(self, path: Path) -> int:
        return self.call("free_bytes", path, self._disk.free)

    def room(self) -> int:
        """Bytes that files may still grow by."""
        return self._disk.free()

    def grow(self, path: Path, have: int, want: int) -> None:
        """Raise OSError when there is no room for a file to grow by that much."""
        self._disk.room_for(have, want, path)

    def inode(self, path: Path) -> int:
        return self.call("inode", path, lambda: self._disk.number(path))

    def call(self, operation: str, path: Path, act: Callable[[], T], half: Callable[[], None] | None = None) -> T:
        """Carry out one call as its fate has it; `half` is what is done of it when it ends in the middle."""
        if self.ended:
            raise CrashError
        fate = self._gate(operation, path)
        if self.ended:
            raise CrashError  # another worker met its end while this one was kept waiting
        if half is not None and (fate.stop is Stop.MIDDLE or fate.error):
            half()
        if fate.error:
            raise OSError(fate.error, "as the seed has it", str(path))
        if fate.stop in (Stop.BEFORE, Stop.MIDDLE):
            self.end()
        result = act()
        if fate.stop is Stop.AFTER:
            self.end()
        return result

    def end(self) -> None:
        """The process has ended."""
        self.ended = True
        raise CrashError

    @property
    def rng(self) -> random.Random:
        return self._rng

    def _dir(self, path: Path) -> _Dir:
        found = self._disk.dir(path)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "no such directory", str(path))
        return found

    def _parent(self, path: Path) -> _Dir:
        return self._dir(path.parent)


class SimFile:
    """`StorageFile`."""

    def __init__(self, storage: SimStorage, path: Path, file: _File) -> None:
        self._storage = storage
        self._path = path
        self._file = file

    def read(self, size: int, position: int) -> bytes:
        return self._storage.call("read", self._path, lambda: bytes(self._file.now[position : position + size]))

    def write(self, data: Bytes, position: int) -> None:
        kept = bytes(data)
        part = kept[: self._storage.rng.randrange(len(kept) + 1)] if kept else b""

        def act() -> None:
            try:
                self._storage.grow(self._path, len(self._file.now), position + len(kept))
            except OSError:
                self._write_into(position, kept)
                raise
            self._file.write(position, kept)

        self._storage.call("write", self._path, act, lambda: self._write_into(position, part))

    def _write_into(self, position: int, data: bytes) -> None:
        """Write as much as there is room for, which is what a disk does that becomes full in the midst of it."""
        have = len(self._file.now)
        room = max(have, min(position + len(data), have + self._storage.room())) - position
        if room > 0:
            self._file.write(position, data[:room])

    def sync(self) -> None:
        rng = self._storage.rng
        self._storage.call("sync", self._path, self._file.sync, lambda: self._file.lose(Loss.SOME, rng))

    def size(self) -> int:
        return self._storage.call("size", self._path, lambda: len(self._file.now))

    def truncate(self, size: int) -> None:
        def act() -> None:
            if size != len(self._file.now):
                self._file.write(size, None)

        self._storage.call("truncate", self._path, act)

    def allocate(self, size: int) -> None:
        def act() -> None:
            have = len(self._file.now)
            if size > have:
                self._storage.grow(self._path, have, size)
                self._file.write(have, bytes(size - have))

        self._storage.call("allocate", self._path, act)

    def close(self) -> None:
        return
