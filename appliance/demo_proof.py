"""Does the lake hold every reading that was acknowledged? The simulator's report against DuckDB over the files."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb

from devices.simulator.report import FleetReport

PairRanges = Sequence[tuple[int, int]]

_SHOW: Final = """SELECT device, count(*) AS readings, min(ts) AS first, max(ts) AS last
FROM read_parquet({files}, union_by_name = true)
GROUP BY device ORDER BY readings DESC, device LIMIT 5"""

# Sequence numbers that follow each other have the same difference to their rank: one row per stretch, not per reading.
_STRETCHES: Final = """SELECT device, min(seq), max(seq) FROM (
    SELECT device, seq, seq - row_number() OVER (PARTITION BY device ORDER BY seq) AS stretch FROM (
        SELECT DISTINCT device, CAST(seq AS BIGINT) AS seq FROM read_parquet({files}, union_by_name = true)
        WHERE received_at >= make_timestamptz({since_us}) AND seq IS NOT NULL))
GROUP BY device, stretch ORDER BY ALL"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """How many of the acknowledged readings the lake holds, and which it does not (device -> ranges of seq)."""

    acked: int
    found: int
    missing: Mapping[str, PairRanges]


def lake_files(lake: Path, topic: str) -> str:
    """The glob of a topic's published files."""
    return str(lake / topic / "*" / "*.parquet")


def example_sql(lake: Path, topic: str) -> str:
    """A query worth trying, as it works in any DuckDB."""
    files = lake_files(lake, topic)
    # dollar quotes, so that the shell line around it needs no escapes
    return _SHOW.format(files=f"$${files}$$" if "$" not in files else _literal(files))


def example_command(lake: Path, topic: str) -> str:
    """A shell line that runs `example_sql` with the Python that runs this."""
    code = f'import duckdb; duckdb.sql("""{" ".join(example_sql(lake, topic).split())}""").show()'
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}"


def run_example(lake: Path, topic: str) -> str:
    """The printed query's result, as DuckDB shows it. Raises duckdb.Error, for example when there is no file yet."""
    with duckdb.connect() as connection:
        return str(connection.sql(example_sql(lake, topic)))


def prove(report: FleetReport, lake: Path, topics: Sequence[str], since_ms: int) -> Proof:
    """Compare what the devices got acknowledged with what the lake received since `since_ms`. Raises duckdb.Error."""
    globs = [lake_files(lake, topic) for topic in topics if any((lake / topic).glob("*/*.parquet"))]
    held: dict[str, list[tuple[int, int]]] = {}
    if globs:
        files = f"[{', '.join(map(_literal, globs))}]"
        with duckdb.connect() as connection:
            rows = connection.execute(_STRETCHES.format(files=files, since_us=since_ms * 1000)).fetchall()
        for device, first, last in rows:
            held.setdefault(device, []).append((first, last))
    missing = {
        device: gaps for device, sent in report.devices.items() if (gaps := uncovered(sent.acked, held.get(device, [])))
    }
    acked = report.totals.acked
    return Proof(acked=acked, found=acked - sum(map(_span, missing.values())), missing=missing)


def uncovered(wanted: PairRanges, held: PairRanges) -> list[tuple[int, int]]:
    """What of the ascending ranges `wanted` the ascending ranges `held` do not cover; both ends belong to a range."""
    gaps: list[tuple[int, int]] = []
    for first, last in wanted:
        for start, end in held:
            if end < first or start > last:
                continue
            if start > first:
                gaps.append((first, start - 1))
            first = end + 1
        if first <= last:
            gaps.append((first, last))
    return gaps


def _span(ranges: PairRanges) -> int:
    return sum(last - first + 1 for first, last in ranges)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
