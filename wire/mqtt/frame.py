"""PUBLISH packets for many receivers: what they have in common is encoded once.

A `Frame` stands for one topic, QoS, RETAIN flag and set of properties. Only packet identifier and payload differ from
packet to packet, and the remaining length with the payload's.
"""

from __future__ import annotations

from typing import Final

from wire.mqtt.fields import encode_remaining_length, encode_string
from wire.mqtt.packets import FLAG_DUP, FLAG_RETAIN
from wire.mqtt.reasons import PacketType

_MAX_LENGTHS: Final = 64  # payload lengths whose heads are remembered; telemetry of one topic has few
_PUBLISH: Final = PacketType.PUBLISH << 4


class Frame:
    """`properties` is the encoded property field of a 5.0 packet with its length (at least `b"\\0"`), empty for 3.1.1."""

    __slots__ = ("_first", "_heads", "_packet", "_payload", "_properties", "_size", "_topic", "qos")

    def __init__(self, *, topic: str, qos: int, retain: bool, properties: bytes = b"") -> None:
        self.qos = qos
        self._first = _PUBLISH | qos << 1 | (FLAG_RETAIN if retain else 0)
        self._topic = encode_string(topic)
        self._properties = properties
        self._size = len(self._topic) + len(properties) + (2 if qos else 0)
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
        """A packet of QoS 1 or 2, sent for the first time."""
        size = len(payload)
        head = self._heads.get(size) or self._head(size)
        return b"".join((head, packet_id.to_bytes(2, "big"), self._properties, payload))

    def packet_again(self, packet_id: int, payload: bytes) -> bytes:
        """The same with DUP: it may have been received before [MQTT-3.3.1-1]."""
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
