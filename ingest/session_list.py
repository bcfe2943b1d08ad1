"""Sessions as the API lists them: what is kept for MQTT clients, connected or away, then other protocols' connections.

A page is bounded three ways: in rows, in sessions looked at, since a filter may leave most of them out, and in text. So
it may have fewer rows than were asked for, and still name where to go on. A session that begins meanwhile comes on a
later page; one that ends is not there; none comes twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from core.errors import BadRequestError
from ingest.broker.broker import Broker
from ingest.broker.session import MqttSession
from ingest.sessions import Session, Sessions

MAX_ROWS: Final = 1_000
MAX_LOOKED_AT: Final = 20_000  # sessions of one page: a few milliseconds of the loop
MAX_FILTERS: Final = 100  # of a session that are shown; it may have 10,000
_MAX_FILTERS_CHARS: Final = 65_536  # of all of them: one alone may have as many
_MAX_PAGE_CHARS: Final = 1 << 20  # of texts that clients chose: far below what a frame of the local channel holds
_MQTT: Final = "mqtt"


class SessionList:
    """Pages of all sessions. Used on the event loop only."""

    def __init__(self, sessions: Sessions, broker: Broker) -> None:
        self._sessions = sessions
        self._broker = broker

    def page(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of the local channel's verb `sessions`. Raises BadRequestError.

        `args`, each of which may be absent: `limit`, `cursor` (`next` of the page before), `connected` (only those that
        are, or only those that are not), `client_id` (only this client's).
        """
        limit = _checked(args, "limit", int, MAX_ROWS)
        connected = _checked(args, "connected", bool, None)
        client_id = _checked(args, "client_id", str, None)
        cursor = _checked(args, "cursor", str, None)
        if limit < 1:
            raise BadRequestError(f"{limit} is not a number of sessions", mend="a whole number from 1")
        if client_id is not None:
            session = self._broker.sessions.get(client_id)
            found = session is not None and connected in (None, session.connection is not None)
            rows, following = [self._mqtt_row(session)] if session is not None and found else [], None
        else:
            rows, following = self._rows(min(limit, MAX_ROWS), cursor, connected)
        figures = self._broker.figures()
        others = sum(len(roster) for protocol, roster in self._sessions.rosters.items() if protocol != _MQTT)
        return {
            "sessions": rows,
            "connected": figures.connected + others,
            "away": figures.away,
            "next": following,
        }

    def _rows(self, limit: int, cursor: str | None, connected: bool | None) -> tuple[list[dict[str, Any]], str | None]:
        rows: list[dict[str, Any]] = []
        chars = 0
        at = cursor
        for looked_at, (place, row) in enumerate(self._after(cursor, connected)):
            if len(rows) == limit or looked_at == MAX_LOOKED_AT or chars >= _MAX_PAGE_CHARS:
                return rows, at
            at = place
            if row is not None:
                rows.append(row)
                chars += _chars(row)
        return rows, None

    def _after(self, cursor: str | None, connected: bool | None) -> Iterator[tuple[str, dict[str, Any] | None]]:
        """Places behind `cursor`, in order, each with the row of who stands there, if it is wanted."""
        begin, number = (_MQTT, 0) if cursor is None else _place(cursor)
        for protocol in sorted({_MQTT, *self._sessions.rosters}, key=_order):
            if _order(protocol) < _order(begin):
                continue
            after = number if protocol == begin else 0
            if protocol == _MQTT:
                for at, session in self._broker.roster.after(after):
                    wanted = session is not None and connected in (None, session.connection is not None)
                    yield f"{protocol}:{at}", self._mqtt_row(session) if session is not None and wanted else None
            else:
                for at, opened in self._sessions.rosters[protocol].after(after):
                    wanted = opened is not None and connected is not False
                    yield f"{protocol}:{at}", _row(opened) if opened is not None and wanted else None

    def _mqtt_row(self, session: MqttSession) -> dict[str, Any]:
        tree = self._broker.tree
        filters: list[str] = []
        left_chars = _MAX_FILTERS_CHARS
        for subscription in tree.first_of(session.client_id, MAX_FILTERS):
            left_chars -= len(subscription.full_filter)
            if left_chars < 0:
                break
            filters.append(subscription.full_filter)
        return {
            "client_id": session.client_id,
            "protocol": _MQTT,
            "level": session.level,
            "username": session.username,
            **_connection(session.presence),
            "connected": session.connection is not None,
            "away_since_ms": session.ended_ms,
            "expires_ms": session.expires_ms(),
            "expiry_s": session.expiry_s,
            "subscriptions": tree.count_of(session.client_id),
            "filters": filters,
            "queued": session.queue.count if session.has_queue else 0,
            "in_flight": session.queue.in_flight if session.has_queue else 0,
        }


def _order(protocol: str) -> tuple[bool, str]:
    return protocol != _MQTT, protocol


def _row(session: Session) -> dict[str, Any]:
    return {
        "client_id": session.client_id or None,
        "protocol": session.protocol,
        "level": None,
        "username": session.username,
        **_connection(session),
        "connected": True,
        "away_since_ms": None,
        "expires_ms": None,
        "expiry_s": 0,
        "subscriptions": 0,
        "filters": [],
        "queued": 0,
        "in_flight": 0,
    }


def _connection(session: Session | None) -> dict[str, Any]:
    if session is None:
        return {"session": None, "peer": None, "since_ms": None, "devices": 0}
    return {
        "session": session.session_id,
        "peer": session.peer,
        "since_ms": session.since_ms,
        "devices": len(session.devices),
    }


def _chars(row: Mapping[str, Any]) -> int:
    return len(row["client_id"] or "") + len(row["username"] or "") + sum(map(len, row["filters"]))


def _place(cursor: str) -> tuple[str, int]:
    protocol, _, number = cursor.partition(":")
    if not number.isascii() or not number.isdigit():
        raise BadRequestError(f"{cursor[:60]!r} is no place in the list", mend="`next` of the page before")
    return protocol, int(number)


def _checked(args: Mapping[str, Any], name: str, kind: type, otherwise: Any) -> Any:
    value = args.get(name)
    if value is None:
        return otherwise
    if type(value) is not kind:
        raise BadRequestError(f"{name} = {value!r:.60}", mend=f"{name} is of type {kind.__name__}")
    return value
