"""The checkpoint: from where recovery has to look.

`<data>/log/checkpoint` is replaced atomically whenever segments up to some commit are synced. It says which journal
holds what came after (id, size, position, next sequence), how far each partition's files are durable, which table
snapshots belong to it, the leader epoch, whether the log was closed in order, and how many records acknowledged at a
weaker durability than `fsync` a power cut may have taken since. A file: 8 bytes `HRCKPT01`, uint32
CRC-32C of the rest, msgpack of `Checkpoint`.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

import google_crc32c
import msgspec

from commitlog.storage import Storage, read_whole, write_atomically

CHECKPOINT_NAME: Final = "checkpoint"
CHECKPOINT_MAGIC: Final = b"HRCKPT01"
_CRC: Final = struct.Struct(">I")


class CheckpointError(ValueError):
    """The checkpoint file is damaged or of another version."""


class PartitionPoint(msgspec.Struct, frozen=True, kw_only=True):
    """How far one partition is durable: its active segment (-1: none) and synced sizes, and offsets never to reuse."""

    topic: str
    topic_id: bytes
    partition: int
    log_start: int
    next_offset: int
    segment: int
    log_bytes: int
    index_bytes: int
    timeindex_bytes: int


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """See the module."""

    journal_id: int
    journal_size: int
    journal_position: int
    next_sequence: int
    leader_epoch: int
    last_timestamp_ms: int
    clean: bool
    partitions: list[PartitionPoint]
    tables: dict[str, str]
    unsynced_records: int = 0
    table_bytes: dict[str, int] = msgspec.field(default_factory=dict)


_decode: Final = msgspec.msgpack.Decoder(Checkpoint).decode


def write_checkpoint(storage: Storage, log_dir: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint durably."""
    body = msgspec.msgpack.encode(checkpoint)
    data = CHECKPOINT_MAGIC + _CRC.pack(google_crc32c.value(body)) + body
    write_atomically(storage, log_dir / CHECKPOINT_NAME, data)


def read_checkpoint(storage: Storage, log_dir: Path) -> Checkpoint | None:
    """The checkpoint, None if there is none yet. Raises CheckpointError."""
    try:
        data = read_whole(storage, log_dir / CHECKPOINT_NAME)
    except FileNotFoundError:
        return None
    start = len(CHECKPOINT_MAGIC) + _CRC.size
    if len(data) < start or data[: len(CHECKPOINT_MAGIC)] != CHECKPOINT_MAGIC:
        raise CheckpointError("the checkpoint is not one of this version")
    body = data[start:]
    if _CRC.unpack_from(data, len(CHECKPOINT_MAGIC))[0] != google_crc32c.value(body):
        raise CheckpointError("the checkpoint fails its CRC")
    try:
        return _decode(body)
    except msgspec.MsgspecError as error:
        raise CheckpointError(f"the checkpoint cannot be read: {error}") from error
