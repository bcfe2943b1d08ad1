"""A fleet of simulated machines against a box: starts them, watches them, ends them, and keeps the report.

The devices are numbered from 1; number decides kind, id and - with `both` protocols - whether it speaks MQTT (even)
or raw TCP (odd). Everything random is drawn from the seed, the number and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import structlog

from core.clock import Clock, SystemClock
from core.errors import BadRequestError
from core.tasks import background
from devices.simulator.device import Device, Identity
from devices.simulator.link import Link, Timing
from devices.simulator.machine import KINDS, Kind, Machine
from devices.simulator.mqtt_link import MqttLink
from devices.simulator.outbox import Outbox
from devices.simulator.report import FleetReport, ReportFile
from devices.simulator.tcp_link import TcpLink

Protocol = Literal["mqtt", "tcp"]

MAX_DEVICES: Final = 20_000  # one loopback address pair has about 28,000 ports; what a box takes by default
MAX_RATE_HZ: Final = 1000.0  # per device: timers of one loop are not exact below a millisecond
MAX_UNACKED: Final = 10_000  # per device, a few MB: keeps send buffers and packet ids far from their limits
MAX_CONNECTING: Final = 64  # connections being made at once: within any listen backlog
SPARE_FILES: Final = 64  # descriptors beside the sockets
WATCH_INTERVAL_S: Final = 1.0
STATUS_INTERVAL_S: Final = 5.0
DEFAULT_TIMING: Final = Timing()

_log = structlog.get_logger("headrace.simulator")


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOptions:
    """What to simulate. `rate_hz` is readings per second of each device, `for_s` None runs until stopped.

    `max_unacked` bounds what one device remembers; beyond it, readings that are due are skipped and counted.
    """

    devices: int
    rate_hz: float
    protocol: Literal["mqtt", "tcp", "both"]
    seed: int
    for_s: float | None
    host: str
    mqtt_port: int
    tcp_port: int
    max_unacked: int = 100
    timing: Timing = DEFAULT_TIMING


def kind_of(number: int) -> Kind:
    """The kind of device `number` (1, 2, ...)."""
    return KINDS[(number - 1) % len(KINDS)]


def device_id_of(number: int) -> str:
    """The id of device `number`: `pump-0001`, `press-0002`, `chiller-0003`, `pump-0004`, ..."""
    return f"{kind_of(number)}-{number:04d}"


def protocol_of(number: int, chosen: Literal["mqtt", "tcp", "both"]) -> Protocol:
    """What device `number` speaks: of `both`, even numbers MQTT and odd ones TCP."""
    if chosen == "both":
        return "tcp" if number % 2 else "mqtt"
    return chosen


async def run_fleet(
    options: FleetOptions,
    stop: asyncio.Event,
    *,
    clock: Clock | None = None,
    report_path: Path | None = None,
    report_interval_s: float = 5.0,
) -> FleetReport:
    """Run a fleet until `stop` is set or `for_s` has passed; then wait for outstanding acks and report.

    The wait is at most `options.timing.drain_s`, over lost connections too; what is still open then is reported as
    unacked. With a `report_path` the report is also written there, now and then while running, and at the end.
    Raises BadRequestError for options that cannot be met and for a report that cannot be written.
    """
    _check(options)
    fleet = _Fleet(options, clock or SystemClock())
    if report_path is None:
        await fleet.run(stop)
        return fleet.snapshot(final=True)
    file = ReportFile(report_path)
    await asyncio.to_thread(file.write, fleet.snapshot(final=False))
    keeping = background(_keep_report(fleet, file, report_interval_s), "simulator report", set())
    ended_well = False
    try:
        await fleet.run(stop)
        ended_well = True
    finally:
        keeping.cancel()
        report = fleet.snapshot(final=ended_well)
        file.write(report)
    return report


class _Fleet:
    """The devices of one run."""

    def __init__(self, options: FleetOptions, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._started_ms = clock.time_ms()
        gate = asyncio.Semaphore(MAX_CONNECTING)
        self._devices = [_device(options, number, clock, gate) for number in range(1, options.devices + 1)]

    async def run(self, stop: asyncio.Event) -> None:
        """Start, wait for the end, drain, hang up."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(device.stay_connected()) for device in self._devices]
            tasks.append(group.create_task(self._watch()))
            tasks.append(group.create_task(self._tell()))
            for device in self._devices:
                device.start()
            try:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), self._options.for_s)
                await self._drain()
            finally:
                for device in self._devices:
                    device.stop_reading()
                for task in tasks:
                    task.cancel()

    def snapshot(self, *, final: bool) -> FleetReport:
        """The report as of now."""
        return FleetReport(
            seed=self._options.seed,
            rate_hz=self._options.rate_hz,
            started_ms=self._started_ms,
            ended_ms=self._clock.time_ms(),
            final=final,
            devices={device.identity.device_id: device.report() for device in self._devices},
        )

    async def _drain(self) -> None:
        for device in self._devices:
            device.stop_reading()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.timing.drain_s):
                for device in self._devices:
                    await device.drained()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            for device in self._devices:
                device.watch(loop.time())

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(STATUS_INTERVAL_S)
            connected = sum(device.is_connected for device in self._devices)
            outboxes = [device.outbox for device in self._devices]
            figures = {
                "devices": len(outboxes),
                "connected": connected,
                "sent": sum(outbox.sent for outbox in outboxes),
                "decided": sum(outbox.decided for outbox in outboxes),
                "skipped": sum(outbox.skipped for outbox in outboxes),
            }
            if connected:
                _log.info("fleet", **figures)
            else:
                _log.warning("no device is connected", last_error=self._devices[0].last_error, **figures)


