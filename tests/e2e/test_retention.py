"""Retention on a running appliance: the log stays small while machines publish, and the lake gets everything."""

from __future__ import annotations

import base64
import random
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from devices.simulator.report import FleetReport
from tests.conftest import wait_until
from tests.e2e.appliance_process import Appliance, appliance
from tests.e2e.test_disk_faults import MB, SMALL, disk, fleet, wait_acked  # noqa: F401 - a fixture
from tests.e2e.test_end_to_end import _compare, lake, query

pytestmark = pytest.mark.timeout(180)
KB = 1024


def topic(box: Appliance, name: str = "telemetry") -> dict[str, Any]:
    return next(one for one in box.get("/api/v1/topics")["topics"] if one["topic"] == name)


def test_a_small_log_stays_small_over_many_windows_and_the_lake_has_everything(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    most_bytes = 300 * KB
    settings = [
        "retention.roll_interval=1s",
        f"retention.max_bytes={most_bytes}B",
        "log.partitions=2",
        "sink.hold_back=0",
    ]
    with appliance(tmp_path / "data", settings) as box:
        box.wait_ready()
        sizes: list[int] = []
        with fleet(box, report):
            for _ in range(6):
                wait_acked(box, 2500)
                sizes.append(topic(box)["size_bytes"])
            wait_until(lambda: box.metric("headrace_retention_expired_windows_total") >= 8, 60, "windows expired")
            box.kill("edge")
            box.wait_ready()
            expired = box.metric("headrace_retention_expired_windows_total")
            wait_acked(box, 2500)
            wait_until(lambda: box.metric("headrace_retention_expired_windows_total") > expired, 60, "it goes on")
        assert max(sizes) < 3 * most_bytes
        told = box.get("/api/v1/storage")
        assert {gone["reason"] for gone in told["expired"]} == {"topic over max_bytes"}
        assert all(not gone["unexported"] for gone in told["expired"])
        assert told["disk"]["lake_bytes"] > 0
        last = topic(box)
        assert min(one["log_start_offset"] for one in last["partitions"]) > 0
        box.export_now()
        _compare(box, FleetReport.read(report))
        assert box.stop() == 0
    assert "records lost before export" not in box.output


def send(box: Appliance, first: int, count: int) -> int:
    """So many readings of 4 KB, which no codec makes much smaller, over one connection; how many were acknowledged."""
    rng = random.Random(first)
    with socket.create_connection(("127.0.0.1", box.ports["tcp"]), timeout=30) as device:
        for seq in range(first, first + count):
            text = base64.b64encode(rng.randbytes(3 * KB))
            device.sendall(b'{"device":"d%d","seq":%d,"text":"%s"}\n' % (seq % 9, seq, text))
        device.shutdown(socket.SHUT_WR)
        answers = device.makefile("rb").read().splitlines()
    assert all(line.startswith(b"OK") for line in answers), answers[-1]
    return int(answers[-1].split()[1])


def test_above_the_high_mark_old_windows_make_room_and_no_reading_is_refused(tmp_path: Path, disk: Path) -> None:  # noqa: F811
    """More goes through the box than its disk holds, and the lake keeps only its newest files."""
    settings = ["retention.high_mark_percent=60", "retention.low_mark_percent=45", "retention.lake_max_bytes=4MB"]
    settings.append("sink.hold_back=0")
    count, sent, acked = 2500, 0, 0
    with appliance(tmp_path / "data", [*SMALL, *settings, "log.partitions=2"]) as box:
        box.wait_ready()
        while sent * 3 * KB < 56 * MB:
            acked += send(box, sent, count)
            sent += count
            sent_at = datetime.now(UTC)
            wait_until(lambda: _has_room(box, sent_at), 60, describe=lambda: f"room: {box.get('/api/v1/storage')}")  # noqa: B023
        assert acked == sent
        assert box.metric("headrace_disk_full") == 0
        reasons = {gone["reason"] for gone in box.get("/api/v1/storage")["expired"]}
        assert reasons == {"disk over the high mark"}
        assert box.metric("headrace_retention_dropped_files_total") > 0
        assert box.metric("headrace_retention_failures_total") == 0
        ((rows, distinct, newest),) = query(f"SELECT count(*), count(DISTINCT seq), max(seq) FROM {lake(box)}")
        assert rows == distinct
        assert newest == sent - 1
        assert box.stop() == 0


def _has_room(box: Appliance, sent_at: datetime) -> bool:
    """As of a look after all of it was exported, the disk is below its high mark."""
    storage, last = box.get("/api/v1/storage"), topic(box)["last_window"]
    if storage is None or storage["disk"] is None or last is None:
        return False
    telemetry = next(one for one in storage["topics"] if one["topic"] == "telemetry")
    return bool(
        datetime.fromisoformat(last["end"]) >= sent_at
        and telemetry["oldest_window"] + telemetry["windows"] > last["number"]
        and not telemetry["not_exported"]["parquet"]
        and storage["disk"]["used_bytes"] < storage["disk"]["high_bytes"]
    )
