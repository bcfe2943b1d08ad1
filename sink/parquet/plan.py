"""The plan of a unit of export: which finished files become visible, and under which names. Once it stands, they do.

`<data>/lake/.plans/<topic>-<window number, 20 digits>.json`. When a plan is made its files lie in `.tmp/`, whole and
synced, and nothing of the unit is visible; from then on they are only renamed. A retry repeats the plan: what stands
under its final name stays as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final, Literal

import msgspec

from sink.base import ExportWindow, Missing
from sink.payload.times import compact_utc

PLAN_VERSION: Final = 2
_LONGEST_TOPIC: Final = 220
MAX_DOUBLES: Final = 2_000  # fields remembered of a topic, mostly some 60 KB; twice as many as a window may have

FileKind = Literal["rows", "quarantine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFile:
    """One file: where it becomes visible, its name in `.tmp`, and what it is known to hold."""

    path: str
    staged: str
    kind: FileKind
    date: str
    part: int
    rows: int = 0
    records: int = 0
    checksum: str = ""
    size_bytes: int = 0
    crc32c: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What becomes of one unit of export. Files are published in their order."""

    version: int = PLAN_VERSION
    topic: str
    topic_id: str
    first_number: int
    number: int
    start_ms: int
    end_ms: int
    offsets: Mapping[str, tuple[int, int]]
    decoder: str
    schema: str
    software: str
    files: tuple[PlannedFile, ...]
    records: int
    rows: int
    quarantined: Mapping[str, int]
    clashes: Mapping[str, int]
    missing: tuple[Missing, ...]
    doubles: tuple[str, ...] = ()
    """Fields of the topic that are columns of doubles from now on, whatever a later window has of them."""
    replays: str = ""
    """The quarantine file, relative to the lake, that this plan's files replace; empty for the export of a window."""
    before: Mapping[str, int] = field(default_factory=dict)
    """That file's rows by reason."""

    def is_for(self, window: ExportWindow) -> bool:
        """Whether this plan was made for exactly these offsets."""
        return (self.topic_id, self.first_number, self.number, self.offsets) == (
            window.topic_id,
            window.first_number,
            window.number,
            window.offsets_by_name,
        )


def window_of(plan: Plan) -> ExportWindow:
    """What a plan is a plan of."""
    return ExportWindow(
        topic=plan.topic,
        topic_id=plan.topic_id,
        first_number=plan.first_number,
        number=plan.number,
        start_ms=plan.start_ms,
        end_ms=plan.end_ms,
        offsets={int(partition): pair for partition, pair in plan.offsets.items()},
    )


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


class AnyFile(msgspec.Struct):
    """A file of any release's plan."""

    path: str


class AnyPlan(msgspec.Struct):
    """What the plans of all releases say."""

    topic_id: str
    number: int
    files: list[AnyFile]
    replays: str = ""


def any_plan(text: bytes) -> AnyPlan | None:
    """A plan of any release; None if it is no plan at all."""
    try:
        return msgspec.json.decode(text, type=AnyPlan)
    except msgspec.DecodeError:
        return None


def plan_name(topic: str, number: int) -> str:
    """File name of a window's plan; a topic too long for a file name (255 bytes) is cut and told apart by a hash."""
    if len(topic) > _LONGEST_TOPIC:
        topic = f"{topic[: _LONGEST_TOPIC - 17]}~{hashlib.sha256(topic.encode()).hexdigest()[:16]}"
    return f"{topic}-{number:020}.json"


def replay_plan_name(path: str) -> str:
    """File name of the plan of a quarantine file's replay. No topic's plan is called so: 16 digits stand at its end."""
    return f"replay-{hashlib.sha256(path.encode()).hexdigest()[:16]}.json"


def topic_folder(topic: str) -> str:
    """A topic's folder in the lake: its name; a leading dot or underscore would hide it and becomes `%2E`, `%5F`."""
    if topic[0] in "._":
        return f"%{ord(topic[0]):02X}{topic[1:]}"
    return topic


def file_path(window: ExportWindow, kind: FileKind, date: str, part: int, replays: str = "") -> str:
    """Where a file is published, relative to the lake."""
    facts = [window.topic_id, window.number, window.offsets_by_name, kind, date, part]
    vector = msgspec.json.encode([*facts, replays] if replays else facts)
    name = f"{compact_utc(window.start_ms)}-{hashlib.sha256(vector).hexdigest()[:16]}.parquet"
    root = PurePosixPath("_quarantine") if kind == "quarantine" else PurePosixPath()
    return str(root / topic_folder(window.topic) / f"date={date}" / name)


def doubles_so_far(found: Collection[str], earlier: Collection[str]) -> tuple[str, ...]:
    """The fields of doubles so far: a column that was whole numbers in one file and not in the next would not fit
    together for many readers.
    """
    return tuple(sorted({*found, *sorted(earlier)[: MAX_DOUBLES - len(found)]}))
