"""Durability levels: what is synced before its acknowledgement, what after it, and what a power cut may take."""

from __future__ import annotations

import asyncio
import contextlib
import random
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from commitlog.base import TableChange, TopicInfo, WriterState
from commitlog.batch import CODEC_NONE, new_builder, place
from commitlog.checkpoint import read_checkpoint
from commitlog.durability import Durability, Unsynced, strictest, weaker_levels
from commitlog.embedded import EmbeddedLog
from commitlog.files import PartitionFiles
from commitlog.index import MAX_RELATIVE_OFFSET
from commitlog.pass_over import REASON
from commitlog.reader import FileLogReader
from commitlog.segment import base_offsets
from commitlog.settings import LogSettings
from commitlog.storage import LOG_DIR
from core.errors import UnavailableError
from tests.commitlog.batch_support import client_batch
from tests.commitlog.commitlog_disk import DiskStoppedError, MemoryDisk
from tests.commitlog.log_support import RecordingWaiter, log_settings, open_log, opened, record
from tests.conftest import wait_until_async
from tests.log_fakes import FakeClock

pytestmark = pytest.mark.timeout(30)

OS, INTERVAL, FSYNC = Durability.OS, Durability.INTERVAL, Durability.FSYNC
LATE = {"sync_interval": "10m", "checkpoint_interval": "1h"}


class LoseAll(random.Random):
    """A power cut that takes everything that was not synced."""

    def random(self) -> float:
        return 0.0

    def randint(self, a: int, b: int) -> int:
        return a


class Syncs:
    """Counts syncs of the journal from now on."""

    def __init__(self, disk: MemoryDisk) -> None:
        self.count = 0
        disk.before = self._before

    def _before(self, operation: str, path: Path) -> None:
        self.count += operation == "sync" and path.name == "journal"


async def weak_log(data_dir: Path, disk: MemoryDisk, level: str = "os", **changes: Any) -> EmbeddedLog:
    """A log with topics `telemetry` and `other`, that has noted that weaker levels are in use; one record is in it."""
    settings = log_settings(durability=level, **{**LATE, **changes})
    log = await open_log(data_dir, storage=disk, settings=settings)
    for topic in ("telemetry", "other"):
        await log.create_topic(topic, 1)
    await log.append([record("telemetry", "d", "first")])
    await wait_until_async(lambda: _noted(disk, data_dir), describe="the checkpoint notes weaker levels")
    for _ in range(3):  # the loop hears of it a moment later
        await log._engine.segment_thread.run(lambda: None)
    return log


def _noted(disk: MemoryDisk, data_dir: Path) -> bool:
    checkpoint = read_checkpoint(disk, data_dir / LOG_DIR)
    return checkpoint is not None and checkpoint.unsynced_records > 0


def put(log: EmbeddedLog, waiter: RecordingWaiter, token: Any, topic: str = "telemetry", **options: Any) -> None:
    """Append as a listener does."""
    log.partitions(topic)[0].append(log.now_ms(), b"d", b"v", [])
    log.appended(1, 10, waiter, token, **options)


@pytest.mark.parametrize(
    ("asked", "topics", "expected"),
    [
        (OS, [None], OS),
        (INTERVAL, [None, None], INTERVAL),
        (FSYNC, [OS], OS),
        (FSYNC, [OS, INTERVAL], INTERVAL),
        (FSYNC, [OS, None], FSYNC),
        (OS, [INTERVAL, None], INTERVAL),
        (OS, [FSYNC], FSYNC),
        (INTERVAL, [], INTERVAL),
    ],
)
def test_a_commit_is_as_strict_as_its_strictest_record(
    asked: Durability, topics: list[Durability | None], expected: Durability
) -> None:
    assert strictest(asked, topics) is expected


def test_levels_by_name() -> None:
    assert [Durability.named(level.label) for level in Durability] == list(Durability)


def test_weaker_levels_say_where() -> None:
    assert weaker_levels("fsync", {"mqtt": None}, [("t", "fsync")]) == {}
    assert weaker_levels("interval", {"mqtt": None, "tcp": "fsync"}, [("t", "os"), ("u", None)]) == {
        "log": "interval",
        "mqtt": "interval",
        "topic t": "os",
    }


