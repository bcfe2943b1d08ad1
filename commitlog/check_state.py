"""Checking what stands beside the segments: checkpoint, journal, state tables, windows, names.

All of it is small or read in pieces. Beside a running writer the journal's open end is being written: what looks wrong
there is looked at again by the caller before it is told.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from commitlog.base import ClosedWindow
from commitlog.batch import CorruptBatchError, check_crc, parse_header, records_of
from commitlog.checkpoint import CHECKPOINT_NAME, Checkpoint
from commitlog.findings import Finding, Looked
from commitlog.journal import Change, JournalBatch
from commitlog.journal_scan import entries_through_damage
from commitlog.look import LogLook
from commitlog.metadata import METADATA_NAME, read_metadata
from commitlog.replay import JOURNAL_NAME
from commitlog.report import REPORT_NAME
from commitlog.restored import RESTORED_NAME
from commitlog.salvage import without_checkpoint
from commitlog.segment import DELETED_SUFFIX, LOG_SUFFIX, SUFFIXES
from commitlog.space import RESERVE_NAME
from commitlog.storage import LOG_DIR, RUN_DIR, TEMPORARY_SUFFIX, Storage, parse_partition_dir_name
from commitlog.tables import SNAPSHOT_SUFFIX, TABLES_DIR, SnapshotError, newest_snapshots, read_snapshot, unpack
from commitlog.version import META_NAME
from commitlog.watermarks import MAP_NAME
from commitlog.windows import WINDOWS_TABLE, window_from_row

_OF_THE_LOG: Final = (CHECKPOINT_NAME, JOURNAL_NAME, TABLES_DIR, META_NAME, REPORT_NAME, RESTORED_NAME, RESERVE_NAME)


@dataclass(slots=True)
class StateResult:
    """What the log's state says. The ends are by (topic id, partition): the offset after the last one."""

    looked: Looked = field(default_factory=Looked)
    journal_entries: int = 0
    journal_damaged: bool = False
    journal_ends: dict[tuple[str, int], int] = field(default_factory=dict)
    tables: int = 0
    windows: int = 0
    window_ends: dict[tuple[str, int], int] = field(default_factory=dict)


