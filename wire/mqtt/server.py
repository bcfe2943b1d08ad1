"""The server's side of one MQTT connection: bytes in; publishes, bytes and events out. No I/O, no clock.

Theory
    Which packet types a state takes and what they do is a table in `wire.mqtt.control`. After any error, a refused
    CONNECT or a DISCONNECT the connection is over and takes nothing more.

    PUBLISH does not go through that table, because it is what the server does nearly all the time. The loop below
    finds its target by first byte, topic field and property field (`wire.mqtt.publishes`); what does not hit, or does
    not fit its packet, leaves the loop and is checked slowly.

    Most connections repeat one topic, so the last PUBLISH's first byte, topic field, property field and target are
    kept in `_last` and compared before anything is looked up. (Without a packet identifier in between, topic and
    properties are compared as one.) A plain PUBACK, the other packet that comes by the thousand, is taken apart in the
    loop as well.

    The loop calls a target's `append(now_ms, key, payload, headers)` and remembers the packet identifier; nothing else
    happens per message.

Rules
    Everything is decided by the bytes, never by how they were cut into chunks. A first byte that is wrong, or a
    packet that announces too much, is refused before any of it is kept. Publishes taken before an error stay taken,
    and `acks`, `taken` and `size_bytes` count them. What `resolve` gave is used until `forget_topics`, which takes
    effect with the next chunk, or behind the packet whose decision calls it.

    The one exception is 5.0's receive maximum, which for QoS 1 is looked at after each chunk (and before a PUBREL makes
    room): what is unanswered depends on when commits end, and a chunk is no larger than what a socket gives at once.

What it does not do: time limits (connect, keep alive [MQTT-3.1.2-24]), taking over a client id [MQTT-3.1.4-2],
sessions, and sending publishes are the shell's; 5.0's AUTH is not offered.
"""

from __future__ import annotations

from typing import Final

from wire.mqtt.errors import ProtocolError, PublishRefusedError
from wire.mqtt.events import Decisions, State
from wire.mqtt.framing import packet_bounds
from wire.mqtt.publishes import MAX_VARIANT_SIZE_BYTES, NOTHING_YET, PUBACK, Publishes
from wire.mqtt.reasons import PacketType, packet_name

_NO_PACKET_ID: Final = b"\0\0"
_NO_PROPERTIES: Final = b"\0"
_MEND: Final = "send smaller payloads, or raise mqtt.max_packet_size"
MIN_MAX_PACKET_SIZE_BYTES: Final = 130  # packets with a one-byte remaining length are always within the limit


