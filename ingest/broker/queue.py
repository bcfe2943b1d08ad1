"""The delivery queue of one session: what has to go to a client at QoS 1 and 2, and how far each of it has come.

Sequence numbers, packet identifiers and what the client answers are in `exchanges`.

**Durable queues** (of sessions that outlive their connection) keep two kinds of rows: chunks of places (`chunk`), and
one row for each message that was released (`released`). A row of the second kind stays until the chunk's row goes,
although its message may be complete by then: after a kill everything in a chunk is sent again, and a released message
then as its PUBREL, which clients answer whether they know the id or not. The caller carries the rows to disk:

    take_changes()   rows of everything until now, for the commit that is about to be written
    committed()      that commit is durable

The two are called in turn, and a commit is due soon whenever `changed` is true (without it ids run out after 65,535
messages). Messages are sent, and PUBRELs go out, only after the commit that holds them. So a kill loses nothing: the
queue comes back as of the last commit (`restore`), with everything from the oldest chunk on to be sent again.

**Other queues** write nothing. A message that can be sent at once only takes a number (`send_now`). Places are kept
from `append` until their message is complete, so shared messages of a session that ends can go to another member.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ingest.broker.chunk import Chunk, Kind
from ingest.broker.exchanges import AWAITS_PUBACK, AWAITS_PUBCOMP, PACKET_IDS, Exchanges, Received
from ingest.broker.places import Places, QueueFullError, QueueLimits
from ingest.broker.rows import QUEUES, Row, seq_key

__all__ = ["PACKET_IDS", "DeliveryQueue", "Item", "Kind", "QueueFullError", "QueueLimits", "Received"]


class Item(NamedTuple):
    """A message to be sent: a place in the log, or what is retained under an MQTT topic (then `offset` is -1).

    `again`: it may have been sent before, DUP is to be set [MQTT-3.3.1-1, MQTT5-3.3.1-1]. A tuple: one per message.
    """

    seq: int
    packet_id: int
    kind: Kind
    offset: int
    mqtt_topic: str | None
    again: bool


class DeliveryQueue(Exchanges):
    """Messages of QoS 1 and 2 for one session, in order. Not for more than one thread; reads no clock."""

    def __init__(
        self, client_id: str, *, durable: bool, receive_maximum: int = PACKET_IDS, limits: QueueLimits | None = None
    ) -> None:
        super().__init__(client_id, durable=durable, receive_maximum=receive_maximum)
        limits = limits or QueueLimits()
        self._max_messages = limits.max_messages
        self._places = Places(client_id, limits.max_size_bytes)
        self._item: Item | None = None  # read, and not yet sent
        self._ready = self._taken_next = 0  # below: the place is durable
        self._taken_floor = 0

    @classmethod
    def restore(
        cls,
        client_id: str,
        *,
        chunks: Mapping[int, object],
        released: Mapping[int, object],
        limits: QueueLimits | None = None,
    ) -> DeliveryQueue:
        """The durable queue that rows hold, of QUEUES and RELEASED as `rows_by_client` groups them.

        Raises StateRowError.
        """
        queue = cls(client_id, durable=True, limits=limits)
        known: dict[Kind, Kind] = {}
        for first_seq, row in sorted(chunks.items()):
            queue._places.restore(Chunk.from_row(client_id, first_seq, row, known))
        first = queue._places.first_seq or 0
        queue._head = queue._sent = queue._floor = queue._taken_floor = first
        queue._next = queue._ready = queue._taken_next = queue._places.end_seq
        queue._again_until = min(queue._next, first + PACKET_IDS)
        for seq in queue._released.restore(released, first, queue._again_until):
            queue._complete(seq)
        queue._sent = queue._head
        return queue

    # ---- what there is

    @property
    def count(self) -> int:
        """Messages that are not complete, whether they were sent or not."""
        return self._next - self._head - len(self._done)

    @property
    def size_bytes(self) -> int:
        """What the places take, without what Python adds."""
        return self._places.size_bytes

    @property
    def caught_up(self) -> bool:
        """Whether everything that was appended was sent: the next message appended may be sent from memory."""
        return self._sent == self._next

    @property
    def changed(self) -> bool:
        """Whether `take_changes` has something to bring to disk."""
        released, places = self._released, self._places
        return self.durable and (released.changed or places.unwritten or places.complete_below(self._head))

    # ---- messages in

    def append(self, kind: Kind, offset: int) -> int:
        """Queue a message of the log; returns its seq. Raises QueueFullError."""
        seq = self._next
        if seq - self._head >= self._max_messages:
            raise self._full()
        if not self.durable:
            self._places.drop_below(self._head)
        self._places.append(seq, kind, offset)
        self._next = seq + 1
        return seq

    def append_retained(self, kind: Kind, mqtt_topic: str) -> int:
        """Queue what is retained under `mqtt_topic` when its turn comes; returns its seq. Raises QueueFullError."""
        seq = self._next
        if seq - self._head >= self._max_messages:
            raise self._full()
        if not self.durable:
            self._places.drop_below(self._head)
        self._places.append_retained(seq, kind, mqtt_topic)
        self._next = seq + 1
        return seq

    def send_now(self, qos: int) -> int | None:
        """Count a message as sent at once, without keeping its place; returns its packet id.

        None where it has to be appended instead: the queue is durable, others come first, or the window is closed.
        """
        seq = self._next
        if (
            self._sent != seq
            or self.durable
            or len(self._flight) >= self.receive_maximum
            or seq - self._head >= PACKET_IDS
        ):
            return None
        if self._places.open:
            self._places.seal()  # a chunk holds consecutive messages, and this one has no place
        self._next = self._sent = seq + 1
        packet_id = seq % PACKET_IDS + 1
        self._flight[packet_id] = qos
        return packet_id

    # ---- messages out

    def next_unsent(self) -> Item | None:
        """The message whose turn it is; None where there is none, or the window is closed. Same again until it is sent.

        Raises StateRowError where a row that this queue was restored from is damaged.
        """
        seq = self._sent
        if seq >= (self._ready if self.durable else self._next) or not self.window_open:
            return None
        item = self._item
        if item is None or item.seq != seq:
            kind, place = self._places.read(seq)
            offset, mqtt_topic = (place, None) if isinstance(place, int) else (-1, place)
            packet_id = seq % PACKET_IDS + 1
            item = self._item = Item(seq, packet_id, kind, offset, mqtt_topic, seq < self._again_until)
        return item

    def send(self, seq: int, qos: int) -> int | None:
        """Count message `seq` as sent at `qos`, its kind's; returns its packet id.

        None where it is not its turn, or not yet on disk, or the window is closed: `next_unsent` will bring it.
        """
        if seq != self._sent or seq >= (self._ready if self.durable else self._next) or not self.window_open:
            return None
        packet_id = seq % PACKET_IDS + 1
        self._flight[packet_id] = qos
        self._sent = seq + 1
        if seq < self._again_until:
            self._pass_settled()
        return packet_id

    def skip(self, seq: int) -> None:
        """Complete message `seq`, whose turn it is, unsent: it is gone, expired, or too large for the client.

        Raises ValueError where it is not its turn.
        """
        if seq != self._sent or seq >= self._next:
            raise ValueError(f"message {seq} is skipped and {self._sent} is next")
        self._sent = seq + 1
        self._complete(seq)
        if seq < self._again_until:
            self._pass_settled()

    def reconnected(self, receive_maximum: int) -> Sequence[int]:
        """The client is back with its session: what is not complete is sent again. For durable queues only.

        Returns the packet ids whose PUBREL is to be sent now, in order [MQTT-4.6.0-4, MQTT5-4.6.0-4], before anything
        of `next_unsent`, and without regard to the window [MQTT5-3.3.4-10]. Those whose row is not yet on disk come
        with `committed`. `next_unsent` begins with the oldest message that was neither released nor completed. What the
        client says to a message before it was sent again counts as unknown.
        """
        if not self.durable:
            raise ValueError(f"the session of {self.client_id!r} ended with its connection")
        self.receive_maximum = receive_maximum
        self._again_until = max(self._again_until, self._sent)
        self._item = None
        head, done = self._head, self._done
        released = [seq for seq in sorted(self._released.seqs) if seq >= head and seq not in done]
        self._flight = dict.fromkeys((seq % PACKET_IDS + 1 for seq in released), AWAITS_PUBCOMP)
        self._sent = head
        self._pass_settled()
        return [seq % PACKET_IDS + 1 for seq in released if not self._released.awaits_commit(seq)]

    # ---- rows

    def take_changes(self) -> list[Row]:
        """The rows to set and to remove since the last call, for one commit; empty for a queue that is not durable."""
        if not self.durable:
            return []
        rows = self._released.take()
        for chunk in self._places.drop_below(self._head):
            rows += self._removals(chunk)
        rows += self._places.take_rows()
        self._taken_next = self._next
        first = self._places.first_seq
        self._taken_floor = self._next if first is None else first
        return rows

    def committed(self) -> Sequence[int]:
        """What `take_changes` gave is durable. Returns the packet ids whose PUBREL may go out now, in order."""
        self._ready = self._taken_next
        self._floor = self._taken_floor
        ids = [seq % PACKET_IDS + 1 for seq in self._released.committed()]
        return [packet_id for packet_id in ids if self._flight.get(packet_id) == AWAITS_PUBCOMP]

    def clear(self) -> list[Row]:
        """Forget everything, because the session ends; returns the rows to remove."""
        rows = [row for chunk in self._places.drop_below(self._next) for row in self._removals(chunk)]
        self._head = self._sent = self._ready = self._taken_next = self._floor = self._taken_floor = self._next
        self._flight.clear()
        self._done.clear()
        self._released.clear()
        self._item = None
        return rows

    def unfinished_shared(self) -> Iterator[tuple[Kind, int]]:
        """Kind and offset of messages of shared subscriptions that may go to another member now that this session ends.

        QoS 1: all that are not complete (5.0, 4.8.2). QoS 2: those never sent [MQTT5-4.8.2-5]. To be used up before
        anything else is done with the queue. Raises StateRowError.
        """
        never_sent_from = max(self._sent, self._again_until)
        for seq, kind, place in self._places.items(self._head):
            if kind.group is None or seq in self._done or not isinstance(place, int):
                continue
            if kind.qos == AWAITS_PUBACK or seq >= never_sent_from:
                yield kind, place

    # ---- within

    def _full(self) -> QueueFullError:
        return QueueFullError(
            f"the delivery queue holds {self.count} messages; at most {self._max_messages} are allowed",
            client_id=self.client_id,
        )

    def _removals(self, chunk: Chunk) -> Iterator[Row]:
        if chunk.row_count:
            yield (QUEUES, seq_key(self.client_id, chunk.first_seq), None)
        yield from self._released.drop(chunk.first_seq, chunk.end_seq)
