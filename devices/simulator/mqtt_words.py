"""The few MQTT 3.1.1 packets a simulated device speaks: bytes in and out, no I/O."""

from __future__ import annotations

import struct
from typing import Final

from core.errors import HeadraceError

CONNACK: Final = 0x20
PUBACK: Final = 0x40
PINGRESP: Final = 0xD0
PINGREQ: Final = b"\xc0\x00"
DISCONNECT: Final = b"\xe0\x00"

_SIZES: Final = {CONNACK: 4, PUBACK: 4, PINGRESP: 2}  # whole packets; a device is sent no others
_QOS_1: Final = 0x02
_DUP: Final = 0x08


class UnexpectedPacketError(HeadraceError):
    """The server sent what a client that never subscribes is not sent."""

    code = "peer"


def connect_packet(client_id: str, keep_alive_s: int) -> bytes:
    """CONNECT with clean session 0 [MQTT-3.1.2-4], no will, no credentials."""
    body = _string("MQTT") + struct.pack(">BBH", 4, 0, keep_alive_s) + _string(client_id)
    return b"\x10" + _length(len(body)) + body


def publish_packet(topic: str, packet_id: int, payload: bytes, *, dup: bool) -> bytes:
    """PUBLISH at QoS 1, not retained; `dup` on every attempt but the first [MQTT-3.3.1-1]."""
    body = _string(topic) + packet_id.to_bytes(2, "big") + payload
    return bytes((0x30 | _QOS_1 | (_DUP if dup else 0),)) + _length(len(body)) + body


class AnswerParser:
    """Splits the server's bytes into packets. Keeps at most three bytes of an unfinished one."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[int, int]]:
        """(packet type, value) of every whole packet: packet id, CONNACK return code, or 0.

        Raises UnexpectedPacketError.
        """
        data = self._rest + data
        answers: list[tuple[int, int]] = []
        position = 0
        while position < len(data):
            kind = data[position]
            size = _SIZES.get(kind)
            if size is None:
                raise UnexpectedPacketError(f"a packet that begins with 0x{kind:02x}")
            if len(data) - position >= 2 and data[position + 1] != size - 2:
                raise UnexpectedPacketError(f"a packet 0x{kind:02x} of {data[position + 1]} bytes")
            if len(data) - position < size:
                break
            answers.append((kind, _value(kind, data[position : position + size])))
            position += size
        self._rest = data[position:]
        return answers


def _value(kind: int, packet: bytes) -> int:
    if kind == CONNACK:
        return packet[3]
    return int.from_bytes(packet[2:], "big")


def _string(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(2, "big") + encoded


def _length(count: int) -> bytes:
    """Remaining length, seven bits a byte, at most four bytes [MQTT 2.2.3]."""
    encoded = bytearray()
    for _ in range(4):
        count, digit = divmod(count, 128)
        encoded.append(digit | 0x80 if count else digit)
        if not count:
            break
    return bytes(encoded)
