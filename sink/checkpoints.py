"""What the runner reads from the log's tables when it starts, and records there of each export: `sink.progress` in use.

The tables are the truth. While a change of them is under way, and after one that failed, they have to be read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import structlog

from commitlog.base import Log
from commitlog.committed import committed_from_row, committed_table
from commitlog.ledger import LEDGER_TABLE, Ledger, LedgerState, without
from core.clock import Clock
from sink.base import Export, ExportWindow, Missing
from sink.metrics import SinkMetrics
from sink.progress import EXPORTS_TABLE, after, checkpoint, ledger_entry, restored, unseen
from sink.requests import flush_done
from sink.turns import Turn, Turns

_log: Final = structlog.get_logger("headrace.sink")
_EXPLAINED: Final[Sequence[LedgerState]] = ("lost", "left_out", "dropped")  # offsets that need no other explanation
_RANGES_TOLD: Final = 10  # of lost offsets, in one line of the log


class Checkpoints:
    """The progress of one sink, as the log's tables have it."""

    def __init__(self, sink_name: str, *, log: Log, clock: Clock, metrics: SinkMetrics) -> None:
        self.loaded = False
        """Whether the turns are as the tables have it."""
        self._sink_name = sink_name
        self._log = log
        self._clock = clock
        self._metrics = metrics
        self._ledger = Ledger({})

    async def load(self, turns: Turns) -> None:
        """Put the turns where the tables say, unless they are there."""
        if self.loaded:
            return
        for topic_id, row in (await self._log.rows(committed_table(self._sink_name))).items():
            turn = turns.at(topic_id)
            turn.committed, turn.recorded = committed_from_row(row), True
        self._ledger = await self._whole_ledger()
        self.loaded = True

    async def _whole_ledger(self) -> Ledger:
        """The ledger, with what the rows of `exports` say of it should it be lost."""
        ledger = Ledger(await self._log.rows(LEDGER_TABLE))
        changes = list(restored(await self._log.rows(EXPORTS_TABLE), ledger))
        if changes:
            _log.warning("the ledger is mended", what="it did not have what exports list as lost", entries=len(changes))
            await self._log.append([], changes)
        return ledger

    async def unseen(self, turn: Turn, window: ExportWindow) -> Sequence[Missing]:
        """Offsets between what is committed and the window, but for those of which the ledger knows where they are."""
        skipped = tuple(unseen(turn.committed, window))
        if not skipped:
            return ()
        rows = await self._log.rows(LEDGER_TABLE)
        return [
            replace(each, first=first, next=following)
            for each in skipped
            for first, following in without(rows, ledger_entry(window, "lost", each, 0), _EXPLAINED)
        ]

    async def record(self, turn: Turn, window: ExportWindow, export: Export, flush_through: int | None) -> None:
        """Make it durable that a window is exported, in one commit; a request to flush up to it ends there."""
        reached = after(turn.committed, window, export.notes)
        now_ms = self._clock.time_ms()
        told = export if window.span or export.lost else None
        changes = checkpoint(self._sink_name, window, told, reached, self._ledger, now_ms)
        if flush_through is not None and flush_through < reached.next_window:
            changes.append(flush_done(window.topic_id))
        self.loaded = False  # until this is known to stand, the tables say what is exported and not this object
        await self._log.append([], changes)
        self.loaded = True
        turn.committed, turn.recorded = reached, True
        turn.ahead = [later for later in turn.ahead or () if later.number > window.number]
        self._metrics.exported(window.topic, export, now_ms)
        _tell(window, export)


def _tell(window: ExportWindow, export: Export) -> None:
    facts: dict[str, object] = {"topic": window.topic, "window": window.number}
    facts |= {"rows": export.rows, "files": len(export.files)}
    if export.taken_over:
        facts["taken_over"] = True
    if export.quarantined:
        facts["quarantined"] = sum(export.quarantined.values())
    if export.lost:
        ranges = [(lost.partition, lost.first, lost.next, lost.reason) for lost in export.lost[:_RANGES_TOLD]]
        _log.error("records lost before export", **facts, ranges=ranges, ranges_total=len(export.lost))
    else:
        _log.info("window exported", **facts)