async def _keep_report(fleet: _Fleet, file: ReportFile, interval_s: float) -> None:
    """Write the report now and then, so that a simulator that is killed leaves one."""
    while True:
        await asyncio.sleep(interval_s)
        try:
            await asyncio.to_thread(file.write, fleet.snapshot(final=False))
        except BadRequestError as error:  # the fleet goes on; the end tries again, and says so if it fails
            _log.warning("report not written", error=str(error))


def _device(options: FleetOptions, number: int, clock: Clock, gate: asyncio.Semaphore) -> Device:
    protocol = protocol_of(number, options.protocol)
    identity = Identity(
        device_id=device_id_of(number),
        protocol=protocol,
        host=options.host,
        port=options.mqtt_port if protocol == "mqtt" else options.tcp_port,
        seed=options.seed,
        period_s=1.0 / options.rate_hz,
    )
    machine = Machine(kind_of(number), f"{options.seed}/{number}", tick_s=identity.period_s)

    def new_link(outbox: Outbox, on_progress: Callable[[], None]) -> Link:
        if protocol == "mqtt":
            return MqttLink(identity.device_id, outbox, options.timing, on_progress)
        return TcpLink(outbox, options.timing, on_progress)

    outbox = Outbox(options.max_unacked)
    return Device(identity, machine, outbox, new_link, timing=options.timing, clock=clock, gate=gate)


def _check(options: FleetOptions) -> None:
    """Refuse what cannot be simulated, and make room for the sockets."""
    limits: Sequence[tuple[str, float, float, float]] = (
        ("--devices", options.devices, 1, MAX_DEVICES),
        ("--rate", options.rate_hz, 1e-6, MAX_RATE_HZ),
        ("max_unacked", options.max_unacked, 1, MAX_UNACKED),
    )
    if options.for_s is not None and not 0 < options.for_s < float("inf"):
        raise BadRequestError(f"{options.for_s} is not a time to run, in seconds", where="--for")
    for name, value, least, most in limits:
        if not least <= value <= most:
            raise BadRequestError(f"{value} is outside {least:g} to {most:g}", where=name)
    protocols = {protocol_of(number, options.protocol) for number in range(1, min(options.devices, 2) + 1)}
    ports = {"mqtt": options.mqtt_port, "tcp": options.tcp_port}
    for protocol in sorted(protocols):
        if not 0 < ports[protocol] < 65536:
            raise BadRequestError(f"{ports[protocol]} is not a port", where=f"--{protocol}-port")
    _allow_files(options.devices + SPARE_FILES)


def _allow_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    if hard != resource.RLIM_INFINITY and hard < count:
        raise BadRequestError(
            f"{count} open files are needed, {hard} are allowed",
            where="the limit on open files",
            mend="raise it (ulimit -n) or simulate fewer devices",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
