"""Options that several commands take, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from core.units import parse_duration_s

Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings file (TOML).")]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="Data directory (default: ./headrace-data)."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="One setting, such as --set mqtt.port=auto; stronger than the file and the environment. Repeatable.",
    ),
]
Since = Annotated[str | None, typer.Option("--since", metavar="TIME", help="Received at or after: see --until.")]
Until = Annotated[
    str | None,
    typer.Option("--until", metavar="TIME", help="Received before: 2026-01-31T12:00:00Z, epoch ms, or 10m ago."),
]


def duration_s(text: str) -> float:
    """The seconds of an option such as `30s`; a usage error for anything else."""
    try:
        return parse_duration_s(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


For = Annotated[
    float | None,
    typer.Option("--for", metavar="TIME", parser=duration_s, help="End by itself after this time, such as 30s."),
]
