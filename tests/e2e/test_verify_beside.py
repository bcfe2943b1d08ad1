"""`headrace verify` and `headrace query` beside an appliance that exports all the time, and after it was killed."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.conftest import wait_until
from tests.e2e.appliance_process import HEADRACE, Appliance, appliance

BUSY = (
    "retention.roll_interval=2s",
    "retention.roll_jitter=0s",
    "log.segment_size=64KB",
    "log.checkpoint_interval=500ms",
    "sink.small_window_records=0",
)
PLACES = """SELECT _partition, _offset, _row FROM telemetry
    UNION ALL SELECT _partition, _offset, _row FROM telemetry_quarantine"""
COUNTS = f"""SELECT _partition AS p, count(*) AS n, count(DISTINCT (_offset, _row)) AS different,
    min(_offset) AS low, max(_offset) + 1 AS high, count(DISTINCT _offset) AS offsets
    FROM ({PLACES}) GROUP BY p ORDER BY p"""


@contextmanager
def load(box: Appliance) -> Iterator[None]:
    ports = ["--mqtt-port", str(box.ports["mqtt"]), "--tcp-port", str(box.ports["tcp"])]
    fleet = subprocess.Popen(
        [HEADRACE, "simulate", "--devices", "100", "--rate", "10", *ports],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        fleet.send_signal(signal.SIGTERM)
        fleet.wait(60)


def verify(data_dir: Path) -> dict[str, Any]:
    command = [HEADRACE, "verify", "--json", "--data-dir", str(data_dir)]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert done.stdout, done.stderr.decode()
    shown: dict[str, Any] = json.loads(done.stdout)
    assert shown["findings"] == []
    assert done.returncode == 0
    return shown


def query(data_dir: Path, sql: str) -> list[dict[str, Any]]:
    command = [HEADRACE, "query", sql, "--format", "json", "--data-dir", str(data_dir)]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    return [json.loads(line) for line in done.stdout.splitlines()]


def none_missing_none_twice(counts: list[dict[str, Any]]) -> int:
    for one in counts:
        assert one["n"] == one["different"]
        assert (one["low"], one["high"]) == (0, one["offsets"])
    return sum(one["n"] for one in counts)


def exported(shown: dict[str, Any]) -> int:
    return next(topic["committed"] for topic in shown["topics"] if topic["topic"] == "telemetry")


def test_beside_an_appliance_that_exports_and_after_a_kill(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with appliance(data, BUSY) as box:
        box.wait_ready()
        with load(box):
            wait_until(lambda: box.metric("headrace_acked_records_total") > 3000, 30, "readings acked")
            committed, rows = 0, 0
            for _ in range(3):
                shown = verify(data)
                assert shown["writer"] == "live"
                assert exported(shown) >= committed
                committed = exported(shown)
                seen = none_missing_none_twice(query(data, COUNTS))
                assert seen > max(rows, committed), "the tail is there, too"
                rows = seen
        box.kill_all()
    # What only the journal holds is read once the writer is known to be gone: its heartbeat is three seconds long.
    wait_until(lambda: verify(data)["writer"] != "live", 30, "the writer is known to be gone")
    after = none_missing_none_twice(query(data, COUNTS))
    assert after >= rows
    verify(data)
    with appliance(data, BUSY) as box:
        box.wait_ready()
        told = box.run_command("export", "--now")
        assert "telemetry: " in told
        assert "lake/telemetry/date=" in told
        shown = verify(data)
        telemetry = next(topic for topic in shown["topics"] if topic["topic"] == "telemetry")
        assert telemetry["committed"] == telemetry["in_files"] + telemetry["left_out"]
        assert telemetry["rows"] == after
        _formats(box, tmp_path)
        assert box.stop() == 0
    text = subprocess.run([HEADRACE, "verify", "--data-dir", str(data)], capture_output=True, timeout=60, check=False)
    assert text.stdout.decode().splitlines()[-1] == "clean"


def _formats(box: Appliance, tmp_path: Path) -> None:
    sql = "SELECT device, ts, seq, _offset FROM telemetry ORDER BY _partition, _offset LIMIT 20"
    rows = query(box.data_dir, sql)
    table = box.run_command("query", sql).splitlines()
    assert table[0].split() == ["device", "ts", "seq", "_offset"]
    assert table[-1] == "20 rows"
    assert table[2].split()[0] == rows[0]["device"]
    shown = list(csv.DictReader(io.StringIO(box.run_command("query", sql, "--format", "csv"))))
    assert [(row["device"], row["ts"], int(row["seq"])) for row in shown] == [
        (row["device"], row["ts"], row["seq"]) for row in rows
    ]
    box.run_command("query", sql, "-o", str(tmp_path / "out.parquet"))
    assert pq.read_table(tmp_path / "out.parquet").column("seq").to_pylist() == [row["seq"] for row in rows]
