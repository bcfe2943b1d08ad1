"""A log at rest, read from its files alone: segments up to their valid end, then what only the journal holds."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from commitlog.check import check_log
from commitlog.dump import Dumped, Selection, dump, json_line
from commitlog.embedded import EmbeddedLog
from commitlog.reader import FileLogReader
from commitlog.rest_reader import RestReader, open_reader
from commitlog.storage import LOG_DIR, RUN_DIR
from core.errors import DataDirError
from tests.commitlog.log_support import log_settings, open_log, opened, record
from tests.log_fakes import FakeClock

CLOCK = FakeClock()
LATER = FakeClock(FakeClock().now_ms + 60_000)


async def a_log(data_dir: Path) -> EmbeddedLog:
    """Records 0 to 3 of telemetry-0 in segments, 4 to 6 and one of telemetry-1 only in the journal."""
    log = await open_log(data_dir, settings=log_settings(flush_interval="1h"), clock=CLOCK)
    await log.create_topic("telemetry", 2)
    await log.append([record("telemetry", "d", f"v{n}", partition=0) for n in range(4)])
    await log.roll("telemetry", "test")
    for number in range(4, 7):
        await log.append([record("telemetry", "d", f"v{number}", partition=0)])
    await log.append([record("telemetry", "d", "other", partition=1)])
    return log


@pytest.fixture
async def killed(tmp_path: Path) -> Path:
    """A copy of the directory while the log is open: what a killed process leaves."""
    log = await a_log(tmp_path / "live")
    shutil.copytree(tmp_path / "live", tmp_path / "killed", ignore=shutil.ignore_patterns("*.sock"))
    await log.close()
    return tmp_path / "killed"


def everything(data_dir: Path, **selection: object) -> list[Dumped]:
    with closing(open_reader(data_dir, clock=LATER)) as reader:
        assert isinstance(reader, RestReader)
        return list(dump(reader, Selection(**selection)))  # type: ignore[arg-type]


def shown(parts: list[Dumped]) -> list[tuple[int, int, bytes | None, bool]]:
    return [(part.partition, one.offset, one.value, part.in_journal) for part in parts for one in part.records]


ALL = [
    *((0, n, b"v%d" % n, False) for n in range(4)),
    *((0, n, b"v%d" % n, True) for n in range(4, 7)),
    (1, 0, b"other", True),
]


@pytest.mark.parametrize("run_dir", [True, False])
async def test_everything_is_shown_and_what_only_the_journal_holds_is_marked(killed: Path, run_dir: bool) -> None:
    if not run_dir:
        shutil.rmtree(killed / RUN_DIR)
    parts = everything(killed)
    assert shown(parts) == ALL
    assert [gap for part in parts for gap in part.gaps] == []
    lines = [
        json.loads(json_line(part.topic, part.partition, one, in_journal=part.in_journal))
        for part in parts
        for one in part.records
    ]
    assert [line.get("in") for line in lines] == [None] * 4 + ["journal"] * 4
    report = check_log(killed, clock=LATER, pause=lambda _seconds: None)
    assert report.records + 4 == len(lines), "as many as the check counts, and what stands in the journal"


async def test_also_without_a_checkpoint(killed: Path) -> None:
    (killed / LOG_DIR / "checkpoint").unlink()
    assert shown(everything(killed)) == ALL


async def test_selections_reach_into_the_journal(killed: Path) -> None:
    assert [offset for _, offset, _, _ in shown(everything(killed, partition=0, first=3, next=6))] == [3, 4, 5]
    assert [offset for _, offset, _, _ in shown(everything(killed, partition=0, since_ms=CLOCK.now_ms))] == list(
        range(7)
    )
    assert shown(everything(killed, since_ms=CLOCK.now_ms + 1)) == []


async def test_a_log_that_was_closed_in_order_is_shown_without_its_run_directory(tmp_path: Path) -> None:
    await (await a_log(tmp_path)).close()
    shutil.rmtree(tmp_path / RUN_DIR)
    assert [(partition, offset, value) for partition, offset, value, _ in shown(everything(tmp_path))] == [
        line[:3] for line in ALL
    ]
    assert {part.in_journal for part in everything(tmp_path)} == {False}


async def test_what_readers_were_shown_and_no_file_holds_is_a_gap(killed: Path) -> None:
    (killed / LOG_DIR / "telemetry-0" / f"{0:020}.log").write_bytes(b"")
    parts = everything(killed, partition=0)
    assert [(gap.first, gap.next) for part in parts for gap in part.gaps] == [(0, 4)]
    assert [offset for _, offset, _, _ in shown(parts)] == [4, 5, 6]


async def test_a_torn_end_is_not_shown(killed: Path) -> None:
    with (killed / LOG_DIR / "telemetry-0" / f"{4:020}.log").open("wb") as file:
        file.write(b"torn" * 30)
    assert shown(everything(killed)) == ALL


async def test_beside_a_living_writer_it_is_the_usual_reader(tmp_path: Path) -> None:
    async with opened(tmp_path, clock=CLOCK) as log:
        await log.create_topic("telemetry", 1)
        log._engine.marks.beat(CLOCK.monotonic_ms())
        with closing(open_reader(tmp_path, clock=CLOCK)) as reader:
            assert isinstance(reader, FileLogReader)


def test_without_a_log_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataDirError, match="no log"):
        open_reader(tmp_path)
