"""State tables: small durable maps that change in the same commit as the records they belong to.

A table is a map from text keys to values that msgpack carries. A change rides in a journal entry; at a checkpoint what
changed since the last one goes to the table's snapshot, `<data>/log/tables/<table>-<sequence, 20 digits>.snapshot`
(see `snapshots`), and the checkpoint names the snapshots that belong together. Recovery loads those and applies the
journal's changes after them.

There are two copies of each table in memory: `LiveTables`, read on the event loop and changed there once the commit
that carries a change is durable; and `CommittedTables`, kept by the thread that writes segments, exactly as of the last
flushed commit. The second one holds packed values, so that a snapshot never waits for the loop nor the loop for a
snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from commitlog.journal import Change
from commitlog.snapshots import (
    SNAPSHOT_MAGIC,
    SnapshotError,
    SnapshotFile,
    append_block,
    encode_block,
    read_blocks,
    write_whole,
)
from commitlog.storage import Storage

__all__ = ["SNAPSHOT_MAGIC", "SnapshotError"]  # re-exported: part of what a table is
SNAPSHOT_SUFFIX: Final = ".snapshot"
TABLES_DIR: Final = "tables"
_SEQUENCE_DIGITS: Final = 20
_SNAPSHOT_TAIL_CHARS: Final = 1 + _SEQUENCE_DIGITS + len(SNAPSHOT_SUFFIX)
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder().decode


class LiveTables:
    """The tables as the event loop sees them: what is durable, whether or not it is flushed."""

    def __init__(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        self._tables: dict[str, dict[str, Any]] = {name: dict(table) for name, table in rows.items()}

    def rows(self, table: str) -> Mapping[str, Any]:
        """All rows of a table; empty for one nobody wrote. Not to be changed by the caller."""
        return self._tables.get(table, {})

    def apply(self, change: Change) -> None:
        """Set or remove one row."""
        table, key, value = change
        rows = self._tables.setdefault(table, {})
        if value is None:
            rows.pop(key, None)
        else:
            rows[key] = value


class CommittedTables:
    """The tables as of the last flushed commit, and which of them have a current snapshot on disk."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[str, bytes]] = {}
        self._changed: dict[str, dict[str, bytes | None]] = {}
        self._files: dict[str, SnapshotFile] = {}

    @property
    def snapshots(self) -> Mapping[str, str]:
        """The snapshot file of each table: what a checkpoint has to name."""
        return {table: file.name for table, file in self._files.items()}

    @property
    def snapshot_bytes(self) -> Mapping[str, int]:
        """How far each of them holds whole blocks."""
        return {table: file.end for table, file in self._files.items()}

    def apply(self, changes: Iterable[Change]) -> None:
        """Take over the changes of a commit."""
        for table, key, value in changes:
            rows = self._tables.setdefault(table, {})
            packed = None if value is None else _encode(value)
            _set(rows, key, packed)
            self._changed.setdefault(table, {})[key] = packed

    def load(
        self,
        storage: Storage,
        directory: Path,
        snapshots: Mapping[str, str],
        durable_bytes: Mapping[str, int] | None = None,
    ) -> None:
        """Read the snapshots that a checkpoint names. Raises SnapshotError or OSError.

        `durable_bytes`, as the checkpoint has it: blocks behind that are taken for changes, to be written again in
        their place. The sync of such a block may have failed, and what is put behind it would be lost with it.
        """
        for table, name in snapshots.items():
            self._tables[table], file = _read(storage, directory / name)
            self._files[table] = file
            durable = (durable_bytes or {}).get(table, 0)
            if 0 < durable < file.end:
                for block in read_blocks(storage, directory / name, durable)[0]:
                    self._changed.setdefault(table, {}).update(block)
                file.end = durable

    def begin_anew(self) -> None:
        """Write every table whole into a new file next: nobody knows how far the files there are durable.

        A block whose sync has failed can be read, and a power cut takes it with everything behind it.
        """
        self._files.clear()
        for table in self._tables:
            self._changed.setdefault(table, {})

    def write_snapshots(self, storage: Storage, directory: Path, sequence: int) -> None:
        """Write what changed of every table; `snapshots` names what a checkpoint at `sequence` has to refer to."""
        for table, changes in sorted(self._changed.items()):
            block = encode_block(changes)
            file = self._files.get(table)
            if file is not None and file.has_room(len(block)):
                append_block(storage, directory, file, block)
                continue
            name = f"{table}-{sequence:0{_SEQUENCE_DIGITS}}{SNAPSHOT_SUFFIX}"
            self._files[table] = write_whole(storage, directory, name, self._tables[table])
        self._changed.clear()

    def decoded(self) -> dict[str, dict[str, Any]]:
        """All tables with their values unpacked: what the event loop starts from."""
        return {name: {key: _decode(value) for key, value in rows.items()} for name, rows in self._tables.items()}


def read_snapshot(storage: Storage, path: Path, *, at_least_bytes: int = 0) -> Mapping[str, bytes]:
    """The packed rows of one snapshot file.

    Raises SnapshotError for one that is damaged, or whole for less than the bytes that a checkpoint counts on, OSError
    for an absent one.
    """
    rows, file = _read(storage, path)
    if file.end < at_least_bytes:
        raise SnapshotError(f"{path.name} is whole up to byte {file.end} of {at_least_bytes}")
    return rows


def _read(storage: Storage, path: Path) -> tuple[dict[str, bytes], SnapshotFile]:
    blocks, file = read_blocks(storage, path)
    rows: dict[str, bytes] = {}
    for block in blocks:
        for key, value in block.items():
            _set(rows, key, value)
    return rows, file


def _set(rows: dict[str, bytes], key: str, packed: bytes | None) -> None:
    if packed is None:
        rows.pop(key, None)
    else:
        rows[key] = packed


def unpack(value: bytes) -> Any:
    """A row's value from its packed form."""
    return _decode(value)


def newest_snapshots(storage: Storage, directory: Path) -> Mapping[str, str]:
    """The newest snapshot file of each table: what to go on from when no checkpoint names any."""
    return {
        name[:-_SNAPSHOT_TAIL_CHARS]: name
        for name in storage.names(directory)  # sorted, so the highest sequence comes last
        if name.endswith(SNAPSHOT_SUFFIX) and snapshot_sequence(name) is not None
    }


def snapshot_sequence(name: str) -> int | None:
    """The sequence in a snapshot file's name."""
    digits = name[-_SNAPSHOT_TAIL_CHARS + 1 : -len(SNAPSHOT_SUFFIX)]
    return int(digits) if len(digits) == _SEQUENCE_DIGITS and digits.isdigit() else None


def remove_unnamed_snapshots(storage: Storage, log_dir: Path, named: Sequence[str]) -> None:
    """Remove table snapshots that no checkpoint refers to: left by a crash between writing and checkpointing."""
    tables_dir = log_dir / TABLES_DIR
    for name in storage.names(tables_dir):
        if name.endswith(SNAPSHOT_SUFFIX) and name not in named:
            storage.remove(tables_dir / name)
