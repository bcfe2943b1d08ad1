"""A consumer in a process of its own: it follows the log, reads old stretches again, and outlives the log's process.

It reads beside the writer: each of its calls to the disk lets others run, so that segments are written, closed and
deleted in the midst of a read. What it has seen at an offset it never sees otherwise. Only a power cut ends it; whoever
follows then goes on where it stood.
"""

from __future__ import annotations

import random
from pathlib import Path

from commitlog.base import Slice
from commitlog.reader import FileLogReader
from tests.commitlog.sim.sim_disk import GO, Fate, SimDisk, SimStorage
from tests.commitlog.sim.sim_loop import SimThreads
from tests.commitlog.sim.sim_model import Model, expect_slice, partitions_of
from tests.commitlog.sim.sim_promises import At, hold
from tests.commitlog.sim.sim_world import SimClock


class Follower:
    """See the module. `threads` are those of the process that runs now."""

    def __init__(self, data_dir: Path, disk: SimDisk, clock: SimClock, rng: random.Random, model: Model) -> None:
        self.threads: SimThreads | None = None
        self.reads = 0
        self._data_dir = data_dir
        self._disk = disk
        self._clock = clock
        self._rng = rng
        self._model = model
        self._next: dict[At, int] = {}
        self._reader: FileLogReader | None = None
        self._reading = False

    def begin(self, threads: SimThreads) -> None:
        """Beside another process of the log; a reader that was left in the midst of a call begins anew, too."""
        self.threads = threads
        if self._reading:
            self.end()

    def end(self) -> None:
        """Its process ends; where it stood is kept."""
        if self._reader is not None:
            self._reader.close()
        self._reader, self._reading = None, False

    def step(self) -> None:
        """In a worker: read on in one partition, or read something old once more."""
        if self._reader is None:
            storage = SimStorage(self._disk, self._rng, self._gate)
            self._reader = FileLogReader(self._data_dir, storage=storage, clock=self._clock)
        reader, rng = self._reader, self._rng
        self._reading = True
        partitions = partitions_of(reader)
        if partitions:
            at = rng.choice(partitions)
            stands = self._next.get(at, 0)
            offset = stands if rng.random() < 0.7 else rng.randint(0, stands)
            part = reader.read(*at, offset, max_bytes=rng.choice((1, 300, 5_000)))
            self._hear(at, offset, part)
            self._next[at] = max(stands, part.next_offset)
        self._reading = False
        self.reads += 1

    def _hear(self, at: At, offset: int, part: Slice) -> None:
        expect_slice(at, offset, part.next_offset, part.records, part.gaps, self._model)
        for record in part.records:
            known = record.offset in self._model.seen.get(at, ())
            hold(known or record.offset >= self._next.get(at, 0), "what was no record becomes none", at, record.offset)
            self._model.see(at, record.offset, record.value or b"")

    def _gate(self, _operation: str, _path: Path) -> Fate:
        if self.threads is not None and self._rng.random() < 0.5:
            self.threads.pause()
        return GO
