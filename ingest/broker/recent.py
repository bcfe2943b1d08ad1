"""Messages that were committed a moment ago and that somebody connected could not take yet.

The log is where a subscriber catches up from, but records are in segments only some 100 ms after their commit, and a
client with a small receive maximum is behind for a moment after every commit. So what such a client misses is kept
here, first in, first out, within a bound; what has gone is read from the log.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Generic, Protocol, TypeVar

MAX_RECENT_BYTES: Final = 32 << 20  # of payloads, for all subscribers together; some 100,000 readings
_ENTRY_BYTES: Final = 200  # what an entry takes besides its payload

Place = tuple[str, int, int]
"""(topic of the log, partition, offset)."""


class Sized(Protocol):
    """What many messages were published as."""

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, about."""
        ...


P = TypeVar("P", bound=Sized)


class Recent(Generic[P]):
    """Payloads by their place in the log, each with what it was published as."""

    def __init__(self, max_bytes: int = MAX_RECENT_BYTES) -> None:
        self._entries: OrderedDict[Place, tuple[P, bytes, int]] = OrderedDict()
        self._shared: dict[P, int] = {}  # in how many entries it stands: counted once, for many or for one
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
        if publication in self._shared:
            self._shared[publication] += 1
        else:
            self._shared[publication] = 1
            self.size_bytes += publication.size_bytes
        while self.size_bytes > self._max_bytes:
            self._drop_oldest()

    def get(self, place: Place) -> tuple[P, bytes, int] | None:
        """(publication, payload, time received), if it is still here."""
        return self._entries.get(place)

    def clear(self) -> None:
        """Nobody is behind any more."""
        self._entries.clear()
        self._shared.clear()
        self.size_bytes = 0

    def _drop_oldest(self) -> None:
        _, (publication, payload, _) = self._entries.popitem(last=False)
        self.size_bytes -= len(payload) + _ENTRY_BYTES
        self._shared[publication] -= 1
        if not self._shared[publication]:
            del self._shared[publication]
            self.size_bytes -= publication.size_bytes
