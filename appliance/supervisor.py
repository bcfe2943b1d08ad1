"""`headrace run`: start the appliance's processes, keep them running, stop them in order.

The rules:

1. The process that keeps the log (edge) is started first; the others once it is ready. It is stopped last, because
   the sink's last checkpoint and the console's last answer go through it.
2. A child that dies is started again, at once if it had worked, else with a growing pause (`appliance.restarts`);
   the others do not notice.
3. Stop, on SIGTERM, SIGINT or SIGHUP: drain (the edge stops listening, open batches commit and are acknowledged,
   connections close), then console and sink, then the edge. A second signal shortens the patience.
4. No process outlives the supervisor: each watches the life pipe, whose writing end only the supervisor has.
5. A listener on an `auto` port that is started again listens where it did before, if that port is still free: its
   clients look for it there.
6. The supervisor touches no data. It may be killed at any time.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from appliance.child import ChildProcess, ChildSpec, end_children, module_spec, start_child
from appliance.datadir import DataDir, open_data_dir
from appliance.restarts import GiveUp, Restart, RestartPolicy, RestartRule, describe_exit, shell_exit_code
from appliance.settings import LISTENERS, Settings
from core.channel import ChannelClient
from core.clock import Clock, SystemClock
from core.errors import DataDirError, HeadraceError, PortTakenError
from core.logs import configure_logs
from core.ports import forget_ports, read_ports

SLOW_START_S: Final = 10.0  # after this long a person wonders; recovery of a big log may well take longer
START_FAILED: Final = 127  # what a shell says when it cannot start a command
_VOLATILE: Final = frozenset({"tmpfs", "ramfs"})

_log = structlog.get_logger("headrace.supervisor")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long each step of a stop may take, in seconds, before it is cut short."""

    drain_s: float = 10.0  # open batches commit within milliseconds; a slow card may take seconds to sync
    others_s: float = 20.0  # the sink finishes or drops its current file
    log_s: float = 60.0  # a checkpoint of a full journal on a slow card


def run_appliance(settings: Settings) -> int:
    """Run the appliance until it is told to stop; returns the exit code. Blocks.

    Raises DataDirError when the data directory cannot be used.
    """
    configure_logs("supervisor", settings.logging.format, settings.logging.level)
    data_dir = open_for(settings)
    try:
        return asyncio.run(_run_until_signal(settings, data_dir))
    finally:
        data_dir.close()


def open_for(settings: Settings) -> DataDir:
    """The data directory that these settings name, made, checked and locked. Raises DataDirError."""
    return open_data_dir(
        settings.data_dir,
        journal_size_bytes=settings.log.journal_size_bytes,
        spare_bytes=settings.log.reserve_bytes + settings.log.full_mark_bytes,
        allow_network_filesystem=settings.allow_network_filesystem,
    )


def children_of(settings: Settings) -> Sequence[ChildSpec]:
    """The processes that these settings ask for."""
    children = [module_spec("edge", keeps_log=True, holds_lock=True)]
    if settings.http.port != 0:
        children.append(module_spec("console"))
    if settings.sink.enabled:
        children.append(module_spec("sink", holds_lock=True))
    return children


def with_ports(settings: Settings, ports: Mapping[str, int]) -> Settings:
    """The settings with `auto` ports fixed to what they became: a child that is started again must be found again."""
    sections = {name: getattr(settings, name) for name in LISTENERS if name in ports}
    fixed = {
        name: section.model_copy(update={"port": ports[name]})
        for name, section in sections.items()
        if section.port == "auto"
    }
    return settings.model_copy(update=fixed)


async def _run_until_signal(settings: Settings, data_dir: DataDir) -> int:
    supervisor = Supervisor(settings, data_dir, children_of(settings))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup means it
            loop.add_signal_handler(number, supervisor.stop)
    return await supervisor.run()


