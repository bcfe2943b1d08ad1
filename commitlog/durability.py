"""How safe an acknowledged record is, and what stands between the acknowledgement and the disk.

Three levels, from weak to strict:

    os        acknowledged when the commit is written: in the page cache, synced with the next checkpoint at the latest
    interval  the same, synced at the latest `log.sync_interval` after it
    fsync     acknowledged when the operating system has reported it synced

A process that is killed loses nothing at any level, because the page cache outlives it. A power cut may take what was
acknowledged and not yet synced, and nothing else: a sync covers everything written before it. A record's level is its
topic's if that has one, else its listener's, else the log's; a commit is as strict as its strictest record.

Readers see what is acknowledged, so at a weaker level they may have seen records that a power cut then takes, and the
offsets of those must never mean something else. Hence three rules. The first weaker acknowledgement of a run waits for
a checkpoint that says so. Never more than `log.unsynced_records` records are unsynced: the commit that would exceed it
syncs. And a start that follows such a run, when it was not closed in order, goes on that many offsets further in
every partition (docs/decisions/0012-weaker-durability.md).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import IntEnum
from typing import Literal

DurabilityName = Literal["fsync", "interval", "os"]
"""A level as settings write it."""


class Durability(IntEnum):
    """A level; the larger is the stricter."""

    OS = 0
    INTERVAL = 1
    FSYNC = 2

    @property
    def label(self) -> DurabilityName:
        """As settings write it."""
        return _LABELS[self]

    @classmethod
    def named(cls, name: DurabilityName) -> Durability:
        """The level that settings name."""
        return cls[name.upper()]


_LABELS: Mapping[Durability, DurabilityName] = {
    Durability.OS: "os",
    Durability.INTERVAL: "interval",
    Durability.FSYNC: "fsync",
}


def strictest(asked: Durability, topics: Collection[Durability | None]) -> Durability:
    """The level of a commit: `asked` by those who appended, `topics` of the partitions that it has records of.

    A topic without a level of its own leaves it to who appended. Where every topic has one, what was asked does not
    count; where only some have, it counts whole, since nobody notes who appended where: stricter than need be at times.
    """
    own = [level for level in topics if level is not None]
    return max(own) if own and len(own) == len(topics) else max([asked, *own])


def weaker_levels(
    log: DurabilityName,
    listeners: Mapping[str, DurabilityName | None],
    topics: Iterable[tuple[str, DurabilityName | None]],
) -> Mapping[str, DurabilityName]:
    """Where settings ask for less than `fsync`, in words for people: `mqtt`, `topic telemetry`; empty: nowhere."""
    levels: dict[str, DurabilityName] = {"log": log}
    levels |= {name: own or log for name, own in listeners.items()}
    levels |= {f"topic {name}": own for name, own in topics if own is not None}
    return {where: level for where, level in levels.items() if level != Durability.FSYNC.label}


class Unsynced:
    """What is acknowledged but not yet known to be on disk. Kept on the event loop, once per commit."""

    def __init__(self) -> None:
        self.records = 0
        self.size_bytes = 0
        self._since_s = 0.0

    def add(self, records: int, size_bytes: int, since_s: float) -> None:
        """A commit was written without a sync; its oldest record has waited since `since_s` (the loop's time)."""
        if not self.records:
            self._since_s = since_s
        self.records += records
        self.size_bytes += size_bytes

    def clear(self) -> None:
        """Everything written so far is synced."""
        self.records = self.size_bytes = 0

    def age_s(self, now_s: float) -> float:
        """How long ago the oldest of it was appended; 0 when there is none."""
        return max(0.0, now_s - self._since_s) if self.records else 0.0
