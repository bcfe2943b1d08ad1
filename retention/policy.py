"""When windows close: pure decisions, no clock and no I/O."""

from __future__ import annotations


def next_boundary_ms(now_ms: int, interval_ms: int) -> int:
    """The first wall-clock multiple of the interval (UTC) after `now_ms`."""
    return (now_ms // interval_ms + 1) * interval_ms


def roll_reason(*, now_ms: int, boundary_ms: int, grown_bytes: int, roll_bytes: int) -> str | None:
    """Why a topic's window should close now: `time`, `size`, or None if it should not."""
    if now_ms >= boundary_ms:
        return "time"
    if grown_bytes >= roll_bytes:
        return "size"
    return None
