"""Sessions that cannot be kept: they end, and their clients are told so, now or when they come back (decision 0026)."""

from __future__ import annotations

from typing import Final

from ingest.broker.ending import Ending
from ingest.broker.rows import StateRowError
from ingest.broker.sender import BEHIND_THE_LOG, Sender
from ingest.broker.session import MqttSession
from ingest.broker.shared import Shared
from wire.mqtt.reasons import ReasonCode

UNREADABLE: Final = "queue unreadable"
OVERFLOWED: Final = "too much waits"


class ForcedEnds:
    """See the module."""

    def __init__(self, shared: Shared, sender: Sender, ending: Ending) -> None:
        self._counters = shared.counters
        self._lines = shared.lines
        self._sender = sender
        self._ending = ending
        self._overflowing: set[MqttSession] = set()

    def overflowed(self, session: MqttSession) -> None:
        """A session has more to get than it may: it ends, and its client is told so, now or when it comes back."""
        if session in self._overflowing:
            return
        self._overflowing.add(session)
        self._counters.sessions_overflowed += 1
        self._lines.warning(
            "session ended",
            what=f"{session.queue.count} messages wait for it, which is what a session may have waiting",
            where=f"client {session.client_id!r}",
            mend="read faster, subscribe to less, or raise mqtt.max_queued_messages",
        )
        self._sender.later(lambda: self._end_overflowed(session))

    def _end_overflowed(self, session: MqttSession) -> None:
        self._overflowing.discard(session)
        self._end_with_connection(session, OVERFLOWED, ReasonCode.QUOTA_EXCEEDED)

    def behind_the_log(self, session: MqttSession, lost: int) -> None:
        """Messages that a session had still to get have expired from the log: it ends honestly."""
        self._counters.lost += lost
        self._counters.sessions_behind += 1
        self._lines.warning(
            "session ended",
            what=f"{lost} messages waited for it, the oldest of which the log no longer has",
            where=f"client {session.client_id!r}",
            mend="come back sooner, or keep the log longer: retention.max_age",
        )
        self._end_with_connection(session, BEHIND_THE_LOG, ReasonCode.ADMINISTRATIVE_ACTION)

    def unreadable(self, session: MqttSession, error: StateRowError) -> None:
        """A row of a session's queue is damaged: it ends honestly, and nobody else notices."""
        self._lines.warning("session ended", what=error.what, where=error.where, mend=error.mend)
        self._end_with_connection(session, UNREADABLE, ReasonCode.UNSPECIFIED_ERROR)

    def _end_with_connection(self, session: MqttSession, reason: str, reason_code: ReasonCode) -> None:
        connection = session.connection
        if connection is not None:
            connection.end(reason, reason_code)
        self._ending.end_session(session)
