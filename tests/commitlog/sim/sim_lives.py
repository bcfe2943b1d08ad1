"""One seed: a log that lives, dies and recovers several times on a disk that forgets, and is checked after each death.

Everything that could differ between two runs comes from the seed: settings, what is appended, who runs when, how long
the disk takes, which call fails or is the last, what a power cut leaves, ids. `run_seed(n)` twice is the same run.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import random
import secrets
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import commitlog.engine
import commitlog.space
from commitlog.checkpoint import CHECKPOINT_NAME, read_checkpoint
from commitlog.embedded import EmbeddedLog
from commitlog.reader import FileLogReader
from commitlog.replay import JOURNAL_NAME
from commitlog.report import read_report
from commitlog.storage import LOG_DIR, RUN_DIR, partition_dir_name
from commitlog.watermarks import WatermarkWriter
from core.errors import UnavailableError
from tests.commitlog.log_support import Failures
from tests.commitlog.sim.sim_check import check, check_files
from tests.commitlog.sim.sim_disk import GO, CrashError, Fate, Loss, SimDisk, SimStorage, Stop
from tests.commitlog.sim.sim_follow import Follower
from tests.commitlog.sim.sim_loop import SimLoop
from tests.commitlog.sim.sim_model import Model, watch
from tests.commitlog.sim.sim_promises import WrongError, hold
from tests.commitlog.sim.sim_use import Client
from tests.commitlog.sim.sim_world import START_BYTES, TOPICS, Breakage, SimBell, SimClock, some_levels, some_settings

LIVES = 4
MAX_OPENS = 6  # recovery may die or fail that often in a row before the disk is left in peace
FAULTS = (errno.EIO, errno.ENOSPC)
CAN_BE_FULL = frozenset({"write", "create", "make_dir", "rename", "allocate"})


@dataclass
class Outcome:
    """What a seed went through: for the summary, and to see that two runs were the same."""

    trace: int = 0
    calls: int = 0
    deaths: int = 0
    deaths_in_recovery: int = 0
    power_cuts: int = 0
    failures: int = 0
    records: int = 0
    windows: int = 0
    checkpoints: int = 0
    replayed: int = 0
    refused: int = 0
    resent: int = 0
    deletions: int = 0
    full_disks: int = 0
    starts_on_full: int = 0
    lost: int = 0
    followed: int = 0
    checkpoints_lost: int = 0


class Simulation:
    """One seed's world."""

    def __init__(self, seed: int, data_dir: Path, breakage: Breakage) -> None:
        self.rng = random.Random(f"headrace {seed}")
        self.data_dir = data_dir
        self.disk = SimDisk(data_dir)
        self.clock = SimClock()
        self.model = Model()
        self.outcome = Outcome()
        self.recent: deque[str] = deque(maxlen=40)
        self._breakage = breakage
        self._levels = some_levels(self.rng)
        self._settings = some_settings(self.rng, self._levels)
        self.model.weak = self._levels.weak
        self.model.passed_over = self._settings.unsynced_records
        self.disk.capacity = self._capacity
        self._loop = SimLoop(self.rng)
        self.bell = SimBell()
        self._crash_in = self._fault_in = self._full_in = 0  # calls until then; 0: never
        self._full_until_s, self._full_bytes = 0.0, 0
        self._ever_opened = False
        self._follower = Follower(data_dir, self.disk, self.clock, self.rng, self.model)
        self._slow = 0.0
        self._dies_syncing: str | None = None  # the sync of which file is the last call; empty: of any
        self._faulted = False
        self._maps: list[WatermarkWriter] = []

    def run(self) -> Outcome:
        for life in range(LIVES + 1):
            last = life == LIVES
            try:
                self._live(last=last)
            finally:
                self._loop.discard()
            self._die(calm=last)
        return self.outcome

    def new_marks(self, *arguments: Any, **options: Any) -> WatermarkWriter:
        """The watermark map of a process; a dead one's is unmapped by `unmap`, as the kernel would."""
        marks = WatermarkWriter(*arguments, **options)
        self._maps.append(marks)
        return marks

    def unmap(self) -> None:
        """Take the maps of processes that are gone."""
        for marks in self._maps:
            marks._map.close()
        self._maps.clear()

    # -- the gate of the log's own process

    def gate(self, operation: str, path: Path) -> Fate:
        """In front of each call: others may run, time may pass, and this may be the call that fails or the last."""
        self.outcome.calls += 1
        note = f"{self._loop.now_s:.6f} {operation} {str(path)[len(str(self.data_dir)) + 1 :]}"
        self.recent.append(note)
        self.outcome.trace = zlib.crc32(note.encode(), self.outcome.trace)
        if self.rng.random() < (0.7 if operation == "sync" else 0.2):
            self._loop.threads.pause(self._delay_s(operation))
        if self._full_in:
            self._full_in -= 1
            if not self._full_in:
                self._fill()
        if self._crash_in:
            self._crash_in -= 1
            if not self._crash_in and not self._may_die_at(operation, path):
                self._crash_in = 1
            elif not self._crash_in:
                return Fate(stop=self.rng.choice(list(Stop)))
        if self._fault_in:
            self._fault_in -= 1
            if not self._fault_in:
                error = self.rng.choice(FAULTS)
                if error == errno.EIO or operation in CAN_BE_FULL:
                    self._faulted = True
                    return Fate(error=error)
                self._fault_in = 1  # a full disk shows at the next call that needs space
        return GO

    def _may_die_at(self, operation: str, path: Path) -> bool:
        wanted = self._dies_syncing
        return wanted is None or (operation == "sync" and wanted in ("", path.name))

    def _fill(self) -> None:
        """Others fill the disk, all of it or nearly, for a while; a box with a full disk is soon restarted."""
        self._full_bytes = self.disk.used() + self.rng.choice((0, 300, 3_000))
        self._full_until_s = self._loop.now_s + self.rng.choice((0.3, 3.0, 30.0))
        self.outcome.full_disks += 1
        self.recent.append(f"-- the disk is full until {self._full_until_s:.3f}")
        if self._crash_in and self.rng.random() < 0.5:
            self._crash_in = self.rng.randint(1, 100)

    def _capacity(self) -> float:
        return self._full_bytes if self._is_full() else math.inf

    def _is_full(self) -> bool:
        return self._loop.now_s < self._full_until_s

    def _delay_s(self, operation: str) -> float:
        """Mostly the time of a flash disk; a slow one stalls now and then."""
        if self.rng.random() < self._slow:
            return self.rng.uniform(0.01, 0.3)
        return self.rng.choice((0.0, 0.0005, 0.003)) if operation == "sync" else 0.0

    # -- one life

    def _live(self, *, last: bool) -> None:
        for tries in range(MAX_OPENS + 1):
            self._new_process(peaceful=last or tries == MAX_OPENS)
            try:
                self._loop.run_until_complete(self._process(last=last))
            except CrashError:
                self.outcome.deaths += 1
                if self._opened:
                    return
            except OSError:
                first = self._is_full() and not self._ever_opened
                hold((self._faulted or first) and not self._opened, "only a failing disk keeps the log from opening")
            else:
                return
            self.outcome.deaths_in_recovery += 1
            self._die(calm=False)
        raise WrongError("the log does not open on a disk that is in peace")

    def _new_process(self, *, peaceful: bool) -> None:
        self._loop.discard()
        self.unmap()
        self._loop = SimLoop(self.rng, self._loop.now_s + 1)
        self.clock.loop = self._loop
        self.bell = SimBell()
        self._opened = self._faulted = self._following = False
        if peaceful and not self._ever_opened:
            self._full_until_s = 0.0  # only the very first start asks for the room that it needs
        self.outcome.starts_on_full += self._is_full()
        self._follower.begin(self._loop.threads)
        self._crash_in = self._fault_in = self._full_in = 0
        self._dies_syncing = self.rng.choice((None, None, None, "", JOURNAL_NAME))
        if self._breakage.dies_syncing is not None:
            self._dies_syncing = self._breakage.dies_syncing
        self._slow = self.rng.choice((0.0, 0.0, 0.05)) if self._breakage.slow is None else self._breakage.slow
        if not peaceful and self.rng.random() < 0.85:
            early = self.rng.random() < 0.25  # in the midst of recovery
            self._crash_in = self.rng.randint(1, 100) if early else int(2 ** self.rng.uniform(6, 11))
        if not peaceful and self.rng.random() < 0.25:
            self._fault_in = int(2 ** self.rng.uniform(3, 10))
        if not peaceful and self.rng.random() < 0.15:
            self._full_in = int(2 ** self.rng.uniform(3, 10))
        self.storage = self._breakage.storage_class(self.disk, self.rng, self.gate)
        self.recent.append("-- a process starts")

    def _die(self, *, calm: bool) -> None:
        """The process is gone; what it had not synced may be, too."""
        for producer in self.model.producers:
            producer.busy = False
            producer.lose_answers(self.rng)
        if not calm and self.rng.random() < 0.7:
            loss = self.rng.choice((Loss.ALL, Loss.SOME, Loss.SOME, Loss.NONE))
            self.disk.power_cut(loss, self.rng)
            self._follower.end()
            self.model.cut = True
            self.outcome.power_cuts += 1
            self.recent.append(f"-- the power is cut, {loss.value}")
        if self._breakage.checkpoints and self.rng.random() < 0.5:
            self._lose_checkpoint()

    def _lose_checkpoint(self) -> None:
        path = self.data_dir / LOG_DIR / CHECKPOINT_NAME
        with contextlib.suppress(FileNotFoundError):  # killed before there was one
            content = self.disk.content(path)
            if self.rng.random() < 0.5:
                content[self.rng.randrange(len(content))] ^= 1 << self.rng.randrange(8)
            else:
                SimStorage(self.disk, self.rng).remove(path)
                SimStorage(self.disk, self.rng).sync_dir(path.parent)
            self.outcome.checkpoints_lost += 1
            self.model.starts.clear()  # a deletion that was decided and not begun is undone
            self.recent.append("-- the checkpoint is damaged or lost")

    async def _process(self, *, last: bool) -> None:
        failures = Failures()
        log = await EmbeddedLog.open(
            self.data_dir,
            self._settings,
            clock=self.clock,
            storage=self.storage,
            on_failure=failures,
            threads=self._loop.threads,
        )
        self._opened = self._ever_opened = True
        log.keep_topics_at(self._levels.topics)
        await asyncio.sleep(0)  # the first beat: readers then know that it lives
        with closing(self._reader()) as reader:
            await self._check(log, reader)
            if last:
                await log.close()
                return
            await self._work(log, reader, failures)
        hold(not self._loop.troubles, "no callback fails", self._loop.troubles)
        hold(len(failures) <= 1, "a failing log says so once", failures)
        hold(self._faulted or not failures, "a log fails only with its disk", failures)
        self.outcome.failures += len(failures)
        if self.rng.random() < 0.4:
            await log.close()
        self.outcome.checkpoints += log.checkpoints

    async def _check(self, log: EmbeddedLog, reader: FileLogReader) -> None:
        report, model = log.report, self.model
        before = len(model.appends)
        storage = SimStorage(self.disk, self.rng)
        kept = read_report(storage, self.data_dir / LOG_DIR)
        check(reader, report, kept, {name: await log.rows(name) for name in ("state", "alone")}, model)
        self.outcome.lost += before - len(model.appends)
        for topic, partition in model.there:
            names = storage.names(self.data_dir / LOG_DIR / partition_dir_name(topic, partition))
            check_files(names, model.starts.get((topic, partition), 0), (topic, partition))
        point = read_checkpoint(storage, self.data_dir / LOG_DIR)
        hold(point is not None, "an open log has a checkpoint")
        assert point is not None
        hold(point.leader_epoch >= model.leader_epoch + (not report.clean), "the leader epoch goes up", point)
        model.leader_epoch = point.leader_epoch
        self.outcome.records = sum(map(len, model.there.values()))
        self.outcome.windows = len(model.windows)
        self.outcome.followed = self._follower.reads
        self.outcome.replayed += report.entries_replayed

    def _reader(self) -> FileLogReader:
        return FileLogReader(self.data_dir, storage=SimStorage(self.disk, self.rng), clock=self.clock)

    # -- what the log is used for

    async def _work(self, log: EmbeddedLog, reader: FileLogReader, failures: Failures) -> None:
        try:
            for topic in ("spine", "other"):
                info = await log.create_topic(topic, TOPICS[topic])
                hold(self.model.topics.setdefault(topic, info) == info, "a topic is made once", info)
        except UnavailableError:
            return
        clients = [
            Client(log, reader, self.model, self._levels, self.rng, self.outcome) for _ in range(self.rng.randint(1, 4))
        ]
        watcher = self._loop.create_task(self._watch(reader))
        follower = self._loop.create_task(self._follow())
        await asyncio.gather(*(client.run(self.clock) for client in clients))
        self._following = False
        await follower
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher
        if not failures:
            watch(reader, self.model)

    async def _watch(self, reader: FileLogReader) -> None:
        for _ in range(10_000):
            await self.bell.rung.wait()
            self.bell.rung.clear()
            if self.rng.random() < 0.5:  # others are slow to wake
                await asyncio.sleep(self.rng.choice((0.0, 0.004, 0.05)))
            watch(reader, self.model)

    async def _follow(self) -> None:
        self._following = True
        while self._following:
            await self._loop.threads.run(self._follower.step)
            await asyncio.sleep(self.rng.choice((0.001, 0.02, 0.3)))


