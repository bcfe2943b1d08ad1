"""What a sink has exported, as it stands in the log's state tables.

Table `sink.<name>`: its committed offsets (`commitlog.committed`).
Table `exports`: `<topic id>/<window number, 20 digits>` -> what became of the window (`export_row`); the rows of the
newest `EXPORTS_KEPT` windows of a topic are kept. Both change in one commit, the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from commitlog.base import TableChange
from commitlog.committed import Committed, committed_row, committed_table
from commitlog.ledger import Ledger, LedgerEntry, LedgerState
from sink.base import Export, ExportedFile, ExportWindow, Missing

EXPORTS_TABLE: Final = "exports"
_STATES: Final[tuple[LedgerState, ...]] = ("lost", "left_out")
EXPORTS_KEPT: Final = 1_000  # per topic: six weeks of hourly windows, some MB in memory


def after(committed: Committed, window: ExportWindow, notes: Sequence[str] | None = None) -> Committed:
    """The committed offsets once `window` is exported; `notes` of None leaves those there are."""
    reached = {partition: following for partition, (_, following) in window.offsets.items()}
    return Committed(
        next_window=window.number + 1,
        offsets={**committed.offsets, **reached},
        notes=committed.notes if notes is None else notes,
    )


def unseen(committed: Committed, window: ExportWindow) -> Iterator[Missing]:
    """Offsets between what is committed and the window: they were in no window that the log still has."""
    for partition, (first, _) in sorted(window.offsets.items()):
        reached = committed.offset(partition)
        if reached < first:
            yield Missing(partition=partition, first=reached, next=first, reason="in no window the log still has")


def export_row(window: ExportWindow, export: Export, exported_at_ms: int) -> dict[str, Any]:
    """A row of `exports`. `rows` counts decoded rows, `records` all rows of the files, quarantine included."""
    return {
        "topic": window.topic,
        "first_number": window.first_number,
        "number": window.number,
        "start_ms": window.start_ms,
        "end_ms": window.end_ms,
        "files": [file_row(file) for file in export.files],
        "records": export.records,
        "rows": export.rows,
        "quarantined": sum(export.quarantined.values()),
        "quarantine_reasons": dict(export.quarantined),
        "lost": [_range(each) for each in export.lost],
        "left_out": [_range(each) for each in export.left_out],
        "clashes": dict(export.clashes),
        "exported_at_ms": exported_at_ms,
    }


def file_row(file: ExportedFile) -> dict[str, Any]:
    """A file as it stands in a row of `exports`."""
    return {
        "path": file.path,
        "kind": file.kind,
        "rows": file.rows,
        "bytes": file.size_bytes,
        "crc32c": file.crc32c,
        "date": file.date,
    }


def checkpoint(
    sink: str, window: ExportWindow, export: Export | None, committed: Committed, ledger: Ledger, now_ms: int
) -> list[TableChange]:
    """The changes that record a window as exported; `export` is None for a window with nothing in it.

    What is in no file is entered in the ledger, which is kept, while rows of `exports` are not for ever.
    """
    position = committed_row(window.topic, committed, now_ms)
    changes = [TableChange(table=committed_table(sink), key=window.topic_id, value=position)]
    if export is not None:
        row = export_row(window, export, now_ms)
        changes.append(TableChange(table=EXPORTS_TABLE, key=export_key(window.topic_id, window.number), value=row))
        changes += _entered(ledger, window, "lost", export.lost, now_ms)
        changes += _entered(ledger, window, "left_out", export.left_out, now_ms)
    for number in range(max(0, window.first_number - EXPORTS_KEPT), max(0, window.number - EXPORTS_KEPT + 1)):
        changes.append(TableChange(table=EXPORTS_TABLE, key=export_key(window.topic_id, number), value=None))
    return changes


def _entered(
    ledger: Ledger, window: ExportWindow, state: LedgerState, missing: Sequence[Missing], now_ms: int
) -> Iterator[TableChange]:
    for each in sorted(missing, key=lambda one: (one.partition, one.first)):
        change = ledger.enter(ledger_entry(window, state, each, now_ms))
        if change is not None:
            yield change


def restored(exports: Mapping[str, Any], ledger: Ledger) -> Iterator[TableChange]:
    """What rows of `exports` list as lost or left out, and the ledger does not have: it is lost, or of an older day."""
    for key in sorted(exports):
        row = exports[key]
        for state in _STATES:
            for partition, first, following, reason in row[state]:
                entry = LedgerEntry(
                    topic=row["topic"],
                    topic_id=key.partition("/")[0],
                    partition=partition,
                    first=first,
                    next=following,
                    state=state,
                    reason=reason,
                    at_ms=row["exported_at_ms"],
                )
                change = ledger.enter(entry)
                if change is not None:
                    yield change


def ledger_entry(window: ExportWindow, state: LedgerState, missing: Missing, now_ms: int) -> LedgerEntry:
    """What the ledger says of offsets that are in no file."""
    return LedgerEntry(
        topic=window.topic,
        topic_id=window.topic_id,
        partition=missing.partition,
        first=missing.first,
        next=missing.next,
        state=state,
        reason=missing.reason,
        at_ms=now_ms,
    )


def _range(missing: Missing) -> list[Any]:
    return [missing.partition, missing.first, missing.next, missing.reason]


def export_key(topic_id: str, number: int) -> str:
    """The key of a window's row in `exports`."""
    return f"{topic_id}/{number:020}"
