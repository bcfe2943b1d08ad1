"""PUBLISH as the server takes it, but for the loop over a chunk: targets, topic aliases, refusals, QoS 2, answers.

A target is (append, key, headers), computed by the shell once per connection, topic, flags and properties. They are
kept in `_targets`: {the packet's first byte: {topic field: target}}; in 5.0 {topic field and property field: target},
or the topic field alone where there are no properties. It is empty unless the state is CONNECTED and holds only first
bytes that are legal, so a hit in both maps proves state, flags, topic and properties at once. Whatever does not hit is
checked in full here, and the error raised or the target added.

QoS 2
    The identifier of a publish that is taken goes to `received_ids`, and one that is there already is answered and not
    taken again [MQTT-4.3.3-2] [MQTT5-4.3.3-10]. `stored` and `released` say what a chunk added and removed, so that a
    shell can keep it in the same commit as the records. PUBREC and PUBCOMP wait for that commit as PUBACK does.

Topic aliases (5.0)
    An alias is replaced by its topic before anybody is asked, and is part of the property field that a target is
    found by. When an alias changes its topic every target is forgotten, so a target never stands for an older one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from wire.mqtt.clauses import LEVEL_3_1_1, LEVEL_5
from wire.mqtt.control import ControlPackets
from wire.mqtt.decode import decode_publish
from wire.mqtt.encode import encode_packet
from wire.mqtt.errors import ProtocolError, PublishRefusedError
from wire.mqtt.events import Append, Decisions, PublishRefused, State, Target
from wire.mqtt.packets import FLAG_DUP, FLAG_QOS_1, FLAG_QOS_2, FLAG_RETAIN, ConnAck, PubAck, Publish, PubRec
from wire.mqtt.property_codec import read_publish_properties
from wire.mqtt.reasons import PacketType, ReasonCode

PUBACK: Final = b"\x40\x02"
_PUBREC: Final = b"\x50\x02"
_PUBLISH: Final = PacketType.PUBLISH << 4
# Every first byte that a PUBLISH may have: QoS 0 without DUP [MQTT-3.3.1-2], QoS 1, QoS 2; with and without RETAIN.
_PUBLISH_HEADS: Final = tuple(
    _PUBLISH | flags
    for qos in (0, FLAG_QOS_1, FLAG_QOS_1 | FLAG_DUP, FLAG_QOS_2, FLAG_QOS_2 | FLAG_DUP)
    for flags in (qos, qos | FLAG_RETAIN)
)
MAX_VARIANTS: Final = 256  # targets of one connection that differ by properties: some clients put the time into them
MAX_VARIANT_SIZE_BYTES: Final = 1024  # a property field beyond this is not kept: it would outlive its packet

Headers = list[tuple[str, bytes | None]]
Last = tuple[int, bytes, int, bytes, int, Append, bytes | None, Headers]
"""First byte, topic field, its size, property field, its size, and the target of the last PUBLISH."""


def _no_target(timestamp_ms: int, key: bytes | None, value: bytes | None, headers: object, /) -> int:
    raise AssertionError("no PUBLISH was resolved yet")


NOTHING_YET: Final[Last] = (-1, b"", 0, b"", 0, _no_target, None, [])
_NO_TARGETS: Final[dict[int, dict[bytes, Target]]] = {}
_NONE_RESOLVED: Final[dict[int, dict[bytes, Target]]] = {head: {} for head in _PUBLISH_HEADS}
"""Stands for the targets of every connection that has published nothing yet: ten maps each would be a kilobyte."""


class Publishes(ControlPackets):
    """What ServerConnection knows of the publishes of its client. `max_topics` bounds the memory of targets."""

    __slots__ = (
        "_aliases",
        "_in_flight",
        "_last",
        "_late",
        "_max_alias",
        "_max_in_flight",
        "_max_topics",
        "_refusals",
        "_targets",
        "_topic_count",
        "_variants",
        "stored",
    )

    stored: list[int]
    """Packet identifiers of the QoS 2 publishes that the last `receive` took."""

    def __init__(self, decisions: Decisions, *, max_topics: int) -> None:
        super().__init__(decisions)
        self._max_topics = max_topics
        self._max_in_flight = self._max_alias = 0
        self._in_flight = 0
        self._targets: dict[int, dict[bytes, Target]] = _NO_TARGETS
        self._aliases: dict[int, str] | None = None
        self._topic_count = self._variants = 0
        self._last: Last = NOTHING_YET
        self._late = b""
        self._refusals: list[tuple[int, bytes]] = []
        self.stored = []

    def forget_topics(self) -> None:
        """Resolve every topic again at its next publish: routes, permissions, subscriptions or the disk changed."""
        for by_topic in self._targets.values():
            by_topic.clear()
        self._topic_count = self._variants = 0
        self._last = NOTHING_YET

    def acknowledged(self, count: int) -> None:
        """So many QoS 1 publishes have been answered: they no longer count against the receive maximum (5.0)."""
        self._in_flight -= count

    # -- targets

    def _resolve(self, packet: bytes, body: int, topic_field: bytes) -> Target:
        """Check a 3.1.1 PUBLISH in full, ask the shell for its target and remember it."""
        publish = decode_publish(packet, body, LEVEL_3_1_1)
        target = self._decisions.resolve(publish, packet[0] & 15)
        self._remember(packet[0], topic_field, target)
        return target

    def _remember(self, head: int, name: bytes, target: Target) -> None:
        if self._topic_count >= self._max_topics:
            self.forget_topics()
        self._topic_count += 1
        if self._targets is _NONE_RESOLVED:
            self._targets = dict(_NONE_RESOLVED)
        if self._targets[head] is _NONE_RESOLVED[head]:
            self._targets[head] = {}
        self._targets[head][name] = target

    def _property_field(self, data: bytes, at: int, body: int, place: int, end: int) -> bytes:
        """The property field of a 5.0 PUBLISH, with its length; raises if the packet has none that can be read."""
        try:
            _, stop = read_publish_properties(data, place, end)
        except ProtocolError:  # the decoder finds the same, and tells it as of this packet
            self._refuse_publish(data[at:end], body - at)
        return data[place:stop]

    def _resolve_5(self, packet: bytes, body: int, topic_field: bytes, properties: bytes) -> Target:
        """The same for a 5.0 PUBLISH, with the topic in the place of its alias."""
        publish = decode_publish(packet, body, LEVEL_5)
        if publish.properties.subscription_identifiers:
            raise ProtocolError("MQTT5-3.3.4-6", "a client's PUBLISH has a subscription identifier", offset=body)
        alias = publish.properties.topic_alias
        if alias is not None:
            publish = self._without_alias(publish, alias)
        target = self._decisions.resolve(publish, packet[0] & 15)
        if len(properties) == 1:
            self._remember(packet[0], topic_field, target)
        elif len(properties) <= MAX_VARIANT_SIZE_BYTES:
            if self._variants >= MAX_VARIANTS:
                self.forget_topics()
            self._variants += 1
            self._remember(packet[0], topic_field + properties, target)
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
            raise ProtocolError("MQTT5-3.3.2.3.4", f"topic alias {alias} stands for no topic yet")
        return replace(publish, topic=topic)

    def _refused(
        self,
        error: PublishRefusedError,
        head: int,
        packet_id: bytes,
        packet_ids: list[bytes],
        qos_2_ids: list[bytes],
    ) -> None:
        """Answer a refused publish in its turn with the reason; QoS 0 has no answer."""
        self.unusual = True
        number = int.from_bytes(packet_id, "big")
        if head & FLAG_QOS_2 and number in (self.received_ids or ()):
            qos_2_ids.append(packet_id)  # it was taken before; a refusal would free an identifier that is in use
            return
        self.events.append(PublishRefused(topic=error.topic, reason_code=error.reason_code))
        if head & FLAG_QOS_1:
            answer = encode_packet(PubAck(packet_id=number, reason_code=error.reason_code), LEVEL_5)
            self._refusals.append((len(packet_ids), answer))
        elif head & FLAG_QOS_2:
            answer = encode_packet(PubRec(packet_id=number, reason_code=error.reason_code), LEVEL_5)
            self._refusals.append((-1 - len(qos_2_ids), answer))

    # -- QoS 2, and answers in their order

    def _is_new(self, packet_id: bytes, unanswered: int) -> bool:
        """Note the identifier of a QoS 2 publish; False if it is noted already.

        `unanswered` QoS 1 publishes came before it in this chunk.
        """
        self.unusual = True
        number = packet_id[0] << 8 | packet_id[1]
        ids = self.received_ids
        if ids is None:
            ids = self.received_ids = set()
        if number in ids:
            return False  # [MQTT-4.3.3-2] [MQTT5-4.3.3-10]: it is in the log
        if self._max_in_flight:
            self._bound_in_flight(unanswered + 1)
        ids.add(number)
        self.stored.append(number)
        return True

    def _not_stored(self) -> None:
        """The publish that was noted last did not get to its target: when it comes again it is a new one."""
        number = self.stored.pop()
        assert self.received_ids is not None
        self.received_ids.discard(number)

    def _answer_late(self, answer: bytes) -> None:
        self._late += answer

    def _answers(self, packet_ids: list[bytes], qos_2_ids: list[bytes]) -> bytes:
        """What a chunk is answered with, once it is committed, where that is more than PUBACKs."""
        pubacks = [PUBACK + packet_id for packet_id in packet_ids]
        pubrecs = [_PUBREC + packet_id for packet_id in qos_2_ids]
        for place, answer in reversed(self._refusals):
            if place >= 0:
                pubacks.insert(place, answer)
            else:
                pubrecs.insert(-1 - place, answer)
        answers = b"".join((*pubacks, *pubrecs, self._late))
        self._late = b""
        self._refusals = []
        return answers

    def _bound_in_flight(self, more: int = 0) -> None:
        """[MQTT5-3.3.4-7]: no more publishes may be unanswered than the client was told in the receive maximum.

        `more` are not counted yet. Identifiers of an earlier connection do not count: each connection begins anew,
        section 4.9.
        """
        open_qos_2 = len(self.received_ids) - len(self._inherited_ids) if self.received_ids else 0
        if self._in_flight + open_qos_2 + more > self._max_in_flight:
            raise ProtocolError(
                "MQTT5-3.3.4-7",
                f"more than {self._max_in_flight} publishes are unanswered",
                reason_code=ReasonCode.RECEIVE_MAXIMUM_EXCEEDED,
            )

    # -- the connection's terms

    def _accepted(self, connack: ConnAck) -> None:
        self._targets = _NONE_RESOLVED
        if self.level == LEVEL_5:
            self._inherited_ids = set(self.received_ids or ())
            self._max_in_flight = connack.properties.receive_maximum or 0xFFFF
            self._max_alias = connack.properties.topic_alias_maximum or 0

    def _end(self, state: State) -> None:
        super()._end(state)
        self._targets = _NO_TARGETS
        self._aliases = None
        self._last = NOTHING_YET
