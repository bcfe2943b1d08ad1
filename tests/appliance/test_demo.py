from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest
from rich.console import Console

from appliance.demo import check_ports, check_settings, run_demo
from appliance.demo_figures import (
    DemoFigures,
    EdgeFigures,
    LakeFigures,
    between,
    edge_figures,
    figure_line,
    lake_figures,
    quantile_ms,
)
from appliance.demo_proof import example_command, prove, run_example, uncovered
from appliance.demo_screen import DemoScreen, welcome
from appliance.settings import Settings
from core.errors import ConfigError, PortTakenError
from devices.simulator.report import DeviceReport, FleetReport
from tests.conftest import wait_until

METRICS = """# TYPE headrace_acked_records counter
headrace_acked_records_total 1000
# TYPE headrace_unsynced_records gauge
headrace_unsynced_records 3
# TYPE headrace_connections gauge
headrace_connections{protocol="mqtt"} 25
headrace_connections{protocol="tcp"} 24
# TYPE headrace_ack_latency_seconds histogram
headrace_ack_latency_seconds_bucket{le="0.01"} 500
headrace_ack_latency_seconds_bucket{le="0.02"} 990
headrace_ack_latency_seconds_bucket{le="+Inf"} 1000
headrace_ack_latency_seconds_count 1000
headrace_ack_latency_seconds_sum 12.5
"""


def test_the_edges_metrics_are_read() -> None:
    figures = edge_figures(METRICS, at_s=7.0)
    assert (figures.acked, figures.unsynced, figures.connections) == (1000, 3, 49)
    assert figures.ack_buckets == {0.01: 500, 0.02: 990, float("inf"): 1000}
    assert edge_figures("", at_s=0) == EdgeFigures(at_s=0, acked=0, unsynced=0, connections=0)


@pytest.mark.parametrize(
    ("buckets", "share", "expected_ms"),
    [
        pytest.param({}, 0.5, None, id="nothing"),
        pytest.param({0.01: 0.0, float("inf"): 0.0}, 0.5, None, id="no observations"),
        pytest.param({0.01: 500, 0.02: 990, float("inf"): 1000}, 0.5, 10.0, id="at a bound"),
        pytest.param({0.01: 500, 0.02: 1000, float("inf"): 1000}, 0.75, 15.0, id="within a bucket"),
        pytest.param({0.01: 0, 0.02: 0, 0.04: 10, float("inf"): 10}, 0.5, 30.0, id="empty buckets before"),
        pytest.param({0.01: 500, 0.02: 900, float("inf"): 1000}, 0.99, 20.0, id="beyond the last finite bound"),
    ],
)
def test_quantiles(buckets: Mapping[float, float], share: float, expected_ms: float | None) -> None:
    found = quantile_ms(buckets, share)
    assert found == (None if expected_ms is None else pytest.approx(expected_ms))


def test_rates_between_two_moments_survive_an_edge_that_was_started_anew() -> None:
    before = EdgeFigures(at_s=10, acked=1000, unsynced=0, connections=0, ack_buckets={1.0: 1000})
    after = EdgeFigures(at_s=12, acked=1100, unsynced=0, connections=0, ack_buckets={1.0: 1100})
    anew = EdgeFigures(at_s=12, acked=80, unsynced=0, connections=0, ack_buckets={1.0: 80})
    assert between(before, after) == (50, {1.0: 100})
    assert between(before, anew) == (40, {1.0: 80})
    assert between(before, before)[0] == 0


def export(topic: str, exported_at_ms: int) -> dict[str, Any]:
    files = [{"path": "x", "rows": 5, "bytes": 100, "date": "2026-11-20"}] * 2
    return {"topic": topic, "exported_at_ms": exported_at_ms, "rows": 10, "quarantined": 1, "files": files}


