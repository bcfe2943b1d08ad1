"""The shapes of `/api/v1/exports`."""

from __future__ import annotations

from datetime import datetime

from pydantic import ConfigDict, Field

from api import examples
from api.examples import example
from api.models import Shape


class ExportFile(Shape):
    """A published Parquet file; `path` is relative to the lake."""

    path: str
    rows: int
    size_bytes: int
    date: str


class MissingRange(Shape):
    """Offsets (first <= offset < next) of a window that are in no file, and why."""

    partition: int
    first: int
    next: int
    reason: str


class Export(Shape):
    """An exported window."""

    topic: str
    window: int
    start: datetime
    end: datetime
    exported_at: datetime
    files: list[ExportFile]
    records: int
    rows: int
    quarantined: int
    lost: list[MissingRange] = Field(description="Offsets whose records the log no longer has.")
    left_out: list[MissingRange] = Field(description="Offsets that never belonged to a record: recovery left them out.")
    clashes: dict[str, int] = Field(description="Values that went to a side column, by column.")


class SinkError(Shape):
    """The last error there was, which may be over."""

    event: str = Field(description="What failed.", examples=["export failed"])
    code: str = Field(description="The label `kind` of `headrace_sink_failures_total`.", examples=["storage"])
    what: str
    where: str
    mend: str
    at: datetime


class SinkAttempts(Shape):
    """What came of the last attempts."""

    failures: int = Field(description="Failures in a row; 0: the last attempt went well.")
    failing_since: datetime | None = Field(description="When the first of them was; null: nothing fails.")
    next_attempt: datetime | None = Field(description="When it is tried again; null: nothing fails.")
    last_error: SinkError | None = Field(description="Null: there was none since the sink's process started.")


class SinkTopic(SinkAttempts):
    """What a topic has waiting, and how its exports go."""

    topic: str
    waiting_windows: int | None = Field(
        description="Closed windows that are not exported, held ones included; null: they could not be counted."
    )
    held_windows: int | None = Field(description="Small ones among them, held back to be published with the next.")
    oldest_waiting: datetime | None = Field(
        description="End of the oldest that is neither exported nor held back; null: there is none."
    )
    lag_s: float | None = Field(
        description="Seconds since then, 0 where there is none; null: the sink is silent, or could not count."
    )
    counted_at: datetime | None = Field(description="When its windows were counted: between two exports.")


class SinkReplay(SinkAttempts):
    """A replay that fails, of the quarantine file at `path` (relative to the lake)."""

    path: str


class SinkWork(Shape):
    """The windows that are being exported, from `first_window` to `window`."""

    topic: str
    first_window: int
    window: int
    since: datetime


class SinkStanding(SinkAttempts):
    """How the sink stood at `as_of`. Its own failures are those that keep it from exporting anything."""

    model_config = ConfigDict(json_schema_extra=example(examples.SINK))

    as_of: datetime
    stale: bool = Field(description="Whether the sink has been silent for a minute: it may not be there any more.")
    state: str = Field(
        description="`starting`; `cannot-start`: `last_error` says why; `idle`; `exporting`: `work` says what."
    )
    work: SinkWork | None
    lag_s: float | None = Field(
        description="The largest lag of a topic; null: not known of one, or the sink is silent."
    )
    topics: list[SinkTopic] = Field(description="By name, at most 500: those that fail or lag before others.")
    topics_total: int
    replays: list[SinkReplay] = Field(description="Replays of quarantine that fail, at most 20.")


class ExportList(Shape):
    """Exported windows, newest first."""

    model_config = ConfigDict(json_schema_extra=example(examples.EXPORT_LIST))

    exports: list[Export]
    lake: str = Field(description="Directory of the lake on the box.")
    sink: SinkStanding | None = Field(
        description="How the sink stands; null: exporting is switched off, or the sink has not reported yet."
    )
