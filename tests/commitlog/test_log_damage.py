"""Damage in the middle: what is whole behind it is kept, and what is lost is told as a range."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import pytest

from commitlog.base import Gap, TableChange
from commitlog.checkpoint import CHECKPOINT_NAME, read_checkpoint
from commitlog.embedded import EmbeddedLog
from commitlog.index import OFFSET_ENTRY, TIME_ENTRY, offset_entries, time_entries
from commitlog.journal import ENTRY_HEADER, Journal, JournalBatch, encode_body, preallocate
from commitlog.journal_scan import entries_through_damage
from commitlog.reader import FileLogReader
from commitlog.report import KeptReport, read_report
from commitlog.resync import next_batch_after
from commitlog.segment import base_offsets
from commitlog.storage import LOG_DIR
from tests.commitlog.commitlog_disk import MemoryDisk
from tests.commitlog.log_support import log_settings, open_log, opened, record
from tests.log_fakes import FakeClock

ID = 0x1234_5678_9ABC_DEF0
JOURNAL = Path("/log/journal")


def ring(disk: MemoryDisk, size: int, bodies: list[bytes]) -> tuple[Journal, list[int]]:
    """A journal with these entries, and where each starts; the oldest are released as room is needed."""
    preallocate(disk, JOURNAL, size)
    journal = Journal(disk.open(JOURNAL), size=size, journal_id=ID, sequence=1)
    starts: list[int] = []
    for body in bodies:
        while not journal.fits(len(body)):
            journal.release(min(at for at in starts if at > journal.tail))
        journal.write(body)
        starts.append(journal.head - ENTRY_HEADER.size - len(body))
    return journal, starts


def body(number: int, size: int) -> bytes:
    return encode_body([JournalBatch(bytes(16), 0, b"%04d" % number + bytes(size))], [])


@pytest.mark.parametrize("seed", range(30))
def test_journal_entries_behind_a_damaged_one_are_found(seed: int) -> None:
    """A ring that has wrapped several times; any byte of any needed entry is damaged, or a stretch of them zeroed."""
    rng = random.Random(seed)
    disk, size = MemoryDisk(), 5_000
    sizes = [rng.choice((0, 10, 300, 900)) for _ in range(rng.randint(3, 80))]
    journal, starts = ring(disk, size, [body(number, extra) for number, extra in enumerate(sizes)])
    needed = [number for number, at in enumerate(starts) if at >= journal.tail]
    victim = rng.choice(needed)
    end = starts[victim] + ENTRY_HEADER.size + len(body(victim, sizes[victim]))
    at = rng.randrange(starts[victim], end)
    content = disk.content(JOURNAL)
    if rng.random() < 0.5:
        content[at % size] ^= 1 << rng.randrange(8)
    else:
        content[starts[victim] % size : starts[victim] % size + end - starts[victim]] = bytes(end - starts[victim])
    found = entries_through_damage(
        disk.open(JOURNAL), size=size, journal_id=ID, sequence=needed[0] + 1, position=starts[needed[0]]
    )
    assert [(one.sequence - 1, bytes(one.batches[0].data[:4])) for one in found] == [
        (number, b"%04d" % number) for number in needed if number != victim
    ]


def test_a_damaged_mark_at_the_end_of_a_lap_loses_nothing() -> None:
    disk, size = MemoryDisk(), 1_000
    journal, starts = ring(disk, size, [body(number, 100) for number in range(9)])
    first = next(number for number, at in enumerate(starts) if at >= journal.tail)
    mark = next(a for a, b in zip(starts[first:], starts[first + 1 :], strict=False) if b // size > a // size)
    end_of_lap = mark + ENTRY_HEADER.size + len(body(0, 100))
    assert size - end_of_lap % size >= ENTRY_HEADER.size, "no mark is written here"
    disk.content(JOURNAL)[end_of_lap % size + 5] ^= 1
    found = entries_through_damage(
        disk.open(JOURNAL), size=size, journal_id=ID, sequence=first + 1, position=starts[first]
    )
    assert [one.sequence - 1 for one in found] == list(range(first, 9))


async def in_journal_only(data_dir: Path, disk: MemoryDisk, count: int) -> None:
    """`count` records of one topic, each an entry of its own, none of them in a segment; killed."""
    log = await open_log(data_dir, storage=disk, settings=log_settings(flush_interval="1h"))
    await log.create_topic("telemetry", 1)
    await log.append([record("telemetry", "m0", "v0")])
    await log.roll("telemetry", "so that the checkpoint knows the topic")
    for number in range(1, count):
        change = TableChange(table="state", key=f"k{number}", value=number)
        await log.append([record("telemetry", f"m{number}", f"v{number}")], [change])
    disk.stop_at = 0
    await log.close()
    disk.revive()


def entry_places(disk: MemoryDisk, data_dir: Path) -> list[int]:
    checkpoint = read_checkpoint(disk, data_dir / LOG_DIR)
    assert checkpoint is not None
    content = bytes(disk.content(data_dir / LOG_DIR / "journal"))
    places, at = [], checkpoint.journal_position % checkpoint.journal_size
    while ENTRY_HEADER.unpack_from(content, at)[2] == checkpoint.journal_id:
        places.append(at)
        at += ENTRY_HEADER.size + ENTRY_HEADER.unpack_from(content, at)[0]
    return places


def read_through(data_dir: Path, disk: MemoryDisk, topic: str = "telemetry") -> tuple[list[int], list[Gap]]:
    """Offsets read, and gaps met, from the start to the end."""
    offsets: list[int] = []
    gaps: list[Gap] = []
    with closing(FileLogReader(data_dir, storage=disk, clock=FakeClock())) as reader:
        mark = reader.watermarks(topic)[0]
        at = mark.start
        while at < mark.high:
            part = reader.read(topic, 0, at)
            assert part.next_offset > at, f"stuck at {at}"
            offsets += [one.offset for one in part.records]
            gaps += part.gaps
            at = part.next_offset
    return offsets, gaps


@pytest.mark.parametrize("victim", [0, 3, 5])
@pytest.mark.parametrize("byte", [0, 5, 17, 60])
async def test_a_damaged_journal_entry_costs_what_it_held_and_no_more(tmp_path: Path, victim: int, byte: int) -> None:
    disk = MemoryDisk()
    await in_journal_only(tmp_path, disk, 8)
    places = entry_places(disk, tmp_path)
    assert len(places) == 7
    disk.content(tmp_path / LOG_DIR / "journal")[places[victim] + byte] ^= 0x20
    log = await open_log(tmp_path, storage=disk)
    lost = victim + 1
    (cut,) = log.report.cuts
    assert (cut.topic, cut.partition, cut.first, cut.next) == ("telemetry", 0, lost, lost + 1)
    assert cut.end_ms is not None
    assert any("entries" in note and "damaged" in note for note in log.report.notes)
    assert sorted(await log.rows("state")) == [f"k{n}" for n in range(1, 8) if n != lost]
    assert read_through(tmp_path, disk)[0] == [n for n in range(8) if n != lost]
    kept = read_report(disk, tmp_path / LOG_DIR)
    assert kept is not None
    assert list(kept.cuts) == [cut]
    await log.close()


async def test_what_a_power_cut_left_out_of_a_segment_comes_back_from_the_journal(tmp_path: Path) -> None:
    """Pages written after the checkpoint reach the disk in any order: a hole, and whole batches behind it."""
    disk = MemoryDisk()
    log = await flushed(tmp_path, disk, 8)
    disk.stop_at = 0
    await log.close()
    disk.revive()
    content = segment(disk, tmp_path, 1)
    places = batch_places(disk, tmp_path, 1)
    content[places[2] : places[3]] = bytes(places[3] - places[2])
    log = await open_log(tmp_path, storage=disk)
    assert log.report.cuts == []
    assert log.report.bytes_cut
    assert read_through(tmp_path, disk) == (list(range(8)), [])
    await log.close()


async def test_segment_and_journal_damaged_alike_lose_only_what_both_lost(tmp_path: Path) -> None:
    disk = MemoryDisk()
    log = await flushed(tmp_path, disk, 8)
    disk.stop_at = 0
    await log.close()
    disk.revive()
    places = batch_places(disk, tmp_path, 1)
    segment(disk, tmp_path, 1)[places[2] + 62] ^= 1
    journal = disk.content(tmp_path / LOG_DIR / "journal")
    for victim in (2, 4):  # of the records 3 and 5; the second one is whole in the segment
        journal[entry_places(disk, tmp_path)[victim] + 30] ^= 1
    log = await open_log(tmp_path, storage=disk)
    assert [(cut.first, cut.next) for cut in log.report.cuts] == [(3, 4)]
    assert log.report.cuts[0].devices == ("m3",) or not log.report.cuts[0].devices
    assert read_through(tmp_path, disk)[0] == [0, 1, 2, 4, 5, 6, 7]
    await log.close()


async def flushed(data_dir: Path, disk: MemoryDisk, count: int) -> EmbeddedLog:
    """A log of one topic with a window over record 0; the rest in a segment of its own, a batch each."""
    log = await open_log(data_dir, storage=disk, settings=log_settings(flush_interval="1h"))
    await log.create_topic("telemetry", 1)
    for number in range(count):
        await log.append([record("telemetry", f"m{number}", f"v{number}")])
        if number == 0:
            await log.roll("telemetry", "the rest goes into a segment of its own")
        log._engine.flusher.flush_now()
        await log._engine.segment_thread.run(lambda: None)
    return log


def without_checkpoint_and_journal(disk: MemoryDisk, data_dir: Path) -> None:
    """The journal alone would bring back what it still holds."""
    disk.remove(data_dir / LOG_DIR / CHECKPOINT_NAME)
    disk.remove(data_dir / LOG_DIR / "journal")


def segment(disk: MemoryDisk, data_dir: Path, base: int) -> bytearray:
    return disk.content(data_dir / LOG_DIR / "telemetry-0" / f"{base:020}.log")


def batch_places(disk: MemoryDisk, data_dir: Path, base: int) -> list[int]:
    file = disk.open(data_dir / LOG_DIR / "telemetry-0" / f"{base:020}.log")
    places, at = [0], 0
    while (found := next_batch_after(file, at, base)) is not None:
        places.append(found)
        at = found
    return places


async def test_without_a_checkpoint_damage_in_the_middle_is_reported_with_times_and_devices(tmp_path: Path) -> None:
    disk = MemoryDisk()
    log = await flushed(tmp_path, disk, 8)
    await log.close()
    places = batch_places(disk, tmp_path, 1)
    segment(disk, tmp_path, 1)[places[3] + 21 + 10] ^= 1  # its first timestamp: the records can still be read
    without_checkpoint_and_journal(disk, tmp_path)
    log = await open_log(tmp_path, storage=disk)
    (cut,) = log.report.cuts
    assert (cut.first, cut.next, cut.devices) == (4, 5, ("m4",))
    assert cut.start_ms is not None
    assert cut.end_ms is not None
    assert cut.start_ms <= cut.end_ms
    offsets, gaps = read_through(tmp_path, disk)
    assert offsets == [0, 1, 2, 3, 5, 6, 7]
    assert gaps == [Gap(first=4, next=5, reason="damaged")]
    await log.close()


async def test_without_a_checkpoint_a_damaged_last_batch_has_its_offsets_skipped(tmp_path: Path) -> None:
    disk = MemoryDisk()
    log = await flushed(tmp_path, disk, 4)
    await log.close()
    segment(disk, tmp_path, 1)[-1] ^= 1
    without_checkpoint_and_journal(disk, tmp_path)
    log = await open_log(tmp_path, storage=disk)
    assert [(cut.first, cut.next) for cut in log.report.cuts] == [(3, 4)]
    (position,) = await log.append([record("telemetry", "m", "after")])
    assert position.offset == 4
    await log.close()


@pytest.mark.parametrize("name", ["backup-2024", "telemetry-7", "backup-2", "notes-0"])
async def test_a_foreign_directory_is_left_alone(tmp_path: Path, name: str) -> None:
    disk = MemoryDisk()
    async with opened(tmp_path, storage=disk) as log:
        await log.create_topic("telemetry", 1)
    stray = tmp_path / LOG_DIR / name
    disk.make_dir(stray)
    disk.open(stray / "mine.tmp", create=True).write(b"mine", 0)
    for lose_checkpoint in (False, True):
        if lose_checkpoint:
            disk.remove(tmp_path / LOG_DIR / CHECKPOINT_NAME)
        log = await open_log(tmp_path, storage=disk)
        assert [(info.name, info.partitions) for info in log.topics()] == [("telemetry", 1)]
        assert any(name in note for note in log.report.notes)
        assert disk.names(stray) == ["mine.tmp"]
        await log.close()


async def test_the_report_keeps_what_earlier_starts_lost(tmp_path: Path) -> None:
    disk = MemoryDisk()
    await in_journal_only(tmp_path, disk, 4)
    disk.content(tmp_path / LOG_DIR / "journal")[entry_places(disk, tmp_path)[1] + 30] ^= 1
    for _ in range(3):
        async with opened(tmp_path, storage=disk):
            pass
    kept = read_report(disk, tmp_path / LOG_DIR)
    assert isinstance(kept, KeptReport)
    assert (kept.clean, list(kept.cuts)) == (True, [])
    assert [(cut.first, cut.next) for cut in kept.earlier] == [(2, 3)]


async def test_a_report_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    disk = MemoryDisk()
    disk.open(tmp_path / LOG_DIR / "recovery.json", create=True).write(b'{"version": 1', 0)
    assert read_report(disk, tmp_path / LOG_DIR) is None
    async with opened(tmp_path, storage=disk) as log:
        assert log.report.clean
    assert base_offsets(disk, tmp_path / LOG_DIR / "telemetry-0") == []


def index_file(disk: MemoryDisk, data_dir: Path, suffix: str, base: int = 1) -> bytearray:
    return disk.content(data_dir / LOG_DIR / "telemetry-0" / f"{base:020}{suffix}")


async def large_batches(data_dir: Path, disk: MemoryDisk, count: int) -> tuple[EmbeddedLog, FakeClock]:
    """One segment of batches that each get an index entry, a second apart."""
    clock = FakeClock()
    settings = log_settings(flush_interval="1h", segment_size="16MB")
    log = await open_log(data_dir, storage=disk, settings=settings, clock=clock)
    await log.create_topic("telemetry", 1)
    for number in range(count):
        clock.now_ms += 1_000
        await log.append([record("telemetry", f"m{number}", random.Random(number).randbytes(5_000))])
        log._engine.flusher.flush_now()
        await log._engine.segment_thread.run(lambda: None)
    return log, clock


@pytest.mark.parametrize("how", ["shifted", "random", "zero", "of another segment", "gone"])
async def test_a_wrong_offset_index_loses_no_record(tmp_path: Path, how: str) -> None:
    disk = MemoryDisk()
    log, clock = await large_batches(tmp_path, disk, 20)
    index = index_file(disk, tmp_path, ".index", 0)
    assert len(index) > 100
    if how == "shifted":
        index[:] = b"".join(OFFSET_ENTRY.pack(o, p + 7) for o, p in offset_entries(bytes(index)))
    elif how == "random":
        index[:] = random.Random(5).randbytes(len(index))
    elif how == "zero":
        index[:] = bytes(len(index))
    elif how == "of another segment":
        index[:] = b"".join(OFFSET_ENTRY.pack(o, p * 2) for o, p in offset_entries(bytes(index)))
    else:
        disk.remove(tmp_path / LOG_DIR / "telemetry-0" / f"{0:020}.index")
    with closing(FileLogReader(tmp_path, storage=disk, clock=clock)) as reader:
        for offset in (19, 0, 7, 12, 3, 18):
            part = reader.read("telemetry", 0, offset, max_bytes=1)
            assert ([one.offset for one in part.records], list(part.gaps)) == ([offset], [])
    await log.close()


@pytest.mark.parametrize("how", ["too late", "too early", "random", "zero", "gone"])
async def test_a_wrong_time_index_is_not_believed(tmp_path: Path, how: str) -> None:
    disk = MemoryDisk()
    log, clock = await large_batches(tmp_path, disk, 20)
    times = time_entries(bytes(index_file(disk, tmp_path, ".timeindex", 0)))
    assert len(times) > 10
    changed = {
        "too late": [(t, o + 3) for t, o in times],
        "too early": [(t - 5_000, o) for t, o in times],
        "zero": [(0, 0) for _ in times],
    }.get(how)
    index = index_file(disk, tmp_path, ".timeindex", 0)
    if how == "gone":
        disk.remove(tmp_path / LOG_DIR / "telemetry-0" / f"{0:020}.timeindex")
    elif changed is None:
        index[:] = random.Random(7).randbytes(len(index))
    else:
        index[:] = b"".join(TIME_ENTRY.pack(t, o) for t, o in changed)
    start_ms = clock.now_ms - 19_000
    with closing(FileLogReader(tmp_path, storage=disk, clock=clock)) as reader:
        for number in (0, 5, 11, 19):
            assert reader.offset_for_time("telemetry", 0, start_ms + 1_000 * number) == number
    await log.close()


@pytest.mark.parametrize("bit", [0, 1, 4, 40])
@pytest.mark.parametrize("victim", [0, 2, 5])
async def test_a_flipped_base_offset_is_read_as_its_neighbours_prove_it(tmp_path: Path, bit: int, victim: int) -> None:
    disk = MemoryDisk()
    log = await flushed(tmp_path, disk, 8)
    places = batch_places(disk, tmp_path, 1)
    segment(disk, tmp_path, 1)[places[victim] + 7 - bit // 8] ^= 1 << bit % 8
    assert read_through(tmp_path, disk) == (list(range(8)), [])
    await log.close()


@pytest.mark.parametrize("bit", [0, 3, 40])
async def test_a_flipped_base_offset_at_the_end_of_a_closed_segment_is_a_gap(tmp_path: Path, bit: int) -> None:
    """Nothing in the file proves it wrong; the record may be lost, but nobody gets stuck or another record."""
    disk = MemoryDisk()
    log = await flushed(tmp_path, disk, 4)
    await log.roll("telemetry", "closed")
    await log.append([record("telemetry", "m", "in a third segment")])
    await log.roll("telemetry", "closed")
    segment(disk, tmp_path, 1)[batch_places(disk, tmp_path, 1)[2] + 7 - bit // 8] ^= 1 << bit % 8
    offsets, gaps = read_through(tmp_path, disk)
    assert offsets[:3] == [0, 1, 2]
    assert offsets[-1] == 4
    assert {offset for gap in gaps for offset in range(gap.first, gap.next)} | set(offsets) == set(range(5))
    await log.close()


async def test_a_damaged_end_of_a_closed_segment_is_a_damaged_gap(tmp_path: Path) -> None:
    disk = MemoryDisk()
    log = await flushed(tmp_path, disk, 4)
    await log.roll("telemetry", "closed")
    await log.append([record("telemetry", "m", "in a third segment")])
    await log.roll("telemetry", "closed")
    segment(disk, tmp_path, 1)[batch_places(disk, tmp_path, 1)[2] + 16] ^= 1
    offsets, gaps = read_through(tmp_path, disk)
    assert offsets == [0, 1, 2, 4]
    assert gaps == [Gap(first=3, next=4, reason="damaged")]
    await log.close()
