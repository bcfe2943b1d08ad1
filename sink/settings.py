"""Settings of exporting (`[sink]`)."""

from __future__ import annotations

from pydantic import Field

from core.settings import Section, quantity
from core.units import DurationS


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
