"""A lost or damaged checkpoint: what is noted beside it, the journal's own numbers and the segments say the rest."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import pytest

from commitlog.base import TableChange
from commitlog.batch import CODEC_NONE, new_builder, place
from commitlog.checkpoint import CHECKPOINT_NAME, read_checkpoint
from commitlog.journal import Journal, JournalBatch, encode_body, preallocate
from commitlog.journal_scan import entries_through_damage, find_entries
from commitlog.reader import FileLogReader
from commitlog.snapshots import read_blocks
from commitlog.storage import LOG_DIR
from commitlog.tables import TABLES_DIR
from commitlog.version import META_NAME, note_unsynced, read_journal_note, read_meta
from tests.commitlog.commitlog_disk import MemoryDisk
from tests.commitlog.log_support import log_settings, open_log, opened, read_all, record

ID = 0x1234_5678_9ABC_DEF0
JOURNAL = Path("/log/journal")


def a_batch(base: int, count: int, size: int) -> bytes:
    builder = new_builder(CODEC_NONE)
    for number in range(count):
        builder.append(number, 1_000, b"k", bytes(size), [])
    data = builder.build()
    place(data, base, 0)
    return bytes(data)


class Ring:
    """A journal of one partition that is released as room is needed, and what is still needed of it."""

    def __init__(self, size: int) -> None:
        self.disk, self.size = MemoryDisk(), size
        preallocate(self.disk, JOURNAL, size)
        self.journal = Journal(self.disk.open(JOURNAL), size=size, journal_id=ID, sequence=1)
        self.starts: list[int] = []
        self.offset = 0

    def write(self, count: int, size: int, *, changes: bool = True) -> None:
        batch = JournalBatch(bytes(16), 0, a_batch(self.offset, count, size))
        data = encode_body([batch], [("state", "k", self.offset)] if changes else [])
        while not self.journal.fits(len(data)):
            behind = (at for at in (*self.starts, self.journal.head) if at > self.journal.tail)
            self.journal.release(min(behind))
        self.journal.write(data)
        self.starts.append(self.journal.head - 24 - len(data))
        self.offset += count

    @property
    def needed(self) -> set[int]:
        """Sequences from the tail on."""
        return {number + 1 for number, at in enumerate(self.starts) if at >= self.journal.tail}


@pytest.mark.parametrize("seed", range(60))
def test_everything_needed_is_found_without_knowing_where_it_begins(seed: int) -> None:
    rng = random.Random(seed)
    ring = Ring(rng.choice((3_000, 5_000, 20_000)))
    for _ in range(rng.choice((1, 3, 40, 200))):
        ring.write(rng.randint(1, 3), rng.choice((0, 20, 350)))
    file = ring.disk.open(JOURNAL)
    found = find_entries(file, size=ring.size, journal_id=ID)
    assert found is not None
    sequences = [
        entry.sequence
        for entry in entries_through_damage(
            file, size=ring.size, journal_id=ID, sequence=found.sequence, position=found.position
        )
    ]
    assert sequences == sorted(sequences)
    assert ring.needed <= set(sequences)
    assert found.changes_from == found.sequence, "of an older lap nothing is left in front of a hole"
    assert sequences == list(range(found.sequence, len(ring.starts) + 1))
    assert found.offsets.keys() == {(bytes(16), 0)}


@pytest.mark.parametrize("seed", range(20))
def test_changes_before_a_damaged_entry_do_not_count(seed: int) -> None:
    rng = random.Random(seed)
    ring = Ring(20_000)
    for _ in range(rng.randint(5, 300)):
        ring.write(1, rng.choice((0, 20, 500)))
    victim = rng.choice(sorted(ring.needed - {len(ring.starts)}))
    ring.disk.content(JOURNAL)[ring.starts[victim - 1] % ring.size + 40] ^= 1
    found = find_entries(ring.disk.open(JOURNAL), size=ring.size, journal_id=ID)
    assert found is not None
    assert found.changes_from == victim + 1
    assert found.offsets == {(bytes(16), 0): (victim, ring.offset)}, "its offset is missing"


def test_an_entry_that_is_missing_behind_the_last_change_takes_no_change_along() -> None:
    """A power cut at a durability below `fsync`: the last change was synced, with all before it."""
    ring = Ring(20_000)
    for number in range(20):
        ring.write(1, 20, changes=number < 12)
    ring.disk.content(JOURNAL)[ring.starts[15] + 40] ^= 1
    found = find_entries(ring.disk.open(JOURNAL), size=ring.size, journal_id=ID)
    assert found is not None
    assert (found.sequence, found.changes_from) == (1, 1)
    assert found.offsets == {(bytes(16), 0): (16, 20)}


def test_a_ring_without_an_entry_of_the_id_has_nothing() -> None:
    ring = Ring(3_000)
    assert find_entries(ring.disk.open(JOURNAL), size=ring.size, journal_id=ID) is None
    ring.write(1, 5)
    assert find_entries(ring.disk.open(JOURNAL), size=ring.size, journal_id=ID + 1) is None


# -- the whole log


def checkpoint_path(data_dir: Path) -> Path:
    return data_dir / LOG_DIR / CHECKPOINT_NAME


def lose(disk: MemoryDisk, path: Path, how: str) -> None:
    if how == "gone":
        disk.remove(path)
    elif how == "flipped":
        content = disk.content(path)
        content[len(content) // 2] ^= 4
    else:
        disk.content(path).clear()


async def killed_log(data_dir: Path, disk: MemoryDisk, **settings: str) -> None:
    """Records 0 to 9 of telemetry-0 with a row each: 0 to 4 behind a window, the rest only in the journal; killed."""
    log = await open_log(data_dir, storage=disk, settings=log_settings(flush_interval="1h", **settings))
    await log.create_topic("telemetry", 1)
    for number in range(10):
        change = TableChange(table="state", key=f"k{number % 4}", value=number)
        await log.append([record("telemetry", "d", f"v{number}")], [] if settings else [change])  # those always sync
        if number == 4:
            await log.roll("telemetry", "test")
    disk.stop_at = 0
    await log.close()
    disk.revive()


@pytest.mark.parametrize("how", ["gone", "flipped", "empty"])
@pytest.mark.parametrize("power_cut", [False, True])
async def test_what_only_the_journal_holds_is_kept(tmp_path: Path, how: str, power_cut: bool) -> None:
    disk = MemoryDisk()
    await killed_log(tmp_path, disk)
    before = read_checkpoint(disk, tmp_path / LOG_DIR)
    assert before is not None
    if power_cut:
        disk.revive(power_cut=random.Random(1))
    lose(disk, checkpoint_path(tmp_path), how)
    log = await open_log(tmp_path, storage=disk)
    assert log.report.cuts == []
    assert log.report.records_replayed == 5
    assert any("checkpoint" in note and "journal is replayed" in note for note in log.report.notes)
    assert read_all(tmp_path, disk) == {("telemetry", 0): [(n, b"v%d" % n) for n in range(10)]}
    assert await log.rows("state") == {"k0": 8, "k1": 9, "k2": 6, "k3": 7}
    window = await log.roll("telemetry", "again")
    assert window is not None
    assert (window.number, window.offsets) == (1, {0: (5, 10)})
    after = read_checkpoint(disk, tmp_path / LOG_DIR)
    assert after is not None
    assert after.leader_epoch == before.leader_epoch + 1
    await log.close()


async def test_a_table_keeps_what_the_snapshot_has_and_the_ring_has_overwritten(tmp_path: Path) -> None:
    """Old entries are replayed again from the oldest that is left: no row goes back to an older value."""
    disk = MemoryDisk()
    log = await open_log(tmp_path, storage=disk)
    await log.create_topic("telemetry", 1)
    for number in range(60):
        changes = [TableChange(table="state", key=f"k{number % 7}", value=number)]
        if number < 3:
            changes.append(TableChange(table="state", key="old", value=number))
        await log.append([record("telemetry", "d", bytes(200_000))], changes)
    expected = dict(await log.rows("state"))
    disk.stop_at = 0
    await log.close()
    disk.revive()
    disk.remove(checkpoint_path(tmp_path))
    async with opened(tmp_path, storage=disk) as log:
        assert await log.rows("state") == expected
        assert log.report.cuts == []
        assert len(read_all(tmp_path, disk)["telemetry", 0]) == 60


async def test_tables_are_written_anew_since_nobody_knows_how_far_they_were_durable(tmp_path: Path) -> None:
    """The end of a snapshot may be a block whose sync failed: the power takes it, with what was appended behind it."""
    disk = MemoryDisk()
    await killed_log(tmp_path, disk)
    async with opened(tmp_path, storage=disk):  # appends a block
        pass
    disk.remove(checkpoint_path(tmp_path))
    log = await open_log(tmp_path, storage=disk)
    after = read_checkpoint(disk, tmp_path / LOG_DIR)
    assert after is not None
    assert after.tables.keys() == {"state", "windows"}
    for name in after.tables.values():
        blocks, _ = read_blocks(disk, tmp_path / LOG_DIR / TABLES_DIR / name)
        assert len(blocks) == 1
    await log.close()


async def test_a_torn_segment_is_made_good_from_the_journal_also_without_a_checkpoint(tmp_path: Path) -> None:
    disk = MemoryDisk()
    log = await open_log(tmp_path, storage=disk, settings=log_settings(flush_interval="1h"))
    await log.create_topic("telemetry", 1)
    for number in range(8):
        await log.append([record("telemetry", "d", f"v{number}")])
        log._engine.flusher.flush_now()
        await log._engine.segment_thread.run(lambda: None)
    disk.stop_at = 0
    await log.close()
    disk.revive()
    content = disk.content(tmp_path / LOG_DIR / "telemetry-0" / f"{0:020}.log")
    middle = len(content) // 2
    content[middle : middle + 30] = bytes(30)
    disk.remove(checkpoint_path(tmp_path))
    async with opened(tmp_path, storage=disk) as log:
        assert log.report.cuts == []
        assert log.report.bytes_cut
        assert read_all(tmp_path, disk)["telemetry", 0] == [(n, b"v%d" % n) for n in range(8)]


async def test_also_an_empty_log_goes_on_from_its_leader_epoch(tmp_path: Path) -> None:
    disk, epochs = MemoryDisk(), []
    for _ in range(3):
        log = await open_log(tmp_path, storage=disk)
        after = read_checkpoint(disk, tmp_path / LOG_DIR)
        assert after is not None
        epochs.append(after.leader_epoch)
        disk.stop_at = 0
        await log.close()
        disk.revive()
        disk.remove(checkpoint_path(tmp_path))
    assert epochs == [0, 1, 2]


# -- what is noted in meta.properties


async def test_the_note_of_a_weaker_durability_outlives_the_checkpoint(tmp_path: Path) -> None:
    disk = MemoryDisk()
    await killed_log(tmp_path, disk, durability="os", unsynced_records="1000")
    assert read_journal_note(disk, tmp_path / LOG_DIR).unsynced_records == 1_000
    disk.remove(checkpoint_path(tmp_path))
    async with opened(tmp_path, storage=disk) as log:
        assert [(cut.first, cut.next) for cut in log.report.cuts] == [(10, 1_010)]
    assert read_journal_note(disk, tmp_path / LOG_DIR).unsynced_records == 0, "of the run at fsync that followed"


async def test_without_any_note_a_weaker_durability_is_taken_to_have_been_in_use(tmp_path: Path) -> None:
    """A directory of a version before there was a note, or one whose note is damaged as well."""
    disk = MemoryDisk()
    await killed_log(tmp_path, disk)
    disk.remove(checkpoint_path(tmp_path))
    disk.content(tmp_path / LOG_DIR / META_NAME)[:] = b"version=1\n"
    log = await open_log(tmp_path, storage=disk, settings=log_settings(unsynced_records="500"))
    assert [(cut.first, cut.next) for cut in log.report.cuts] == [(5, 505)]
    assert any("only the journal holds is lost" in note for note in log.report.notes)
    assert read_all_but_gaps(tmp_path, disk) == 5
    await log.close()


def read_all_but_gaps(data_dir: Path, disk: MemoryDisk) -> int:
    with closing(FileLogReader(data_dir, storage=disk)) as reader:
        return len(reader.read("telemetry", 0, 0).records)


async def test_offsets_that_were_passed_over_stay_so_without_a_checkpoint(tmp_path: Path) -> None:
    """Nothing was appended behind them, so only the checkpoint and the report know."""
    disk = MemoryDisk()
    await killed_log(tmp_path, disk, durability="os", unsynced_records="1000")
    async with opened(tmp_path, storage=disk):
        pass
    disk.remove(checkpoint_path(tmp_path))
    async with opened(tmp_path, storage=disk) as log:
        (position,) = await log.append([record("telemetry", "d", "after")])
        assert position.offset == 1_010


async def test_offsets_told_by_earlier_starts_are_neither_expired_nor_lost_once_more(tmp_path: Path) -> None:
    """A partition that begins with offsets left out, and one that has them between two segments."""
    disk, settings = MemoryDisk(), log_settings(durability="os", unsynced_records="1000")
    log = await open_log(tmp_path, storage=disk, settings=settings)
    await log.create_topic("telemetry", 2)
    await log.append([record("telemetry", "d", "first", partition=0)])
    await log.roll("telemetry", "closes the segment")
    await log.append([record("telemetry", "d", "second", partition=0)])
    disk.stop_at = 0
    await log.close()
    disk.revive()
    async with opened(tmp_path, storage=disk) as log:
        await log.append([record("telemetry", "d", "behind", partition=n) for n in range(2)])
    disk.remove(checkpoint_path(tmp_path))
    log = await open_log(tmp_path, storage=disk)
    assert log.report.cuts == []
    with closing(FileLogReader(tmp_path, storage=disk)) as reader:
        assert [mark.start for mark in reader.watermarks("telemetry")] == [0, 0]
        assert {gap.reason for n in range(2) for gap in reader.read("telemetry", n, 0).gaps} <= {"left out"}
    await log.close()


@pytest.mark.parametrize(
    "line", ["", "journal.id=", "journal.id=12", "journal.id=0123456789ABCDEF", "journal.id=x123456789abcdef"]
)
def test_a_damaged_note_says_nothing(line: str) -> None:
    disk = MemoryDisk()
    disk.open(Path("/log") / META_NAME, create=True).write(f"version=1\n{line}\nunsynced.records=-1\n".encode(), 0)
    note = read_journal_note(disk, Path("/log"))
    assert (note.journal_id, note.unsynced_records, note.leader_epoch) == (None, None, 0)


def test_the_note_keeps_what_else_stands_there() -> None:
    disk = MemoryDisk()
    disk.open(Path("/log") / META_NAME, create=True).write(b"version=1\njournal.inode=7\n", 0)
    note_unsynced(disk, Path("/log"), 50)
    assert read_meta(disk, Path("/log")) == {"version": "1", "journal.inode": "7", "unsynced.records": "50"}
