"""`headrace log`: check, dump and count the log's files, beside a running appliance or without one. Takes no lock."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from appliance.commands.log_text import report_as_dict, report_lines, stats_as_dict, stats_lines
from appliance.commands.options import Config, DataDir, Since, Until
from appliance.commands.progress import Progress
from appliance.settings import load_settings
from core.errors import BadRequestError
from core.units import parse_duration_ms

if TYPE_CHECKING:
    from commitlog.base import LogReader
    from commitlog.dump import Selection

app = typer.Typer(help="Look at the log's files: check them, print records, count.", no_args_is_help=True)

FOUND: Final = 1

AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


def _directory(config: Path | None, data_dir: Path | None) -> Path:
    return load_settings(config, data_dir).data_dir


# -- check


@app.command()
def check(data_dir: DataDir = None, config: Config = None, as_json: AsJson = False) -> None:
    """Check everything on disk against everything else. Exit code 0: nothing found, 1: findings, 2: wrong usage."""
    from commitlog.check import check_log  # here, as below: no other command needs it

    progress = Progress("checking")
    report = check_log(_directory(config, data_dir), progress=progress)
    progress.clear()
    if as_json:
        typer.echo(json.dumps(report_as_dict(report), indent=2))
    else:
        for line in report_lines(report):
            typer.echo(line)
    raise typer.Exit(0 if report.clean else FOUND)


# -- dump


@app.command()
def dump(
    topic: Annotated[str | None, typer.Option("--topic", help="Only this topic.")] = None,
    partition: Annotated[int | None, typer.Option("--partition", min=0, help="Only this partition.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="Only records with this key, such as a device.")] = None,
    offset: Annotated[int | None, typer.Option("--offset", min=0, help="Only the record at this offset.")] = None,
    first: Annotated[int | None, typer.Option("--from", min=0, help="From this offset on.")] = None,
    to: Annotated[int | None, typer.Option("--to", min=0, help="Up to this offset, without it.")] = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Stop after so many records.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what is appended, until Ctrl-C.")] = False,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Print records as JSON lines. Gaps are told on standard error."""
    from commitlog.dump import Selection
    from commitlog.reader import FileLogReader
    from commitlog.rest_reader import open_reader

    if offset is not None and (first is not None or to is not None):
        raise BadRequestError("--offset names one record, --from and --to a range", mend="give one or the other")
    now_ms = time.time_ns() // 1_000_000
    selection = Selection(
        topic=topic,
        partition=partition,
        key=None if key is None else os.fsencode(key),
        first=first if offset is None else offset,
        next=to if offset is None else offset + 1,
        since_ms=None if since is None else parse_time_ms(since, now_ms),
        until_ms=None if until is None else parse_time_ms(until, now_ms),
    )
    directory = _directory(config, data_dir)
    with closing(FileLogReader(directory) if follow else open_reader(directory)) as reader:
        try:
            _print_records(reader, selection, limit, follow=follow)
        except KeyboardInterrupt:
            pass  # how following ends
        except BrokenPipeError:
            # Whoever read has had enough (`| head`). What is still buffered must not fail at the exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_records(reader: LogReader, selection: Selection, limit: int | None, *, follow: bool) -> None:
    from commitlog.dump import dump as dumped
    from commitlog.dump import json_line

    left = sys.maxsize if limit is None else limit
    out = sys.stdout.buffer
    for part in dumped(reader, selection, follow=follow):
        for gap in part.gaps:
            where = f"{part.topic}-{part.partition}"
            typer.echo(f"gap: {where}: offsets {gap.first} to {gap.next - 1} ({gap.reason})", err=True)
        for record in part.records[:left]:
            out.write(json_line(part.topic, part.partition, record, in_journal=part.in_journal) + b"\n")
        out.flush()
        left -= len(part.records)
        if left <= 0:
            return


_EPOCH_MS: Final = re.compile(r"\d{12,14}\Z")


def parse_time_ms(text: str, now_ms: int) -> int:
    """Epoch milliseconds of `2026-01-31T12:00:00Z` (local time without an offset), epoch ms, or `10m` before now."""
    if _EPOCH_MS.match(text):
        return int(text)
    try:
        return now_ms - parse_duration_ms(text)
    except ValueError:
        pass
    try:
        return round(datetime.fromisoformat(text).astimezone(UTC).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is not a time such as 2026-01-31T12:00:00Z, epoch ms, or 10m") from None


# -- stats


@app.command()
def stats(data_dir: DataDir = None, config: Config = None, as_json: AsJson = False) -> None:
    """Count segments, records and bytes per topic and partition; journal and state tables."""
    from commitlog.log_stats import log_numbers

    numbers = log_numbers(_directory(config, data_dir))
    if as_json:
        typer.echo(json.dumps(stats_as_dict(numbers), indent=2))
    else:
        for line in stats_lines(numbers):
            typer.echo(line)