class Supervisor:
    """Keeps the children of one appliance running. One `run` per object."""

    def __init__(
        self,
        settings: Settings,
        data_dir: DataDir,
        children: Sequence[ChildSpec],
        *,
        rule: RestartRule | None = None,
        patience: Patience | None = None,
        clock: Clock | None = None,
        drain: Callable[[], Awaitable[None]] | None = None,
        output_fd: int | None = None,
    ) -> None:
        self._settings = settings.model_copy(update={"data_dir": data_dir.path})  # absolute, wherever a child stands
        self._data_dir = data_dir
        self._specs = children
        self._rule = rule or RestartRule()
        self._patience = patience or Patience()
        self._clock = clock or SystemClock()
        self._drain = drain or self._drain_edge
        self._output_fd = output_fd
        self._running: dict[str, ChildProcess] = {}
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._log_ready = asyncio.Event()
        self._exit_code = 0
        self._same_ports = True
        self._life_fds = (-1, -1)
        self._settings_path = ""

    @property
    def log_ready(self) -> asyncio.Event:
        """Set once the process that keeps the log has said that it is ready."""
        return self._log_ready

    def stop(self) -> None:
        """Begin the orderly stop; called again, lose patience."""
        if self._stopping.is_set():
            _log.warning("asked to stop again; losing patience")
            self._hurry.set()
        self._stopping.set()

    async def run(self) -> int:
        """Start everything, keep it running until `stop` or until a child gives up; the exit code.

        0 after an orderly stop, else the first child's reason.
        """
        self._life_fds = os.pipe()
        try:
            self._prepare()
            keepers = [asyncio.create_task(self._keep(spec), name=spec.name) for spec in self._specs]
            try:
                await self._stopping.wait()
                await self._stop_in_order()
                await asyncio.gather(*keepers)
            finally:
                await self._abandon(keepers)
        finally:
            for descriptor in self._life_fds:
                os.close(descriptor)
        _log.info("stopped", exit_code=self._exit_code)
        return self._exit_code

    def _prepare(self) -> None:
        forget_ports(self._data_dir.run)
        self._settings_path = str(self._data_dir.write_settings(self._settings.to_json()))
        if self._data_dir.filesystem in _VOLATILE:
            _log.warning(
                "the data directory lies in memory: nothing survives a power cut", path=str(self._data_dir.path)
            )
        self._publish_pids()
        _log.info("starting", data_dir=str(self._data_dir.path), children=[spec.name for spec in self._specs])

    async def _keep(self, spec: ChildSpec) -> None:
        """One child's life: start, watch, start again."""
        policy = RestartPolicy(self._rule)
        if not spec.keeps_log:
            await self._unless_stopping(self._log_ready)
        while not self._stopping.is_set():
            exit_code = await self._live_once(spec, policy)
            if self._stopping.is_set():
                self._note_end(exit_code)
                return
            if exit_code == PortTakenError.exit_code:
                self._same_ports = False  # somebody has taken an `auto` port meanwhile: the next start may get another
            decision = policy.died(self._now_s(), exit_code)
            self._tell_death(spec, exit_code, decision)
            if isinstance(decision, GiveUp):
                self._exit_code = self._exit_code or decision.exit_code
                self._stopping.set()
                return
            await self._pause(decision.delay_s)

    async def _live_once(self, spec: ChildSpec, policy: RestartPolicy) -> int:
        policy.started(self._now_s())
        try:
            ports = read_ports(self._data_dir.run) if self._same_ports else {}
            self._data_dir.write_settings(with_ports(self._settings, ports).to_json())
            child = await start_child(
                spec,
                settings_path=self._settings_path,
                life_fd=self._life_fds[0],
                lock_fd=self._data_dir.lock_fd,
                output_fd=self._output_fd,
            )
        except (OSError, DataDirError) as error:  # no memory, processes or space: passes, or the pause grows
            _log.error("cannot be started", child=spec.name, error=str(error))
            return START_FAILED
        self._running[spec.name] = child
        self._publish_pids()
        watch = asyncio.create_task(self._watch_ready(spec, child, policy))
        try:
            if self._stopping.is_set():  # the stop began while it was being started, and does not know it
                await end_children([child], patience_s=self._patience.others_s, hurry=self._hurry)
            return await child.wait()
        finally:
            watch.cancel()
            del self._running[spec.name]
            self._publish_pids()

    async def _watch_ready(self, spec: ChildSpec, child: ChildProcess, policy: RestartPolicy) -> None:
        started_s = self._now_s()
        while True:
            try:
                await asyncio.wait_for(child.ready.wait(), SLOW_START_S)
                break
            except TimeoutError:
                if spec.keeps_log:
                    _log.info("still starting", child=spec.name, waited_s=round(self._now_s() - started_s))
        policy.ready(self._now_s())
        _log.info("ready", child=spec.name, pid=child.pid, after_s=round(self._now_s() - started_s, 3))
        if spec.keeps_log:
            self._log_ready.set()

    def _tell_death(self, spec: ChildSpec, exit_code: int, decision: Restart | GiveUp) -> None:
        fields = {"child": spec.name, "reason": describe_exit(exit_code)}
        if isinstance(decision, GiveUp):
            _log.error("cannot start; its own message above says what to mend. The appliance ends", **fields)
        else:
            _log.error("died; it is started again", **fields, after_s=decision.delay_s)

    def _note_end(self, exit_code: int) -> None:
        """A child's end during the stop. SIGTERM is what it was sent: it had not come to the point of handling it."""
        if exit_code not in (0, -signal.SIGTERM):
            self._exit_code = self._exit_code or shell_exit_code(exit_code)

    async def _stop_in_order(self) -> None:
        _log.info("stopping")
        keeper = [self._running[spec.name] for spec in self._specs if spec.keeps_log and spec.name in self._running]
        others = [child for child in self._running.values() if child not in keeper]
        if any(child.ready.is_set() for child in keeper):
            await self._drain()
        await end_children(others, patience_s=self._patience.others_s, hurry=self._hurry)
        await end_children(keeper, patience_s=self._patience.log_s, hurry=self._hurry)

    async def _drain_edge(self) -> None:
        channel = ChannelClient(self._data_dir.run / "edge.sock")
        hurried = asyncio.ensure_future(self._hurry.wait())
        drained = asyncio.ensure_future(channel.call("drain", timeout_s=self._patience.drain_s))
        try:
            await asyncio.wait({drained, hurried}, return_when=asyncio.FIRST_COMPLETED)
            if drained.done():
                await drained
        except HeadraceError as error:
            _log.warning("the edge did not drain; stopping it anyway", what=error.what, where=error.where)
        finally:
            hurried.cancel()
            drained.cancel()
            await channel.close()

    async def _abandon(self, keepers: Sequence[asyncio.Task[None]]) -> None:
        """After an unforeseen error in here: leave no child behind. Nothing to do after an orderly stop."""
        for task in keepers:
            task.cancel()
        for child in list(self._running.values()):
            child.send(signal.SIGTERM)

    async def _pause(self, delay_s: float) -> None:
        """Wait, but not through a stop."""
        try:
            await asyncio.wait_for(self._stopping.wait(), delay_s)
        except TimeoutError:
            return

    async def _unless_stopping(self, event: asyncio.Event) -> None:
        """Wait until `event` is set or the stop has begun."""
        waits = {asyncio.ensure_future(event.wait()), asyncio.ensure_future(self._stopping.wait())}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def _publish_pids(self) -> None:
        pids = {name: child.pid for name, child in self._running.items()}
        try:
            self._data_dir.write_pids({"supervisor": os.getpid(), **pids})
        except DataDirError as error:  # a full disk: only tools read it
            _log.warning("pids.json is out of date", what=error.what, where=error.where)

    def _now_s(self) -> float:
        return self._clock.monotonic_ms() / 1000
