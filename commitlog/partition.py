"""The open end of a partition: where listeners put records.

A record goes into two batches at once. The *journal batch* is uncompressed and belongs to the open commit; it is taken
when the commit starts. The *segment batch* is zstd and grows over many commits; it is taken at the start of a commit
(so that it ends where that commit ends) and written to the segment once that commit is durable. Appending twice costs
less than taking a batch apart again: about 0.3 us a record each.

A batch that comes ready from outside goes into both as it is. What is open before it is closed, so that order holds.

A journal batch has a quota of bytes, which is counted into the open commit before its first record (`open_commit`); a
record that finds no room in it begins another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from aiokafka.record._crecords import DefaultRecordBatchBuilder

from commitlog.base import Header
from commitlog.batch import CODEC_NONE, CODEC_ZSTD, HEADER_BYTES, new_builder, place
from commitlog.durability import Durability
from commitlog.journal import BATCH_SECTION

NEW_BATCH_BYTES: Final = HEADER_BYTES + BATCH_SECTION.size  # what a batch takes in the journal without its records


_NO_BATCH: Final = new_builder(CODEC_NONE)  # stands where none is open; nothing is ever put into it


class CommitRoom(Protocol):
    """What a partition needs of the open commit."""

    quota_bytes: int
    """Of a journal batch, unless its first record is larger."""

    def share(self, partitions: int) -> None:
        """See `OpenCommit.share`."""
        ...

    def opens(self, partition: Partition, size_bytes: int) -> None:
        """See `OpenCommit.opens`."""
        ...


class ReadyBatch:
    """A batch that needs no building; stands where a builder stands."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def size(self) -> int:
        """Bytes that `build` makes."""
        return len(self._data)

    def build(self) -> bytearray:
        """A copy to be placed: two threads write it, each in its own time."""
        return bytearray(self._data)


@dataclass(frozen=True, slots=True)
class TakenBatch:
    """A batch taken from the open end; built (compressed, placed) by whichever thread writes it."""

    partition: Partition
    builder: DefaultRecordBatchBuilder | ReadyBatch
    base_offset: int
    count: int

    @property
    def size_bytes(self) -> int:
        """Before it is built: its size, uncompressed as far as it is known uncompressed."""
        return int(self.builder.size())

    def build(self, leader_epoch: int) -> bytearray:
        """The finished batch in its place."""
        batch: bytearray = self.builder.build()
        place(batch, self.base_offset, leader_epoch)
        return batch


class Partition:
    """One partition's open batches. Used on the event loop only. `durability`: its topic's own level, if it has one."""

    __slots__ = (
        "_journal",
        "_journal_base",
        "_journal_closed",
        "_journal_count",
        "_room",
        "_segment",
        "_segment_closed",
        "_segment_closed_bytes",
        "_segment_count",
        "durability",
        "index",
        "next_offset",
        "topic",
        "topic_id",
    )

    def __init__(self, topic: str, topic_id: bytes, index: int, next_offset: int, room: CommitRoom) -> None:
        self.topic = topic
        self.topic_id = topic_id
        self.index = index
        self.next_offset = next_offset
        self.durability: Durability | None = None
        self._room = room
        self._journal_count = 0
        self._segment_count = 0
        self._journal_base = next_offset
        self._journal = _NO_BATCH
        self._segment = new_builder(CODEC_ZSTD)
        self._journal_closed: list[TakenBatch] = []  # bounded by what one commit may hold
        self._segment_closed: list[TakenBatch] = []  # a flush is due at `flush_bytes`
        self._segment_closed_bytes = 0

    def append(self, timestamp_ms: int, key: bytes | None, value: bytes | None, headers: list[Header]) -> int:
        """See `PartitionAppender.append`."""
        in_journal = self._journal_count  # whatever raises below does so before any record is in
        if not in_journal or self._journal.append(in_journal, timestamp_ms, key, value, headers) is None:
            self._begin_journal_batch(timestamp_ms, key, value, headers)
            in_journal = 0
        self._journal_count = in_journal + 1
        in_segment = self._segment_count
        self._segment.append(in_segment, timestamp_ms, key, value, headers)
        self._segment_count = in_segment + 1
        offset = self.next_offset
        self.next_offset = offset + 1
        return offset

    def append_ready(self, batch: bytes, count: int) -> int:
        """Put a finished batch of `count` records behind everything appended so far; returns its base offset."""
        self._room.opens(self, len(batch) + BATCH_SECTION.size)
        self._close_journal_batch()
        self._close_segment_batch()
        offset = self.next_offset
        ready = TakenBatch(self, ReadyBatch(batch), offset, count)
        self._journal_closed.append(ready)
        self._segment_closed.append(ready)
        self._segment_closed_bytes += len(batch)
        self.next_offset = self._journal_base = offset + count
        return offset

    def take_journal_batches(self) -> list[TakenBatch]:
        """The open commit's records, in order; the next append opens another commit."""
        self._close_journal_batch()
        taken, self._journal_closed = self._journal_closed, []
        return taken

    def take_segment_batches(self) -> list[TakenBatch]:
        """Everything since the last time, in order. Only right where no commit is open for this partition."""
        self._close_segment_batch()
        taken, self._segment_closed = self._segment_closed, []
        self._segment_closed_bytes = 0
        return taken

    def _begin_journal_batch(
        self, timestamp_ms: int, key: bytes | None, value: bytes | None, headers: list[Header]
    ) -> None:
        """The first record of a journal batch, behind what the one before holds."""
        quota_bytes = self._room.quota_bytes
        batch = new_builder(CODEC_NONE, quota_bytes)
        size_bytes = batch.append(0, timestamp_ms, key, value, headers).size
        self._room.opens(self, max(size_bytes, quota_bytes) + NEW_BATCH_BYTES)
        self._close_journal_batch()
        self._journal = batch

    def _close_journal_batch(self) -> None:
        if self._journal_count:
            self._journal_closed.append(TakenBatch(self, self._journal, self._journal_base, self._journal_count))
            self._journal = _NO_BATCH
            self._journal_base = self.next_offset
            self._journal_count = 0

    def _close_segment_batch(self) -> None:
        if self._segment_count:
            base_offset = self.next_offset - self._segment_count
            self._segment_closed.append(TakenBatch(self, self._segment, base_offset, self._segment_count))
            self._segment_closed_bytes += int(self._segment.size())
            self._segment = new_builder(CODEC_ZSTD)
            self._segment_count = 0

    @property
    def segment_batch_bytes(self) -> int:
        """Size, as far as it is known uncompressed, of what the next flush will take."""
        return self._segment_closed_bytes + int(self._segment.size())
