"""One topic's account: every offset below the committed one is in files, or in the ledger, and nothing is there twice.

The files are taken unit by unit; units whose offsets overlap are one group (`sink.verify.group`). What is in no group,
and what a group has no row for, has to stand in the ledger as lost, left out or dropped. A file that is missing, or
cannot be read, is named once, together with the offsets that nobody finds any more because of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from commitlog.base import ClosedWindow
from commitlog.committed import Committed
from commitlog.ledger import LedgerState
from sink.parquet.lake import BadFile, LakeLook, Unit
from sink.verify.group import GroupCheck, Log, Progress
from sink.verify.look import TopicLook
from sink.verify.named import NamedFiles, Trouble
from sink.verify.ranges import Range, common, size, union, without
from sink.verify.report import RESTORE, TopicReport, in_words
from sink.verify.rules import Decoders

MAX_RANGES: Final = 50  # named one by one in a topic; the rest is counted
_GONE: Final[tuple[LedgerState, ...]] = ("lost", "left_out", "dropped")
_BAD_MENDS: Final = {
    "foreign": "it is not an export: move it out of the lake, readers meet it",
    "corrupt": RESTORE,
    "contradiction": f"{RESTORE}; a copy in a wrong place is to be removed",
}
Ranges = dict[int, list[Range]]


class TopicCheck:
    """One topic id. Used once."""

    def __init__(
        self,
        lake: Path,
        look: TopicLook,
        bad: Sequence[BadFile],
        log: Log,
        windows: Mapping[int, ClosedWindow],
        decoders: Decoders,
        progress: Progress,
    ) -> None:
        """`bad` are files in the topic's folders that are none of its exports; `windows` what the log still knows."""
        self._lake = lake
        self._look = look
        self._bad = bad
        self._log = log
        self._windows = windows
        self._decoders = decoders
        self._progress = progress
        self._committed = look.committed or Committed()
        self._report = TopicReport(topic=look.topic, topic_id=look.topic_id)

    def run(self) -> TopicReport:
        """Check."""
        units = self._published()
        self._count(units)
        named = NamedFiles(self._look, units, self._windows, self._ledger(*_GONE))
        troubled = named.missing()
        for bad in self._bad:
            troubled[bad.path] = (f"file-{bad.trouble}", bad.what, _BAD_MENDS[bad.trouble])
        broken = {named.named[path] for path in troubled if path in named.named}
        uncovered = self._groups(units, broken, troubled)
        troubled = named.changed(self._lake) | troubled
        left = self._tell_troubled(named, troubled, uncovered)
        self._tell_uncovered(left)
        return self._report

    # -- what is published

    def _published(self) -> list[Unit]:
        """The units that the committed offsets cover. Tells of others that nothing explains."""
        published, others = [], []
        standing = {file.path for file in self._look.files}
        for unit in LakeLook(files=list(self._look.files)).units():
            if unit.replays in standing and unit.replays in self._look.replaying:
                self._report.numbers["files_unpublished"] += len(unit.files)  # the file it replaces has all its rows
            elif unit.window < self._committed.next_window:
                published.append(unit)
            elif unit.window < self._look.later or unit.window in self._look.plans:
                self._report.numbers["files_unpublished"] += len(unit.files)
            else:
                others.append(unit)
        if self._report.numbers["files_unpublished"]:
            count = self._report.numbers["files_unpublished"]
            self._report.note("publishing", f"{count} files are being published, and left out of the account", "lake")
        if others:
            self._tell_others(others)
        return published

    def _tell_others(self, units: Sequence[Unit]) -> None:
        """Files that no commit tells of."""
        first = units[0]
        where = f"lake/{first.files[0].path}"
        count = sum(len(unit.files) for unit in units)
        if self._log.reader is None and self._look.committed is None:
            what = f"{count} files are of topic id {first.topic_id}, which this log does not have; the first is named"
            mend = "they are another appliance's, or of a topic that was made anew: move them to a lake of their own"
            self._report.find("other-topic", what, where, mend)
            return
        what = (
            f"windows {first.first_window} to {units[-1].window} are in the lake ({count} files, the first is named), "
            f"and by the committed offsets {self._committed.next_window} is the next to be exported"
        )
        mend = "the committed offsets are lost, or of an older copy of the log: start the appliance, which takes over "
        mend += "what complete exports in the lake say of themselves"
        partition, (low, high) = next(iter(first.offsets.items()), (-1, (-1, -1)))
        self._report.find("checkpoint", what, where, mend, partition=partition, first=low, next=high)

    def _count(self, units: Sequence[Unit]) -> None:
        numbers = self._report.numbers
        files = [file for unit in units for file in unit.files]
        numbers["units"] = len(units)
        numbers["files"] = len(files)
        numbers["bytes"] = sum(file.size_bytes for file in files)
        numbers["rows"] = sum(file.rows for file in files if file.kind == "rows")
        numbers["quarantined"] = sum(file.rows for file in files if file.kind == "quarantine")
        numbers["committed"] = sum(self._committed.offsets.values())
        for state in _GONE:
            numbers[state] = sum(map(size, self._ledger(state).values()))

    def _ledger(self, *states: LedgerState) -> Ranges:
        """What the ledger has in some states, below the committed offsets."""
        found: Ranges = {}
        for state in states:
            for partition, ranges in self._look.ledger.get(state, {}).items():
                below = common(ranges, [(0, self._committed.offset(partition))])
                found[partition] = union([*found.get(partition, []), *below])
        return found

    # -- offsets

    def _groups(self, units: Sequence[Unit], broken: set[tuple[int, int]], troubled: dict[str, Trouble]) -> Ranges:
        """Check every group; returns the offsets that are in no file. What cannot be read is added to `troubled`."""
        uncovered: Ranges = {p: [(0, end)] for p, end in sorted(self._committed.offsets.items()) if end}
        for group in grouped(units):
            whole = not any((unit.first_window, unit.window) in broken for unit in group)
            check = GroupCheck(self._lake, self._look, group, self._log, self._decoders, self._report, self._progress)
            result = check.run(whole=whole)
            for path, (kind, what) in result.unreadable.items():
                troubled[path] = (kind, what, RESTORE)
            for partition, ranges in result.span.ranges.items():
                present = without(ranges, result.missing.get(partition, []))
                self._tell_doubtful(group, partition, present)
                uncovered[partition] = without(uncovered.get(partition, []), present)
        committed = self._report.numbers["committed"]
        self._report.numbers["in_files"] = committed - sum(map(size, uncovered.values()))
        gone = self._ledger(*_GONE)
        return {p: left for p, ranges in uncovered.items() if (left := without(ranges, gone.get(p, [])))}

    def _tell_doubtful(self, group: Sequence[Unit], partition: int, present: Sequence[Range]) -> None:
        """Rows beyond what is committed, and of offsets that no row should have."""
        where = f"lake/{group[0].files[0].path}"
        for first, following in without(present, [(0, self._committed.offset(partition))]):
            what = f"{in_words(first, following)} are in window {group[-1].window}, beyond the committed offset"
            self._report.find(
                "checkpoint",
                f"{what} {self._committed.offset(partition)}",
                where,
                "the committed offsets are of an older copy of the log: restore log and lake from the same moment",
                partition=partition,
                first=first,
                next=following,
            )
        gone = self._ledger("lost", "left_out").get(partition, [])
        for first, following in common(present, gone):
            what = f"{in_words(first, following)} have rows, and are in the ledger as lost or left out"
            mend = "nothing is missing; report it: this is a defect"
            self._report.find("ledger", what, where, mend, partition=partition, first=first, next=following)

    def _tell_troubled(self, named: NamedFiles, troubled: Mapping[str, Trouble], uncovered: Ranges) -> Ranges:
        """Name each file with the offsets that nobody finds because of it; returns those that are still unexplained."""
        explained: Ranges = {}
        for path, (kind, what, mend) in troubled.items():
            windows = named.named.get(path)
            offsets = None if windows is None else named.offsets_of(windows)
            hidden = {
                partition: found
                for partition, range_ in (offsets or {}).items()
                if (found := common(uncovered.get(partition, []), [range_]))
            }
            for partition, ranges in hidden.items():
                explained[partition] = union([*explained.get(partition, []), *ranges])
            place: dict[str, int] = {}
            if hidden:
                partition, ranges = next(iter(hidden.items()))
                place = {"partition": partition, "first": ranges[0][0], "next": ranges[-1][1]}
                count = sum(map(size, hidden.values()))
                what = f"{what}; {count} offsets of its export are in no file, partition {partition} is the first"
            self._report.find(kind, what, f"lake/{path}", mend, **place)
        return {p: left for p, ranges in uncovered.items() if (left := without(ranges, explained.get(p, [])))}

    def _tell_uncovered(self, uncovered: Ranges) -> None:
        ranges = [(partition, range_) for partition, found in uncovered.items() for range_ in found]
        mend = "put the files back from a copy. The log may still have the records: `headrace log dump`"
        for partition, (first, following) in ranges[:MAX_RANGES]:
            what = f"{in_words(first, following)} below the committed offset are in no file and not in the ledger"
            self._report.find("offset-missing", what, "lake", mend, partition=partition, first=first, next=following)
        self._report.findings.count += max(0, len(ranges) - MAX_RANGES)


def grouped(units: Sequence[Unit]) -> list[list[Unit]]:
    """Units whose offsets overlap, or whose windows are the same, put together. Mostly each is alone."""
    groups: list[tuple[list[Unit], dict[int, Range]]] = []
    for unit in sorted(units, key=lambda unit: (unit.first_window, unit.window, unit.replays)):
        if groups and _overlap(groups[-1][1], unit.offsets):
            groups[-1][0].append(unit)
        else:
            groups.append(([unit], {}))
        hull = groups[-1][1]
        for partition, (first, following) in unit.offsets.items():
            low, high = hull.get(partition, (first, following))
            hull[partition] = (min(low, first), max(high, following))
    return [group for group, _ in groups]


def _overlap(hull: Mapping[int, Range], offsets: Mapping[int, Range]) -> bool:
    return any(
        first < hull[partition][1] and hull[partition][0] < following
        for partition, (first, following) in offsets.items()
        if partition in hull
    )
