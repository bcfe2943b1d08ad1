"""Settings of exporting (`[sink]`)."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from core.settings import Section, quantity
from core.units import DurationS

MAX_SKEW_S: Final = 130 * 366 * 86_400
"""From 1970 to 2099: with it, every time that can be read is believed."""


class SinkSettings(Section):
    """The Parquet sink."""

    enabled: bool = Field(True, description="Export closed windows to Parquet.")
    max_rows_per_file: int = Field(
        1_000_000,
        ge=1000,
        description="A window with more rows becomes several files: bounds the sink's memory.",
    )
    retry_max_s: DurationS = quantity(
        "30s", alias="retry_max", gt=0, description="Longest pause between attempts while exporting fails."
    )
    max_clock_ahead_s: DurationS = quantity(
        "1d",
        alias="max_clock_ahead",
        ge=0,
        le=MAX_SKEW_S,
        description="How far a device's time may be ahead of the time received. Beyond it the time received is used, "
        "and the device's stays beside it as `payload_ts`.",
    )
    max_clock_behind_s: DurationS = quantity(
        "400d",
        alias="max_clock_behind",
        ge=0,
        le=MAX_SKEW_S,
        description="How far a device's time may be behind the time received (readings it had to keep for a while). "
        "Beyond it the time received is used, and the device's stays beside it as `payload_ts`.",
    )
