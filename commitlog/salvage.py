"""Starting without a checkpoint: it is damaged, or gone, and the log is not new.

What it said is found again. Every segment is walked, so offsets and the newest timestamp come from the batches
themselves. Each state table is taken from its newest snapshot, which is the one that the checkpoint named or one that
was still to be named, and is written anew. Where the journal begins to be needed only the checkpoint knew, but its id
stands in `meta.properties` (see `version`), and all entries of that id that are left are replayed, from the oldest on:

- records again are no harm, since each has its offset, and what segments hold already is not written again;
- table changes again are none either, as long as nothing is missing between the first of them and the last: then each
  row ends as the last change left it. The ring overwrites the oldest first, and what it overwrote is in the snapshots.
  Entries that a power cut took, at a durability below `fsync`, are behind the last change, which was synced with all
  before it. So a missing entry in front of that one is damage: changes are applied from behind it on, and it is
  reported.

The leader epoch stands there, too, and the note that a durability below `fsync` was in use. Where that is missing - the
file is damaged as well, or of a version before there was such a note - it is taken to have been in use: to pass over
offsets costs numbers, not to do it may give one of them two meanings. Offsets that earlier starts passed over are in
their reports.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from msgspec import structs

from commitlog.checkpoint import Checkpoint, CheckpointError, read_checkpoint
from commitlog.files import PartitionFiles
from commitlog.journal import ENTRY_HEADER
from commitlog.journal_scan import JournalExtent, find_entries
from commitlog.replay import JOURNAL_NAME
from commitlog.report import RecoveryReport, read_report
from commitlog.settings import LogSettings
from commitlog.storage import Storage, parse_partition_dir_name
from commitlog.tables import TABLES_DIR, newest_snapshots, snapshot_sequence
from commitlog.version import read_journal_note

_At = tuple[str, int]
_Range = tuple[int, int]
"""first <= offset < next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartingPoint:
    """From where recovery looks: the checkpoint (None: the log is new), or what can be had in its place.

    `changes_from`: the sequence of the first journal entry whose table changes count. `journal_offsets` has, for each
    (topic id, partition), from which offset on the journal has everything, `journal_ends` up to which; only known where
    the checkpoint is lost.
    """

    checkpoint: Checkpoint | None
    salvaged: bool = False
    changes_from: int = 0
    journal_offsets: Mapping[tuple[bytes, int], int] = field(default_factory=dict)
    journal_ends: Mapping[tuple[bytes, int], int] = field(default_factory=dict)


def starting_point(storage: Storage, log_dir: Path, settings: LogSettings, report: RecoveryReport) -> StartingPoint:
    """Read the checkpoint, or do without. Raises OSError."""
    try:
        checkpoint = read_checkpoint(storage, log_dir)
        if checkpoint is not None or _is_new(storage, log_dir):
            return StartingPoint(checkpoint=checkpoint)
        problem = "the checkpoint is missing"
    except CheckpointError as error:
        problem = str(error)
    point, said = without_checkpoint(storage, log_dir, settings.unsynced_records)
    report.notes.append(f"{problem}; every segment is walked, {said}")
    return point


def without_checkpoint(storage: Storage, log_dir: Path, unsynced_records: int) -> tuple[StartingPoint, str]:
    """What can be known without a checkpoint, and of the journal in words. Raises OSError.

    `unsynced_records`: how many a power cut may have taken, where nothing says it.
    """
    note = read_journal_note(storage, log_dir)
    size, extent = (0, None) if note.journal_id is None else _find(storage, log_dir, note.journal_id)
    snapshots = newest_snapshots(storage, log_dir / TABLES_DIR)
    newest_snapshot = max((snapshot_sequence(name) or 0 for name in snapshots.values()), default=0)
    checkpoint = Checkpoint(
        journal_id=secrets.randbits(64) if note.journal_id is None else note.journal_id,
        journal_size=max(size, ENTRY_HEADER.size),  # no ring is smaller
        journal_position=extent.position if extent else 0,
        next_sequence=extent.sequence if extent else 1 + newest_snapshot,
        leader_epoch=note.leader_epoch,
        last_timestamp_ms=0,
        clean=False,
        partitions=[],
        tables=dict(snapshots),
        unsynced_records=unsynced_records if note.unsynced_records is None else note.unsynced_records,
    )
    if note.journal_id is None:
        said = "the journal's id is not noted anywhere: what only the journal holds is lost"
    elif extent is None:
        said = "the journal holds no whole entry since the last start"
    else:
        said = f"the journal is replayed from its oldest entry, {extent.sequence}"
    point = StartingPoint(
        checkpoint=checkpoint,
        salvaged=True,
        changes_from=extent.changes_from if extent else 0,
        journal_offsets={at: first for at, (first, _) in extent.offsets.items()} if extent else {},
        journal_ends={at: following for at, (_, following) in extent.offsets.items()} if extent else {},
    )
    return point, said


def believe_earlier_reports(
    storage: Storage, log_dir: Path, partitions: Sequence[PartitionFiles], report: RecoveryReport
) -> None:
    """Take from the reports of earlier starts what the checkpoint would have said. Raises OSError.

    Offsets that they passed over are not used again, also where nothing was appended behind them; a partition that
    begins with such offsets begins where they do; and what they have told is not told as lost once more.
    """
    kept = read_report(storage, log_dir)
    told: dict[_At, list[_Range]] = {}
    for cut in (*kept.cuts, *kept.earlier) if kept is not None else ():
        told.setdefault((cut.topic, cut.partition), []).append((cut.first, cut.next))
    for ranges in told.values():
        ranges.sort()
    for files in partitions:
        ranges = told.get((files.topic.name, files.partition), [])
        files.next_offset = max([files.next_offset, *(following for _, following in ranges)])
        if _reach(ranges) >= files.log_start:
            files.log_start = 0
    report.cuts[:] = [
        structs.replace(cut, first=first, next=following)
        for cut in report.cuts
        for first, following in _without(told.get((cut.topic, cut.partition), []), cut.first, cut.next)
    ]


def _reach(ranges: Sequence[_Range]) -> int:
    """How far sorted ranges cover the offsets from 0 on."""
    at = 0
    for first, following in ranges:
        at = max(at, following) if first <= at else at
    return at


def _without(ranges: Sequence[_Range], first: int, following: int) -> Iterator[_Range]:
    """What sorted ranges leave of one."""
    for low, high in ranges:
        if first < min(low, following):
            yield first, min(low, following)
        first = max(first, high)
    if first < following:
        yield first, following


def _find(storage: Storage, log_dir: Path, journal_id: int) -> tuple[int, JournalExtent | None]:
    """The journal's size, and what it holds of an id."""
    try:
        file = storage.open_read(log_dir / JOURNAL_NAME)
    except FileNotFoundError:
        return 0, None
    try:
        size = file.size()
        return size, find_entries(file, size=size, journal_id=journal_id) if size else None
    finally:
        file.close()


def _is_new(storage: Storage, log_dir: Path) -> bool:
    """Whether there is nothing of a log: the first checkpoint is written before the first note, topic or table."""
    return (
        read_journal_note(storage, log_dir).journal_id is None
        and not newest_snapshots(storage, log_dir / TABLES_DIR)
        and not any(map(parse_partition_dir_name, storage.names(log_dir)))
    )
