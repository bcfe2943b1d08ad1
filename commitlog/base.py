"""The seam: what a log is to everything above it, whichever engine keeps it.

Three ways in and out:

* `Log` - append records and state-table changes in one atomic commit, roll topics into windows. Every call
  returns after the commit is durable. The embedded log, its remote client over the local channel and a Kafka
  cluster all pass one contract suite (tests/commitlog/test_log_contract.py).
* `Appender` and `PartitionAppender` - the same append for listeners in the log's own process, without an object
  or an await per message: append to open batches, then say once per chunk who waits.
* `LogReader` - records, windows and watermarks, read from any process, up to the high watermark.

Words are Kafka's: topic, partition, key, record, offset, high watermark, log start offset. A window is a closed set
of offset ranges, one per partition. Timestamps are milliseconds since the epoch, the time received.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from commitlog.durability import Durability

Header = tuple[str, bytes | None]
"""A record header: a name, which may stand more than once, and a value."""

MAX_TOPIC_NAME_CHARS = 249  # Kafka's own limit


class Record(Protocol):
    """A record as read. What the record-batch library yields satisfies it as it is."""

    @property
    def offset(self) -> int:
        """Position in the partition."""
        ...

    @property
    def timestamp(self) -> int:
        """Time received, milliseconds since the epoch; never decreasing within a partition."""
        ...

    @property
    def key(self) -> bytes | None:
        """What decides the partition: for device topics the device id."""
        ...

    @property
    def value(self) -> bytes | None:
        """The payload as it arrived."""
        ...

    @property
    def headers(self) -> list[Header]:
        """`mqtt.topic` and whatever else the listener knew (docs/formats.md lists the names)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRecord:
    """A record to append. Without a partition, the key decides by murmur2; without a key, partition 0."""

    topic: str
    key: bytes | None
    value: bytes
    headers: Sequence[Header] = ()
    partition: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where an appended record stands."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendedBatch:
    """Where the first record of an appended batch stands, and the time that all its records got.

    Both are what a produce response calls them: `base_offset` and `log_append_time`. For a batch that was sent again
    they are the first one's, as in Kafka; the time is -1 where it is not known any more.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerIdentity:
    """What an idempotent producer signs its batches with. Its sequence numbers begin at 0 in each partition."""

    producer_id: int
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TableChange:
    """One row of a state table set, or removed when `value` is None. Values are anything msgpack carries."""

    table: str
    key: str
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicInfo:
    """A topic's name, its random id (32 hex digits; a topic made anew has another) and its partition count."""

    name: str
    topic_id: str
    partitions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedWindow:
    """A closed set of offset ranges of one topic; windows of a topic are numbered from 0 and leave nothing out.

    `offsets` maps partition -> (first, next): records with first <= offset < next belong to the window; an empty
    partition has first == next. `start_ms` and `end_ms` bound the wall-clock times between which it was open.
    """

    topic: str
    topic_id: str
    number: int
    start_ms: int
    end_ms: int
    offsets: Mapping[int, tuple[int, int]]
    reason: str

    @property
    def span(self) -> int:
        """Offsets in the window (records at most; fewer where the log has reported gaps)."""
        return sum(following - first for first, following in self.offsets.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Watermark:
    """Readable range of one partition: log start offset <= offset < high watermark."""

    start: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Offsets that cannot be read (first <= offset < next), and why. Not an error: a reader goes on at `next`."""

    first: int
    next: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """What one read brought: records in offset order, gaps met on the way, and where to read on.

    Every offset from the one that was asked for to `next_offset` is a record's or in a gap.
    """

    records: Sequence[Record]
    next_offset: int
    gaps: Sequence[Gap] = field(default=())


class WriterState(Enum):
    """Whether the process that writes the log is there: a dead writer is STALE, which is not the same as idle."""

    LIVE = "live"
    STALE = "stale"


class LogReader(Protocol):
    """Reads a log up to the high watermark, from any process. Synchronous; not to be shared between threads."""

    def topics(self) -> Mapping[str, TopicInfo]:
        """Every topic there is, by name."""
        ...

    def watermarks(self, topic: str) -> Sequence[Watermark]:
        """The readable range of each partition, in partition order. Raises NotFoundError."""
        ...

    def read(self, topic: str, partition: int, offset: int, *, max_bytes: int = 1 << 20) -> Slice:
        """Records from `offset` on, whole batches of at most about `max_bytes` (at least one batch, stored size).

        A slice may be much shorter, so that its records fit the cache: whoever wants more reads on at `next_offset`.
        At the high watermark the slice is empty and `next_offset == offset`. Offsets that are gone (expired,
        skipped by recovery) come back as gaps. Raises NotFoundError for an unknown topic or partition.
        """
        ...

    def offset_for_time(self, topic: str, partition: int, timestamp_ms: int) -> int:
        """The first offset whose timestamp is >= `timestamp_ms`; the high watermark if there is none."""
        ...

    def windows(self, topic: str, *, after: int = -1) -> Sequence[ClosedWindow]:
        """Closed windows with number > `after`, in order."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Sleep until the watermarks moved or a window closed since the last `wait`, or the deadline passed.

        True if something moved. Returns False at once never: an absent writer is waited for until the deadline.
        """
        ...

    def writer_state(self) -> WriterState:
        """Whether the log's writer is alive now."""
        ...

    def close(self) -> None:
        """Release files and the doorbell."""
        ...


class Log(Protocol):
    """A log that can be appended to. Every call returns once what it did is durable, records at their level."""

    async def create_topic(self, name: str, partitions: int | None = None) -> TopicInfo:
        """Make a topic, or return it as it is when it exists. Raises BadRequestError for an illegal name."""
        ...

    async def append(self, records: Sequence[NewRecord], changes: Sequence[TableChange] = ()) -> Sequence[Position]:
        """Append records and change tables in one atomic commit; positions are in the order of the records.

        Records are durable at their topic's level or the log's; with changes of tables always synced.

        Raises NotFoundError for an unknown topic, UnavailableError when the log cannot accept now.
        """
        ...

    async def append_batch(self, topic: str, partition: int, batch: bytes) -> AppendedBatch:
        """Append a ready RecordBatch v2 as it is, in one atomic commit; says where and when.

        Its records get the time received (timestamp type LogAppendTime). Batches of one producer and partition are
        judged in the order of the calls. One that an idempotent producer sent before is not appended again: it gets the
        answer it got then. Raises a commitlog.batch_errors.BatchError, which carries Kafka's error code, for a batch
        that is refused, NotFoundError for an unknown topic or partition, UnavailableError when the log cannot accept
        now.
        """
        ...

    async def init_producer_id(self) -> ProducerIdentity:
        """A new idempotent producer, whose id nobody else has."""
        ...

    async def rows(self, table: str) -> Mapping[str, Any]:
        """All rows of a state table by key; empty for a table nobody wrote."""
        ...

    async def roll(self, topic: str, reason: str) -> ClosedWindow | None:
        """Close the open window of a topic: fsync, whatever its durability; close active segments, record the window.

        None if nothing was appended since the last roll. Raises NotFoundError for an unknown topic.
        """
        ...


class Waiter(Protocol):
    """Somebody who waits for a commit. Called on the event loop, once per registered token."""

    def committed(self, token: Any) -> None:
        """What was appended before the registration of `token` is durable at the listener's level."""
        ...

    def failed(self, token: Any) -> None:
        """The commit failed: nothing registered with `token` may be acknowledged."""
        ...


class PartitionAppender(Protocol):
    """The open end of one partition. The hot path: no validation beyond what the caller has done."""

    index: int

    def append(self, timestamp_ms: int, key: bytes | None, value: bytes | None, headers: list[Header]) -> int:
        """Put a record into the open batches and return its offset. `timestamp_ms` comes from `Appender.now_ms`."""
        ...


class Appender(Protocol):
    """What a listener needs of the log in its own process: one call per message, one per chunk.

    A listener calls `now_ms` once per chunk, `PartitionAppender.append` per message, then `appended` once.
    """

    @property
    def congested(self) -> bool:
        """More is waiting than the log will buffer: the caller stops reading and registers with `when_clear`."""
        ...

    @property
    def full(self) -> bool:
        """The disk is full: no readings are to be appended. The box's own small records (device events) may be."""
        ...

    def watch_full(self, changed: Callable[[bool], None]) -> None:
        """Have `changed(full)` called on the loop whenever `full` has changed; for as long as the log lives."""
        ...

    def partitions(self, topic: str) -> Sequence[PartitionAppender]:
        """The partitions of a topic, in order. Raises NotFoundError."""
        ...

    def now_ms(self) -> int:
        """Time received for everything appended in this chunk; never decreasing."""
        ...

    def appended(
        self,
        count: int,
        size_bytes: int,
        waiter: Waiter | None = None,
        token: Any = None,
        durability: Durability | None = None,
    ) -> None:
        """`count` records of about `size_bytes` were appended; `waiter` is told when they are durable.

        At the level `durability`, where their topics have none of their own; None: the log's.
        """
        ...

    def when_clear(self, resume: Any) -> None:
        """Call `resume()` once when the log is no longer congested."""
        ...
