"""Settings values with units: text such as `10ms`, `1h`, `256MB` in, plain numbers in a named unit out.

Sizes are binary (1 KB = 1024 bytes), as Kafka's and most brokers' settings are read in practice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Annotated, Final

from pydantic import BeforeValidator

_MS: Final = {"us": 0.001, "ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_BYTES: Final = {"b": 1, "kb": 1024, "mb": 1024**2, "gb": 1024**3, "tb": 1024**4}
_QUANTITY: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\s*\Z")


def _quantity(value: object, units: dict[str, float] | dict[str, int], example: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"not a quantity; write a number with a unit, such as {example}")
    if isinstance(value, (int, float)):
        if value == 0:
            return 0
        raise ValueError(f"{value} has no unit; write a number with one of {', '.join(units)}, such as {example}")
    if value.strip() == "0":
        return 0
    match = _QUANTITY.match(value)
    if match is None or match[2].lower() not in units:
        raise ValueError(f"{value!r} is not a number with one of {', '.join(units)}, such as {example}")
    return float(match[1]) * units[match[2].lower()]


def parse_duration_ms(value: object) -> int:
    """Milliseconds from text such as `10ms`, `15s`, `5m`, `1h`, `7d`. Raises ValueError."""
    return round(_quantity(value, _MS, "10ms, 15s, 5m, 1h or 7d"))


def parse_duration_s(value: object) -> float:
    """Seconds from text such as `500ms`, `15s`, `5m`, `1h`. Raises ValueError."""
    return _quantity(value, _MS, "500ms, 15s, 5m or 1h") / 1000


def parse_size_bytes(value: object) -> int:
    """Bytes from text such as `64KB`, `256MB`, `1GB` (binary multiples). Raises ValueError."""
    return round(_quantity(value, _BYTES, "64KB, 256MB or 1GB"))


def parse_optional_duration_ms(value: object) -> int | None:
    """As `parse_duration_ms`; None stays None."""
    return None if value is None else parse_duration_ms(value)


def parse_optional_size_bytes(value: object) -> int | None:
    """As `parse_size_bytes`; None stays None."""
    return None if value is None else parse_size_bytes(value)


def format_duration_ms(value_ms: int) -> str:
    """A whole number in the largest unit that fits, such as `90s`; `parse_duration_ms` reads it back as `value_ms`."""
    return _whole(value_ms, _MS, parse_duration_ms) or f"{value_ms}ms"


def format_duration_s(value_s: float) -> str:
    """A whole number in the largest unit that fits, or seconds with a fraction; `parse_duration_s` reads it back."""
    return _whole(value_s, _MS, parse_duration_s) or f"{Decimal(repr(value_s)):f}s"


def format_size_bytes(value_bytes: int) -> str:
    """A whole number in the largest unit that fits, such as `256MB`; `parse_size_bytes` reads it back."""
    return _whole(value_bytes, _BYTES, parse_size_bytes).upper() or f"{value_bytes}B"


def _whole(value: float, units: Mapping[str, float], parse: Callable[[object], float]) -> str:
    """`value` as a whole number of the largest unit that `parse` reads back exactly; empty if there is none."""
    if value == 0:
        return "0"
    for unit in sorted(units, key=lambda name: -units[name]):
        one = parse(f"1{unit}")
        count = round(value / one) if one else 0
        if count and parse(f"{count}{unit}") == value:
            return f"{count}{unit}"
    return ""


# In a model: `commit_interval_ms: DurationMs = Field("10ms", alias="commit_interval")`;
# files and the command line use the alias with a unit, code uses the unit-named field.
DurationMs = Annotated[int, BeforeValidator(parse_duration_ms)]
DurationS = Annotated[float, BeforeValidator(parse_duration_s)]
SizeBytes = Annotated[int, BeforeValidator(parse_size_bytes)]

# Where None means that a wider setting counts.
OptionalDurationMs = Annotated[int | None, BeforeValidator(parse_optional_duration_ms)]
OptionalSizeBytes = Annotated[int | None, BeforeValidator(parse_optional_size_bytes)]
