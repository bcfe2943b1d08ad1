"""The client's side of one MQTT connection, as far as a publisher needs it: bytes in, acknowledgements out. No I/O.

What the client sends is made by `wire.mqtt.encode`; which messages are unacknowledged, and sending them again with
DUP after a reconnect, is the caller's.
"""

from __future__ import annotations

from typing import Final

from wire.mqtt.clauses import LEVEL_3_1_1
from wire.mqtt.decode import DECODERS, check_flags
from wire.mqtt.errors import PacketTooLargeError, ProtocolError
from wire.mqtt.fields import decode_remaining_length
from wire.mqtt.packets import ConnAck, Packet, PingResp, PubAck, SubAck, UnsubAck
from wire.mqtt.reasons import ReasonCode

_FROM_SERVER: Final = (ConnAck, PubAck, SubAck, UnsubAck, PingResp)
DEFAULT_MAX_PACKET_SIZE_BYTES: Final = 1 << 16  # a publisher receives packets of a few bytes


class ClientConnection:
    """One connection of a publishing client.

    `connack` is the server's answer once it is there. `pings_answered` counts PINGRESPs. `received` holds the
    other packets of the last `receive` (SubAck, UnsubAck). After an error nothing more is taken.
    """

    __slots__ = ("_failed", "_max_packet_size_bytes", "_partial", "connack", "pings_answered", "received")

    def __init__(self, *, max_packet_size_bytes: int = DEFAULT_MAX_PACKET_SIZE_BYTES) -> None:
        self._max_packet_size_bytes = max_packet_size_bytes
        self._partial = b""
        self._failed = False
        self.connack: ConnAck | None = None
        self.pings_answered = 0
        self.received: list[Packet] = []

    @property
    def accepted(self) -> bool:
        """The server accepted the CONNECT."""
        return self.connack is not None and self.connack.reason_code is ReasonCode.SUCCESS

    def receive(self, data: bytes) -> list[int]:
        """Take a chunk; return the packet identifiers that it acknowledges, in order. Raises ProtocolError."""
        if self._failed:
            raise ProtocolError("MQTT-4.8.0-1", "the connection has failed and takes nothing more")
        self.received = []
        acked: list[int] = []
        data = self._partial + data
        at = 0
        try:
            while (end := self._packet_end(data, at)) is not None:
                self._packet(data[at:end], acked)
                at = end
        except ProtocolError:
            self._failed = True
            raise
        self._partial = data[at:]
        return acked

    def _packet_end(self, data: bytes, at: int) -> int | None:
        """Where the packet at `at` ends, if it is whole."""
        header = decode_remaining_length(data, at + 1)
        if header is None:
            return None
        length, body = header
        if body - at + length > self._max_packet_size_bytes:
            raise PacketTooLargeError("MQTT-2.2.3", f"the server announces {length} bytes", offset=1)
        return body + length if body + length <= len(data) else None

    def _packet(self, packet: bytes, acked: list[int]) -> None:
        packet_type = check_flags(packet[0])
        header = decode_remaining_length(packet, 1)
        value = DECODERS[packet_type](packet, header[1] if header else 1, LEVEL_3_1_1)
        if not isinstance(value, _FROM_SERVER):
            raise ProtocolError("MQTT-2.2.1", f"a publisher was sent a {packet_type.name}", offset=0)
        if isinstance(value, ConnAck):
            if self.connack is not None:
                raise ProtocolError("MQTT-3.2.0-1", "a second CONNACK", offset=0)
            self.connack = value
        elif not self.accepted:
            raise ProtocolError("MQTT-3.2.0-1", f"{packet_type.name} before an accepting CONNACK", offset=0)
        elif isinstance(value, PubAck):
            acked.append(value.packet_id)
        elif isinstance(value, PingResp):
            self.pings_answered += 1
        else:
            self.received.append(value)
