"""`headrace log` as it is typed: output, exit codes, the one shape of errors."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from appliance import cli
from appliance.commands.log import parse_time_ms
from core.clock import SystemClock
from tests.commitlog.log_support import opened, record

HEADRACE = str(Path(sys.executable).with_name("headrace"))
NOW_MS = 1_800_000_000_000


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    async def fill() -> None:
        async with opened(tmp_path / "data", clock=SystemClock()) as log:
            await log.create_topic("telemetry", 2)
            for number in range(20):
                await log.append([record("telemetry", f"d{number % 2}", b'{"n":%d}' % number, partition=number % 2)])
            await log.roll("telemetry", "test")

    asyncio.run(fill())
    return tmp_path / "data"


def run(data: Path, *arguments: str) -> int:
    try:
        return cli.main(["log", *arguments, "--data-dir", str(data)])
    except SystemExit as end:
        return int(end.code or 0)


def damage(data: Path) -> None:
    path = data / "log" / "telemetry-1" / f"{0:020}.log"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_check_of_a_clean_log(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data, "check") == 0
    shown = capsys.readouterr()
    assert "20 records" in shown.out
    assert shown.out.splitlines()[-1] == "clean"
    assert shown.err == ""


def test_check_of_a_damaged_log(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(data)
    assert run(data, "check") == 1
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("found: batch-damaged: telemetry-1: ")
    assert shown[1].startswith("where: log/telemetry-1/00000000000000000000.log at byte ")
    assert shown[-1] == "1 found"


def test_check_as_json(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data, "check", "--json") == 0
    clean = json.loads(capsys.readouterr().out)
    assert (clean["clean"], clean["writer"], clean["findings"]) == (True, "none", [])
    assert clean["checked"]["records"] == 20
    damage(data)
    assert run(data, "check", "--json") == 1
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["kind"], finding["topic"], finding["partition"]) == ("batch-damaged", "telemetry", 1)
    assert finding["first"] < finding["next"] == 10


@pytest.mark.parametrize("command", ["check", "dump", "stats"])
def test_no_log_is_an_error_in_the_one_shape(tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "nothing", command) in (3, 5)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "where", "mend"]
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    "arguments",
    [["check", "--bogus"], ["dump", "--since", "yesterday"], ["dump", "--limit", "0"], ["stats", "more"], ["bogus"]],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(data: Path, arguments: list[str]) -> None:
    assert run(data, *arguments) == 2


def test_offset_and_range_at_once_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data, "dump", "--offset", "1", "--from", "0") == 1
    assert "--offset" in capsys.readouterr().err


def test_an_unknown_topic_is_named_with_those_there_are(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data, "dump", "--topic", "nope") == 1
    assert "telemetry" in capsys.readouterr().err


def dumped(data: Path, *arguments: str) -> list[dict[str, object]]:
    done = subprocess.run(
        [HEADRACE, "log", "dump", "--data-dir", str(data), *arguments], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_dump_prints_a_line_for_each_record(data: Path) -> None:
    everything = dumped(data)
    assert [line["value"] for line in everything] == [{"n": n} for n in (*range(0, 20, 2), *range(1, 20, 2))]
    assert dumped(data, "--partition", "1", "--offset", "3") == [everything[13]]
    assert dumped(data, "--key", "d1", "--limit", "2", "--since", "1h") == everything[10:12]


def test_dump_tells_gaps_on_standard_error(data: Path) -> None:
    damage(data)
    done = subprocess.run(
        [HEADRACE, "log", "dump", "--data-dir", str(data), "--partition", "1"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stderr.startswith("gap: telemetry-1: offsets ")


def test_whoever_has_seen_enough_may_go(data: Path) -> None:
    done = subprocess.run(
        f"'{HEADRACE}' log dump --data-dir '{data}' | head -c 1; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_stats(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data, "stats") == 0
    shown = capsys.readouterr().out
    assert "topic telemetry" in shown
    assert "table windows: 1 rows" in shown
    assert run(data, "stats", "--json") == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["topics"]["telemetry"]["records"] == 20
    assert [one["next_offset"] for one in numbers["topics"]["telemetry"]["partitions"]] == [10, 10]
    assert numbers["tables"]["windows"]["rows"] == 1


@pytest.mark.parametrize(
    ("text", "time_ms"),
    [
        ("1800000000123", 1_800_000_000_123),
        ("10m", NOW_MS - 600_000),
        ("2026-01-31T12:00:00Z", 1_769_860_800_000),
        ("2026-01-31T13:00:00.5+01:00", 1_769_860_800_500),
    ],
)
def test_times(text: str, time_ms: int) -> None:
    assert parse_time_ms(text, NOW_MS) == time_ms


@pytest.mark.parametrize("text", ["", "yesterday", "12", "2026-13-01", "-5m"])
def test_what_is_no_time_is_a_usage_error(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_time_ms(text, NOW_MS)
