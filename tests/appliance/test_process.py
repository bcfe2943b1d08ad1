"""`child_main` in real processes: small scripts whose `run` prints what it meets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from appliance.settings import Settings

Start = Callable[..., "subprocess.Popen[str]"]

PRELUDE = """
import asyncio, sys
from appliance.process import announce_ready, child_main
from core.errors import PortTakenError
"""
WAITS = """
async def run(settings, stop):
    announce_ready()
    announce_ready()
    await stop.wait()
    print("in order", flush=True)
child_main("probe", run)
"""


@pytest.fixture(name="start")
def _start(tmp_path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def start(body: str, *options: str, pass_fds: Sequence[int] = (), settings: str | None = None) -> Any:
        script, path = tmp_path / "probe.py", tmp_path / "settings.json"
        script.write_text(PRELUDE + textwrap.dedent(body))
        path.write_text(settings if settings is not None else Settings(data_dir=tmp_path).to_json())
        process = subprocess.Popen(
            [sys.executable, str(script), str(path), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=pass_fds,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def log_lines(stderr: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stderr.splitlines()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_in_order(start: Start, number: signal.Signals) -> None:
    reading, writing = os.pipe()
    process = start(WAITS, "--ready-fd", str(writing), pass_fds=[writing])
    os.close(writing)
    with os.fdopen(reading, "rb") as ready:
        assert ready.read() == b"ready\n"  # once, and closed after it
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout) == (0, "in order\n")
    assert [line["event"] for line in log_lines(stderr)] == ["started", "ended"]
    assert {line["process"] for line in log_lines(stderr)} == {"probe"}


def test_the_end_of_the_supervisor_stops_it_in_order(start: Start) -> None:
    reading, writing = os.pipe()
    process = start(WAITS, "--life-fd", str(reading), pass_fds=[reading])
    os.close(reading)
    os.close(writing)
    stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout) == (0, "in order\n")
    assert "the supervisor is gone; stopping" in stderr


def test_an_orphan_that_hangs_is_ended_by_force(start: Start) -> None:
    body = """
    import appliance.process, time
    appliance.process.ORPHAN_PATIENCE_S = 1
    async def run(settings, stop):
        await stop.wait()
        time.sleep(3600)
    child_main("probe", run)
    """
    reading, writing = os.pipe()
    process = start(body, "--life-fd", str(reading), pass_fds=[reading])
    os.close(reading)
    os.close(writing)
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGALRM


def test_a_headrace_error_is_one_log_line_and_its_exit_code(start: Start) -> None:
    process = start(
        """
        async def run(settings, stop):
            raise PortTakenError("port 1883 is taken", where="mqtt.port", mend="choose another")
        child_main("probe", run)
        """
    )
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 4
    last = log_lines(stderr)[-1]
    assert (last["what"], last["where"], last["mend"]) == ("port 1883 is taken", "mqtt.port", "choose another")
    assert "exception" not in last


def test_a_crash_leaves_its_traceback_and_exit_code_1(start: Start) -> None:
    process = start(
        """
        async def run(settings, stop):
            raise KeyError("unforeseen")
        child_main("probe", run)
        """
    )
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "KeyError: 'unforeseen'" in log_lines(stderr)[-1]["exception"]


def test_settings_that_are_none_are_exit_code_2(start: Start) -> None:
    process = start(WAITS, settings="{")
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 2
    assert log_lines(stderr)[-1]["code"] == "config"


def test_missing_settings_are_exit_code_2(tmp_path: Path) -> None:
    script = tmp_path / "probe.py"
    script.write_text(PRELUDE + WAITS)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "none.json")],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2
    assert log_lines(done.stderr)[-1]["where"] == str(tmp_path / "none.json")


def test_uvloop_where_asked(start: Start) -> None:
    process = start(
        """
        async def run(settings, stop):
            print(type(asyncio.get_running_loop()).__module__)
        child_main("probe", run, use_uvloop=True)
        """
    )
    stdout, _ = process.communicate(timeout=20)
    assert (process.returncode, stdout) == (0, "uvloop\n")


def test_the_log_format_and_level_of_the_settings_count(start: Start, tmp_path: Path) -> None:
    settings = Settings.model_validate({"data_dir": tmp_path, "logging": {"format": "console", "level": "warning"}})
    body = """
    import structlog
    async def run(settings, stop):
        structlog.get_logger().info("no")
        structlog.get_logger().warning("yes")
    child_main("probe", run)
    """
    _, stderr = start(body, settings=settings.to_json()).communicate(timeout=20)
    assert "yes" in stderr
    assert len(stderr.splitlines()) == 1
    assert not stderr.startswith("{")
