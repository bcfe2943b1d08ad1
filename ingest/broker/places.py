"""The chunks of one delivery queue, oldest first: places are put behind, read by sequence number, dropped in front.

A chunk grows until its row has about CHUNK_ROW_BYTES, or until CHUNK_MAX_BYTES between two commits. Larger ones would
have more written anew for every commit that adds to the last one, and more sent again after a kill (a row goes only
when all of its messages are complete); smaller ones would make more rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from core.errors import HeadraceError
from ingest.broker.chunk import Chunk, ChunkReader, Kind
from ingest.broker.rows import QUEUES, Row, StateRowError, seq_key

CHUNK_ROW_BYTES: Final = 512
CHUNK_MAX_BYTES: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimits:
    """What one queue may hold: by default a day of 10 messages a second, at two to four bytes each."""

    max_messages: int = 1_000_000
    max_size_bytes: int = 4 << 20


class QueueFullError(HeadraceError):
    """A session's queue is full: its client was away, or slow, for too long. The queue is as it was before."""

    code = "queue-full"
    http_status = 503

    def __init__(self, what: str, *, client_id: str) -> None:
        super().__init__(
            what, where=f"client {client_id!r}", mend="have the client connect and read, or end its session"
        )


class Places:
    """Where the messages of a queue stand. Numbers without a place may lie between two chunks."""

    def __init__(self, client_id: str, max_size_bytes: int) -> None:
        self._client_id = client_id
        self._max_size_bytes = max_size_bytes
        self._first: Chunk | None = None
        self._last: Chunk | None = None
        self._open: Chunk | None = None  # the last one, while it is not sealed
        self._unwritten: Chunk | None = None  # the first that has places which no row holds
        self._reader: ChunkReader | None = None
        self._sealed_size_bytes = 0

    @property
    def size_bytes(self) -> int:
        """Of all chunks, without what Python adds."""
        return self._sealed_size_bytes + (self._open.size_bytes if self._open is not None else 0)

    @property
    def first_seq(self) -> int | None:
        """Of the oldest chunk, None where there is none."""
        return self._first.first_seq if self._first is not None else None

    @property
    def open(self) -> bool:
        """Whether the next place has to follow the last one."""
        return self._open is not None

    @property
    def end_seq(self) -> int:
        """One more than the highest number there is a place for; 0 where there is none."""
        return self._last.end_seq if self._last is not None else 0

    @property
    def unwritten(self) -> bool:
        """Whether there are places that no row holds."""
        last = self._last
        return last is not None and last.count > last.row_count

    def append(self, seq: int, kind: Kind, offset: int) -> None:
        """Put a place in the log under `seq`, higher than all others, one higher while a chunk is open.

        Raises QueueFullError. (The size is looked at when a chunk begins, so it may be exceeded by one chunk.)
        """
        chunk = self._open
        if chunk is None or len(chunk.data) + chunk.kinds_size_bytes >= CHUNK_MAX_BYTES:
            chunk = self._begin(seq, 0)
        chunk.append(kind, offset)

    def append_retained(self, seq: int, kind: Kind, mqtt_topic: str) -> None:
        """Put a retained message under `seq`, as `append` does."""
        chunk = self._open
        size_bytes = len(mqtt_topic)
        if chunk is None or chunk.size_bytes + size_bytes >= CHUNK_MAX_BYTES:
            chunk = self._begin(seq, size_bytes)
        chunk.append_retained(kind, mqtt_topic)

    def seal(self) -> None:
        """Begin a new chunk with the next place."""
        chunk = self._open
        if chunk is None:
            return
        chunk.seal()
        self._sealed_size_bytes += chunk.size_bytes
        self._open = None

    def read(self, seq: int) -> tuple[Kind, int | str]:
        """Kind and place of a message that has one; quick for ascending `seq`. Raises StateRowError."""
        reader = self._reader
        if reader is None or reader.seq > seq or reader.chunk.end_seq <= seq:
            reader = self._reader = ChunkReader(self._client_id, self._chunk_of(seq, reader))
        while reader.seq < seq:
            reader.read()
        return reader.read()

    def items(self, first_seq: int) -> Iterator[tuple[int, Kind, int | str]]:
        """Sequence number, kind and place of all from `first_seq` on. Raises StateRowError."""
        chunk = self._first
        while chunk is not None:
            reader = ChunkReader(self._client_id, chunk)
            while reader.seq < chunk.end_seq:
                seq = reader.seq
                kind, place = reader.read()
                if seq >= first_seq:
                    yield seq, kind, place
            chunk = chunk.next

    def take_rows(self) -> list[Row]:
        """The rows of chunks that grew since the last call."""
        rows: list[Row] = []
        chunk = self._unwritten or self._first
        while chunk is not None:
            if chunk.count > chunk.row_count:
                rows.append((QUEUES, seq_key(self._client_id, chunk.first_seq), chunk.row()))
                chunk.row_count = chunk.count
            self._unwritten, chunk = chunk, chunk.next
        if self._open is not None and self._open.size_bytes >= CHUNK_ROW_BYTES:
            self.seal()
        return rows

    def complete_below(self, seq: int) -> bool:
        """Whether `drop_below` would drop a chunk."""
        return self._first is not None and self._first.end_seq <= seq

    def drop_below(self, seq: int) -> list[Chunk]:
        """Drop the chunks all of whose messages are below `seq`, and return them."""
        dropped = []
        while (chunk := self._first) is not None and chunk.end_seq <= seq:
            if chunk is self._open:
                self._open = None
            else:
                self._sealed_size_bytes -= chunk.size_bytes
            if chunk is self._unwritten:
                self._unwritten = None
            if self._reader is not None and chunk is self._reader.chunk:
                self._reader = None
            self._first = chunk.next
            dropped.append(chunk)
        if self._first is None:
            self._last = None
        return dropped

    def restore(self, chunk: Chunk) -> None:
        """Put a chunk from its row behind the others. Raises StateRowError unless it continues them."""
        if self._last is not None and chunk.first_seq != self._last.end_seq:
            raise StateRowError(
                f"a delivery queue goes on at {chunk.first_seq} instead of {self._last.end_seq}",
                where=f"{QUEUES}: {seq_key(self._client_id, chunk.first_seq)!r}",
            )
        self._sealed_size_bytes += chunk.size_bytes
        self._link(chunk)

    def _begin(self, seq: int, size_bytes: int) -> Chunk:
        if self.size_bytes + size_bytes >= self._max_size_bytes:
            raise QueueFullError(
                f"the delivery queue takes {self.size_bytes} bytes; at most {self._max_size_bytes} are allowed",
                client_id=self._client_id,
            )
        self.seal()
        chunk = self._open = Chunk(seq)
        self._link(chunk)
        return chunk

    def _link(self, chunk: Chunk) -> None:
        if self._last is None:
            self._first = chunk
        else:
            self._last.next = chunk
        self._last = chunk

    def _chunk_of(self, seq: int, reader: ChunkReader | None) -> Chunk:
        chunk = reader.chunk if reader is not None and reader.seq <= seq else self._first
        while chunk is not None and chunk.end_seq <= seq:
            chunk = chunk.next
        if chunk is None or seq < chunk.first_seq:
            raise KeyError(seq)
        return chunk
