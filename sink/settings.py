"""Settings of exporting (`[sink]`)."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from core.settings import Section, quantity
from core.units import DurationMs, DurationS, SizeBytes

MAX_SKEW_S: Final = 36_500 * 86_400
"""A century: who asks for more wants every time believed, and this does it."""


class SinkSettings(Section):
    """The Parquet sink."""

    enabled: bool = Field(True, description="Export closed windows to Parquet.")
    memory_bytes: SizeBytes = quantity(
        "128MB",
        alias="memory",
        ge=16 << 20,
        le=64 << 30,
        description="Rows that are held in memory while a window is read. A date with more of them becomes several "
        "files; the process needs about three times as much, and 100 MB.",
    )
    target_file_bytes: SizeBytes = quantity(
        "128MB",
        alias="target_file_size",
        ge=1 << 20,
        description="About the size at which a file is ended and the next one begun.",
    )
    small_window_records: int = Field(
        1_000,
        ge=0,
        description="A window with fewer records is held back and published with the next one.",
    )
    hold_back_ms: DurationMs = quantity(
        "6h", alias="hold_back", ge=0, description="Longest time that a small window is held back; 0: not at all."
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
