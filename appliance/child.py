"""One child process as the supervisor holds it: started with its pipes, watched, ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from appliance.process import READY_LINE

_log = structlog.get_logger("headrace.supervisor")

LARGE_PAGES: Final[Mapping[str, str]] = {"MIMALLOC_ALLOW_LARGE_OS_PAGES": "1"}
"""Lets Arrow's allocator ask for 2 MB pages: a sink fills hundreds of megabytes at once, and to be given them in pages
of 4 KB took an eighth of the time of an export."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """What to start. `command` is followed by the settings path and the pipes' options (see `appliance.process`).

    `keeps_log` marks the process that the others need: it is started first and stopped last. `holds_lock`: it writes
    what must have one writer, so it inherits the data directory's lock, and no second appliance starts while it lives.
    """

    name: str
    command: Sequence[str]
    keeps_log: bool = False
    holds_lock: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that it has besides ours; ours stand before them."""


def module_spec(name: str, *, keeps_log: bool = False, holds_lock: bool = False) -> ChildSpec:
    """The child `appliance.<name>`. With -P, so that a folder of a like name where the user stands is not imported."""
    command = (sys.executable, "-P", "-m", f"appliance.{name}")
    environment = LARGE_PAGES if name == "sink" else {}
    return ChildSpec(name=name, command=command, keeps_log=keeps_log, holds_lock=holds_lock, environment=environment)


class ChildProcess:
    """A running child. `ready` is set when it says so (see `appliance.process.announce_ready`)."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, ready_fd: int) -> None:
        self.name = name
        self.ready = asyncio.Event()
        self._process = process
        self._ready_fd = ready_fd
        self._said = b""
        asyncio.get_running_loop().add_reader(ready_fd, self._hear)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative when a signal ended it."""
        return self._process.returncode

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        exit_code = await self._process.wait()
        self._deafen()
        return exit_code

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def _hear(self) -> None:
        heard = os.read(self._ready_fd, 64)
        self._said = (self._said + heard)[-len(READY_LINE) :]
        if self._said == READY_LINE:
            self.ready.set()
        if not heard or self.ready.is_set():
            self._deafen()

    def _deafen(self) -> None:
        if self._ready_fd >= 0:
            asyncio.get_running_loop().remove_reader(self._ready_fd)
            os.close(self._ready_fd)
            self._ready_fd = -1


async def start_child(
    spec: ChildSpec, *, settings_path: str, life_fd: int, lock_fd: int, output_fd: int | None
) -> ChildProcess:
    """Start a child in a session of its own: Ctrl-C and a closed terminal are the supervisor's business alone.

    `life_fd` is the reading end of the life pipe. `output_fd` takes what it prints (None: where ours goes).
    Raises OSError when the machine cannot start it.
    """
    ready_fd, child_ready_fd = os.pipe()
    pass_fds = [life_fd, child_ready_fd]
    if spec.holds_lock:
        pass_fds.append(lock_fd)
    options = ("--life-fd", str(life_fd), "--ready-fd", str(child_ready_fd))
    try:
        process = await asyncio.create_subprocess_exec(
            *spec.command,
            settings_path,
            *options,
            env={**spec.environment, **os.environ},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output_fd,
            stderr=output_fd,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    except OSError:
        os.close(ready_fd)
        raise
    finally:
        os.close(child_ready_fd)
    return ChildProcess(spec.name, process, ready_fd)


async def end_children(children: Sequence[ChildProcess], *, patience_s: float, hurry: asyncio.Event) -> None:
    """SIGTERM to each, wait until all have ended; SIGKILL, loudly, to what has not after the patience.

    `hurry` cuts the patience to a second.
    """
    running = [child for child in children if child.exit_code is None]
    if not running:
        return
    for child in running:
        child.send(signal.SIGTERM)
    ended = asyncio.create_task(_all_ended(running))
    hurried = asyncio.create_task(_set(hurry))
    await asyncio.wait({ended, hurried}, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
    if hurried.done() and not ended.done():
        await asyncio.wait({ended}, timeout=min(1.0, patience_s))
    hurried.cancel()
    for child in running:
        if child.exit_code is None:
            _log.error("does not end; killed", child=child.name, pid=child.pid, patience_s=patience_s)
            child.send(signal.SIGKILL)
    await ended


async def _all_ended(children: Sequence[ChildProcess]) -> None:
    for child in children:
        await child.wait()


async def _set(event: asyncio.Event) -> None:
    await event.wait()
