"""Settings of rolling (`[retention]`)."""

from __future__ import annotations

from core.settings import Section, quantity
from core.units import DurationMs, SizeBytes


class RetentionSettings(Section):
    """When windows close."""

    roll_interval_ms: DurationMs = quantity(
        "1h",
        alias="roll_interval",
        ge=1000,
        description="Windows close at wall-clock multiples of this interval (UTC).",
    )
    roll_bytes: SizeBytes = quantity(
        "1GB",
        ge=1 << 20,
        description="A window closes early when a topic has grown by this much since the last.",
    )
