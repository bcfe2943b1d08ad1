"""Finding the next whole batch behind damage.

A damaged header says nothing of where its batch ends. What follows is found by its bytes: a header that can be one, in
the range of offsets that may stand there, whose CRC is right. 32 bits of CRC besides the header's own fields make a
false find a matter of one in billions for each place that looks like a header at all.
"""

from __future__ import annotations

from typing import Final

from commitlog.batch import BatchHeader, CorruptBatchError, check_crc, parse_header
from commitlog.storage import StorageFile

MAGIC_AT: Final = 16
_STEP_BYTES: Final = 4 << 20  # one look; a batch larger than the overlap of two looks is not found
_OVERLAP_BYTES: Final = 2 << 20
_MAX_LOOKS: Final = 512  # a segment of the largest size there can be


def next_batch_after(file: StorageFile, position: int, first_offset: int, high: int) -> int | None:
    """Where the next whole batch with first_offset <= base offset < high stands after `position`; None: nowhere."""
    for _ in range(_MAX_LOOKS):
        data = file.read(_STEP_BYTES, position)
        at = data.find(b"\x02", 1 + MAGIC_AT)
        while at >= 0:
            if _is_batch(data, at - MAGIC_AT, first_offset, high):
                return position + at - MAGIC_AT
            at = data.find(b"\x02", at + 1)
        if len(data) < _STEP_BYTES:
            return None
        position += _STEP_BYTES - _OVERLAP_BYTES
    return None


def _is_batch(data: bytes, at: int, first_offset: int, high: int) -> bool:
    try:
        header: BatchHeader | None = parse_header(data, at)
    except CorruptBatchError:
        return False
    if header is None or not first_offset <= header.base_offset < high or at + header.size_bytes > len(data):
        return False
    return check_crc(data[at : at + header.size_bytes], header)
