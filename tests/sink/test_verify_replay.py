"""`verify` before, during and after replays, on a real log; and with what a replay left damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from commitlog.base import TableChange
from commitlog.embedded import EmbeddedLog
from commitlog.reader import FileLogReader
from commitlog.settings import FieldSettings, TopicSettings
from core.clock import SystemClock
from sink.metrics import SinkMetrics
from sink.parquet.held import Limits
from sink.parquet.sink import ParquetSink
from sink.payload.reading import Reading, json_reading
from sink.payload.schema import Schema
from sink.payload.times import Skew
from sink.requests import REQUESTS_TABLE, replay_request, replays
from sink.runner import Pauses, Runner
from tests.commitlog.log_support import log_settings, opened
from tests.sink.lake_box import CLOCK, Box, reading_of
from tests.sink.sink_fakes import FaultyStorage, Killed, run_until

MENDED = Schema.of(TopicSettings(name="declared", fields=(FieldSettings(name="temp", type="json"),)))


def mended(topic: str) -> Reading:
    return json_reading(Skew(), schema=MENDED) if topic == "declared" else reading_of(topic)


def files(box: Box) -> list[str]:
    return [str(path.relative_to(box.lake)) for path in box.files("declared", quarantine=True)]


async def ask(box: Box, paths: list[str]) -> None:
    async with opened(box.data_dir, settings=log_settings(), clock=CLOCK) as log:
        ids = {row["topic"]: topic_id for topic_id, row in (await log.rows("sink.parquet")).items()}
        await log.append([], [replay_request(path, "declared", ids["declared"], 1) for path in paths])


async def replay(box: Box, storage: FaultyStorage | None = None) -> None:
    """Run the sink until every request is done."""
    async with opened(box.data_dir, settings=log_settings(), clock=CLOCK) as log:
        sink = ParquetSink(box.lake, reading_of=mended, limits=Limits(), software="test", storage=storage)
        runner = Runner(
            sink,
            replayer=sink,
            open_reader=lambda: FileLogReader(box.data_dir),
            log=Stepping(log, storage),  # type: ignore[arg-type]
            clock=SystemClock(),
            metrics=SinkMetrics(),
            pauses=Pauses(retry_max_s=0.01, first_s=0.001, wait_s=0.01, poll_s=0.001),
        )
        plans = box.lake / ".plans"
        await run_until(runner, lambda: not replays(log.rows_now(REQUESTS_TABLE)) and not [*plans.glob("replay-*")])


class Stepping:
    """A log whose commits are steps of a storage that dies."""

    def __init__(self, log: EmbeddedLog, storage: FaultyStorage | None) -> None:
        self.rows = log.rows
        self._log = log
        self._storage = storage

    async def append(self, records: list[object], changes: list[TableChange]) -> object:
        if self._storage is not None:
            self._storage.step("before checkpoint")
        done = await self._log.append([], changes)
        if self._storage is not None:
            self._storage.step("after checkpoint")
        return done


def clean(box: Box) -> None:
    report = box.verify()
    assert report.clean, [finding.as_dict() for finding in report.findings.kept]
    for topic in report.topics:
        numbers = topic.numbers
        assert numbers["committed"] == numbers["in_files"] > 0
        assert numbers["compared"] == numbers["rows"] + numbers["quarantined"]


async def test_verify_holds_before_and_after_replays(box: Box) -> None:
    paths = files(box)
    assert paths
    before = next(topic for topic in box.verify().topics if topic.topic == "declared").numbers
    await ask(box, paths)
    clean(box)
    await replay(box)
    clean(box)
    after = next(topic for topic in box.verify().topics if topic.topic == "declared").numbers
    assert after["quarantined"] == 0 < before["quarantined"]
    assert after["rows"] == before["rows"] + before["quarantined"]
    assert (
        sorted(str(p.relative_to(box.lake / "_superseded")) for p in box.lake.rglob("_superseded/**/*.parquet"))
        == paths
    )


async def test_verify_holds_wherever_a_replay_was_killed(box: Box, tmp_path: Path) -> None:
    """The log is opened anew after each kill; verify is asked in between, and when the replay has been gone on with."""
    paths = files(box)[:1]
    await ask(box, paths)
    steps = [("before rename", 1), ("before rename", 2), ("renamed", 2), ("before checkpoint", 1)]
    steps += [("after checkpoint", 1), ("before rename", 3), ("renamed", 3), ("before remove", 1)]
    for number, (name, nth) in enumerate(steps):
        killed = Box(shutil.copytree(box.data_dir, tmp_path / str(number), ignore=shutil.ignore_patterns("*.sock")))
        storage = FaultyStorage()
        storage.die_before(name, nth)
        with pytest.raises(Killed):
            await replay(killed, storage)
        clean(killed)
        await replay(killed)
        clean(killed)
        assert not set(paths) & set(files(killed)), (name, nth)


async def test_the_old_file_put_back_doubles_its_rows(box: Box) -> None:
    paths = files(box)[:1]
    await ask(box, paths)
    await replay(box)
    shutil.copy(box.lake / "_superseded" / paths[0], box.lake / paths[0])
    assert "row-doubled" in {found.kind for found in box.verify().findings.kept}


async def test_a_file_of_a_replay_that_is_gone_is_missed(box: Box) -> None:
    paths = files(box)[:1]
    before = set(box.files("declared"))
    await ask(box, paths)
    await replay(box)
    (new, *_) = set(box.files("declared")) - before
    new.unlink()
    assert {(found.kind, found.where) for found in box.verify().findings.kept} == {("file-missing", box.where(new))}


async def test_a_replayed_unit_is_known_without_its_export_row(box: Box) -> None:
    """Rows of `exports` are kept for the newest windows only: what stands in `_superseded` then closes the unit."""
    await ask(box, files(box))
    await replay(box)
    async with opened(box.data_dir, settings=log_settings(), clock=CLOCK) as log:
        keys = list(await log.rows("exports"))
        await log.append([], [TableChange(table="exports", key=key, value=None) for key in keys])
    clean(box)
