"""`headrace run` and `headrace demo`: the appliance itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from appliance.commands.options import Config, DataDir, For, Overrides
from appliance.settings import load_settings


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(run)
    app.command()(demo)


def run(config: Config = None, data_dir: DataDir = None, overrides: Overrides = None) -> None:
    """Run the appliance until SIGTERM or Ctrl-C."""
    from appliance.supervisor import run_appliance  # here, so that `config check` loads nothing it does not need

    raise typer.Exit(run_appliance(load_settings(config, data_dir, overrides or ())))


def demo(
    data_dir: Annotated[
        Path, typer.Option("--data-dir", metavar="DIR", help="Data directory; kept, and used again next time.")
    ] = Path("headrace-demo"),
    for_s: For = None,
    devices: Annotated[int, typer.Option("--devices", min=1, help="Simulated machines, over both protocols.")] = 50,
    overrides: Overrides = None,
    config: Config = None,
) -> None:
    """Run the appliance with short windows and simulated machines, and show what happens."""
    from appliance.demo import run_demo  # as above

    raise typer.Exit(
        run_demo(data_dir=data_dir, for_s=for_s, devices=devices, overrides=tuple(overrides or ()), config=config)
    )
