from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance import cli
from appliance.commands import simulate
from appliance.export_now import ExportedTopic
from appliance.settings import Settings
from core.errors import HeadraceError, PortTakenError, UnavailableError
from core.ports import publish_port


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in a directory of its own, with no settings in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("HEADRACE_"):
            monkeypatch.delenv(name)


def run(*arguments: str) -> int:
    """The exit code of one command."""
    try:
        return cli.main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    name, number = capsys.readouterr().out.split()
    assert name == "headrace"
    assert number[0].isdigit()


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    shown = capsys.readouterr().out
    for command in ("run", "demo", "simulate", "export", "verify", "query", "config", "log"):
        assert command in shown


@pytest.mark.parametrize("arguments", [["bogus"], ["run", "--bogus"], ["simulate", "--for", "30"], ["demo", "more"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    assert "Usage" in capsys.readouterr().err


# ---- errors


def test_an_error_is_three_lines_and_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "check", "--set", "mqtt.prot=1") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "error: unknown setting `mqtt.prot`",
        "where: --set mqtt.prot=1",
        "mend:  did you mean `mqtt.port`?",
    ]


def test_empty_parts_of_an_error_are_left_out() -> None:
    assert cli.error_text(HeadraceError("it broke")) == "error: it broke"
    assert cli.error_text(HeadraceError("it broke", mend="mend it")) == "error: it broke\nmend:  mend it"


def test_there_is_no_traceback_in_a_process_of_its_own(tmp_path: Path) -> None:
    code = "import sys; from appliance.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "config", "show", "--config", "missing.toml"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert [line.split(":")[0] for line in ended.stderr.splitlines()] == ["error", "where", "mend"]


# ---- config


def test_show_is_toml_that_names_origins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "box.toml").write_text("[log]\npartitions = 4\n")
    assert run("config", "show", "--config", "box.toml", "--data-dir", "here", "--set", "mqtt.port=auto") == 0
    shown = capsys.readouterr().out
    assert tomllib.loads(shown)["log"]["partitions"] == 4
    assert "partitions = 4  # box.toml, line 2\n" in shown
    assert 'port = "auto"  # --set mqtt.port=auto\n' in shown
    assert 'data_dir = "here"  # --data-dir here\n' in shown
    assert 'commit_interval = "10ms"\n' in shown


def test_show_reads_the_environment(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HEADRACE_LOG__COMMIT_INTERVAL", "5ms")
    assert run("config", "show") == 0
    assert 'commit_interval = "5ms"  # environment variable HEADRACE_LOG__COMMIT_INTERVAL' in capsys.readouterr().out


def test_show_as_json_is_what_settings_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "show", "--json", "--set", "log.partitions=2") == 0
    shown = json.loads(capsys.readouterr().out)
    settings = Settings.from_json(json.dumps(shown["settings"]))
    assert settings.log.partitions == 2
    assert shown["origins"] == {"log.partitions": "--set log.partitions=2"}


def test_check_says_so_when_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "check", "--set", "log.partitions=2") == 0
    assert capsys.readouterr().out == "settings are usable: 1 given, the others at their defaults\n"


# ---- run and demo


def test_run_hands_the_settings_to_the_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []

    def run_appliance(settings: Settings) -> int:
        seen.append(settings)
        return 7

    monkeypatch.setitem(sys.modules, "appliance.supervisor", SimpleNamespace(run_appliance=run_appliance))
    assert run("run", "--data-dir", "d", "--set", "mqtt.port=auto", "--set", "tcp.port=0") == 7
    assert (seen[0].data_dir, seen[0].mqtt.port, seen[0].tcp.port) == (Path("d"), "auto", 0)


def test_an_error_of_the_appliance_sets_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_appliance(_settings: Settings) -> int:
        raise PortTakenError("port 1883 is taken", where="mqtt.port", mend="--set mqtt.port=auto")

    monkeypatch.setitem(sys.modules, "appliance.supervisor", SimpleNamespace(run_appliance=run_appliance))
    assert run("run") == 4
    assert capsys.readouterr().err.startswith("error: port 1883 is taken\nwhere: mqtt.port\n")


