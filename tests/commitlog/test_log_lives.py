"""A log that dies again and again, against a plain model of what it was told and what it acknowledged.

Each life opens the log on what the last one left, works at random, and ends by a kill or a power cut at some storage
call (which may fall into recovery itself), or in order. The model knows nothing of journals and segments: only which
appends were made, in which order, which were acknowledged, and that an append is there whole or not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Coroutine
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from commitlog.base import ClosedWindow, Position, TableChange
from commitlog.checkpoint import read_checkpoint
from commitlog.embedded import EmbeddedLog
from commitlog.reader import FileLogReader
from commitlog.storage import LOG_DIR
from core.errors import UnavailableError
from tests.commitlog.commitlog_disk import DiskStoppedError, MemoryDisk
from tests.commitlog.log_support import Failures, open_log, read_partition, record, some_value
from tests.log_fakes import FakeClock

TOPICS = {"telemetry": 3, "device.events": 1}


@dataclass
class Append:
    """One call: the values it put into partitions, and the row it set. `positions` once it was acknowledged."""

    values: list[tuple[str, int, bytes]]
    row: tuple[str, Any]
    positions: list[Position] = field(default_factory=list)


@dataclass
class Model:
    appends: list[Append] = field(default_factory=list)
    windows: list[ClosedWindow] = field(default_factory=list)
    epoch: int = 0
    serial: int = 0

    def new_append(self, rng: random.Random) -> Append:
        made = []
        for _ in range(rng.choice((1, 1, 2, 5))):
            topic = rng.choice(sorted(TOPICS))
            self.serial += 1
            made.append((topic, rng.randrange(TOPICS[topic]), b"%08d:" % self.serial + some_value(rng)))
        row = f"n{self.serial % 7}", rng.choice((None, self.serial, {"at": self.serial}))
        one = Append(made, row)
        self.appends.append(one)
        return one


async def work(log: EmbeddedLog, model: Model, rng: random.Random, clock: FakeClock) -> None:
    """Random appends, several at a time, and rolls; ends early when the disk does."""

    async def append(one: Append) -> None:
        records = [record(topic, None, value, partition=partition) for topic, partition, value in one.values]
        one.positions = list(await log.append(records, [TableChange(table="state", key=one.row[0], value=one.row[1])]))

    async def roll() -> None:
        window = await log.roll(rng.choice(sorted(TOPICS)), "test")
        if window is not None:
            model.windows.append(window)

    for name, partitions in TOPICS.items():
        await log.create_topic(name, partitions)
    for _ in range(rng.randint(3, 25)):
        clock.now_ms += rng.choice((0, 1, 700, -300))
        calls: list[Coroutine[Any, Any, None]]
        calls = [append(model.new_append(rng)) for _ in range(rng.randint(1, 6))]
        if rng.random() < 0.15:
            calls.append(roll())
        results = await asyncio.gather(*calls, return_exceptions=True)
        failed = [result for result in results if isinstance(result, BaseException)]
        if failed:
            assert all(isinstance(error, UnavailableError) for error in failed)
            return


async def live(
    disk: MemoryDisk, data_dir: Path, model: Model, rng: random.Random, clock: FakeClock, *, mortal: bool
) -> None:
    disk.stop_at = disk.calls + int(2 ** rng.uniform(0, 10)) if mortal else None
    failures = Failures()
    try:
        log = await open_log(data_dir, clock=clock, storage=disk, on_failure=failures)
    except DiskStoppedError:
        return
    await work_and_close(log, model, rng, clock)
    assert len(failures) <= 1
    assert mortal or not failures


async def work_and_close(log: EmbeddedLog, model: Model, rng: random.Random, clock: FakeClock) -> None:
    async with asyncio.timeout(20):
        with contextlib.suppress(UnavailableError):  # the disk stopped while a topic was being made
            await work(log, model, rng, clock)
        await log.close()


async def check(disk: MemoryDisk, data_dir: Path, model: Model, clock: FakeClock, rng: random.Random) -> None:
    """Open, compare everything with the model, and take what is there now as what must stay."""
    log = await open_log(data_dir, clock=clock, storage=disk)
    try:
        checkpoint = read_checkpoint(disk, data_dir / LOG_DIR)
        assert checkpoint is not None
        assert checkpoint.leader_epoch >= model.epoch + (not log.report.clean)
        model.epoch = checkpoint.leader_epoch
        with closing(FileLogReader(data_dir, storage=disk)) as reader:
            found = check_records(reader, model, rng)
            check_windows(reader, model)
        rows: dict[str, Any] = {}
        for one in found:
            rows[one.row[0]] = one.row[1]
        assert await log.rows("state") == {key: value for key, value in rows.items() if value is not None}
        model.appends = found
    finally:
        await die_or_close(log, rng)


async def die_or_close(log: EmbeddedLog, rng: random.Random) -> None:
    """What was recovered must be durable already: half of the time nothing more is synced after it."""
    if rng.random() < 0.5:
        log._engine.segments._storage.stop_at = 0  # type: ignore[attr-defined]
    await log.close()


def check_records(reader: FileLogReader, model: Model, rng: random.Random) -> list[Append]:
    """Which appends are there; every acknowledged one is, where it was said to be, and none is there in part."""
    there: dict[bytes, Position] = {}
    for topic, info in reader.topics().items():
        for partition in range(info.partitions):
            records = read_partition(reader, topic, partition)
            assert [r.offset for r in records] == list(range(len(records)))
            times = [r.timestamp for r in records]
            assert times == sorted(times)
            for one in records:
                assert one.value not in there
                there[one.value or b""] = Position(topic=topic, partition=partition, offset=one.offset)
            if records:
                at = rng.randrange(len(records))
                part = reader.read(topic, partition, at, max_bytes=1)
                assert part.records[0].value == records[at].value
    found = []
    last: dict[tuple[str, int], int] = {}
    for append in model.appends:
        places = [there.pop(value, None) for _, _, value in append.values]
        present = [place for place in places if place is not None]
        assert len(present) in (0, len(places)), "an append is there in part"
        if append.positions:
            assert present == append.positions, "acknowledged, and not where it was said to be"
        for place in present:
            assert place.offset > last.get((place.topic, place.partition), -1), "out of order"
            last[place.topic, place.partition] = place.offset
        if present:
            append.positions = present
            found.append(append)
    assert not there, "records that nobody appended"
    return found


def check_windows(reader: FileLogReader, model: Model) -> None:
    for topic in reader.topics():
        windows = reader.windows(topic)
        assert [window.number for window in windows] == list(range(len(windows)))
        for window in (w for w in model.windows if w.topic == topic):
            assert windows[window.number] == window
        for before, after in itertools.pairwise(windows):
            assert {p: end for p, (_, end) in before.offsets.items()} == {p: s for p, (s, _) in after.offsets.items()}
        if windows:
            highs = [mark.high for mark in reader.watermarks(topic)]
            assert all(end <= highs[p] for p, (_, end) in windows[-1].offsets.items())
        model.windows = [w for w in model.windows if w.topic != topic] + list(windows)


@pytest.mark.parametrize("death", ["kill", "power-cut"])
@pytest.mark.parametrize("seed", range(12))
async def test_what_was_acknowledged_outlives_every_death(tmp_path: Path, seed: int, death: str) -> None:
    rng = random.Random(f"{seed}-{death}")
    disk, model, clock = MemoryDisk(), Model(), FakeClock()
    for number in range(6):
        await live(disk, tmp_path, model, rng, clock, mortal=number > 0 and rng.random() < 0.8)
        disk.revive(power_cut=rng if death == "power-cut" else None)
        if rng.random() < 0.7:
            await check(disk, tmp_path, model, clock, rng)
            disk.revive(power_cut=rng if rng.random() < 0.7 else None)
    await check(disk, tmp_path, model, clock, rng)
    assert model.serial > 10, "the lives were too short to show anything"
