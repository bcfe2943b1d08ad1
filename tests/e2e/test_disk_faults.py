"""The whole appliance on a disk that is full or fails under it: nothing acknowledged is lost, and it comes back."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from devices.simulator.report import FleetReport
from tests.conftest import require_component, wait_until
from tests.e2e.appliance_process import HEADRACE, Appliance, _alive, appliance
from tests.e2e.test_end_to_end import _compare, lake, query

pytestmark = pytest.mark.timeout(180)

MB = 1 << 20
SMALL = ("log.reserve=6MB", "log.full_mark=8MB", "log.segment_size=1MB", "retention.roll_interval=2s")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    mount, umount = require_component("mount"), require_component("umount")
    path = tmp_path / "disk"
    path.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small tmpfs")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(path)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"no tmpfs may be mounted here: {done.stderr.decode().strip()}")
    (path / "data").mkdir()
    (tmp_path / "data").symlink_to(path / "data")  # so that what the appliance says has room elsewhere
    try:
        yield path
    finally:
        subprocess.run([umount, "-l", str(path)], check=True)


def free_bytes(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def fill(disk: Path, leave_bytes: int) -> None:
    """Somebody else's file takes the disk up to so many bytes."""
    with (disk / "other").open("ab") as file:
        while (left := free_bytes(disk) - leave_bytes) > 0:
            try:
                file.write(bytes(min(left, MB)))
                file.flush()
            except OSError:
                return  # not a byte is left


