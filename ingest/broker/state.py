"""Sessions as rows of state tables, and everything that stands there taken over at the start.

A row that cannot be read costs its session and nothing else: it is left out, said in the log output, and removed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ingest.broker.queue import DeliveryQueue, QueueLimits
from ingest.broker.rows import (
    QUEUES,
    RELEASED,
    SUBSCRIPTIONS,
    Row,
    StateRowError,
    rows_by_client,
    subscription_from_row,
    subscription_key,
)
from ingest.broker.session import MqttSession
from ingest.broker.subscriptions import Subscription

SESSIONS: Final = "mqtt.sessions"
RECEIVED: Final = "mqtt.received"
_SEPARATOR: Final = "\0"

Rows = Callable[[str], Mapping[str, Any]]
"""All rows of a table."""


@dataclass(slots=True)
class Restored:
    """What the tables hold. `faults`: rows that could not be read, and what to remove for them."""

    sessions: dict[str, MqttSession] = field(default_factory=dict)
    subscriptions: list[Subscription] = field(default_factory=list)
    faults: list[StateRowError] = field(default_factory=list)
    removals: list[Row] = field(default_factory=list)


def session_row(session: MqttSession) -> Row:
    """The row that keeps a session."""
    value = [session.level, session.expiry_s, session.created_ms, session.ended_ms, session.username]
    return SESSIONS, session.client_id, value


def received_key(client_id: str, packet_id: int) -> str:
    """The key of the row of a QoS 2 publish that is in the log and not released."""
    return f"{client_id}{_SEPARATOR}{packet_id}"


def restore_sessions(rows: Rows, limits: QueueLimits) -> Restored:
    """Every session with its subscriptions, its queue and the QoS 2 publishes it has not released."""
    restored = Restored()
    for client_id, value in rows(SESSIONS).items():
        match value:
            case [int(level), int(expiry_s), int(created_ms), None | int() as ended_ms, None | str() as username]:
                session = MqttSession(
                    client_id,
                    level=level,
                    expiry_s=expiry_s,
                    created_ms=created_ms,
                    username=username,
                    limits=limits,
                )
                session.ended_ms = ended_ms
                restored.sessions[client_id] = session
            case _:
                _leave_out(restored, SESSIONS, client_id, "a session's row does not hold its five values")
    _restore_subscriptions(restored, rows)
    _restore_received(restored, rows)
    _restore_queues(restored, rows, limits)
    return restored


def _restore_subscriptions(restored: Restored, rows: Rows) -> None:
    for key, value in rows(SUBSCRIPTIONS).items():
        try:
            subscription = subscription_from_row(key, value)
        except StateRowError as error:
            restored.faults.append(error)
            restored.removals.append((SUBSCRIPTIONS, key, None))
            continue
        if subscription.client_id in restored.sessions:
            restored.subscriptions.append(subscription)
        else:
            _leave_out(restored, SUBSCRIPTIONS, key, "a subscription without a session")


def _restore_received(restored: Restored, rows: Rows) -> None:
    for key in rows(RECEIVED):
        client_id, separator, number = key.rpartition(_SEPARATOR)
        session = restored.sessions.get(client_id)
        if session is None or not separator or not number.isdigit():
            _leave_out(restored, RECEIVED, key, "a packet identifier without a session")
            continue
        if session.received_ids is None:
            session.received_ids = set()
        session.received_ids.add(int(number))


def _restore_queues(restored: Restored, rows: Rows, limits: QueueLimits) -> None:
    chunks = _grouped(restored, QUEUES, rows)
    released = _grouped(restored, RELEASED, rows)
    for client_id in sorted({*chunks, *released}):
        session = restored.sessions.get(client_id)
        fault: StateRowError | None = None
        if session is not None:
            try:
                session.queue = DeliveryQueue.restore(
                    client_id,
                    chunks=chunks.get(client_id, {}),
                    released=released.get(client_id, {}),
                    limits=limits,
                )
                session.keeps_up = session.queue.caught_up
                continue
            except StateRowError as error:
                fault = error
                _end(restored, session)
        restored.faults.append(fault or StateRowError("a queue without a session", where=f"{QUEUES}: {client_id!r}"))
        for table, grouped in ((QUEUES, chunks), (RELEASED, released)):
            wanted = grouped.get(client_id, {})
            restored.removals += ((table, f"{client_id}{_SEPARATOR}{seq:016x}", None) for seq in wanted)


def _end(restored: Restored, session: MqttSession) -> None:
    """The client is told that its session is gone, and begins anew; nothing that stays may become part of the new one.

    A subscription that it did not make again would come back with the next start, and a QoS 2 publish under an
    identifier of the old session would be acknowledged and not stored.
    """
    client_id = session.client_id
    del restored.sessions[client_id]
    restored.removals.append((SESSIONS, client_id, None))
    restored.removals += ((RECEIVED, received_key(client_id, number), None) for number in session.received_ids or ())
    kept: list[Subscription] = []
    for subscription in restored.subscriptions:
        if subscription.client_id == client_id:
            key = subscription_key(client_id, subscription.full_filter)
            restored.removals.append((SUBSCRIPTIONS, key, None))
        else:
            kept.append(subscription)
    restored.subscriptions = kept


def _grouped(restored: Restored, table: str, rows: Rows) -> dict[str, dict[int, Any]]:
    found = dict(rows(table))
    while True:
        try:
            return rows_by_client(table, found)
        except StateRowError as error:
            restored.faults.append(error)
            bad = next(key for key in found if _unreadable(table, key))
            del found[bad]
            restored.removals.append((table, bad, None))


def _unreadable(table: str, key: str) -> bool:
    try:
        rows_by_client(table, {key: b""})
    except StateRowError:
        return True
    return False


def _leave_out(restored: Restored, table: str, key: str, what: str) -> None:
    restored.faults.append(StateRowError(what, where=f"{table}: {key!r}"))
    restored.removals.append((table, key, None))
