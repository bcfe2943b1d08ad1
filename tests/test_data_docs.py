"""docs/data.md: every snippet but Spark's is run, on a lake that the real sink has made, and has to find every row.

The snippets of a section share their names. Those that read leave `readings`, all rows with all columns, and `warm`, a
filtered look at a column with a dot in its name.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from appliance.settings import load_settings
from appliance.sink import parquet_sink
from tests.sink.sink_fakes import FakeLog, export_all

TEXT = (Path(__file__).parent.parent / "docs" / "data.md").read_text()
NOON_MS = int(datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp() * 1000)
DAY_MS = 86_400_000
FIELDS = {"seq", "temp", "humidity", "state", "motor.temp", "motor.temp__other"}
OURS = {"device", "ts", "received_at", "_topic", "_partition", "_offset", "_row", "date"}
PER_WINDOW = 30


def snippets() -> dict[str, list[tuple[str, str]]]:
    """(language, code) of every fenced block that names a language, by the heading above it."""
    found: dict[str, list[tuple[str, str]]] = {}
    for section in TEXT.split("\n## ")[1:]:
        heading, _, body = section.partition("\n")
        found[heading] = re.findall(r"^```(\w+)\n(.*?)^```$", body, flags=re.MULTILINE | re.DOTALL)
    return {heading: blocks for heading, blocks in found.items() if blocks}


SNIPPETS = snippets()


def publish(log: FakeLog, number: int, fields: dict[str, Any], *, late_ms: int = 0) -> None:
    """A reading of one of three machines; every fifth is about the day before where `late_ms` says so."""
    at_ms = NOON_MS + number * 1_000
    log.put(
        {"ts": at_ms - (late_ms if number % 5 == 0 else 0), "seq": number, **fields},
        key=b"press-%d" % (17 + number % 3),
        partition=number % 2,
        timestamp=at_ms,
        headers=[("mqtt.topic", b"devices/press-%d/telemetry" % (17 + number % 3))],
    )


@pytest.fixture(name="lake", scope="module")
def _lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three windows: integers and a state; fractions, a new field, late rows and a text among numbers; a resend."""
    directory = tmp_path_factory.mktemp("data")
    log = FakeLog()
    log.topic()
    for number in range(PER_WINDOW):
        publish(log, number, {"temp": 20 + number % 5, "state": "running", "motor.temp": 55.5 + number % 10})
    log.put(b"{broken", raw=True, timestamp=NOON_MS)
    log.close_window()
    for number in range(PER_WINDOW, 2 * PER_WINDOW):
        hot = "hot" if number == PER_WINDOW + 7 else 58.25 + number % 10
        publish(log, number, {"temp": 20.5, "humidity": 0.5, "motor.temp": hot}, late_ms=DAY_MS)
    log.close_window()
    for _ in range(2):
        publish(log, 2 * PER_WINDOW, {"temp": 21})
    log.close_window()
    settings = load_settings(None, directory, [], environ={})
    asyncio.run(export_all(parquet_sink(settings), log))
    return directory / "lake"


