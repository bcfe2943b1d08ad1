"""The server's side of one MQTT connection: bytes in; publishes, bytes and events out. No I/O, no clock.

Theory
    A connection is in one of the states of `State`, and `_HANDLERS` says which packet types each state takes and
    what they do; a type that is not there is a protocol error (`_FORBIDDEN` names its clause). After any error, a
    refused CONNECT or a DISCONNECT the connection is over and takes nothing more.

    PUBLISH does not go through the table, because it is what the server does nearly all the time. It has one of its
    own: `_targets` maps the packet's first byte to {topic bytes: target}. It is empty unless the state is CONNECTED
    and holds only first bytes that are legal and offered, so a hit in both maps proves state, flags and topic at
    once. Whatever does not hit, or does not fit its packet, leaves the loop: `_resolve` checks all of it slowly and
    either raises the error or adds the topic.

    A target is (append, key, headers), computed by the shell once per connection, topic and flags. The loop calls
    `append(now_ms, key, payload, headers)` and remembers the packet identifier; nothing else happens per message.

Rules
    Everything is decided by the bytes, never by how they were cut into chunks. An error is raised at the first byte
    that proves it, a packet that announces too much before any of it is kept. Publishes taken before an error stay
    taken, and `acks`, `taken` and `size_bytes` count them.

What it does not do (yet): MQTT 5.0 (CONNACK 0x01), QoS 2 (NotOfferedError), subscriptions (SUBACK 0x80), sending
publishes. Time limits (connect, keep alive [MQTT-3.1.2-24]) and taking over a client id [MQTT-3.1.4-2] are the shell's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NoReturn

from wire.mqtt.decode import (
    check_flags,
    decode_empty,
    decode_packet_id,
    decode_publish,
    decode_subscribe,
    decode_unsubscribe,
)
from wire.mqtt.decode_connect import decode_connect
from wire.mqtt.encode import PINGRESP, encode_acknowledgement, encode_connack, encode_suback
from wire.mqtt.errors import NotOfferedError, PacketTooLargeError, ProtocolError, UnacceptableLevelError
from wire.mqtt.events import (
    Connected,
    Disconnected,
    Event,
    OnConnect,
    Refused,
    Resolve,
    State,
    SubscriptionsRefused,
    Target,
)
from wire.mqtt.fields import decode_remaining_length
from wire.mqtt.packets import (
    FLAG_DUP,
    FLAG_QOS_1,
    FLAG_QOS_2,
    FLAG_RETAIN,
    ConnAck,
    ConnectReturnCode,
    PacketType,
    PubComp,
    SubAck,
    SubackReturnCode,
    UnsubAck,
)

_NO_PACKET_ID: Final = b"\0\0"
_PUBACK: Final = b"\x40\x02"
_PUBLISH: Final = PacketType.PUBLISH << 4
# Every first byte that a PUBLISH may have: QoS 0 without DUP [MQTT-3.3.1-2], QoS 1; each with and without RETAIN.
_OFFERED_PUBLISH_HEADS: Final = tuple(
    _PUBLISH | flags for qos in (0, FLAG_QOS_1, FLAG_QOS_1 | FLAG_DUP) for flags in (qos, qos | FLAG_RETAIN)
)
MIN_MAX_PACKET_SIZE_BYTES: Final = 130  # packets with a one-byte remaining length are always within the limit


class ServerConnection:
    """One client's connection.

    `resolve` gives the target of publishes, `on_connect` decides about the CONNECT; both are called from `receive`
    and what they raise ends the connection. `max_packet_size_bytes` bounds a whole packet, and with it what is kept
    of an incomplete one; `max_topics` bounds the memory of resolved targets, which is started anew when full.
    """

    __slots__ = (
        "_max_packet_size_bytes",
        "_max_topics",
        "_needed_size_bytes",
        "_on_connect",
        "_over",
        "_partial",
        "_resolve_target",
        "_state",
        "_targets",
        "_topic_count",
        "acks",
        "events",
        "out",
        "size_bytes",
        "taken",
    )

    acks: bytes
    """PUBACKs of the last `receive`, in the order of their publishes [MQTT-4.6.0-2]: send them once it is committed."""
    out: bytearray
    """What to send at once for the last `receive`."""
    events: list[Event]
    """What else happened in the last `receive`."""
    taken: int
    """Publishes of the last `receive` that went to their targets."""
    size_bytes: int
    """Their payload bytes."""

    def __init__(self, *, resolve: Resolve, on_connect: OnConnect, max_packet_size_bytes: int, max_topics: int) -> None:
        if max_packet_size_bytes < MIN_MAX_PACKET_SIZE_BYTES or max_topics < 1:
            raise ValueError(f"max_packet_size_bytes >= {MIN_MAX_PACKET_SIZE_BYTES} and max_topics >= 1, please")
        self._resolve_target = resolve
        self._on_connect = on_connect
        self._max_packet_size_bytes = max_packet_size_bytes
        self._max_topics = max_topics
        self._state = State.AWAITING_CONNECT
        self._over = False
        self._targets: dict[int, dict[bytes, Target]] = {}
        self._topic_count = 0
        self._partial = bytearray()
        self._needed_size_bytes = 0
        self.acks = b""
        self.out = bytearray()
        self.events = []
        self.taken = self.size_bytes = 0

    @property
    def state(self) -> State:
        """Where the connection stands."""
        return self._state

    @property
    def over(self) -> bool:
        """Nothing more will be taken: send `out`, commit what was taken, close."""
        return self._over

    @property
    def buffered_size_bytes(self) -> int:
        """Bytes kept of an incomplete packet."""
        return len(self._partial)

    def forget_topics(self) -> None:
        """Resolve every topic again at its next publish: routes, permissions or the disk's state have changed."""
        for by_topic in self._targets.values():
            by_topic.clear()
        self._topic_count = 0

    def receive(self, data: bytes, now_ms: int) -> int:
        """Take a chunk that arrived at `now_ms`; return how many publishes went to their targets.

        Sets `acks`, `out`, `events`, `taken` and `size_bytes`, also when it raises. Raises ProtocolError (or a
        subclass) when the connection must be closed, and whatever `resolve`, `on_connect` and the targets raise.
        """
        if self.out or self.events:
            self.out = bytearray()
            self.events = []
        partial = self._partial
        if partial:
            if len(partial) + len(data) < self._needed_size_bytes:
                partial += data
                self.acks = b""
                self.taken = self.size_bytes = 0
                return 0
            data = b"".join((partial, data))
            partial.clear()
        packet_ids: list[bytes] = []
        try:
            return self._take(data, now_ms, packet_ids)
        except BaseException:
            self._end(State.FAILED)
            raise
        finally:
            self.acks = _PUBACK + _PUBACK.join(packet_ids) if packet_ids else b""

    def _take(self, data: bytes, now_ms: int, packet_ids: list[bytes]) -> int:
        """Walk over the whole packets of `data` and keep the rest."""
        targets = self._targets
        at = taken = size_bytes = 0
        size = len(data)
        try:
            while size - at > 1 and not self._over:
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
                by_topic = targets.get(head)
                if by_topic is None or length < 2:
                    self._control(data[at:end], body - at)
                    at = end
                    continue
                start = body + 2 + (data[body] << 8 | data[body + 1])
                target = by_topic.get(data[body + 2 : start])
                if target is None or start > end:
                    target = self._resolve(data[at:end], body - at)
                append, key, headers = target
                if head & FLAG_QOS_1:
                    packet_id = data[start : start + 2]
                    start += 2
                    if start > end or packet_id == _NO_PACKET_ID:
                        self._resolve(data[at:end], body - at)
                    append(now_ms, key, data[start:end], headers)
                    packet_ids.append(packet_id)
                else:
                    append(now_ms, key, data[start:end], headers)
                taken += 1
                size_bytes += end - start
                at = end
        finally:
            self.taken = taken
            self.size_bytes = size_bytes
        if at < size:
            self._keep(data, at)
        return taken

    def _keep(self, data: bytes, at: int) -> None:
        """Keep an incomplete packet, unless what is there of it is already wrong."""
        if self._over:
            self._refuse_more()
            return
        if data[at] not in self._targets:
            self._handler_for(data[at])
        header = decode_remaining_length(data, at + 1)
        self._needed_size_bytes = 0 if header is None else header[0] + header[1] - at
        self._partial += memoryview(data)[at:]

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

    def _refuse_more(self) -> None:
        """Bytes behind the last packet: ignored after a refusal [MQTT-3.1.4-5], an error otherwise."""
        if self._state is State.DISCONNECTED:
            raise ProtocolError("MQTT-3.14.4-2", "the client sent more after its DISCONNECT")
        if self._state is State.FAILED:
            raise ProtocolError("MQTT-4.8.0-1", "the connection has failed and takes nothing more")

    def _resolve(self, packet: bytes, body: int) -> Target:
        """Check a PUBLISH in full, ask the shell for its target and remember it."""
        publish = decode_publish(packet, body)
        target = self._resolve_target(publish.topic, packet[0] & 15)
        if self._topic_count >= self._max_topics:
            self.forget_topics()
        self._topic_count += 1
        self._targets[packet[0]][publish.topic.encode()] = target
        return target

    def _handler_for(self, head: int) -> tuple[PacketType, _Handler]:
        """The type in a packet's first byte and what this state does with it; raises if that is nothing."""
        packet_type = check_flags(head)
        handler = _HANDLERS[self._state].get(packet_type)
        if handler is None:
            clause, what = _FORBIDDEN.get((self._state, packet_type), _FORBIDDEN_OTHERWISE[self._state])
            raise ProtocolError(clause, f"{what} ({packet_type.name})", offset=0)
        if packet_type is PacketType.PUBLISH and head & FLAG_QOS_2:
            raise NotOfferedError(
                "MQTT-4.3.3", "QoS 2 is not offered", offset=0, mend="let the client publish with QoS 1"
            )
        return packet_type, handler

    def _control(self, packet: bytes, body: int) -> None:
        _, handler = self._handler_for(packet[0])
        handler(self, packet, body)

    def _end(self, state: State) -> None:
        self._state = state
        self._over = True
        self._targets.clear()
        self._partial.clear()

    def _on_connect_packet(self, packet: bytes, body: int) -> None:
        try:
            connect = decode_connect(packet, body)
        except UnacceptableLevelError as error:
            self._refuse(ConnectReturnCode.UNACCEPTABLE_PROTOCOL_LEVEL, str(error))  # [MQTT-3.1.2-2]
            return
        if not connect.client_id and not connect.clean_session:
            what = "[MQTT-3.1.3-7] an empty client identifier without clean session"
            self._refuse(ConnectReturnCode.IDENTIFIER_REJECTED, what)  # [MQTT-3.1.3-8]
            return
        connack = self._on_connect(connect)
        if connack.return_code is not ConnectReturnCode.ACCEPTED:
            self._refuse(connack.return_code, "refused by the server")
            return
        self.out += encode_connack(connack)  # [MQTT-3.1.4-4]
        self.events.append(Connected(connect=connect))
        self._state = State.CONNECTED
        self._targets.update((head, {}) for head in _OFFERED_PUBLISH_HEADS)

    def _refuse(self, return_code: ConnectReturnCode, what: str) -> None:
        self.out += encode_connack(ConnAck(return_code=return_code))
        self.events.append(Refused(return_code=return_code, what=what))
        self._end(State.REFUSED)

    def _on_misfit_publish(self, packet: bytes, body: int) -> None:
        decode_publish(packet, body)  # raises: only a PUBLISH without room for a topic's length comes here

    def _on_subscribe(self, packet: bytes, body: int) -> None:
        subscribe = decode_subscribe(packet, body)
        failures = (SubackReturnCode.FAILURE,) * len(subscribe.subscriptions)
        self.out += encode_suback(SubAck(packet_id=subscribe.packet_id, return_codes=failures))  # [MQTT-3.8.4-1]
        self.events.append(SubscriptionsRefused(subscribe=subscribe))

    def _on_unsubscribe(self, packet: bytes, body: int) -> None:
        unsubscribe = decode_unsubscribe(packet, body)
        self.out += encode_acknowledgement(UnsubAck(packet_id=unsubscribe.packet_id))  # [MQTT-3.10.4-5]

    def _on_unasked_acknowledgement(self, packet: bytes, body: int) -> None:
        decode_packet_id(packet, body)  # left over from another server's session: nothing waits for it here

    def _on_pubrel(self, packet: bytes, body: int) -> None:
        # Left over from another server's session; the answer lets the client forget it [MQTT-4.3.3-2].
        self.out += encode_acknowledgement(PubComp(packet_id=decode_packet_id(packet, body)))

    def _on_pingreq(self, packet: bytes, body: int) -> None:
        decode_empty(packet, body)
        self.out += PINGRESP  # [MQTT-3.12.4-1]

    def _on_disconnect(self, packet: bytes, body: int) -> None:
        decode_empty(packet, body)
        self.events.append(Disconnected())
        self._end(State.DISCONNECTED)


