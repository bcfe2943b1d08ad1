from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from core.logs import MAX_VALUE_CHARS, LimitedLog, LogFormat, configure_logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class HandClock:
    def __init__(self) -> None:
        self.now_ms = 1_000_000

    def time_ms(self) -> int:
        return self.now_ms

    def monotonic_ms(self) -> int:
        return self.now_ms


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def logged(layout: LogFormat = "json", level: str = "info", stream: io.StringIO | None = None) -> io.StringIO:
    target = stream or io.StringIO()
    configure_logs("edge", layout, level, stream=target)
    return target


def one(stream: io.StringIO) -> dict[str, Any]:
    (line,) = stream.getvalue().splitlines()
    fields: dict[str, Any] = json.loads(line)
    return fields


def test_json_is_one_object_a_line_with_process_and_utc_time() -> None:
    stream = logged()
    structlog.get_logger("log").warning("two\nlines", topic="a\nb")
    fields = one(stream)
    assert fields["event"] == "two\nlines"
    assert fields["topic"] == "a\nb"
    assert fields["process"] == "edge"
    assert fields["level"] == "warning"
    assert fields["timestamp"].endswith("Z")


def test_auto_is_readable_on_a_terminal_and_json_elsewhere() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    logged("auto", stream=terminal)
    structlog.get_logger().info("started")
    logged("auto", stream=pipe)
    structlog.get_logger().info("started")
    assert "started" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")
    assert one(pipe)["event"] == "started"


def test_library_logging_goes_the_same_way() -> None:
    stream = logged()
    logging.getLogger("uvicorn.error").warning("listening on %s", "x")
    fields = one(stream)
    assert (fields["event"], fields["process"], fields["level"]) == ("listening on x", "edge", "warning")


def test_warnings_are_logged() -> None:
    logging.captureWarnings(False)  # pytest puts its own hook back for each test, of which logging knows nothing
    stream = logged()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("deprecated thing", stacklevel=1)
    assert "deprecated thing" in one(stream)["event"]


def test_level_is_kept_for_both_ways() -> None:
    stream = logged(level="warning")
    structlog.get_logger().info("no")
    logging.getLogger("lib").info("no")
    assert stream.getvalue() == ""


def test_hostile_text_cannot_break_a_line_or_drive_the_terminal() -> None:
    stream = logged("console")
    hostile = "\x1b[2J\r\nFAKE\u2028\u202e"
    try:
        raise ValueError(hostile)
    except ValueError as error:
        structlog.get_logger().error("refused", client_id=hostile, exc_info=error)
    text = stream.getvalue()
    assert "\\x1b[2J\\r\\nFAKE\\u2028\\u202e" in text
    assert "\x1b" not in text
    assert "\r" not in text
    assert "Traceback" in text


def test_long_values_are_cut_and_bytes_become_text() -> None:
    stream = logged()
    structlog.get_logger().info("refused", topic="x" * 5000, payload=b"\xff", many=["y" * 5000])
    fields = one(stream)
    assert len(fields["topic"]) < MAX_VALUE_CHARS + 50
    assert fields["topic"].endswith("(5000 chars)")
    assert fields["payload"] == "b'\\xff'"
    assert len(fields["many"]) < MAX_VALUE_CHARS + 50


def test_json_carries_the_traceback() -> None:
    stream = logged()
    try:
        raise ValueError("boom")
    except ValueError as error:
        structlog.get_logger().error("failed", exc_info=error)
    assert "ValueError: boom" in one(stream)["exception"]


def test_limited_log_counts_what_it_holds_back() -> None:
    stream, clock = logged(), HandClock()
    limited = LimitedLog(structlog.get_logger(), per_s=2, clock=clock)
    for number in range(10):
        limited.warning("bad packet", number=number)
    limited.warning("another event")
    clock.now_ms += 1000
    limited.warning("bad packet", number=99)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["event"], line.get("number"), line.get("suppressed")) for line in lines] == [
        ("bad packet", 0, None),
        ("bad packet", 1, None),
        ("another event", None, None),
        ("bad packet", 99, 8),
    ]


def test_limited_log_flush_tells_the_rest_once() -> None:
    stream, clock = logged(), HandClock()
    limited = LimitedLog(structlog.get_logger(), per_s=1, clock=clock)
    for _ in range(4):
        limited.error("bad packet")
    limited.flush()
    limited.flush()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line.get("suppressed") for line in lines] == [None, 3]
    assert lines[-1]["level"] == "error"
