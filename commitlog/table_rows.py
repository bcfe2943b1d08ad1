"""Rows of state tables read from outside, without a lock: for tools, beside a running appliance or without one.

Where a writer lives it is asked, over the local channel. Where none does, or it does not answer, the files say it: the
snapshots that the checkpoint names, and then the changes that the journal holds beyond it, as recovery would put them
together. Nothing is written. Tables that are asked for together are read in their order, each no earlier than the one
before: what was committed with a row of the first stands in the others, and later rows may stand there, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from commitlog.checkpoint import Checkpoint
from commitlog.journal_scan import entries_through_damage
from commitlog.look import LogLook, look_at, unreadable
from commitlog.remote import RemoteLog
from commitlog.replay import JOURNAL_NAME
from commitlog.salvage import without_checkpoint
from commitlog.storage import LOG_DIR, RUN_DIR, Storage, SystemStorage
from commitlog.tables import TABLES_DIR, CommittedTables, SnapshotError
from core.channel import ChannelClient
from core.clock import Clock, SystemClock
from core.errors import HeadraceError, UnavailableError

SOCKET_NAME: Final = "edge.sock"
_TRIES: Final = 8  # a writer that lives and does not answer replaces its checkpoint every few seconds at most


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRows:
    """Rows of tables, by table and key. `problems` says what could not be read, by table."""

    rows: Mapping[str, Mapping[str, Any]]
    problems: Mapping[str, str]


def read_tables(
    data_dir: Path, tables: Sequence[str], *, storage: Storage | None = None, clock: Clock | None = None
) -> TableRows:
    """The rows of some tables. Blocks; not to be called on an event loop.

    Raises DataDirError when there is no log or it may not be read, UnavailableError when it changes faster than it can
    be read.
    """
    storage, clock = storage or SystemStorage(), clock or SystemClock()
    look = look_at(storage, data_dir, clock)
    if look.live:
        answered = asyncio.run(_asked(data_dir, tables))
        if answered is not None:
            return TableRows(rows=answered, problems={})
    try:
        return _from_files(storage, data_dir, tables, clock, look)
    except OSError as error:
        raise unreadable(error, data_dir / LOG_DIR) from error


def read_rows(
    data_dir: Path, table: str, *, storage: Storage | None = None, clock: Clock | None = None
) -> Mapping[str, Any]:
    """The rows of one table by key; empty where nobody wrote it. Raises as `read_tables`, and for damage."""
    found = read_tables(data_dir, [table], storage=storage, clock=clock)
    if table in found.problems:
        raise UnavailableError(
            f"state table {table!r} cannot be read: {found.problems[table]}",
            where=str(data_dir / LOG_DIR / TABLES_DIR),
            mend="`headrace log check` says what is damaged",
        )
    return found.rows[table]


async def _asked(data_dir: Path, tables: Sequence[str]) -> Mapping[str, Mapping[str, Any]] | None:
    """What the writer says; None when it does not answer, or the table is too large for one answer."""
    channel = ChannelClient(data_dir / RUN_DIR / SOCKET_NAME)
    log = RemoteLog(channel)
    try:
        return {table: await log.rows(table) for table in tables}
    except HeadraceError:
        return None  # the files say the same
    finally:
        await channel.close()


def _from_files(storage: Storage, data_dir: Path, tables: Sequence[str], clock: Clock, look: LogLook) -> TableRows:
    for _ in range(_TRIES):
        found = _once(storage, data_dir / LOG_DIR, tables, look)
        before, look = look, look_at(storage, data_dir, clock)
        if look.checkpoint == before.checkpoint:
            return found
    raise UnavailableError("the state tables change faster than they can be read", where=str(data_dir / LOG_DIR))


def _once(storage: Storage, log_dir: Path, tables: Sequence[str], look: LogLook) -> TableRows:
    checkpoint, changes_from = look.checkpoint, 0
    if checkpoint is None:
        point, _ = without_checkpoint(storage, log_dir, 0)
        checkpoint, changes_from = point.checkpoint, point.changes_from
    committed, problems = CommittedTables(), dict[str, str]()
    if checkpoint is not None:
        for table in tables:
            name = checkpoint.tables.get(table)
            problem = "" if name is None else _load(storage, log_dir, committed, table, name, checkpoint)
            if problem:
                problems[table] = problem
        _replay(storage, log_dir, committed, frozenset(tables), checkpoint, changes_from)
    decoded = committed.decoded()
    return TableRows(rows={table: decoded.get(table, {}) for table in tables}, problems=problems)


def _load(
    storage: Storage, log_dir: Path, committed: CommittedTables, table: str, name: str, checkpoint: Checkpoint
) -> str:
    """Take over a snapshot; what is wrong with it, or nothing."""
    try:
        committed.load(storage, log_dir / TABLES_DIR, {table: name})
    except (SnapshotError, msgspec.MsgspecError) as error:
        return str(error)
    except FileNotFoundError:
        return f"{name} is missing"
    durable = checkpoint.table_bytes.get(table, 0)
    if committed.snapshot_bytes[table] < durable:
        return f"{name} is whole up to byte {committed.snapshot_bytes[table]} of {durable}"
    return ""


def _replay(
    storage: Storage,
    log_dir: Path,
    committed: CommittedTables,
    tables: frozenset[str],
    checkpoint: Checkpoint,
    changes_from: int,
) -> None:
    """Apply what the journal holds beyond the checkpoint; damaged entries are passed over, as recovery does."""
    if checkpoint.clean:
        return
    try:
        file = storage.open_read(log_dir / JOURNAL_NAME)
    except FileNotFoundError:
        return
    try:
        for entry in entries_through_damage(
            file,
            size=checkpoint.journal_size,
            journal_id=checkpoint.journal_id,
            sequence=checkpoint.next_sequence,
            position=checkpoint.journal_position,
        ):
            if entry.sequence >= changes_from:
                committed.apply([change for change in entry.changes if change[0] in tables])
    finally:
        file.close()
