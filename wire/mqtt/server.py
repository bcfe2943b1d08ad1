"""The server's side of one MQTT connection: bytes in; publishes, bytes and events out. No I/O, no clock.

Theory
    Which packet types a state takes and what they do is a table in `wire.mqtt.control`. After any error, a refused
    CONNECT or a DISCONNECT the connection is over and takes nothing more.

    PUBLISH does not go through that table, because it is what the server does nearly all the time. It has one of
    its own: `_targets` maps the packet's first byte to {topic bytes: target}; in 5.0 to {topic field and property
    field: target}. It is empty unless the state is CONNECTED and holds only first bytes that are legal, so a hit in
    both maps proves state, flags, topic and properties at once. Whatever does not hit, or does not fit its packet,
    leaves the loop: `_resolve` checks all of it slowly and either raises the error or adds the target.

    Most connections repeat one topic, so the last PUBLISH's first byte, topic field, property field and target are
    kept in `_last` and compared before anything is looked up. A plain PUBACK, the other packet that comes by the
    thousand, is taken apart in the loop as well.

    A target is (append, key, headers), computed by the shell once per connection, topic, flags and properties. The
    loop calls `append(now_ms, key, payload, headers)` and remembers the packet identifier; nothing else happens per
    message.

QoS 2
    The identifier of a publish that is taken goes to `received_ids`, and one that is there already is answered and not
    taken again [MQTT-4.3.3-2]. `stored` and `released` say what a chunk added and removed, so that a shell can keep it
    in the same commit as the records. PUBREC and PUBCOMP wait for that commit as PUBACK does.

Topic aliases (5.0)
    An alias is replaced by its topic before anybody is asked, and is part of the property field that a target is
    found by. When an alias changes its topic every target is forgotten, so a target never stands for an older one.

Rules
    Everything is decided by the bytes, never by how they were cut into chunks. A first byte that is wrong, or a
    packet that announces too much, is refused before any of it is kept. Publishes taken before an error stay taken,
    and `acks`, `taken` and `size_bytes` count them. What `resolve` gave is used until `forget_topics`, which takes
    effect with the next chunk.

What it does not do: time limits (connect, keep alive [MQTT-3.1.2-24]), taking over a client id [MQTT-3.1.4-2],
sessions, and sending publishes are the shell's; 5.0's AUTH is not offered.
"""

from __future__ import annotations

from typing import Final, NoReturn

from wire.mqtt.clauses import LEVEL_3_1_1, LEVEL_5
from wire.mqtt.control import ControlPackets
from wire.mqtt.decode import decode_publish
from wire.mqtt.encode import encode_packet
from wire.mqtt.errors import PacketTooLargeError, ProtocolError, PublishRefusedError
from wire.mqtt.events import Append, Decisions, PublishRefused, State, Target
from wire.mqtt.fields import decode_remaining_length
from wire.mqtt.packets import FLAG_DUP, FLAG_QOS_1, FLAG_QOS_2, FLAG_RETAIN, ConnAck, PubAck, Publish, PubRec
from wire.mqtt.property_codec import read_publish_properties
from wire.mqtt.reasons import PacketType, ReasonCode

_NO_PACKET_ID: Final = b"\0\0"
_PUBACK: Final = b"\x40\x02"
_PUBREC: Final = b"\x50\x02"
_PUBLISH: Final = PacketType.PUBLISH << 4
# Every first byte that a PUBLISH may have: QoS 0 without DUP [MQTT-3.3.1-2], QoS 1, QoS 2; with and without RETAIN.
_PUBLISH_HEADS: Final = tuple(
    _PUBLISH | flags
    for qos in (0, FLAG_QOS_1, FLAG_QOS_1 | FLAG_DUP, FLAG_QOS_2, FLAG_QOS_2 | FLAG_DUP)
    for flags in (qos, qos | FLAG_RETAIN)
)
_Headers = list[tuple[str, bytes | None]]
_Last = tuple[int, bytes, int, bytes, int, Append, bytes | None, _Headers]


def _no_target(timestamp_ms: int, key: bytes | None, value: bytes | None, headers: object, /) -> int:
    raise AssertionError("no PUBLISH was resolved yet")