class ServerConnection(Publishes):
    """One client's connection.

    `decisions` is asked from within `receive`. `max_packet_size_bytes` bounds a whole packet, and with it what is kept
    of an incomplete one; `max_topics` bounds the memory of resolved targets, which is started anew when full.
    """

    __slots__ = (
        "_max_packet_size_bytes",
        "_needed_size_bytes",
        "_partial",
        "acked_ids",
        "acks",
        "size_bytes",
        "taken",
    )

    acks: bytes
    """Answers of the last `receive` that wait for its commit: PUBACKs and PUBRECs in the order of their publishes
    [MQTT-4.6.0-2] [MQTT-4.6.0-3], then PUBCOMPs."""
    acked_ids: int
    """QoS 1 publishes that `acks` answers: hand it to `acknowledged` once they are sent."""
    taken: int
    """Publishes of the last `receive` that went to their targets."""
    size_bytes: int
    """The bytes of the packets of all publishes of the last `receive`."""

    def __init__(self, decisions: Decisions, *, max_packet_size_bytes: int, max_topics: int) -> None:
        if max_packet_size_bytes < MIN_MAX_PACKET_SIZE_BYTES or max_topics < 1:
            raise ValueError(f"needed: max_packet_size_bytes >= {MIN_MAX_PACKET_SIZE_BYTES} and max_topics >= 1")
        super().__init__(decisions, max_topics=max_topics)
        self._max_packet_size_bytes = max_packet_size_bytes
        self._partial = bytearray()
        self._needed_size_bytes = 0
        self.acks = b""
        self.acked_ids = 0
        self.taken = self.size_bytes = 0

    @property
    def buffered_size_bytes(self) -> int:
        """Bytes kept of an incomplete packet."""
        return len(self._partial)

    @property
    def unfinished(self) -> object | None:
        """Which packet is incomplete: the same object for as long as it is the same packet; None if there is none."""
        return self._partial or None

    def receive(self, data: bytes, now_ms: int) -> int:
        """Take a chunk that arrived at `now_ms`; return how many publishes went to their targets.

        Sets `acks`, `out`, `events`, `taken`, `size_bytes` and the lists of identifiers, also when it raises. Raises
        ProtocolError (or a subclass) when the connection must be closed, and whatever the shell and the targets raise.
        """
        # Longer than a function should be: a call or an attribute per message is what this loop is written to avoid.
        if self.unusual:
            data = self._begin(data)
        last_head, topic_field, topic_field_size, properties, properties_size, append, key, headers = self._last
        targets = self._targets
        packet_ids: list[bytes] = []
        qos_2_ids: list[bytes] = []
        at = taken = control_size_bytes = 0
        size = len(data)
        try:
            while size - at > 1:
                head = data[at]
                length = data[at + 1]
                body = at + 2
                if length > 127:
                    if size - at > 2 and 0 < (more := data[at + 2]) < 128:
                        length = length & 127 | more << 7
                        body = at + 3
                        if length + 3 > self._max_packet_size_bytes:
                            self._long_length(data, at)
                        end = body + length
                    else:
                        body, end = self._long_length(data, at)
                        length = end - body
                else:
                    end = body + length
                if end > size:
                    break
                if head == last_head and data.startswith(topic_field, body):
                    start = body + topic_field_size
                else:
                    by_topic = targets.get(head)
                    if by_topic is None or length < 2:
                        if head == 0x40 and length == 2 and targets and data[body:end] != _NO_PACKET_ID:
                            self.pubacks.append(data[body] << 8 | data[body + 1])
                            self.unusual = True
                        else:
                            if head == 0x62 and packet_ids and self._max_in_flight:
                                self._bound_in_flight(len(packet_ids))  # before PUBREL makes room
                            self._control(data[at:end], body - at)
                            targets = self._targets
                            last_head = -1  # what it changed may change where publishes go
                        control_size_bytes += end - at
                        at = end
                        if self._over:
                            break
                        continue
                    start = body + 2 + (data[body] << 8 | data[body + 1])
                    topic_field = data[body:start]
                    topic_field_size = start - body
                    if self.level == 5:
                        place = start + 2 if head & 6 else start
                        if place < end and not data[place]:
                            properties, properties_size = _NO_PROPERTIES, 1
                            target = by_topic.get(topic_field)
                        else:
                            properties = self._property_field(data, at, body, place, end)
                            properties_size = len(properties)
                            target = by_topic.get(topic_field + properties)
                        if target is None:
                            try:
                                target = self._resolve_5(data[at:end], body - at, topic_field, properties)
                            except PublishRefusedError as refused:
                                self._refused(refused, head, data[start:place], packet_ids, qos_2_ids)
                                last_head = -1
                                at = end
                                continue
                            targets = self._targets
                        keep = properties_size <= MAX_VARIANT_SIZE_BYTES
                        if not head & 6:
                            topic_field += properties
                            topic_field_size += properties_size
                            start += properties_size
                            properties, properties_size = b"", 0
                    else:
                        properties_size = 0
                        keep = True
                        target = by_topic.get(topic_field)
                        if target is None:
                            target = self._resolve(data[at:end], body - at, topic_field)
                            targets = self._targets
                    append, key, headers = target
                    last_head = head
                    self._last = (
                        (last_head, topic_field, topic_field_size, properties, properties_size, append, key, headers)
                        if keep
                        else NOTHING_YET
                    )
                if head & 6:
                    packet_id = data[start : start + 2]
                    start += 2
                    if packet_id == _NO_PACKET_ID:  # what is not in the packet at all is found below
                        self._refuse_publish(data[at:end], body - at)
                    if properties_size:
                        if data.startswith(properties, start):
                            start += properties_size
                        else:
                            last_head = -1  # the same topic with other properties: look it up
                            continue
                if start > end:
                    self._refuse_publish(data[at:end], body - at)
                if not head & 6:
                    append(now_ms, key, data[start:end], headers)
                elif head & 2:
                    append(now_ms, key, data[start:end], headers)
                    packet_ids.append(packet_id)
                else:
                    if self._is_new(packet_id, len(packet_ids)):
                        try:
                            append(now_ms, key, data[start:end], headers)
                        except BaseException:
                            self._not_stored()
                            raise
                        taken += 1
                    qos_2_ids.append(packet_id)
                    at = end
                    continue
                taken += 1
                at = end
            if at < size:
                self._keep(data, at)
            if self._max_in_flight:
                self._in_flight += len(packet_ids)
                if self._in_flight > self._max_in_flight or self.received_ids:
                    self._bound_in_flight()
        except ProtocolError as error:
            error.packet = packet_name(data[at]) if at < size else PacketType.PUBLISH.name
            self._say_why(error)
            self._end(State.FAILED)
            raise
        except BaseException:
            self._end(State.FAILED)
            raise
        finally:
            if self.unusual and (qos_2_ids or self._late or self._refusals):
                self.acks = self._answers(packet_ids, qos_2_ids)
            else:
                self.acks = PUBACK + PUBACK.join(packet_ids) if packet_ids else b""
            self.acked_ids = len(packet_ids)
            self.taken = taken
            self.size_bytes = at - control_size_bytes
        return taken

    def _begin(self, data: bytes) -> bytes:
        """Put away what the last chunk left, and put an incomplete packet before this one; b"" if it still is."""
        if self.out or self.events:
            self.out = bytearray()
            self.events = []
        if self.pubacks:
            self.pubacks = []
        if self.stored or self.released:
            self.stored = []
            self.released = []
        if self._over:
            self.acks = b""
            self.acked_ids = self.taken = self.size_bytes = 0
            self._refuse_more(data)
            return b""
        self.unusual = False
        partial = self._partial
        if not partial:
            return data
        if len(partial) + len(data) < self._needed_size_bytes:
            partial += data
            self.unusual = True
            return b""
        data = b"".join((partial, data))
        self._partial = bytearray()
        return data

    def _keep(self, data: bytes, at: int) -> None:
        """Keep an incomplete packet, unless what is there of it is already wrong."""
        if self._over:
            self._refuse_more(data[at:])
            return
        bounds = self._bounds(data, at)
        self._needed_size_bytes = 0 if bounds is None else bounds[1] - at
        self._partial += memoryview(data)[at:]
        self.unusual = True

    def _long_length(self, data: bytes, at: int) -> tuple[int, int]:
        """Where the variable header begins and the packet ends; behind what is there if that is not known yet."""
        return self._bounds(data, at) or (len(data), len(data) + 1)

    def _bounds(self, data: bytes, at: int) -> tuple[int, int] | None:
        """The same, None if it is not known yet. Raises what is wrong with the first byte and the length."""
        if data[at] not in self._targets:
            self._handler_for(data[at])
        return packet_bounds(data, at, max_packet_size_bytes=self._max_packet_size_bytes, level=self.level, mend=_MEND)

    def _end(self, state: State) -> None:
        super()._end(state)
        self._partial = bytearray()
