"""State tables read from outside: from the writer that lives, or from the files that one has left."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from commitlog.base import TableChange
from commitlog.embedded import EmbeddedLog
from commitlog.remote import log_handlers
from commitlog.storage import LOG_DIR, RUN_DIR
from commitlog.table_rows import read_rows, read_tables
from commitlog.tables import TABLES_DIR
from core.channel import ChannelServer
from core.errors import DataDirError, UnavailableError
from tests.commitlog.log_support import open_log, opened, record
from tests.log_fakes import FakeClock

CLOCK = FakeClock()
LATER = FakeClock(FakeClock().now_ms + 60_000)


def changed(key: str, value: object, table: str = "sink.parquet") -> TableChange:
    return TableChange(table=table, key=key, value=value)


async def a_log(data_dir: Path) -> EmbeddedLog:
    """Rows a and b in a snapshot; in the journal alone: b removed, c set, and another table."""
    log = await open_log(data_dir, clock=CLOCK)
    await log.create_topic("telemetry", 1)
    await log.append([record("telemetry", "d", "v")], [changed("a", {"n": 1}), changed("b", 2)])
    await log.roll("telemetry", "test")  # which is followed by a checkpoint
    await log.append([], [changed("b", None), changed("c", [3])])
    await log.append([], [changed("x", 4, "ledger")])
    return log


@pytest.fixture
async def killed(tmp_path: Path) -> Path:
    """A copy of the directory while the log is open: what a killed process leaves."""
    log = await a_log(tmp_path / "live")
    shutil.copytree(tmp_path / "live", tmp_path / "killed", ignore=shutil.ignore_patterns("*.sock"))
    await log.close()
    return tmp_path / "killed"


EXPECTED = {"sink.parquet": {"a": {"n": 1}, "c": [3]}, "ledger": {"x": 4}, "nobody.wrote": {}}


def tree(data_dir: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(data_dir.rglob("*")) if path.is_file()}


def test_after_a_kill_snapshot_and_journal_say_what_recovery_would(killed: Path) -> None:
    before = tree(killed)
    found = read_tables(killed, list(EXPECTED), clock=LATER)
    assert found.rows == EXPECTED
    assert found.problems == {}
    assert tree(killed) == before


def test_a_lost_checkpoint_makes_no_difference(killed: Path) -> None:
    (killed / LOG_DIR / "checkpoint").unlink()
    assert read_tables(killed, list(EXPECTED), clock=LATER).rows == EXPECTED


async def test_it_is_what_the_next_start_has(killed: Path) -> None:
    read = read_tables(killed, list(EXPECTED), clock=LATER).rows
    async with opened(killed, clock=LATER) as log:
        assert {table: dict(await log.rows(table)) for table in EXPECTED} == read


async def test_after_a_stop_in_order(tmp_path: Path) -> None:
    await (await a_log(tmp_path)).close()
    assert read_tables(tmp_path, list(EXPECTED), clock=LATER).rows == EXPECTED


async def test_a_living_writer_is_asked(tmp_path: Path) -> None:
    log = await a_log(tmp_path)
    server = ChannelServer(tmp_path / RUN_DIR / "edge.sock", log_handlers(log))
    await server.start()
    log._engine.marks.beat(CLOCK.monotonic_ms())
    (tmp_path / LOG_DIR / "checkpoint").rename(tmp_path / "elsewhere")  # so the files cannot say it
    found = await asyncio.to_thread(read_tables, tmp_path, list(EXPECTED), clock=CLOCK)
    assert found.rows == EXPECTED
    (tmp_path / "elsewhere").rename(tmp_path / LOG_DIR / "checkpoint")
    await server.close()
    await log.close()


async def test_where_a_living_writer_does_not_answer_the_files_do(tmp_path: Path) -> None:
    log = await a_log(tmp_path)
    log._engine.marks.beat(CLOCK.monotonic_ms())
    found = await asyncio.to_thread(read_tables, tmp_path, list(EXPECTED), clock=CLOCK)
    assert found.rows == EXPECTED
    await log.close()


def test_a_damaged_snapshot_is_named(killed: Path) -> None:
    (snapshot,) = (killed / LOG_DIR / TABLES_DIR).glob("sink.parquet-*")
    snapshot.write_bytes(b"HRTABLE2" + bytes(20))
    found = read_tables(killed, list(EXPECTED), clock=LATER)
    assert set(found.problems) == {"sink.parquet"}
    assert found.rows["sink.parquet"] == {"c": [3]}, "what the journal holds is told nevertheless"
    assert found.rows["ledger"] == {"x": 4}
    with pytest.raises(UnavailableError, match=r"'sink\.parquet' cannot be read"):
        read_rows(killed, "sink.parquet", clock=LATER)


def test_a_missing_snapshot_is_named(killed: Path) -> None:
    (snapshot,) = (killed / LOG_DIR / TABLES_DIR).glob("sink.parquet-*")
    snapshot.unlink()
    assert read_tables(killed, ["sink.parquet"], clock=LATER).problems == {
        "sink.parquet": f"{snapshot.name} is missing"
    }


def test_one_table_alone(killed: Path) -> None:
    assert read_rows(killed, "ledger", clock=LATER) == {"x": 4}


def test_without_a_log_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataDirError, match="no log"):
        read_rows(tmp_path, "ledger")
