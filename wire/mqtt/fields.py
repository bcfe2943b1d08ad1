"""The data representations that packets are made of, section 1.5 and 2.2.3: reading with a cursor, writing to bytes.

A `PacketReader` stands on one whole packet and raises MalformedPacketError, with clause and offset, for
everything that the bytes do not hold. Offsets count from the first byte of the fixed header.
"""

from __future__ import annotations

from wire.mqtt.errors import MalformedPacketError
from wire.mqtt.packets import MAX_PACKET_ID, MAX_REMAINING_LENGTH


class PacketReader:
    """A cursor over one whole packet."""

    __slots__ = ("_at", "_packet")

    def __init__(self, packet: bytes, at: int) -> None:
        self._packet = packet
        self._at = at

    @property
    def offset(self) -> int:
        """Where the next field begins."""
        return self._at

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._packet) - self._at

    def byte(self, what: str) -> int:
        """One byte."""
        return self._take(1, what)[0]

    def uint16(self, what: str) -> int:
        """Two bytes, most significant first, section 1.5.2."""
        return int.from_bytes(self._take(2, what), "big")

    def packet_id(self) -> int:
        """A packet identifier, which is never zero [MQTT-2.3.1-1]."""
        at = self._at
        packet_id = self.uint16("packet identifier")
        if packet_id == 0:
            raise MalformedPacketError("MQTT-2.3.1-1", "the packet identifier is 0", offset=at)
        return packet_id

    def binary(self, what: str) -> bytes:
        """Bytes after their two-byte length."""
        return self._take(self.uint16(f"length of the {what}"), what)

    def string(self, what: str) -> str:
        """A UTF-8 encoded string, section 1.5.3. A byte order mark is a character like others [MQTT-1.5.3-3]."""
        at = self._at
        encoded = self.binary(what)
        try:
            text = encoded.decode("utf-8")
        except UnicodeDecodeError as error:
            raise MalformedPacketError(
                "MQTT-1.5.3-1", f"the {what} is not UTF-8 ({error.reason})", offset=at + 2 + error.start
            ) from None
        if "\0" in text:
            offset = at + 2 + encoded.index(0)
            raise MalformedPacketError("MQTT-1.5.3-2", f"the {what} contains U+0000", offset=offset)
        return text

    def rest(self) -> bytes:
        """Everything up to the end of the packet."""
        return self._take(self.left, "rest")

    def finish(self) -> None:
        """Nothing may stand behind the last field, section 2.2.3."""
        if self.left:
            raise MalformedPacketError(
                "MQTT-2.2.3", f"{self.left} bytes stand behind the packet's last field", offset=self._at
            )

    def _take(self, count: int, what: str) -> bytes:
        end = self._at + count
        if end > len(self._packet):
            raise MalformedPacketError("MQTT-2.2.3", f"the packet ends inside the {what}", offset=len(self._packet))
        taken = self._packet[self._at : end]
        self._at = end
        return taken


def encode_remaining_length(length: int) -> bytes:
    """Seven bits a byte, least significant first, section 2.2.3. Raises ValueError beyond four bytes."""
    if not 0 <= length <= MAX_REMAINING_LENGTH:
        raise ValueError(f"a remaining length is 0 to {MAX_REMAINING_LENGTH}, not {length}")
    encoded = bytearray()
    while length > 127:
        encoded.append(length & 127 | 128)
        length >>= 7
    encoded.append(length)
    return bytes(encoded)


def decode_remaining_length(data: bytes, at: int) -> tuple[int, int] | None:
    """The remaining length that begins at `at`, and where the variable header begins; None if more bytes are needed.

    Raises MalformedPacketError when four bytes do not end it, section 2.2.3. Longer forms of small numbers are
    read: 3.1.1 does not forbid them.
    """
    length = 0
    for index, byte in enumerate(data[at : at + 4]):
        length |= (byte & 127) << 7 * index
        if byte < 128:
            return length, at + index + 1
    if len(data) - at < 4:
        return None
    raise MalformedPacketError("MQTT-2.2.3", "the remaining length takes more than four bytes", offset=4)


def encode_packet_id(packet_id: int) -> bytes:
    """Two bytes; never zero [MQTT-2.3.1-1]. Raises ValueError."""
    if not 1 <= packet_id <= MAX_PACKET_ID:
        raise ValueError(f"[MQTT-2.3.1-1] a packet identifier is 1 to {MAX_PACKET_ID}, not {packet_id}")
    return packet_id.to_bytes(2, "big")


def encode_binary(value: bytes) -> bytes:
    """Bytes after their two-byte length. Raises ValueError beyond 65,535."""
    if len(value) > 0xFFFF:
        raise ValueError(f"a field is at most 65535 bytes, not {len(value)}")
    return len(value).to_bytes(2, "big") + value


def encode_string(text: str) -> bytes:
    """UTF-8 after its two-byte length. Raises ValueError for U+0000, surrogates and more than 65,535 bytes."""
    if "\0" in text:
        raise ValueError("[MQTT-1.5.3-2] a string cannot contain U+0000")
    return encode_binary(text.encode())
