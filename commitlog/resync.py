"""Finding the next whole batch behind damage.

A damaged header says nothing of where its batch ends. What follows is found by its bytes: a header that can be one, in
the range of offsets that may stand there, whose CRC is right. 32 bits of CRC besides the header's own fields make a
false find a matter of one in billions for each place that looks like a header at all.
"""

from __future__ import annotations

import re
from typing import Final

from commitlog.batch import HEADER_BYTES, MAX_DECOMPRESSED_BYTES, CorruptBatchError, check_crc, parse_header
from commitlog.storage import StorageFile

NO_HIGH: Final = 1 << 48
"""Above every offset there can be: at a million records a second it takes nine years to get there."""

# What every header has: an offset below NO_HIGH (two zero bytes), a length below 2^30, magic 2. One byte is taken and
# the rest looked ahead at, so that no place is stepped over.
_HEADER: Final = re.compile(rb"\x00(?=\x00.{6}[\x00-\x3f].{7}\x02)", re.DOTALL)
_STEP_BYTES: Final = 4 << 20  # one look
_OVERLAP_BYTES: Final = HEADER_BYTES  # a header may lie across the end of a look; its batch is read on its own
_MAX_LOOKS: Final = 512  # 2 GB: twice a segment of the largest size there can be


def next_batch_after(file: StorageFile, position: int, first_offset: int, high: int = NO_HIGH) -> int | None:
    """Where the next whole batch with first_offset <= base offset < high stands after `position`; None: nowhere."""
    position += 1
    for _ in range(_MAX_LOOKS):
        data = file.read(_STEP_BYTES, position)
        for match in _HEADER.finditer(data):
            if _is_batch(file, data, position, match.start(), first_offset, high):
                return position + match.start()
        if len(data) < _STEP_BYTES:
            return None
        position += _STEP_BYTES - _OVERLAP_BYTES
    return None


def _is_batch(file: StorageFile, data: bytes, position: int, at: int, first_offset: int, high: int) -> bool:
    try:
        header = parse_header(data, at)
    except CorruptBatchError:
        return False
    if header is None or not first_offset <= header.base_offset < high or header.size_bytes > MAX_DECOMPRESSED_BYTES:
        return False
    batch = data[at : at + header.size_bytes]
    if len(batch) < header.size_bytes:
        batch = file.read(header.size_bytes, position + at)
    return len(batch) == header.size_bytes and check_crc(batch, header)
