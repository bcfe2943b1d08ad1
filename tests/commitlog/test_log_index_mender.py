"""Indexes of closed segments that are missing or wrong are made again behind the running log, in small steps."""

from __future__ import annotations

import errno
import random
from contextlib import closing
from pathlib import Path

import pytest

from commitlog.embedded import EmbeddedLog
from commitlog.index import OFFSET_ENTRY, TIME_ENTRY
from commitlog.index_mender import STEP_BYTES, impossible_size
from commitlog.reader import FileLogReader
from commitlog.segment import base_offsets
from commitlog.storage import LOG_DIR
from tests.commitlog.commitlog_disk import MemoryDisk
from tests.commitlog.log_support import log_settings, open_log, read_partition, record
from tests.log_fakes import FakeClock

SETTINGS = log_settings(flush_interval="1h", segment_size="16MB")
PARTITION = Path(LOG_DIR) / "telemetry-0"


async def a_log(data_dir: Path, disk: MemoryDisk, clock: FakeClock, *, kill: bool = False, segments: int = 3) -> None:
    """Closed segments of 12 batches, each with an entry in both indexes but the first; a short open one."""
    log = await open_log(data_dir, storage=disk, settings=SETTINGS, clock=clock)
    await log.create_topic("telemetry", 1)
    for number in range(segments):
        for part in range(12):
            clock.now_ms += 1_000
            await log.append([record("telemetry", "d", random.Random(part).randbytes(5_000))])
            log._engine.flusher.flush_now()
            await log._engine.segment_thread.run(lambda: None)
        await log.roll("telemetry", f"closes segment {number}")
    await log.append([record("telemetry", "d", "in the open one")])
    if kill:
        disk.stop_at = 0
    await log.close()
    disk.revive()


def index(disk: MemoryDisk, data_dir: Path, base: int, suffix: str) -> bytearray:
    return disk.content(data_dir / PARTITION / f"{base:020}{suffix}")


def both(disk: MemoryDisk, data_dir: Path, base: int) -> tuple[bytes, bytes]:
    return bytes(index(disk, data_dir, base, ".index")), bytes(index(disk, data_dir, base, ".timeindex"))


async def tended(log: EmbeddedLog, times: int = 3) -> None:
    for _ in range(times):
        await log._engine.segment_thread.run(log._engine.segments.checkpoint_if_due)


@pytest.mark.parametrize("suffix", [".index", ".timeindex"])
@pytest.mark.parametrize("how", ["gone", "half an entry", "too long", "empty"])
@pytest.mark.parametrize("kill", [False, True], ids=["clean", "killed"])
async def test_what_is_missing_or_of_an_impossible_size_is_made_again_at_every_start(
    tmp_path: Path, suffix: str, how: str, kill: bool
) -> None:
    disk, clock = MemoryDisk(), FakeClock()
    await a_log(tmp_path, disk, clock, kill=kill)
    good = both(disk, tmp_path, 12)
    assert min(map(len, good)) > 80
    if how == "gone":
        disk.remove(tmp_path / PARTITION / f"{12:020}{suffix}")
    elif how == "half an entry":
        del index(disk, tmp_path, 12, suffix)[-3:]
    elif how == "too long":
        index(disk, tmp_path, 12, suffix).extend(bytes(10 * OFFSET_ENTRY.size * TIME_ENTRY.size))
    else:
        index(disk, tmp_path, 12, suffix).clear()
    log = await open_log(tmp_path, storage=disk, settings=SETTINGS, clock=clock)
    told = [note for note in log.report.notes if "indexes of 1 closed segments are made again" in note]
    if (how, kill, suffix) != ("empty", True, ".index"):
        assert how == "empty" or len(told) == 1
    await tended(log)
    assert both(disk, tmp_path, 12) == good
    with closing(FileLogReader(tmp_path, storage=disk, clock=clock)) as reader:
        assert len(read_partition(reader, "telemetry", 0)) >= 36
    assert not [name for name in disk.names(tmp_path / PARTITION) if name.endswith(".tmp")]
    await log.close()


def cut_short(content: bytearray, entry_bytes: int) -> None:
    del content[-3 * entry_bytes :]


def last_wrong(content: bytearray, entry_bytes: int) -> None:
    content[-1] ^= 1


