"""What the simulation has found once, each with the few steps that it takes."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from commitlog.base import NewRecord, TableChange
from commitlog.embedded import EmbeddedLog
from commitlog.reader import FileLogReader
from commitlog.recovery import Recovered, recover, start_journal
from commitlog.report import read_report
from commitlog.storage import LOG_DIR, RUN_DIR
from tests.commitlog.log_support import Failures, log_settings
from tests.commitlog.sim.sim_disk import GO, CrashError, Fate, Loss, SimDisk, SimStorage, Stop
from tests.commitlog.sim.sim_loop import SimLoop
from tests.commitlog.sim.sim_world import SimBell, SimClock

RNG = random.Random(1)
CALM_SETTINGS = log_settings(checkpoint_interval="1h", flush_interval="1h")


class Box:
    """A log on a simulated disk, one record and one row per append."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.disk = SimDisk(data_dir)
        self.fates: dict[tuple[str, str], Fate] = {}
        (data_dir / RUN_DIR).mkdir()

    def gate(self, operation: str, path: Path) -> Fate:
        return self.fates.pop((operation, path.name), GO)

    def storage(self) -> SimStorage:
        return SimStorage(self.disk, RNG, self.gate)

    @contextmanager
    def process(self, settings: object = CALM_SETTINGS) -> Iterator[tuple[EmbeddedLog, SimLoop]]:
        loop, clock = SimLoop(RNG), SimClock()
        clock.loop = loop
        opening = EmbeddedLog.open(
            self.data_dir,
            settings,  # type: ignore[arg-type]
            clock=clock,
            storage=self.storage(),
            on_failure=Failures(),
            threads=loop.threads,
        )
        try:
            yield loop.run_until_complete(opening), loop
        finally:
            loop.discard()

    def recover(self) -> Recovered:
        return recover(self.storage(), self.data_dir / LOG_DIR, CALM_SETTINGS)