class StateCheck:
    """One pass over everything but the segments."""

    def __init__(self, storage: Storage, data_dir: Path, look: LogLook) -> None:
        self._storage = storage
        self._log_dir = data_dir / LOG_DIR
        self._look = look
        self._changes: list[Change] = []
        self.result = StateResult()

    def run(self) -> StateResult:
        """Check. Raises OSError."""
        checkpoint = self._look.checkpoint
        if self._look.marks_problem:
            where = f"{RUN_DIR}/{MAP_NAME}"
            self.result.looked.notes.add(Finding(kind="watermarks", what=self._look.marks_problem, where=where))
        if checkpoint is None:
            point, said = without_checkpoint(self._storage, self._log_dir, 0)
            self._find("checkpoint", f"{self._look.checkpoint_problem}: {said}", CHECKPOINT_NAME)
            self.result.journal_ends = {(at[0].hex(), at[1]): end for at, end in point.journal_ends.items()}
        else:
            self._journal(checkpoint)
        rows = self._tables(checkpoint)
        self._windows(rows)
        self._names(checkpoint)
        return self.result

    # -- journal

    def _journal(self, checkpoint: Checkpoint) -> None:
        try:
            file = self._storage.open_read(self._log_dir / JOURNAL_NAME)
        except FileNotFoundError:
            if checkpoint.journal_position:  # else: killed between the first checkpoint and the journal
                self._find(
                    "journal", "it is missing: what was committed after the last checkpoint is lost", JOURNAL_NAME
                )
            return
        ends = {(p.topic_id.hex(), p.partition): p.next_offset for p in checkpoint.partitions}
        sequence, position = checkpoint.next_sequence, checkpoint.journal_position
        try:
            if checkpoint.journal_position and file.size() < checkpoint.journal_size:
                what = f"it has {file.size()} bytes instead of {checkpoint.journal_size}"
                self._find("journal", what, JOURNAL_NAME)
            for entry in entries_through_damage(
                file,
                size=checkpoint.journal_size,
                journal_id=checkpoint.journal_id,
                sequence=sequence,
                position=position,
            ):
                if entry.sequence != sequence:
                    self._damaged_entries(sequence, entry.sequence, position % checkpoint.journal_size)
                    ends = {}  # what those held is told with them
                for batch in entry.batches:
                    self._journal_batch(batch, entry.sequence, ends)
                self._changes.extend(change for change in entry.changes if change[0] == WINDOWS_TABLE)
                sequence, position = entry.sequence + 1, entry.end
                self.result.journal_entries += 1
        except ValueError as error:
            self._find("journal", f"entry {sequence} has the right CRC and cannot be read: {error}", _at(position))
        finally:
            file.close()
        self.result.journal_ends = ends

    def _damaged_entries(self, first: int, following: int, place: int) -> None:
        self.result.journal_damaged = True
        which = f"entry {first} is" if following == first + 1 else f"entries {first} to {following - 1} are"
        self._find("journal", f"{which} damaged: whole ones follow", _at(place))

    def _journal_batch(self, batch: JournalBatch, sequence: int, ends: dict[tuple[str, int], int]) -> None:
        at = (batch.topic_id.hex(), batch.partition)
        problem = ""
        data = bytes(batch.data)
        try:
            header = parse_header(data)
            if header is None or header.size_bytes != len(data):
                problem = "is cut off"
            elif not check_crc(data, header):
                problem = "fails its CRC"
            else:
                count = sum(1 for _ in records_of(data, header))
                if count != header.record_count:
                    problem = f"has {count} records instead of {header.record_count}"
                elif header.base_offset > ends.get(at, header.base_offset):
                    problem = f"starts at offset {header.base_offset}, the one before ends at {ends[at]}"
                ends[at] = max(ends.get(at, 0), header.last_offset + 1)
        except CorruptBatchError as error:
            problem = f"cannot be read: {error}"
        if problem:
            known = self._look.partition(*at)
            name = known.name if known else f"topic {at[0]} partition {at[1]}"
            self._find("journal", f"the batch for {name} in entry {sequence} {problem}", JOURNAL_NAME)

    # -- tables and windows

    def _tables(self, checkpoint: Checkpoint | None) -> Mapping[str, Any]:
        """Every snapshot that counts can be read; returns the rows of the windows table."""
        tables_dir = self._log_dir / TABLES_DIR
        named = checkpoint.tables if checkpoint is not None else newest_snapshots(self._storage, tables_dir)
        windows: dict[str, Any] = {}
        for table, name in named.items():
            wanted = checkpoint.table_bytes.get(table, 0) if checkpoint is not None else 0
            try:
                packed = read_snapshot(self._storage, tables_dir / name, at_least_bytes=wanted)
                rows = {key: unpack(value) for key, value in packed.items()}
            except FileNotFoundError:
                self._find("table", f"the snapshot of table {table!r} is missing", f"{TABLES_DIR}/{name}")
                continue
            except (SnapshotError, msgspec.MsgspecError) as error:
                self._find("table", f"the snapshot of table {table!r} cannot be read: {error}", f"{TABLES_DIR}/{name}")
                continue
            self.result.tables += 1
            if table == WINDOWS_TABLE:
                windows = rows
        for _, key, value in self._changes:
            if value is None:
                windows.pop(key, None)
            else:
                windows[key] = value
        return windows

    def _windows(self, rows: Mapping[str, Any]) -> None:
        """Windows of a topic are numbered without a hole, and each starts where the one before ended."""
        by_topic: dict[str, list[ClosedWindow]] = {}
        for key in sorted(rows):
            try:
                window = window_from_row(rows[key])
            except (TypeError, ValueError, KeyError, AttributeError) as error:
                self._find("window", f"the row {key!r} is no window: {error!r}", TABLES_DIR)
                continue
            by_topic.setdefault(window.topic_id, []).append(window)
            self.result.windows += 1
        for topic_id, windows in by_topic.items():
            windows.sort(key=lambda window: window.number)
            for before, window in itertools.pairwise(windows):
                problem = _does_not_follow(before, window)
                if problem:
                    self._find("window", f"window {window.number} of {window.topic} {problem}", TABLES_DIR)
            for partition, (_, following) in windows[-1].offsets.items():
                self.result.window_ends[topic_id, partition] = following

    # -- names

    def _names(self, checkpoint: Checkpoint | None) -> None:
        """Metadata, and what does not belong. A living writer makes and removes files all the time: not looked at."""
        for partition in self._look.partitions:
            found = read_metadata(self._storage, partition.directory)
            if not self._storage.names(partition.directory):
                self._find(
                    "partition", "the directory is missing", partition.name, partition.topic, partition.partition
                )
            elif found is None or found.hex() != partition.topic_id:
                said = "is missing or damaged" if found is None else f"says {found.hex()}, not {partition.topic_id}"
                where = f"{partition.name}/{METADATA_NAME}"
                self._find("metadata", f"the topic's id {said}", where, partition.topic, partition.partition)
        if not self._look.live:
            named = set(checkpoint.tables.values()) if checkpoint else None
            for where, what in self._strangers(named):
                self.result.looked.notes.add(Finding(kind="leftover", what=what, where=f"{LOG_DIR}/{where}"))

    def _strangers(self, snapshots: set[str] | None) -> Iterator[tuple[str, str]]:
        known = {partition.name for partition in self._look.partitions}
        for name in self._storage.names(self._log_dir):
            if name not in known and name not in _OF_THE_LOG:
                is_partition = parse_partition_dir_name(name) is not None
                yield name, "a directory without a topic's id" if is_partition else _stranger(name)
        for name in self._storage.names(self._log_dir / TABLES_DIR):
            if not name.endswith(SNAPSHOT_SUFFIX):
                yield f"{TABLES_DIR}/{name}", _stranger(name)
            elif snapshots is not None and name not in snapshots:
                yield f"{TABLES_DIR}/{name}", "a snapshot that no checkpoint names; the next start removes it"
        for directory in sorted(known):
            names = self._storage.names(self._log_dir / directory)
            for name in names:
                problem = _stranger_in_partition(name, names)
                if problem:
                    yield f"{directory}/{name}", problem

    def _find(self, kind: str, what: str, where: str, topic: str = "", partition: int = -1) -> None:
        finding = Finding(kind=kind, what=what, where=f"{LOG_DIR}/{where}", topic=topic, partition=partition)
        self.result.looked.findings.add(finding)


