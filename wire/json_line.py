"""Whose reading a JSON line is: the `device` of one object, without building the rest of it.

Three outcomes, because they are treated differently: a device id; None for bytes that are no JSON text at all
(stored, and quarantined at export); LineRefusedError for JSON that names no usable device (not stored).
"""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec

from core.errors import HeadraceError
from wire.device_id import device_id_fault


class LineRefusedError(HeadraceError):
    """A line that is not stored. `what` is the reason in ASCII, fit for an `ERR n reason` answer."""

    code = "line.refused"
    http_status = 422
    reason: ClassVar[str] = "no-device"


class _Line(msgspec.Struct):
    device: str | msgspec.UnsetType = msgspec.UNSET


_LINE: Final = msgspec.json.Decoder(_Line)
_ANYTHING: Final = msgspec.json.Decoder()


def device_of(line: bytes) -> str | None:
    """The device id of a line; None if it is not JSON in UTF-8. Raises LineRefusedError."""
    if not line.isascii() and not _is_utf8(line):  # the decoder does not look inside strings that it skips
        return None
    try:
        device = _LINE.decode(line).device
    except msgspec.ValidationError:
        fault = _shape_fault(line)
        if fault is None:
            return None
        raise LineRefusedError(fault) from None
    except (msgspec.DecodeError, RecursionError):
        return None
    if device is msgspec.UNSET:
        raise LineRefusedError("no device: the object has no field named device")
    if (fault := device_id_fault(device)) is not None:
        raise LineRefusedError(fault)
    return device


def _shape_fault(line: bytes) -> str | None:
    """What is wrong with a line whose types are not as expected; None if it is not JSON after all."""
    try:
        value = _ANYTHING.decode(line)
    except (msgspec.DecodeError, RecursionError):
        return None
    if not isinstance(value, dict):
        return "no device: the line is not a JSON object"
    return "no device: the field named device is not a string"


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
