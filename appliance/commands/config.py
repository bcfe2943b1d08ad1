"""`headrace config`: what the settings are, and whether they can be used."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from appliance.commands.options import Config, DataDir, Overrides
from appliance.config_keys import public_tree
from appliance.config_text import render_toml
from appliance.settings import load_with_origins

app = typer.Typer(help="Show or check the settings.", no_args_is_help=True)


@app.command()
def show(
    config: Config = None,
    data_dir: DataDir = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON: `settings`, and `origins` by dotted name.")] = False,
) -> None:
    """Print the effective settings as TOML, with where each came from that is not a default."""
    loaded = load_with_origins(config, data_dir, overrides or ())
    if as_json:
        typer.echo(json.dumps({"settings": public_tree(loaded.settings), "origins": dict(loaded.origins)}, indent=2))
    else:
        typer.echo(render_toml(loaded.settings, loaded.origins), nl=False)


@app.command()
def check(config: Config = None, data_dir: DataDir = None, overrides: Overrides = None) -> None:
    """Read and check the settings without starting anything; lists every mistake, exit code 2."""
    loaded = load_with_origins(config, data_dir, overrides or ())
    count = len(loaded.origins)
    typer.echo(f"settings are usable: {count} given, the others at their defaults")