_Handler = Callable[[ServerConnection, bytes, int], None]

_HANDLERS: Final[Mapping[State, Mapping[PacketType, _Handler]]] = {
    State.AWAITING_CONNECT: {PacketType.CONNECT: ServerConnection._on_connect_packet},
    State.CONNECTED: {
        PacketType.PUBLISH: ServerConnection._on_misfit_publish,
        PacketType.PUBACK: ServerConnection._on_unasked_acknowledgement,
        PacketType.PUBREC: ServerConnection._on_unasked_acknowledgement,
        PacketType.PUBREL: ServerConnection._on_pubrel,
        PacketType.PUBCOMP: ServerConnection._on_unasked_acknowledgement,
        PacketType.SUBSCRIBE: ServerConnection._on_subscribe,
        PacketType.UNSUBSCRIBE: ServerConnection._on_unsubscribe,
        PacketType.PINGREQ: ServerConnection._on_pingreq,
        PacketType.DISCONNECT: ServerConnection._on_disconnect,
    },
}
_FORBIDDEN: Final = {(State.CONNECTED, PacketType.CONNECT): ("MQTT-3.1.0-2", "a second CONNECT")}
_FORBIDDEN_OTHERWISE: Final = {
    State.AWAITING_CONNECT: ("MQTT-3.1.0-1", "the first packet is not a CONNECT"),
    State.CONNECTED: ("MQTT-2.2.1", "a packet that only a server may send"),
}