@contextmanager
def fleet(box: Appliance, report: Path) -> Iterator[None]:
    """Machines that publish and reconnect, asked to finish at the end."""
    simulator = subprocess.Popen(
        [HEADRACE, "simulate", "--devices", "100", "--rate", "5", "--protocol", "mqtt", "--seed", "7",
         "--mqtt-port", str(box.ports["mqtt"]), "--report", str(report)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        simulator.send_signal(signal.SIGTERM)
        simulator.wait(60)


def wait_acked(box: Appliance, more: int) -> None:
    before = box.metric("headrace_acked_records_total")
    wait_until(lambda: box.metric("headrace_acked_records_total") > before + more, 60, "readings acked")


def reasons(box: Appliance) -> list[str]:
    """Why the box is not ready; empty when it is."""
    port = box.ports.get("http")
    if port is None:
        return ["no console"]
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10):
            return []
    except urllib.error.HTTPError as error:
        found: list[str] = json.loads(error.read())["reasons"]
        return found
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return ["no answer"]


def full(box: Appliance) -> bool:
    return any("the disk is full" in reason for reason in reasons(box))


def tell(box: Appliance, line: bytes) -> bytes:
    """One line over TCP, and its answer."""
    with socket.create_connection(("127.0.0.1", box.ports["tcp"]), timeout=10) as device:
        device.sendall(line + b"\n")
        return device.makefile("rb").readline()


def lines_of(seqs: range) -> bytes:
    return b"\n".join(b'{"device": "d", "seq": %d, "text": "%s"}' % (seq, b"x" * 500) for seq in seqs)


def send_all(box: Appliance, count: int) -> None:
    """Lines over TCP, every one of them acknowledged."""
    with socket.create_connection(("127.0.0.1", box.ports["tcp"]), timeout=10) as device:
        device.sendall(lines_of(range(1, count + 1)) + b"\n")
        answers = device.makefile("rb")
        while answers.readline() != b"OK %d\n" % count:
            pass


def kill_all(box: Appliance) -> None:
    """kill -9 of the edge, so that it puts nothing in order; then of the supervisor."""
    os.kill(box.pids["edge"], signal.SIGKILL)
    box.process.kill()
    box.process.wait(30)
    wait_until(lambda: not any(map(_alive, box.pids.values())), 70, describe="nobody is left")


def test_filled_under_load_it_refuses_serves_resumes_and_loses_nothing(tmp_path: Path, disk: Path) -> None:
    report = tmp_path / "report.json"
    with appliance(tmp_path / "data", SMALL) as box:
        box.wait_ready()
        pids = box.pids
        with fleet(box, report):
            wait_acked(box, 2000)
            fill(disk, 4 * MB)
            wait_until(lambda: full(box), 20, describe=lambda: f"full: {reasons(box)}")
            assert tell(box, b'{"device": "t", "seq": 1}') == b"ERR 1 disk full\n"
            fill(disk, 0)
            assert box.get("/api/v1/devices") is not None
            closed = box.metric("headrace_closed_connections_total")
            wait_until(lambda: box.metric("headrace_closed_connections_total") > closed + 100, 30, "refusals go on")
            (disk / "other").unlink()
            wait_until(box.ready, 30, describe=lambda: f"ready again: {reasons(box)}")
            wait_acked(box, 500)
        assert box.pids == pids, "nothing was restarted"
        box.export_now()
        _compare(box, FleetReport.read(report), at_least=1500)
        assert "the disk has room again" in box.output
        assert box.stop() == 0


def test_it_starts_on_a_full_disk(tmp_path: Path, disk: Path) -> None:
    with appliance(tmp_path / "data", SMALL) as box:
        box.wait_ready()
        send_all(box, 2000)
        kill_all(box)
    fill(disk, 0)
    with appliance(tmp_path / "data", SMALL) as box:
        wait_until(lambda: full(box), 40, describe=lambda: f"full: {reasons(box)}\n{box.output[-3000:]}")
        wait_until(lambda: box.get("/api/v1/devices/d"), 20, describe="the device in the API")
        assert tell(box, b'{"device": "d", "seq": 0}') == b"ERR 1 disk full\n"
        (disk / "other").unlink()
        wait_until(box.ready, 30, describe=lambda: f"ready again: {reasons(box)}")
        assert tell(box, b'{"device": "d", "seq": 2001}') == b"OK 1\n"
        box.export_now()
        assert query(f"SELECT count(*), count(DISTINCT seq), max(seq) FROM {lake(box)}") == [(2001, 2001, 2001)]
        assert box.stop() == 0


def test_recovery_without_a_byte_waits_with_the_console_up_and_goes_on(tmp_path: Path, disk: Path) -> None:
    with appliance(tmp_path / "data", SMALL) as box:
        box.wait_ready()
        send_all(box, 2000)
        kill_all(box)
    (disk / "data" / "log" / "reserve").unlink()
    fill(disk, 0)
    with appliance(tmp_path / "data", SMALL) as box:
        away = "the edge process, which writes the log, is away"
        wait_until(lambda: away in reasons(box), 40, describe=lambda: f"{reasons(box)}\n{box.output[-3000:]}")
        assert "a write of the log waits" in box.output
        assert box.stop() == 0, "it can be stopped while it waits"
    with appliance(tmp_path / "data", SMALL) as box:
        wait_until(lambda: away in reasons(box), 40, describe=lambda: f"{reasons(box)}\n{box.output[-3000:]}")
        (disk / "other").unlink()
        wait_until(box.ready, 30, describe=lambda: f"ready: {reasons(box)}\n{box.output[-3000:]}")
        box.export_now()
        assert query(f"SELECT count(*), count(DISTINCT seq), max(seq) FROM {lake(box)}") == [(2000, 2000, 2000)]
        assert box.stop() == 0


@pytest.mark.parametrize(
    ("call", "name"),
    [
        pytest.param("fdatasync", "journal", id="journal-sync"),
        pytest.param("pwrite64", "journal", id="journal-write"),
        pytest.param("fdatasync", "telemetry-0/00000000000000000000.log", id="segment-sync"),
        pytest.param("pwrite64", "telemetry-0/00000000000000000000.log", id="segment-write"),
        pytest.param("fdatasync", "checkpoint.tmp", id="checkpoint-sync"),
        pytest.param("pwrite64", "checkpoint.tmp", id="checkpoint-write"),
        pytest.param("/^rename", "checkpoint.tmp", id="checkpoint-rename"),
    ],
)
def test_a_failing_disk_call_ends_the_edge_and_loses_nothing(tmp_path: Path, call: str, name: str) -> None:
    strace = require_component("strace")
    report = tmp_path / "report.json"
    with appliance(tmp_path / "data", ["log.checkpoint_interval=300ms", "retention.roll_interval=1h"]) as box:
        box.wait_ready()
        edge = box.pids["edge"]
        with fleet(box, report):
            wait_acked(box, 1000)
            said = tmp_path / "strace"
            tracer = subprocess.Popen(
                [strace, "-f", "-p", str(edge), "-o", str(said), "-P", str(box.data_dir / "log" / name),
                 "-e", f"trace={call}", "-e", f"inject={call}:error=EIO:when=2"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )  # fmt: skip
            try:
                wait_until(
                    lambda: tracer.poll() is not None or box.pids.get("edge") not in (edge, None),
                    30,
                    describe=lambda: f"the edge ends; {said.read_text()[-500:] if said.exists() else ''}",
                )
            finally:
                tracer.kill()
                complaint = tracer.communicate()[1].decode()
            if "Operation not permitted" in complaint:
                pytest.skip("this machine does not let processes be traced")
            box.wait_ready()
            wait_acked(box, 500)
        assert box.pids["edge"] != edge
        assert "the log has failed" in box.output
        assert "Input/output error" in box.output
        box.export_now()
        _compare(box, FleetReport.read(report), at_least=1000)  # of what was awaited, a part were device events
        assert box.stop() == 0
