"""Topic aliases for what a server sends, 5.0 section 3.3.2.3.4: a topic is sent once, and a number in its place after.

The first topics of a connection get the numbers that the client allows, and keep them [MQTT5-3.1.2-26]; a fleet's
subscriber mostly sees the same topics again and again. Works on whole PUBLISH packets, so that nobody who makes them
has to know which connection they go to.
"""

from __future__ import annotations

from typing import Final

from wire.mqtt.fields import decode_remaining_length, encode_remaining_length

_ALIAS: Final = b"\x23"
_FIELD_BYTES: Final = 3
MAX_ALIASES: Final = 1_000  # of a connection, whatever the client allows: some 100 KB of topics


class OutgoingAliases:
    """Of one connection to a 5.0 client with a topic alias maximum above 0."""

    __slots__ = ("_known", "_most")

    def __init__(self, most: int) -> None:
        self._most = min(most, MAX_ALIASES)
        self._known: dict[bytes, int] = {}

    def applied(self, packet: bytes, max_packet_bytes: int) -> bytes:
        """The PUBLISH with an alias in place of its topic, or beside it for the first time; or as it is.

        As it is where the aliases are used up, and where it would be larger than the client accepts.
        """
        header = decode_remaining_length(packet, 1)
        assert header is not None  # the packet is one of ours
        _, at = header
        start = at + 2 + int.from_bytes(packet[at : at + 2], "big")
        topic = packet[at + 2 : start]
        alias = self._known.get(topic)
        is_new = alias is None
        if alias is None:
            if len(self._known) >= self._most:
                return packet
            alias = len(self._known) + 1
        place = start + (2 if packet[0] & 6 else 0)
        properties = decode_remaining_length(packet, place)
        assert properties is not None
        size, first = properties
        field = encode_remaining_length(size + _FIELD_BYTES) + _ALIAS + alias.to_bytes(2, "big")
        head = packet[at:start] if is_new else b"\0\0"
        body = b"".join((head, packet[start:place], field, packet[first:]))
        shorter = packet[:1] + encode_remaining_length(len(body)) + body
        if is_new:
            if len(shorter) > max_packet_bytes:
                return packet
            self._known[topic] = alias
        elif len(shorter) > len(packet):
            return packet
        return shorter
