"""Replay: what was acknowledged after the last checkpoint goes from the journal into segments and tables.

The segments may hold some of it already, since they are written behind the journal all the time; a batch that is there
is not written again, and one that is there in part only from where it ends. Damaged entries in the middle are stepped
over: what they alone held is reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from commitlog.batch import CorruptBatchError, RawBatch, parse_header, rebuild_from
from commitlog.checkpoint import Checkpoint
from commitlog.journal import JournalBatch, JournalEntry
from commitlog.journal_scan import entries_through_damage
from commitlog.partition_recovery import RecoveredPartition, append_behind
from commitlog.report import Cut, RecoveryReport
from commitlog.storage import Storage
from commitlog.tables import CommittedTables

JOURNAL_NAME: Final = "journal"


def replay(
    storage: Storage,
    log_dir: Path,
    checkpoint: Checkpoint | None,
    partitions: Sequence[RecoveredPartition],
    tables: CommittedTables,
    report: RecoveryReport,
    *,
    changes_from: int = 0,
) -> tuple[int, int]:
    """Apply the journal after the checkpoint; returns the next sequence and the newest timestamp replayed.

    Table changes of entries before `changes_from` are left out (see `salvage`).
    """
    if checkpoint is None:
        return 1, 0
    if checkpoint.clean:  # everything was in segments and tables
        return checkpoint.next_sequence, 0
    try:
        file = storage.open_read(log_dir / JOURNAL_NAME)
    except FileNotFoundError:
        report.notes.append("the journal is missing: what was committed after the last checkpoint is lost")
        return checkpoint.next_sequence, 0
    by_id = {(bytes.fromhex(one.files.topic.topic_id), one.files.partition): one for one in partitions}
    sequence, newest_ms = checkpoint.next_sequence, 0
    try:
        for entry in entries_through_damage(
            file,
            size=checkpoint.journal_size,
            journal_id=checkpoint.journal_id,
            sequence=sequence,
            position=checkpoint.journal_position,
        ):
            if entry.sequence > sequence:
                report.notes.append(_missing_entries(sequence, entry.sequence, changes_from))
            newest_ms = max(newest_ms, _replay_entry(entry, by_id, report))
            if entry.sequence >= changes_from:
                tables.apply(entry.changes)
            sequence = entry.sequence + 1
            report.entries_replayed += 1
    finally:
        file.close()
    return sequence, newest_ms


def _replay_entry(
    entry: JournalEntry,
    by_id: Mapping[tuple[bytes, int], RecoveredPartition],
    report: RecoveryReport,
) -> int:
    """Put an entry's batches into segments unless they are there already; returns the newest timestamp."""
    newest_ms = 0
    for batch in entry.batches:
        partition = by_id.get((batch.topic_id, batch.partition))
        if partition is None:
            report.notes.append(
                f"journal entry {entry.sequence} names a partition that is not there: {batch.partition}"
            )
            continue
        newest_ms = max(newest_ms, _replay_batch(batch, partition, report))
    return newest_ms


def _missing_entries(first: int, following: int, changes_from: int) -> str:
    what = f"journal entries {first} to {following - 1} are"
    if following <= changes_from:
        return f"{what} not there, overwritten or damaged: state tables are those of the snapshots and of what follows"
    return (
        f"{what} damaged: what no segment holds of them is in the list of cuts, their changes of state tables are lost"
    )


def _replay_batch(batch: JournalBatch, partition: RecoveredPartition, report: RecoveryReport) -> int:
    files = partition.files
    data = bytes(batch.data)
    header = parse_header(data)
    if header is None:
        raise CorruptBatchError("a journal entry with a valid CRC holds a batch that is cut off")
    if header.last_offset < files.next_offset:
        return header.max_timestamp_ms
    if header.base_offset < files.next_offset:
        cut = rebuild_from(RawBatch(header, data), files.next_offset, header.leader_epoch)
        header, data = cut.header, cut.data
    if header.base_offset > files.next_offset:
        append_behind(partition, report, below=header.base_offset)
    if header.base_offset > files.next_offset:
        report.cuts.append(
            Cut(
                topic=files.topic.name,
                partition=files.partition,
                first=files.next_offset,
                next=header.base_offset,
                reason="neither in a segment nor in the journal",
                start_ms=partition.newest_ms or None,
                end_ms=header.first_timestamp_ms,
            )
        )
    files.append(data, header.base_offset, header.last_offset - header.base_offset + 1, header.max_timestamp_ms)
    partition.newest_ms = max(partition.newest_ms, header.max_timestamp_ms)
    report.records_replayed += header.record_count
    return header.max_timestamp_ms
