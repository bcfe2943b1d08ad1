"""The data representations that packets are made of, section 1.5 and 2.2.3: reading with a cursor, writing to bytes.

A `PacketReader` stands on one whole packet of one protocol level and raises MalformedPacketError, with clause and
offset, for everything that the bytes do not hold. Offsets count from the first byte of the fixed header.

The functions `read_*` are the same without the cursor, for 5.0 properties, which are read inside a loop: they take
where to begin and where the field has to end at the latest, and give (value, where the next one begins).
"""

from __future__ import annotations

from typing import Final

from wire.mqtt.clauses import CLAUSES, LEVEL_3_1_1, LEVEL_5, Clauses
from wire.mqtt.errors import MalformedPacketError, ProtocolError
from wire.mqtt.packets import MAX_PACKET_ID, MAX_REMAINING_LENGTH

_5: Final = CLAUSES[LEVEL_5]


class PacketReader:
    """A cursor over one whole packet."""

    __slots__ = ("at", "clauses", "level", "packet")

    def __init__(self, packet: bytes, at: int, level: int = LEVEL_3_1_1) -> None:
        self.packet = packet
        self.at = at
        """Where the next field begins."""
        self.level = level
        self.clauses: Clauses = CLAUSES[level]

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self.packet) - self.at

    def byte(self, what: str) -> int:
        """One byte."""
        return self._take(1, what)[0]

    def uint16(self, what: str) -> int:
        """Two bytes, most significant first, section 1.5.2."""
        return int.from_bytes(self._take(2, what), "big")

    def packet_id(self) -> int:
        """A packet identifier, which is never zero [MQTT-2.3.1-1] [MQTT5-2.2.1-3]."""
        at = self.at
        packet_id = self.uint16("packet identifier")
        if packet_id == 0:
            # 3.1.1 knows one kind of fault; in 5.0 it is data that can be read and is not allowed, section 1.2.
            fault = MalformedPacketError if self.level == LEVEL_3_1_1 else ProtocolError
            raise fault(self.clauses.packet_id, "the packet identifier is 0", offset=at)
        return packet_id

    def binary(self, what: str) -> bytes:
        """Bytes after their two-byte length."""
        return self._take(self.uint16(f"length of the {what}"), what)

    def string(self, what: str) -> str:
        """A UTF-8 encoded string, section 1.5.3 (5.0: 1.5.4).

        A byte order mark is a character like others [MQTT-1.5.3-3] [MQTT5-1.5.4-3]. What the specification would
        rather not see (control characters, non-characters) is let through: sensors send it, and it harms nobody here.
        """
        at = self.at
        return _text(self.binary(what), at + 2, what, self.clauses)

    def rest(self) -> bytes:
        """Everything up to the end of the packet."""
        return self._take(self.left, "rest")

    def finish(self) -> None:
        """Nothing may stand behind the last field, section 2.2.3."""
        if self.left:
            raise MalformedPacketError(
                self.clauses.length, f"{self.left} bytes stand behind the packet's last field", offset=self.at
            )

    def _take(self, count: int, what: str) -> bytes:
        end = self.at + count
        if end > len(self.packet):
            raise MalformedPacketError(
                self.clauses.length, f"the packet ends inside the {what}", offset=len(self.packet)
            )
        taken = self.packet[self.at : end]
        self.at = end
        return taken


def read_uint8(data: bytes, at: int, end: int, what: str) -> tuple[int, int]:
    """One byte."""
    if at >= end:
        raise _ends_inside(what, end)
    return data[at], at + 1


def read_uint16(data: bytes, at: int, end: int, what: str) -> tuple[int, int]:
    """A Two Byte Integer, 5.0 section 1.5.2."""
    if at + 2 > end:
        raise _ends_inside(what, end)
    return data[at] << 8 | data[at + 1], at + 2


def read_uint32(data: bytes, at: int, end: int, what: str) -> tuple[int, int]:
    """A Four Byte Integer, 5.0 section 1.5.3."""
    if at + 4 > end:
        raise _ends_inside(what, end)
    return int.from_bytes(data[at : at + 4], "big"), at + 4


