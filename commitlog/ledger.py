"""The ledger: offsets that no reader will find in the log, or in the lake, and why. What `headrace verify` adds up.

State table `ledger`: `<topic id>/<state>/<partition>/<first offset, 20 digits>` -> `{topic, next, reason, at_ms}` says
that first <= offset < next are in that state since `at_ms`. A range that follows the newest one of its topic, state and
partition for the same reason prolongs that row, so the table grows with what happens, not with what is written.

Each state has one writer. The sink: `lost` (in no file: the log no longer had them when their window was exported) and
`left_out` (no record ever had them). Retention: `expired` (deleted from the log) and `dropped` (their rows were deleted
from the lake, by age or size).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final, Literal

from commitlog.base import TableChange

LEDGER_TABLE: Final = "ledger"

LedgerState = Literal["lost", "left_out", "expired", "dropped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One row: offsets of a partition (first <= offset < next), their state, why, and since when."""

    topic: str
    topic_id: str
    partition: int
    first: int
    next: int
    state: LedgerState
    reason: str
    at_ms: int

    @property
    def key(self) -> str:
        """The row's key."""
        return f"{self.topic_id}/{self.state}/{self.partition}/{self.first:020}"

    @property
    def change(self) -> TableChange:
        """The change that enters it."""
        row = {"topic": self.topic, "next": self.next, "reason": self.reason, "at_ms": self.at_ms}
        return TableChange(table=LEDGER_TABLE, key=self.key, value=row)


def entries(rows: Mapping[str, Any]) -> Iterator[LedgerEntry]:
    """The table's rows read back, ordered by topic id, state, partition and offset."""
    found = [_entry(key, row) for key, row in rows.items()]
    yield from sorted(found, key=lambda entry: (entry.topic_id, entry.state, entry.partition, entry.first))


def _entry(key: str, row: Mapping[str, Any]) -> LedgerEntry:
    topic_id, state, partition, first = key.split("/")
    return LedgerEntry(topic_id=topic_id, state=state, partition=int(partition), first=int(first), **row)  # type: ignore[arg-type]


class Ledger:
    """What one writer adds to the ledger. Holds the newest entry of each topic, state and partition, nothing else."""

    def __init__(self, rows: Mapping[str, Any]) -> None:
        self._newest: dict[tuple[str, str, int], LedgerEntry] = {}
        for entry in entries(rows):
            self._newest[entry.topic_id, entry.state, entry.partition] = entry

    def enter(self, entry: LedgerEntry) -> TableChange | None:
        """The change that makes `entry` stand in the ledger; None where all of it stands there already.

        Entries of one topic, state and partition come in the order of their offsets; what overlaps the newest is cut.
        The change has to be committed, or this object thrown away.
        """
        place = (entry.topic_id, entry.state, entry.partition)
        newest = self._newest.get(place)
        if newest is not None:
            if entry.next <= newest.next:
                return None
            entry = replace(entry, first=max(entry.first, newest.next))
            if entry.first == newest.next and entry.reason == newest.reason:
                entry = replace(newest, next=entry.next, at_ms=entry.at_ms)
        self._newest[place] = entry
        return entry.change


def additions(rows: Mapping[str, Any], entry: LedgerEntry) -> Sequence[TableChange]:
    """The changes that make all of `entry` stand in a table that has these rows, whatever of it does already.

    For a writer whose ranges do not come in the order of their offsets. What stands there stays as it is; a piece that
    follows a row of the same reason prolongs that row.
    """
    known = [
        one
        for one in entries(rows)
        if (one.topic_id, one.state, one.partition) == (entry.topic_id, entry.state, entry.partition)
    ]
    changes: list[TableChange] = []
    at = entry.first
    for before, after in pairwise([None, *known, None]):
        if before is not None:
            at = max(at, before.next)
        end = entry.next if after is None else min(entry.next, after.first)
        if at < end:
            changes.append(_added(before, replace(entry, first=at, next=end)).change)
    return changes


def _added(before: LedgerEntry | None, piece: LedgerEntry) -> LedgerEntry:
    if before is not None and (before.next, before.reason) == (piece.first, piece.reason):
        return replace(before, next=piece.next, at_ms=piece.at_ms)
    return piece


def without(rows: Mapping[str, Any], entry: LedgerEntry, states: Collection[LedgerState]) -> Sequence[tuple[int, int]]:
    """The parts of an entry's range, (first, next), that the table has in none of these states."""
    parts: list[tuple[int, int]] = []
    at = entry.first
    taken = [
        (one.first, one.next)
        for one in entries(rows)
        if one.state in states and (one.topic_id, one.partition) == (entry.topic_id, entry.partition)
    ]
    for first, following in sorted(taken):
        if at < min(first, entry.next):
            parts.append((at, min(first, entry.next)))
        at = max(at, following)
    if at < entry.next:
        parts.append((at, entry.next))
    return parts
