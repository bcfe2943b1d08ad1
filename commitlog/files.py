"""The files of one partition, as the thread that writes segments holds them."""

from __future__ import annotations

from pathlib import Path

from commitlog.base import TopicInfo, Watermark
from commitlog.checkpoint import PartitionPoint
from commitlog.segment import Segment
from commitlog.storage import Bytes, Storage


class PartitionFiles:
    """Appends finished batches, closes segments, knows what is synced and what readers may see."""

    def __init__(
        self,
        storage: Storage,
        directory: Path,
        topic: TopicInfo,
        partition: int,
        *,
        log_start: int,
        next_offset: int,
        active: Segment | None,
        segment_size_bytes: int,
        unsynced: bool = False,
    ) -> None:
        """`unsynced`: what stands in the active segment, or its name, may not be durable yet."""
        self.topic = topic
        self.partition = partition
        self.log_start = log_start
        self.next_offset = next_offset
        self._storage = storage
        self._directory = directory
        self._active = active
        self._segment_size_bytes = segment_size_bytes
        self._dirty = unsynced
        self._names_dirty = unsynced

    def append(self, batch: Bytes, base_offset: int, count: int, max_timestamp_ms: int) -> None:
        """Write a batch to the active segment, closing it first when it is full. Raises OSError."""
        active = self._active
        last_offset = base_offset + count - 1
        if active is not None and not self._has_room(active, len(batch), last_offset):
            self.close_segment()
            active = None
        if active is None:
            active = self._active = Segment.fresh(self._storage, self._directory, base_offset)
            self._names_dirty = True
        self._dirty = True
        active.append(batch, last_offset, max_timestamp_ms)
        self.next_offset = base_offset + count

    def _has_room(self, active: Segment, size: int, last_offset: int) -> bool:
        return not active.log_bytes or (
            active.log_bytes + size <= self._segment_size_bytes and active.holds(last_offset)
        )

    def close_segment(self) -> None:
        """Sync and close the active segment; the next batch starts another."""
        if self._active is None:
            return
        self._active.seal()
        self._dirty = True
        self.sync()
        self._active.close()
        self._active = None

    def sync(self) -> None:
        """Make everything written so far durable, names included."""
        if self._dirty and self._active is not None:
            self._active.sync()
        if self._names_dirty:
            self._storage.sync_dir(self._directory)
        self._dirty = self._names_dirty = False

    def point(self) -> PartitionPoint:
        """What a checkpoint says of this partition; right only after `sync`."""
        active = self._active
        return PartitionPoint(
            topic=self.topic.name,
            topic_id=bytes.fromhex(self.topic.topic_id),
            partition=self.partition,
            log_start=self.log_start,
            next_offset=self.next_offset,
            segment=-1 if active is None else active.base_offset,
            log_bytes=0 if active is None else active.log_bytes,
            index_bytes=0 if active is None else active.index_bytes,
            timeindex_bytes=0 if active is None else active.timeindex_bytes,
        )

    def watermark(self) -> Watermark:
        """What readers may see: everything written, since only what is committed is written."""
        return Watermark(start=self.log_start, high=self.next_offset)

    def close(self) -> None:
        """Close the files without a word about durability."""
        if self._active is not None:
            self._active.close()
            self._active = None
