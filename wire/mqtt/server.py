"""The server's side of one MQTT connection: bytes in; publishes, bytes and events out. No I/O, no clock.

Theory
    Which packet types a state takes and what they do is a table in `wire.mqtt.control`. After any error, a refused
    CONNECT or a DISCONNECT the connection is over and takes nothing more.

    PUBLISH does not go through that table, because it is what the server does nearly all the time. It has one of
    its own: `_targets` maps the packet's first byte to {topic bytes: target}. It is empty unless the state is CONNECTED
    and holds only first bytes that are legal and offered, so a hit in both maps proves state, flags and topic at
    once. Whatever does not hit, or does not fit its packet, leaves the loop: `_resolve` checks all of it slowly and
    either raises the error or adds the topic.

    Most connections repeat one topic, so the last PUBLISH's first byte, topic field and target are kept in `_last`
    and compared before anything is looked up.

    A target is (append, key, headers), computed by the shell once per connection, topic and flags. The loop calls
    `append(now_ms, key, payload, headers)` and remembers the packet identifier; nothing else happens per message.

Rules
    Everything is decided by the bytes, never by how they were cut into chunks. A first byte that is wrong, or a
    packet that announces too much, is refused before any of it is kept. Publishes taken before an error stay taken,
    and `acks`, `taken` and `size_bytes` count them. What `resolve` gave is used until `forget_topics`, which takes
    effect with the next chunk.

What it does not do (yet): MQTT 5.0 (CONNACK 0x01), QoS 2 (NotOfferedError), subscriptions (SUBACK 0x80), sending
publishes. Time limits (connect, keep alive [MQTT-3.1.2-24]) and taking over a client id [MQTT-3.1.4-2] are the shell's.
"""

from __future__ import annotations

from typing import Final, NoReturn

from wire.mqtt.control import ControlPackets
from wire.mqtt.decode import decode_publish
from wire.mqtt.errors import PacketTooLargeError
from wire.mqtt.events import Append, OnConnect, Resolve, State, Target
from wire.mqtt.fields import decode_remaining_length
from wire.mqtt.packets import FLAG_DUP, FLAG_QOS_1, FLAG_RETAIN, PacketType

_NO_PACKET_ID: Final = b"\0\0"
_PUBACK: Final = b"\x40\x02"
_PUBLISH: Final = PacketType.PUBLISH << 4
# Every first byte that a PUBLISH may have: QoS 0 without DUP [MQTT-3.3.1-2], QoS 1; each with and without RETAIN.
_OFFERED_PUBLISH_HEADS: Final = tuple(
    _PUBLISH | flags for qos in (0, FLAG_QOS_1, FLAG_QOS_1 | FLAG_DUP) for flags in (qos, qos | FLAG_RETAIN)
)
_Last = tuple[int, bytes, int, Append, bytes | None, list[tuple[str, bytes | None]]]


def _no_target(timestamp_ms: int, key: bytes | None, value: bytes | None, headers: object, /) -> int:
    raise AssertionError("no PUBLISH was resolved yet")


_NOTHING_YET: Final[_Last] = (-1, b"", 0, _no_target, None, [])
MIN_MAX_PACKET_SIZE_BYTES: Final = 130  # packets with a one-byte remaining length are always within the limit


