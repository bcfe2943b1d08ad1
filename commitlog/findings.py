"""What a check of the log has to say: findings and notes, bounded in number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from core.bounded import Bounded


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be, named once.

    `kind` is a stable word (docs/tools.md lists them), `where` a path below the data directory, with the byte where
    that is known. A damaged or missing range of one partition is first <= offset < next; -1 where none is concerned.
    """

    kind: str
    what: str
    where: str
    topic: str = ""
    partition: int = -1
    first: int = -1
    next: int = -1

    @property
    def identity(self) -> tuple[object, ...]:
        """What two looks at the same damage have in common."""
        return (self.kind, self.where, self.topic, self.partition, self.first)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; without the fields that say nothing."""
        named: dict[str, Any] = {"kind": self.kind, "what": self.what, "where": self.where}
        if self.topic:
            named |= {"topic": self.topic, "partition": self.partition}
        if self.first >= 0:
            named |= {"first": self.first, "next": self.next}
        return named


@dataclass(slots=True)
class Looked:
    """What one look at one part of the log found. A note is no damage: the next start puts it in order by itself."""

    findings: Bounded[Finding] = field(default_factory=Bounded)
    notes: Bounded[Finding] = field(default_factory=Bounded)

    def seen_again(self, again: Looked) -> Looked:
        """What both looks have, in the words of the second."""
        return Looked(_both(self.findings, again.findings), _both(self.notes, again.notes))

    def __bool__(self) -> bool:
        return bool(self.findings.count or self.notes.count)


def _both(first: Bounded[Finding], second: Bounded[Finding]) -> Bounded[Finding]:
    before = {finding.identity for finding in first.kept}
    both = Bounded[Finding]()
    for finding in second.kept:
        if finding.identity in before:
            both.add(finding)
    both.count += min(first.count - len(first.kept), second.count - len(second.kept))
    return both


@dataclass(slots=True, kw_only=True)
class CheckReport:
    """The outcome of a check, and how much it looked at."""

    live: bool = False
    found: Looked = field(default_factory=Looked)
    topics: int = 0
    partitions: int = 0
    segments: int = 0
    batches: int = 0
    records: int = 0
    segment_bytes: int = 0
    index_entries: int = 0
    journal_entries: int = 0
    tables: int = 0
    windows: int = 0

    @property
    def clean(self) -> bool:
        """Whether nothing was found. Notes do not count."""
        return not self.found.findings.count

    def take(self, looked: Looked) -> None:
        """Add what a look found."""
        self.found.findings.take(looked.findings)
        self.found.notes.take(looked.notes)


def in_words(first: int, following: int) -> str:
    """A range of offsets, first <= offset < following."""
    if following - first <= 1:
        return f"offset {first}" if following > first else "no offset that is known"
    return f"offsets {first} to {following - 1}"


def widen_damage(looked: Looked, first: int, following: int) -> bool:
    """Give offsets missing right behind damaged bytes to that finding: it is one damage. False where it is not."""
    findings = looked.findings.kept
    if not findings or findings[-1].kind != "batch-damaged" or findings[-1].next != first:
        return False
    last = findings[-1]
    what = f"{last.what.rsplit(': ', 1)[0]}: {in_words(last.first, following)}"
    findings[-1] = replace(last, what=what, next=following)
    return True


Progress = Callable[[int, int], None]
"""Called now and then with bytes done and bytes in all."""
