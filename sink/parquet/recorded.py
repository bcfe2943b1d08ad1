"""What the lake itself says was exported: for when the log's tables, which should say it, are lost or of an older day.

The rows of `sink.parquet` say how far a topic is exported. Should they be gone, exporting from the beginning would
double the lake, and could not bring back what the log no longer has. But each file says of which unit it is, and a
unit's last file, published last, names all of them. So before a topic's first export the lake is asked for units that
are not recorded:

* a *whole* unit, with all the files that its last one names, counts as exported. It is recorded as it stands, with
  what its last file says is missing;
* one that a plan tells of is carried out as any plan;
* a *broken* one is taken back, and exported anew, if the log still has every record of it. If not, it is kept and
  recorded as it stands: these rows are nowhere else. `headrace verify` names what is not there.

Where the log ends before a unit does, it is an older copy: it would give the same offsets to other records. Then
nothing of the topic is exported until a person has decided which of the two is right.

Footers are read only where something may be found. What is recorded has a name that begins with an earlier time than
the first window that is not; so mostly no file is opened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from commitlog.base import LogReader, TopicInfo
from sink.base import CancelFlag, Export, ExportedFile, ExportWindow, Missing, RecordsFailedError
from sink.parquet.checksum import file_crc32c
from sink.parquet.lake import SUPERSEDED, LakeFile, LakeLook, Unit, published_paths, read_lake_file
from sink.parquet.plan import doubles_so_far
from sink.payload.times import compact_utc


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A unit that stands in the lake. `whole`: with every file that belongs to it."""

    window: ExportWindow
    files: tuple[LakeFile, ...]
    missing: tuple[Missing, ...]
    whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is to become of files that are not recorded: units to be recorded, in order, and paths to be removed."""

    recorded: tuple[Recorded, ...] = ()
    broken: tuple[str, ...] = ()


class LakeRecord:
    """Looks for one topic's units from window `next_window` on; None stands for a topic without a committed row."""

    def __init__(self, lake: Path, info: TopicInfo, next_window: int | None, reader: LogReader) -> None:
        self._lake = lake
        self._info = info
        self._reader = reader
        self._next_window = next_window or 0
        self._windows = {window.number: window for window in reader.windows(info.name, after=self._next_window - 1)}
        first = None if next_window is None else self._windows.get(next_window)
        self._since = "" if first is None else compact_utc(first.start_ms)
        self._needed = next_window is None or bool(self._windows)
        self._visible: set[str] = set()

    def find(self, planned: Sequence[ExportWindow]) -> Found:
        """What there is besides exports that are planned.

        Raises RecordsFailedError when the log is an older copy than the lake.
        """
        units = self._units(planned) if self._needed else []
        if not units:
            return Found()
        self._check_same_log(units)
        replays = [unit for unit in units if unit.replays]
        exports = [unit for unit in units if not unit.replays]
        recorded = [self._recorded(unit, replays) for unit in _apart(filter(_is_whole, exports))]
        broken: set[str] = set()
        for unit in exports:
            if _is_whole(unit):
                continue
            if self._log_has(unit) or any(_within(unit, one.window) for one in recorded):
                again = [unit, *_of_same(unit, replays)]  # what a replay made of its records comes back with it
                broken.update(*(one.named for one in again), *([file.path for file in one.files] for one in again))
            elif not any(_overlap(unit, one.window) for one in recorded):
                recorded.append(self._recorded(unit, replays))
        recorded.sort(key=lambda one: one.window.first_number)
        kept = {file.path for one in recorded for file in one.files}
        return Found(recorded=tuple(recorded), broken=tuple(sorted(broken & self._visible - kept)))

    # -- units

    def _units(self, planned: Sequence[ExportWindow]) -> Sequence[Unit]:
        of_plans = {(window.first_number, window.number) for window in planned}
        return [
            unit
            for unit in LakeLook(files=list(self._files())).units()
            if unit.window >= self._next_window and (unit.first_window, unit.window) not in of_plans
        ]

    def _files(self) -> Iterator[LakeFile]:
        """The topic's files that may not be recorded; what was superseded still tells of its unit."""
        texts: dict[str, str] = {}
        for root in (self._lake, self._lake / SUPERSEDED):
            for path in published_paths(root, self._info.name):
                if Path(path).name[: len(self._since)] < self._since or path in self._visible:
                    continue
                if root == self._lake:
                    self._visible.add(path)
                file = read_lake_file(root, path)
                if isinstance(file, LakeFile) and file.topic_id == self._info.topic_id:
                    columns, declared = (
                        texts.setdefault(text, text) for text in (file.columns_text, file.declared_text)
                    )
                    yield replace(file, columns_text=columns, declared_text=declared)  # each text once

    def _recorded(self, unit: Unit, replays: Sequence[Unit]) -> Recorded:
        """A unit with the files that are visible: its own, and those of replays that took the place of some."""
        files = [file for one in (unit, *_of_same(unit, replays)) for file in one.files if file.path in self._visible]
        closing = next((file for file in unit.files if file.files), None)
        missing = () if closing is None else closing.missing
        one = unit.files[0]
        order = {path: number for number, path in enumerate(unit.named)}
        files.sort(key=lambda file: (order.get(file.path, len(order)), file.path))  # as they were published
        return Recorded(
            window=ExportWindow(
                topic=unit.topic,
                topic_id=unit.topic_id,
                first_number=unit.first_window,
                number=unit.window,
                start_ms=one.start_ms,
                end_ms=one.end_ms,
                offsets=dict(unit.offsets),
            ),
            files=tuple(files),
            missing=tuple(Missing(partition=p, first=first, next=last, reason=why) for p, first, last, why in missing),
            whole=_is_whole(unit),
        )

    # -- the log

    def _log_has(self, unit: Unit) -> bool:
        """Whether the log can still give every record of a unit."""
        if not all(number in self._windows for number in range(unit.first_window, unit.window + 1)):
            return False
        starts = [mark.start for mark in self._reader.watermarks(self._info.name)]
        return all(starts[p] <= first for p, (first, following) in unit.offsets.items() if first < following)

    def _check_same_log(self, units: Sequence[Unit]) -> None:
        """That the log has been where the lake says it was, and gave its windows the same numbers."""
        ends = dict(enumerate(mark.high for mark in self._reader.watermarks(self._info.name)))
        for unit in units:
            beyond = any(following > ends.get(p, 0) for p, (_, following) in unit.offsets.items())
            if beyond or not self._numbered_alike(unit):
                raise RecordsFailedError(
                    f"the lake holds an export of windows {unit.first_window} to {unit.window} that this log does not "
                    f"know: its {'offsets are not there yet' if beyond else 'windows have other offsets'}",
                    where=str(self._lake / unit.files[0].path),
                    mend="the log is an older copy, or its table of windows is lost: restore log and lake of the same "
                    "moment, or move the topic's later files out of the lake; what the log has is then exported",
                )

    def _numbered_alike(self, unit: Unit) -> bool:
        known = [self._windows[n] for n in (unit.first_window, unit.window) if n in self._windows]
        return all(
            unit.offsets.get(p, (first, following))[0] <= first and following <= unit.offsets.get(p, (0, 0))[1]
            for window in known
            for p, (first, following) in window.offsets.items()
            if first < following
        )


