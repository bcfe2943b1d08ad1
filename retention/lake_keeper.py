"""Lets old units leave the lake, where that is switched on; in steps that a kill may come between anywhere.

1. one commit: the offsets enter the ledger (`dropped`, but for those that are `lost` or `left_out` there), the files
are noted in the table `retention.dropping`, and the unit's row leaves the table of exports; 2. the files are deleted;
3. the note is removed. A start finishes what is noted, whatever the settings are by then. Between 1 and 3 a file may
stand in the lake whose offsets are `dropped`: the note says which.

Table `retention.dropping`: `<topic id>/<last window's number, 20 digits>` -> `{topic, files, reason, at_ms}`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

import structlog

from commitlog.base import Log, TableChange
from commitlog.committed import committed_from_row, committed_table
from commitlog.ledger import LEDGER_TABLE, LedgerEntry, additions, without
from core.clock import Clock, ClockState
from retention.lake_files import LakeFiles
from retention.lake_units import Drop, cutoff_date, to_drop
from retention.settings import RetentionSettings

LOOK_S: Final = 10.0
DROPPING_TABLE: Final = "retention.dropping"
EXPORTS_TABLE: Final = "exports"  # the sink's, `<topic id>/<last window's number, 20 digits>`
SINK: Final = "parquet"  # the one that writes the lake
_log = structlog.get_logger("headrace.retention")


class KeptLog(Log, Protocol):
    """What the keeper needs of the log beyond `Log`."""

    def rows_now(self, table: str) -> Mapping[str, Any]:
        """The durable rows of a table, not to be changed."""
        ...


class LakeKeeper:
    """See the module. Used on the event loop; files are looked at and deleted in a thread."""

    def __init__(
        self,
        log: KeptLog,
        files: LakeFiles,
        settings: RetentionSettings,
        clock: Clock,
        *,
        clock_state: Callable[[], ClockState],
        lake_bytes: Callable[[], int],
    ) -> None:
        """`lake_bytes`: what the lake takes, as last measured."""
        self.dropped_files: Counter[tuple[str, str]] = Counter()
        """By topic and reason, since the start; so are the bytes."""
        self.dropped_bytes: Counter[tuple[str, str]] = Counter()
        self._log = log
        self._files = files
        self._settings = settings
        self._clock = clock
        self._clock_state = clock_state
        self._lake_bytes = lake_bytes
        self._told: frozenset[str] = frozenset()

    @property
    def left_alone(self) -> int:
        """Files in the oldest folders that cannot be placed, and are therefore left where they are."""
        return len(self._files.left_alone)

    @property
    def on(self) -> bool:
        """Whether anything leaves the lake."""
        return bool(self._settings.lake_max_age_ms or self._settings.lake_max_bytes)

    async def look(self) -> None:
        """One round. Raises what the log or the disk raises; the next look begins anew."""
        await self._finish()
        if not self.on:
            return
        for drop in await self._decide():
            await self._drop(drop)
        self._tell_left_alone()

    async def _decide(self) -> Sequence[Drop]:
        clock_ok = self._clock_state() is ClockState.OK
        cutoff = cutoff_date(self._clock.time_ms(), self._settings.lake_max_age_ms) if clock_ok else None
        excess_bytes = await self._excess_bytes()
        if cutoff is None and not excess_bytes:
            return ()
        exports = dict(self._log.rows_now(EXPORTS_TABLE))
        units = await asyncio.to_thread(
            lambda: self._files.oldest_units(cutoff=cutoff, enough_bytes=excess_bytes, exports=exports)
        )
        committed = self._log.rows_now(committed_table(SINK))
        exported = {topic_id: committed_from_row(row).next_window for topic_id, row in committed.items()}
        return to_drop(units, cutoff=cutoff, excess_bytes=excess_bytes, exported=exported)

    async def _excess_bytes(self) -> int:
        """What the lake takes beyond its limit. Measured anew before it counts: files may have gone since the last."""
        limit_bytes = self._settings.lake_max_bytes
        if not limit_bytes or self._lake_bytes() <= limit_bytes:
            return 0
        return max(0, await asyncio.to_thread(self._files.size_bytes) - limit_bytes)

    async def _drop(self, drop: Drop) -> None:
        unit, now_ms = drop.unit, self._clock.time_ms()
        key = f"{unit.topic_id}/{unit.number:020}"
        note = {"topic": unit.topic, "files": sorted(unit.files), "reason": drop.reason.value, "at_ms": now_ms}
        changes = [
            *self._ledger_changes(drop, now_ms),
            TableChange(table=DROPPING_TABLE, key=key, value=note),
            TableChange(table=EXPORTS_TABLE, key=key, value=None),
        ]
        await self._log.append([], changes)
        await self._delete(key, note)
        place = unit.topic, drop.reason.value
        self.dropped_files[place] += len(unit.files)
        self.dropped_bytes[place] += unit.size_bytes
        _log.info(
            "files of the lake dropped",
            topic=unit.topic,
            windows=[unit.first_number, unit.number],
            files=len(unit.files),
            size_bytes=unit.size_bytes,
            reason=drop.reason.value,
        )

    def _ledger_changes(self, drop: Drop, now_ms: int) -> Iterator[TableChange]:
        unit = drop.unit
        rows = self._log.rows_now(LEDGER_TABLE)
        for partition, (first, following) in sorted(unit.offsets.items()):
            whole = LedgerEntry(
                topic=unit.topic,
                topic_id=unit.topic_id,
                partition=partition,
                first=first,
                next=following,
                state="dropped",
                reason=drop.reason.value,
                at_ms=now_ms,
            )
            for part_first, part_next in without(rows, whole, ("lost", "left_out")):
                yield from additions(rows, replace(whole, first=part_first, next=part_next))

    async def _finish(self) -> None:
        """Delete what was noted by a process that came no further."""
        for key, note in list(self._log.rows_now(DROPPING_TABLE).items()):
            _log.info("finishing what was begun", topic=note["topic"], files=len(note["files"]), reason=note["reason"])
            await self._delete(key, note)

    async def _delete(self, key: str, note: Mapping[str, Any]) -> None:
        await asyncio.to_thread(self._files.delete, note["files"])
        await self._log.append([], [TableChange(table=DROPPING_TABLE, key=key, value=None)])

    def _tell_left_alone(self) -> None:
        new = self._files.left_alone - self._told
        if new:
            _log.warning(
                "files of the lake are left alone",
                what="they do not say which offsets their rows come from, or of which unit they are",
                files=sorted(new)[:10],
                files_total=len(self._files.left_alone),
                mend="foreign files do not belong into the lake; older ones may be deleted by hand",
            )
        self._told = self._files.left_alone