def test_only_this_runs_exports_of_the_demos_topics_count() -> None:
    rows = {"a": export("telemetry", 99), "b": export("telemetry", 100), "c": export("device.events", 100)}
    assert lake_figures(rows, ["telemetry"], 100) == LakeFigures(
        windows=1, files=2, rows=10, size_bytes=200, quarantined=1
    )


@pytest.mark.parametrize(
    ("wanted", "held", "gaps"),
    [
        ([(1, 10)], [(1, 10)], []),
        ([(1, 10)], [], [(1, 10)]),
        ([(1, 10)], [(3, 4), (6, 6)], [(1, 2), (5, 5), (7, 10)]),
        ([(1, 3), (7, 9)], [(2, 8)], [(1, 1), (9, 9)]),
        ([(5, 6)], [(1, 2), (9, 12)], [(5, 6)]),
        ([], [(1, 2)], []),
    ],
)
def test_what_is_not_covered(
    wanted: Sequence[tuple[int, int]], held: Sequence[tuple[int, int]], gaps: Sequence[tuple[int, int]]
) -> None:
    assert uncovered(wanted, held) == gaps


def device(sent: int, acked: tuple[tuple[int, int], ...]) -> DeviceReport:
    return DeviceReport(
        protocol="mqtt",
        sent=sent,
        acked=acked,
        unacked=(),
        refused={},
        resent=(),
        resends=0,
        skipped=0,
        connections=1,
        failed_connections=0,
        last_error="",
    )


def write_lake(path: Path, rows: Sequence[tuple[str, int, int]]) -> Path:
    """A lake with rows of (device, seq, received at in epoch seconds)."""
    folder = path / "lake" / "telemetry" / "date=2026-11-20"
    folder.mkdir(parents=True)
    target = str(folder / "a.parquet").replace("'", "''")
    values = ", ".join(f"('{name}', {seq}, to_timestamp({at_s}))" for name, seq, at_s in rows)
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT *, received_at AS ts FROM (VALUES {values}) t(device, seq, received_at)) "
            f"TO '{target}' (FORMAT parquet)"
        )
    return path / "lake"


def report_of(**devices: DeviceReport) -> FleetReport:
    return FleetReport(seed=1, rate_hz=1, started_ms=0, ended_ms=1, final=True, devices=devices)


def test_the_proof_finds_what_is_missing_and_does_not_count_an_older_run(tmp_path: Path) -> None:
    lake = write_lake(
        tmp_path, [("a", 1, 1000), ("a", 2, 1000), ("a", 2, 1001), ("a", 3, 10), ("b", 1, 1000), ("b", 3, 1000)]
    )
    report = report_of(a=device(3, ((1, 3),)), b=device(3, ((1, 1), (3, 3))), c=device(1, ((1, 1),)))
    proof = prove(report, lake, ["telemetry", "none"], since_ms=900_000)
    assert proof.missing == {"a": [(3, 3)], "c": [(1, 1)]}
    assert (proof.acked, proof.found) == (6, 4)


def test_an_empty_lake_proves_nothing_away(tmp_path: Path) -> None:
    assert prove(report_of(a=device(1, ((1, 1),))), tmp_path, ["telemetry"], 0).missing == {"a": [(1, 1)]}
    assert prove(report_of(a=device(0, ())), tmp_path, ["telemetry"], 0).missing == {}


@pytest.mark.parametrize("folder", ["plain", "it's a $folder"])
def test_the_printed_query_works_as_printed(tmp_path: Path, folder: str) -> None:
    lake = write_lake(tmp_path / folder, [("press-0001", 1, 1000)])
    done = subprocess.run(
        example_command(lake, "telemetry"), shell=True, capture_output=True, text=True, timeout=60, check=True
    )
    assert "press-0001" in done.stdout
    assert "press-0001" in run_example(lake, "telemetry")


