"""What a log holds, in numbers, from its files alone: headers are read, records are not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import zstandard

from commitlog.batch import CODEC_MASK, CODEC_NONE, CODEC_ZSTD, HEADER_BYTES, CorruptBatchError, parse_header
from commitlog.check_walk import MAX_OFFSET
from commitlog.journal import read_entries
from commitlog.look import LogLook, PartitionLook, look_at, unreadable
from commitlog.replay import JOURNAL_NAME
from commitlog.segment import INDEX_SUFFIX, TIMEINDEX_SUFFIX, base_offsets, segment_path
from commitlog.storage import LOG_DIR, Storage, StorageFile, SystemStorage
from commitlog.tables import TABLES_DIR, SnapshotError, read_snapshot
from core.clock import Clock, SystemClock

_FRAME_HEADER_BYTES: Final = 18  # zstd's longest: what says how long the contents are
_READ_BYTES: Final = 1 << 20  # small batches stand close together: one read brings many headers


@dataclass(slots=True, kw_only=True)
class Numbers:
    """Of one partition, or several added up. Times are the first and last record's, ms; -1 without records.

    `plain_bytes` is the uncompressed size of the batches that say it, which take `measured_bytes` on disk.
    """

    segments: int = 0
    batches: int = 0
    records: int = 0
    log_bytes: int = 0
    index_bytes: int = 0
    timeindex_bytes: int = 0
    plain_bytes: int = 0
    measured_bytes: int = 0
    largest_batch_bytes: int = 0
    first_ms: int = -1
    last_ms: int = -1

    @property
    def compression_ratio(self) -> float | None:
        """Uncompressed over stored size; None when no batch says."""
        return self.plain_bytes / self.measured_bytes if self.measured_bytes else None

    def add(self, other: Numbers) -> None:
        """Add another partition's."""
        for name in ("segments", "batches", "records", "log_bytes", "index_bytes", "timeindex_bytes"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.plain_bytes += other.plain_bytes
        self.measured_bytes += other.measured_bytes
        self.largest_batch_bytes = max(self.largest_batch_bytes, other.largest_batch_bytes)
        times = [ms for ms in (self.first_ms, other.first_ms) if ms >= 0]
        self.first_ms = min(times, default=-1)
        self.last_ms = max(self.last_ms, other.last_ms)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        ratio = self.compression_ratio
        return {
            "segments": self.segments,
            "batches": self.batches,
            "records": self.records,
            "bytes": self.log_bytes,
            "index_bytes": self.index_bytes,
            "timeindex_bytes": self.timeindex_bytes,
            "compression_ratio": None if ratio is None else round(ratio, 3),
            "mean_batch_bytes": round(self.log_bytes / self.batches) if self.batches else 0,
            "mean_batch_records": round(self.records / self.batches, 1) if self.batches else 0,
            "largest_batch_bytes": self.largest_batch_bytes,
            "first_timestamp": self.first_ms if self.first_ms >= 0 else None,
            "last_timestamp": self.last_ms if self.last_ms >= 0 else None,
        }


@dataclass(slots=True, kw_only=True)
class PartitionStats:
    """One partition: its readable offsets, and its numbers."""

    topic: str
    partition: int
    start: int
    next: int
    numbers: Numbers


@dataclass(slots=True, kw_only=True)
class LogNumbers:
    """The whole log. Journal: what it takes, and what of it a restart would read. Tables: rows and bytes of each."""

    live: bool
    partitions: list[PartitionStats]
    journal_size_bytes: int = 0
    journal_used_bytes: int = 0
    journal_entries: int = 0
    tables: dict[str, tuple[int, int]] = field(default_factory=dict)

    def topics(self) -> Mapping[str, Numbers]:
        """Per topic, all partitions added up."""
        summed: dict[str, Numbers] = {}
        for partition in self.partitions:
            summed.setdefault(partition.topic, Numbers()).add(partition.numbers)
        return summed


def log_numbers(data_dir: Path, *, storage: Storage | None = None, clock: Clock | None = None) -> LogNumbers:
    """Count the log below `data_dir`. Raises DataDirError when there is none, or it cannot be read.

    Beside a running writer the numbers are those of the moment. Damage is passed over: to find it is the check's work.
    """
    storage = storage or SystemStorage()
    log_dir = data_dir / LOG_DIR
    look = look_at(storage, data_dir, clock or SystemClock())
    try:
        numbers = LogNumbers(live=look.live, partitions=[_partition(storage, p, look) for p in look.partitions])
        _journal(storage, log_dir, look, numbers)
        _tables(storage, log_dir, look, numbers)
    except OSError as error:
        raise unreadable(error, log_dir) from error
    return numbers


def _partition(storage: Storage, partition: PartitionLook, look: LogLook) -> PartitionStats:
    bases = base_offsets(storage, partition.directory)
    high = partition.mark.high if look.live and partition.mark is not None else MAX_OFFSET
    numbers, end = Numbers(), partition.log_start(bases)
    for base in bases:
        path = segment_path(partition.directory, base)
        try:
            file = storage.open_read(path)
        except FileNotFoundError:
            continue  # deleted meanwhile
        try:
            end = max(end, _segment(file, numbers, high))
        finally:
            file.close()
        numbers.segments += 1
        numbers.index_bytes += _size(storage, segment_path(partition.directory, base, INDEX_SUFFIX))
        numbers.timeindex_bytes += _size(storage, segment_path(partition.directory, base, TIMEINDEX_SUFFIX))
    return PartitionStats(
        topic=partition.topic,
        partition=partition.partition,
        start=partition.log_start(bases),
        next=partition.mark.high if look.live and partition.mark is not None else end,
        numbers=numbers,
    )


def _segment(file: StorageFile, numbers: Numbers, high: int) -> int:
    """Add a segment's batches up to `high`; returns the offset after the last one."""
    end, position, buffer, buffer_at = 0, 0, b"", 0
    needed, size = HEADER_BYTES + _FRAME_HEADER_BYTES, file.size()
    while True:
        at = position - buffer_at
        if at + needed > len(buffer):
            buffer, buffer_at, at = file.read(_READ_BYTES, position), position, 0
        try:
            header = parse_header(buffer, at)
        except CorruptBatchError:
            return end
        if header is None or header.base_offset >= high or position + header.size_bytes > size:
            return end
        numbers.batches += 1
        numbers.records += header.record_count
        numbers.log_bytes += header.size_bytes
        numbers.largest_batch_bytes = max(numbers.largest_batch_bytes, header.size_bytes)
        if numbers.first_ms < 0:
            numbers.first_ms = header.first_timestamp_ms
        numbers.last_ms = max(numbers.last_ms, header.max_timestamp_ms)
        plain = _plain_bytes(header.attributes & CODEC_MASK, header.size_bytes, buffer[at + HEADER_BYTES : at + needed])
        if plain is not None:
            numbers.plain_bytes += plain
            numbers.measured_bytes += header.size_bytes
        end = header.last_offset + 1
        position += header.size_bytes


def _plain_bytes(codec: int, size_bytes: int, frame: bytes) -> int | None:
    """The size of a batch without compression; None where its frame does not say."""
    if codec == CODEC_NONE:
        return size_bytes
    if codec != CODEC_ZSTD:
        return None
    try:
        announced = zstandard.frame_content_size(frame)
    except zstandard.ZstdError:
        return None
    return HEADER_BYTES + announced if announced >= 0 else None


def _size(storage: Storage, path: Path) -> int:
    try:
        file = storage.open_read(path)
    except FileNotFoundError:
        return 0
    try:
        return file.size()
    finally:
        file.close()


def _journal(storage: Storage, log_dir: Path, look: LogLook, numbers: LogNumbers) -> None:
    checkpoint = look.checkpoint
    if checkpoint is None:
        return
    try:
        file = storage.open_read(log_dir / JOURNAL_NAME)
    except FileNotFoundError:
        return
    try:
        numbers.journal_size_bytes = file.size()
        for entry in read_entries(
            file,
            size=checkpoint.journal_size,
            journal_id=checkpoint.journal_id,
            sequence=checkpoint.next_sequence,
            position=checkpoint.journal_position,
        ):
            numbers.journal_entries += 1
            numbers.journal_used_bytes = entry.end - checkpoint.journal_position
    finally:
        file.close()


def _tables(storage: Storage, log_dir: Path, look: LogLook, numbers: LogNumbers) -> None:
    """As of the checkpoint."""
    for table, name in sorted((look.checkpoint.tables if look.checkpoint else {}).items()):
        path = log_dir / TABLES_DIR / name
        try:
            numbers.tables[table] = len(read_snapshot(storage, path)), _size(storage, path)
        except (FileNotFoundError, SnapshotError):
            continue  # replaced by the next checkpoint meanwhile, or damaged: the check says which
