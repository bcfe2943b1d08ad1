"""A whole appliance as its user starts it: `headrace run` in a process of its own, on free ports."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import wait_until

HEADRACE = str(Path(sys.executable).with_name("headrace"))
FAST = (
    "mqtt.port=auto",
    "tcp.port=auto",
    "http.port=auto",
    "sink.hold_back=0",
    "log.journal_size=8MB",
    "log.pending_bytes=2MB",
    "log.checkpoint_bytes=2MB",
)


class Appliance:
    """What a test does with a running appliance."""

    def __init__(self, process: subprocess.Popen[bytes], data_dir: Path, log: Path) -> None:
        self.process = process
        self.data_dir = data_dir
        self._log = log

    @property
    def ports(self) -> dict[str, int]:
        return self._json("ports.json") if self.pids else {}

    @property
    def pids(self) -> dict[str, int]:
        """The process ids by name; empty as long as the file is that of an earlier appliance in the directory."""
        found = self._json("pids.json")
        return found if found.get("supervisor") == self.process.pid else {}

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def get(self, path: str) -> Any:
        """JSON of an API route; None while it does not answer with success."""
        port = self.ports.get("http")
        if port is None:
            return None
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                return json.loads(answer.read())
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    def metric(self, name: str) -> float:
        """The sum of a metric's samples over its labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['http']}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def ready(self, processes: int = 4) -> bool:
        """All processes, the supervisor among them, are there, and the console says that the box is ready."""
        return len(self.pids) == processes and self.get("/readyz") is not None

    def wait_ready(self, processes: int = 4) -> None:
        wait_until(lambda: self.ready(processes), 30, describe=lambda: f"ready; it said:\n{self.output[-3000:]}")

    def kill(self, child: str, patience_s: float = 30) -> int:
        """kill -9 one child, and wait until it is started again; returns its process id."""
        pid = self.pids[child]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: self.pids.get(child) not in (pid, None), patience_s, describe=f"{child} comes back")
        return pid

    def kill_all(self) -> None:
        """kill -9 of all processes, the supervisor first, so that it starts none again; returns when all are gone."""
        pids = self.pids
        for name in sorted(pids, key=lambda name: name != "supervisor"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pids[name], signal.SIGKILL)
        self.process.wait(30)
        wait_until(lambda: not any(map(_alive, pids.values())), 30, describe="nobody is left")

    def export_now(self) -> None:
        """Close all windows, and wait until the sink has exported them and every one before."""
        self.run_command("export", "--now")
        wait_until(self._all_exported, 60, describe=lambda: f"everything exported: {self.get('/api/v1/exports')}")

    def run_command(self, *arguments: str) -> str:
        done = subprocess.run(
            [HEADRACE, *arguments, "--data-dir", str(self.data_dir)], capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def stop(self, patience_s: float = 30) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(patience_s)

    def _all_exported(self) -> bool:
        topics, exports = self.get("/api/v1/topics"), self.get("/api/v1/exports?limit=1000")
        if topics is None or exports is None:
            return False
        exported = {(export["topic"], export["window"]) for export in exports["exports"]}
        last = {(t["topic"], t["last_window"]["number"]) for t in topics["topics"] if t["last_window"]}
        return last <= exported

    def _json(self, name: str) -> dict[str, int]:
        try:
            found: dict[str, int] = json.loads((self.data_dir / "run" / name).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return found


@contextmanager
def appliance(data_dir: Path, overrides: Sequence[str] = (), *, config: Path | None = None) -> Iterator[Appliance]:
    """A running appliance; whatever is left of it at the end is killed."""
    log = data_dir.with_name(data_dir.name + ".output")
    options = [option for setting in (*FAST, *overrides) for option in ("--set", setting)]
    options += [] if config is None else ["--config", str(config)]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [HEADRACE, "run", "--data-dir", str(data_dir), *options], stdout=output, stderr=output
        )
    box = Appliance(process, data_dir, log)
    try:
        yield box
    finally:
        if process.poll() is None:
            process.kill()  # the children follow: their life pipe ends
            process.wait(30)
        wait_until(lambda: not any(_alive(pid) for pid in box.pids.values()), 70, describe="no child is left behind")


def steady_port() -> int:
    """A free port that no `auto` listener and no client's end of a connection can take while its server is away."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for port in random.Random(os.getpid()).sample(range(20_000, 32_000), 50):  # the kernel gives out 32768 and up
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("fifty ports, and each of them taken")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False
