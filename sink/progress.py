"""What a sink has exported, as it stands in the log's state tables.

Table `sink.<name>`: its committed offsets (`commitlog.committed`).
Table `exports`: `<topic id>/<window number, 20 digits>` -> what became of the window (`export_row`); the rows of the
newest `EXPORTS_KEPT` windows of a topic are kept. Both change in one commit, the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from commitlog.base import ClosedWindow, TableChange
from commitlog.committed import Committed, committed_row, committed_table
from sink.base import Export, Missing

EXPORTS_TABLE: Final = "exports"
EXPORTS_KEPT: Final = 1_000  # per topic: six weeks of hourly windows, some MB in memory


def after(committed: Committed, window: ClosedWindow) -> Committed:
    """The committed offsets once `window` is exported."""
    reached = {partition: following for partition, (_, following) in window.offsets.items()}
    return Committed(next_window=window.number + 1, offsets={**committed.offsets, **reached})


def unseen(committed: Committed, window: ClosedWindow) -> Iterator[Missing]:
    """Offsets between what is committed and the window: they were in no window that the log still has."""
    for partition, (first, _) in sorted(window.offsets.items()):
        reached = committed.offset(partition)
        if reached < first:
            yield Missing(partition=partition, first=reached, next=first, reason="in no window the log still has")


def export_row(window: ClosedWindow, export: Export, exported_at_ms: int) -> dict[str, Any]:
    """A row of `exports`. `rows` counts decoded rows, `records` all rows of the files, quarantine included."""
    return {
        "topic": window.topic,
        "number": window.number,
        "start_ms": window.start_ms,
        "end_ms": window.end_ms,
        "files": [
            {"path": file.path, "rows": file.rows, "bytes": file.size_bytes, "date": file.date} for file in export.files
        ],
        "records": export.records,
        "rows": export.rows,
        "quarantined": sum(export.quarantined.values()),
        "quarantine_reasons": dict(export.quarantined),
        "lost": [_range(each) for each in export.lost],
        "left_out": [_range(each) for each in export.left_out],
        "clashes": dict(export.clashes),
        "exported_at_ms": exported_at_ms,
    }


def checkpoint(
    sink: str, window: ClosedWindow, export: Export | None, committed: Committed, now_ms: int
) -> list[TableChange]:
    """The changes that record a window as exported; `export` is None for a window with nothing in it."""
    position = committed_row(window.topic, committed, now_ms)
    changes = [TableChange(table=committed_table(sink), key=window.topic_id, value=position)]
    if export is not None:
        row = export_row(window, export, now_ms)
        changes.append(TableChange(table=EXPORTS_TABLE, key=_key(window.topic_id, window.number), value=row))
    if window.number >= EXPORTS_KEPT:
        old = _key(window.topic_id, window.number - EXPORTS_KEPT)
        changes.append(TableChange(table=EXPORTS_TABLE, key=old, value=None))
    return changes


def _range(missing: Missing) -> list[Any]:
    return [missing.partition, missing.first, missing.next, missing.reason]


def _key(topic_id: str, number: int) -> str:
    return f"{topic_id}/{number:020}"
