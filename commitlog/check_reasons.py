"""Why offsets are missing, as far as recovery has said it: `<data>/log/recovery.json`.

Offsets that recovery left out were never given to a record: nothing is lost with them, so they are a note. Of others it
may have told what became of them: the finding repeats it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from commitlog.base import Gap
from commitlog.findings import Finding, Looked, in_words
from commitlog.gaps import LEFT_OUT, MISSING
from commitlog.left_out import explained, left_out
from commitlog.report import Cut, KeptReport

LEFT_OUT_KIND: Final = "left-out"


def with_reasons(looked: Looked, report: KeptReport | None) -> Looked:
    """The same findings with what recovery said of missing offsets, and without those that it left out."""
    if report is None:
        return looked
    told = Looked()
    for finding in looked.findings.kept:
        for part in _parts(finding, report) if finding.kind == "offset-gap" else (finding,):
            (told.notes if part.kind == LEFT_OUT_KIND else told.findings).add(part)
    for note in looked.notes.kept:
        told.notes.add(note)
    told.findings.count += looked.findings.count - len(looked.findings.kept)
    told.notes.count += looked.notes.count - len(looked.notes.kept)
    return told


def _parts(finding: Finding, report: KeptReport) -> Iterator[Finding]:
    gap = Gap(first=finding.first, next=finding.next, reason=MISSING)
    for part in explained([gap], left_out(report, finding.topic, finding.partition)):
        words = in_words(part.first, part.next)
        if part.reason == LEFT_OUT:
            what = f"{words} {LEFT_OUT} at a start after a restore: no record had them"
            yield replace(finding, kind=LEFT_OUT_KIND, what=what, first=part.first, next=part.next)
            continue
        what = finding.what if part == gap else f"{words} {MISSING}"
        reason = next(
            (cut.reason for cut in _cuts(finding, report) if cut.first < part.next and part.first < cut.next), ""
        )
        said = f"; recovery said: {reason}" if reason else ""
        yield replace(finding, what=what + said, first=part.first, next=part.next)


def _cuts(finding: Finding, report: KeptReport) -> Iterator[Cut]:
    for cut in (*report.cuts, *report.earlier):
        if (cut.topic, cut.partition) == (finding.topic, finding.partition) and not cut.reason.startswith(LEFT_OUT):
            yield cut