_NOTHING_YET: Final[_Last] = (-1, b"", 0, b"", 0, _no_target, None, [])
_NO_TARGETS: Final[dict[int, dict[bytes, Target]]] = {}
MIN_MAX_PACKET_SIZE_BYTES: Final = 130  # packets with a one-byte remaining length are always within the limit
MAX_VARIANTS: Final = 256  # targets of one connection that differ by properties: some clients put the time into them


class ServerConnection(ControlPackets):
    """One client's connection.

    `decisions` is asked from within `receive`. `max_packet_size_bytes` bounds a whole packet, and with it what is kept
    of an incomplete one; `max_topics` bounds the memory of resolved targets, which is started anew when full.
    """

    __slots__ = (
        "_aliases",
        "_in_flight",
        "_last",
        "_late",
        "_max_alias",
        "_max_in_flight",
        "_max_packet_size_bytes",
        "_max_topics",
        "_needed_size_bytes",
        "_partial",
        "_refusals",
        "_targets",
        "_topic_count",
        "_variants",
        "acked_ids",
        "acks",
        "size_bytes",
        "stored",
        "taken",
    )

    acks: bytes
    """Answers of the last `receive` that wait for its commit: PUBACKs and PUBRECs in the order of their publishes
    [MQTT-4.6.0-2] [MQTT-4.6.0-3], then PUBCOMPs."""
    acked_ids: int
    """QoS 1 publishes that `acks` answers: hand it to `acknowledged` once they are sent."""
    taken: int
    """Publishes of the last `receive` that went to their targets."""
    stored: list[int]
    """Packet identifiers of those among them with QoS 2."""
    size_bytes: int
    """The bytes of the packets of all publishes of the last `receive`."""

    def __init__(self, decisions: Decisions, *, max_packet_size_bytes: int, max_topics: int) -> None:
        if max_packet_size_bytes < MIN_MAX_PACKET_SIZE_BYTES or max_topics < 1:
            raise ValueError(f"needed: max_packet_size_bytes >= {MIN_MAX_PACKET_SIZE_BYTES} and max_topics >= 1")
        super().__init__(decisions)
        self._max_packet_size_bytes = max_packet_size_bytes
        self._max_topics = max_topics
        self._max_in_flight = self._max_alias = 0
        self._in_flight = 0
        self._targets: dict[int, dict[bytes, Target]] = _NO_TARGETS
        self._aliases: dict[int, str] | None = None
        self._topic_count = self._variants = 0
        self._last: _Last = _NOTHING_YET
        self._partial = bytearray()
        self._needed_size_bytes = 0
        self._late = b""
        self._refusals: list[tuple[int, bytes]] = []
        self.acks = b""
        self.acked_ids = 0
        self.stored = []
        self.taken = self.size_bytes = 0

    @property
    def buffered_size_bytes(self) -> int:
        """Bytes kept of an incomplete packet."""
        return len(self._partial)

    @property
    def unfinished(self) -> object | None:
        """Which packet is incomplete: the same object for as long as it is the same packet; None if there is none."""
        return self._partial or None

    def forget_topics(self) -> None:
        """Resolve every topic again at its next publish: routes, permissions, subscriptions or the disk changed."""
        for by_topic in self._targets.values():
            by_topic.clear()
        self._topic_count = self._variants = 0
        self._last = _NOTHING_YET

    def acknowledged(self, count: int) -> None:
        """So many QoS 1 publishes have been answered: they no longer count against the receive maximum (5.0)."""
        self._in_flight -= count

    def receive(self, data: bytes, now_ms: int) -> int:
        """Take a chunk that arrived at `now_ms`; return how many publishes went to their targets.

        Sets `acks`, `out`, `events`, `taken`, `size_bytes` and the lists of identifiers, also when it raises. Raises
        ProtocolError (or a subclass) when the connection must be closed, and whatever the shell and the targets raise.
        """
        # Longer than a function should be: a call or an attribute per message is what this loop is written to avoid.
        if self._unusual:
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
                        if head == 0x40 and length == 2 and targets and data[at + 2 : end] != _NO_PACKET_ID:
                            self.pubacks.append(data[at + 2] << 8 | data[at + 3])
                            self._unusual = True
                        else:
                            self._control(data[at:end], body - at)
                            targets = self._targets
                        control_size_bytes += end - at
                        at = end
                        if self._over:
                            break
                        continue
                    start = body + 2 + (data[body] << 8 | data[body + 1])
                    if self.level == 5:
                        target = self._look_up(by_topic, data, at, body, start, end, packet_ids, qos_2_ids)
                        if target is None:
                            at = end
                            continue
                        properties, properties_size, append, key, headers = target
                    else:
                        found = by_topic.get(data[body + 2 : start])
                        if found is None:
                            found = self._resolve(data[at:end], body - at)
                        append, key, headers = found
                    last_head, topic_field, topic_field_size = head, data[body:start], start - body
                    self._last = (
                        last_head,
                        topic_field,
                        topic_field_size,
                        properties,
                        properties_size,
                        append,
                        key,
                        headers,
                    )
                if head & 6:
                    packet_id = data[start : start + 2]
                    start += 2
                    if start > end or packet_id == _NO_PACKET_ID:
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
                    at = end
                    qos_2_ids.append(packet_id)
                    if not self._is_new(packet_id):
                        continue
                    append(now_ms, key, data[start:end], headers)
                taken += 1
                at = end
            if at < size:
                self._keep(data, at)
            if self._max_in_flight:
                self._bound_in_flight(len(packet_ids))
        except ProtocolError as error:
            self._say_why(error)
            self._end(State.FAILED)
            raise
        except BaseException:
            self._end(State.FAILED)
            raise
        finally:
            if qos_2_ids or self._late or self._refusals:
                self._mix_answers(packet_ids, qos_2_ids)
            else:
                self.acks = _PUBACK + _PUBACK.join(packet_ids) if packet_ids else b""
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

    # -- targets

    def _resolve(self, packet: bytes, body: int) -> Target:
        """Check a 3.1.1 PUBLISH in full, ask the shell for its target and remember it."""
        publish = decode_publish(packet, body, LEVEL_3_1_1)
        target = self._decisions.resolve(publish, packet[0] & 15)
        self._remember(packet[0], publish.topic.encode(), target)
        return target

    def _remember(self, head: int, name: bytes, target: Target) -> None:
        if self._topic_count >= self._max_topics:
            self.forget_topics()
        self._topic_count += 1
        self._targets[head][name] = target

    def _look_up(
        self,
        by_topic: dict[bytes, Target],
        data: bytes,
        at: int,
        body: int,
        start: int,
        end: int,
        packet_ids: list[bytes],
        qos_2_ids: list[bytes],
    ) -> tuple[bytes, int, Append, bytes | None, _Headers] | None:
        """The property field of a 5.0 PUBLISH, its size and its target; None if it is refused and answered."""
        place = start + 2 if data[at] & 6 else start
        size = 1
        if place < end and data[place]:
            try:
                size = read_publish_properties(data, place, end)[1] - place
            except ProtocolError:
                self._refuse_publish(data[at:end], body - at)  # the same error, told as of this packet
        elif place >= end:
            self._refuse_publish(data[at:end], body - at)
        properties = data[place : place + size]
        name = data[body:start] + properties
        target = by_topic.get(name)
        if target is None:
            try:
                target = self._resolve_5(data[at:end], body - at, name, size > 1)
            except PublishRefusedError as error:
                self._refused(error, data[at], data[start:place], packet_ids, qos_2_ids)
                return None
        return properties, size, *target

    def _resolve_5(self, packet: bytes, body: int, name: bytes, varies: bool) -> Target:
        """Check a 5.0 PUBLISH in full, put the topic in the place of its alias, ask the shell and remember it."""
        publish = decode_publish(packet, body, LEVEL_5)
        if publish.properties.subscription_identifiers:
            raise ProtocolError("MQTT5-3.3.4-6", "a client's PUBLISH has a subscription identifier", offset=body)
        alias = publish.properties.topic_alias
        if alias is not None:
            publish = self._without_alias(publish, alias)
        target = self._decisions.resolve(publish, packet[0] & 15)
        if varies:
            if self._variants >= MAX_VARIANTS:
                self.forget_topics()
            self._variants += 1
        self._remember(packet[0], name, target)
        return target

    def _without_alias(self, publish: Publish, alias: int) -> Publish:
        aliases = self._aliases
        if aliases is None:
            aliases = self._aliases = {}
        if alias > self._max_alias:
            raise ProtocolError(
                "MQTT5-3.3.2-9",
                f"topic alias {alias}; the greatest is {self._max_alias}",
                reason_code=ReasonCode.TOPIC_ALIAS_INVALID,
            )
        if publish.topic:
            if aliases.get(alias, publish.topic) != publish.topic:
                self.forget_topics()
            aliases[alias] = publish.topic
            return publish
        topic = aliases.get(alias)
        if topic is None:
            raise ProtocolError(
                "MQTT5-3.3.2-12", f"topic alias {alias} stands for no topic yet", reason_code=ReasonCode.PROTOCOL_ERROR
            )
        return Publish(
            topic=topic,
            payload=publish.payload,
            qos=publish.qos,
            retain=publish.retain,
            dup=publish.dup,
            packet_id=publish.packet_id,
            properties=publish.properties,
        )

    def _refused(
        self,
        error: PublishRefusedError,
        head: int,
        packet_id: bytes,
        packet_ids: list[bytes],
        qos_2_ids: list[bytes],
    ) -> None:
        """Answer a refused publish in its turn with the reason; QoS 0 has no answer."""
        self.events.append(PublishRefused(topic=error.topic, reason_code=error.reason_code))
        self._unusual = True
        number = int.from_bytes(packet_id, "big")
        if head & FLAG_QOS_1:
            answer = encode_packet(PubAck(packet_id=number, reason_code=error.reason_code), LEVEL_5)
            self._refusals.append((len(packet_ids), answer))
        elif head & FLAG_QOS_2:
            answer = encode_packet(PubRec(packet_id=number, reason_code=error.reason_code), LEVEL_5)
            self._refusals.append((-1 - len(qos_2_ids), answer))

    # -- QoS 2, and answers in their order

    def _is_new(self, packet_id: bytes) -> bool:
        number = packet_id[0] << 8 | packet_id[1]
        ids = self.received_ids
        if ids is None:
            ids = self.received_ids = set()
        if number in ids:
            return False  # [MQTT-4.3.3-2]: it is in the log
        ids.add(number)
        self.stored.append(number)
        self._unusual = True
        return True

    def _answer_late(self, answer: bytes) -> None:
        self._late += answer

    def _mix_answers(self, packet_ids: list[bytes], qos_2_ids: list[bytes]) -> None:
        """`acks` where there is more in it than PUBACKs."""
        pubacks = [_PUBACK + packet_id for packet_id in packet_ids]
        pubrecs = [_PUBREC + packet_id for packet_id in qos_2_ids]
        for place, answer in reversed(self._refusals):
            if place >= 0:
                pubacks.insert(place, answer)
            else:
                pubrecs.insert(-1 - place, answer)
        self.acks = b"".join((*pubacks, *pubrecs, self._late))
        self._late = b""
        self._refusals = []
        self._unusual = True

    def _bound_in_flight(self, count: int) -> None:
        """[MQTT5-3.3.4-9]: more unanswered publishes than the receive maximum that the client was given."""
        self._in_flight += count
        if self._in_flight + len(self.received_ids or ()) > self._max_in_flight:
            raise ProtocolError(
                "MQTT5-3.3.4-9",
                f"more than {self._max_in_flight} publishes are unanswered",
                reason_code=ReasonCode.RECEIVE_MAXIMUM_EXCEEDED,
            )

    # -- the connection's terms

    def _accepted(self, connack: ConnAck) -> None:
        self._targets = {head: {} for head in _PUBLISH_HEADS}
        if self.level == LEVEL_5:
            self._max_in_flight = connack.properties.receive_maximum or 0xFFFF
            self._max_alias = connack.properties.topic_alias_maximum or 0

    def _end(self, state: State) -> None:
        super()._end(state)
        self._targets = _NO_TARGETS
        self._aliases = None
        self._last = _NOTHING_YET
        self._partial = bytearray()
