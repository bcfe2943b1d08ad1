"""`headrace demo`: the appliance with short windows, pretend machines, and the proof at the end.

1. Free ports and the data directory are checked before anything starts.
2. The appliance starts, as `headrace run` would start it; then the fleet, in a process of its own.
3. Until `--for` has passed or Ctrl-C: the figures, once a second.
4. The ending, whatever began it: the fleet stops and reports what was acknowledged; the last windows are closed; the
   sink exports them; the appliance stops in order; DuckDB counts. The exit code is 0 only if the lake holds every
   reading that was acknowledged.

Logs of all processes go to `<data>/demo.log`, begun anew each time.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TextIO

import duckdb
import msgspec

from appliance.child import ChildProcess, ChildSpec, end_children, start_child
from appliance.datadir import DataDir
from appliance.demo_figures import DemoFigures, EdgeFigures, between, edge_figures, lake_figures, quantile_ms, size_text
from appliance.demo_proof import Proof, example_command, prove, run_example
from appliance.demo_screen import DemoScreen, welcome
from appliance.fleet import FleetFile
from appliance.settings import LISTENERS, Settings, listening_ports, load_settings
from appliance.supervisor import Supervisor, children_of, open_for
from commitlog.committed import committed_from_row, committed_table
from commitlog.reader import FileLogReader
from commitlog.remote import RemoteLog
from core.channel import ChannelClient
from core.errors import ConfigError, HeadraceError, PortTakenError, UnavailableError
from core.logs import configure_logs
from core.ports import read_ports
from devices.simulator.report import FleetReport
from sink.progress import EXPORTS_TABLE

SHORT_WINDOWS: Final = ("retention.roll_interval=15s", "sink.hold_back=0")
"""Somebody is watching: windows close soon, and none is held back, however little is in it."""
SHOW_INTERVAL_S: Final = 1.0
POLL_S: Final = 0.1
PORTS_PATIENCE_S: Final = 30.0  # the console loads its libraries on a slow board
FLEET_PATIENCE_S: Final = 20.0  # it waits five seconds for the last acks itself
EXPORT_PATIENCE_S: Final = 120.0  # the last windows of a demo are small; a sink that is in a retry pause waits 30 s
_NOT_PROVEN: Final = 1


def run_demo(
    *,
    data_dir: Path = Path("headrace-demo"),
    for_s: float | None = None,
    devices: int = 50,
    overrides: Sequence[str] = (),
    config: Path | None = None,
) -> int:
    """Run the demo until `for_s` has passed or a signal comes; the exit code. Blocks.

    Raises PortTakenError, DataDirError or ConfigError before anything has started.
    """
    given = {override.partition("=")[0].strip() for override in overrides}
    ours = [setting for setting in SHORT_WINDOWS if setting.partition("=")[0] not in given]
    settings = load_settings(config, data_dir, (*overrides, *ours))
    check_settings(settings)
    check_ports(settings)
    held = open_for(settings)
    try:
        with (held.path / "demo.log").open("w", encoding="utf-8") as log:
            configure_logs("supervisor", "json", settings.logging.level, stream=log)
            return asyncio.run(_Demo(settings, held, log, devices, DemoScreen()).run(for_s))
    finally:
        held.close()


def check_settings(settings: Settings) -> None:
    """Refuse settings with which there is nothing to show or to prove. Raises ConfigError."""
    if not settings.sink.enabled:
        raise ConfigError("the demo needs the sink", where="sink.enabled", mend="leave sink.enabled = true")
    if settings.mqtt.port == 0 and settings.tcp.port == 0:
        raise ConfigError(
            "the demo's machines need a listener", where="mqtt.port, tcp.port", mend="give one of them a port"
        )


def check_ports(settings: Settings) -> None:
    """Refuse ports that somebody else has, naming the setting. Raises PortTakenError."""
    for at in listening_ports(settings):
        if at.port == "auto":
            continue
        family = socket.AF_INET6 if ":" in at.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((at.host, at.port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    continue  # whatever else is wrong with the address, the listener itself says it better
                raise PortTakenError(
                    f"port {at.port} on {at.host} is already in use",
                    where=at.setting,
                    mend=f"--set {at.setting}={at.port + 1 if at.port < 65535 else 1024}, "
                    f"or --set {at.setting}=auto for any free one",
                ) from error


class _Demo:
    """One demo, from start to proof."""

    def __init__(self, settings: Settings, data_dir: DataDir, log: TextIO, devices: int, screen: DemoScreen) -> None:
        self._settings = settings
        self._data_dir = data_dir
        self._log_fd = log.fileno()
        self._log_path = Path(log.name)
        self._devices = devices
        self._screen = screen
        self._lake = data_dir.path / "lake"
        self._topics = sorted({settings.tcp.topic, *(route.topic for route in settings.routes)})
        self._channel = ChannelClient(data_dir.run / "edge.sock")
        self._remote = RemoteLog(self._channel)
        self._supervisor = Supervisor(settings, data_dir, children_of(settings), output_fd=self._log_fd)
        self._ending = asyncio.Event()
        self._hurry = asyncio.Event()
        self._since_ms = 0

    async def run(self, for_s: float | None) -> int:
        """See `run_demo`."""
        self._end_on_signals()
        running = asyncio.create_task(self._supervisor.run())
        running.add_done_callback(lambda _: self._ending.set())
        life_fd, our_end = os.pipe()
        try:
            return await self._with_appliance(running, life_fd, for_s)
        finally:
            self._screen.end_live()
            os.close(our_end)
            os.close(life_fd)
            if not running.done():
                self._supervisor.stop()
                await running
            await self._channel.close()

    async def _with_appliance(self, running: asyncio.Task[int], life_fd: int, for_s: float | None) -> int:
        ports = await self._up(running)
        if ports is None:
            return await self._not_up(running)
        hosts = {name: getattr(self._settings, name).host for name in LISTENERS}
        for line in welcome(hosts, ports, self._lake, self._settings.tcp.topic, self._log_path):
            self._screen.say(line)
        self._since_ms = time.time_ns() // 1_000_000
        fleet = await self._start_fleet(ports, life_fd)
        await self._show_until_end(for_s)
        self._screen.end_live()
        self._screen.say("Ending: the machines stop, the last windows close, the sink exports them.")
        await end_children([fleet], patience_s=FLEET_PATIENCE_S, hurry=self._hurry)
        exported = not running.done() and await self._export_rest()
        lake = lake_figures(await self._exports(), self._topics, self._since_ms) if not running.done() else None
        self._supervisor.stop()
        exit_code = await running
        proof = await asyncio.to_thread(self._prove)
        if lake is not None:
            self._screen.say(
                f"Lake, this run: {lake.rows:,} rows in {lake.files:,} files of {lake.windows:,} windows, "
                f"{size_text(lake.size_bytes)}, {lake.quarantined:,} in quarantine."
            )
        if not exported:
            self._screen.say(f"The sink did not export the last windows in time: see {self._log_path}")
        return exit_code or (0 if proof is not None and not proof.missing else _NOT_PROVEN)

    def _end_on_signals(self) -> None:
        loop = asyncio.get_running_loop()

        def end() -> None:
            if self._hurry.is_set():
                self._supervisor.stop()  # the third one and further ones: whatever still runs is ended
            if self._ending.is_set():
                self._hurry.set()  # the second one: no more waiting for acks and exports
            self._ending.set()

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, end)

    async def _up(self, running: asyncio.Task[int]) -> Mapping[str, int] | None:
        """The published ports, once all listeners have theirs; None when it does not come to that."""
        wanted = {name for name in LISTENERS if getattr(self._settings, name).port != 0}
        deadline = None
        while not self._ending.is_set():
            ports = read_ports(self._data_dir.run)
            if self._supervisor.log_ready.is_set():  # before that recovery may take its time
                deadline = deadline or time.monotonic() + PORTS_PATIENCE_S
                if wanted <= set(ports):
                    return ports
                if time.monotonic() > deadline:
                    return None
            await _wait(self._ending, POLL_S)
        return None

    async def _not_up(self, running: asyncio.Task[int]) -> int:
        self._supervisor.stop()
        exit_code = await running
        self._screen.say(f"The appliance did not start. The last lines of {self._log_path}:")
        for line in self._log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]:
            self._screen.say(f"  {line}")
        return exit_code or _NOT_PROVEN

    async def _start_fleet(self, ports: Mapping[str, int], life_fd: int) -> ChildProcess:
        both = "mqtt" in ports and "tcp" in ports
        options = FleetFile(
            devices=self._devices,
            rate_hz=1.0,
            protocol="both" if both else "mqtt" if "mqtt" in ports else "tcp",
            seed=1,
            host=self._settings.mqtt.host if "mqtt" in ports else self._settings.tcp.host,
            mqtt_port=ports.get("mqtt", 0),
            tcp_port=ports.get("tcp", 0),
            report=str(self._report_path),
        )
        self._report_path.unlink(missing_ok=True)  # an older run's
        path = self._data_dir.run / "demo-fleet.json"
        path.write_bytes(msgspec.json.encode(options))
        return await start_child(
            ChildSpec(name="fleet", command=(sys.executable, "-P", "-m", "appliance.fleet")),
            settings_path=str(path),
            life_fd=life_fd,
            lock_fd=self._data_dir.lock_fd,
            output_fd=self._log_fd,
        )

    async def _show_until_end(self, for_s: float | None) -> None:
        started_s = time.monotonic()
        last: EdgeFigures | None = None
        while not self._ending.is_set():
            elapsed_s = time.monotonic() - started_s
            if for_s is not None and elapsed_s >= for_s:
                return
            try:
                now = edge_figures(await self._channel.call("metrics", timeout_s=5.0), time.monotonic())
                exports = await self._exports()
            except UnavailableError:
                pass  # the edge is being started anew: the figures stand still, the log says why
            else:
                self._screen.show(self._figures(last or now, now, exports, elapsed_s))
                last = now
            left_s = SHOW_INTERVAL_S if for_s is None else min(SHOW_INTERVAL_S, for_s - elapsed_s)
            await _wait(self._ending, left_s)

    def _figures(
        self, last: EdgeFigures, now: EdgeFigures, exports: Mapping[str, Mapping[str, object]], elapsed_s: float
    ) -> DemoFigures:
        rate, _ = between(last, now)
        return DemoFigures(
            elapsed_s=elapsed_s,
            acked=int(now.acked),
            acked_per_s=rate,
            ack_p50_ms=quantile_ms(now.ack_buckets, 0.5),
            ack_p99_ms=quantile_ms(now.ack_buckets, 0.99),
            unsynced=int(now.unsynced),
            connections=int(now.connections),
            lake=lake_figures(exports, self._topics, self._since_ms),
        )

    async def _exports(self) -> Mapping[str, Mapping[str, object]]:
        return await self._remote.rows(EXPORTS_TABLE)

    async def _export_rest(self) -> bool:
        """Close the open windows and wait until the sink has exported them all; False when it does not in time."""
        try:
            for topic in self._topics:
                await self._remote.roll(topic, "the end of the demo")
            wanted = await asyncio.to_thread(self._next_windows)
            deadline = time.monotonic() + EXPORT_PATIENCE_S
            while time.monotonic() < deadline and not self._hurry.is_set():
                rows = await self._remote.rows(committed_table("parquet"))
                if all(
                    topic in rows and committed_from_row(rows[topic]).next_window >= n for topic, n in wanted.items()
                ):
                    return True
                await _wait(self._hurry, POLL_S)
        except HeadraceError as error:
            self._screen.say(f"The last windows could not be closed: {error}")
        return False

    def _next_windows(self) -> Mapping[str, int]:
        """Topic id -> the number that the next window will have."""
        reader = FileLogReader(self._data_dir.path)
        try:
            known = reader.topics()
            closed = {known[topic].topic_id: reader.windows(topic) for topic in self._topics if topic in known}
        finally:
            reader.close()
        return {topic_id: windows[-1].number + 1 for topic_id, windows in closed.items() if windows}

    @property
    def _report_path(self) -> Path:
        return self._data_dir.path / "demo-report.json"

    def _prove(self) -> Proof | None:
        """Say what was sent and what the lake holds of it; None when that cannot be found out."""
        topic = self._settings.tcp.topic
        try:
            report = FleetReport.read(self._report_path)
            self._screen.say(f"\n{example_command(self._lake, topic)}")
            self._screen.say(run_example(self._lake, topic))
            proof = prove(report, self._lake, self._topics, self._since_ms)
        except (OSError, HeadraceError, duckdb.Error) as error:
            self._screen.say(f"Nothing can be proven: {error}")
            return None
        totals = report.totals
        self._screen.say(
            f"Machines: {totals.sent:,} readings sent, {totals.acked:,} acknowledged, {totals.unacked:,} not, "
            f"{totals.refused:,} refused, {totals.resent:,} resent."
        )
        self._screen.say(f"Proof: {proof.found:,} of {proof.acked:,} acknowledged readings are in the Parquet files.")
        for device, ranges in list(proof.missing.items())[:10]:
            self._screen.say(f"  missing of {device}: {', '.join(f'{first}-{last}' for first, last in ranges[:10])}")
        return proof


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    """Until the event or the timeout, whichever is first."""
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        return
