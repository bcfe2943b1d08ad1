"""The high-watermark map: how other processes learn what they may read.

`<data>/run/watermarks` is a small file that the log's writer maps and updates in place; readers map it read-only.

    header, 72 bytes                          slot, 288 bytes, one per partition
    0   8s     magic `HRMARK02`               0   int64  log start offset
    8   uint64 sequence lock                  8   int64  high watermark
    16  16s    boot id of the writer          16  16s    topic id
    32  uint64 heartbeat, monotonic ms        32  uint32 partition
    40  uint32 slots in use                   36  uint16 length of the topic's name
    44  uint32 slots there is room for        38  topic's name, UTF-8
    48  uint64 changes so far
    56  uint64 checkpoints so far (tables and windows may have changed)
    64  uint32 CRC-32C, see below
    68  uint32 unused, 0

Integers are little-endian. Sequence lock: the writer makes it odd, writes, makes it even; a reader that sees an odd or
a changed value reads again. That alone is enough where a processor shows stores, and does loads, in the order of the
program (x86). Others (aarch64) may show the last store before the first, and Python has no barriers: so the CRC covers
everything of the map that is in use, but for the magic, the heartbeat and itself, with the even sequence of the publish
that made it. What a reader copied is one publish when the CRC says so, in whatever order the stores came.

The heartbeat is outside the lock and the CRC, like the two counters when they are compared: single aligned words. A
heartbeat older than `STALE_AFTER_MS`, or ahead of the reader's clock (the machine was restarted), means that the writer
is gone: what the map says is then old, not idle.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import google_crc32c

from commitlog.base import TopicInfo, Watermark
from core.errors import UnavailableError

MAP_NAME: Final = "watermarks"
STALE_AFTER_MS: Final = 3_000  # six missed heartbeats
HEARTBEAT_MS: Final = 500
_MAGIC: Final = b"HRMARK02"
_MAGIC_NAME: Final = _MAGIC[:6]
_HEADER_BYTES: Final = 72
_SLOT_BYTES: Final = 288
_U64: Final = struct.Struct("<Q")
_COUNTS: Final = struct.Struct("<II")
_SLOT: Final = struct.Struct("<qq16sIH")
_RANGE: Final = struct.Struct("<qq")
_CRC: Final = struct.Struct("<I")
_SEQUENCE_AT, _BOOT_AT, _HEARTBEAT_AT, _COUNTS_AT, _CHANGES_AT, _CHECKPOINTS_AT, _CRC_AT = 8, 16, 32, 40, 48, 56, 64
_SPINS: Final = 50  # a writer holds the lock for microseconds
_NAPS: Final = 200  # one that was put off the processor, for milliseconds; after that it has died holding it
_NAP_S: Final = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class MapSnapshot:
    """One consistent look at the map."""

    topics: Mapping[str, TopicInfo]
    watermarks: Mapping[str, tuple[Watermark, ...]]


class Marks(Protocol):
    """What a reader needs to know of where it may read: `WatermarkMap`, or what takes its place."""

    def read(self) -> MapSnapshot:
        """See `WatermarkMap.read`."""
        ...

    def changes(self) -> tuple[int, int, int]:
        """See `WatermarkMap.changes`."""
        ...

    def is_live(self, monotonic_ms: int) -> bool:
        """See `WatermarkMap.is_live`."""
        ...

    def close(self) -> None:
        """See `WatermarkMap.close`."""
        ...


def _allocate(fd: int, size: int) -> None:
    """Give a file its size with its space: storing into a hole of a mapped file on a full disk would be a SIGBUS."""
    os.ftruncate(fd, size)
    if hasattr(os, "posix_fallocate"):  # macOS has none
        os.posix_fallocate(fd, 0, size)


class WatermarkWriter:
    """The writer's side. All calls but `beat` come from one thread. The first `publish` replaces the map of before."""

    def __init__(self, run_dir: Path, *, boot_id: bytes, capacity: int) -> None:
        self._path = run_dir / MAP_NAME
        self._temporary: Path | None = self._path.with_name(MAP_NAME + ".tmp")
        size = _HEADER_BYTES + capacity * _SLOT_BYTES
        fd = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        try:
            _allocate(fd, size)
            self._map = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        self._capacity = capacity
        self._slots: dict[tuple[str, int], int] = {}
        self._sequence = self._changes = self._checkpoints = 0
        self._map[: len(_MAGIC)] = _MAGIC
        self._map[_BOOT_AT : _BOOT_AT + 16] = boot_id
        _COUNTS.pack_into(self._map, _COUNTS_AT, 0, capacity)

    def beat(self, monotonic_ms: int) -> None:
        """Say that the writer lives."""
        _U64.pack_into(self._map, _HEARTBEAT_AT, monotonic_ms)

    def publish(self, ranges: Iterable[tuple[TopicInfo, int, Watermark]], *, checkpoint: bool = False) -> None:
        """Make (topic, partition, readable range) known; `checkpoint` says that tables may have changed too."""
        self._lock()
        for topic, partition, mark in ranges:
            at = self._slot(topic, partition)
            _RANGE.pack_into(self._map, at, mark.start, mark.high)
        self._changes += 1
        self._checkpoints += checkpoint
        _U64.pack_into(self._map, _CHANGES_AT, self._changes)
        _U64.pack_into(self._map, _CHECKPOINTS_AT, self._checkpoints)
        used = self._map[: _HEADER_BYTES + len(self._slots) * _SLOT_BYTES]
        _CRC.pack_into(self._map, _CRC_AT, _checksum(used, self._sequence + 1))
        self._lock()
        if self._temporary is not None:  # only now: nobody may see a map without the topics there are
            self._temporary.replace(self._path)
            self._temporary = None

    def close(self) -> None:
        """Unmap; the file stays and reads as stale."""
        _U64.pack_into(self._map, _HEARTBEAT_AT, 0)
        self._map.close()

    def _lock(self) -> None:
        self._sequence += 1
        _U64.pack_into(self._map, _SEQUENCE_AT, self._sequence)

    def _slot(self, topic: TopicInfo, partition: int) -> int:
        at = self._slots.get((topic.topic_id, partition))
        if at is None:
            used = len(self._slots)
            if used >= self._capacity:
                raise UnavailableError(f"the watermark map holds {self._capacity} partitions and is full")
            at = _HEADER_BYTES + used * _SLOT_BYTES
            name = topic.name.encode()
            _SLOT.pack_into(self._map, at, 0, 0, bytes.fromhex(topic.topic_id), partition, len(name))
            self._map[at + _SLOT.size : at + _SLOT.size + len(name)] = name
            self._slots[(topic.topic_id, partition)] = at
            _COUNTS.pack_into(self._map, _COUNTS_AT, used + 1, self._capacity)
        return at


