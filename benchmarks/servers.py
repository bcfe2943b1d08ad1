"""The servers under load, behind one small face: start on an empty directory, port, process ids, stop, version."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final, Protocol

from benchmarks.measure import BenchmarkError

START_PATIENCE_S: Final = 60.0  # a cold Python start on a busy small machine, several times over
STOP_PATIENCE_S: Final = 30.0
_POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A started server: the port to load, the process that answers, and all processes that belong to it."""

    process: subprocess.Popen[bytes]
    port: int
    pid: int
    pids: tuple[int, ...]

    def stop(self) -> None:
        """End it in order; one that does not go within its patience is killed."""
        self.process.terminate()
        try:
            self.process.wait(STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            print(f"process {self.process.pid} did not stop within {STOP_PATIENCE_S:.0f} s: killed", file=sys.stderr)
            self.process.kill()
            self.process.wait()
        give_up = time.monotonic() + STOP_PATIENCE_S  # children of a killed parent notice its end by themselves
        while any(Path(f"/proc/{pid}").exists() for pid in self.pids):
            if time.monotonic() > give_up:
                raise BenchmarkError(f"processes of the server ({self.pids}) outlive its end")
            time.sleep(_POLL_S)


class Server(Protocol):
    """Something that speaks MQTT and can be started on an empty directory."""

    @property
    def name(self) -> str: ...

    def version(self) -> str:
        """What exactly is measured, in one line. Raises BenchmarkError when it is not installed."""
        ...

    def start(self, data_dir: Path) -> Running:
        """Returns once connections are taken. Raises BenchmarkError; `log_of(data_dir)` then says why."""
        ...


class Headrace:
    """This appliance as users run it, without sink, console and TCP listener: `headrace run`.

    The figures are those of the edge process, which holds listeners and log; the supervisor beside it is idle.
    """

    name = "headrace"

    def __init__(self, overrides: Sequence[str] = ()) -> None:
        self._overrides = tuple(overrides)
        self._command = Path(sys.executable).with_name("headrace")

    def version(self) -> str:
        if not self._command.exists():
            raise BenchmarkError("the headrace command is not installed beside this Python", mend="make setup")
        settings = " ".join(self._overrides) or "default settings"
        return f"Headrace {version('headrace')} ({settings})"

    def start(self, data_dir: Path) -> Running:
        fixed = ("mqtt.port=auto", "tcp.port=0", "http.port=0", "sink.enabled=false")
        sets = [part for setting in (*fixed, *self._overrides) for part in ("--set", setting)]
        process, log = _spawn([str(self._command), "run", "--data-dir", str(data_dir), *sets], data_dir)
        run = data_dir / "run"
        _wait(process, log, lambda: _has_key(run / "ports.json", "mqtt") and _has_key(run / "pids.json", "edge"))
        port = _read_map(run / "ports.json")["mqtt"]
        pids = _read_map(run / "pids.json")
        _wait(process, log, lambda: _accepts(port))
        return Running(process=process, port=port, pid=pids["edge"], pids=tuple(pids.values()))


class Mosquitto:
    """Debian's mosquitto, with every limit lifted at which it would drop; without a subscriber it stores nothing.

    `inflight` is what it may send one subscriber before the first acknowledgement; beyond it messages are queued.
    """

    name = "mosquitto"
    _storage: Sequence[str] = ("persistence false",)

    def __init__(self, *, inflight: int = 0) -> None:
        self._limits = (f"max_inflight_messages {inflight}", "max_queued_messages 0")

    def version(self) -> str:
        # `-h` ends with a non-zero code in some releases; its first line is the version in all.
        told = subprocess.run([_mosquitto(), "-h"], capture_output=True, text=True, check=False, timeout=10)
        return f"{told.stdout.splitlines()[0].strip()} ({', '.join((*self._storage, *self._limits))})"

    def start(self, data_dir: Path) -> Running:
        port = free_port()
        config = data_dir / "mosquitto.conf"
        config.write_text(
            "\n".join([*_MOSQUITTO_COMMON, *self._limits, *self._own_lines(data_dir), f"listener {port} 127.0.0.1", ""])
        )
        process, log = _spawn([_mosquitto(), "-c", str(config)], data_dir)
        _wait(process, log, lambda: _accepts(port))
        running = Running(process=process, port=port, pid=process.pid, pids=(process.pid,))
        try:
            self._prepare(port)
        except BaseException:
            running.stop()
            raise
        return running

    def _own_lines(self, data_dir: Path) -> Sequence[str]:
        return self._storage

    def _prepare(self, port: int) -> None:
        """What has to be there before the load."""


class MosquittoPersistent(Mosquitto):
    """Mosquitto made to keep what it acknowledges: a durable session that is away subscribes to everything.

    It holds the messages in memory and rewrites its whole store every few seconds, after the acks: what came since
    the last save is lost with the power. No setting of it acknowledges after a sync, so this is as near as it comes.
    """

    name = "mosquitto-persistent"
    _storage = ("persistence true", "autosave_interval 5", "one durable subscriber away")

    def _own_lines(self, data_dir: Path) -> Sequence[str]:
        return (*self._storage[:2], f"persistence_location {data_dir}/")

    def _prepare(self, port: int) -> None:
        leave_durable_subscription(port)


class CommandServer:
    """Any other server, given as a command with {port} and {data_dir} in it (a prototype, another broker)."""

    def __init__(self, name: str, command: str) -> None:
        self.name = name
        self._command = command

    def version(self) -> str:
        return self._command

    def start(self, data_dir: Path) -> Running:
        port = free_port()
        words = [word.format(port=port, data_dir=data_dir) for word in shlex.split(self._command)]
        process, log = _spawn(words, data_dir)
        _wait(process, log, lambda: _accepts(port))
        return Running(process=process, port=port, pid=process.pid, pids=(process.pid,))


_MOSQUITTO_COMMON: Final = (
    "allow_anonymous true",
    "set_tcp_nodelay true",
    "log_type error",
    # As root it would change to a user of its own, who may not write here.
    *(("user root",) if os.geteuid() == 0 else ()),
)


def _mosquitto() -> str:
    found = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        raise BenchmarkError("mosquitto is not installed", mend="apt-get install mosquitto, or --server headrace alone")
    return found


def free_port() -> int:
    """A port of the loopback interface that nobody listened on a moment ago."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def leave_durable_subscription(port: int) -> None:
    """Subscribe a durable session to `devices/#` at QoS 1 and leave, so that the broker has to keep what comes."""
    connect = b"\x10\x10\x00\x04MQTT\x04\x00\x00\x00\x00\x04away"  # clean session 0, client id "away"
    subscribe = b"\x82\x0e\x00\x01\x00\x09devices/#\x01"
    with closing(socket.create_connection(("127.0.0.1", port), timeout=5)) as client:
        client.sendall(connect)
        if client.recv(4) != b"\x20\x02\x00\x00":
            raise BenchmarkError("the durable subscriber was refused")
        client.sendall(subscribe)
        if client.recv(5) != b"\x90\x03\x00\x01\x01":
            raise BenchmarkError("the durable subscription was refused")
        client.sendall(b"\xe0\x00")


def log_of(data_dir: Path) -> Path:
    """Where a server on this directory writes what it says; beside the directory, so that it outlives it."""
    return data_dir.with_name(data_dir.name + ".log")


def log_tail(log: Path, lines: int = 15) -> str:
    """The last lines of a server's log; empty when it never got so far as to have one."""
    if not log.exists():
        return ""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _spawn(words: Sequence[str], data_dir: Path) -> tuple[subprocess.Popen[bytes], Path]:
    log = log_of(data_dir)
    with log.open("wb") as output:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    return process, log


def _wait(process: subprocess.Popen[bytes], log: Path, ready: Callable[[], bool]) -> None:
    give_up = time.monotonic() + START_PATIENCE_S
    while not ready():
        if process.poll() is not None:
            raise BenchmarkError(f"the server ended with code {process.returncode} at its start", where=log.name)
        if time.monotonic() > give_up:
            process.kill()
            process.wait()
            raise BenchmarkError(f"the server was not ready within {START_PATIENCE_S:.0f} s", where=log.name)
        time.sleep(_POLL_S)


def _read_map(path: Path) -> dict[str, int]:
    parsed: dict[str, int] = json.loads(path.read_text())
    return parsed


def _has_key(path: Path, key: str) -> bool:
    return path.exists() and bool(_read_map(path).get(key))


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except (ConnectionRefusedError, TimeoutError):
        return False
    return True
