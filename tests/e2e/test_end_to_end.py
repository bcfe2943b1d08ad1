"""The whole path as its users see it: devices, a kill -9 in the middle, Parquet that DuckDB and polars read."""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import duckdb
import polars
import pytest

from devices.simulator.report import FleetReport
from tests.conftest import require_component, wait_until
from tests.e2e.appliance_process import HEADRACE, Appliance, appliance


def query(sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect() as connection:
        return connection.execute(sql).fetchall()


def lake(box: Appliance, topic: str = "telemetry") -> str:
    return f"'{box.data_dir}/lake/{topic}/**/*.parquet'"


def test_a_published_reading_is_acked_shown_and_exported(tmp_path: Path) -> None:
    mosquitto_pub = require_component("mosquitto_pub")
    with appliance(tmp_path / "data") as box:
        box.wait_ready()
        topic = "devices/press-17/telemetry"
        command = [mosquitto_pub, "-p", str(box.ports["mqtt"]), "-q", "1", "-t", topic, "-m", '{"temperature": 21.5}']
        subprocess.run(command, check=True, timeout=10)
        shown = wait_until(lambda: box.get("/api/v1/devices/press-17"), 5, describe="the device in the API")
        assert shown["last_reading"]["payload"] == {"temperature": 21.5}
        box.export_now()
        assert query(f"SELECT device, temperature, _topic FROM {lake(box)}") == [("press-17", 21.5, topic)]
        frame = polars.read_parquet(f"{box.data_dir}/lake/telemetry/**/*.parquet")
        assert frame.select("device", "temperature").rows() == [("press-17", 21.5)]
        assert frame.schema["ts"] == polars.Datetime("us", "UTC")
        assert box.stop() == 0
        assert not list((box.data_dir / "lake" / ".tmp").glob("*"))


def test_every_acked_reading_survives_kill_9_of_the_edge_and_is_exported_once(tmp_path: Path) -> None:
    report_path = tmp_path / "report.json"
    with appliance(tmp_path / "data", ["retention.roll_interval=2s"]) as box:
        box.wait_ready()
        others = {name: pid for name, pid in box.pids.items() if name != "edge"}
        fleet = subprocess.Popen(
            [HEADRACE, "simulate", "--devices", "200", "--rate", "5", "--protocol", "both", "--seed", "7",
             "--mqtt-port", str(box.ports["mqtt"]), "--tcp-port", str(box.ports["tcp"]), "--report", str(report_path)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            for _ in range(2):
                before = box.metric("headrace_acked_records_total")
                wait_until(lambda: box.metric("headrace_acked_records_total") > before + 1500, 30, "readings acked")  # noqa: B023
                box.kill("edge")
                wait_until(box.ready, 30, describe="ready again")
            before = box.metric("headrace_acked_records_total")
            wait_until(lambda: box.metric("headrace_acked_records_total") > before + 500, 30, "readings acked again")
        finally:
            fleet.send_signal(signal.SIGTERM)
            fleet.wait(60)
        assert {name: pid for name, pid in box.pids.items() if name != "edge"} == others
        box.export_now()
        _compare(box, FleetReport.read(report_path))
        assert box.stop() == 0


def _compare(box: Appliance, report: FleetReport, *, at_least: int = 3000) -> None:
    """Nothing acked is missing, nothing is there twice but what was sent twice, nothing is there that was not sent."""
    table = lake(box)
    stored: dict[str, dict[int, int]] = {}
    for device, seq, times in query(f"SELECT device, seq, count(*) FROM {table} GROUP BY ALL"):
        stored.setdefault(device, {})[seq] = times
    assert report.final
    assert report.totals.acked > at_least
    assert report.totals.unacked == report.totals.refused == 0
    for device, sent in report.devices.items():
        here = stored.get(device, {})
        resent = {seq for first, last in sent.resent for seq in range(first, last + 1)}
        acked = {seq for first, last in sent.acked for seq in range(first, last + 1)}
        assert acked <= set(here), f"{device}: acked and lost: {sorted(acked - set(here))}"
        assert set(here) <= set(range(1, sent.sent + 1))
        assert {seq for seq, times in here.items() if times > 1} <= resent
    ((rows, distinct),) = query(f"SELECT count(*), count(DISTINCT (_partition, _offset, _row)) FROM {table}")
    assert rows == distinct
    quarantine = box.data_dir / "lake" / "_quarantine"
    assert not list(quarantine.rglob("*.parquet"))


@pytest.mark.parametrize("child", ["console", "sink"])
def test_the_others_do_not_notice_when_a_child_is_killed(tmp_path: Path, child: str) -> None:
    with appliance(tmp_path / "data") as box:
        box.wait_ready()
        before = box.pids
        box.kill(child)
        box.wait_ready()
        after = box.pids
        assert after[child] != before[child]
        assert {name: pid for name, pid in after.items() if name != child} == {
            name: pid for name, pid in before.items() if name != child
        }
        assert box.stop() == 0


def test_sigterm_under_load_acknowledges_what_was_taken_and_loses_nothing(tmp_path: Path) -> None:
    with appliance(tmp_path / "data") as box:
        box.wait_ready()
        with socket.create_connection(("127.0.0.1", box.ports["tcp"]), timeout=30) as device:
            device.sendall(b"".join(b'{"device": "d", "seq": %d}\n' % seq for seq in range(1, 5001)))
            answers = device.makefile("rb")
            answers.readline()
            box.process.send_signal(signal.SIGTERM)
            lines = answers.read().splitlines()
        acked = max((int(line.split()[1]) for line in lines), default=1)
        assert box.process.wait(30) == 0
    with appliance(tmp_path / "data") as box:
        box.wait_ready()
        box.export_now()
        stored = {seq for (seq,) in query(f"SELECT seq FROM {lake(box)}")}
        assert set(range(1, acked + 1)) <= stored
        assert box.stop() == 0


def test_a_second_appliance_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    with appliance(tmp_path / "data") as box:
        box.wait_ready()
        second = subprocess.run(
            [HEADRACE, "run", "--data-dir", str(box.data_dir), "--set", "mqtt.port=auto"],
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert second.returncode == 3
        assert str(box.pids["supervisor"]) in second.stderr.decode()
        assert box.ready()
        assert box.stop() == 0


def test_a_taken_port_is_said_with_the_setting_to_change(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with appliance(tmp_path / "data", [f"mqtt.port={port}"]) as box:
            assert box.process.wait(30) == 4
            assert f"port {port} on 127.0.0.1 is already in use" in box.output
            assert "mqtt.port" in box.output
