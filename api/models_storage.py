"""The shapes of `/api/v1/storage`."""

from __future__ import annotations

from datetime import datetime

from pydantic import ConfigDict, Field

from api import examples
from api.examples import example
from api.models import Shape


class Disk(Shape):
    """What is in use of the box's disk. Without a budget `used_bytes` and the marks are of the file system."""

    state: str = Field(
        description="`ok`; `over` the high mark: the oldest exported windows leave the log; `stuck`: over it, and "
        "nothing in the log may go."
    )
    budget_bytes: int = Field(description="What log and lake may take together; 0: the file system is the limit.")
    total_bytes: int = Field(description="The file system's size.")
    free_bytes: int = Field(description="What is free on it.")
    log_bytes: int
    lake_bytes: int
    used_bytes: int
    limit_bytes: int = Field(description="The most that may be in use.")
    high_bytes: int = Field(description="From where on windows leave the log.")
    low_bytes: int = Field(description="Until where they do.")
    forecast: str = Field(description="`growing`, `steady`, or `unknown` until an hour was seen.")
    growth_bytes_per_day: float | None = Field(description="By the last day; null: not yet known.")
    days_left: float | None = Field(description="Until the limit, if it goes on like this; null: it does not grow.")


class StoredTopic(Shape):
    """What a topic takes, and how long it is kept. 0 for a limit: there is none."""

    topic: str
    size_bytes: int
    windows: int = Field(description="Closed windows in the log.")
    oldest_window: int | None
    oldest: datetime | None = Field(description="When the oldest of them began.")
    max_age_ms: int
    max_bytes: int
    not_exported: dict[str, int] = Field(description="Closed windows that are not exported, by sink.")


class HeldWindow(Shape):
    """The oldest window of a topic that is due and stays, since these sinks have not exported it."""

    topic: str
    window: int
    reason: str = Field(description="Why it is due.", examples=["older than max_age"])
    sinks: list[str]


class ExpiredWindows(Shape):
    """Windows that left the log."""

    topic: str
    first_window: int
    last_window: int
    offsets: int = Field(description="Offsets that went with them.")
    size_bytes: int
    reason: str = Field(examples=["topic over max_bytes"])
    unexported: list[str] = Field(description="Sinks that had not exported them; mostly none.")
    at: datetime


class StorageState(Shape):
    """What is kept, what has gone lately, and what cannot go, as of a few seconds ago."""

    model_config = ConfigDict(json_schema_extra=example(examples.STORAGE))

    as_of: datetime = Field(description="When it was looked at last.")
    clock: str = Field(description="How far the clock is trusted; nothing goes by age unless it is `ok`.")
    disk: Disk | None = Field(description="Null in the first seconds after a start.")
    topics: list[StoredTopic]
    held: list[HeldWindow]
    expired: list[ExpiredWindows] = Field(description="The last 50 since the start, newest first.")
    lake_retention: bool = Field(description="Whether files leave the lake.")
    lake_files_left_alone: int = Field(description="Old files of the lake that do not say which offsets are theirs.")
