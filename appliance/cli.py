"""The `headrace` command. Every HeadraceError ends it with the error's exit code and one shape on standard error."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from appliance.commands import config, export, log, processes, quarantine, query, simulate, verify
from core.errors import HeadraceError

app = typer.Typer(
    name="headrace",
    help="Telemetry appliance: MQTT and TCP in, a commit log on disk, Parquet and device status out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(config.app, name="config")
app.add_typer(log.app, name="log")
app.add_typer(quarantine.app, name="quarantine")
processes.register(app)
simulate.register(app)
export.register(app)
verify.register(app)
query.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"headrace {version('headrace')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass  # what all commands share is the version alone


def error_text(error: HeadraceError) -> str:
    """The error as a person reads it: what, where and mend on lines of their own, empty ones left out."""
    lines = [f"error: {error.what}"]
    if error.where:
        lines.append(f"where: {error.where}")
    if error.mend:
        lines.append(f"mend:  {error.mend}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command (default: the process's own arguments). Returns or raises SystemExit with the exit code."""
    try:
        app(args=arguments, prog_name="headrace")
    except HeadraceError as error:
        typer.echo(error_text(error), err=True)
        return error.exit_code
    return 0
