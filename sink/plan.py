"""The plan of a window: every decision that its files rest on, made once, kept on disk, repeated by every retry.

`<data>/lake/.plans/<topic>-<window number, 20 digits>.json`. A file's rows are all rows of its kind and filing date
whose (partition, offset) lies from its start to before its end: which file a record belongs to follows from the plan
and the record alone. The plan also fixes what must not change between attempts though settings or the release
might: the decoder, the timestamp field, the columns, the software version in the files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Literal

import msgspec

from commitlog.base import ClosedWindow
from sink.base import Missing
from sink.columns import Column
from sink.records import Cursor
from sink.times import compact_utc

PLAN_VERSION: Final = 1
_LONGEST_TOPIC: Final = 220

FileKind = Literal["rows", "quarantine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFile:
    """One file: which rows, where to, and how many rows and payload bytes are expected."""

    path: str
    kind: FileKind
    date: str
    part: int
    start: Cursor
    end: Cursor
    rows: int
    payload_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What becomes of one window. `dates` are the event dates that have files of their own."""

    version: int
    topic: str
    topic_id: str
    number: int
    start_ms: int
    end_ms: int
    offsets: Mapping[str, Cursor]
    decoder: str
    timestamp_field: str
    software: str
    columns: tuple[Column, ...]
    overflowed: bool
    dates: tuple[str, ...]
    files: tuple[PlannedFile, ...]
    records: int
    quarantined: Mapping[str, int]
    missing: tuple[Missing, ...]

    def is_for(self, window: ClosedWindow) -> bool:
        """Whether this plan was made for exactly this window."""
        return (self.topic_id, self.number, self.offsets) == (
            window.topic_id,
            window.number,
            offsets_by_name(window),
        )


def offsets_by_name(window: ClosedWindow) -> dict[str, Cursor]:
    """A window's offset vector with its partitions as text, in order, as JSON has it."""
    return {str(partition): window.offsets[partition] for partition in sorted(window.offsets)}


def to_json(plan: Plan) -> str:
    """The plan as it stands on disk."""
    return msgspec.json.format(msgspec.json.encode(plan), indent=1).decode()


def from_json(text: bytes) -> Plan | None:
    """A plan read back, or None if it is not one that this release understands."""
    try:
        plan = msgspec.json.decode(text, type=Plan)
    except msgspec.DecodeError:
        return None
    return plan if plan.version == PLAN_VERSION else None


def plan_name(topic: str, number: int) -> str:
    """File name of a window's plan; a topic too long for a file name (255 bytes) is cut and told apart by a hash."""
    if len(topic) > _LONGEST_TOPIC:
        topic = f"{topic[: _LONGEST_TOPIC - 17]}~{hashlib.sha256(topic.encode()).hexdigest()[:16]}"
    return f"{topic}-{number:020}.json"


def topic_folder(topic: str) -> str:
    """A topic's folder in the lake: its name; a leading dot or underscore would hide it and becomes `%2E`, `%5F`."""
    if topic[0] in "._":
        return f"%{ord(topic[0]):02X}{topic[1:]}"
    return topic


def file_path(window: ClosedWindow, kind: FileKind, date: str, part: int) -> str:
    """Where a file is published, relative to the lake."""
    vector = msgspec.json.encode([window.topic_id, window.number, offsets_by_name(window), kind, date, part])
    name = f"{compact_utc(window.start_ms)}-{hashlib.sha256(vector).hexdigest()[:16]}.parquet"
    root = PurePosixPath("_quarantine") if kind == "quarantine" else PurePosixPath()
    return str(root / topic_folder(window.topic) / f"date={date}" / name)
