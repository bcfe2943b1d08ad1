"""What every sink owes the runner, tried by killing it at every step it takes.

`Subject` tells how to make a sink and how to see what its readers see; a further sink adds a subject.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from commitlog.base import Gap
from sink.parquet.held import Limits
from sink.parquet.sink import ParquetSink
from sink.payload.reading import json_reading
from sink.payload.times import Skew
from sink.storage import Storage
from tests.sink.sink_fakes import DAY_MS, T0, FakeLog, FaultyStorage, Killed, export_all, lake_rows

JSON = json_reading(Skew())


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sink.payload.chunks.CHUNK_RECORDS", 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParquetSubject:
    """The Parquet sink on a folder."""

    lake: Path

    def sink(self, storage: Storage) -> ParquetSink:
        limits = Limits(memory_bytes=1)
        return ParquetSink(self.lake, reading_of=lambda _topic: JSON, limits=limits, software="test", storage=storage)

    def visible(self) -> Counter[tuple[int, int]]:
        """(partition, offset) of every record a reader meets, and how often."""
        found: Counter[tuple[int, int]] = Counter()
        for folder in ("telemetry", "_quarantine/telemetry"):
            found.update((row["_partition"], row["_offset"]) for row in lake_rows(self.lake, folder))
        return found

    def published(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.lake)): path.read_bytes()
            for path in self.lake.glob("**/*.parquet")
            if ".tmp" not in path.parts
        }

    def identities(self) -> set[tuple[str, int, int]]:
        """What tells a file that was left alone from one that was written again."""
        found = [(path, path.stat()) for path in self.lake.glob("**/*.parquet") if ".tmp" not in path.parts]
        return {(path.name, stat.st_ino, stat.st_mtime_ns) for path, stat in found}

    def leftovers(self) -> list[Path]:
        hidden = [*self.lake.glob(".tmp/*"), *self.lake.glob(".plans/*")]
        return [path for path in hidden if path.name != "lock"]


def fleet_log() -> FakeLog:
    """Three windows: several dates and parts, quarantine, a clash, a gap, an empty partition, an empty window."""
    log = FakeLog(batch=3)
    log.topic()
    for number in range(6):
        log.put({"t": number, "ts": (T0 - DAY_MS * (number % 2)) // 1000})
    log.put(b"not json", raw=True)
    log.put({"t": "cold"})
    for number in range(3):
        log.put({"t": number / 2}, partition=1)
    log.close_window()
    log.close_window()
    log.put({"t": 9}, offset=11)
    log.gaps["telemetry", 0] = [Gap(first=8, next=10, reason="a corrupt batch"), Gap(first=10, next=11, reason="cut")]
    log.put(b"{", raw=True)
    log.close_window()
    return log


EXPECTED = Counter([(0, offset) for offset in (*range(8), 11, 12)] + [(1, offset) for offset in range(3)])
LOST = [[0, 8, 10, "a corrupt batch"], [0, 10, 11, "cut"]]


def with_faults(log: FakeLog, storage: FaultyStorage) -> None:
    log.before_append = [lambda: storage.step("before checkpoint")]
    log.after_append = [lambda: storage.step("after checkpoint")]


def heal(log: FakeLog) -> None:
    log.before_append, log.after_append = [], []


def check(subject: ParquetSubject, log: FakeLog) -> None:
    assert subject.visible() == EXPECTED
    assert subject.leftovers() == []
    rows = list(log.tables["exports"].values())
    assert sorted(lost for row in rows for lost in row["lost"]) == sorted(LOST)
    listed = {file["path"]: file["bytes"] for row in rows for file in row["files"]}
    assert listed == {path: len(content) for path, content in subject.published().items()}


async def test_everything_is_visible_once(tmp_path: Path) -> None:
    subject, log = ParquetSubject(lake=tmp_path), fleet_log()
    await export_all(subject.sink(FaultyStorage()), log)
    check(subject, log)
    assert len(subject.published()) >= 6


async def count_steps(lake: Path) -> int:
    log, storage = fleet_log(), FaultyStorage()
    with_faults(log, storage)
    await export_all(ParquetSubject(lake=lake).sink(storage), log)
    return storage.steps


@pytest.mark.parametrize("power_loss", [False, True], ids=["kill -9", "power loss"])
async def test_killed_at_every_step(tmp_path: Path, power_loss: bool) -> None:
    whole = ParquetSubject(lake=tmp_path / "whole")
    steps = await count_steps(whole.lake)
    assert steps > 60
    places = set()
    for number in range(1, steps + 1):
        subject, log = ParquetSubject(lake=tmp_path / str(number)), fleet_log()
        storage = FaultyStorage(die_at=number, power_loss=power_loss)
        with_faults(log, storage)
        with pytest.raises(Killed):
            await export_all(subject.sink(storage), log)
        places.add(storage.died_at)
        standing = subject.identities()
        heal(log)
        await export_all(subject.sink(FaultyStorage()), log)
        check(subject, log)
        assert subject.published() == whole.published()
        assert standing <= subject.identities()
    assert {"before checkpoint", "after checkpoint", "renamed", "before sync", "removed"} <= places


async def test_killed_again_and_again(tmp_path: Path) -> None:
    """Every attempt dies a few steps further than the last; together they still finish."""
    subject, log = ParquetSubject(lake=tmp_path), fleet_log()
    attempt = 0
    for attempt in range(1, 400):
        storage = FaultyStorage(die_at=attempt)
        with_faults(log, storage)
        try:
            await export_all(subject.sink(storage), log)
        except Killed:
            continue
        break
    assert attempt > 10
    heal(log)
    await export_all(subject.sink(FaultyStorage()), log)
    check(subject, log)


async def test_records_that_go_bad_after_a_kill_are_exported_or_listed_as_lost(tmp_path: Path) -> None:
    """What was planned is published as it was staged; without a plan the record is missing, and listed."""
    steps = await count_steps(tmp_path / "whole")
    seen = set()
    for number in range(1, steps):
        subject, log = ParquetSubject(lake=tmp_path / f"b{number}"), fleet_log()
        storage = FaultyStorage(die_at=number)
        with_faults(log, storage)
        with pytest.raises(Killed):
            await export_all(subject.sink(storage), log)
        heal(log)
        del log.records["telemetry", 1][1]
        log.gaps["telemetry", 1] = [Gap(first=1, next=2, reason="went bad")]
        again = FaultyStorage(die_at=9)
        with_faults(log, again)
        with contextlib.suppress(Killed):
            await export_all(subject.sink(again), log)
        heal(log)
        await export_all(subject.sink(FaultyStorage()), log)
        visible = subject.visible()
        lost = [entry for row in log.tables["exports"].values() for entry in row["lost"]]
        listed = [1, 1, 2, "went bad"] in lost
        assert visible == (EXPECTED if visible[1, 1] else EXPECTED - Counter([(1, 1)]))
        assert bool(visible[1, 1]) != listed
        seen.add(listed)
    assert seen == {True, False}
