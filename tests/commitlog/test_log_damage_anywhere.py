"""Bytes damaged anywhere below `<data>/log`: the log starts, what it reads is true, and holes are spoken of."""

from __future__ import annotations

import asyncio
import random
from contextlib import closing
from pathlib import Path

import pytest

from commitlog.base import TableChange
from commitlog.embedded import EmbeddedLog
from commitlog.reader import FileLogReader
from commitlog.storage import LOG_DIR
from commitlog.walk import walk
from tests.commitlog.commitlog_disk import MemoryDisk
from tests.commitlog.log_support import log_settings, open_log, record, some_value
from tests.log_fakes import FakeClock

COVERED = range(16, 1 << 30)  # of a batch, by its CRC or because it is magic; offsets alone are another test's subject
Truth = dict[tuple[int, int], bytes]
"""Value by partition and offset."""


async def work(log: EmbeddedLog, rng: random.Random, truth: Truth) -> None:
    await log.create_topic("telemetry", 2)
    for number in range(rng.randint(5, 60)):
        values = [b"%04d" % number + some_value(rng) for _ in range(rng.randint(1, 3))]
        records = [record("telemetry", f"m{rng.randrange(3)}", value, partition=rng.randrange(2)) for value in values]
        positions = await log.append(records, [TableChange(table="state", key=f"k{number % 5}", value=number)])
        for position, value in zip(positions, values, strict=True):
            truth[(position.partition, position.offset)] = value
        if rng.random() < 0.1:
            await log.roll("telemetry", "test")
        if rng.random() < 0.2:
            log._engine.flusher.flush_now()
            await log._engine.segment_thread.run(lambda: None)


def batch_starts(disk: MemoryDisk, path: Path) -> list[int]:
    """Also of those behind damage of an earlier life."""
    return [found.position for found in walk(disk.open(path), 0, int(path.stem))]


def damage(disk: MemoryDisk, rng: random.Random) -> None:
    """Flips, zeroed stretches and cut ends; not of a batch's offset or epoch, which nothing covers where it is last."""
    paths = sorted(path for path, inode in disk._names.items() if inode.now and LOG_DIR in path.parts)
    for path in rng.sample(paths, min(len(paths), rng.randint(1, 3))):
        content = disk.content(path)
        at = rng.randrange(len(content))
        how = rng.random()
        if path.name == "journal":  # most of it is unused
            used = [n for n in range(0, len(content), 512) if any(content[n : n + 512])]
            at = min(len(content) - 1, rng.choice(used) + rng.randrange(512)) if used else at
        if path.suffix == ".log":
            starts = batch_starts(disk, path)
            start = max((one for one in starts if one <= at), default=0)
            content[at if at - start in COVERED else start + 20] ^= 1 << rng.randrange(8)
        elif how < 0.5:
            content[at] ^= 1 << rng.randrange(8)
        elif how < 0.8:
            end = min(len(content), at + rng.choice((1, 30, 600, 5_000)))
            content[at:end] = bytes(end - at)
        elif path.name != "journal":
            del content[at:]


def check(disk: MemoryDisk, data_dir: Path, clock: FakeClock, truth: Truth) -> int:
    """Everything that is read is what was appended there; returns how much."""
    seen = 0
    with closing(FileLogReader(data_dir, storage=disk, clock=clock)) as reader:
        for partition, mark in enumerate(reader.watermarks("telemetry")):
            at = mark.start
            while at < mark.high:
                part = reader.read("telemetry", partition, at, max_bytes=5_000)
                assert part.next_offset > at, f"stuck at {at} of {mark.high}"
                for one in part.records:
                    assert truth[(partition, one.offset)] == one.value
                missing = sum(gap.next - gap.first for gap in part.gaps)
                assert len(part.records) + missing == part.next_offset - at, "a hole that nobody spoke of"
                seen += len(part.records)
                at = part.next_offset
    return seen


@pytest.mark.parametrize("seed", range(40))
async def test_damage_anywhere(tmp_path: Path, seed: int) -> None:
    rng, disk, clock, truth = random.Random(seed), MemoryDisk(), FakeClock(), Truth()
    settings = log_settings(flush_interval=rng.choice(("1ms", "1h")), segment_size=rng.choice(("64KB", "16MB")))
    for _ in range(3):
        log = await open_log(tmp_path, storage=disk, clock=clock, settings=settings)
        await asyncio.sleep(0)  # the heartbeat
        if "telemetry" in {info.name for info in log.topics()}:
            check(disk, tmp_path, clock, truth)
        await work(log, rng, truth)
        if rng.random() < 0.6:
            disk.stop_at = 0
        await log.close()
        disk.revive()
        damage(disk, rng)
    log = await open_log(tmp_path, storage=disk, clock=clock, settings=settings)
    await asyncio.sleep(0)
    check(disk, tmp_path, clock, truth)
    await log.close()
