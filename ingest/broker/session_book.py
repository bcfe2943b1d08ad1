"""All sessions: by client id, in the order in which they began, and in the order in which they expire."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Final

from ingest.broker.session import MqttSession
from ingest.roster import Roster

_SPARE_EXPIRIES: Final = 64


class SessionBook:
    """See the module. Reads no clock: times are arguments, milliseconds. `Opening` says how many there may be."""

    def __init__(self) -> None:
        self.by_client_id: dict[str, MqttSession] = {}
        self.roster: Roster[MqttSession] = Roster()
        """The same sessions, in the order in which they began."""
        self.connected = 0
        """How many of them have a connection."""
        self._expiring: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self.by_client_id)

    def add(self, session: MqttSession) -> None:
        """A session has begun."""
        self.by_client_id[session.client_id] = session
        session.number = self.roster.add(session)

    def remove(self, session: MqttSession) -> None:
        """A session has ended."""
        del self.by_client_id[session.client_id]
        self.roster.remove(session.number)

    def expire_later(self, session: MqttSession) -> None:
        """The session's connection has ended: from now on its time runs."""
        due_ms = session.expires_ms()
        if due_ms is None:
            return
        heapq.heappush(self._expiring, (due_ms, session.client_id))
        if len(self._expiring) > 2 * len(self.by_client_id) + _SPARE_EXPIRIES:  # those of clients that came back
            self._rebuild()

    def shift(self, step_ms: int) -> None:
        """The clock has stepped: every session that counts down goes on where it was."""
        for session in self.by_client_id.values():
            if session.ended_ms is not None:
                session.ended_ms += step_ms
        self._rebuild()

    def _rebuild(self) -> None:
        self._expiring = [
            (due_ms, session.client_id)
            for session in self.by_client_id.values()
            if (due_ms := session.expires_ms()) is not None
        ]
        heapq.heapify(self._expiring)

    def take_expired(self, now_ms: int) -> Iterator[MqttSession]:
        """Those that nobody has come back to in time, the oldest first. The caller ends each."""
        while self._expiring and self._expiring[0][0] <= now_ms:
            due_ms, client_id = heapq.heappop(self._expiring)
            session = self.by_client_id.get(client_id)
            if session is not None and session.connection is None and session.expires_ms() == due_ms:
                yield session
