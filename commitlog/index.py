"""The two sparse indexes of a segment, as Kafka lays them out.

`.index`:     entries of 8 bytes, int32 offset relative to the segment's base, int32 byte position in the `.log`.
`.timeindex`: entries of 12 bytes, int64 timestamp (ms), int32 relative offset.

An entry is written when at least `INDEX_INTERVAL_BYTES` of batches went into the `.log` since the last one. An offset
entry names the last offset of the batch that starts at its position: a reader looking for an offset takes the last
entry at or below it and walks batches from that position. A time entry says: every record up to that offset has a
timestamp at or below this one. Both only grow; both can be rebuilt from the `.log`. Source: Kafka `OffsetIndex`,
`TimeIndex`, `LogSegment.append`.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

INDEX_INTERVAL_BYTES: Final = 4096
OFFSET_ENTRY: Final = struct.Struct(">ii")
TIME_ENTRY: Final = struct.Struct(">qi")
MAX_RELATIVE_OFFSET: Final = 2**31 - 1


def offset_entries(data: bytes) -> list[tuple[int, int]]:
    """(relative offset, position) pairs; a torn last entry is left out."""
    return list(OFFSET_ENTRY.iter_unpack(data[: len(data) - len(data) % OFFSET_ENTRY.size]))


def time_entries(data: bytes) -> list[tuple[int, int]]:
    """(timestamp in ms, relative offset) pairs; a torn last entry is left out."""
    return list(TIME_ENTRY.iter_unpack(data[: len(data) - len(data) % TIME_ENTRY.size]))


def entry_before_time(entries: Sequence[tuple[int, int]], timestamp_ms: int) -> tuple[int, int] | None:
    """The last time entry before the time: records up to its offset are too early; None: the first may not be."""
    found = bisect_right(entries, timestamp_ms - 1, key=lambda entry: entry[0])
    return entries[found - 1] if found else None


class IndexBuilder:
    """Decides which batches of a segment get entries; keeps Kafka's rule in one place for writing and rebuilding."""

    __slots__ = ("_base_offset", "_max_offset", "_since_entry", "_time_written_ms", "max_timestamp_ms")

    def __init__(self, base_offset: int) -> None:
        self._base_offset = base_offset
        self._since_entry = 0
        self._max_offset = base_offset
        self._time_written_ms = -1
        self.max_timestamp_ms = -1

    def resume(self, *, since_entry: int, time_entry: tuple[int, int] | None) -> None:
        """Go on in a segment whose indexes stand on disk: bytes since the last entry, and the last time entry."""
        self._since_entry = since_entry
        if time_entry is not None:
            self.max_timestamp_ms, relative = time_entry
            self._time_written_ms = self.max_timestamp_ms
            self._max_offset = self._base_offset + relative

    def batch(self, position: int, size: int, last_offset: int, max_timestamp_ms: int) -> tuple[bytes, bytes]:
        """Bytes to append to `.index` and `.timeindex` for a batch written at `position`; mostly empty."""
        if max_timestamp_ms > self.max_timestamp_ms:
            self.max_timestamp_ms = max_timestamp_ms
            self._max_offset = last_offset
        offset_bytes = time_bytes = b""
        if self._since_entry > INDEX_INTERVAL_BYTES:
            offset_bytes = OFFSET_ENTRY.pack(last_offset - self._base_offset, position)
            time_bytes = self.seal()
            self._since_entry = 0
        self._since_entry += size
        return offset_bytes, time_bytes

    def seal(self) -> bytes:
        """The `.timeindex` entry for everything so far; written at each entry and when the segment is closed."""
        if self.max_timestamp_ms <= self._time_written_ms:
            return b""
        self._time_written_ms = self.max_timestamp_ms
        return TIME_ENTRY.pack(self.max_timestamp_ms, self._max_offset - self._base_offset)
