"""How a child process of the appliance begins and ends, whatever it does in between.

The supervisor starts `python -m appliance.<name> SETTINGS.json [--life-fd N] [--ready-fd N]`:

* SETTINGS.json is `Settings.to_json()`, written by the supervisor into `<data>/run/`.
* SIGTERM or SIGINT sets `stop`; `run` then returns when it has put everything in order.
* The life pipe carries nothing. Only the supervisor holds its other end, so its end of file means that the
  supervisor is gone, however it died: the child stops in order, and is ended by force after `ORPHAN_PATIENCE_S`.
* The ready pipe: `announce_ready()` writes `ready\\n` on it, once the child does what it is there for.
* Exit code: 0 after an orderly stop, a HeadraceError's own `exit_code` after one log line with what, where and mend,
  1 for anything nobody planned for.

Without the two options a child runs alone, for tests and benchmarks.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import structlog

from appliance.settings import Settings
from core.errors import ConfigError, HeadraceError
from core.logs import configure_logs
from core.tasks import log_unexpected

READY_LINE: Final = b"ready\n"
ORPHAN_PATIENCE_S: Final = 60  # a checkpoint of a full journal on a slow card takes seconds; nothing hangs for ever

Run = Callable[[Settings, asyncio.Event], Awaitable[None]]

_log = structlog.get_logger("headrace.process")
_ready_fds: list[int] = []  # at most one; taken out when used


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildArguments:
    """What the supervisor tells a child on its command line."""

    settings_path: Path
    life_fd: int | None
    ready_fd: int | None


def child_main(name: str, run: Run, *, use_uvloop: bool = False) -> NoReturn:
    """Be the process `name`: read the settings, run until told to stop, exit. Call it under `__main__`."""
    configure_logs(name)
    arguments = parse_arguments(sys.argv[1:])
    raise SystemExit(run_guarded(lambda: _run_child(name, run, arguments), use_uvloop=use_uvloop))


def announce_ready() -> None:
    """Tell the supervisor that this process does its work now. Nothing happens without one, or the second time."""
    while _ready_fds:
        descriptor = _ready_fds.pop()
        with contextlib.suppress(BrokenPipeError):  # the supervisor is gone: the life pipe says so
            os.write(descriptor, READY_LINE)
        os.close(descriptor)


def parse_arguments(arguments: Sequence[str]) -> ChildArguments:
    """The command line of a child; exits with code 2 when it is not one."""
    parser = argparse.ArgumentParser(description="A process of the appliance; `headrace run` starts it.")
    parser.add_argument("settings", type=Path)
    parser.add_argument("--life-fd", type=int)
    parser.add_argument("--ready-fd", type=int)
    parsed = parser.parse_args(arguments)
    return ChildArguments(settings_path=parsed.settings, life_fd=parsed.life_fd, ready_fd=parsed.ready_fd)


def run_guarded(main: Callable[[], Coroutine[Any, Any, None]], *, use_uvloop: bool = False) -> int:
    """Run a coroutine on a loop of its own and turn its end into an exit code; errors become log lines."""
    try:
        with asyncio.Runner(loop_factory=_uvloop_factory() if use_uvloop else None) as runner:
            runner.run(main())
    except HeadraceError as error:
        _log.error("cannot go on", what=error.what, where=error.where, mend=error.mend, code=error.code)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the last frame of the process: a crash must leave its traceback in the log
        log_unexpected("crashed", error)
        return 1
    return 0


async def _run_child(name: str, run: Run, arguments: ChildArguments) -> None:
    settings = read_settings(arguments.settings_path)
    configure_logs(name, settings.logging.format, settings.logging.level)
    stop = asyncio.Event()
    stop_on_signals(stop)
    if arguments.life_fd is not None:
        stop_with_supervisor(arguments.life_fd, stop)
    if arguments.ready_fd is not None:
        os.set_inheritable(arguments.ready_fd, False)
        _ready_fds[:] = [arguments.ready_fd]
    _log.info("started", pid=os.getpid())
    await run(settings, stop)
    _log.info("ended", asked=stop.is_set())


def read_settings(path: Path) -> Settings:
    """The settings that the supervisor wrote. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"the settings cannot be read ({error.strerror})", where=str(path), mend="start it with `headrace run`"
        ) from error
    return Settings.from_json(text)


def stop_on_signals(stop: asyncio.Event) -> None:
    """SIGTERM and SIGINT set `stop`; must be called on the running loop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


def stop_with_supervisor(life_fd: int, stop: asyncio.Event) -> None:
    """Set `stop` when the other end of the life pipe is closed; from then on the process has `ORPHAN_PATIENCE_S`."""
    loop = asyncio.get_running_loop()
    os.set_blocking(life_fd, False)
    os.set_inheritable(life_fd, False)

    def readable() -> None:
        if os.read(life_fd, 64):
            return
        loop.remove_reader(life_fd)
        _log.warning("the supervisor is gone; stopping", patience_s=ORPHAN_PATIENCE_S)
        signal.alarm(ORPHAN_PATIENCE_S)  # its default action ends the process even when the loop hangs
        stop.set()

    loop.add_reader(life_fd, readable)


def _uvloop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    import uvloop  # not every child wants its memory

    return uvloop.new_event_loop
