"""Connections and sessions end: goodbyes, wills, what is kept, and what of it goes to others.

A session that outlives its connection waits until its client comes back or its time is over [MQTT5-3.1.2-23].
"""

from __future__ import annotations

from dataclasses import replace

from ingest.broker.chunk import Kind
from ingest.broker.fan_out import FanOut
from ingest.broker.rows import SUBSCRIPTIONS, Row, StateRowError, subscription_key
from ingest.broker.sender import Sender
from ingest.broker.session import MqttSession, Outlet
from ingest.broker.shared import Shared
from ingest.broker.state import RECEIVED, SESSIONS, received_key, session_row
from ingest.broker.will_publisher import WillPublisher
from ingest.settings import MqttSettings
from wire.mqtt.packets import Disconnect


class Ending:
    """See the module."""

    def __init__(self, shared: Shared, fan_out: FanOut, sender: Sender, will_publisher: WillPublisher) -> None:
        self._shared = shared
        self._book = shared.book
        self._wills = shared.wills
        self._fan_out = fan_out
        self._sender = sender
        self._will_publisher = will_publisher

    def closed(self, session: MqttSession, outlet: Outlet, *, with_will: bool) -> None:
        """A session's connection is gone. `with_will`: its will is to be published, after its delay."""
        if session.connection is not outlet:
            return
        session.connection = session.presence = None
        self._book.connected -= 1
        self._sender.left(session)
        now_ms = self._shared.log.now_ms()
        session.ended_ms = now_ms
        changes = self._will_left_behind(session, now_ms, with_will=with_will)
        if session.expiry_s:
            changes.append(session_row(session))
            self._book.expire_later(session)
            if session.has_queue and session.queue.count:
                self._fan_out.waiting[session] = None  # what was in flight waits again
            if session.has_queue and session.queue.changed:
                self._fan_out.touch(session)
        else:
            self.end_session(session)
        self._shared.change(changes)

    def _will_left_behind(self, session: MqttSession, now_ms: int, *, with_will: bool) -> list[Row]:
        """What comes of the will of a session whose connection is gone; the rows that say so."""
        will = self._wills.get(session.client_id)
        if will is None:
            return []
        if not with_will:
            discarded = self._wills.discard(session.client_id)
            return [] if discarded is None else [discarded]
        delay_s = min(will.delay_s, session.expiry_s)  # [MQTT5-3.1.3-9]
        if delay_s:
            return [self._wills.keep(replace(will, due_ms=now_ms + delay_s * 1000))]
        self._will_publisher.publish(will)
        return []

    def disconnect(self, session: MqttSession, disconnect: Disconnect) -> None:
        """A DISCONNECT may change how long the session is kept [MQTT5-3.14.2-2]; checked by the caller."""
        expiry_s = disconnect.properties.session_expiry_interval_s
        if expiry_s is not None:
            session.expiry_s = bounded_expiry_s(expiry_s, self._shared.settings)

    def end_session(self, session: MqttSession) -> None:
        """Forget a session: its subscriptions, its queue, its rows; a will that waits is published [MQTT5-3.1.2-10]."""
        if self._book.by_client_id.get(session.client_id) is not session:
            return
        will = self._wills.get(session.client_id)
        if will is not None and session.connection is None:
            self._will_publisher.publish(will)
        self._book.remove(session)
        self._sender.ended(session)
        self._fan_out.waiting.pop(session, None)
        changes: list[Row] = []
        if session.durable:  # first: should only a part of them become durable, the next start removes the others
            changes.append((SESSIONS, session.client_id, None))
        for subscription in self._shared.tree.remove_all(session.client_id):
            if session.durable:
                changes.append((SUBSCRIPTIONS, subscription_key(session.client_id, subscription.full_filter), None))
        if session.has_queue:
            self._share_out(session)
            changes += session.queue.clear()
        if session.durable:
            received = session.received_ids or ()
            changes += ((RECEIVED, received_key(session.client_id, number), None) for number in received)
        self._shared.change(changes)

    def expire(self, now_ms: int) -> None:
        """End the sessions that nobody has come back to in time."""
        for session in self._book.take_expired(now_ms):
            self._shared.counters.sessions_expired += 1
            self.end_session(session)

    def _share_out(self, session: MqttSession) -> None:
        """Messages of shared subscriptions that a session did not get go to other members [MQTT5-4.8.2-5]."""
        places: list[tuple[Kind, int]] = []
        try:
            places.extend(session.queue.unfinished_shared())
        except StateRowError as error:  # what stands before the damaged row still goes on
            self._shared.lines.warning("shared messages lost", what=error.what, where=error.where)
        self._sender.hand_over(places)


def bounded_expiry_s(expiry_s: int, settings: MqttSettings) -> int:
    """How long a session is kept that asks for so much."""
    return min(expiry_s, round(settings.max_session_expiry_s))