def test_what_is_unsynced_has_an_age() -> None:
    unsynced = Unsynced()
    assert unsynced.age_s(50.0) == 0
    unsynced.add(2, 20, since_s=10.0)
    unsynced.add(3, 30, since_s=12.0)
    assert (unsynced.records, unsynced.size_bytes, unsynced.age_s(15.0)) == (5, 50, 5.0)
    unsynced.clear()
    unsynced.add(1, 10, since_s=20.0)
    assert unsynced.age_s(21.0) == 1.0


@pytest.mark.parametrize("level", ["interval", "os"])
async def test_the_first_weaker_acknowledgement_waits_for_the_note(tmp_path: Path, level: str) -> None:
    """Otherwise recovery would not know that offsets which readers have seen may be lost."""
    disk = MemoryDisk()
    async with opened(tmp_path, storage=disk, settings=log_settings(durability=level, **LATE)) as log:
        await log.create_topic("telemetry", 1)
        waiter, told_unsynced = RecordingWaiter(), []
        for number in range(40):
            before = log.stats.syncs
            put(log, waiter, number)
            await log.drain()
            if log.stats.syncs == before:
                told_unsynced.append(number)
                assert _noted(disk, tmp_path)
            await log._engine.segment_thread.run(lambda: None)
        assert told_unsynced
        assert told_unsynced[0] > 0
        assert waiter.committed_tokens == list(range(40))


@pytest.mark.parametrize("level", ["interval", "os"])
async def test_acknowledged_without_a_sync_and_counted(tmp_path: Path, level: str) -> None:
    disk = MemoryDisk()
    log = await weak_log(tmp_path, disk, level)
    syncs, waiter = Syncs(disk), RecordingWaiter()
    for number in range(3):
        put(log, waiter, number)
        await log.drain()
    assert waiter.committed_tokens == [0, 1, 2]
    assert syncs.count == 0
    assert log.stats.unsynced_records == 3
    assert log.stats.unsynced.size_bytes > 3 * 61
    assert log.unsynced_age_s >= 0
    put(log, waiter, 3, durability=FSYNC)
    await log.drain()
    assert (syncs.count, log.stats.unsynced_records, log.unsynced_age_s) == (1, 0, 0)
    await log.close()


async def test_interval_syncs_by_itself(tmp_path: Path) -> None:
    disk = MemoryDisk()
    log = await weak_log(tmp_path, disk, "interval", sync_interval="10ms")
    syncs = Syncs(disk)
    await log.append([record("telemetry", "d", "v")])
    await wait_until_async(lambda: syncs.count, describe="a sync after the interval")
    await wait_until_async(lambda: not log.stats.unsynced_records, describe="nothing unsynced")
    assert syncs.count == 1
    await log.close()


async def test_os_syncs_with_the_next_checkpoint(tmp_path: Path) -> None:
    disk = MemoryDisk()
    log = await weak_log(tmp_path, disk, "os")
    syncs = Syncs(disk)
    await log.append([record("telemetry", "d", "v")])
    assert (syncs.count, log.stats.unsynced_records) == (0, 1)
    await log._engine.segment_thread.run(log._engine.segments.checkpoint)
    await wait_until_async(lambda: not log.stats.unsynced_records, describe="nothing unsynced")
    assert syncs.count == 1
    await log.close()


async def test_the_commit_that_would_leave_too_much_unsynced_syncs(tmp_path: Path) -> None:
    disk = MemoryDisk()
    log = await weak_log(tmp_path, disk, "os", unsynced_records=5)
    syncs, seen = Syncs(disk), []
    for _ in range(12):
        await log.append([record("telemetry", "d", "v")])
        seen.append((log.stats.unsynced_records, syncs.count))
    assert [unsynced for unsynced, _ in seen] == [1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0]
    assert syncs.count == 2
    await log.append([record("telemetry", "d", "v")] * 6)
    assert (log.stats.unsynced_records, syncs.count) == (0, 3)
    await log.close()


