"""Snapshot files of state tables: a table written whole, and after it what changed since.

A file is `HRTABLE2` and blocks, each `uint32 length, uint32 CRC-32C of the rest, msgpack {key: packed value or nil}`.
The first block is the table; each one after it sets rows, or removes them (nil). So a checkpoint costs what changed and
not what there is: a window that closes adds some hundred bytes, however many there were. When the blocks of changes
have outgrown the table, it is written whole into a new file.

A block holds only what is durable in the journal, so one that a crash left behind the last checkpoint, whole or torn,
does no harm: the replay sets the same rows again, and reading ends at the first block that is not whole. The checkpoint
says how far there have to be whole ones; what is appended next goes there, over whatever a crash left behind. A file of
`HRTABLE1` is the CRC and one table, without increments.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import google_crc32c
import msgspec

from commitlog.storage import Storage, write_atomically

SNAPSHOT_MAGIC: Final = b"HRTABLE2"
OLD_SNAPSHOT_MAGIC: Final = b"HRTABLE1"
_OLD_CRC: Final = struct.Struct(">I")
_BLOCK: Final = struct.Struct(">II")
_MIN_GROWTH_BYTES: Final = 64 << 10  # a small table is not written whole again for less than that
_encode: Final = msgspec.msgpack.Encoder().encode
_decode_rows: Final = msgspec.msgpack.Decoder(dict[str, bytes | None]).decode

Rows = Mapping[str, bytes | None]


class SnapshotError(ValueError):
    """A snapshot file is damaged."""


@dataclass(slots=True)
class SnapshotFile:
    """A file that may grow: its name, the size of the whole table in it, and where the next block goes."""

    name: str
    base_bytes: int
    end: int

    def has_room(self, size: int) -> bool:
        """Whether changes of that size go behind it, rather than the table into a new file."""
        return self.end + size <= max(2 * self.base_bytes, self.base_bytes + _MIN_GROWTH_BYTES)


def encode_block(rows: Rows) -> bytes:
    """A block of a snapshot file."""
    body = _encode(rows)
    return _BLOCK.pack(len(body), google_crc32c.value(body)) + body


def write_whole(storage: Storage, directory: Path, name: str, rows: Rows) -> SnapshotFile:
    """A new file with a whole table, durably. Raises OSError."""
    data = SNAPSHOT_MAGIC + encode_block(rows)
    write_atomically(storage, directory / name, data)
    return SnapshotFile(name, len(data), len(data))


def append_block(storage: Storage, directory: Path, snapshot: SnapshotFile, block: bytes) -> None:
    """Put changes behind what there is, durably. Raises OSError."""
    file = storage.open(directory / snapshot.name)
    try:
        if file.size() > snapshot.end:  # left by a crash: nothing of it may stand behind the new block
            file.truncate(snapshot.end)
        file.write(block, snapshot.end)
        file.sync()
    finally:
        file.close()
    snapshot.end += len(block)


def read_blocks(storage: Storage, path: Path, position: int = 0) -> tuple[list[Rows], SnapshotFile]:
    """The blocks from a position on that an earlier call gave as `end` (0: all of them), and where they end.

    Raises SnapshotError when the table itself is damaged, OSError for an absent file.
    """
    file = storage.open_read(path)
    try:
        data = file.read(max(0, file.size() - position), position)
    finally:
        file.close()
    if position:
        blocks, end = _blocks(data, 0)
        return blocks, SnapshotFile(path.name, 0, position + end)
    if data.startswith(OLD_SNAPSHOT_MAGIC):
        return [_old(data, path.name)], SnapshotFile(path.name, 0, len(data) + _MIN_GROWTH_BYTES)  # never grows
    if not data.startswith(SNAPSHOT_MAGIC):
        raise SnapshotError(f"{path.name} is not a table snapshot of this version")
    blocks, end = _blocks(data, len(SNAPSHOT_MAGIC))
    if not blocks:
        raise SnapshotError(f"{path.name} fails its CRC")
    base_bytes = len(SNAPSHOT_MAGIC) + _BLOCK.size + _BLOCK.unpack_from(data, len(SNAPSHOT_MAGIC))[0]
    return blocks, SnapshotFile(path.name, base_bytes, end)


def _blocks(data: bytes, at: int) -> tuple[list[Rows], int]:
    blocks: list[Rows] = []
    while at + _BLOCK.size <= len(data):
        length, crc = _BLOCK.unpack_from(data, at)
        body = data[at + _BLOCK.size : at + _BLOCK.size + length]
        if not length or len(body) < length or google_crc32c.value(body) != crc:
            break
        blocks.append(_decode_rows(body))
        at += _BLOCK.size + length
    return blocks, at


def _old(data: bytes, name: str) -> Rows:
    body = data[len(OLD_SNAPSHOT_MAGIC) + _OLD_CRC.size :]
    if (
        len(data) < len(OLD_SNAPSHOT_MAGIC) + _OLD_CRC.size
        or google_crc32c.value(body) != _OLD_CRC.unpack_from(data, 8)[0]
    ):
        raise SnapshotError(f"{name} fails its CRC")
    rows: Rows = _decode_rows(body)
    return rows
