"""One group of units, exports whose offsets overlap, which is mostly one: its files, its places, its contents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from commitlog.base import LogReader
from sink.parquet.lake import LakeFile, Unit
from sink.verify.buckets import Buckets
from sink.verify.contents import Compared, ContentCheck, Rule
from sink.verify.file import FileCheck
from sink.verify.look import TopicLook
from sink.verify.places import FileTroubleError, PlaceCheck, Places, Span
from sink.verify.ranges import Range, common, size, union, without
from sink.verify.report import REPORT, RESTORE, TopicReport, in_words
from sink.verify.rules import Decoders, rules_of

_LONG: Final = 1 << 20  # offsets left out at once that are worth leaving out of the span
Progress = Callable[[int], None]
"""Called with the bytes of each file that is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """The log's side of a topic. `reader` None: the log does not have it. `starts` are the log start offsets.

    `contents`: whether values are to be compared.
    """

    reader: LogReader | None
    starts: Mapping[int, int]
    contents: bool = True


@dataclass(slots=True)
class GroupResult:
    """What the topic's account needs: the group's offsets, those without a row, and why files cannot be read."""

    span: Span
    missing: dict[int, list[Range]] = field(default_factory=dict)
    unreadable: dict[str, tuple[str, str]] = field(default_factory=dict)


class GroupCheck:
    """Checks a group and tells what it finds."""

    def __init__(
        self,
        lake: Path,
        look: TopicLook,
        units: Sequence[Unit],
        log: Log,
        decoders: Decoders,
        report: TopicReport,
        progress: Progress,
    ) -> None:
        self._lake = lake
        self._look = look
        self._units = units
        self._log = log
        self._decoders = decoders
        self._report = report
        self._progress = progress
        self._files = [file for unit in units for file in unit.files]
        left_out = {
            partition: [(first, following) for first, following in ranges if following - first >= _LONG]
            for partition, ranges in look.ledger.get("left_out", {}).items()
        }
        self._span = Span.of([unit.offsets for unit in units], left_out)
        self._result = GroupResult(self._span)
        self._whole = True

    def run(self, *, whole: bool) -> GroupResult:
        """Check everything. `whole`: no file of the group is known to be missing; rows may be otherwise."""
        self._whole = whole
        rules = self._rules()
        buckets = Buckets(self._span, self._log.starts) if rules else None
        readable = [file for file in self._files if self._file(file, buckets)]
        try:
            places = PlaceCheck(self._lake, readable, self._span).run()
        except FileTroubleError as error:  # a moment ago each of them could be read
            self._result.unreadable[error.path] = ("file-corrupt", f"it can no longer be read: {error}")
            self._result.missing = self._span.ranges
            return self._result
        self._result.missing = places.missing
        self._tell_places(places)
        if buckets is not None:
            self._contents(rules, buckets, readable, places)
        return self._result

    # -- files

    def _file(self, file: LakeFile, buckets: Buckets | None) -> bool:
        """Read one file; whether the rows' places in it can be counted."""
        check = FileCheck(self._lake, file, buckets)
        where = f"lake/{file.path}"
        try:
            check.run()
        except FileNotFoundError:
            self._result.unreadable[file.path] = ("file-missing", "it was there a moment ago")
            return False
        except FileTroubleError as error:
            self._result.unreadable[file.path] = ("file-corrupt", f"it cannot be read: {error}")
            return False
        finally:
            self._progress(file.size_bytes)
        for kind, what in check.problems:
            self._report.find(kind, what, where, RESTORE)
            self._whole = False  # rows that are missing have been told with it
        return True

    # -- places

    def _tell_places(self, places: Places) -> None:
        mend = "readers count it twice. A copy that somebody made is to be removed; otherwise report it"
        for partition, offset, row, one, other in places.doubled:
            what = f"row {row} of offset {offset} stands there {'twice' if one == other else f'and in lake/{other}'}"
            self._find("row-doubled", what, one, mend, partition, offset)
        self._report.findings.count += places.doubled_count - len(places.doubled)
        if self._whole and not self._result.unreadable:
            for partition, offset, there, wanted in places.holes:
                what = f"{there} of {wanted} rows of offset {offset} are there"
                self._find("row-missing", what, self._files[0].path, REPORT, partition, offset)
            self._report.findings.count += places.holes_count - len(places.holes)

    def _find(self, kind: str, what: str, path: str, mend: str, partition: int, offset: int) -> None:
        self._report.find(kind, what, f"lake/{path}", mend, partition=partition, first=offset, next=offset + 1)

    # -- contents

    def _rules(self) -> list[Rule]:
        """How the group's records are read; none when they are not to be compared."""
        if self._log.reader is None or not self._log.contents:
            return []
        try:
            rules = rules_of(self._lake, self._files, self._decoders)
        except FileTroubleError:
            return []  # told when the file is read
        if isinstance(rules, str):
            what = f"values are not compared with the log's: {rules}"
            self._report.note("not-compared", what, f"lake/{self._files[0].path}")
            return []
        return rules

    def _contents(self, rules: Sequence[Rule], buckets: Buckets, files: Sequence[LakeFile], places: Places) -> None:
        reader = self._log.reader
        if reader is None or self._result.unreadable:
            return  # what is missing is told; sums without it would only differ
        compared = ContentCheck(reader, self._look.topic, rules, buckets, self._comparable(places)).run(
            self._lake, files
        )
        self._report.numbers["compared"] += compared.rows
        self._report.numbers["not_compared"] += compared.without_log + self._before_the_log()
        self._tell_differences(compared, places)

    def _comparable(self, places: Places) -> Mapping[int, list[Range]]:
        """Offsets of which there are rows, from the log start on."""
        found = {}
        for partition, ranges in self._span.ranges.items():
            before = union([(0, self._log.starts.get(partition, 0)), *places.missing.get(partition, [])])
            found[partition] = without(ranges, before)
        return found

    def _before_the_log(self) -> int:
        starts = self._log.starts
        return sum(size(common(ranges, [(0, starts.get(p, 0))])) for p, ranges in self._span.ranges.items())

    def _tell_differences(self, compared: Compared, places: Places) -> None:
        told = [one for one in compared.differences if one.path or self._whole]
        for one in told:
            partition, offset, row = one.place
            kind, mend = ("value", RESTORE) if one.path else ("row-missing", REPORT)
            self._find(
                kind,
                f"row {row} of offset {offset}: {one.what}",
                one.path or self._files[0].path,
                mend,
                partition,
                offset,
            )
        if self._whole and not places.doubled_count:
            if compared.buckets and not told:
                partition, ((first, following), *_) = next(iter(compared.buckets[0].items()))
                what = f"rows of {in_words(first, following)} differ from the log's by their sum, and none by itself"
                self._find("value", what, self._files[0].path, REPORT, partition, first)
            self._report.findings.count += compared.unnamed