async def test_a_topic_s_own_level_stands_before_the_listener_s(tmp_path: Path) -> None:
    disk = MemoryDisk()
    log = await weak_log(tmp_path, disk, "os")
    log.keep_topics_at({"other": FSYNC, "telemetry": OS, "later": FSYNC})
    await log.create_topic("later", 1)
    syncs, waiter = Syncs(disk), RecordingWaiter()
    put(log, waiter, 0, "telemetry", durability=FSYNC)
    await log.drain()
    assert syncs.count == 0
    for number, topic in enumerate(("other", "later"), 1):
        put(log, waiter, number, topic, durability=OS)
        await log.drain()
        assert syncs.count == number
    put(log, waiter, 3, "telemetry", durability=OS)
    put(log, waiter, 4, "other", durability=OS)
    await log.drain()
    assert syncs.count == 3, "one commit, as strict as its strictest record"
    await log.close()


async def test_changes_of_tables_and_rolls_sync_at_every_level(tmp_path: Path) -> None:
    disk = MemoryDisk()
    log = await weak_log(tmp_path, disk, "os")
    syncs = Syncs(disk)
    await log.append([], [TableChange(table="sink.parquet", key="k", value=1)])
    assert syncs.count == 1
    await log.append([record("telemetry", "d", "v")])
    assert (syncs.count, log.stats.unsynced_records) == (1, 1)
    assert await log.roll("telemetry", "test") is not None
    assert log.stats.unsynced_records == 0
    disk.stop_at = disk.calls
    await log.close()
    disk.revive(power_cut=LoseAll())
    async with opened(tmp_path, storage=disk) as log:
        assert await log.rows("sink.parquet") == {"k": 1}
        with closing(FileLogReader(tmp_path, storage=disk)) as reader:
            assert [window.offsets for window in reader.windows("telemetry")] == [{0: (0, 2)}]
            assert [r.offset for r in reader.read("telemetry", 0, 0).records] == [0, 1]


async def test_an_empty_commit_is_not_one_below_fsync(tmp_path: Path) -> None:
    """A roll that finds nothing and a batch that is there already commit nothing, so no offsets may be lost."""
    disk = MemoryDisk()
    log = await open_log(tmp_path, storage=disk, settings=log_settings(durability="fsync", **LATE))
    await log.create_topic("telemetry", 1)
    batch = client_batch([b"v"], producer=(7, 0, 0))
    assert (await log.append_batch("telemetry", 0, batch)).offset == 0
    assert await log.roll("telemetry", "test") is not None
    assert await log.roll("telemetry", "test") is None
    assert (await log.append_batch("telemetry", 0, batch)).offset == 0
    await log._engine.segment_thread.run(lambda: None)  # behind whatever either of them has handed to it
    assert not _noted(disk, tmp_path)
    disk.stop_at = disk.calls
    await log.close()
    disk.revive()
    async with opened(tmp_path, storage=disk) as log:
        assert (await log.append([record("telemetry", "d", "next")]))[0].offset == 1


async def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    disk = MemoryDisk()
    log = await weak_log(tmp_path, disk, "os")
    for _ in range(20):
        await log.append([record("telemetry", "d", "v")])
    disk.stop_at = disk.calls
    await log.close()
    disk.revive()
    async with opened(tmp_path, storage=disk) as log:
        with closing(FileLogReader(tmp_path, storage=disk)) as reader:
            assert [r.offset for r in reader.read("telemetry", 0, 0).records] == list(range(21))


