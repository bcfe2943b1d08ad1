"""Why offsets cannot be read: the words that gaps carry."""

from __future__ import annotations

from typing import Final

EXPIRED: Final = "expired"  # before the log start offset
MISSING: Final = "missing"  # never in a segment, or its segment is gone
DAMAGED: Final = "damaged"  # in a segment, but its batch fails its CRC
LEFT_OUT: Final = "left out"  # never given to a record: recovery went on beyond them (reasons of its cuts begin so)
