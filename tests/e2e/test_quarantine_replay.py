"""A wrong schema, quarantine, the schema mended by a restart, a replay: on a running appliance, as its user does it."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

import pytest

from tests.e2e.appliance_process import HEADRACE, Appliance, appliance
from tests.e2e.test_end_to_end import lake, query

pytestmark = pytest.mark.timeout(120)
COUNT = 300


def settings(path: Path, kind: str) -> Path:
    path.write_text(
        f'[[topics]]\nname = "telemetry"\n\n[[topics.fields]]\nname = "temp"\ntype = "{kind}"\nunit = "Cel"\n'
    )
    return path


def send(box: Appliance) -> None:
    with socket.create_connection(("127.0.0.1", box.ports["tcp"]), timeout=30) as device:
        for seq in range(COUNT):
            device.sendall(b'{"device":"d%d","seq":%d,"temp":%s}\n' % (seq % 7, seq, b"21.5" if seq % 3 else b"20"))
        device.sendall(b'{"device":"d1","seq":-1,"temp":"hot"}\n')
        device.shutdown(socket.SHUT_WR)
        answers = device.makefile("rb").read().splitlines()
    assert all(line.startswith(b"OK") for line in answers), answers[-1]


def refusal(box: Appliance, *arguments: str) -> str:
    done = subprocess.run(
        [HEADRACE, *arguments, "--data-dir", str(box.data_dir)], capture_output=True, timeout=60, check=False
    )
    assert done.returncode != 0
    return done.stderr.decode()


def test_readings_that_a_wrong_schema_kept_out_become_rows(tmp_path: Path) -> None:
    wrong, mended = settings(tmp_path / "wrong.toml", "int64"), settings(tmp_path / "mended.toml", "double")
    with appliance(tmp_path / "data", ["log.partitions=2"], config=wrong) as box:
        box.wait_ready()
        send(box)
        box.export_now()
        listed = json.loads(box.run_command("quarantine", "list", "--json"))
        assert listed["topics"]["telemetry"]["reasons"] == {"schema": 2 * COUNT // 3 + 1}
        (path,) = [file["path"] for file in listed["files"]]
        assert "left as it is" in box.run_command("quarantine", "replay")
        foretold = box.run_command("quarantine", "replay", "--dry-run", "--config", str(mended))
        assert foretold.strip() == f"{path}: {2 * COUNT // 3} rows; 1 would still be refused: schema 1"
        assert box.stop() == 0
        assert "edge" in refusal(box, "quarantine", "replay", path)
    with appliance(tmp_path / "data", ["log.partitions=2"], config=mended) as box:
        box.wait_ready()
        done = box.run_command("quarantine", "replay", f"lake/{path}").splitlines()
        assert done[0] == f"{path}: {2 * COUNT // 3} rows; 1 still refused: schema 1"
        assert box.metric("headrace_sink_replayed_rows_total") == 2 * COUNT // 3
        box.run_command("verify")
        rows = f"read_parquet({lake(box)}, union_by_name=true)"  # the column was whole numbers, and is doubles now
        assert query(f"SELECT count(*), count(DISTINCT seq), sum(temp) FROM {rows}") == [
            (COUNT, COUNT, COUNT // 3 * (20 + 2 * 21.5))
        ]
        (row,) = json.loads(box.run_command("quarantine", "list", "--json"))["rows"]
        assert row["payload_begins"] == '{"device":"d1","seq":-1,"temp":"hot"}'
        assert "replayed already" in refusal(box, "quarantine", "replay", path)
        assert (box.data_dir / "lake" / "_superseded" / path).is_file()
        assert box.stop() == 0
        box.run_command("verify")
