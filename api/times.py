"""Times in requests and answers."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

from pydantic import WithJsonSchema

from core.errors import BadRequestError

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_MS: Final = 253_402_300_799_000  # 9999-12-31T23:59:59Z, the last that datetime can say
_UNITS_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_RELATIVE: Final = re.compile(r"-([0-9]{1,9})(ms|s|m|h|d)\Z")
_EPOCH_MS: Final = re.compile(r"[0-9]{1,15}\Z")
_RFC3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})\Z"
)

_SCHEMA: Final[dict[str, Any]] = {
    "anyOf": [
        {"type": "string", "format": "date-time", "description": "RFC 3339"},
        {"type": "string", "pattern": "^-[0-9]{1,9}(ms|s|m|h|d)$", "description": "before now"},
        {"type": "string", "pattern": "^[0-9]{1,15}$", "description": "milliseconds since the epoch"},
    ],
    "examples": ["2026-11-20T10:00:00Z", "-1h", "1795169000000"],
}

TimeText = Annotated[str, WithJsonSchema(_SCHEMA)]
"""A point in time as a parameter: RFC 3339, milliseconds since the epoch, or relative to now such as `-1h`."""


def parse_time_ms(text: str, now_ms: int, *, name: str) -> int:
    """Milliseconds since the epoch, not before it. Raises BadRequestError naming the parameter."""
    if match := _RELATIVE.match(text):
        return max(0, now_ms - int(match[1]) * _UNITS_MS[match[2]])
    if _EPOCH_MS.match(text):
        return int(text)
    if _RFC3339.match(text):
        try:
            return max(0, (datetime.fromisoformat(text.upper()) - _EPOCH) // timedelta(milliseconds=1))
        except ValueError:
            pass  # a date or time that does not exist: refused below like any other text
    raise BadRequestError(
        f"{text[:60]!r} is not a time",
        where=f"query {name}",
        mend="write RFC 3339 (2026-11-20T10:00:00Z; a + in a URL is %2B), epoch milliseconds, or -30s, -15m, -1h, -7d",
    )


def to_datetime(time_ms: int) -> datetime:
    """A time received as an answer carries it (RFC 3339, UTC)."""
    return _EPOCH + timedelta(milliseconds=min(max(time_ms, 0), _MAX_MS))


def relative(time_ms: int, now_ms: int) -> str:
    """How long ago, in one unit, for people: `now`, `12 s ago`, `3 min ago`, `5 h ago`, `2 d ago`."""
    return "now" if now_ms - time_ms < 1000 else f"{duration(now_ms - time_ms)} ago"


def duration(time_ms: int) -> str:
    """How long, in one unit, for people: `0 s`, `12 s`, `3 min`, `5 h`, `2 d`."""
    seconds = max(0, time_ms) // 1000
    for size_s, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size_s:
            return f"{seconds // size_s} {unit}"
    return f"{seconds} s"