def read_varint(data: bytes, at: int, end: int, what: str) -> tuple[int, int]:
    """A Variable Byte Integer, 5.0 section 1.5.5: as short as it can be [MQTT5-1.5.5-1], at most four bytes."""
    value = 0
    for index in range(4):
        if at + index >= end:
            raise _ends_inside(what, end)
        byte = data[at + index]
        value |= (byte & 127) << 7 * index
        if byte < 128:
            if byte == 0 and index:
                raise MalformedPacketError(
                    "MQTT5-1.5.5-1", f"the {what} takes {index + 1} bytes for {value}", offset=at
                )
            return value, at + index + 1
    raise MalformedPacketError("MQTT5-1.5.5", f"the {what} takes more than four bytes", offset=at + 3)


def read_binary(data: bytes, at: int, end: int, what: str) -> tuple[bytes, int]:
    """Binary Data, 5.0 section 1.5.6."""
    begin = at + 2
    if begin > end:
        raise _ends_inside(what, end)
    stop = begin + (data[at] << 8 | data[at + 1])
    if stop > end:
        raise _ends_inside(what, end)
    return data[begin:stop], stop


def read_string(data: bytes, at: int, end: int, what: str) -> tuple[str, int]:
    """A UTF-8 Encoded String, 5.0 section 1.5.4."""
    encoded, stop = read_binary(data, at, end, what)
    return _text(encoded, at + 2, what, _5), stop


def read_string_pair(data: bytes, at: int, end: int, what: str) -> tuple[tuple[str, str], int]:
    """A UTF-8 String Pair, 5.0 section 1.5.7: a name and a value, both strings [MQTT5-1.5.7-1]."""
    name, at = read_string(data, at, end, what)
    value, at = read_string(data, at, end, what)
    return (name, value), at


def _ends_inside(what: str, end: int) -> MalformedPacketError:
    return MalformedPacketError(_5.length, f"the packet or its properties end inside the {what}", offset=end)


def _text(encoded: bytes, begin: int, what: str, clauses: Clauses) -> str:
    try:
        text = encoded.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedPacketError(
            clauses.utf_8, f"the {what} is not UTF-8 ({error.reason})", offset=begin + error.start
        ) from None
    if "\0" in text:
        raise MalformedPacketError(clauses.null, f"the {what} contains U+0000", offset=begin + encoded.index(0))
    return text


def encode_remaining_length(length: int) -> bytes:
    """Seven bits a byte, least significant first, section 2.2.3; as few bytes as it takes [MQTT5-1.5.5-1].

    Raises ValueError beyond four bytes.
    """
    if 0 <= length < 128:
        return bytes((length,))
    if not 0 <= length <= MAX_REMAINING_LENGTH:
        raise ValueError(f"a remaining length is 0 to {MAX_REMAINING_LENGTH}, not {length}")
    encoded = bytearray()
    while length > 127:
        encoded.append(length & 127 | 128)
        length >>= 7
    encoded.append(length)
    return bytes(encoded)


encode_varint = encode_remaining_length


def decode_remaining_length(data: bytes, at: int, level: int = LEVEL_3_1_1) -> tuple[int, int] | None:
    """The remaining length that begins at `at`, and where the variable header begins; None if more bytes are needed.

    Raises MalformedPacketError when four bytes do not end it, section 2.2.3. Longer forms of small numbers are
    read in 3.1.1, which does not forbid them, and refused in 5.0 [MQTT5-1.5.5-1].
    """
    length = 0
    for index, byte in enumerate(data[at : at + 4]):
        length |= (byte & 127) << 7 * index
        if byte < 128:
            if byte == 0 and index and level == LEVEL_5:
                what = f"the remaining length takes {index + 1} bytes for {length}"
                raise MalformedPacketError("MQTT5-1.5.5-1", what, offset=1)
            return length, at + index + 1
    if len(data) - at < 4:
        return None
    clause = "MQTT-2.2.3" if level == LEVEL_3_1_1 else "MQTT5-1.5.5"
    raise MalformedPacketError(clause, "the remaining length takes more than four bytes", offset=4)


def encode_packet_id(packet_id: int) -> bytes:
    """Two bytes; never zero [MQTT-2.3.1-1] [MQTT5-2.2.1-3]. Raises ValueError."""
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
