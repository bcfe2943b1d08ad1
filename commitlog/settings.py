"""Settings of the log (`[log]`) and of single topics (`[[topics]]`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from pydantic import Field, model_validator

from commitlog.durability import DurabilityName
from core.settings import Section, quantity
from core.units import DurationMs, OptionalDurationMs, OptionalSizeBytes, SizeBytes

PROFILES: Final[Mapping[str, Mapping[str, str | int]]] = {
    "ssd": {"commit_interval": "10ms", "commit_records": 64, "flush_interval": "100ms", "checkpoint_interval": "10s"},
    "hdd": {"commit_interval": "20ms", "commit_records": 256, "flush_interval": "500ms", "checkpoint_interval": "30s"},
    "sd": {"commit_interval": "100ms", "commit_records": 1000, "flush_interval": "1s", "checkpoint_interval": "60s"},
}
"""What a profile sets, unless it is given. The fields below have the values of `ssd`, the default."""

MAX_COMMIT_BYTES: Final = 64 << 20  # as much as pending_bytes may be; half of what readers take of one batch

MAX_DECLARED_FIELDS: Final = 1000
"""Of a topic: as many as a file has columns of its own."""


class LogSettings(Section):
    """How the commit log commits, lays out and bounds what it keeps."""

    profile: Literal["ssd", "hdd", "sd"] = Field(
        "ssd",
        description="Kind of disk. Where they are not given, `commit_interval`, `commit_records`, `flush_interval` and "
        "`checkpoint_interval` are "
        + "; ".join(f"`{name}`: {', '.join(map(str, values.values()))}" for name, values in PROFILES.items())
        + " (docs/performance.md says why).",
    )
    durability: DurabilityName = Field(
        "fsync",
        description="When a record is acknowledged: `fsync` once it is synced to disk, `interval` once it is written, "
        "synced within `sync_interval`, `os` once it is written, synced with the next checkpoint. A killed process "
        "loses nothing at any level; a power cut may take what was acknowledged and not yet synced.",
    )
    sync_interval_ms: DurationMs = quantity(
        "1s",
        alias="sync_interval",
        ge=10,
        le=600_000,
        description="Longest time that what is acknowledged at durability `interval` stays unsynced.",
    )
    unsynced_records: int = Field(
        1_000_000,
        ge=1,
        le=100_000_000,
        description="Acknowledged records that may be unsynced at once; the commit that would exceed it syncs. "
        "After an unclean end of a run with a durability below `fsync`, every partition goes on that many offsets "
        "further.",
    )
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
    message_max_bytes: SizeBytes = quantity(
        "1MB",
        ge=1024,
        le=32 << 20,
        description="Largest record batch taken from a Kafka client; never more than half of pending_bytes.",
    )
    max_topics: int = Field(
        64,
        ge=4,
        le=1024,
        description="Topics the log will hold; times partitions bounds open files and memory.",
    )

    @property
    def commit_limit_bytes(self) -> int:
        """The longest journal entry: it always gets room (`commitlog.open_commit` says why), and readers take it."""
        return min((self.journal_size_bytes - self.checkpoint_bytes) // 2, MAX_COMMIT_BYTES)

    @property
    def record_limit_bytes(self) -> int:
        """The largest packet or line that may become a record: a quarter of a commit is left to what comes with it."""
        return self.commit_limit_bytes * 3 // 4

    @property
    def batch_limit_bytes(self) -> int:
        """Stored size of a batch from outside: Kafka's limits leave out the 12 bytes before what its length counts."""
        return min(self.message_max_bytes + 12, self.pending_bytes // 2)

    @model_validator(mode="before")
    @classmethod
    def _by_profile(cls, given: Any) -> Any:
        """What is given stands before what its profile says, that before the defaults."""
        if not isinstance(given, dict):
            return given
        profile = given.get("profile")
        return {**PROFILES[profile], **given} if isinstance(profile, str) and profile in PROFILES else given

    @model_validator(mode="after")
    def _journal_has_room(self) -> Self:
        """A commit, its wrap at the journal's end and what no checkpoint covers yet have to fit at once."""
        need = 4 * max(self.pending_bytes, self.checkpoint_bytes)
        if self.journal_size_bytes < need:
            raise ValueError(
                f"journal_size must be at least 4 x pending_bytes and 4 x checkpoint_bytes ({need >> 20} MB here)"
            )
        return self


FieldType = Literal[
    "int64",
    "double",
    "string",
    "bool",
    "timestamp",
    "json",
    "list<int64>",
    "list<double>",
    "list<string>",
    "list<bool>",
]
"""Types of declared fields."""
UnknownFields = Literal["keep", "quarantine"]
"""What becomes of a row with a field that is not declared."""


class FieldSettings(Section):
    """One declared field of a topic's payloads (`[[topics.fields]]`): a column of every file, in this order."""

    name: str = Field(
        min_length=1,
        max_length=256,
        description="The field; one of a nested object by its path, such as `motor.temp`.",
    )
    type: FieldType = Field(
        description="What its values are. A row with anything else is quarantined; an integer is taken for a double "
        "that holds it exactly, and a `timestamp` is written as `timestamp_field` is."
    )
    unit: str = Field("", max_length=64, description="Unit of its values, for the files' metadata.")
    description: str = Field("", max_length=1000, description="What it means, for the files' metadata.")
    required: bool = Field(False, description="Quarantine a row in which it is missing or null.")


class TopicSettings(Section):
    """What one topic of the log does differently (`[[topics]]`)."""

    name: str = Field(pattern=r"^[a-zA-Z0-9._-]{1,249}$", description="The topic's name.")
    partitions: int | None = Field(None, ge=1, le=256, description="Partition count when the topic is first made.")
    durability: DurabilityName | None = Field(
        None, description="When records of this topic are acknowledged, whatever their listener says."
    )
    decoder: Literal["json", "raw"] | None = Field(
        None,
        description="How exports read payloads: `json` rows, or `raw` bytes. Default: json, and raw for `mqtt`.",
    )
    timestamp_field: str = Field("ts", description="Payload field that carries the device's own time.")
    sequence_field: str = Field(
        "seq", description="Payload field with a number that counts up by one; the status view finds gaps by it."
    )
    roll_interval_ms: OptionalDurationMs = Field(
        None, alias="roll_interval", ge=1000, description="Instead of `retention.roll_interval`."
    )
    roll_bytes: OptionalSizeBytes = Field(None, ge=1 << 20, description="Instead of `retention.roll_bytes`.")
    max_age_ms: OptionalDurationMs = Field(
        None, alias="max_age", ge=0, description="Instead of `retention.max_age`; 0: never."
    )
    max_bytes: OptionalSizeBytes = Field(None, ge=0, description="Instead of `retention.max_bytes`; 0: no limit.")
    unknown_fields: UnknownFields = Field(
        "keep",
        description="What becomes of a row with a field that is not declared: `keep` gives it a column, `quarantine` "
        "keeps the whole row out.",
    )
    fields: tuple[FieldSettings, ...] = Field(
        (), max_length=MAX_DECLARED_FIELDS, description="Declared fields, in the order of their columns."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicMistake:
    """What is wrong with a topic's declared fields although each setting alone is right; `at` is a path within it."""

    at: tuple[str | int, ...]
    what: str
    mend: str


def topic_mistakes(topic: TopicSettings) -> Iterator[TopicMistake]:
    """Each field is declared once, none inside another, and only where payloads have fields."""
    decoder = topic.decoder or ("raw" if topic.name == "mqtt" else "json")
    if decoder == "raw" and (topic.fields or topic.unknown_fields != "keep"):
        key = "fields" if topic.fields else "unknown_fields"
        mend = f'set decoder = "json", or leave out {key}'
        yield TopicMistake(at=(key,), what="payloads of a raw topic have no fields", mend=mend)
    names = [field.name for field in topic.fields]
    known = set(names)
    for number, name in enumerate(names):
        at = ("fields", number, "name")
        if name in names[:number]:
            yield TopicMistake(at=at, what=f"field {name!r} is declared twice", mend="keep one of them")
        if name == topic.timestamp_field:
            mend = "leave it out: it is the column `ts` of every file"
            yield TopicMistake(at=at, what=f"field {name!r} is the topic's timestamp_field", mend=mend)
        for above in _paths_above(name):
            if above in known:
                yield TopicMistake(
                    at=at,
                    what=f"field {name!r} is inside of field {above!r}, which is declared too",
                    mend=f"declare one of them; {above!r} as json takes all of it",
                )


def _paths_above(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[:length]) for length in range(1, len(parts)))
