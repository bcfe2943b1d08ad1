"""What may be a device id: 1 to 256 bytes of UTF-8 without control characters."""

from __future__ import annotations

import re
from typing import Final

MAX_DEVICE_ID_SIZE_BYTES: Final = 256
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURELY_SHORT_CHARS: Final = MAX_DEVICE_ID_SIZE_BYTES // 4  # a character is at most four bytes


def device_id_fault(device: str) -> str | None:
    """Why `device` cannot be a device id, in a few ASCII words; None if it can."""
    if not device:
        return "device id is empty"
    if len(device) > _SURELY_SHORT_CHARS:
        try:
            size_bytes = len(device.encode())
        except UnicodeEncodeError:
            return "device id is not UTF-8"
        if size_bytes > MAX_DEVICE_ID_SIZE_BYTES:
            return f"device id is longer than {MAX_DEVICE_ID_SIZE_BYTES} bytes"
    if device.isascii():
        return None if device.isprintable() else "device id contains a control character"
    if _CONTROL.search(device):
        return "device id contains a control character"
    return None if _is_utf8(device) else "device id is not UTF-8"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
