"""SQL over the lake and the tail of the log, which meet at the committed offsets."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from commitlog.base import NewRecord
from commitlog.reader import FileLogReader
from core.errors import BadRequestError, DataDirError
from sink.query.run import query
from tests.commitlog.log_support import log_settings, opened, record
from tests.sink.lake_box import CLOCK, PER_WINDOW, TAIL, WINDOWS, Box, export, reading_of


def ask(box: Box, sql: str, told: list[str] | None = None) -> list[dict[str, Any]]:
    tell = (lambda _line: None) if told is None else told.append
    with query(box.data_dir, sql, reading_of, tell=tell, scratch_root=box.data_dir.parent) as answer:
        return [row for batch in answer.batches for row in batch.to_pylist()]


def one(box: Box, sql: str) -> Any:
    (row,) = ask(box, sql)
    (value,) = row.values()
    return value


PLACES = """SELECT _partition, _offset, _row FROM {0} UNION ALL SELECT _partition, _offset, _row FROM {0}_quarantine"""


def test_every_record_is_there_once_exported_or_not(box: Box) -> None:
    rows = ask(box, PLACES.format("telemetry"))
    places = Counter(tuple(row.values()) for row in rows)
    assert max(places.values()) == 1
    offsets = {(partition, offset) for partition, offset, _ in places}
    assert len(offsets) == WINDOWS * PER_WINDOW + TAIL
    for partition in range(3):
        mine = sorted(offset for p, offset in offsets if p == partition)
        assert mine == list(range(len(mine)))


def test_lake_and_tail_have_the_same_columns(box: Box) -> None:
    columns = {row["column_name"]: row["column_type"] for row in ask(box, "DESCRIBE telemetry")}
    assert list(columns)[:3] == ["device", "ts", "received_at"]
    assert list(columns)[-5:] == ["_topic", "_partition", "_offset", "_row", "date"]
    assert columns["ts"] == "TIMESTAMP WITH TIME ZONE"
    assert columns["date"] == "DATE"
    assert one(box, "SELECT count(*) FROM telemetry WHERE date = CAST(ts AS DATE)") > 1000


def test_declared_and_raw_topics(box: Box) -> None:
    assert one(box, "SELECT count(*) FROM mqtt") == 30 * WINDOWS + TAIL
    kinds = {type(row["payload"]) for row in ask(box, "SELECT payload FROM mqtt")}
    assert kinds <= {bytes, type(None)}
    both = one(box, "SELECT count(*) FROM declared") + one(box, "SELECT count(*) FROM declared_quarantine")
    assert both == 50 * WINDOWS + TAIL


def test_quarantine_of_all_topics(box: Box) -> None:
    found = ask(box, "SELECT topic, count(*) AS n FROM quarantine GROUP BY topic ORDER BY topic")
    assert {row["topic"]: row["n"] for row in found} == {
        name: n
        for name in ("declared", "mqtt", "telemetry")
        if (n := one(box, f"SELECT count(*) FROM {name}_quarantine"))
    }
    assert {row["reason"] for row in ask(box, "SELECT DISTINCT reason FROM quarantine")} >= {"not-json", "schema"}


def test_topics_are_listed(box: Box) -> None:
    names = {row["name"] for row in ask(box, "SHOW TABLES")}
    assert names == {f"{name}{end}" for name in ("declared", "mqtt", "telemetry") for end in ("", "_quarantine")}


@pytest.mark.parametrize(
    "sql",
    [
        "EXPLAIN SELECT 1",
        "SUMMARIZE telemetry",
        "WITH hot AS (FROM telemetry WHERE temp > 20) SELECT count(*) FROM hot",
        "PIVOT (SELECT device, _partition FROM telemetry) ON _partition USING count(*)",
        "VALUES (1)",
    ],
)
def test_whatever_reads_is_run(box: Box, sql: str) -> None:
    assert ask(box, sql)


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("SELEC 1", "syntax error"),
        ("SELECT * FROM telemetrie", "telemetrie"),
        ("SELECT nothing FROM telemetry", "nothing"),
        ("SELECT 1; SELECT 2", "not 2"),
        ("", "not 0"),
        ("COPY (SELECT 1) TO 'x.csv'", "COPY"),
        ("CREATE TABLE t AS SELECT 1", "CREATE"),
        ("DROP VIEW telemetry", "DROP"),
        ("ATTACH 'x.db'", "ATTACH"),
        ("SET threads = 1", "SET"),
        ("INSTALL httpfs", "LOAD"),
        ("SELECT * FROM read_text('/etc/hostname')", "Permission"),
        ("SELECT * FROM '/etc/hostname'", ""),
        ("SELECT * FROM glob('/*')", "Permission"),
        ("SELECT error('no')", "no"),
        ("SELECT * FROM query_table('tele' || 'metry')", "not named in the SQL"),
    ],
)
def test_what_cannot_be_run_is_refused_with_the_reason(box: Box, sql: str, what: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        ask(box, sql)
    assert what in caught.value.what
    assert caught.value.mend


def test_a_foreign_and_a_corrupt_file_are_left_out_and_told(box: Box) -> None:
    before = one(box, "SELECT count(*) FROM telemetry")
    path = box.files()[0]
    pq.write_table(pa.table({"a": [1]}), path.with_name("mine.parquet"))
    path.with_name("torn.parquet").write_bytes(path.read_bytes()[:-20])
    told: list[str] = []
    assert ask(box, "SELECT count(*) AS n FROM telemetry", told) == [{"n": before}]
    assert len(told) == 2
    assert any("mine.parquet" in line and "foreign" in line for line in told)
    assert any("torn.parquet" in line and "corrupt" in line for line in told)


def test_without_a_lake_the_log_alone_answers_and_says_what_it_lacks(box: Box) -> None:
    shutil.rmtree(box.lake)
    assert one(box, f"SELECT count(DISTINCT (_partition, _offset)) FROM ({PLACES.format('telemetry')})") == TAIL


def test_without_a_log_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataDirError):
        ask(Box(tmp_path), "SELECT 1")


def test_nothing_is_left_behind_and_nothing_changed(box: Box) -> None:
    before = {path: path.stat().st_mtime_ns for path in box.data_dir.parent.rglob("*")}
    ask(box, "SELECT * FROM telemetry")
    with pytest.raises(BadRequestError):
        ask(box, "SELECT nothing FROM telemetry")
    assert {path: path.stat().st_mtime_ns for path in box.data_dir.parent.rglob("*")} == before


async def drift(tmp_path: Path, windows: Sequence[Sequence[Any]]) -> Box:
    """One window for each list of payloads; the last one stays in the log."""
    import asyncio
    import json

    async with opened(tmp_path, settings=log_settings(partitions=1), clock=CLOCK) as log:
        await log.create_topic("telemetry", 1)
        for number, payloads in enumerate(windows, 1):
            await log.append([record("telemetry", "d", json.dumps(payload)) for payload in payloads])
            if number < len(windows):
                await log.roll("telemetry", "test")
        await asyncio.sleep(0)
        await export(log, tmp_path)
    return Box(tmp_path)


async def test_columns_that_change_their_type_from_window_to_window(tmp_path: Path) -> None:
    box = await drift(
        tmp_path,
        [
            [{"v": 1, "l": [1, 2], "n": 1, "T": 1}],
            [{"v": "two", "l": "none", "n": 0.5, "t": 2}],
            [{"v": True, "l": ["a"], "n": 7}],
            [{"v": {"deep": {}}, "l": 5, "n": 2, "t": 3}],
        ],
    )
    import asyncio

    rows = await asyncio.to_thread(ask, box, 'SELECT v, l, n, "T" AS x FROM telemetry ORDER BY _offset')
    assert [row["v"] for row in rows] == ["1", "two", "true", None]
    assert [row["l"] for row in rows] == ["[1,2]", "none", '["a"]', "5"]
    assert [row["n"] for row in rows] == [1.0, 0.5, 7.0, 2.0]
    assert [row["x"] for row in rows] == [1, 2, None, 3]


async def test_rows_that_are_exported_meanwhile_are_there_once(new_box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at the committed offsets and the read of the log, everything is exported and committed."""
    import asyncio

    import sink.query.run as module

    async with opened(new_box.data_dir, settings=log_settings(), clock=CLOCK) as log:
        loop = asyncio.get_running_loop()
        plain = module.look_at_lake

        def exporting(*args: Any) -> Any:
            async def all_of_it() -> None:
                await log.roll("telemetry", "test")
                await export(log, new_box.data_dir)

            asyncio.run_coroutine_threadsafe(all_of_it(), loop).result(20)
            return plain(*args)

        monkeypatch.setattr(module, "look_at_lake", exporting)
        rows = await asyncio.to_thread(ask, new_box, PLACES.format("telemetry"))
    places = Counter(tuple(row.values()) for row in rows)
    assert max(places.values()) == 1
    assert len({place[:2] for place in places}) == WINDOWS * PER_WINDOW + TAIL


def test_a_file_that_goes_while_it_is_read_is_looked_for_once_more(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    import sink.query.run as module

    gone = box.largest("mqtt")
    plain = module._Preparation._views

    def deleting(*args: Any) -> Any:
        gone.unlink(missing_ok=True)
        return plain(*args)

    monkeypatch.setattr(module._Preparation, "_views", deleting)
    assert one(box, "SELECT count(*) FROM mqtt") == 30 * (WINDOWS - 1) + TAIL


async def test_records_from_other_tools_are_read_too(new_box: Box) -> None:
    import asyncio

    async with opened(new_box.data_dir, settings=log_settings(), clock=CLOCK) as log:
        await log.append([NewRecord(topic="telemetry", key=None, value=b'{"new": 1}')])
        with_tail = FileLogReader(new_box.data_dir)
        with_tail.close()
    assert await asyncio.to_thread(one, new_box, "SELECT count(*) FROM telemetry WHERE new = 1") == 1
