"""What `headrace verify` has to say: findings, notes, and how much was looked at."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from core.bounded import Bounded

RESTORE: Final = "put the file back from a copy; otherwise its rows are lost to readers of the lake"
REPORT: Final = "keep the directory as it is, and report it: this is a defect"


def in_words(first: int, following: int) -> str:
    """A range of offsets, first <= offset < following."""
    return f"offset {first}" if following - first == 1 else f"offsets {first} to {following - 1}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be.

    `kind` is a stable word (docs/verify.md lists them), `where` a path below the data directory, or a state table.
    A range of one partition is first <= offset < next; -1 where none is concerned.
    """

    kind: str
    what: str
    where: str
    mend: str = ""
    topic: str = ""
    partition: int = -1
    first: int = -1
    next: int = -1

    @property
    def identity(self) -> tuple[object, ...]:
        """What two looks at the same trouble have in common."""
        return (self.kind, self.where, self.topic, self.partition, self.first, self.next)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; without the fields that say nothing."""
        named: dict[str, Any] = {"kind": self.kind, "what": self.what, "where": self.where}
        if self.mend:
            named["mend"] = self.mend
        if self.topic:
            named["topic"] = self.topic
        if self.partition >= 0:
            named |= {"partition": self.partition, "first": self.first, "next": self.next}
        return named


@dataclass(slots=True)
class Findings(Bounded[Finding]):
    """What one look found, bounded in number."""

    def seen_again(self, again: Findings) -> Findings:
        """What both have, in the words of the second; what neither kept counts as often as both counted it."""
        before = {finding.identity for finding in self.kept}
        both = Findings()
        for finding in again.kept:
            if finding.identity in before or self.count > len(self.kept):
                both.add(finding)
        both.count += min(self.count - len(self.kept), again.count - len(again.kept))
        return both


@dataclass(slots=True, kw_only=True)
class TopicReport:
    """One topic, or one topic id of that name. `numbers` are counts by name, in the order of `NUMBERS`."""

    topic: str
    topic_id: str
    findings: Findings = field(default_factory=Findings)
    notes: Findings = field(default_factory=Findings)
    numbers: Counter[str] = field(default_factory=Counter)

    def find(self, kind: str, what: str, where: str, mend: str = "", **range_: int) -> None:
        """Enter a finding; `range_` is partition, first and next."""
        self.findings.add(Finding(kind=kind, what=what, where=where, mend=mend, topic=self.topic, **range_))

    def note(self, kind: str, what: str, where: str) -> None:
        """Enter a note."""
        self.notes.add(Finding(kind=kind, what=what, where=where, topic=self.topic))


NUMBERS: Final = (
    "units",
    "files",
    "bytes",
    "rows",
    "quarantined",
    "committed",
    "in_files",
    "lost",
    "left_out",
    "dropped",
    "compared",
    "not_compared",
    "files_unpublished",
)
"""What is counted of a topic: exports, their files, bytes and rows, those of quarantine; offsets: committed, of which
in files, lost, left out, dropped; rows compared with the log, offsets that could not be; files not committed yet."""


@dataclass(slots=True, kw_only=True)
class VerifyReport:
    """The outcome. `contents` is whether values were compared with the log's."""

    live: bool = False
    contents: bool = True
    general: TopicReport = field(default_factory=lambda: TopicReport(topic="", topic_id=""))
    topics: list[TopicReport] = field(default_factory=list)

    @property
    def findings(self) -> Findings:
        """All findings."""
        return self._all("findings")

    @property
    def notes(self) -> Findings:
        """All notes."""
        return self._all("notes")

    @property
    def clean(self) -> bool:
        """Whether nothing was found. Notes do not count."""
        return not self.findings.count

    @property
    def numbers(self) -> Counter[str]:
        """The counts of all topics together."""
        return sum((topic.numbers for topic in self.topics), Counter())

    def _all(self, sort: str) -> Findings:
        every = Findings()
        for report in (self.general, *self.topics):
            every.take(getattr(report, sort))
        return every

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        findings, notes = self.findings, self.notes
        return {
            "clean": self.clean,
            "writer": "live" if self.live else "none",
            "contents": self.contents,
            "findings": [finding.as_dict() for finding in findings.kept],
            "findings_total": findings.count,
            "notes": [note.as_dict() for note in notes.kept],
            "notes_total": notes.count,
            "topics": [
                {"topic": one.topic, "topic_id": one.topic_id} | {name: one.numbers[name] for name in NUMBERS}
                for one in self.topics
            ],
        }
