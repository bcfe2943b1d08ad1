"""How much waits in all delivery queues together, and who has to go when it is too much.

There may be 100,000 sessions with something waiting, so they are gone through in rounds, a slice of them each second:
the figures are those of the last whole round. When they are beyond the limit, the sessions with the most end, as many
as it takes, the longest queues of the round at most; where that was not enough, the next round goes on.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

from ingest.broker.session import MqttSession

SLICE: Final = 5_000  # sessions looked at in a second: 4 ms, and 100,000 in twenty seconds
LONGEST: Final = 64  # queues of a round that may be ended at its end


class Backlog:
    """See the module. `messages` and `size_bytes` (of the places that are kept): what waited in the last round."""

    def __init__(
        self, waiting: dict[MqttSession, None], *, max_size_bytes: int, overflowed: Callable[[MqttSession], None]
    ) -> None:
        """`waiting` has every session whose queue may hold something; those with an empty one are taken out of it.

        `overflowed` is told of a session that has to end, which is taken out as well.
        """
        self.messages = self.size_bytes = 0
        self.max_size_bytes = max_size_bytes
        self._waiting = waiting
        self._overflowed = overflowed
        self._round: list[MqttSession] = []
        self._messages = self._size_bytes = 0  # of this round until now
        self._longest: list[tuple[int, int, int, MqttSession]] = []  # a heap: bytes, number, messages, session

    def look(self) -> None:
        """A second has passed: look at a slice, and act where it is the last one of a round."""
        if not self._round:
            self._round = list(self._waiting)
            self._messages = self._size_bytes = 0
        for session in self._round[-SLICE:]:
            self._count(session)
        del self._round[-SLICE:]
        if not self._round:
            self._end_round()

    def _count(self, session: MqttSession) -> None:
        if session not in self._waiting:  # it has ended since the round began
            return
        queue = session.queue
        count = queue.count
        if not count:
            del self._waiting[session]
            return
        size_bytes = queue.size_bytes
        self._messages += count
        self._size_bytes += size_bytes
        if len(self._longest) < LONGEST:
            heapq.heappush(self._longest, (size_bytes, session.number, count, session))
        elif size_bytes > self._longest[0][0]:
            heapq.heapreplace(self._longest, (size_bytes, session.number, count, session))

    def _end_round(self) -> None:
        self.messages, self.size_bytes = self._messages, self._size_bytes
        longest, self._longest = sorted(self._longest), []
        while longest and self.size_bytes > self.max_size_bytes:
            size_bytes, _, count, session = longest.pop()
            if session not in self._waiting:
                continue
            del self._waiting[session]
            self.messages -= count
            self.size_bytes -= size_bytes
            self._overflowed(session)