async def test_offsets_that_readers_saw_and_a_power_cut_took_are_not_used_again(tmp_path: Path) -> None:
    disk = MemoryDisk()
    log = await weak_log(tmp_path, disk, "os", unsynced_records=100)
    for _ in range(7):
        await log.append([record("telemetry", "d", "lost")])
    with closing(FileLogReader(tmp_path, storage=disk)) as reader:
        await wait_until_async(lambda: reader.watermarks("telemetry")[0].high == 8, describe="all seen")
    epoch = log._engine.leader_epoch
    disk.stop_at = disk.calls
    await log.close()
    disk.revive(power_cut=LoseAll())
    clock = FakeClock()
    async with opened(tmp_path, storage=disk, clock=clock) as log:
        cuts = [(cut.topic, cut.partition, cut.first, cut.next, cut.reason) for cut in log.report.cuts]
        assert cuts == [("other", 0, 0, 100, REASON), ("telemetry", 0, 1, 101, REASON)]
        assert not log.report.clean
        assert log._engine.leader_epoch > epoch
        with closing(FileLogReader(tmp_path, storage=disk, clock=clock)) as reader:
            await wait_until_async(lambda: reader.writer_state() is WriterState.LIVE, describe="the first heartbeat")
            read = reader.read("telemetry", 0, 1)
            assert [(gap.first, gap.next) for gap in read.gaps] == [(1, 101)]
            (position,) = await log.append([record("telemetry", "d", "new")])
            assert position.offset == 101
            await wait_until_async(lambda: reader.watermarks("telemetry")[0].high == 102, describe="seen")
            assert [r.value for r in reader.read("telemetry", 0, read.next_offset).records] == [b"new"]
    async with opened(tmp_path, storage=disk) as log:
        assert log.report.clean
        (position,) = await log.append([record("telemetry", "d", "more")])
        assert position.offset == 102, "an orderly end loses nothing, whatever the level"


async def test_a_start_that_dies_again_passes_over_once(tmp_path: Path) -> None:
    """The run after recovery has acknowledged nothing weakly, and says so in its first checkpoint."""
    disk = MemoryDisk()
    log = await weak_log(tmp_path, disk, "os", unsynced_records=100)
    for expected in (101, 101):
        disk.stop_at = disk.calls
        await log.close()
        disk.revive(power_cut=LoseAll())
        log = await open_log(tmp_path, storage=disk)
        assert log.partitions("telemetry")[0].next_offset == expected  # type: ignore[attr-defined]
    await log.close()


async def test_at_fsync_nothing_is_passed_over(tmp_path: Path) -> None:
    disk = MemoryDisk()
    log = await open_log(tmp_path, storage=disk)
    await log.create_topic("telemetry", 1)
    await log.append([record("telemetry", "d", "v")])
    disk.stop_at = disk.calls
    await log.close()
    disk.revive(power_cut=LoseAll())
    async with opened(tmp_path, storage=disk) as log:
        (position,) = await log.append([record("telemetry", "d", "v")])
        assert position.offset == 1
        assert not log.report.cuts


async def test_a_late_sync_that_fails_fails_the_log(tmp_path: Path) -> None:
    disk = MemoryDisk()
    log = await weak_log(tmp_path, disk, "interval", sync_interval="10ms")
    failures: list[Exception] = log._engine.on_failure  # type: ignore[assignment]

    def before(operation: str, path: Path) -> None:
        if operation == "sync" and path.name == "journal":
            raise OSError(5, "Input/output error")

    disk.before = before
    waiter = RecordingWaiter()
    put(log, waiter, "weak")
    await wait_until_async(lambda: failures, describe="the log fails")
    assert waiter.committed_tokens == ["weak"]
    put(log, waiter, "after")
    assert waiter.failed_tokens == ["after"]
    await log.close()


def test_a_batch_too_far_from_its_segment_s_base_starts_another(tmp_path: Path) -> None:
    disk = MemoryDisk()
    files = _partition_files(disk, tmp_path)
    for offset in (0, MAX_RELATIVE_OFFSET, MAX_RELATIVE_OFFSET + 1):
        builder = new_builder(CODEC_NONE)
        builder.append(0, 1, b"k", b"v", [])
        batch = builder.build()
        place(batch, offset, 0)
        files.append(batch, offset, 1, 1)
    assert base_offsets(disk, tmp_path) == [0, MAX_RELATIVE_OFFSET + 1]


def _partition_files(disk: MemoryDisk, directory: Path) -> PartitionFiles:
    info = TopicInfo(name="t", topic_id="00" * 16, partitions=1)
    return PartitionFiles(disk, directory, info, 0, log_start=0, next_offset=0, active=None, segment_size_bytes=1 << 20)