class WatermarkMap:
    """The reader's side: follows the map's file through restarts of the writer."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / MAP_NAME
        self._name = str(self._path)
        self._map: mmap.mmap | None = None
        self._inode = 0

    def is_live(self, monotonic_ms: int) -> bool:
        """Whether the writer showed itself lately."""
        if self._map is None and not self._open():
            return False
        if self._beat_is_fresh(monotonic_ms):
            return True
        return self._reopen_if_replaced() and self._beat_is_fresh(monotonic_ms)

    def changes(self) -> tuple[int, int, int]:
        """A value that differs whenever watermarks, tables or the writer changed; also across its restarts."""
        self._reopen_if_replaced()
        if self._map is None:
            return (0, 0, 0)
        (changes,) = _U64.unpack_from(self._map, _CHANGES_AT)
        (checkpoints,) = _U64.unpack_from(self._map, _CHECKPOINTS_AT)
        return (self._inode, changes, checkpoints)

    def read(self) -> MapSnapshot:
        """Everything in the map, of one publish.

        Only of a writer that died in the midst of one it may be of two. Raises UnavailableError when no writer has made
        a map yet, or it is damaged.
        """
        self._reopen_if_replaced()
        if self._map is None:
            raise UnavailableError(
                "the log has not been started on this data directory yet",
                where=str(self._path),
                mend="start it with `headrace run`",
            )
        for tries in range(_SPINS + _NAPS):
            if tries >= _SPINS:
                time.sleep(_NAP_S)
            data = self._used()
            if _is_whole(data):
                return _parse(data)
        if not _sequence(data) % 2:
            raise UnavailableError(
                "the watermark map is damaged: it fails its CRC",
                where=str(self._path),
                mend="start the appliance again: it makes a new one",
            )
        return _parse(data)

    def close(self) -> None:
        """Unmap."""
        if self._map is not None:
            self._map.close()
            self._map = None

    def _used(self) -> bytes:
        assert self._map is not None
        used, capacity = _COUNTS.unpack_from(self._map, _COUNTS_AT)
        return self._map[: _HEADER_BYTES + min(used, capacity) * _SLOT_BYTES]

    def _beat_is_fresh(self, monotonic_ms: int) -> bool:
        if self._map is None:
            return False
        (beat,) = _U64.unpack_from(self._map, _HEARTBEAT_AT)
        return bool(beat <= monotonic_ms <= beat + STALE_AFTER_MS)

    def _reopen_if_replaced(self) -> bool:
        try:
            inode = os.stat(self._name).st_ino  # noqa: PTH116 - on every read, and a Path takes as long as the call
        except FileNotFoundError:
            return False
        return (self._map is None or inode != self._inode) and self._open()

    def _open(self) -> bool:
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            found = os.fstat(fd)
            magic = os.pread(fd, len(_MAGIC), 0)
            if magic != _MAGIC or found.st_size < _HEADER_BYTES:
                raise self._not_ours(magic)
            mapped, inode = mmap.mmap(fd, 0, access=mmap.ACCESS_READ), found.st_ino
        finally:
            os.close(fd)
        self.close()
        self._map, self._inode = mapped, inode
        return True

    def _not_ours(self, magic: bytes) -> UnavailableError:
        version = magic[len(_MAGIC_NAME) :].decode("ascii", "replace")
        if magic == _MAGIC or not magic.startswith(_MAGIC_NAME) or not version.isdigit():
            what, mend = "the watermark map is damaged", "start the appliance again: it makes a new one"
        else:
            what = (
                f"the watermark map was written by another version: its format is {int(version)}, "
                f"this program reads {int(_MAGIC[len(_MAGIC_NAME) :])}"
            )
            mend = "use the version of Headrace that runs on this data directory, or start it with this one"
        return UnavailableError(what, where=str(self._path), mend=mend)


def _sequence(data: bytes) -> int:
    (sequence,) = _U64.unpack_from(data, _SEQUENCE_AT)
    return int(sequence)


def _checksum(data: bytes, sequence: int) -> int:
    """What the CRC of a map has to be: `data` is its used part, `sequence` the even one of the publish."""
    crc = google_crc32c.extend(google_crc32c.value(_U64.pack(sequence)), data[_BOOT_AT:_HEARTBEAT_AT])
    return int(google_crc32c.extend(google_crc32c.extend(crc, data[_COUNTS_AT:_CRC_AT]), data[_HEADER_BYTES:]))


def _is_whole(data: bytes) -> bool:
    """Whether a copy of the map's used part is of one publish."""
    return _sequence(data) % 2 == 0 and _CRC.unpack_from(data, _CRC_AT)[0] == _checksum(data, _sequence(data))


def _parse(data: bytes) -> MapSnapshot:
    used, _capacity = _COUNTS.unpack_from(data, _COUNTS_AT)
    found: dict[str, list[tuple[int, Watermark]]] = {}
    ids: dict[str, str] = {}
    for index in range(used):
        at = _HEADER_BYTES + index * _SLOT_BYTES
        start, high, topic_id, partition, name_length = _SLOT.unpack_from(data, at)
        name = data[at + _SLOT.size : at + _SLOT.size + name_length].decode()
        ids[name] = topic_id.hex()
        found.setdefault(name, []).append((partition, Watermark(start=start, high=high)))
    topics = {name: TopicInfo(name=name, topic_id=ids[name], partitions=len(parts)) for name, parts in found.items()}
    marks = {name: tuple(mark for _, mark in sorted(parts, key=lambda p: p[0])) for name, parts in found.items()}
    return MapSnapshot(topics=topics, watermarks=marks)
