"""Runner, Parquet sink and the real log together: the sink dies again and again, and the lake ends as if it never had.

The real log is filled with windows, many of them so small that they are joined, with readings that are days late;
memory is so short that windows are written in parts. The sink is killed at steps drawn from a seed: at calls of its
storage, with what was not synced lost or not, and around its commits. In some lives the state tables are lost besides.

HEADRACE_SINK_SEEDS says how many seeds are tried (here 3).
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq
import pytest

from commitlog.base import Position, TableChange
from commitlog.embedded import EmbeddedLog
from commitlog.reader import FileLogReader
from core.clock import SystemClock
from sink.holding import Holding
from sink.metrics import SinkMetrics
from sink.parquet.held import Limits
from sink.parquet.lake import published_paths
from sink.parquet.sink import ParquetSink
from sink.runner import Pauses, Runner
from sink.storage import Storage
from tests.commitlog.log_support import log_settings, opened
from tests.log_fakes import FakeClock
from tests.sink.lake_box import Box, reading_of, records
from tests.sink.sink_fakes import FaultyStorage, Killed, run_until

TOPICS: Final = ("telemetry", "mqtt")
TABLES: Final = ("sink.parquet", "exports", "ledger")
SMALL: Final = 80
MAX_LIVES: Final = 300
GROWING: Final = 12  # lives in which windows come and tables go
HOUR_MS: Final = 3_600_000
SEEDS: Final = int(os.environ.get("HEADRACE_SINK_SEEDS", "3"))


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sink.payload.chunks.CHUNK_RECORDS", 25)


class Mortal:
    """The log as a sink has it that may die before and after each of its commits."""

    def __init__(self, log: EmbeddedLog, storage: Storage) -> None:
        self._log = log
        self._storage = storage

    async def append(self, new: Sequence[Any], changes: Sequence[TableChange] = ()) -> Sequence[Position]:
        self._step("before checkpoint")
        positions = await self._log.append(new, changes)
        self._step("after checkpoint")
        return positions

    def _step(self, name: str) -> None:
        if isinstance(self._storage, FaultyStorage):
            self._storage.step(name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


async def live(log: EmbeddedLog, data_dir: Path, lake: Path, storage: Storage) -> None:
    """One life of the sink: until everything is exported, or it is killed."""
    limits = Limits(memory_bytes=6_000)
    readers: list[FileLogReader] = []

    def open_reader() -> FileLogReader:  # the sink is open by then, and has looked at what an earlier life left
        readers.append(FileLogReader(data_dir))
        return readers[-1]

    runner = Runner(
        ParquetSink(lake, reading_of=reading_of, limits=limits, software="test", storage=storage),
        open_reader=open_reader,
        log=Mortal(log, storage),  # type: ignore[arg-type]
        clock=SystemClock(),
        metrics=SinkMetrics(),
        pauses=Pauses(retry_max_s=0.01, first_s=0.001, wait_s=0.01, poll_s=0.001),
        holding=Holding(small_records=SMALL, hold_ms=0),
    )
    await run_until(runner, lambda: bool(readers) and all_exported(log))


def all_exported(log: EmbeddedLog) -> bool:
    rows = log.rows_now("sink.parquet")
    newest = {key.partition("/")[0]: row["number"] for key, row in sorted(log.rows_now("windows").items())}
    return all(rows.get(topic_id, {}).get("next_window", 0) > number for topic_id, number in newest.items())


async def grow(log: EmbeddedLog, clock: FakeClock, rng: random.Random, windows: int) -> None:
    """More windows of each topic, of a few records or of many."""
    for _ in range(windows):
        for topic in TOPICS:
            await log.append(records(topic, rng.choice([1, 5, 20, 120]), rng.randrange(1 << 30)))
            await log.roll(topic, "test")
        clock.now_ms += HOUR_MS


async def lose_tables(log: EmbeddedLog) -> None:
    changes = [TableChange(table=table, key=key, value=None) for table in TABLES for key in await log.rows(table)]
    await log.append([], changes)


def published(lake: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(lake)): path.read_bytes() for path in lake.rglob("*.parquet") if ".tmp" not in path.parts
    }


def places(lake: Path, topic: str) -> Counter[tuple[int, int]]:
    """(partition, offset) of each record that is somewhere, and whether a row is there twice."""
    rows: Counter[tuple[int, int, int]] = Counter()
    for path in published_paths(lake, topic):
        table = pq.read_table(lake / path, columns=["_partition", "_offset", "_row"], partitioning=None)
        rows.update(zip(*(column.to_pylist() for column in table.columns), strict=True))
    assert set(rows.values()) <= {1}
    return Counter({(partition, offset): 1 for partition, offset, _ in rows})


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_the_lake_ends_as_that_of_a_sink_that_was_never_killed(tmp_path: Path, seed: int) -> None:
    rng, clock, data_dir = random.Random(seed), FakeClock(), tmp_path / "data"
    async with opened(data_dir, settings=log_settings(), clock=clock) as log:
        for topic in TOPICS:
            await log.create_topic(topic, 3)
        await grow(log, clock, rng, 14)
        await live(log, data_dir, tmp_path / "whole", Storage())
        exports = {key: _timeless(row) for key, row in (await log.rows("exports")).items()}
        joined = [row for row in exports.values() if row["first_number"] < row["number"]]
        parts = [row for row in exports.values() if len({_place(file) for file in row["files"]}) < len(row["files"])]
        assert joined
        assert parts
        await lose_tables(log)
        lake = data_dir / "lake"
        died = await _lives(log, data_dir, rng, grows=None)
        assert published(lake) == published(tmp_path / "whole")
        assert {key: _timeless(row) for key, row in (await log.rows("exports")).items()} == exports
        assert [path.name for folder in (".plans", ".tmp") for path in (lake / folder).iterdir()] == ["lock"]
        assert died.total() >= 5
    _clean(data_dir)


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_windows_come_and_tables_go_while_it_is_killed(tmp_path: Path, seed: int) -> None:
    """What is joined now depends on when it was killed; whatever it was, all of it is there, and once."""
    rng, clock, data_dir = random.Random(seed), FakeClock(), tmp_path / "data"
    async with opened(data_dir, settings=log_settings(), clock=clock) as log:
        for topic in TOPICS:
            await log.create_topic(topic, 3)
        await _lives(log, data_dir, rng, grows=clock)
        for topic in TOPICS:
            windows = [row for row in log.rows_now("windows").values() if row["topic"] == topic]
            ends = {p: max(row["offsets"][p][1] for row in windows) for p in windows[0]["offsets"]}
            expected = Counter({(int(p), offset): 1 for p, end in ends.items() for offset in range(end)})
            assert places(data_dir / "lake", topic) == expected
    _clean(data_dir)


async def _lives(log: EmbeddedLog, data_dir: Path, rng: random.Random, *, grows: FakeClock | None) -> Counter[str]:
    """Lives until one of them reaches the end; where they died. With `grows`, windows come and tables go in between."""
    died: Counter[str] = Counter()
    for number in range(MAX_LIVES):
        if grows is not None and number < GROWING:
            await grow(log, grows, rng, rng.randint(0, 3))
        storage = FaultyStorage(die_at=rng.randint(1, 80), power_loss=rng.random() < 0.5)
        if rng.random() < 0.3:
            storage.die_before(rng.choice(["before checkpoint", "after checkpoint"]), 1)
        try:
            await live(log, data_dir, data_dir / "lake", storage)
        except Killed:
            died[storage.died_at] += 1
        else:
            if grows is None or number >= GROWING:
                return died
        if grows is not None and number < GROWING and rng.random() < 0.3:
            await lose_tables(log)
            if rng.random() < 0.5:
                for plan in (data_dir / "lake" / ".plans").glob("*.json"):
                    plan.unlink()
        await asyncio.sleep(0)
    raise AssertionError("it never came to the end")


def _place(file: dict[str, Any]) -> tuple[str, str]:
    return file["kind"], file["date"]


def _timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "exported_at_ms"}


def _clean(data_dir: Path) -> None:
    report = Box(data_dir).verify()
    assert report.clean, [finding.as_dict() for finding in report.findings.kept]