@pytest.fixture(name="box")
def _box(volatile_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    monkeypatch.setattr("commitlog.engine.Doorbell", lambda _: SimBell())
    return Box(volatile_dir)


async def append(log: EmbeddedLog, number: int) -> None:
    await log.create_topic("t", 1)
    record = NewRecord(topic="t", key=None, value=b"%d" % number)
    await log.append([record], [TableChange(table="state", key=f"row {number}", value=number)])


def test_an_entry_that_was_not_synced_is_not_half_there_after_the_power_cut_that_follows(box: Box) -> None:
    with box.process() as (log, loop):
        loop.run_until_complete(append(log, 1))
        box.fates["sync", "journal"] = Fate(stop=Stop.BEFORE)
        with pytest.raises(CrashError):
            loop.run_until_complete(append(log, 2))
    assert box.recover().files[0].next_offset == 2  # segments are synced; the checkpoint is not written yet
    box.disk.power_cut(Loss.ALL, RNG)
    again = box.recover()
    assert (again.files[0].next_offset, again.tables.decoded()["state"]) == (2, {"row 1": 1, "row 2": 2})


def test_a_checkpoint_that_was_not_synced_takes_nothing_away_from_the_one_before(box: Box) -> None:
    with box.process() as (log, loop):
        loop.run_until_complete(append(log, 1))
        loop.run_until_complete(log.close())
    with box.process() as (log, loop):
        loop.run_until_complete(append(log, 2))
        box.fates["rename", "checkpoint"] = Fate(stop=Stop.AFTER)
        with pytest.raises(CrashError):
            loop.run_until_complete(log.close())
    box.recover()
    box.disk.dir(box.data_dir / LOG_DIR / "tables").sync()  # what was removed is gone, and the rest is up to chance
    box.disk.power_cut(Loss.ALL, RNG)
    assert box.recover().tables.decoded()["state"] == {"row 1": 1, "row 2": 2}


def test_records_whose_sync_failed_are_durable_after_the_next_recovery(box: Box) -> None:
    name = f"{0:020}.log"
    with box.process() as (log, loop):
        loop.run_until_complete(append(log, 1))
        box.fates["sync", name] = Fate(error=errno.EIO)
        loop.run_until_complete(log.close())
    file = box.disk.file(box.data_dir / LOG_DIR / "t-0" / name)
    del file.durable[:]
    assert not file.pending, "the failed sync has taken the pages for clean"
    recovered = box.recover()
    start_journal(box.storage(), box.data_dir / LOG_DIR, CALM_SETTINGS, recovered)
    box.disk.power_cut(Loss.ALL, RNG)
    again = box.recover()
    assert (again.files[0].next_offset, again.report.cuts) == (1, [])
    assert len(box.disk.content(box.data_dir / LOG_DIR / "t-0" / name)) > 60


def test_a_batch_whose_base_offset_fell_to_a_torn_write_is_taken_from_the_journal(box: Box) -> None:
    with box.process() as (log, loop):
        loop.run_until_complete(append(log, 1))
        loop.run_until_complete(log.close())
    path = box.data_dir / LOG_DIR / "t-0" / f"{0:020}.log"
    synced = len(box.disk.content(path))
    with box.process(log_settings(checkpoint_interval="1h", flush_bytes="1b")) as (log, loop):
        loop.run_until_complete(append(log, 2))
        loop.run_until_complete(append(log, 3))
        while loop.threads.run_one():
            pass
    box.disk.content(path)[synced : synced + 8] = bytes(8)
    recovered = box.recover()
    assert recovered.files[0].next_offset == 3
    assert bytes(box.disk.content(path)[synced : synced + 8]) == (1).to_bytes(8, "big")


def test_a_base_offset_behind_a_gap_is_not_believed_where_the_journal_fills_the_gap(box: Box) -> None:
    with box.process() as (log, loop):
        loop.run_until_complete(append(log, 1))
        loop.run_until_complete(log.close())
    path = box.data_dir / LOG_DIR / "t-0" / f"{0:020}.log"
    with box.process(log_settings(checkpoint_interval="1h", flush_bytes="1b")) as (log, loop):
        loop.run_until_complete(append(log, 2))
        while loop.threads.run_one():
            pass
        last = len(box.disk.content(path))
        loop.run_until_complete(append(log, 3))
        while loop.threads.run_one():
            pass
    assert len(box.disk.content(path)) > last
    box.disk.content(path)[last : last + 8] = (7).to_bytes(8, "big")  # what is left of an older batch, perhaps
    recovered = box.recover()
    assert (recovered.files[0].next_offset, recovered.report.cuts) == (3, [])
    assert bytes(box.disk.content(path)[last : last + 8]) == (2).to_bytes(8, "big")


def test_rows_behind_a_block_whose_sync_failed_are_not_lost_with_it(box: Box) -> None:
    with box.process() as (log, loop):
        loop.run_until_complete(append(log, 1))
        loop.run_until_complete(log.close())
    tables = box.data_dir / LOG_DIR / "tables"
    (name,) = [name for name in box.storage().names(tables) if name.startswith("state-")]
    file = box.disk.file(tables / name)
    durable = len(file.now)
    with box.process() as (log, loop):
        loop.run_until_complete(append(log, 2))
        box.fates["sync", name] = Fate(error=errno.EIO)
        loop.run_until_complete(log.close())
    del file.durable[durable:]
    assert len(file.now) > durable, "a block that can be read and is not on the disk"
    start_journal(box.storage(), box.data_dir / LOG_DIR, CALM_SETTINGS, box.recover())
    box.disk.power_cut(Loss.ALL, RNG)
    again = box.recover()
    assert (again.tables.decoded()["state"], again.report.notes) == ({"row 1": 1, "row 2": 2}, [])


def test_everything_that_a_weaker_level_left_unsynced_is_made_durable_before_it_is_replayed(box: Box) -> None:
    with box.process(log_settings(checkpoint_interval="1h", flush_interval="1h", durability="os")) as (log, loop):
        loop.run_until_complete(log.create_topic("t", 1))
        for number in (1, 2, 3):
            loop.run_until_complete(log.append([NewRecord(topic="t", key=None, value=b"%d" % number)]))
            while loop.threads.run_one():
                pass  # the checkpoint that says so stands before the second one
    journal = box.disk.file(box.data_dir / LOG_DIR / "journal")
    assert len(journal.pending) == 2, "acknowledged and not synced"
    journal.pending.clear()  # by a sync that failed: it has taken the pages for clean
    box.fates["sync", "journal"] = Fate(stop=Stop.AFTER)
    with pytest.raises(CrashError):
        box.recover()
    box.disk.power_cut(Loss.ALL, RNG)
    again = box.recover()
    assert (again.report.records_replayed, again.tables.decoded()) == (3, {})


def test_a_window_is_seen_only_with_its_records(box: Box) -> None:
    with box.process() as (log, loop):
        loop.run_until_complete(append(log, 1))
        box.fates["sync_dir", LOG_DIR] = Fate(stop=Stop.AFTER)  # the checkpoint that makes the window known
        with pytest.raises(CrashError):
            loop.run_until_complete(log.roll("t", "test"))
        with closing(FileLogReader(box.data_dir, storage=SimStorage(box.disk, RNG))) as reader:
            (window,) = reader.windows("t")
            assert reader.watermarks("t")[0].high == window.offsets[0][1] == 1


@pytest.mark.parametrize("name", ["recovery.json", "checkpoint"])
def test_a_start_that_dies_before_it_is_done_has_told_once_what_it_left_out(box: Box, name: str) -> None:
    weak = log_settings(durability="os", unsynced_records=10)
    with box.process(weak) as (log, loop):
        loop.run_until_complete(append(log, 1))
        loop.run_until_complete(log.append([NewRecord(topic="t", key=None, value=b"noted")]))
        loop.run_until_complete(log.append([NewRecord(topic="t", key=None, value=b"weak")]))
    box.fates["rename", name] = Fate(stop=Stop.AFTER)
    with pytest.raises(CrashError), box.process(weak):
        pass
    with box.process(weak):
        kept = read_report(box.storage(), box.data_dir / LOG_DIR)
        assert kept is not None
        assert [(cut.first, cut.next) for cut in (*kept.cuts, *kept.earlier)] == [(3, 13)]
