"""Settings of the log (`[log]`) and of single topics (`[[topics]]`)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from core.settings import Section, quantity
from core.units import DurationMs, SizeBytes


class LogSettings(Section):
    """How the commit log commits, lays out and bounds what it keeps."""

    partitions: int = Field(8, ge=1, le=256, description="Partitions of a topic made without a count of its own.")
    commit_interval_ms: DurationMs = quantity(
        "10ms",
        alias="commit_interval",
        ge=0,
        le=10_000,
        description="Longest time an append waits for others to share its disk flush.",
    )
    commit_records: int = Field(
        64,
        ge=1,
        le=1_000_000,
        description="Waiting records that start a commit before the interval has passed.",
    )
    commit_bytes: SizeBytes = quantity(
        "256KB", ge=1, description="Waiting bytes that start a commit before the interval has passed."
    )
    pending_bytes: SizeBytes = quantity(
        "16MB",
        ge=1 << 20,
        le=64 << 20,
        description="Appended but not yet committed bytes at which listeners stop reading: bounds memory.",
    )
    journal_size_bytes: SizeBytes = quantity(
        "64MB",
        alias="journal_size",
        ge=4 << 20,
        le=4 << 30,
        description="Size of the preallocated journal; at least four times pending_bytes and checkpoint_bytes.",
    )
    checkpoint_bytes: SizeBytes = quantity(
        "16MB",
        ge=1 << 20,
        le=64 << 20,
        description="Journal bytes after which segments are synced and the journal space is reused.",
    )
    checkpoint_interval_ms: DurationMs = quantity(
        "10s",
        alias="checkpoint_interval",
        ge=100,
        description="Longest time between checkpoints while data arrives; bounds the time a restart takes.",
    )
    segment_size_bytes: SizeBytes = quantity(
        "256MB",
        alias="segment_size",
        ge=1 << 16,
        le=1 << 30,
        description="A segment file is closed at this size.",
    )
    flush_interval_ms: DurationMs = quantity(
        "100ms",
        alias="flush_interval",
        ge=1,
        description="How long committed records wait for company before their batch is written to the segment.",
    )
    flush_bytes: SizeBytes = quantity(
        "64KB", ge=1, description="Committed bytes of one partition that are written to the segment at once."
    )
    reserve_bytes: SizeBytes = quantity(
        "48MB",
        alias="reserve",
        ge=1 << 20,
        le=4 << 30,
        description="Disk space the log keeps for itself in a file, to finish what was accepted when the disk is full.",
    )
    full_mark_bytes: SizeBytes = quantity(
        "128MB",
        alias="full_mark",
        le=1 << 40,
        description="Free disk space below which readings are refused; exports and the box's own events go on in it. "
        "Readings are accepted again when this and the reserve are free.",
    )
    max_topics: int = Field(
        64,
        ge=4,
        le=1024,
        description="Topics the log will hold; times partitions bounds open files and memory.",
    )

    @model_validator(mode="after")
    def _journal_has_room(self) -> Self:
        """A commit, its wrap at the journal's end and what no checkpoint covers yet have to fit at once."""
        need = 4 * max(self.pending_bytes, self.checkpoint_bytes)
        if self.journal_size_bytes < need:
            raise ValueError(
                f"journal_size must be at least 4 x pending_bytes and 4 x checkpoint_bytes ({need >> 20} MB here)"
            )
        return self


class TopicSettings(Section):
    """What one topic of the log does differently (`[[topics]]`)."""

    name: str = Field(pattern=r"^[a-zA-Z0-9._-]{1,249}$", description="The topic's name.")
    partitions: int | None = Field(None, ge=1, le=256, description="Partition count when the topic is first made.")
    decoder: Literal["json", "raw"] | None = Field(
        None,
        description="How exports read payloads: `json` rows, or `raw` bytes. Default: json, and raw for `mqtt`.",
    )
    timestamp_field: str = Field("ts", description="Payload field that carries the device's own time.")
