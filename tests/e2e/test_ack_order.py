"""What the operating system saw of one reading: written, synced, and only then answered. By strace, from outside."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from paho.mqtt import publish

from tests.conftest import require_component, wait_until
from tests.e2e.appliance_process import Appliance, appliance

CALLS = "pwrite64,pwritev,write,writev,sendto,sendmsg,fdatasync,fsync"
QUIET = ("log.checkpoint_interval=1h", "retention.roll_interval=1h", "log.sync_interval=60s", "sink.enabled=false")


@contextmanager
def traced(pid: int, output: Path) -> Iterator[None]:
    """All calls of the process that write or sync, one line each, in the order in which they were seen."""
    words = [require_component("strace"), "-f", "-y", "-s", "100000", "-e", f"trace={CALLS}", "-o", str(output)]
    tracer = subprocess.Popen([*words, "-p", str(pid)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: tracer.poll() is not None or all_traced(pid), 20, describe="strace looks on")
        if tracer.poll() is not None:
            pytest.skip("this machine does not let processes be traced")
        yield
    finally:
        tracer.terminate()
        tracer.communicate()


def all_traced(pid: int) -> bool:
    states = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return all("TracerPid:\t0\n" not in state for state in states)


def synced_before_answered(trace: str, marker: str, answer: str) -> bool:
    """Whether, between the write of the marker to the journal and the answer, the journal's sync came back with 0."""
    lines = trace.splitlines()
    written = next(at for at, line in enumerate(lines) if marker in line and "/log/journal>" in line)
    answered = next(at for at, line in enumerate(lines) if answer in line and "socket:" in line)
    assert written < answered, "answered before it was written"
    thread = lines[written].split()[0]
    under_way = False
    for line in lines[written:answered]:
        if line.split()[0] != thread:
            continue
        under_way = under_way or re.search(r" fdatasync\(\d+<[^>]*/log/journal>", line) is not None
        if under_way and re.search(r"fdatasync(\(| resumed).*\) += 0$", line):
            return True
    return False


def mqtt(box: Appliance, text: str) -> None:
    publish.single("devices/d/t", f'{{"text": "{text}"}}', qos=1, port=box.ports["mqtt"])


def tcp(box: Appliance, text: str) -> None:
    with socket.create_connection(("127.0.0.1", box.ports["tcp"]), timeout=30) as device:
        device.sendall(b'{"device": "d", "text": "%s"}\n' % text.encode())
        assert device.recv(100) == b"OK 1\n"


@pytest.mark.parametrize(("level", "synced"), [("fsync", True), ("os", False)])
@pytest.mark.parametrize(("send", "answer"), [(mqtt, r'"@\2\0\1"'), (tcp, r'"OK 1\n"')], ids=["mqtt", "tcp"])
def test_the_answer_follows_the_sync_unless_the_level_is_weaker(
    tmp_path: Path, send: object, answer: str, level: str, *, synced: bool
) -> None:
    assert callable(send)
    with appliance(tmp_path / "data", [*QUIET, f"log.durability={level}"]) as box:
        box.wait_ready(processes=3)
        send(box, "first")  # at a weaker level it waits for a note of that level, which is synced
        with traced(box.pids["edge"], tmp_path / "trace"):
            send(box, "marker")
        assert synced_before_answered((tmp_path / "trace").read_text(), "marker", answer) == synced
        assert box.stop() == 0
