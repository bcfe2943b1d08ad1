"""PUBLISH packets for many receivers: what they have in common is encoded once.

Theory
    A PUBLISH is a head, a packet identifier (QoS 1 and 2) and a tail:

        first byte, remaining length, topic name | packet identifier | [5.0: properties], payload

    A `Frame` stands for one version, topic, QoS, RETAIN flag and set of properties, and is kept for as long as messages
    like that may come. From message to message only identifier and payload differ, and the remaining length with the
    payload's size: so a head is made once per size. One more receiver of the same message costs one join, or nothing
    where there is no identifier.

    Topic aliases are a connection's own (`wire.mqtt.aliases`).
"""

from __future__ import annotations

from typing import Final

from wire.mqtt import property_codec
from wire.mqtt.clauses import LEVEL_3_1_1, LEVEL_5
from wire.mqtt.errors import ProtocolError
from wire.mqtt.fields import encode_remaining_length, encode_string
from wire.mqtt.packets import FLAG_DUP, FLAG_RETAIN
from wire.mqtt.properties import NO_PUBLISH_PROPERTIES, PublishProperties
from wire.mqtt.reasons import PacketType
from wire.mqtt.topics import check_topic_name

_MAX_LENGTHS: Final = 64  # payload sizes whose heads are remembered; telemetry of one topic has few
_PUBLISH: Final = PacketType.PUBLISH << 4


class Frame:
    """See the module. Raises ValueError for what no PUBLISH may say (see `encode_publish`)."""

    __slots__ = ("_first", "_heads", "_packet", "_payload", "_properties", "_size", "_topic", "level", "qos")

    def __init__(
        self,
        *,
        topic: str,
        qos: int,
        retain: bool = False,
        level: int = LEVEL_3_1_1,
        properties: PublishProperties = NO_PUBLISH_PROPERTIES,
    ) -> None:
        if not 0 <= qos <= 2:
            raise ValueError(f"[MQTT-3.3.1-4] a QoS is 0, 1 or 2, not {qos}")
        try:
            check_topic_name(topic, level)
        except ProtocolError as error:
            raise ValueError(str(error)) from None
        if properties.topic_alias is not None:
            raise ValueError("[MQTT5-3.3.2-7] a topic alias belongs to one connection")
        if level == LEVEL_3_1_1 and properties != NO_PUBLISH_PROPERTIES:
            raise ValueError("[MQTT5-2.2.2] 3.1.1 has no properties")
        self.level = level
        self.qos = qos
        self._first = _PUBLISH | qos << 1 | (FLAG_RETAIN if retain else 0)
        self._topic = encode_string(topic)
        self._properties = b"" if level == LEVEL_3_1_1 else property_codec.PUBLISH.encode(properties)
        self._size = len(self._topic) + len(self._properties) + (2 if qos else 0)
        self._heads: dict[int, bytes] = {}
        self._payload: bytes | None = None
        self._packet = b""

    def packet(self, payload: bytes) -> bytes:
        """A packet of QoS 0. Asked again for the same payload object, it is the same packet."""
        if payload is not self._payload:
            size = len(payload)
            head = self._heads.get(size) or self._head(size)
            self._payload = payload
            self._packet = head + payload
        return self._packet

    def packet_with_id(self, packet_id: int, payload: bytes) -> bytes:
        """A packet of QoS 1 or 2, sent for the first time; `packet_id` is 1 to 65,535."""
        size = len(payload)
        head = self._heads.get(size) or self._head(size)
        return b"".join((head, packet_id.to_bytes(2, "big"), self._properties, payload))

    def packet_again(self, packet_id: int, payload: bytes) -> bytes:
        """The same with DUP: it may have been received before [MQTT-3.3.1-1] [MQTT5-3.3.1-1]."""
        packet = bytearray(self.packet_with_id(packet_id, payload))
        packet[0] |= FLAG_DUP
        return bytes(packet)

    def _head(self, payload_size: int) -> bytes:
        """Everything before the packet identifier, or before the payload where there is none."""
        head = bytes((self._first,)) + encode_remaining_length(self._size + payload_size) + self._topic
        if not self.qos:
            head += self._properties
        if len(self._heads) >= _MAX_LENGTHS:
            self._heads.clear()
        self._heads[payload_size] = head
        return head


def sent_with(
    properties: PublishProperties, level: int, identifiers: tuple[int, ...], left_s: int | None
) -> PublishProperties:
    """The properties of the PUBLISH to a subscriber: the publisher's, but for its topic alias; of its expiry what is
    left [MQTT5-3.3.2-6]; and the identifiers of the subscriber's subscriptions. 3.1.1 has none.
    """
    if level != LEVEL_5 or (properties is NO_PUBLISH_PROPERTIES and not identifiers):
        return NO_PUBLISH_PROPERTIES
    return PublishProperties(
        payload_format_indicator=properties.payload_format_indicator,
        message_expiry_interval_s=left_s,
        content_type=properties.content_type,
        response_topic=properties.response_topic,
        correlation_data=properties.correlation_data,
        subscription_identifiers=identifiers,
        user_properties=properties.user_properties,
    )
