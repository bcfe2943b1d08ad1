"""Settings of rolling, expiry and the disk (`[retention]`)."""

from __future__ import annotations

from pydantic import Field

from core.settings import Section, quantity
from core.units import DurationMs, SizeBytes


class RetentionSettings(Section):
    """When windows close, and when what they hold leaves the log, or the lake."""

    roll_interval_ms: DurationMs = quantity(
        "1h",
        alias="roll_interval",
        ge=1000,
        description="Windows close at wall-clock multiples of this interval (UTC), put off by `roll_jitter`.",
    )
    roll_jitter_ms: DurationMs = quantity(
        "30s",
        alias="roll_jitter",
        ge=0,
        description="Windows close up to this much after the multiple, at most a tenth of the interval; how much is "
        "fixed for each data directory, so that not all boxes of a fleet export in the same second.",
    )
    roll_bytes: SizeBytes = quantity(
        "1GB",
        ge=1 << 20,
        description="A window closes early when a topic has grown by this much since the last, or by a quarter of its "
        "`max_bytes`, or an eighth of `disk_budget`.",
    )
    max_age_ms: DurationMs = quantity(
        "7d",
        alias="max_age",
        ge=0,
        description="Windows that ended longer ago leave the log, oldest first, when every sink has exported them; "
        "0: never. Nothing does while the clock cannot be trusted.",
    )
    max_bytes: SizeBytes = quantity(
        "0",
        ge=0,
        description="While a topic takes more than this in the log, its oldest exported windows leave it; 0: no limit.",
    )
    allow_unexported_loss: bool = Field(
        False,
        description="Let windows expire that a sink has not exported: their readings are then lost.",
    )
    disk_budget_bytes: SizeBytes = quantity(
        "0",
        alias="disk_budget",
        ge=0,
        description="What log and lake may take together; 0: their file system is the limit.",
    )
    high_mark_percent: int = Field(
        85,
        ge=2,
        le=99,
        description="When more than this part of `disk_budget`, or of the file system, is in use, the oldest exported "
        "windows of whichever topic leave the log. On a file system at the latest when a quarter more is free than "
        "`log.full_mark` and `log.reserve` ask for.",
    )
    low_mark_percent: int = Field(75, ge=1, le=98, description="They go until less than this part is in use.")
    lake_max_age_ms: DurationMs = quantity(
        "0",
        alias="lake_max_age",
        ge=0,
        description="Files of the lake whose rows are all of days that ended longer ago are deleted; 0: never.",
    )
    lake_max_bytes: SizeBytes = quantity(
        "0",
        ge=0,
        description="While the lake takes more than this, its oldest files are deleted; 0: no limit.",
    )
