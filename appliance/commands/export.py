"""`headrace export --now`: close the open windows of a running appliance, so that the sink exports them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from appliance.commands.options import Config, DataDir
from appliance.settings import load_settings
from commitlog.base import ClosedWindow
from commitlog.remote import RemoteLog
from core.channel import ChannelClient
from core.errors import BadRequestError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(export)


def export(
    now: Annotated[bool, typer.Option("--now", help="Close the open window of every topic now.")] = False,
    topic: Annotated[list[str] | None, typer.Option("--topic", help="Only this topic. Repeatable.")] = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Close open windows of the running appliance, which hands them to the sink."""
    if not now:
        raise BadRequestError(
            "nothing to do: windows close and are exported by themselves",
            where="headrace export",
            mend="`headrace export --now` closes the open ones at once; retention.roll_interval sets the usual time",
        )
    directory = load_settings(config, data_dir).data_dir
    for name, window in asyncio.run(close_windows(directory, topic or [])).items():
        typer.echo(f"{name}: {_told(window)}")


async def close_windows(data_dir: Path, topics: list[str]) -> dict[str, ClosedWindow | None]:
    """Roll the topics (all, when none is named). None stands for a topic with nothing since its last window.

    Raises UnavailableError when no appliance runs on `data_dir`, NotFoundError for an unknown topic.
    """
    channel = ChannelClient(data_dir / "run" / "edge.sock")
    log = RemoteLog(channel)
    try:
        names = topics or await asyncio.to_thread(_all_topics, data_dir)
        return {name: await log.roll(name, "asked for on the command line") for name in names}
    finally:
        await channel.close()


def _all_topics(data_dir: Path) -> list[str]:
    from commitlog.reader import FileLogReader  # here: only this command reads the log

    reader = FileLogReader(data_dir)
    try:
        return sorted(reader.topics())
    finally:
        reader.close()


def _told(window: ClosedWindow | None) -> str:
    if window is None:
        return "nothing new since the last window"
    filled = sum(1 for first, following in window.offsets.values() if following > first)
    return f"window {window.number} closed, {window.span} offsets in {filled} partitions"