# -- lives


@dataclass
class Known:
    """What the lives so far have shown; `cached` survives a kill, and a power cut once recovery has synced it."""

    seen: dict[int, bytes] = field(default_factory=dict)
    must_stay: set[int] = field(default_factory=set)
    cached: set[int] = field(default_factory=set)
    serial: int = 0


@pytest.mark.parametrize("level", ["interval", "os"])
@pytest.mark.parametrize("seed", range(12))
async def test_offsets_mean_one_thing_for_ever(tmp_path: Path, seed: int, level: str) -> None:
    """Deaths at any storage call: what anybody has read never changes, and nothing synced is lost."""
    rng = random.Random(f"{seed}-{level}")
    disk, known = MemoryDisk(), Known()
    settings = log_settings(durability=level, unsynced_records=rng.choice((3, 50)), **LATE)
    for number in range(7):
        if number and rng.random() < 0.5:
            disk.stop_at = disk.calls + int(2 ** rng.uniform(0, 9))  # may fall into recovery itself
        with contextlib.suppress(DiskStoppedError, UnavailableError):
            log = await open_log(tmp_path, storage=disk, settings=settings)
            try:
                await _live(log, tmp_path, disk, known, rng)
            finally:
                disk.stop_at = 0
                await log.close()
        cut = rng.random() < 0.7
        disk.revive()
        _look(tmp_path, disk, known.seen)
        disk.revive(power_cut=rng if cut else None)
        if cut:
            known.cached.clear()
    await (await open_log(tmp_path, storage=disk, settings=settings)).close()
    assert known.must_stay | known.cached <= _look(tmp_path, disk, known.seen).keys()


async def _live(log: EmbeddedLog, data_dir: Path, disk: MemoryDisk, known: Known, rng: random.Random) -> None:
    known.must_stay |= known.cached
    await log.create_topic("telemetry", 1)
    assert known.must_stay <= _look(data_dir, disk, known.seen).keys(), "synced, and lost"
    for _ in range(rng.randint(1, 30) if known.serial else 20):
        known.serial += 1
        changes = [TableChange(table="state", key="k", value=known.serial)] if rng.random() < 0.1 else []
        (position,) = await log.append([record("telemetry", "d", b"%d" % known.serial)], changes)
        known.cached.add(position.offset)
        if not log.stats.unsynced_records:
            known.must_stay |= known.cached
        if rng.random() < 0.1:
            log._engine.commits.sync_late()
        if rng.random() < 0.1:
            log._engine.segment_thread.submit(log._engine.segments.checkpoint)
        if rng.random() < 0.3:
            await asyncio.sleep(0)
            _look(data_dir, disk, known.seen)


def _look(data_dir: Path, disk: MemoryDisk, seen: dict[int, bytes]) -> dict[int, bytes]:
    """Everything that can be read now; what was seen before at an offset must be the same."""
    found: dict[int, bytes] = {}
    with closing(FileLogReader(data_dir, storage=disk)) as reader:
        offset, high = 0, reader.watermarks("telemetry")[0].high
        while offset < high:
            part = reader.read("telemetry", 0, offset)
            if part.next_offset == offset:
                break  # its writer is dead: the map promises more than the files hold
            found |= {r.offset: r.value or b"" for r in part.records}
            offset = part.next_offset
    for offset, value in found.items():
        assert seen.setdefault(offset, value) == value, f"offset {offset} has changed its meaning"
    return found


# -- settings


def test_profiles_set_what_is_not_given() -> None:
    ssd, sd = LogSettings(), LogSettings(profile="sd")
    assert LogSettings(profile="ssd") == ssd
    assert sd.commit_interval_ms > ssd.commit_interval_ms
    assert sd.checkpoint_interval_ms > ssd.checkpoint_interval_ms
    assert LogSettings(profile="sd", commit_interval="3ms") == sd.model_copy(update={"commit_interval_ms": 3})


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(ValueError, match="profile"):
        LogSettings(profile="tape")  # type: ignore[arg-type]