@pytest.mark.parametrize("damage", [cut_short, last_wrong])
async def test_a_wrong_end_is_found_after_an_unclean_start_only(tmp_path: Path, damage: object) -> None:
    disk, clock = MemoryDisk(), FakeClock()
    await a_log(tmp_path, disk, clock, kill=True)
    good = both(disk, tmp_path, 12)
    for suffix, entry_bytes in ((".index", OFFSET_ENTRY.size), (".timeindex", TIME_ENTRY.size)):
        damage(index(disk, tmp_path, 12, suffix), entry_bytes)  # type: ignore[operator]
    wrong = both(disk, tmp_path, 12)
    log = await open_log(tmp_path, storage=disk, settings=SETTINGS, clock=clock)
    assert not any("indexes" in note for note in log.report.notes), "the sizes are possible"
    await tended(log)
    assert both(disk, tmp_path, 12) == good
    assert log._engine.segments._mender.made_again == 1
    await log.close()
    index(disk, tmp_path, 12, ".index")[:] = wrong[0]
    index(disk, tmp_path, 12, ".timeindex")[:] = wrong[1]
    log = await open_log(tmp_path, storage=disk, settings=SETTINGS, clock=clock)
    await tended(log)
    assert both(disk, tmp_path, 12) == wrong, "after a clean stop only sizes are looked at"
    await log.close()


async def test_right_indexes_are_left_alone(tmp_path: Path) -> None:
    disk, clock = MemoryDisk(), FakeClock()
    await a_log(tmp_path, disk, clock, kill=True)
    log = await open_log(tmp_path, storage=disk, settings=SETTINGS, clock=clock)
    written: list[str] = []
    disk.before = lambda operation, path: written.append(path.name) if operation in ("write", "rename") else None
    await log._engine.segment_thread.run(log._engine.segments._mender.step)
    assert log._engine.segments._mender.made_again == 0
    assert written == []
    assert log._engine.segments._mender._work is None, "it has looked at everything"
    disk.before = None
    await log.close()


async def test_a_step_is_bounded(tmp_path: Path) -> None:
    disk, clock = MemoryDisk(), FakeClock()
    await a_log(tmp_path, disk, clock)
    bases = base_offsets(disk, tmp_path / PARTITION)[:3]
    for base in bases:
        disk.remove(tmp_path / PARTITION / f"{base:020}.index")
    log = await open_log(tmp_path, storage=disk, settings=SETTINGS, clock=clock)
    mender = log._engine.segments._mender
    assert mender._work is not None
    costs = list(mender._work)
    assert max(costs) < 10_000, "a batch at a time"
    assert max(costs) < STEP_BYTES
    assert mender.made_again == 3
    await log.close()


@pytest.mark.parametrize("operation", ["write", "sync", "rename", "open"])
async def test_a_disk_that_refuses_leaves_the_index_and_the_log_as_they_are(tmp_path: Path, operation: str) -> None:
    disk, clock = MemoryDisk(), FakeClock()
    await a_log(tmp_path, disk, clock)
    disk.remove(tmp_path / PARTITION / f"{12:020}.index")
    log = await open_log(tmp_path, storage=disk, settings=SETTINGS, clock=clock)

    def before(called: str, path: Path) -> None:
        if called == operation and path.name.startswith(f"{12:020}"):
            raise OSError(errno.EIO, "input/output error")

    disk.before = before
    await tended(log)
    assert log._engine.segments._mender.made_again == 0
    (position,) = await log.append([record("telemetry", "d", "it goes on")])
    assert position.offset == 37
    disk.before = None
    await log.close()


async def test_a_segment_that_is_deleted_meanwhile_is_passed_over(tmp_path: Path) -> None:
    disk, clock = MemoryDisk(), FakeClock()
    await a_log(tmp_path, disk, clock)
    for base in (0, 12):
        disk.remove(tmp_path / PARTITION / f"{base:020}.index")
    log = await open_log(tmp_path, storage=disk, settings=SETTINGS, clock=clock)
    assert log._engine.segments._mender._work is not None
    next(log._engine.segments._mender._work)  # in the midst of the first
    await log.delete_segments("telemetry", 0, 12, "test")
    await tended(log)
    names = disk.names(tmp_path / PARTITION)
    assert f"{0:020}.index" not in names
    assert f"{12:020}.index" in names
    await log.close()


@pytest.mark.parametrize(
    ("sizes", "word"),
    [
        ((0, 0, 0), ""),
        ((50_000, 80, 132), ""),
        ((50_000, 80, 120), ""),
        ((50_000, 80, 12), ""),
        ((5_000_000, 0, 0), ""),  # one large batch, and its end was written by a start that did not read it
        ((50_000, None, 12), "missing"),
        ((50_000, 80, None), "missing"),
        ((50_000, 81, 132), "midst"),
        ((50_000, 80, 131), "midst"),
        ((50_000, 104, 132), "13 entries for"),
        ((50_000, 80, 144), "12 entries where"),
        ((50_000, 80, 0), "0 entries where"),
    ],
)
def test_sizes(sizes: tuple[int, int | None, int | None], word: str) -> None:
    found = impossible_size(*sizes)
    assert bool(found) == bool(word)
    assert word in found
