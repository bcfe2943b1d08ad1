"""Where packets begin and end in a stream, and how large they may be: the fixed header alone, section 2.1.4 (2.2.3)."""

from __future__ import annotations

from wire.mqtt.clauses import CLAUSES, LEVEL_3_1_1
from wire.mqtt.errors import PacketTooLargeError
from wire.mqtt.fields import decode_remaining_length


def packet_bounds(
    data: bytes, at: int, *, max_packet_size_bytes: int, level: int = LEVEL_3_1_1, mend: str = ""
) -> tuple[int, int] | None:
    """(where the variable header begins, where the packet ends) of the packet at `at`.

    None if its fixed header is not all there; the end may lie behind what is there. PacketTooLargeError as soon as the
    length is known, so that nothing of a packet that is too large has to be kept [MQTT5-3.2.2-15] [MQTT5-3.1.2-24].
    """
    header = decode_remaining_length(data, at + 1, level)
    if header is None:
        return None
    length, body = header
    size_bytes = body - at + length
    if size_bytes > max_packet_size_bytes:
        what = f"a packet of {size_bytes} bytes is more than the {max_packet_size_bytes} accepted"
        raise PacketTooLargeError(CLAUSES[level].length, what, offset=1, mend=mend)
    return body, body + length
