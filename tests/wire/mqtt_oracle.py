"""What has to hold for any bytes: a value that can be written and read again, or a ProtocolError that names a rule."""

from __future__ import annotations

import contextlib
import re

from wire.mqtt.decode import decode_packet
from wire.mqtt.encode import encode_packet
from wire.mqtt.errors import ProtocolError
from wire.mqtt.sides import check_from_client, check_from_server


def parses_or_is_refused(data: bytes, level: int) -> bool:
    """Whether `data` is a packet; anything but a packet and a ProtocolError escapes."""
    try:
        packet = decode_packet(data, level)
    except ProtocolError as error:
        _names_its_rule(error, len(data))
        return False
    encoded = encode_packet(packet, level)
    assert decode_packet(encoded, level) == packet
    assert len(encoded) <= len(data)  # what we write is never longer than what says the same
    for check in (check_from_client, check_from_server):
        with contextlib.suppress(ProtocolError):
            check(packet)
    return True


def _names_its_rule(error: ProtocolError, size_bytes: int) -> None:
    assert re.fullmatch(r"MQTT5?-\d+(\.\d+)+(-\d+)?", error.clause), error
    assert error.reason_code.failed
    assert error.offset is None or 0 <= error.offset <= size_bytes