@contextmanager
def simulated(simulation: Simulation) -> Iterator[None]:
    """Ids come from the seed, too, and the doorbell is the simulation's."""
    rng = simulation.rng
    with (
        patch.object(secrets, "token_hex", lambda size: rng.randbytes(size).hex()),
        patch.object(secrets, "token_bytes", rng.randbytes),
        patch.object(secrets, "randbits", rng.getrandbits),
        patch.object(commitlog.engine, "Doorbell", lambda _run_dir: simulation.bell),
        patch.object(commitlog.engine, "WatermarkWriter", simulation.new_marks),
        patch.object(commitlog.space, "START_BYTES", START_BYTES),
    ):
        try:
            yield
        finally:
            simulation.unmap()


def run_seed(seed: int, data_dir: Path, breakage: Breakage | None = None) -> Outcome:
    """Run one seed. Raises WrongError or StuckError, with the last calls to the disk and how to run it again."""
    breakage = breakage or Breakage()
    (data_dir / RUN_DIR).mkdir(parents=True)
    simulation = Simulation(seed, data_dir, breakage)
    with contextlib.ExitStack() as stack:
        stack.enter_context(simulated(simulation))
        for name, value in breakage.patches.items():
            stack.enter_context(patch(name, value))
        try:
            return simulation.run()
        except Exception as error:
            error.add_note("\n".join(("the last calls to the disk:", *simulation.recent)))
            error.add_note(f"run it again: HEADRACE_SIM_SEED={seed} make test ARGS=tests/commitlog/test_sim_lives.py")
            raise
