"""The demo's pretend machines, in a process of their own: `headrace simulate` that ends when the demo is gone.

Started as `python -m appliance.fleet OPTIONS.json [--life-fd N] [--ready-fd N]`, like a child of the appliance (see
`appliance.process`), so that a demo that is killed leaves no fleet behind that knocks at closed ports for ever.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Literal

import msgspec

from appliance.process import ChildArguments, parse_arguments, run_guarded, stop_on_signals, stop_with_supervisor
from core.errors import ConfigError
from core.logs import configure_logs
from devices.simulator.fleet import FleetOptions, run_fleet


class FleetFile(msgspec.Struct, frozen=True, kw_only=True):
    """What the demo asks of the fleet. A port of 0 belongs to a protocol that is not spoken."""

    devices: int
    rate_hz: float
    protocol: Literal["mqtt", "tcp", "both"]
    seed: int
    host: str
    mqtt_port: int
    tcp_port: int
    report: str


def _options(path: Path) -> FleetFile:
    try:
        return msgspec.json.decode(path.read_bytes(), type=FleetFile)
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"the fleet's options cannot be read: {error}", where=str(path)) from error


async def _run(arguments: ChildArguments) -> None:
    options = _options(arguments.settings_path)
    stop = asyncio.Event()
    stop_on_signals(stop)
    if arguments.life_fd is not None:
        stop_with_supervisor(arguments.life_fd, stop)
    if arguments.ready_fd is not None:
        os.close(arguments.ready_fd)  # nobody waits for it
    fleet = FleetOptions(
        devices=options.devices,
        rate_hz=options.rate_hz,
        protocol=options.protocol,
        seed=options.seed,
        for_s=None,
        host=options.host,
        mqtt_port=options.mqtt_port,
        tcp_port=options.tcp_port,
    )
    await run_fleet(fleet, stop, report_path=Path(options.report))


if __name__ == "__main__":
    configure_logs("fleet")
    raise SystemExit(run_guarded(lambda: _run(parse_arguments(sys.argv[1:]))))