@pytest.fixture(autouse=True)
def _here(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snippets name `lake/...`."""
    monkeypatch.chdir(lake.parent)


def plain(value: Any) -> Any:
    """A value as every reader means it: no NaN, no type of its own, times in UTC."""
    if value is None or value is pd.NA or value is pd.NaT or value != value:
        return None
    if isinstance(value, datetime):
        return pd.Timestamp(value).tz_convert("UTC").to_pydatetime()
    return value.isoformat() if isinstance(value, date) else value


def comparable(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in the order of their place in the log, without what is null."""
    held = [{name: plain(value) for name, value in row.items() if plain(value) is not None} for row in rows]
    return sorted(held, key=lambda row: (row.get("_partition", 0), row.get("_offset", 0), str(row["ts"])))


def rows_of(frame: Any) -> list[dict[str, Any]]:
    """The rows of whatever a reader gives."""
    if isinstance(frame, pd.DataFrame):
        records: list[dict[str, Any]] = [
            {str(name): value for name, value in row.items()} for row in frame.astype(object).to_dict("records")
        ]
        return records
    return frame.to_dicts() if isinstance(frame, pl.DataFrame) else frame.to_pylist()


def expected(lake: Path) -> list[dict[str, Any]]:
    """Every row, each file read by itself."""
    rows = []
    for path in lake.glob("telemetry/date=*/*.parquet"):
        with pq.ParquetFile(path) as file:
            day = path.parent.name.removeprefix("date=")
            rows += [{**row, "date": day} for row in file.read().to_pylist()]
    return comparable(rows)


def expected_warm(lake: Path) -> list[dict[str, Any]]:
    return comparable(
        [
            {"device": row["device"], "ts": row["ts"], "motor.temp": row["motor.temp"]}
            for row in expected(lake)
            if row["date"] == "2026-11-20" and row["device"] == "press-17" and row.get("motor.temp", 0) > 60
        ]
    )


def run_python(heading: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "snippet"}
    for language, code in SNIPPETS[heading]:
        assert language == "python"
        exec(compile(code, f"docs/data.md, {heading}", "exec", dont_inherit=True), names)
    return names


@pytest.fixture(name="connection")
def _connection() -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect()
    connection.execute("SET threads = 1")
    yield connection
    connection.close()


def run_sql(connection: duckdb.DuckDBPyConnection, heading: str) -> list[list[dict[str, Any]]]:
    """The rows of each block's last statement."""
    results = []
    for language, code in SNIPPETS[heading]:
        assert language == "sql"
        relation = connection.sql(code)
        results.append([] if relation is None else relation.to_arrow_table().to_pylist())
    return results


# --- the lake of these tests


def test_the_lake_has_what_the_page_is_about(lake: Path) -> None:
    rows = expected(lake)
    assert len(rows) == 2 * PER_WINDOW + 2
    assert {name for row in rows for name in row} == FIELDS | OURS
    assert {row["date"] for row in rows} == {"2026-11-19", "2026-11-20"}
    assert len(expected_warm(lake)) > 5
    assert [row["motor.temp__other"] for row in rows if "motor.temp__other" in row] == ['"hot"']


# --- the snippets


@pytest.mark.parametrize("heading", ["PyArrow", "pandas", "polars", "fastparquet"])
def test_a_reader_finds_every_row_and_column(lake: Path, heading: str) -> None:
    names = run_python(heading)
    found = comparable(rows_of(names["readings"]))
    assert set(names["readings"].columns if heading != "PyArrow" else names["readings"].column_names) == FIELDS | OURS
    assert found == expected(lake)
    assert comparable(rows_of(names["warm"])) == expected_warm(lake)


def test_duckdb_finds_every_row_and_column(lake: Path, connection: duckdb.DuckDBPyConnection) -> None:
    _, warm, once = run_sql(connection, "DuckDB")
    assert comparable(warm) == expected_warm(lake)
    everything = connection.sql("SELECT * FROM telemetry").to_arrow_table()
    assert set(everything.column_names) == FIELDS | OURS
    assert comparable(everything.to_pylist()) == expected(lake)
    assert len(once) == len(expected(lake)) - 1
    assert sorted(row["seq"] for row in once) == list(range(2 * PER_WINDOW + 1))


def test_a_loader_takes_each_file_once(lake: Path) -> None:
    names = run_python("Only what is new")
    assert names["loaded"] == len(expected(lake))
    assert names["new_files"](Path("lake")) == []


def test_quarantine_keeps_the_bytes(connection: duckdb.DuckDBPyConnection) -> None:
    [[row]] = run_sql(connection, "Quarantine")
    assert (row["payload"], row["reason"]) == (b"{broken", "not-json")


def test_a_file_says_where_it_comes_from(lake: Path, connection: duckdb.DuckDBPyConnection) -> None:
    [facts] = run_sql(connection, "Where a file comes from")
    files = {str(path.relative_to(lake.parent)) for path in lake.glob("telemetry/*/*.parquet")}
    assert {row["file_name"] for row in facts} == files
    assert sum(int(row["value"]) for row in facts if row["name"] == "headrace.rows") == len(expected(lake))


def test_sparks_snippet_is_python_and_the_only_one_that_is_not_run() -> None:
    [(language, code)] = SNIPPETS["Spark"]
    assert language == "python"
    compile(code, "docs/data.md, Spark", "exec")
    run = {"DuckDB", "PyArrow", "pandas", "polars", "fastparquet", "Only what is new", "Quarantine"}
    assert set(SNIPPETS) == run | {"Spark", "Where a file comes from"}


# --- what the page warns of


def pandas_at_once() -> set[str]:
    return set(pd.read_parquet("lake/telemetry").columns)


def pyarrow_at_once() -> set[str]:
    return set(pq.read_table("lake/telemetry").column_names)


def polars_at_once() -> set[str]:
    scan = pl.scan_parquet("lake/telemetry", missing_columns="insert", extra_columns="ignore")
    return set(scan.collect_schema().names())


@pytest.mark.parametrize("at_once", [pandas_at_once, pyarrow_at_once, polars_at_once])
def test_without_being_asked_a_reader_takes_the_columns_of_one_file(at_once: Callable[[], set[str]]) -> None:
    columns = at_once()
    assert "motor.temp" in columns
    assert FIELDS - columns == {"state"}


def test_duckdb_stops_where_a_later_file_lacks_a_column(connection: duckdb.DuckDBPyConnection) -> None:
    everything = "SELECT * FROM 'lake/telemetry/**/*.parquet'"
    assert "state" not in connection.sql(everything).columns
    with pytest.raises(duckdb.InvalidInputException, match="union_by_name"):
        connection.execute(everything).fetchall()


@pytest.fixture(name="clash")
def _clash(tmp_path: Path) -> list[Path]:
    """Two files whose columns are numbers in one; fractions, or texts, in the other."""
    tables = [pa.table({"widened": [1], "changed": [1]}), pa.table({"widened": [0.5], "changed": ["x"]})]
    paths = [tmp_path / f"{number}.parquet" for number in range(2)]
    for table, path in zip(tables, paths, strict=True):
        pq.write_table(table, path)
    return paths


def test_types_that_differ_between_files_become_what_the_table_says(
    clash: list[Path], connection: duckdb.DuckDBPyConnection
) -> None:
    query = f"SELECT * FROM read_parquet({[str(path) for path in clash]}, union_by_name = true)"
    assert connection.sql(query).to_arrow_table().to_pydict() == {"widened": [1.0, 0.5], "changed": ["1", "x"]}
    lake = pl.concat([pl.scan_parquet(path) for path in clash], how="diagonal_relaxed").collect()
    assert lake.to_dict(as_series=False) == {"widened": [1.0, 0.5], "changed": ["1", "x"]}
    schemas = [pq.read_schema(path) for path in clash]
    with pytest.raises(pa.ArrowTypeError, match="changed"):
        pa.unify_schemas(schemas, promote_options="permissive")
    widened = pa.unify_schemas([schema.remove(1) for schema in schemas], promote_options="permissive")
    assert widened.field("widened").type == pa.float64()
