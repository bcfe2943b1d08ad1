"""Messages that were committed a moment ago and that somebody connected could not take yet.

The log is where a subscriber catches up from, but records are in segments only some 100 ms after their commit, and a
client with a small receive maximum is behind for a moment after every commit. So what such a client misses is kept
here, first in, first out, within a bound; what has gone is read from the log.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Generic, TypeVar

MAX_RECENT_BYTES: Final = 32 << 20  # of payloads, for all subscribers together; some 100,000 readings
_ENTRY_BYTES: Final = 200  # what an entry takes besides its payload

Place = tuple[str, int, int]
"""(topic of the log, partition, offset)."""
P = TypeVar("P")


class Recent(Generic[P]):
    """Payloads by their place in the log, each with what it was published as."""

    def __init__(self, max_bytes: int = MAX_RECENT_BYTES) -> None:
        self._entries: OrderedDict[Place, tuple[P, bytes, int]] = OrderedDict()
        self._max_bytes = max_bytes
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, place: Place, publication: P, payload: bytes, timestamp_ms: int) -> None:
        """Keep a message; the oldest go where it is too much."""
        if place in self._entries:
            return
        self._entries[place] = (publication, payload, timestamp_ms)
        self.size_bytes += len(payload) + _ENTRY_BYTES
        while self.size_bytes > self._max_bytes:
            _, (_, oldest, _) = self._entries.popitem(last=False)
            self.size_bytes -= len(oldest) + _ENTRY_BYTES

    def get(self, place: Place) -> tuple[P, bytes, int] | None:
        """(publication, payload, time received), if it is still here."""
        return self._entries.get(place)

    def clear(self) -> None:
        """Nobody is behind any more."""
        self._entries.clear()
        self.size_bytes = 0
