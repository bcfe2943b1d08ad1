"""`headrace simulate`: pretend machines against an appliance, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from appliance.commands.options import Config, DataDir, For
from appliance.settings import load_settings
from core.logs import configure_logs
from core.ports import read_ports

if TYPE_CHECKING:
    from devices.simulator.fleet import FleetOptions
    from devices.simulator.report import FleetReport

DEFAULT_PORTS: Final = {"mqtt": 1883, "tcp": 9000}


class Protocol(StrEnum):
    """What the machines speak."""

    MQTT = "mqtt"
    TCP = "tcp"
    BOTH = "both"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(simulate)


def simulate(
    devices: Annotated[int, typer.Option("--devices", min=1, help="How many machines.")] = 50,
    rate_hz: Annotated[float, typer.Option("--rate", min=0.0, help="Readings per second of each machine.")] = 1.0,
    protocol: Annotated[Protocol, typer.Option("--protocol", help="What they speak.")] = Protocol.BOTH,
    seed: Annotated[int, typer.Option("--seed", help="The same seed makes the same machines and readings.")] = 1,
    for_s: For = None,
    host: Annotated[str, typer.Option("--host", help="Where the appliance is.")] = "127.0.0.1",
    mqtt_port: Annotated[
        int | None, typer.Option("--mqtt-port", min=1, max=65535, help="(default: the one of --data-dir, else 1883)")
    ] = None,
    tcp_port: Annotated[
        int | None, typer.Option("--tcp-port", min=1, max=65535, help="(default: the one of --data-dir, else 9000)")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write what was sent, acked and resent here (JSON).")
    ] = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Simulate a fleet of machines until --for has passed, SIGTERM or Ctrl-C; every reading is resent until acked."""
    from devices.simulator.fleet import FleetOptions  # here: no other command needs the simulator

    ports = _ports(config, data_dir, {"mqtt": mqtt_port, "tcp": tcp_port})
    options = FleetOptions(
        devices=devices,
        rate_hz=rate_hz,
        protocol=protocol.value,
        seed=seed,
        for_s=for_s,
        host=host,
        mqtt_port=ports["mqtt"],
        tcp_port=ports["tcp"],
    )
    configure_logs("simulator", "auto", "info")
    totals = asyncio.run(_run(options, report)).totals
    typer.echo(
        f"sent {totals.sent}, acked {totals.acked}, unacked {totals.unacked}, refused {totals.refused}, "
        f"resent {totals.resent}, skipped {totals.skipped}"
    )


def _ports(config: Path | None, data_dir: Path | None, asked: dict[str, int | None]) -> dict[str, int]:
    """What was asked for, else what the appliance of the data directory published, else the usual ports."""
    published = {} if all(asked.values()) else read_ports(load_settings(config, data_dir).data_dir / "run")
    return {name: asked[name] or published.get(name, usual) for name, usual in DEFAULT_PORTS.items()}


async def _run(options: FleetOptions, report: Path | None) -> FleetReport:
    from devices.simulator.fleet import run_fleet  # as above

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # an event loop off Unix: Ctrl-C then ends it at once
            loop.add_signal_handler(number, stop.set)
    return await run_fleet(options, stop, report_path=report)
