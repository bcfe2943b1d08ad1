"""`headrace export --now`: close the open windows of a running appliance, and wait for their files."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Final

import typer

from appliance.commands.log_text import size_text
from appliance.commands.options import Config, DataDir, duration_s
from appliance.settings import load_settings
from core.errors import BadRequestError

if TYPE_CHECKING:
    from appliance.export_now import ExportedTopic

TIMEOUT_S: Final = 60.0  # a window of some hundred MB


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(export)


def export(
    now: Annotated[bool, typer.Option("--now", help="Close the open window of every topic now.")] = False,
    topic: Annotated[list[str] | None, typer.Option("--topic", help="Only this topic. Repeatable.")] = None,
    timeout_s: Annotated[
        float | None,
        typer.Option("--timeout", metavar="TIME", parser=duration_s, help="How long to wait for the files (60s)."),
    ] = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Close open windows of the running appliance, and wait until the sink has published what is in them."""
    from appliance.export_now import export_now  # here: no other command needs it

    if not now:
        raise BadRequestError(
            "nothing to do: windows close and are exported by themselves",
            where="headrace export",
            mend="`headrace export --now` closes the open ones at once; retention.roll_interval sets the usual time",
        )
    settings = load_settings(config, data_dir)

    def tell(line: str) -> None:
        typer.echo(f"note: {line}", err=True)

    timeout_s = TIMEOUT_S if timeout_s is None else timeout_s
    enabled = settings.sink.enabled
    for one in asyncio.run(
        export_now(settings.data_dir, topic or (), timeout_s=timeout_s, sink_enabled=enabled, tell=tell)
    ):
        for line in lines(one):
            typer.echo(line)


def lines(one: ExportedTopic) -> Iterator[str]:
    """What became of one topic."""
    if one.closed is None and not one.exports:
        yield f"{one.topic}: nothing new"
        return
    rows = sum(file["rows"] for file in one.files)
    size = size_text(sum(file["bytes"] for file in one.files))
    yield f"{one.topic}: {rows} rows in {len(one.files)} files ({size})"
    for file in one.files:
        yield f"  lake/{file['path']}  {file['rows']} rows, {size_text(file['bytes'])}"
