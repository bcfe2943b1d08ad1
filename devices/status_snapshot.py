"""The file of a status snapshot: what the view knew, and up to which offsets.

A snapshot is taken while the view goes on being fed, in blocks of some hundred devices, each copied in one piece. So
each block says for itself which records its devices hold: `fed`, the next offset of every partition at the moment of
the copy. What is read again after a restart begins where the head says, before the first block was copied; records that
a device's own block covers are passed over. A device that is in no block is made by the records after the head.

The file (docs/formats.md): `HRSTAT01`, then blocks of `uint32 length, uint32 CRC-32C, zstd of msgpack`: the head, the
blocks of devices, and an end that counts them. Without its end, or with any CRC wrong, the whole file is nothing:
it is read only to save reading the log. What would be read differently gets another number in its first bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

import google_crc32c
import msgspec
import zstandard

from commitlog.storage import Storage
from devices.status_model import Place
from devices.status_rows import DeviceRow

MAGIC: Final = b"HRSTAT01"
_BLOCK: Final = struct.Struct(">II")
_LEVEL: Final = 3  # a tenth of the size; a disk is worn by what is written each minute
_MAX_BLOCK_BYTES: Final = 64 << 20  # unfolded: some hundred devices at their limits take a few megabytes

FedRow = tuple[str, int, int]
"""Topic, partition, and the next offset to feed."""

_Block = TypeVar("_Block")


class SnapshotError(ValueError):
    """A snapshot that cannot be used; says why."""


class SnapshotTopic(msgspec.Struct, frozen=True, kw_only=True):
    """A topic that was followed: its id, and how its payloads were read."""

    topic_id: str
    sequence_field: str
    timestamp_field: str


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for the whole: whose log it is, and where reading goes on."""

    topics: dict[str, SnapshotTopic]
    fed: list[FedRow]
    complete: list[bool]
    evicted: int
    taken_ms: int


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """Some devices; their rows name partitions by their place in `fed`."""

    fed: list[FedRow]
    rows: list[DeviceRow]


class End(msgspec.Struct, frozen=True, kw_only=True):
    """Closes a snapshot: devices in it, and which partitions of events were still complete when it ended."""

    devices: int
    complete: list[bool]


_encode: Final = msgspec.msgpack.Encoder().encode
_decode_head: Final = msgspec.msgpack.Decoder(Head)
_decode_block: Final = msgspec.msgpack.Decoder(Block)
_decode_end: Final = msgspec.msgpack.Decoder(End)


def places_of(fed: Sequence[FedRow]) -> list[Place]:
    """The partitions of a list, in its order."""
    return [Place(topic, partition) for topic, partition, _ in fed]


class SnapshotWriter:
    """Writes a snapshot beside the one there is, and takes its place when it is whole and on disk.

    All methods raise OSError; a writer that failed, or is not finished, leaves the old snapshot as it was.
    """

    def __init__(self, storage: Storage, path: Path, head: Head) -> None:
        self._storage = storage
        self._path = path
        self._fresh = path.with_name(path.name + ".tmp")
        self._compress = zstandard.ZstdCompressor(level=_LEVEL).compress
        self._devices = 0
        storage.make_dir(path.parent)
        self._file = storage.open(self._fresh, create=True)
        self._open = True
        self.size_bytes = 0
        try:
            self._file.truncate(0)
            self._file.write(MAGIC, 0)
            self.size_bytes = len(MAGIC)
            self._put(_encode(head))
        except BaseException:
            self.abandon()
            raise

    def add(self, block: Block) -> None:
        """Put a block behind those before."""
        self._devices += len(block.rows)
        self._put(_encode(block))

    def finish(self, complete: Sequence[bool]) -> None:
        """The snapshot is whole: make it durable and put it in its place."""
        self._put(_encode(End(devices=self._devices, complete=list(complete))))
        self._file.sync()
        self._close()
        self._storage.rename(self._fresh, self._path)
        self._storage.sync_dir(self._path.parent)

    def abandon(self) -> None:
        """Give up; what was written is removed."""
        self._close()
        self._storage.remove(self._fresh)

    def _close(self) -> None:
        if self._open:
            self._open = False
            self._file.close()

    def _put(self, body: bytes) -> None:
        packed = self._compress(body)
        block = _BLOCK.pack(len(packed), google_crc32c.value(packed)) + packed
        self._file.write(block, self.size_bytes)
        self.size_bytes += len(block)


class Snapshot:
    """A whole snapshot: its head and end are read, its blocks are unfolded one by one."""

    def __init__(self, data: bytes) -> None:
        """Check every CRC. Raises SnapshotError."""
        self._bodies = _bodies(data)
        if len(self._bodies) < 2:
            raise SnapshotError("it has no head and end")
        self._unfold = zstandard.ZstdDecompressor()
        self.head = self._read(self._bodies[0], _decode_head)
        self.end = self._read(self._bodies[-1], _decode_end)

    def blocks(self) -> Iterator[Block]:
        """The devices. Raises SnapshotError."""
        devices = 0
        for body in self._bodies[1:-1]:
            block = self._read(body, _decode_block)
            devices += len(block.rows)
            yield block
        if devices != self.end.devices:
            raise SnapshotError(f"it holds {devices} devices, not the {self.end.devices} that its end counts")

    def _read(self, body: bytes, decoder: msgspec.msgpack.Decoder[_Block]) -> _Block:
        try:
            if zstandard.frame_content_size(body) > _MAX_BLOCK_BYTES:
                raise SnapshotError(f"a block unfolds to more than {_MAX_BLOCK_BYTES} bytes")
            return decoder.decode(self._unfold.decompress(body))
        except (zstandard.ZstdError, msgspec.MsgspecError) as error:
            raise SnapshotError(f"a block cannot be read: {error}") from error


def _bodies(data: bytes) -> list[bytes]:
    if not data.startswith(MAGIC):
        raise SnapshotError("it is no status snapshot of this version")
    bodies: list[bytes] = []
    at = len(MAGIC)
    while at < len(data):
        if len(data) - at < _BLOCK.size:
            raise SnapshotError("its end is missing")
        length, crc = _BLOCK.unpack_from(data, at)
        at += _BLOCK.size
        body = data[at : at + length]
        if len(body) < length or google_crc32c.value(body) != crc:
            raise SnapshotError(f"the block at byte {at - _BLOCK.size} is not whole")
        bodies.append(body)
        at += length
    return bodies