def _does_not_follow(before: ClosedWindow, window: ClosedWindow) -> str:
    if window.number != before.number + 1:
        return f"follows window {before.number}: what is between is missing"
    for partition, (first, following) in window.offsets.items():
        end = before.offsets.get(partition, (0, first))[1]
        if first != end:
            return f"starts at offset {first} in partition {partition}, the one before ended at {end}"
        if following < first:
            return f"ends before it starts in partition {partition}"
    missing = set(before.offsets) - set(window.offsets)
    return f"leaves out partition {min(missing)}" if missing else ""


def _stranger(name: str) -> str:
    if name.endswith(TEMPORARY_SUFFIX):
        return "a write that was interrupted; the next start removes it"
    return "not a file of the log; it is left alone"


def _stranger_in_partition(name: str, names: Sequence[str]) -> str:
    stem, suffix = name[:20], name[20:]
    if name == METADATA_NAME or (suffix == LOG_SUFFIX and stem.isdigit()):
        return ""
    if stem.isdigit() and suffix in SUFFIXES:
        return "" if stem + LOG_SUFFIX in names else "an index without its segment"
    return "a deleted segment that was not removed yet" if name.endswith(DELETED_SUFFIX) else _stranger(name)


def _at(position: int) -> str:
    return f"{JOURNAL_NAME} at byte {position}"
