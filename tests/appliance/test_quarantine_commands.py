"""`headrace quarantine` as it is typed, beside no appliance: output, exit codes, the one shape of errors."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from appliance import cli
from appliance.commands.quarantine_text import safely
from tests.sink.test_sink_replay import WRONG, a_log, exported, quarantine_files

MENDED = '[[topics]]\nname = "telemetry"\n[[topics.fields]]\nname = "temp"\ntype = "double"\n'


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    log = a_log()
    log.put(b"\x1b[31mred\xff\n" + b"x" * 200, raw=True, key=b"\x1bdevice")
    log.close_window()
    asyncio.run(exported(tmp_path / "data" / "lake", WRONG, log))
    return tmp_path / "data"


def run(data: Path, *arguments: str) -> int:
    try:
        return cli.main(["quarantine", *arguments, "--data-dir", str(data)])
    except SystemExit as end:
        return int(end.code or 0)


def test_list_counts_by_topic_reason_and_file(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data, "list") == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0] == "topic telemetry: 18 rows: not-an-object 1, not-json 3, schema 14"
    assert lines[1] == "  besides 1 records without readings (no-rows): nothing is wrong with them"
    for path in quarantine_files(data / "lake"):
        assert any(line.startswith(f"  {path}  window ") for line in lines)
    assert "no-rows" not in "".join(lines[6:])
    assert "\x1b" not in out
    assert "\\x1b[31mred\\xff" in out
    assert "its payload is with the record's first row here" in out


def test_list_selects(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def rows(*options: str) -> list[tuple[str, int]]:
        assert run(data, "list", "--json", "--limit", "1000", *options) == 0
        found = json.loads(capsys.readouterr().out)
        assert sum(sum(file["reasons"].values()) for file in found["files"]) == len(found["rows"]) + (
            0 if options else found["nothing_wrong"]
        )
        return [(row["reason"], row["offset"]) for row in found["rows"]]

    assert len(rows()) == 18
    assert {reason for reason, _ in rows("--reason", "not-json")} == {"not-json"}
    assert rows("--reason", "no-rows") == [("no-rows", 1)]
    assert rows("--reason", "schema", "--until", "2025-01-01T00:00:00Z") == []
    assert len(rows("--reason", "schema", "--since", "2025-11-21T00:00:00Z")) == 1
    assert rows("--topic", "other", "--reason", "schema") == []
    assert run(data, "list", "--json", "--limit", "2") == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 2
    assert run(data, "list", "--reason", "bad") == 1
    assert "one of empty" in capsys.readouterr().err


def test_list_leaves_out_what_it_cannot_read(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = quarantine_files(data / "lake")[0]
    (data / "lake" / path).write_bytes(b"PAR1")
    assert run(data, "list") == 0
    assert f"note: lake/{path} is left out: its footer cannot be read" in capsys.readouterr().out


def test_list_of_an_empty_lake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "data", "list") == 0
    assert capsys.readouterr().out == "nothing is in quarantine\n"
    assert run(tmp_path / "data", "replay") == 0


def test_show_writes_the_bytes(data: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(data, "show", "0:5") == 0
    shown = capfdbinary.readouterr()
    assert shown.out == b"not json"
    assert json.loads(shown.err)["reason"] == "not-json"
    assert run(data, "show", "0:3:0") == 0
    assert json.loads(capfdbinary.readouterr().out)["site"] == "s"
    for place, word in (("0:0", b"nothing of this place"), ("x", b"is no place"), ("0:3:1", b"nothing of this place")):
        assert run(data, "show", place) == 1
        assert word in capfdbinary.readouterr().err


def test_a_dry_run_says_what_would_become_rows_and_changes_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mended.toml").write_text(MENDED)
    before = {path: path.stat().st_mtime_ns for path in (data / "lake").rglob("*")}
    assert run(data, "replay", "--dry-run", "--config", str(tmp_path / "mended.toml")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(quarantine_files(data / "lake"))
    assert sum(int(line.split(": ")[1].split(" ")[0]) for line in lines if " rows; " in line) == 9
    assert any("no row would be read any better: not-json 1" in line for line in lines)
    assert {path: path.stat().st_mtime_ns for path in (data / "lake").rglob("*")} == before


def test_replay_names_what_is_wrong(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path, *_) = quarantine_files(data / "lake")
    good = next(str(p.relative_to(data / "lake")) for p in (data / "lake" / "telemetry").rglob("*.parquet"))
    for name, word in ((good, "decoded rows"), ("nothing.parquet", "no such file"), (path, "")):
        assert run(data, "replay", name) != 0
        assert word in capsys.readouterr().err
    assert run(data, "replay", path, "--topic", "other") == 1
    assert "of topic telemetry" in capsys.readouterr().err
    assert run(data, "replay", str(data / "lake" / path), "--dry-run") == 0


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (None, ""),
        (b"plain", "plain"),
        (b"\x00\x07\x1b[2J", "\\x00\\x07\\x1b[2J"),
        (b"\xff\xc3\xa4\xe2\x80\xae", "\\xff\u00e4\\u202e"),
        (b"a" * 81, "a" * 80 + "..."),
        (b"a\r\nb", "a\\r\\nb"),
    ],
)
def test_payloads_do_nothing_to_a_terminal(payload: bytes | None, shown: str) -> None:
    assert safely(payload) == shown
