"""One message on its way to many subscribers: what is the same for all of them is encoded once.

Theory
    A PUBLISH is a head, a packet identifier (QoS 1 and 2) and a tail:

        first byte, remaining length, topic name | packet identifier | [5.0: properties], payload

    Head and tail depend on the version, the QoS, RETAIN and what 5.0 says to this subscriber alone (the identifiers
    of its subscriptions, its topic alias). `OutgoingPublish` is one message in one version; `parts` gives head and
    tail for one such combination. The caller keeps the parts for as long as it serves the same message, so that a
    subscriber without identifiers of its own costs one concatenation, or none: `head`, the two bytes and `tail` may
    be written as they are.

    Nothing is remembered here: how many combinations there are is the caller's to bound.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from wire.mqtt import property_codec
from wire.mqtt.clauses import LEVEL_3_1_1
from wire.mqtt.fields import encode_packet_id, encode_remaining_length, encode_string
from wire.mqtt.packets import FLAG_DUP, FLAG_RETAIN
from wire.mqtt.properties import NO_PUBLISH_PROPERTIES, PublishProperties
from wire.mqtt.property_codec import PROPERTIES, encode_property
from wire.mqtt.reasons import PacketType

_SUBSCRIPTION_IDENTIFIER: Final = next(row for row in PROPERTIES if row.name == "subscription_identifier")
_TOPIC_ALIAS: Final = next(row for row in PROPERTIES if row.name == "topic_alias")
_NO_TOPIC: Final = b"\0\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishParts:
    """What stands before and behind the packet identifier; a QoS 0 PUBLISH is head and tail."""

    head: bytes
    tail: bytes
    qos: int

    @property
    def size_bytes(self) -> int:
        """The whole packet's size, to be held against the receiver's Maximum Packet Size [MQTT5-3.1.2-24]."""
        return len(self.head) + (2 if self.qos else 0) + len(self.tail)

    def packet(self, packet_id: int | None = None) -> bytes:
        """The packet for one subscriber. Raises ValueError when packet identifier and QoS do not agree."""
        if (packet_id is None) != (self.qos == 0):
            raise ValueError("[MQTT-2.3.1-1] [MQTT-2.3.1-5] a packet identifier belongs to QoS 1 and 2 alone")
        if packet_id is None:
            return self.head + self.tail
        return self.head + encode_packet_id(packet_id) + self.tail


class OutgoingPublish:
    """One message in one version. Raises ValueError for what no PUBLISH may say (see `encode_publish`).

    `properties` are the publisher's: those that every subscriber gets. In 3.1.1 there are none.
    """

    __slots__ = ("_level", "_payload", "_properties", "_topic")

    def __init__(
        self,
        *,
        topic: str,
        payload: bytes,
        properties: PublishProperties = NO_PUBLISH_PROPERTIES,
        level: int = LEVEL_3_1_1,
    ) -> None:
        if not topic:
            raise ValueError("[MQTT-4.7.3-1] a message has a topic name")
        if properties.topic_alias is not None or properties.subscription_identifiers:
            raise ValueError("[MQTT5-3.3.2-7] topic alias and subscription identifiers are given per subscriber")
        if level == LEVEL_3_1_1 and properties != NO_PUBLISH_PROPERTIES:
            raise ValueError("[MQTT5-2.2.2] 3.1.1 has no properties")
        self._level = level
        self._payload = payload
        self._topic = encode_string(topic)
        self._properties = property_codec.PUBLISH.encode_bare(properties)

    def parts(
        self,
        *,
        qos: int,
        retain: bool = False,
        subscription_identifiers: Iterable[int] = (),
        topic_alias: int | None = None,
        with_topic: bool = True,
    ) -> PublishParts:
        """Head and tail for subscribers that get the message with this QoS and RETAIN.

        `with_topic` is False when the subscriber knows the alias already: the topic name is then left empty.
        """
        if not 0 <= qos <= 2:
            raise ValueError(f"[MQTT-3.3.1-4] a QoS is 0, 1 or 2, not {qos}")
        own = [encode_property(_SUBSCRIPTION_IDENTIFIER, identifier) for identifier in subscription_identifiers]
        if topic_alias is not None:
            own.append(encode_property(_TOPIC_ALIAS, topic_alias))
        elif not with_topic:
            raise ValueError("[MQTT5-3.3.2.1] a PUBLISH needs a topic name or a topic alias")
        topic = self._topic if with_topic else _NO_TOPIC
        if self._level == LEVEL_3_1_1:
            if own:
                raise ValueError("[MQTT5-2.2.2] 3.1.1 has no properties")
            tail = self._payload
        else:
            properties = b"".join((self._properties, *own))
            tail = b"".join((encode_remaining_length(len(properties)), properties, self._payload))
        first = PacketType.PUBLISH << 4 | qos << 1 | (FLAG_RETAIN if retain else 0)
        remaining = encode_remaining_length(len(topic) + (2 if qos else 0) + len(tail))
        return PublishParts(head=bytes((first,)) + remaining + topic, tail=tail, qos=qos)


def sent_again(packet: bytes) -> bytes:
    """A PUBLISH of QoS 1 or 2 with DUP set, as it is sent after a reconnect [MQTT-3.3.1-1] [MQTT5-3.3.1-1]."""
    if packet[0] >> 4 != PacketType.PUBLISH or not packet[0] & 0b0110:
        raise ValueError("[MQTT-3.3.1-2] DUP belongs to a PUBLISH of QoS 1 or 2 alone")
    return bytes((packet[0] | FLAG_DUP,)) + packet[1:]
