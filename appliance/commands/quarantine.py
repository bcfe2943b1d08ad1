"""`headrace quarantine`: what could not be read as rows - looked at, and read again once the cause is mended."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from appliance.commands.log import parse_time_ms
from appliance.commands.options import Config, DataDir, Overrides, Since, Until, duration_s
from appliance.commands.quarantine_text import listing_as_dict, listing_lines, outlook_line
from appliance.settings import Settings, load_settings
from core.errors import BadRequestError, NotFoundError

if TYPE_CHECKING:
    from sink.parquet.lake import LakeFile
    from sink.query.quarantine import Found

app = typer.Typer(help="What could not be read as rows: list it, show it, have it read again.", no_args_is_help=True)

REFUSED: Final = 1
SHOWN_ROWS: Final = 20
TIMEOUT_S: Final = 60.0
_PLACE: Final = re.compile(r"(\d{1,9}):(\d{1,18})(?::(\d{1,9}))?\Z")

Topic = Annotated[str | None, typer.Option("--topic", help="Only this topic.")]


@app.command("list")
def list_rows(
    topic: Topic = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Only rows with this reason, such as schema.")] = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Rows shown; all are counted.")] = SHOWN_ROWS,
    data_dir: DataDir = None,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
) -> None:
    """Count what is in quarantine by topic, reason and file, and show the first rows."""
    from sink.payload.reasons import REASONS
    from sink.query.quarantine import Selection, listed  # here, as below: no other command needs it

    if reason is not None and reason not in REASONS:
        raise BadRequestError(f"there is no reason {reason!r}", where="--reason", mend=f"one of {', '.join(REASONS)}")
    now_ms = time.time_ns() // 1_000_000
    selection = Selection(
        topic=topic,
        reason=reason,
        since_us=None if since is None else parse_time_ms(since, now_ms) * 1_000,
        until_us=None if until is None else parse_time_ms(until, now_ms) * 1_000,
    )
    listing = listed(load_settings(config, data_dir).data_dir / "lake", selection, limit)
    if as_json:
        typer.echo(json.dumps(listing_as_dict(listing), indent=2))
        return
    for line in listing_lines(listing):
        typer.echo(line)


@app.command()
def show(
    place: Annotated[str, typer.Argument(metavar="PARTITION:OFFSET[:ROW]", help="The row's place, as in the list.")],
    topic: Topic = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Write one row's payload to standard output, byte for byte. What is known of it goes to standard error."""
    from sink.query.quarantine import rows_at

    match = _PLACE.match(place)
    if match is None:
        raise BadRequestError(f"{place!r} is no place", mend="PARTITION:OFFSET or PARTITION:OFFSET:ROW, such as 3:4012")
    partition, offset, row = match.groups()
    lake = load_settings(config, data_dir).data_dir / "lake"
    found = _one(rows_at(lake, topic, int(partition), int(offset)), place, None if row is None else int(row))
    facts = {"file": found.file.path, "device": found.record.device, "row": found.row.row}
    facts |= {"reason": found.row.reason, "detail": found.row.detail, "payload_is": found.row.payload_is}
    typer.echo(json.dumps(facts), err=True)
    sys.stdout.buffer.write(found.row.payload or b"")
    sys.stdout.buffer.flush()


def _one(found: Sequence[Found], place: str, row: int | None) -> Found:
    chosen = [one for one in found if row in (None, one.row.row)]
    if not chosen:
        raise NotFoundError("nothing of this place is in quarantine", where=place, mend="`headrace quarantine list`")
    topics = sorted({one.file.topic for one in chosen})
    if len(topics) > 1:
        raise BadRequestError(f"topics {', '.join(topics)} have it", where=place, mend="name one with --topic")
    return chosen[0]


@app.command()
def replay(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE]...", help="Files as listed; all without.")
    ] = None,
    topic: Topic = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would become rows.")] = False,
    timeout_s: Annotated[
        float | None, typer.Option("--timeout", metavar="TIME", parser=duration_s, help="How long to wait (60s).")
    ] = None,
    data_dir: DataDir = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Have quarantine read again by the settings of the running appliance. Exit code 1: a file was refused."""
    settings = load_settings(config, data_dir, overrides=overrides or ())
    chosen = _chosen(settings.data_dir / "lake", files or (), topic)
    if not chosen:
        typer.echo("nothing is in quarantine")
        return
    if dry_run:
        _foretell(settings, chosen)
        return
    raise typer.Exit(_replay(settings, chosen, TIMEOUT_S if timeout_s is None else timeout_s))


def _chosen(lake: Path, names: Sequence[str], topic: str | None) -> list[LakeFile]:
    from sink.parquet.replay import quarantine_file
    from sink.query.quarantine import quarantine_files

    if not names:
        return quarantine_files(lake, topic)[0]
    files = [quarantine_file(lake, _below(lake, name)) for name in dict.fromkeys(names)]
    for file in files:
        if topic not in (None, file.topic):
            raise BadRequestError(f"it is of topic {file.topic}", where=file.path, mend="leave --topic away")
    return files


def _below(lake: Path, name: str) -> str:
    """A file's path relative to the lake: as it is listed, or as a shell completes it."""
    path = Path(name)
    for root in (lake, Path("lake")):
        if path.is_relative_to(root):
            return str(path.relative_to(root))
    return name


def _foretell(settings: Settings, files: Sequence[LakeFile]) -> None:
    from appliance.sink import readings
    from sink.query.quarantine import outlook

    reading_of = readings(settings)
    for file in files:
        typer.echo(outlook_line(file, outlook(settings.data_dir / "lake", file, reading_of(file.topic))))


def _replay(settings: Settings, files: Sequence[LakeFile], timeout_s: float) -> int:
    from appliance.commands.quarantine_text import outcome_lines
    from appliance.replay_now import replay_now

    def tell(line: str) -> None:
        typer.echo(f"note: {line}", err=True)

    enabled = settings.sink.enabled
    outcomes = asyncio.run(replay_now(settings.data_dir, files, timeout_s=timeout_s, sink_enabled=enabled, tell=tell))
    for one in outcomes:
        for line in outcome_lines(one):
            typer.echo(line)
    return REFUSED if any(one.outcome == "refused" for one in outcomes) else 0