class ServerConnection(ControlPackets):
    """One client's connection.

    `resolve` gives the targets of publishes, `on_connect` decides about the CONNECT; both are called from `receive`,
    and what they raise ends the connection. `max_packet_size_bytes` bounds a whole packet, and with it what is kept
    of an incomplete one; `max_topics` bounds the memory of resolved targets, which is started anew when full.
    """

    __slots__ = (
        "_last",
        "_max_packet_size_bytes",
        "_max_topics",
        "_needed_size_bytes",
        "_partial",
        "_resolve_target",
        "_targets",
        "_topic_count",
        "acks",
        "size_bytes",
        "taken",
    )

    acks: bytes
    """PUBACKs of the last `receive`, in the order of their publishes [MQTT-4.6.0-2]: send them once it is committed."""
    taken: int
    """Publishes of the last `receive` that went to their targets."""
    size_bytes: int
    """The bytes of their packets."""

    def __init__(self, *, resolve: Resolve, on_connect: OnConnect, max_packet_size_bytes: int, max_topics: int) -> None:
        if max_packet_size_bytes < MIN_MAX_PACKET_SIZE_BYTES or max_topics < 1:
            raise ValueError(f"needed: max_packet_size_bytes >= {MIN_MAX_PACKET_SIZE_BYTES} and max_topics >= 1")
        super().__init__(on_connect)
        self._resolve_target = resolve
        self._max_packet_size_bytes = max_packet_size_bytes
        self._max_topics = max_topics
        self._targets: dict[int, dict[bytes, Target]] = {}
        self._topic_count = 0
        self._last: _Last = _NOTHING_YET
        self._partial = bytearray()
        self._needed_size_bytes = 0
        self.acks = b""
        self.taken = self.size_bytes = 0

    @property
    def buffered_size_bytes(self) -> int:
        """Bytes kept of an incomplete packet."""
        return len(self._partial)

    def forget_topics(self) -> None:
        """Resolve every topic again at its next publish: routes, permissions or the disk's state have changed."""
        for by_topic in self._targets.values():
            by_topic.clear()
        self._topic_count = 0
        self._last = _NOTHING_YET

    def receive(self, data: bytes, now_ms: int) -> int:
        """Take a chunk that arrived at `now_ms`; return how many publishes went to their targets.

        Sets `acks`, `out`, `events`, `taken` and `size_bytes`, also when it raises. Raises ProtocolError (or a
        subclass) when the connection must be closed, and whatever `resolve`, `on_connect` and the targets raise.
        """
        # Longer than a function should be: a call or an attribute per message is what this loop is written to avoid.
        if self._unusual:
            data = self._begin(data)
        last_head, topic_field, topic_field_size, append, key, headers = self._last
        targets = self._targets
        packet_ids: list[bytes] = []
        at = taken = control_size_bytes = 0
        size = len(data)
        try:
            while size - at > 1:
                head = data[at]
                length = data[at + 1]
                body = at + 2
                if length > 127:
                    if size - at > 2 and data[at + 2] < 128:
                        length = length & 127 | data[at + 2] << 7
                        body = at + 3
                    else:
                        length, body = self._long_length(data, at)
                    if body - at + length > self._max_packet_size_bytes:
                        self._refuse_size(head, body - at + length)
                end = body + length
                if end > size:
                    break
                if head == last_head and data.startswith(topic_field, body):
                    start = body + topic_field_size
                else:
                    by_topic = targets.get(head)
                    if by_topic is None or length < 2:
                        self._control(data[at:end], body - at)
                        control_size_bytes += end - at
                        at = end
                        if self._over:
                            break
                        continue
                    start = body + 2 + (data[body] << 8 | data[body + 1])
                    target = by_topic.get(data[body + 2 : start])
                    if target is None:
                        target = self._resolve(data[at:end], body - at)
                    append, key, headers = target
                    last_head, topic_field, topic_field_size = head, data[body:start], start - body
                    self._last = last_head, topic_field, topic_field_size, append, key, headers
                if head & FLAG_QOS_1:
                    packet_id = data[start : start + 2]
                    start += 2
                    if start > end or packet_id == _NO_PACKET_ID:
                        self._refuse_publish(data[at:end], body - at)
                    append(now_ms, key, data[start:end], headers)
                    packet_ids.append(packet_id)
                else:
                    if start > end:
                        self._refuse_publish(data[at:end], body - at)
                    append(now_ms, key, data[start:end], headers)
                taken += 1
                at = end
            if at < size:
                self._keep(data, at)
        except BaseException:
            self._end(State.FAILED)
            raise
        finally:
            self.acks = _PUBACK + _PUBACK.join(packet_ids) if packet_ids else b""
            self.taken = taken
            self.size_bytes = at - control_size_bytes
        return taken

    def _begin(self, data: bytes) -> bytes:
        """Put away what the last chunk left, and put an incomplete packet before this one; b"" if it still is."""
        if self.out or self.events:
            self.out = bytearray()
            self.events = []
        if self._over:
            self.acks = b""
            self.taken = self.size_bytes = 0
            self._refuse_more(data)
            return b""
        self._unusual = False
        partial = self._partial
        if not partial:
            return data
        if len(partial) + len(data) < self._needed_size_bytes:
            partial += data
            self._unusual = True
            return b""
        data = b"".join((partial, data))
        self._partial = bytearray()
        return data

    def _keep(self, data: bytes, at: int) -> None:
        """Keep an incomplete packet, unless what is there of it is already wrong."""
        if self._over:
            self._refuse_more(data[at:])
            return
        if data[at] not in self._targets:
            self._handler_for(data[at])
        header = decode_remaining_length(data, at + 1)
        self._needed_size_bytes = 0 if header is None else header[0] + header[1] - at
        self._partial += memoryview(data)[at:]
        self._unusual = True

    def _long_length(self, data: bytes, at: int) -> tuple[int, int]:
        """(remaining length, where the variable header begins); more than there is if that is not known yet."""
        if data[at] not in self._targets:
            self._handler_for(data[at])
        header = decode_remaining_length(data, at + 1)
        return (1, len(data)) if header is None else header

    def _refuse_size(self, head: int, size_bytes: int) -> NoReturn:
        packet_type = PacketType(head >> 4) if head in self._targets else self._handler_for(head)[0]
        raise PacketTooLargeError(
            "MQTT-2.2.3",
            f"a {packet_type.name} of {size_bytes} bytes is more than the {self._max_packet_size_bytes} accepted",
            offset=1,
            mend="send smaller payloads, or raise mqtt.max_packet_size",
        )

    def _resolve(self, packet: bytes, body: int) -> Target:
        """Check a PUBLISH in full, ask the shell for its target and remember it."""
        publish = decode_publish(packet, body)
        target = self._resolve_target(publish.topic, packet[0] & 15)
        if self._topic_count >= self._max_topics:
            self.forget_topics()
        self._topic_count += 1
        self._targets[packet[0]][publish.topic.encode()] = target
        return target

    def _control(self, packet: bytes, body: int) -> None:
        super()._control(packet, body)
        if self._state is State.CONNECTED and not self._targets:
            self._targets.update((head, {}) for head in _OFFERED_PUBLISH_HEADS)

    def _end(self, state: State) -> None:
        super()._end(state)
        self._targets.clear()
        self._last = _NOTHING_YET
        self._partial = bytearray()
