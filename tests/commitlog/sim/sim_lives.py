"""One seed: a log that lives, dies and recovers several times on a disk that forgets, and is checked after each death.

Everything that could differ between two runs comes from the seed: settings, what is appended, who runs when, how long
the disk takes, which call fails or is the last, what a power cut leaves, ids. `run_seed(n)` twice is the same run.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import secrets
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import commitlog.engine
from commitlog.base import NewRecord, TableChange
from commitlog.checkpoint import CHECKPOINT_NAME, read_checkpoint
from commitlog.embedded import EmbeddedLog
from commitlog.reader import FileLogReader
from commitlog.settings import LogSettings
from commitlog.storage import LOG_DIR, RUN_DIR
from commitlog.watermarks import WatermarkWriter
from core.errors import UnavailableError
from tests.commitlog.log_support import Failures
from tests.commitlog.sim.sim_disk import GO, CrashError, Fate, Loss, SimDisk, SimStorage, Stop
from tests.commitlog.sim.sim_loop import SimLoop
from tests.commitlog.sim.sim_model import SPINE, Append, Model, WrongError, check, hold, watch

LIVES = 4
MAX_OPENS = 6  # recovery may die or fail that often in a row before the disk is left in peace
FAULTS = (errno.EIO, errno.ENOSPC)
CAN_BE_FULL = frozenset({"write", "create", "make_dir", "rename", "allocate"})
TOPICS = {"spine": 2, "other": 3, "late": 1}


class SimClock:
    """Wall time that steps now and then, and monotonic time, both of the simulated loop."""

    def __init__(self) -> None:
        self.loop: SimLoop | None = None
        self.skew_ms = 1_800_000_000_000

    def time_ms(self) -> int:
        return self.skew_ms + self.monotonic_ms()

    def monotonic_ms(self) -> int:
        assert self.loop is not None
        return int(self.loop.now_s * 1000) + 1


class SimBell:
    """Takes the place of the doorbell: wakes the reader of the simulation."""

    def __init__(self) -> None:
        self.rung = asyncio.Event()

    def ring(self) -> None:
        self.rung.set()

    def close(self) -> None:
        return


class Wish:
    """A `Waiter` for what is appended the way listeners do it."""

    def __init__(self, done: asyncio.Future[bool]) -> None:
        self._done = done

    def committed(self, token: Append) -> None:
        token.acked = True
        self._tell(True)

    def failed(self, _token: Append) -> None:
        self._tell(False)

    def _tell(self, outcome: bool) -> None:
        if not self._done.done():
            self._done.set_result(outcome)


@dataclass
class Breakage:
    """How a log is broken on purpose: its class, its storage, other names of `commitlog` replaced."""

    storage_class: type[SimStorage] = SimStorage
    patches: dict[str, object] = field(default_factory=dict)
    checkpoints: bool = False
    """Between two lives the checkpoint may be damaged or lost: that breaks no promise."""


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
        self._settings = some_settings(self.rng)
        self._loop = SimLoop(self.rng)
        self.bell = SimBell()
        self._crash_in = self._fault_in = 0  # calls until then; 0: never
        self._slow = 0.0
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
        if self._crash_in:
            self._crash_in -= 1
            if not self._crash_in:
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
                hold(self._faulted and not self._opened, "only a failing disk keeps the log from opening")
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
        self._opened = self._faulted = False
        self._crash_in = self._fault_in = 0
        self._slow = self.rng.choice((0.0, 0.0, 0.05))
        if not peaceful and self.rng.random() < 0.85:
            early = self.rng.random() < 0.25  # in the midst of recovery
            self._crash_in = self.rng.randint(1, 100) if early else int(2 ** self.rng.uniform(6, 11))
        if not peaceful and self.rng.random() < 0.25:
            self._fault_in = int(2 ** self.rng.uniform(3, 10))
        self.storage = self._breakage.storage_class(self.disk, self.rng, self.gate)
        self.recent.append("-- a process starts")

    def _die(self, *, calm: bool) -> None:
        """The process is gone; what it had not synced may be, too."""
        if not calm and self.rng.random() < 0.7:
            loss = self.rng.choice((Loss.ALL, Loss.SOME, Loss.SOME, Loss.NONE))
            self.disk.power_cut(loss, self.rng)
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
        self._opened = True
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
        hold(not report.cuts or not any(cut.next > cut.first for cut in report.cuts), "no range is lost", report.cuts)
        rows = {name: await log.rows(name) for name in ("state", "alone")}
        check(reader, rows, model)
        point = read_checkpoint(SimStorage(self.disk, self.rng), self.data_dir / LOG_DIR)
        hold(point is not None, "an open log has a checkpoint")
        assert point is not None
        hold(point.leader_epoch >= model.leader_epoch + (not report.clean), "the leader epoch goes up", point)
        model.leader_epoch = point.leader_epoch
        self.outcome.records = sum(map(len, model.shown.values()))
        self.outcome.windows = len(model.windows)
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
        clients = [self._loop.create_task(self._client(log)) for _ in range(self.rng.randint(1, 4))]
        watcher = self._loop.create_task(self._watcher(reader))
        for client in clients:
            await client
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher
        if not failures:
            watch(reader, self.model)

    async def _watcher(self, reader: FileLogReader) -> None:
        for _ in range(10_000):
            await self.bell.rung.wait()
            self.bell.rung.clear()
            if self.rng.random() < 0.5:  # others are slow to wake
                await asyncio.sleep(self.rng.choice((0.0, 0.004, 0.05)))
            watch(reader, self.model)

    async def _client(self, log: EmbeddedLog) -> None:
        with contextlib.suppress(UnavailableError):
            for _ in range(self.rng.randint(1, 12)):
                await self._one_thing(log)
                if self.rng.random() < 0.4:
                    await asyncio.sleep(self.rng.choice((0.0, 0.002, 0.02, 0.3)))
                if self.rng.random() < 0.05:
                    self.clock.skew_ms += self.rng.choice((-3_600_000, 3_600_000, 7))

    async def _one_thing(self, log: EmbeddedLog) -> None:
        choice = self.rng.random()
        if choice < 0.55:
            await self._append(log)
        elif choice < 0.8:
            await self._listen(log)
        elif choice < 0.88:
            await self._roll(log)
        elif choice < 0.94:
            await self._set_row(log)
        elif choice < 0.97:
            info = await log.create_topic("late", TOPICS["late"])
            hold(self.model.topics.setdefault("late", info) == info, "a topic is made once", info)
        else:
            await log.drain()

    async def _roll(self, log: EmbeddedLog) -> None:
        window = await log.roll(self.rng.choice([info.name for info in log.topics()]), "simulated")
        if window is not None:
            known = self.model.windows.setdefault((window.topic, window.number), window)
            hold(known == window, "a window's number is given once", known, window)

    async def _set_row(self, log: EmbeddedLog) -> None:
        key = f"alone {self.model.next_serial()}"
        self.model.alone[key] = False
        await log.append([], [TableChange(table="alone", key=key, value=key)])
        self.model.alone[key] = True

    async def _append(self, log: EmbeddedLog) -> None:
        """By `Log.append`."""
        while log.congested:  # what waits inside comes in an order that only the log knows
            await self._clear(log)
        one = self._new_append(log)
        records = [
            NewRecord(topic=topic, key=value[:4], value=value, partition=partition)
            for (topic, partition), value in one.records
        ]
        changes = [TableChange(table="state", key=key, value=value) for key, value in one.rows]
        refused = log.full
        if refused:  # before anything of it is taken: from now on it must never be there
            del self.model.appends[one.serial]
            self.outcome.refused += 1
        one.positions = await log.append(records, changes)
        hold(not refused, "a log on a full disk takes no readings", one.serial)
        one.acked = True

    async def _listen(self, log: EmbeddedLog) -> None:
        """By `Appender`, as listeners do: a chunk of records, one waiter."""
        while log.congested:
            await self._clear(log)
        one = self._new_append(log)
        one.rows.clear()
        now = log.now_ms()
        for (topic, partition), value in one.records:
            log.partitions(topic)[partition].append(now, value[:4], value, [])
        told: asyncio.Future[bool] = self._loop.create_future()
        log.appended(len(one.records), sum(len(value) for _, value in one.records), Wish(told), one)
        await told

    async def _clear(self, log: EmbeddedLog) -> None:
        clear: asyncio.Future[None] = self._loop.create_future()
        log.when_clear(lambda: clear.set_result(None))
        await clear

    def _new_append(self, log: EmbeddedLog) -> Append:
        rng, serial = self.rng, self.model.next_serial()
        places = [(info.name, partition) for info in log.topics() for partition in range(info.partitions)]
        chosen = [SPINE, *(rng.choice(places) for _ in range(rng.choice((0, 0, 1, 3))))]
        chosen = [at for number, at in enumerate(chosen) if at != SPINE or number == 0]
        records = [
            (at, b"%06d:%d:" % (serial, n) + rng.randbytes(rng.choice((0, 7, 40, 40, 300))))
            for n, at in enumerate(chosen)
        ]
        rows = [
            (f"row {rng.randrange(5)}", rng.choice((None, serial, {"at": [serial]}))) for _ in range(rng.randint(0, 2))
        ]
        self.model.appends[serial] = one = Append(serial=serial, records=records, rows=rows)
        return one


def some_settings(rng: random.Random) -> LogSettings:
    """So small that a few appends wrap the journal, fill segments and checkpoint: smaller than settings allow."""
    checkpoint_bytes = rng.choice((1_500, 3_000, 6_000))
    return LogSettings().model_copy(
        update={
            "partitions": 2,
            "commit_interval_ms": rng.choice((0, 2, 10)),
            "commit_records": rng.choice((1, 4, 64)),
            "commit_bytes": 2_000,
            "pending_bytes": 4_000,
            "journal_size_bytes": max(16_000, 4 * checkpoint_bytes) + rng.randrange(600),
            "checkpoint_bytes": checkpoint_bytes,
            "checkpoint_interval_ms": rng.choice((100, 1_000, 10_000)),
            "segment_size_bytes": rng.choice((600, 2_000, 60_000)),
            "flush_interval_ms": rng.choice((1, 20, 100)),
            "flush_bytes": rng.choice((200, 2_000)),
            "max_topics": 4,
            "reserve_bytes": 2_000,
        }
    )


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
