"""The gate in front of the simulated disk: when a call takes time, fails, is the last one, or finds the disk full."""

from __future__ import annotations

import errno
import math
import random
import zlib
from collections import deque
from pathlib import Path

from commitlog.replay import JOURNAL_NAME
from tests.commitlog.sim.sim_disk import GO, Fate, SimDisk, Stop
from tests.commitlog.sim.sim_loop import SimLoop
from tests.commitlog.sim.sim_outcome import Outcome
from tests.commitlog.sim.sim_world import Breakage

FAULTS = (errno.EIO, errno.ENOSPC)
CAN_BE_FULL = frozenset({"write", "create", "make_dir", "rename", "allocate"})


class FaultGate:
    """Of the log's own process; armed anew for each one."""

    def __init__(
        self,
        data_dir: Path,
        disk: SimDisk,
        loop: SimLoop,
        rng: random.Random,
        breakage: Breakage,
        outcome: Outcome,
        recent: deque[str],
    ) -> None:
        self.loop = loop
        """The loop of the process that runs."""
        self.faulted = False
        self._data_dir = data_dir
        self._disk = disk
        self._rng = rng
        self._breakage = breakage
        self._outcome = outcome
        self._recent = recent
        self._crash_in = self._fault_in = self._full_in = 0  # calls until then; 0: never
        self._full_until_s, self._full_bytes = 0.0, 0
        self._slow = 0.0
        self._dies_syncing: str | None = None  # the sync of which file is the last call; empty: of any

    def arm(self, *, peaceful: bool) -> None:
        """A process begins: choose what it will meet; nothing bad where that is to be a peaceful one."""
        self.faulted = False
        self._crash_in = self._fault_in = self._full_in = 0
        self._dies_syncing = self._rng.choice((None, None, None, "", JOURNAL_NAME))
        if self._breakage.dies_syncing is not None:
            self._dies_syncing = self._breakage.dies_syncing
        self._slow = self._rng.choice((0.0, 0.0, 0.05)) if self._breakage.slow is None else self._breakage.slow
        if not peaceful and self._rng.random() < 0.85:
            early = self._rng.random() < 0.25  # in the midst of recovery
            self._crash_in = self._rng.randint(1, 100) if early else int(2 ** self._rng.uniform(6, 11))
        if not peaceful and self._rng.random() < 0.25:
            self._fault_in = int(2 ** self._rng.uniform(3, 10))
        if not peaceful and self._rng.random() < 0.15:
            self._full_in = int(2 ** self._rng.uniform(3, 10))

    def __call__(self, operation: str, path: Path) -> Fate:
        """In front of each call: others may run, time may pass, and this may be the call that fails or the last."""
        self._outcome.calls += 1
        note = f"{self.loop.now_s:.6f} {operation} {str(path)[len(str(self._data_dir)) + 1 :]}"
        self._recent.append(note)
        self._outcome.trace = zlib.crc32(note.encode(), self._outcome.trace)
        if self._rng.random() < (0.7 if operation == "sync" else 0.2):
            self.loop.threads.pause(self._delay_s(operation))
        if self._full_in:
            self._full_in -= 1
            if not self._full_in:
                self._fill()
        if self._crash_in:
            self._crash_in -= 1
            if not self._crash_in and not self._may_die_at(operation, path):
                self._crash_in = 1
            elif not self._crash_in:
                return Fate(stop=self._rng.choice(list(Stop)))
        if self._fault_in:
            self._fault_in -= 1
            if not self._fault_in:
                error = self._rng.choice(FAULTS)
                if error == errno.EIO or operation in CAN_BE_FULL:
                    self.faulted = True
                    return Fate(error=error)
                self._fault_in = 1  # a full disk shows at the next call that needs space
        return GO

    def _may_die_at(self, operation: str, path: Path) -> bool:
        wanted = self._dies_syncing
        return wanted is None or (operation == "sync" and wanted in ("", path.name))

    def _fill(self) -> None:
        """Others fill the disk, all of it or nearly, for a while; a box with a full disk is soon restarted."""
        self._full_bytes = self._disk.used() + self._rng.choice((0, 300, 3_000))
        self._full_until_s = self.loop.now_s + self._rng.choice((0.3, 3.0, 30.0))
        self._outcome.full_disks += 1
        self._recent.append(f"-- the disk is full until {self._full_until_s:.3f}")
        if self._crash_in and self._rng.random() < 0.5:
            self._crash_in = self._rng.randint(1, 100)

    def capacity(self) -> float:
        return self._full_bytes if self.is_full() else math.inf

    def make_room(self) -> None:
        """Others have left the disk."""
        self._full_until_s = 0.0

    def is_full(self) -> bool:
        return self.loop.now_s < self._full_until_s

    def _delay_s(self, operation: str) -> float:
        """Mostly the time of a flash disk; a slow one stalls now and then."""
        if self._rng.random() < self._slow:
            return self._rng.uniform(0.01, 0.3)
        return self._rng.choice((0.0, 0.0005, 0.003)) if operation == "sync" else 0.0