def export_of(recorded: Recorded, lake: Path, cancel: CancelFlag, notes: Collection[str]) -> Export:
    """What the files of a unit say of its export; `notes` are those of the one before. Reads each file, for its CRC.

    Raises OSError, pyarrow's errors for a file that went bad meanwhile, and ExportCancelledError.
    """
    files, reasons, clashes = [], Counter[str](), Counter[str]()
    for file in recorded.files:
        cancel.check()
        reasons.update(_reasons(lake, file))
        clashes.update(_clashes(lake, file))
        files.append(
            ExportedFile(
                path=file.path,
                kind=file.kind,
                rows=file.rows,
                size_bytes=file.size_bytes,
                crc32c=file_crc32c(lake / file.path),
                date=file.date,
            )
        )
    span, missing = recorded.window.span, recorded.missing
    records = span - sum(each.next - each.first for each in missing)
    return Export(
        files=tuple(files),
        records=records if recorded.whole else min(span, sum(file.records for file in recorded.files)),
        rows=sum(file.rows for file in recorded.files if file.kind == "rows"),
        quarantined=dict(sorted(reasons.items())),
        lost=tuple(each for each in missing if each.lost),
        left_out=tuple(each for each in missing if not each.lost),
        clashes=dict(sorted(clashes.items())),
        notes=doubles_so_far(_doubles(recorded.files), notes),
        taken_over=True,
    )


def _doubles(files: Sequence[LakeFile]) -> set[str]:
    return {note.field for file in files for note in file.columns.values() if note.kind == "double"}


def _reasons(lake: Path, file: LakeFile) -> Mapping[str, int]:
    found: Counter[str] = Counter()
    if file.kind == "quarantine":
        with pq.ParquetFile(lake / file.path) as parquet:
            for group in range(parquet.num_row_groups):
                counts = pc.value_counts(parquet.read_row_group(group, columns=["reason"]).column("reason"))
                found.update({one["values"].as_py(): one["counts"].as_py() for one in counts})
    return found


def _clashes(lake: Path, file: LakeFile) -> Mapping[str, int]:
    """Values in side columns, by the column they belong to; the footer's statistics know."""
    sides = {note.other: name for name, note in file.columns.items() if note.other}
    found: Counter[str] = Counter()
    if not sides:
        return found
    footer = pq.read_metadata(lake / file.path)
    for group in range(footer.num_row_groups):
        for index in range(footer.num_columns):
            chunk = footer.row_group(group).column(index)
            column = sides.get(chunk.path_in_schema)
            if column is not None and chunk.statistics is not None:
                found[column] += chunk.num_values - chunk.statistics.null_count
    return found


def _of_same(unit: Unit, replays: Iterable[Unit]) -> list[Unit]:
    return [one for one in replays if (one.first_window, one.window) == (unit.first_window, unit.window)]


def _is_whole(unit: Unit) -> bool:
    return bool(unit.named) and set(unit.named) <= {file.path for file in unit.files}


def _apart(units: Iterable[Unit]) -> Iterator[Unit]:
    """Units in order, without those that a unit before has rows of: `headrace verify` names these."""
    reached: dict[int, int] = {}
    for unit in sorted(units, key=lambda one: (one.first_window, -one.window)):
        if all(reached.get(p, 0) <= first for p, (first, following) in unit.offsets.items() if first < following):
            reached |= {p: following for p, (_, following) in unit.offsets.items()}
            yield unit


def _within(unit: Unit, window: ExportWindow) -> bool:
    return all(
        window.offsets.get(p, (0, 0))[0] <= first and following <= window.offsets.get(p, (0, 0))[1]
        for p, (first, following) in unit.offsets.items()
        if first < following
    )


def _overlap(unit: Unit, window: ExportWindow) -> bool:
    return any(
        first < window.offsets[p][1] and window.offsets[p][0] < following
        for p, (first, following) in unit.offsets.items()
        if p in window.offsets
    )
