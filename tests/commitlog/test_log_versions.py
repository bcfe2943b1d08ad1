"""Format versions, and logs that were copied or restored."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import pytest

from commitlog.base import Gap, WriterState
from commitlog.checkpoint import read_checkpoint
from commitlog.left_out import explained
from commitlog.reader import FileLogReader
from commitlog.restored import OFFSETS_LEFT_OUT, RESTORED_NAME
from commitlog.storage import LOG_DIR
from commitlog.version import FORMAT_VERSION, META_NAME, check_version, read_meta
from core.errors import DataDirError, UnavailableError
from tests.commitlog.commitlog_disk import MemoryDisk
from tests.commitlog.log_support import open_log, opened, read_partition, record
from tests.log_fakes import FakeClock


def meta(data_dir: Path) -> Path:
    return data_dir / LOG_DIR / META_NAME


async def a_log(data_dir: Path, disk: MemoryDisk) -> None:
    async with opened(data_dir, storage=disk) as log:
        await log.create_topic("telemetry", 2)
        await log.append([record("telemetry", None, f"v{n}", partition=n % 2) for n in range(6)])
        await log.roll("telemetry", "test")


async def test_a_newer_version_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    disk = MemoryDisk()
    await a_log(tmp_path, disk)
    disk.content(meta(tmp_path))[:] = b"version=7\nsomething.new=1\n"
    before = {path: bytes(inode.now) for path, inode in disk._names.items()}
    writes: list[str] = []
    disk.before = lambda operation, path: writes.append(operation)
    with pytest.raises(DataDirError, match=r"version 7.*up to 1") as refused:
        await open_log(tmp_path, storage=disk)
    assert refused.value.mend
    assert not {"write", "truncate", "rename", "remove"} & set(writes)
    assert {path: bytes(inode.now) for path, inode in disk._names.items()} == before


async def test_readers_refuse_a_newer_version(tmp_path: Path) -> None:
    disk = MemoryDisk()
    await a_log(tmp_path, disk)
    disk.content(meta(tmp_path))[:] = b"version=7\n"
    with closing(FileLogReader(tmp_path, storage=disk, clock=FakeClock())) as reader:
        for look in (
            reader.topics,
            lambda: reader.watermarks("telemetry"),
            lambda: reader.read("telemetry", 0, 0),
            lambda: reader.offset_for_time("telemetry", 0, 0),
            lambda: reader.windows("telemetry"),
            reader.topics,
        ):
            with pytest.raises(DataDirError, match=r"version 7.*up to 1") as refused:
                look()
            assert refused.value.mend
        assert reader.writer_state() is WriterState.STALE


async def test_a_reader_opened_before_the_log_is_made_looks_at_the_version_once_for_each_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = MemoryDisk()
    looks: list[Path] = []
    monkeypatch.setattr("commitlog.reader.check_version", lambda *at: (looks.append(at[1]), check_version(*at)))
    with closing(FileLogReader(tmp_path, storage=disk, clock=FakeClock())) as reader:
        with pytest.raises(UnavailableError):
            reader.topics()
        for start in (1, 2):
            await a_log(tmp_path, disk)
            for _ in range(3):
                assert len(read_partition(reader, "telemetry", 1)) == 3 * start
            assert looks == [tmp_path / LOG_DIR] * start
        await a_log(tmp_path, disk)
        disk.content(meta(tmp_path))[:] = b"version=7\n"
        with pytest.raises(DataDirError):
            reader.read("telemetry", 1, 0)


async def test_a_log_without_the_file_is_taken_and_gets_it(tmp_path: Path) -> None:
    disk = MemoryDisk()
    await a_log(tmp_path, disk)
    disk.remove(meta(tmp_path))
    async with opened(tmp_path, storage=disk) as log:
        assert log.report.clean
    assert read_meta(disk, tmp_path / LOG_DIR)["version"] == str(FORMAT_VERSION)


@pytest.mark.parametrize(
    "content", [b"", b"version", b"version=x\n", b"\xff\xfe", b"=\n", b"version=-1\njournal.inode=\n"]
)
async def test_a_damaged_file_is_no_reason_not_to_start(tmp_path: Path, content: bytes) -> None:
    disk = MemoryDisk()
    await a_log(tmp_path, disk)
    disk.content(meta(tmp_path))[:] = content
    async with opened(tmp_path, storage=disk) as log:
        assert not log.report.cuts
    assert read_meta(disk, tmp_path / LOG_DIR)["version"] == str(FORMAT_VERSION)


@pytest.mark.parametrize("how", ["copied", "marked"])
async def test_a_restored_log_gives_no_offset_out_again(tmp_path: Path, how: str) -> None:
    disk, clock = MemoryDisk(), FakeClock()
    await a_log(tmp_path, disk)
    epoch = read_checkpoint(disk, tmp_path / LOG_DIR)
    if how == "copied":
        disk._names[tmp_path / LOG_DIR / "journal"].number = 10**9
    else:
        disk.open(tmp_path / LOG_DIR / RESTORED_NAME, create=True)
    log = await open_log(tmp_path, storage=disk, clock=clock)
    assert [(cut.partition, cut.first, cut.next) for cut in log.report.cuts] == [
        (0, 3, 3 + OFFSETS_LEFT_OUT),
        (1, 3, 3 + OFFSETS_LEFT_OUT),
    ]
    (position,) = await log.append([record("telemetry", None, "after", partition=1)])
    assert position.offset == 3 + OFFSETS_LEFT_OUT
    await log.roll("telemetry", "flushed")
    with closing(FileLogReader(tmp_path, storage=disk, clock=clock)) as reader:
        part = reader.read("telemetry", 1, 0)
        assert [one.offset for one in part.records] == [0, 1, 2, 3 + OFFSETS_LEFT_OUT]
        assert list(part.gaps) == [Gap(first=3, next=3 + OFFSETS_LEFT_OUT, reason="left out")]
    await log.close()
    after = read_checkpoint(disk, tmp_path / LOG_DIR)
    assert epoch is not None
    assert after is not None
    assert after.leader_epoch == epoch.leader_epoch + 1
    async with opened(tmp_path, storage=disk, clock=clock) as log:
        assert log.report.clean, "once is enough"
        with closing(FileLogReader(tmp_path, storage=disk, clock=clock)) as reader:
            assert len(read_partition(reader, "telemetry", 1, 3 + OFFSETS_LEFT_OUT)) == 1


def test_gaps_are_split_along_what_was_left_out() -> None:
    rng = random.Random(4)
    for _ in range(300):
        edges = sorted(rng.sample(range(100), 6))
        ranges = [(edges[0], edges[1]), (edges[2], edges[3]), (edges[4], edges[5])]
        first, following = sorted(rng.sample(range(100), 2))
        parts = explained(
            [Gap(first=first, next=following, reason="missing")], [(low, high, "left out") for low, high in ranges]
        )
        told = {offset: part.reason for part in parts for offset in range(part.first, part.next)}
        assert told == {
            offset: "left out" if any(low <= offset < high for low, high in ranges) else "missing"
            for offset in range(first, following)
        }
        assert sum(part.next - part.first for part in parts) == following - first
