"""A whole appliance at a durability below `fsync`: it says so, and a killed process loses nothing."""

from __future__ import annotations

import socket
from pathlib import Path

import duckdb

from tests.conftest import wait_until
from tests.e2e.appliance_process import Appliance, appliance

WEAK = ("log.durability=os", "log.checkpoint_interval=1h", "log.unsynced_records=1000")


def connected(port: int) -> socket.socket | None:
    try:
        return socket.create_connection(("127.0.0.1", port), timeout=30)
    except ConnectionRefusedError:
        return None


def send(box: Appliance, first: int, count: int) -> None:
    """Lines over raw TCP, one by one answered."""
    with wait_until(lambda: connected(box.ports["tcp"]), 30, describe="the TCP listener is there") as device:
        answers = device.makefile("rb")
        for number, seq in enumerate(range(first, first + count), 1):
            device.sendall(b'{"device": "d", "seq": %d}\n' % seq)
            assert answers.readline() == b"OK %d\n" % number


def test_it_is_told_and_a_kill_loses_nothing(tmp_path: Path) -> None:
    with appliance(tmp_path / "data", WEAK) as box:
        box.wait_ready()
        assert box.get("/readyz")["weaker_durability"] == {"log": "os", "mqtt": "os", "tcp": "os"}
        assert "acknowledged before it is on disk" in box.output
        send(box, 1, 50)
        wait_until(lambda: box.metric("headrace_unsynced_records") > 0, 10, describe="unsynced records are told")
        assert box.metric("headrace_unsynced_bytes") > 0
        assert box.metric("headrace_unsynced_age_seconds") > 0
        box.kill("edge")
        wait_until(lambda: "durability was below fsync" in box.output, 30, describe="recovery says what it did")
        wait_until(box.ready, 30, describe="ready again")
        send(box, 51, 20)
        box.export_now()
        with duckdb.connect() as connection:
            stored = connection.execute(
                f"SELECT seq, _offset FROM '{box.data_dir}/lake/telemetry/**/*.parquet' ORDER BY _offset"
            ).fetchall()
        assert [seq for seq, _ in stored] == list(range(1, 71))
        offsets = [offset for _, offset in stored]
        assert offsets[50] - offsets[49] == 1001, "what might have been lost is passed over"
        assert box.stop() == 0
