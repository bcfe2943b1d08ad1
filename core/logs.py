"""Logging of every process of the box: readable on a terminal, one JSON object a line everywhere else.

Lines go to standard error, with UTC timestamps and the name of the process. What libraries say through the standard
library's logging goes the same way. Values come from the network (client ids, topics, payload errors), so text is cut
at `MAX_VALUE_CHARS` and cannot break a line or drive a terminal. A line that somebody outside can cause at will goes
through `LimitedLog`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping, Sequence
from io import StringIO
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.typing import ExcInfo, Processor

from core.clock import Clock, SystemClock

MAX_VALUE_CHARS: Final = 1000  # enough for any path or id; a hostile one must not fill the disk with its own name
LogFormat = Literal["auto", "console", "json"]

_TRUSTED_KEYS: Final = frozenset({"exc_info", "stack"})  # tracebacks: many lines, and wanted whole


def configure_logs(
    process: str,
    format: LogFormat = "auto",  # noqa: A002 - the setting's own name
    level: str = "info",
    *,
    stream: TextIO | None = None,
) -> None:
    """Send structlog and the standard library's logging to `stream` (standard error), marked with `process`.

    `format` is `console`, `json`, or `auto`: console when the stream is a terminal. `level` is debug, info, warning
    or error. May be called again; the last call counts.
    """
    target = sys.stderr if stream is None else stream
    on_terminal = target.isatty()
    readable = format == "console" or (format == "auto" and on_terminal)
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared = _shared_processors(process)
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=_renderers(readable=readable, colors=on_terminal), foreign_pre_chain=shared
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(threshold)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # loggers live at module level: what is cached could not be configured again
    )


def _shared_processors(process: str) -> Sequence[Processor]:
    def name_process(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["process"] = process
        return event

    return [
        structlog.contextvars.merge_contextvars,
        name_process,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.StackInfoRenderer(),
    ]


def _renderers(*, readable: bool, colors: bool) -> Sequence[Processor]:
    first: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, _bounded]
    if readable:
        return [*first, _printable, structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=_plain_traceback)]
    return [*first, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


def _bounded(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Make text of what is neither text nor number, so that no renderer can fail on it, and cut what is long."""
    event.pop("color_message", None)  # uvicorn's second copy of its message, with terminal codes
    for key, value in event.items():
        if value is None or isinstance(value, (bool, int, float)) or key in _TRUSTED_KEYS:
            continue
        text = value if isinstance(value, str) else repr(value)
        if isinstance(value, (list, tuple, dict)) and len(text) <= MAX_VALUE_CHARS:
            continue  # the renderers know these
        event[key] = text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]}... ({len(text)} chars)"
    return event


def _printable(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape what could break a line or drive a terminal. (JSON escapes it by itself.)"""
    for key, value in event.items():
        if isinstance(value, str) and key not in _TRUSTED_KEYS:
            event[key] = _escaped(value)
    return event


def _escaped(text: str, keep: str = "") -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else ascii(char)[1:-1] for char in text)


def _plain_traceback(stream: TextIO, exc_info: ExcInfo) -> None:
    """A traceback whose message cannot drive the terminal either."""
    text = StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    stream.write(_escaped(text.getvalue(), keep="\n\t"))


class LimitedLog:
    """Lines that somebody outside can cause at will: at most `per_s` a second of each event, then a count.

    What was held back is told with the next line of that event (`suppressed=n`), or by `flush`, which whoever
    owns a timer calls now and then and at the end. Event names are constants of the code, so the memory is finite.
    """

    def __init__(self, logger: Any, *, per_s: int = 5, clock: Clock | None = None) -> None:
        self._logger = logger
        self._per_s = per_s
        self._clock = clock or SystemClock()
        self._windows: dict[str, _Window] = {}

    def info(self, event: str, **fields: Any) -> None:
        """As the logger's `info`, within the limit."""
        self._emit("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """As the logger's `warning`, within the limit."""
        self._emit("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """As the logger's `error`, within the limit."""
        self._emit("error", event, fields)

    def flush(self) -> None:
        """Tell what was held back since the last line of each event, and forget it."""
        for event, window in self._windows.items():
            if window.suppressed:
                getattr(self._logger, window.level)(event, suppressed=window.suppressed)
                window.suppressed = 0

    def _emit(self, level: str, event: str, fields: dict[str, Any]) -> None:
        now_ms = self._clock.monotonic_ms()
        window = self._windows.get(event)
        if window is None:
            window = self._windows[event] = _Window(level, now_ms)
        if now_ms - window.since_ms >= 1000:
            window.since_ms = now_ms
            window.lines = 0
        if window.lines >= self._per_s:
            window.suppressed += 1
            return
        window.lines += 1
        if window.suppressed:
            fields["suppressed"] = window.suppressed
            window.suppressed = 0
        getattr(self._logger, level)(event, **fields)


class _Window:
    """One event's lines in the current second, and how many were held back."""

    __slots__ = ("level", "lines", "since_ms", "suppressed")

    def __init__(self, level: str, since_ms: int) -> None:
        self.level = level
        self.since_ms = since_ms
        self.lines = 0
        self.suppressed = 0
