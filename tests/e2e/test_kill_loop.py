"""kill -9 of the edge again and again under load, and then every acknowledged reading is looked for in the log itself.

HEADRACE_KILL_ROUNDS says how often (here 3 times).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from contextlib import closing
from pathlib import Path

from commitlog.reader import FileLogReader
from devices.simulator.report import FleetReport
from tests.conftest import wait_until
from tests.e2e.appliance_process import HEADRACE, Appliance, appliance

ROUNDS = int(os.environ.get("HEADRACE_KILL_ROUNDS", "3"))


def test_every_acked_reading_is_in_the_log_after_kills_at_any_moment(tmp_path: Path) -> None:
    rng = random.Random(ROUNDS)
    report_path = tmp_path / "report.json"
    settings = ["log.checkpoint_interval=200ms", "retention.roll_interval=1s"]  # much of what a kill may fall into
    with appliance(tmp_path / "data", settings) as box:
        box.wait_ready()
        fleet = subprocess.Popen(
            [HEADRACE, "simulate", "--devices", "100", "--rate", "10", "--protocol", "mqtt", "--seed", "3",
             "--mqtt-port", str(box.ports["mqtt"]), "--report", str(report_path)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            for _ in range(ROUNDS):
                wait_until(lambda: box.metric("headrace_acked_records_total") > 200, 60, "readings acked in this life")
                time.sleep(rng.uniform(0, 0.4))  # not to wait for something: the kill is to come at any moment
                box.kill("edge")
                wait_until(box.ready, 60, describe=lambda: f"ready again; it said:\n{box.output[-3000:]}")
            wait_until(lambda: box.metric("headrace_acked_records_total") > 200, 60, "readings acked in the last life")
        finally:
            fleet.send_signal(signal.SIGTERM)
            fleet.wait(60)
        assert box.stop() == 0
        _compare(box, FleetReport.read(report_path))


def _compare(box: Appliance, report: FleetReport) -> None:
    """No gap, no hole, nothing acked that is missing, the readings of a device in the order in which it sent them."""
    stored: dict[str, list[int]] = {}
    with closing(FileLogReader(box.data_dir)) as reader:
        for partition, mark in enumerate(reader.watermarks("telemetry")):
            offset = mark.start
            while offset < mark.high:
                part = reader.read("telemetry", partition, offset)
                assert not part.gaps
                assert [r.offset for r in part.records] == list(range(offset, part.next_offset))
                assert part.records, "the log promises more than it holds"
                offset = part.next_offset
                for record in part.records:
                    stored.setdefault((record.key or b"").decode(), []).append(json.loads(record.value or b"{}")["seq"])
    assert report.final
    assert report.totals.acked > 200 * ROUNDS
    for device, sent in report.devices.items():
        here = stored.get(device, [])
        acked = {seq for first, last in sent.acked for seq in range(first, last + 1)}
        resent = {seq for first, last in sent.resent for seq in range(first, last + 1)}
        assert acked <= set(here), f"{device}: acked and lost: {sorted(acked - set(here))}"
        once = [seq for seq in here if seq not in resent]
        assert once == sorted(set(once)), f"{device}: out of order, or twice without having been sent twice"
