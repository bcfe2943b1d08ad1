"""Segments: the files a partition's records live in, laid out as Kafka lays them out.

`<log>/<topic>-<partition>/<base offset, 20 digits>.log` holds record batches one after another, `.index` and
`.timeindex` beside it the sparse indexes. The base offset is that of the first record. A segment is made when its first
batch is written; the one with the highest base is the active one. Files are only appended to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from commitlog.batch import BatchHeader, CorruptBatchError, check_crc, parse_header
from commitlog.index import OFFSET_ENTRY, TIME_ENTRY, IndexBuilder, offset_entries, time_entries
from commitlog.storage import Bytes, Storage, StorageFile

LOG_SUFFIX: Final = ".log"
INDEX_SUFFIX: Final = ".index"
TIMEINDEX_SUFFIX: Final = ".timeindex"
_SCAN_BYTES: Final = 4 << 20  # read-ahead of a recovery scan: a few batches of the largest usual size


def segment_path(directory: Path, base_offset: int, suffix: str = LOG_SUFFIX) -> Path:
    """A segment file's path."""
    return directory / f"{base_offset:020}{suffix}"


def base_offsets(storage: Storage, directory: Path) -> list[int]:
    """Base offsets of a partition's segments, ascending."""
    return [
        int(name[:20])
        for name in storage.names(directory)
        if len(name) == 20 + len(LOG_SUFFIX) and name.endswith(LOG_SUFFIX) and name[:20].isdigit()
    ]


class Segment:
    """The writer's side of an active segment. Used by one thread."""

    def __init__(self, storage: Storage, directory: Path, base_offset: int) -> None:
        self.base_offset = base_offset
        self.directory = directory
        self._log = storage.open(segment_path(directory, base_offset), create=True)
        self._index = storage.open(segment_path(directory, base_offset, INDEX_SUFFIX), create=True)
        self._timeindex = storage.open(segment_path(directory, base_offset, TIMEINDEX_SUFFIX), create=True)
        self._builder = IndexBuilder(base_offset)
        self.log_bytes = 0
        self.index_bytes = 0
        self.timeindex_bytes = 0
        self._walked_from = 0

    def append(self, batch: Bytes, last_offset: int, max_timestamp_ms: int) -> None:
        """Write a finished batch at the end. Raises OSError: then what is on disk after `log_bytes` is unknown."""
        self._log.write(batch, self.log_bytes)
        self._note(self.log_bytes, len(batch), last_offset, max_timestamp_ms)

    def _note(self, position: int, size: int, last_offset: int, max_timestamp_ms: int) -> None:
        offset_bytes, time_bytes = self._builder.batch(position, size, last_offset, max_timestamp_ms)
        self.log_bytes = position + size
        if offset_bytes:
            self._index.write(offset_bytes, self.index_bytes)
            self.index_bytes += len(offset_bytes)
        self._append_time(time_bytes)

    def _append_time(self, time_bytes: bytes) -> None:
        if time_bytes:
            self._timeindex.write(time_bytes, self.timeindex_bytes)
            self.timeindex_bytes += len(time_bytes)

    def recover(self, point: tuple[int, int, int] | None, next_offset: int | None = None) -> list[BatchHeader]:
        """Find the valid end, cut what follows it, mend the indexes. Returns the headers of the batches walked.

        `point` is (log, index, timeindex) bytes known to be durable: only what follows is walked. Without it, or when
        a file is shorter than that, the whole segment is walked and both indexes are made anew. The valid end is
        before the first batch that is incomplete or damaged. `next_offset`: what has to follow the durable bytes,
        without a hole; None where holes may be.
        """
        if point is None or not self._resume(*point):
            next_offset = None if point is not None else next_offset
            self._builder = IndexBuilder(self.base_offset)
            self.log_bytes = self.index_bytes = self.timeindex_bytes = 0
        self._walked_from = self.log_bytes
        headers = scan(self._log, self.log_bytes, next_offset)
        for header in headers:
            self._note(self.log_bytes, header.size_bytes, header.last_offset, header.max_timestamp_ms)
        self._log.truncate(self.log_bytes)
        self._index.truncate(self.index_bytes)
        self._timeindex.truncate(self.timeindex_bytes)
        return headers

    def write_again(self) -> None:
        """Write once more what `recover` walked, so that the next sync is about it.

        A sync that failed in the life before may have left these bytes readable and yet not on disk: Linux then takes
        the pages for clean, and a sync that succeeds later says nothing of them.
        """
        for at in range(self._walked_from, self.log_bytes, _SCAN_BYTES):
            self._log.write(self._log.read(min(_SCAN_BYTES, self.log_bytes - at), at), at)

    def _resume(self, log_bytes: int, index_bytes: int, timeindex_bytes: int) -> bool:
        """Go on at sizes known to be durable; False if the files are not that long."""
        files = ((self._log, log_bytes), (self._index, index_bytes), (self._timeindex, timeindex_bytes))
        if any(file.size() < size for file, size in files):
            return False
        positions = offset_entries(self._index.read(OFFSET_ENTRY.size, max(0, index_bytes - OFFSET_ENTRY.size)))
        times = time_entries(self._timeindex.read(TIME_ENTRY.size, max(0, timeindex_bytes - TIME_ENTRY.size)))
        self.log_bytes, self.index_bytes, self.timeindex_bytes = log_bytes, index_bytes, timeindex_bytes
        self._builder = IndexBuilder(self.base_offset)
        self._builder.resume(
            since_entry=log_bytes - (positions[0][1] if index_bytes and positions else 0),
            time_entry=times[0] if timeindex_bytes and times else None,
        )
        return True

    @property
    def file_bytes(self) -> int:
        """Length of the `.log` on disk, which before `recover` may differ from `log_bytes`."""
        return self._log.size()

    def seal(self) -> None:
        """Write the closing time entry: the segment gets no more batches."""
        self._append_time(self._builder.seal())

    def sync(self) -> None:
        """Make the three files durable."""
        self._log.sync()
        self._index.sync()
        self._timeindex.sync()

    def close(self) -> None:
        """Close the files."""
        self._log.close()
        self._index.close()
        self._timeindex.close()


def scan(file: StorageFile, start: int = 0, next_offset: int | None = None) -> list[BatchHeader]:
    """Headers of the valid batches from a position on, ending at the first that is torn or damaged.

    With `next_offset` also at the first that does not follow the one before: the base offset is not in the CRC, so a
    batch whose first bytes fell to a torn write looks whole but for that.
    """
    headers: list[BatchHeader] = []
    position = start
    buffer, buffer_at = b"", start
    last_offset = -1
    while True:
        at = position - buffer_at
        try:
            header = parse_header(buffer, at)
        except CorruptBatchError:
            return headers
        wanted = _SCAN_BYTES if header is None else header.size_bytes
        if header is None or at + header.size_bytes > len(buffer):
            if buffer_at == position and len(buffer) >= wanted:
                return headers
            fresh = file.read(max(wanted, _SCAN_BYTES), position)
            if buffer_at == position and len(fresh) <= len(buffer):
                return headers  # nothing more to read: the batch is cut off
            buffer, buffer_at = fresh, position
            continue
        follows = header.base_offset > last_offset if next_offset is None else header.base_offset == next_offset
        if not follows or not check_crc(buffer[at : at + header.size_bytes], header):
            return headers
        headers.append(header)
        last_offset = header.last_offset
        next_offset = None if next_offset is None else last_offset + 1
        position += header.size_bytes
