"""`headrace query "SQL"`: DuckDB over the lake and what is not exported yet, beside an appliance or without one."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Final

import typer

from appliance.commands.options import Config, DataDir
from appliance.settings import load_settings
from core.errors import BadRequestError, DataDirError

if TYPE_CHECKING:
    from sink.query.run import Answer

MAX_TABLE_ROWS: Final = 1_000  # more is read by programs, and a table has to be held to be measured
MAX_CELL_CHARS: Final = 60


class Format(StrEnum):
    """How rows are written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(query)


def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One statement that reads. Topics are views.")],
    format_: Annotated[
        Format | None, typer.Option("--format", help="(default: table; with -o by the file's ending, else csv)")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write here instead of standard output.")
    ] = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Run SQL (DuckDB's) over everything acknowledged. Views: the topics, `<topic>_quarantine`, `quarantine`."""
    from appliance.sink import readings  # here, as below: no other command needs it
    from sink.query.run import query as run_query

    chosen = format_ or _format_of(output)
    if chosen is Format.PARQUET and output is None:
        raise BadRequestError("Parquet is not for a terminal", where="--format", mend="name a file with -o FILE")
    settings = load_settings(config, data_dir)

    def tell(line: str) -> None:
        typer.echo(f"note: {line}", err=True)

    with run_query(settings.data_dir, sql, readings(settings), tell=tell) as answer:
        if chosen is Format.PARQUET and output is not None:
            with _replacing(output) as path:
                _write_parquet(answer, path)
        elif output is not None:
            with _replacing(output) as path, path.open("w", encoding="utf-8", newline="") as file:
                _write_text(answer, chosen, file)
        else:
            _write_text(answer, chosen, sys.stdout)


def _format_of(output: Path | None) -> Format:
    if output is None:
        return Format.TABLE
    endings = {".json": Format.JSON, ".ndjson": Format.JSON, ".parquet": Format.PARQUET}
    return endings.get(output.suffix, Format.CSV)


@contextmanager
def _replacing(output: Path) -> Iterator[Path]:
    """A file beside the one that was asked for, which takes its place when all is written."""
    path = output.with_name(f".{output.name}.tmp")
    try:
        yield path
        path.replace(output)
    except OSError as error:
        mend = "is there space, and may it be written?"
        raise DataDirError(
            f"the answer cannot be written ({error.strerror or error})", where=str(output), mend=mend
        ) from error
    finally:
        path.unlink(missing_ok=True)


def _write_parquet(answer: Answer, path: Path) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(path, answer.schema, compression="zstd") as writer:
        for batch in answer.batches:
            writer.write_batch(batch)


def _write_text(answer: Answer, format_: Format, out: IO[str]) -> None:
    names = answer.schema.names
    rows = (
        row for batch in answer.batches for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)
    )
    if format_ is Format.JSON:
        for row in rows:
            out.write(json.dumps(dict(zip(names, map(_plain, row), strict=True)), ensure_ascii=False) + "\n")
    elif format_ is Format.CSV:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([_cell(value) for value in row] for row in rows)
    else:
        for line in table_lines(names, rows):
            out.write(line + "\n")


def table_lines(names: Sequence[str], rows: Iterator[Sequence[Any]]) -> Iterator[str]:
    """Rows as a table, numbers to the right; at most `MAX_TABLE_ROWS`, the others are counted."""
    shown: list[list[str]] = []
    right = [True] * len(names)
    more = 0
    for row in rows:
        if len(shown) >= MAX_TABLE_ROWS:
            more += 1
            continue
        right = [
            flag and (value is None or (isinstance(value, int | float | Decimal) and not isinstance(value, bool)))
            for flag, value in zip(right, row, strict=True)
        ]
        shown.append([_short(_cell(value)) for value in row])
    widths = [max(map(len, column)) for column in zip(names, *shown, strict=True)]
    for line in (list(names), ["-" * width for width in widths], *shown):
        cells = (
            cell.rjust(width) if flag else cell.ljust(width)
            for cell, width, flag in zip(line, widths, right, strict=True)
        )
        yield "  ".join(cells).rstrip()
    yield f"{len(shown) + more} rows" + (f", the first {len(shown)} shown: --format csv has all" if more else "")


def _short(text: str) -> str:
    text = text.replace("\n", "\\n")
    return text if len(text) <= MAX_CELL_CHARS else f"{text[: MAX_CELL_CHARS - 3]}..."


def _cell(value: Any) -> str:
    """A value as text: nothing for null, JSON for what is nested."""
    plain = _plain(value)
    if plain is None:
        return ""
    if isinstance(plain, str):
        return plain
    return json.dumps(plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """A value as JSON has it: times as RFC 3339 text, bytes as text, what no double holds digit by digit."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date | time | timedelta):
        return str(value)
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
