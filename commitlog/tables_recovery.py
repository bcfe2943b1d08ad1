"""State tables as of the checkpoint, as far as their snapshots can be read."""

from __future__ import annotations

from pathlib import Path

from commitlog.report import RecoveryReport
from commitlog.salvage import StartingPoint
from commitlog.storage import Storage
from commitlog.tables import TABLES_DIR, CommittedTables, SnapshotError


def load_tables(
    storage: Storage, log_dir: Path, start: StartingPoint, report: RecoveryReport
) -> tuple[CommittedTables, set[str]]:
    """The tables, and the names of those that are lost or older than the checkpoint says. Raises OSError."""
    tables, lost, checkpoint = CommittedTables(), set[str](), start.checkpoint
    for table, name in (checkpoint.tables if checkpoint else {}).items():
        try:
            tables.load(storage, log_dir / TABLES_DIR, {table: name}, checkpoint.table_bytes if checkpoint else None)
        except (SnapshotError, FileNotFoundError) as error:
            report.notes.append(f"state table {table!r} is lost: {error}")
            lost.add(table)
            continue
        wanted = checkpoint.table_bytes.get(table, 0) if checkpoint else 0
        if tables.snapshot_bytes[table] < wanted:
            report.notes.append(f"state table {table!r} is older than it should be: the end of {name} is damaged")
            lost.add(table)
    if start.salvaged:
        tables.begin_anew()
    return tables, lost
