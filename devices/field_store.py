"""Fields that a device told before its last reading: each with its last value and when, packed into a few bytes.

Packed, because 100,000 devices with dictionaries of their own would take gigabytes and keep the garbage collector
busy; unpacked only when a device changes the shape of what it says, or somebody looks. The form is msgpack: a map from
path to (time received in ms, value as JSON or nil), those told longest ago first. It also stands in snapshots.

Kept are the `MAX_FIELDS` told most recently, in `MAX_STORE_BYTES`; a value beyond `MAX_VALUE_BYTES` is told by its
time alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

MAX_FIELDS: Final = 64
"""Besides those of the last reading: a machine that names each of its sensors in messages of their own has fewer."""
MAX_VALUE_BYTES: Final = 256
"""A text that people read; what is longer is a document, and is in the last reading or in the log."""
MAX_STORE_BYTES: Final = 2048
"""Of paths, values and times of one device: with 200,000 devices, what a small box can spare at the very most."""
_ENTRY_BYTES: Final = 16  # a time and the lengths of path and value

Entry = tuple[int, bytes | None]
"""When it was received (ms), and the value as JSON; None: too large to keep."""

EMPTY: Final = b""
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(dict[str, Entry]).decode


def unpack(store: bytes) -> dict[str, Entry]:
    """The entries, told longest ago first."""
    return _decode(store) if store else {}


def entry(time_ms: int, leaf: bytes) -> Entry:
    """A value as it is kept."""
    return (time_ms, leaf if len(leaf) <= MAX_VALUE_BYTES else None)


def merge(store: bytes, time_ms: int, leaves: Mapping[str, bytes]) -> tuple[bytes, bool]:
    """The store with what a reading received at `time_ms` said, and whether fields had to give way.

    A value that was told later than this reading stays.
    """
    entries = unpack(store)
    late = any(time_ms < told_ms for told_ms, _ in entries.values())
    for path, leaf in leaves.items():
        before = entries.get(path)
        if before is not None:
            if before[0] > time_ms:
                continue
            del entries[path]
        entries[path] = entry(time_ms, leaf)
    if late:
        entries = dict(sorted(entries.items(), key=lambda item: item[1][0]))
    gave_way = _bound(entries)
    return _encode(entries), gave_way


def _bound(entries: dict[str, Entry]) -> bool:
    count = len(entries)
    size_bytes = sum(_size_bytes(path, kept) for path, kept in entries.items())
    while len(entries) > MAX_FIELDS or size_bytes > MAX_STORE_BYTES:
        oldest = next(iter(entries))
        size_bytes -= _size_bytes(oldest, entries.pop(oldest))
    return len(entries) < count


def _size_bytes(path: str, kept: Entry) -> int:
    return 4 * len(path) + len(kept[1] or b"") + _ENTRY_BYTES  # a character of UTF-8 takes up to four bytes
