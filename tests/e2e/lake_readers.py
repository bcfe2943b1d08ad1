"""What three independent readers find in a lake: DuckDB, polars and fastparquet, each by a way of its own."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import duckdb
import polars

from devices.simulator.report import FleetReport

Place = tuple[int, int, int]
"""Partition, offset and row."""
Readings = Sequence[tuple[str, int, Place]]
"""(device, sequence number, place) of every row."""
COLUMNS: Final = ("device", "seq", "_partition", "_offset", "_row")


def by_duckdb(folder: Path) -> Readings:
    with duckdb.connect() as connection:
        sql = f"SELECT {', '.join(COLUMNS)} FROM read_parquet('{folder}/**/*.parquet', union_by_name = true)"
        return [_reading(row) for row in connection.execute(sql).fetchall()]


def by_polars(folder: Path) -> Readings:
    frame = polars.scan_parquet(f"{folder}/**/*.parquet", missing_columns="insert", extra_columns="ignore")
    return [_reading(row) for row in frame.select(COLUMNS).collect().rows()]


def by_fastparquet(folder: Path) -> Readings:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own affair with newer versions of pandas
        import fastparquet

        found: list[tuple[str, int, Place]] = []
        for path in sorted(folder.glob("**/*.parquet")):
            frame = fastparquet.ParquetFile(str(path)).to_pandas(columns=list(COLUMNS))
            found += map(_reading, frame.itertuples(index=False, name=None))
    return found


READERS: Final[Mapping[str, Callable[[Path], Readings]]] = {
    "DuckDB": by_duckdb,
    "polars": by_polars,
    "fastparquet": by_fastparquet,
}


def _reading(row: Sequence[Any]) -> tuple[str, int, Place]:
    device, seq, partition, offset, number = row
    return str(device), int(seq), (int(partition), int(offset), int(number))


def check_against(report: FleetReport, readings: Readings, reader: str) -> None:
    """Every acked reading is there, every place once, and nothing that was not sent, or was sent once, stands twice."""
    assert report.final
    places = Counter(place for _, _, place in readings)
    assert len(places) == len(readings), f"{reader}: rows twice: {[p for p, n in places.items() if n > 1][:10]}"
    times = Counter((device, seq) for device, seq, _ in readings)
    assert {device for device, _ in times} <= set(report.devices), f"{reader}: devices that nobody simulated"
    stored: dict[str, set[int]] = {}
    for device, seq in times:
        stored.setdefault(device, set()).add(seq)
    for device, sent in report.devices.items():
        here = stored.get(device, set())
        acked = {seq for first, last in sent.acked for seq in range(first, last + 1)}
        resent = {seq for first, last in sent.resent for seq in range(first, last + 1)}
        assert acked <= here, f"{reader}: {device}: acked and lost: {sorted(acked - here)[:10]}"
        assert here <= set(range(1, sent.sent + 1)), f"{reader}: {device}: readings that were never sent"
        twice = {seq for seq in here if times[device, seq] > 1}
        assert twice <= resent, f"{reader}: {device}: twice, and sent once: {sorted(twice - resent)[:10]}"
