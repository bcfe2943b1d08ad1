"""kill -9 of the sink and of the edge, again and again, while ten short windows are filled, closed and exported.

Afterwards `headrace verify` has to find nothing, and three readers that have nothing in common have to agree: every
reading that was acknowledged is there, and every row of the log once. The moments are drawn from a seed: after so
many acknowledgements; as soon as the sink writes a file; or as soon as it has a plan, that is between staging,
publishing and the checkpoint.

HEADRACE_KILL_ROUNDS says how often it is killed (here 4 times), `pytest -s` shows the figures.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from commitlog.storage import LOG_DIR
from commitlog.tables import TABLES_DIR
from devices.simulator.report import FleetReport
from tests.conftest import wait_until
from tests.e2e.appliance_process import HEADRACE, Appliance, appliance
from tests.e2e.lake_readers import READERS, by_duckdb, check_against
from tests.e2e.test_disk_faults import send_all

ROUNDS = int(os.environ.get("HEADRACE_KILL_ROUNDS", "4"))
WINDOWS = 10
DEVICES, RATE = 100, 10
# Windows of a second; of these, small ones are joined: what was begun must be ended as it was, whoever was killed.
BUSY = (
    "retention.roll_interval=1s",
    "sink.hold_back=3s",
    "sink.small_window_records=900",
    "log.checkpoint_interval=200ms",
    "log.segment_size=1MB",
)


@contextmanager
def fleet(box: Appliance, report: Path) -> Iterator[None]:
    """Machines of both protocols that send again what had no answer; at the end they wait for the last ones."""
    simulator = subprocess.Popen(
        [HEADRACE, "simulate", "--devices", str(DEVICES), "--rate", str(RATE), "--protocol", "both", "--seed", "11",
         "--mqtt-port", str(box.ports["mqtt"]), "--tcp-port", str(box.ports["tcp"]), "--report", str(report)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        simulator.send_signal(signal.SIGTERM)
        simulator.wait(60)


class Killer:
    """Draws who is killed and when, and counts."""

    def __init__(self, rng: random.Random, box: Appliance) -> None:
        self.kills: Counter[str] = Counter()
        self._rng = rng
        self._box = box

    def strike(self) -> None:
        child = self._rng.choice(["sink", "edge"])
        moments: list[tuple[str, Callable[[], object]]] = [
            ("under load", self._more_acked(self._rng.randint(1, 2_000))),
            ("while staging", lambda: self._hidden(".tmp")),
            ("with a plan", lambda: self._hidden(".plans/*.json")),
        ]
        name, reached = self._rng.choice(moments)
        wait_until(reached, 60, describe=lambda: f"{name}; it said:\n{self._box.output[-3000:]}")
        self._box.kill(child, 60)
        self._box.wait_ready()
        self.kills[f"{child} {name}"] += 1

    def _more_acked(self, more: int) -> Callable[[], bool]:
        before = self._box.metric("headrace_acked_records_total")
        return lambda: self._box.metric("headrace_acked_records_total") > before + more

    def _hidden(self, pattern: str) -> bool:
        lake = self._box.data_dir / "lake"
        return any(lake.glob(pattern if "/" in pattern else f"{pattern}/*"))


def test_the_checkpoint_is_lost_while_the_appliance_is_away(tmp_path: Path) -> None:
    """The sink's tables are gone, and the newest export was cut short besides: what is whole is recorded as it is."""
    data_dir = tmp_path / "data"
    with appliance(data_dir) as box:
        box.wait_ready()
        for _ in range(3):
            send_all(box, 400)
            box.export_now()
        assert box.stop() == 0
    lake = data_dir / "lake" / "telemetry"
    files = sorted(lake.rglob("*.parquet"))
    before = {path: path.stat().st_ino for path in files}
    assert len(files) == 3
    for path in (data_dir / LOG_DIR / TABLES_DIR).iterdir():
        if path.name.startswith(("sink.parquet", "exports", "ledger")):
            path.unlink()
    files[2].write_bytes(files[2].read_bytes()[:1000])
    with appliance(data_dir) as box:
        box.wait_ready()
        send_all(box, 400)
        box.export_now()
        assert box.metric("headrace_sink_taken_over_total") >= 2
        assert "exports are not recorded" in box.output
        assert box.stop() == 0
    assert box.run_command("verify").splitlines()[-1] == "clean"
    now = sorted(lake.rglob("*.parquet"))
    assert {path: path.stat().st_ino for path in files[:2]}.items() <= before.items()
    assert len(now) == 4
    places = [place for _, _, place in by_duckdb(lake)]
    assert len(places) == len(set(places)) == 1600


def last_window(box: Appliance) -> int:
    """The number of the newest closed window of the readings."""
    found = box.get("/api/v1/topics") or {"topics": []}
    windows = [t["last_window"] for t in found["topics"] if t["topic"] == "telemetry" and t["last_window"]]
    return int(windows[0]["number"]) if windows else -1


@pytest.mark.timeout(90 + 20 * ROUNDS)
def test_sink_and_edge_are_killed_while_windows_are_exported(tmp_path: Path) -> None:
    began_s = time.monotonic()
    report_path = tmp_path / "report.json"
    with appliance(tmp_path / "data", BUSY) as box:
        box.wait_ready()
        killer = Killer(random.Random(ROUNDS), box)
        with fleet(box, report_path):
            for _ in range(ROUNDS):
                killer.strike()
            wait_until(lambda: last_window(box) >= WINDOWS - 1, 60, describe="windows closed")
        box.export_now()
        assert box.stop() == 0
    said = box.run_command("verify")
    assert said.splitlines()[-1] == "clean"
    report = FleetReport.read(report_path)
    found = {name: sorted(read(box.data_dir / "lake" / "telemetry")) for name, read in READERS.items()}
    for name, readings in found.items():
        check_against(report, readings, name)
    assert found["DuckDB"] == found["polars"] == found["fastparquet"]
    assert report.totals.acked > DEVICES * RATE
    assert report.totals.unacked == report.totals.refused == 0
    assert not list((box.data_dir / "lake" / "_quarantine").rglob("*.parquet"))
    print(f"\n{dict(killer.kills)} in {time.monotonic() - began_s:.0f} s; acked {report.totals.acked}; {said}")