def test_demo_hands_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Mapping[str, Any]] = []

    def run_demo(**options: Any) -> int:
        seen.append(options)
        return 0

    monkeypatch.setitem(sys.modules, "appliance.demo", SimpleNamespace(run_demo=run_demo))
    assert run("demo") == 0
    assert run("demo", "--for", "1.5s", "--devices", "3", "--data-dir", "d", "--set", "a.b=c", "--config", "f") == 0
    assert seen == [
        {"data_dir": Path("headrace-demo"), "for_s": None, "devices": 50, "overrides": (), "config": None},
        {"data_dir": Path("d"), "for_s": 1.5, "devices": 3, "overrides": ("a.b=c",), "config": Path("f")},
    ]


# ---- simulate


def simulated(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    """The fleet options that `headrace simulate` comes to."""
    seen: list[Any] = []
    totals = SimpleNamespace(sent=9, acked=5, unacked=3, refused=1, resent=2, skipped=4)

    async def run_fleet(options: Any, report: Path | None) -> Any:
        await asyncio.sleep(0)
        seen.append(SimpleNamespace(options=options, report=report))
        return SimpleNamespace(totals=totals)

    monkeypatch.setattr(simulate, "_run", run_fleet)
    monkeypatch.setattr(simulate, "configure_logs", lambda *_arguments: None)
    assert run("simulate", *arguments) == 0
    return seen[0]


def test_simulate_hands_its_options_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen = simulated(
        monkeypatch,
        *("--devices", "3", "--rate", "2.5", "--protocol", "tcp", "--seed", "9", "--for", "30s"),
        *("--host", "h", "--mqtt-port", "1", "--tcp-port", "2", "--report", "r.json"),
    )
    options = seen.options
    assert (options.devices, options.rate_hz, options.protocol, options.seed) == (3, 2.5, "tcp", 9)
    assert (options.for_s, options.host, options.mqtt_port, options.tcp_port) == (30.0, "h", 1, 2)
    assert seen.report == Path("r.json")
    assert capsys.readouterr().out == "sent 9, acked 5, unacked 3, refused 1, resent 2, skipped 4\n"


def test_simulate_finds_the_ports_of_the_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = tmp_path / "box" / "run"
    run_dir.mkdir(parents=True)
    publish_port(run_dir, "mqtt", 4001)
    publish_port(run_dir, "tcp", 4002)
    options = simulated(monkeypatch, "--data-dir", "box").options
    assert (options.mqtt_port, options.tcp_port) == (4001, 4002)
    options = simulated(monkeypatch, "--data-dir", "box", "--tcp-port", "5").options
    assert (options.mqtt_port, options.tcp_port) == (4001, 5)


def test_simulate_falls_back_to_the_usual_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    options = simulated(monkeypatch).options
    assert (options.mqtt_port, options.tcp_port, options.host) == (1883, 9000, "127.0.0.1")


def test_simulate_says_when_its_report_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("simulate", "--devices", "1", "--for", "1ms", "--report", "none/r.json") == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: the report cannot be written")
    assert "where: none/r.json" in shown


def test_export_prints_the_files(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    async def exported(_data_dir: Path, topics: list[str], **options: Any) -> list[ExportedTopic]:
        await asyncio.sleep(0)
        assert options["timeout_s"] == 90
        rows = [{"files": [{"path": "a/date=2026-11-20/x.parquet", "rows": 4, "bytes": 2048}]}]
        return [
            ExportedTopic(topic=topics[0], closed=4, exports=rows),
            ExportedTopic(topic=topics[1], closed=None, exports=[]),
        ]

    monkeypatch.setattr("appliance.export_now.export_now", exported)
    assert run("export", "--now", "--topic", "a", "--topic", "b", "--timeout", "90s") == 0
    assert capsys.readouterr().out == (
        "a: 4 rows in 1 files (2.0 KB)\n  lake/a/date=2026-11-20/x.parquet  4 rows, 2.0 KB\nb: nothing new\n"
    )


def test_export_without_an_appliance_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("export", "--now", "--topic", "a") == UnavailableError.exit_code
    assert "`headrace run`" in capsys.readouterr().err


def test_export_without_now_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("export") == 1
    assert "--now" in capsys.readouterr().err
