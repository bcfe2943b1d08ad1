"""Free space as a state: a full disk is waited for, never a crash.

    has room --less than the mark is free, or a write found no space--> full
    full --mark and reserve are free at once, and the reserve stands again--> has room

While the disk is full nobody's readings are accepted, but what was accepted before has to be finished, and the box's
own small changes (device events, windows, checkpoints of sinks) go on. That takes two things besides the journal, whose
room is allocated from the start:

* the *mark*: bytes that new readings may not take. Exports and whatever else lives on the disk go on in them.
* the *reserve*: an allocated file, `<data>/log/reserve`, that nobody else can take. It is given up at the first write
  that finds no space, so that recovery, the flush of what the journal holds, and a checkpoint succeed.

When the reserve is used up too, the writer waits, looking once a second: nothing is lost by waiting, because the
journal holds everything acknowledged. A failed *sync* is another matter: nobody knows then what is on disk, and the log
fails.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import structlog

from commitlog.storage import Storage
from core.threads import Latch, SystemThreads

T = TypeVar("T")

RESERVE_NAME: Final = "reserve"
FULL_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
WAIT_S: Final = 1.0  # between looks while a write waits for space
START_BYTES: Final = 256 << 10  # small files of a start: watermark map, ports, a checkpoint
_TELL_EVERY: Final = 30  # looks between two log lines while waiting
_log = structlog.get_logger("headrace.space")


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskState:
    """What the last look found. `needed_bytes` have to be free before readings are accepted again."""

    full: bool
    free_bytes: int
    needed_bytes: int
    reserve_bytes: int


class Reserve:
    """The file that keeps space for the log. Used by one thread at a time."""

    def __init__(self, storage: Storage, log_dir: Path, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._storage = storage
        self._path = log_dir / RESERVE_NAME
        self._held = False

    @property
    def held_bytes(self) -> int:
        """What it keeps now."""
        return self.size_bytes if self._held else 0

    def make(self) -> bool:
        """Have it stand, every byte allocated; False when there is no room. Raises OSError for anything else."""
        if self._held or not self.size_bytes:
            return True
        try:
            file = self._storage.open(self._path, create=True)
            try:
                if file.size() > self.size_bytes:
                    file.truncate(self.size_bytes)
                file.allocate(self.size_bytes)
                file.sync()
            finally:
                file.close()
        except OSError as error:
            if error.errno not in FULL_ERRNOS:
                raise
            self.release()
            return False
        self._held = True
        return True

    def release(self) -> bool:
        """Give its space away; False if there was nothing to give."""
        stood = self._path.name in self._storage.names(self._path.parent)
        self._storage.remove(self._path)
        self._storage.sync_dir(self._path.parent)
        self._held = False
        return stood


class Space:
    """Looks at the disk, keeps the reserve, and lets writes wait for room.

    Everything but `give_up` and `state` is for the thread that writes: recovery's, then the segment writer's.
    """

    def __init__(
        self,
        storage: Storage,
        log_dir: Path,
        *,
        reserve_bytes: int,
        mark_bytes: int,
        gave_up: Latch | None = None,
    ) -> None:
        """`gave_up`: what a write that waits for room blocks on, between looks."""
        self.on_change: Callable[[DiskState], None] | None = None
        """Called in the writing thread when the disk became full or has room again."""
        self.on_wait: Callable[[], None] | None = None
        """Called in the writing thread when a write waits although the reserve is used up; once."""
        self._storage = storage
        self._log_dir = log_dir
        self._reserve = Reserve(storage, log_dir, reserve_bytes)
        self._mark_bytes = mark_bytes
        self._gave_up = gave_up or SystemThreads().latch()
        self.state = self._state(full=False, free_bytes=0)

    def look(self) -> DiskState:
        """Look how much is free, and change the state where it is time. Raises OSError when the disk does not say."""
        free_bytes = self._storage.free_bytes(self._log_dir)
        if self.state.full or not self._reserve.held_bytes:
            room = free_bytes >= self._mark_bytes + self._reserve.size_bytes - self._counted_bytes()
            room = room and self._reserve.make()
        else:
            room = free_bytes >= self._mark_bytes
        self._become(full=not room, free_bytes=self._storage.free_bytes(self._log_dir))
        return self.state

    def ensure_start(self) -> None:
        """Wait until a start's small files have room, giving the reserve away for them."""
        self.retried(self._check_start)

    def retried(self, work: Callable[[], T], *, wait: bool = True) -> T:
        """`work()`, again as long as it finds no space: at once after giving the reserve away, then when there is room.

        `work` must be right to repeat after any part of it. Without `wait`, and after `give_up`, its OSError is raised
        once the reserve has not helped.
        """
        looks = 0
        while True:
            try:
                return work()
            except OSError as error:
                if error.errno not in FULL_ERRNOS:
                    raise
                self._become(full=True, free_bytes=self._storage.free_bytes(self._log_dir))
                if self._reserve.release():
                    _log.warning("the reserve is in use", what=str(error), freed_bytes=self._reserve.size_bytes)
                    continue
                if not wait:
                    raise
                self._tell_waiting(looks, error)
                looks += 1
                if self._gave_up.wait(WAIT_S):
                    raise
                self.look()

    def give_up(self) -> None:
        """Let no write wait any longer: the log is closing or has failed. What is not written stays in the journal."""
        self._gave_up.set()

    def _check_start(self) -> None:
        free_bytes = self._storage.free_bytes(self._log_dir)
        if free_bytes < START_BYTES:
            raise OSError(errno.ENOSPC, f"only {free_bytes} bytes are free", str(self._log_dir))

    def _counted_bytes(self) -> int:
        """A reserve that stands already need not be free as well before the first look of a start."""
        return 0 if self.state.full else self._standing_bytes()

    def _standing_bytes(self) -> int:
        return self._reserve.size_bytes if RESERVE_NAME in self._storage.names(self._log_dir) else 0

    def _become(self, *, full: bool, free_bytes: int) -> None:
        was_full = self.state.full
        self.state = self._state(full=full, free_bytes=free_bytes)
        if full == was_full:
            return
        if full:
            _log.error(
                "disk full: readings are refused until there is room",
                what=f"{free_bytes >> 20} MB are free, {self.state.needed_bytes >> 20} MB have to be",
                where=str(self._log_dir),
                mend="free some space: everything goes on by itself",
            )
        else:
            _log.info("the disk has room again: readings are accepted", free_bytes=free_bytes)
        if self.on_change is not None:
            self.on_change(self.state)

    def _state(self, *, full: bool, free_bytes: int) -> DiskState:
        return DiskState(
            full=full,
            free_bytes=free_bytes,
            needed_bytes=self._mark_bytes + self._reserve.size_bytes,
            reserve_bytes=self._reserve.held_bytes,
        )

    def _tell_waiting(self, looks: int, error: OSError) -> None:
        if looks % _TELL_EVERY == 0:
            _log.error(
                "no space at all: a write of the log waits; what was acknowledged stands in the journal",
                what=str(error),
                where=str(self._log_dir),
                mend="free some space: it goes on by itself",
            )
        if self.on_wait is not None:
            self.on_wait()
            self.on_wait = None