def test_a_taken_port_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTakenError) as caught:
            run_demo(data_dir=tmp_path / "demo", overrides=[f"tcp.port={port}", "mqtt.port=auto", "http.port=auto"])
    assert caught.value.where == "tcp.port"
    assert "--set tcp.port=auto" in caught.value.mend
    assert caught.value.exit_code == 4
    assert not (tmp_path / "demo").exists()


def test_free_ports_and_listeners_that_are_off_are_fine() -> None:
    check_ports(Settings.model_validate({"mqtt": {"port": 0}, "tcp": {"port": "auto"}, "http": {"port": 0}}))


@pytest.mark.parametrize("sections", [{"sink": {"enabled": False}}, {"mqtt": {"port": 0}, "tcp": {"port": 0}}])
def test_settings_with_nothing_to_show_are_refused(sections: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        check_settings(Settings.model_validate(sections))


FIGURES = DemoFigures(
    elapsed_s=12.0,
    acked=1234,
    acked_per_s=50.2,
    ack_p50_ms=10.04,
    ack_p99_ms=None,
    unsynced=0,
    connections=50,
    lake=LakeFigures(windows=1, files=2, rows=700, size_bytes=3 << 20, quarantined=0),
)


def test_the_line_for_no_terminal() -> None:
    assert figure_line(FIGURES) == (
        "    12 s  acknowledged: 1,234 (50/s); ack latency: p50 10.0 ms, p99 -; acked, not yet on disk: 0; "
        "connections: 50; lake: 1 windows, 2 files, 700 rows, 3.0 MB"
    )


@pytest.mark.parametrize("terminal", [True, False])
def test_the_screen_shows_the_figures(terminal: bool) -> None:
    out = io.StringIO()
    screen = DemoScreen(Console(file=out, force_terminal=terminal, width=100, highlight=False, soft_wrap=True))
    screen.show(FIGURES)
    screen.show(FIGURES)  # a plain line at most every few seconds
    screen.end_live()
    screen.say("[not markup] " + "x" * 200)
    text = out.getvalue()
    assert "1,234 (50/s)" in text
    assert "[not markup] " + "x" * 200 in text
    assert terminal or text.count("acknowledged") == 1


def test_the_welcome_names_only_what_is_there(tmp_path: Path) -> None:
    hosts = dict.fromkeys(("mqtt", "tcp", "http"), "127.0.0.1")
    text = "\n".join(welcome(hosts, {"mqtt": 1883}, tmp_path, "telemetry", tmp_path / "demo.log"))
    assert "mosquitto_pub -h 127.0.0.1 -p 1883" in text
    assert "curl" not in text
    assert "raw TCP" not in text


def test_the_demo_proves_itself_and_ends_in_order_on_ctrl_c(tmp_path: Path) -> None:
    ports = [f"--set={name}.port=auto" for name in ("mqtt", "tcp", "http")]
    command = [sys.executable, "-P", "-c", "from appliance.cli import main; main()", "demo", "--devices=6"]
    data = tmp_path / "demo"
    demo = subprocess.Popen(
        [*command, f"--data-dir={data}", "--set=retention.roll_interval=2s", *ports],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(
            lambda: demo.poll() is not None or any((data / "lake" / "telemetry").glob("*/*.parquet")),
            timeout_s=60,
            describe="the first Parquet file",
        )
        demo.send_signal(signal.SIGINT)
        stdout, stderr = demo.communicate(timeout=60)
    finally:
        if demo.poll() is None:
            demo.kill()
            demo.communicate()
    assert demo.returncode == 0, stdout + stderr
    totals = json.loads((data / "demo-report.json").read_text())["totals"]
    assert totals["acked"] > 0
    assert f"Proof: {totals['acked']:,} of {totals['acked']:,} acknowledged readings are in the Parquet" in stdout
    pids = json.loads((data / "run" / "pids.json").read_text())
    assert list(pids) == ["supervisor"]
    with pytest.raises(ProcessLookupError):
        os.kill(pids["supervisor"], 0)
