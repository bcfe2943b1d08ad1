"""The log's tools beside a running appliance under load, and on what kill -9 leaves."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from commitlog.check import check_log
from commitlog.reader import FileLogReader
from devices.simulator.report import FleetReport
from tests.commitlog.other_reader import by_kafka_python, by_the_reader
from tests.conftest import wait_until
from tests.e2e.appliance_process import HEADRACE, Appliance, appliance

KILLS = 4  # the supervisor waits longer after each; tests/commitlog/test_log_check_killed.py kills more often
# Short windows and small segments: rolls, checkpoints and new segments happen all the time.
BUSY = ("retention.roll_interval=2s", "log.segment_size=64KB", "log.checkpoint_interval=500ms", "log.flush_bytes=4KB")


@contextmanager
def load(box: Appliance, report: Path) -> Iterator[None]:
    """200 machines over both protocols, until the end of the block; then everything is acked."""
    ports = ["--mqtt-port", str(box.ports["mqtt"]), "--tcp-port", str(box.ports["tcp"])]
    fleet = subprocess.Popen(
        [HEADRACE, "simulate", "--devices", "200", "--rate", "10", *ports, "--report", str(report)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        fleet.send_signal(signal.SIGTERM)
        fleet.wait(60)


def check(data_dir: Path) -> dict[str, Any]:
    done = subprocess.run(
        [HEADRACE, "log", "check", "--json", "--data-dir", str(data_dir)], capture_output=True, timeout=120, check=False
    )
    shown: dict[str, Any] = json.loads(done.stdout)
    assert shown["findings"] == []
    assert done.returncode == 0, done.stderr.decode()
    return shown


def acked_more(box: Appliance, count: int) -> None:
    before = box.metric("headrace_acked_records_total")
    wait_until(lambda: box.metric("headrace_acked_records_total") > before + count, 30, "readings acked")


def test_beside_a_running_appliance_the_check_gives_no_false_alarm(tmp_path: Path) -> None:
    with appliance(tmp_path / "data", BUSY) as box:
        box.wait_ready()
        with load(box, tmp_path / "report.json"):
            acked_more(box, 1000)
            seen = 0
            for _ in range(3):
                shown = check(box.data_dir)
                assert shown["writer"] == "live"
                assert shown["checked"]["records"] > seen
                seen = shown["checked"]["records"]
            stats = json.loads(box.run_command("log", "stats", "--json"))
            assert stats["topics"]["telemetry"]["records"] >= 1000
            lines = box.run_command("log", "dump", "--topic", "telemetry", "--limit", "500").splitlines()
            assert len(lines) == 500
        assert box.stop() == 0
    assert check(tmp_path / "data")["writer"] == "none"


def test_following_shows_what_is_published_now(tmp_path: Path) -> None:
    with appliance(tmp_path / "data") as box:
        box.wait_ready()
        command = [HEADRACE, "log", "dump", "--data-dir", str(box.data_dir), "--topic", "device.events", "--follow"]
        with subprocess.Popen([*command, "--limit", "20"], stdout=subprocess.PIPE) as following:
            try:
                with load(box, tmp_path / "report.json"):
                    assert following.wait(30) == 0
            finally:
                following.kill()
            assert following.stdout is not None
            events = [json.loads(line)["value"]["event"] for line in following.stdout]
        assert len(events) == 20
        assert "connected" in events
        assert box.stop() == 0


@pytest.mark.timeout(180)
def test_a_log_killed_again_and_again_under_load_is_clean_and_holds_what_was_acked(tmp_path: Path) -> None:
    data, report = tmp_path / "data", tmp_path / "report.json"
    with appliance(data, BUSY) as box:
        box.wait_ready()
        with load(box, report):
            for _ in range(KILLS):
                acked_more(box, 300)
                box.kill("edge")
                check(data)  # while it recovers, or has just done so
                wait_until(box.ready, 30, describe="ready again")
            acked_more(box, 300)
        box.process.kill()  # and once more, with everything acked, and nobody to start it again
        box.process.wait(30)
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in box.pids.values()), 70, "all are gone")
    check(data)
    assert check_log(data).clean
    _holds_what_was_acked(data, FleetReport.read(report))


def _holds_what_was_acked(data: Path, report: FleetReport) -> None:
    with appliance(data, BUSY) as box:  # what only the journal holds becomes readable
        box.wait_ready()
        lines = box.run_command("log", "dump", "--topic", "telemetry").splitlines()
        assert box.stop() == 0
    check(data)
    _another_reader_agrees(data)
    stored: dict[str, set[int]] = {}
    for line in lines:
        record = json.loads(line)
        stored.setdefault(record["key"], set()).add(record["value"]["seq"])
    assert report.totals.acked > 300
    for device, sent in report.devices.items():
        acked = {seq for first, last in sent.acked for seq in range(first, last + 1)}
        assert acked <= stored.get(device, set()), f"{device}: acked and lost"


def _another_reader_agrees(data: Path) -> None:
    with closing(FileLogReader(data)) as reader:
        partitions = [(name, p) for name, info in reader.topics().items() for p in range(info.partitions)]
    for topic, partition in partitions:
        assert list(by_kafka_python(data, topic, partition)) == by_the_reader(data, topic, partition)
