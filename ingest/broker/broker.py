"""The MQTT server behind its connections: sessions, subscriptions, retained messages and wills.

What outlives a connection stands in state tables of the log (docs/formats.md), changed in the same commit as the
records it belongs to; what an answer promises is durable before the answer goes out, since answers wait for that
commit (`ingest.mqtt`). The tables are read once, at the start; from then on everything is decided from memory, at once.

Data flows one way: connections call in here; `FanOut` and `Sender` write to connections; nothing waits for anything
but a commit.
"""

from __future__ import annotations

import heapq
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog

from commitlog.base import Appender, Header, LogReader
from core.logs import LimitedLog
from core.threads import Worker
from ingest.broker.authorizer import Authorizer, Client
from ingest.broker.catch_up import CatchUp
from ingest.broker.chunk import Kind
from ingest.broker.counters import BrokerCounters, BrokerFigures
from ingest.broker.fan_out import FanOut
from ingest.broker.publisher import MAX_TOPIC_LEVELS, Publisher
from ingest.broker.queue import QueueLimits
from ingest.broker.retained import RetainedLimits, RetainedMessage, RetainedMessages, retained_from_row
from ingest.broker.retaining import Retaining
from ingest.broker.rows import (
    RETAINED,
    SUBSCRIPTIONS,
    Row,
    StateRowError,
    row_bytes,
    split_share,
    subscription_key,
    subscription_row,
)
from ingest.broker.sender import BEHIND_THE_LOG, Sender
from ingest.broker.session import MqttSession, Outlet
from ingest.broker.state import RECEIVED, SESSIONS, received_key, restore_sessions, session_row
from ingest.broker.subscriptions import Subscription, SubscriptionTree
from ingest.broker.wills import WILLS, KeptWill, Wills, kept
from ingest.limits import RECORD_OVERHEAD_BYTES
from ingest.roster import Roster
from ingest.routing import Router
from ingest.settings import MqttSettings
from wire.mqtt.clauses import LEVEL_5
from wire.mqtt.errors import PublishRefusedError
from wire.mqtt.events import Append
from wire.mqtt.packets import (
    FLAG_RETAIN,
    Connect,
    Disconnect,
    RetainHandling,
    Subscribe,
    TopicSubscription,
    Unsubscribe,
)
from wire.mqtt.properties import NEVER_EXPIRES_S
from wire.mqtt.reasons import ReasonCode

TAKEN_OVER: Final = "taken over"
UNREADABLE: Final = "queue unreadable"
OVERFLOWED: Final = "too much waits"
_MAX_PLACE_BYTES: Final = 8  # of a queued message: two to four are usual
_RECEIVED_ROW_BYTES: Final = 40
_BOUND_EVERY: Final = 5  # ticks between two looks at what all queues take: it goes through all that hold anything
_SPARE_EXPIRIES: Final = 64
_PIECE_BYTES: Final = 256 << 10  # of rows that change together; far below what a commit of the smallest journal takes
_GRANTED: Final = (ReasonCode.GRANTED_QOS_0, ReasonCode.GRANTED_QOS_1, ReasonCode.GRANTED_QOS_2)


class RefusedError(Exception):
    """A CONNECT that is not accepted, and why."""

    def __init__(self, reason_code: ReasonCode, what: str) -> None:
        super().__init__(what)
        self.reason_code = reason_code
        self.what = what


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A CONNECT that is accepted. `durable`: its answer has to wait for a commit."""

    session: MqttSession
    session_present: bool
    durable: bool


class Broker:
    """See the module. Used on the event loop only."""

    def __init__(
        self,
        log: Appender,
        router: Router,
        authorizer: Authorizer,
        settings: MqttSettings,
        *,
        reading: Worker,
        open_reader: Callable[[], LogReader],
    ) -> None:
        """`reading` is the thread in which subscribers' slices of the log are read, by what `open_reader` gives."""
        self.counters = BrokerCounters()
        self.tree = SubscriptionTree()
        self.sessions: dict[str, MqttSession] = {}
        self.roster: Roster[MqttSession] = Roster()
        """The same sessions, in the order in which they began."""
        self.lines = LimitedLog(structlog.get_logger("headrace.mqtt"))
        self._log = log
        self._settings = settings
        self._authorizer = authorizer
        self._queue_limits = QueueLimits(
            max_messages=settings.max_queued_messages,
            max_size_bytes=_MAX_PLACE_BYTES * settings.max_queued_messages,
        )
        self._ticks = self._connected = 0
        self._queued_messages = self._queued_bytes = 0
        self._faults: list[StateRowError] = []
        self.retained = self._restored_retained(
            RetainedLimits(max_messages=settings.max_retained_messages, max_size_bytes=settings.max_retained_size_bytes)
        )
        self.wills = Wills(settings.max_will_bytes)
        self._expiring: list[tuple[int, str]] = []
        self._overflowing: set[MqttSession] = set()
        self._catch_up = CatchUp(reading, open_reader, self.lines)
        self.fan_out = FanOut(
            log,
            self.tree,
            self.sessions.get,
            self.counters,
            behind=lambda session: self.sender.soon(session),
            overflowed=self._overflowed,
            released=lambda session, packet_ids: self.sender.released(session, packet_ids),
        )
        self.sender = Sender(
            self.fan_out,
            self._catch_up,
            self.retained,
            self.counters,
            now_ms=log.now_ms,
            behind_the_log=self._behind_the_log,
            unreadable=self._unreadable,
        )
        self._retaining = Retaining(log, self.retained)
        self.publisher = Publisher(log, router, authorizer, self.fan_out, self._retaining)
        self._restore()

    # -- start and end

    def _restore(self) -> None:
        """Take over what the tables hold. Every session's connection is gone, and its expiry counts from now."""
        restored = restore_sessions(self._log.rows_now, self._queue_limits)
        now_ms = self._log.now_ms()
        self._faults += [*restored.faults, *self.wills.restore(self._log.rows_now(WILLS))]
        for fault in self._faults:
            self.lines.warning("state left out", what=fault.what, where=fault.where, mend=fault.mend)
        self.sessions.update(restored.sessions)
        for session in sorted(restored.sessions.values(), key=lambda session: session.created_ms):
            session.number = self.roster.add(session)
            if session.has_queue and session.queue.count:
                self.fan_out.waiting[session] = None
        for subscription in restored.subscriptions:
            self.tree.add(subscription)
        changes = list(restored.removals)
        for session in restored.sessions.values():
            if session.ended_ms is None:  # its connection ended with the process before this one
                session.ended_ms = now_ms
                changes.append(session_row(session))
            self._expire_later(session)
        for will in self.wills.all():
            if will.due_ms is None:
                changes.append(self.wills.keep(replace(will, due_ms=now_ms + will.delay_s * 1000)))
        self._change(changes)

    def _restored_retained(self, limits: RetainedLimits) -> RetainedMessages:
        messages: list[RetainedMessage] = []
        for topic, value in self._log.rows_now(RETAINED).items():
            try:
                messages.append(retained_from_row(topic, value))
            except StateRowError as error:
                self._faults.append(error)
        return RetainedMessages(messages, limits=limits)

    async def close(self) -> None:
        """Write what the queues have still to write, and read no more."""
        for session in self.sessions.values():
            if session.has_queue and session.queue.changed:
                self.fan_out.touch(session)
        await self._catch_up.close()
        self.lines.flush()

    def tick(self) -> None:
        """A second has passed: wills that are due, sessions and retained messages that have expired."""
        now_ms = self._log.now_ms()
        for will in self.wills.take_due(now_ms):
            self.publish_will(will)
        while self._expiring and self._expiring[0][0] <= now_ms:
            due_ms, client_id = heapq.heappop(self._expiring)
            session = self.sessions.get(client_id)
            if session is not None and session.connection is None and session.expires_ms() == due_ms:
                self.counters.sessions_expired += 1
                self.end_session(session)
        self._change([(RETAINED, topic, None) for topic in self._retaining.sweep(now_ms)])
        self._ticks += 1
        if self._ticks % _BOUND_EVERY == 0:
            self._bound_queues()

    def _bound_queues(self) -> None:
        """Count what waits; where its places take too much together, the session with the most has to go."""
        waiting = self.fan_out.waiting
        for session in [session for session in waiting if not session.queue.count]:
            del waiting[session]
        self._queued_messages = sum([session.queue.count for session in waiting])
        self._queued_bytes = sum([session.queue.size_bytes for session in waiting])
        while waiting and self._queued_bytes > self._settings.max_queued_bytes:
            longest = max(waiting, key=lambda session: session.queue.size_bytes)
            del waiting[longest]
            self._queued_messages -= longest.queue.count
            self._queued_bytes -= longest.queue.size_bytes
            self._overflowed(longest)

    # -- CONNECT and the end of a connection

    def connect(self, connect: Connect, client_id: str, peer: str, outlet: Outlet) -> Opened:
        """Open or resume the session of a client id. Raises RefusedError.

        A connection that the client id already has is ended first [MQTT-3.1.4-2] [MQTT5-3.1.4-3].
        """
        client = Client(client_id=client_id, username=connect.username, peer=peer)
        will = self._checked(connect, client)
        before = self.sessions.get(client_id)
        if before is None and len(self.sessions) >= self._settings.max_sessions:
            raise RefusedError(ReasonCode.QUOTA_EXCEEDED, f"{len(self.sessions)} sessions are kept: mqtt.max_sessions")
        if before is not None and before.connection is not None:
            before.connection.end(TAKEN_OVER, ReasonCode.SESSION_TAKEN_OVER)
            before = self.sessions.get(client_id)  # it may have ended with its connection
        expiry_s = self._expiry_s(connect)
        if before is not None and connect.clean_session:
            self.end_session(before)
            before = None
        session = before or self._new_session(connect, client_id)
        present = before is not None
        changes: list[Row] = []
        if present and session.level != connect.protocol_level:
            self.tree.generation += 1  # publications make its packets anew
        session.level, session.expiry_s, session.username = connect.protocol_level, expiry_s, connect.username
        session.ended_ms = None
        session.connection = outlet
        self._connected += 1
        if session.durable:
            changes.append(session_row(session))
        changes += self._replace_will(client_id, will)
        self._change(changes)
        return Opened(session=session, session_present=present, durable=bool(changes))

    def opened(self, session: MqttSession) -> None:
        """The CONNACK is on its way: what was not acknowledged is to be sent again [MQTT-4.4.0-1] [MQTT5-4.4.0-1]."""
        if session.has_queue and session.durable:
            self.sender.released(session, session.queue.reconnected(session.receive_maximum))
            session.keeps_up = False

    def closed(self, session: MqttSession, outlet: Outlet, *, with_will: bool) -> None:
        """A session's connection is gone. `with_will`: its will is to be published, after its delay."""
        if session.connection is not outlet:
            return
        session.connection = session.presence = None
        self._connected -= 1
        self.sender.left(session)
        now_ms = self._log.now_ms()
        session.ended_ms = now_ms
        changes: list[Row] = []
        will = self.wills.get(session.client_id)
        if will is not None:
            delay_s = min(will.delay_s, session.expiry_s)  # [MQTT5-3.1.3-9]
            if not with_will:
                changes += _rows(self.wills.discard(session.client_id))
            elif delay_s:
                changes.append(self.wills.keep(replace(will, due_ms=now_ms + delay_s * 1000)))
            else:
                self.publish_will(will)
        if session.expiry_s:
            changes.append(session_row(session))
            self._expire_later(session)
            if session.has_queue and session.queue.count:
                self.fan_out.waiting[session] = None  # what was in flight waits again
            if session.has_queue and session.queue.changed:
                self.fan_out.touch(session)
        else:
            self.end_session(session)
        self._change(changes)

    def disconnect(self, session: MqttSession, disconnect: Disconnect) -> None:
        """A DISCONNECT may change how long the session is kept [MQTT5-3.14.2-2]; checked by the caller."""
        expiry_s = disconnect.properties.session_expiry_interval_s
        if expiry_s is not None:
            session.expiry_s = self._bounded_expiry_s(expiry_s)

    def end_session(self, session: MqttSession) -> None:
        """Forget a session: its subscriptions, its queue, its rows; a will that waits is published [MQTT5-3.1.2-10]."""
        if self.sessions.get(session.client_id) is not session:
            return
        will = self.wills.get(session.client_id)
        if will is not None and session.connection is None:
            self.publish_will(will)
        del self.sessions[session.client_id]
        self.roster.remove(session.number)
        self.fan_out.waiting.pop(session, None)
        changes: list[Row] = []
        if session.durable:  # first: should only a part of them become durable, the next start removes the others
            changes.append((SESSIONS, session.client_id, None))
        for subscription in self.tree.remove_all(session.client_id):
            if session.durable:
                changes.append((SUBSCRIPTIONS, subscription_key(session.client_id, subscription.full_filter), None))
        if session.has_queue:
            self._share_out(session)
            changes += session.queue.clear()
        if session.durable:
            received = session.received_ids or ()
            changes += ((RECEIVED, received_key(session.client_id, number), None) for number in received)
        self._change(changes)

    # -- SUBSCRIBE and UNSUBSCRIBE

    def subscribe(self, session: MqttSession, client: Client, subscribe: Subscribe) -> list[ReasonCode]:
        """One reason per filter [MQTT-3.8.4-5] [MQTT5-3.8.4-6]."""
        changes: list[Row] = []
        reasons = [self._subscribe(session, client, subscribe, wanted, changes) for wanted in subscribe.subscriptions]
        self._change(changes)
        return reasons

    def _subscribe(
        self,
        session: MqttSession,
        client: Client,
        subscribe: Subscribe,
        wanted: TopicSubscription,
        changes: list[Row],
    ) -> ReasonCode:
        share, topic_filter = split_share(wanted.filter) if session.level == LEVEL_5 else (None, wanted.filter)
        if topic_filter.count("/") >= MAX_TOPIC_LEVELS:
            return ReasonCode.TOPIC_FILTER_INVALID
        if not self._authorizer.may_subscribe(client, topic_filter):
            return ReasonCode.UNSPECIFIED_ERROR  # 0x80, which clients of both versions know; some 5.0 ones no other
        if not self.tree.has(session.client_id, topic_filter, share) and (
            self.tree.count_of(session.client_id) >= self._settings.max_subscriptions_per_client
            or len(self.tree) >= self._settings.max_subscriptions
        ):
            return ReasonCode.QUOTA_EXCEEDED
        subscription = Subscription(
            client_id=session.client_id,
            filter=topic_filter,
            qos=wanted.qos,
            no_local=wanted.no_local,
            retain_as_published=wanted.retain_as_published,
            retain_handling=int(wanted.retain_handling),
            identifier=subscribe.properties.subscription_identifier,
            share=share,
        )
        replaced = self.tree.add(subscription)
        if session.durable:
            changes.append(subscription_row(subscription))
        if share is None and (
            wanted.retain_handling is RetainHandling.SEND
            or (wanted.retain_handling is RetainHandling.SEND_IF_NEW and replaced is None)
        ):
            self._retaining.when_settled(lambda: self.sender.send_retained(session, subscription))
        return _GRANTED[wanted.qos]

    def unsubscribe(self, session: MqttSession, unsubscribe: Unsubscribe) -> list[ReasonCode]:
        """One reason per filter [MQTT5-3.11.3-1]."""
        changes: list[Row] = []
        reasons: list[ReasonCode] = []
        for full_filter in unsubscribe.filters:
            share, topic_filter = split_share(full_filter) if session.level == LEVEL_5 else (None, full_filter)
            removed = self.tree.remove(session.client_id, topic_filter, share)
            reasons.append(ReasonCode.SUCCESS if removed else ReasonCode.NO_SUBSCRIPTION_EXISTED)
            if removed and session.durable:
                changes.append((SUBSCRIPTIONS, subscription_key(session.client_id, full_filter), None))
        self._change(changes)
        return reasons

    # -- QoS 2 from clients

    def received_target(self, session: MqttSession, stored: Callable[[], int], append: Append) -> Append:
        """`append` for QoS 2 publishes of a durable session, and the row that says so, in one commit with the record.

        `stored` gives the packet identifier of the publish that is being appended.
        """
        client_id = session.client_id
        row_size = len(client_id) * 4 + _RECEIVED_ROW_BYTES

        def put(timestamp_ms: int, key: bytes | None, value: bytes | None, headers: list[Header], /) -> int:
            self._log.reserve(row_size)
            offset = append(timestamp_ms, key, value, headers)
            self._log.change_reserved((RECEIVED, received_key(client_id, stored()), 1))
            return offset

        return put

    def note_released(self, session: MqttSession, released: Iterable[int]) -> None:
        """QoS 2 publishes are released: their identifiers are free once that is committed."""
        if session.durable:
            self._change([(RECEIVED, received_key(session.client_id, number), None) for number in released])

    # -- wills

    def publish_will(self, will: KeptWill) -> None:
        """Publish a will in the name of its client, and forget it."""
        client = Client(client_id=will.client_id, username=will.username, peer="")
        flags = (FLAG_RETAIN if will.retain else 0) | will.qos << 1
        if self._log.congested:  # it is kept until then, and so is its row
            self._log.when_clear(lambda: self._publish_waiting(will))
            return
        changes = _rows(self.wills.discard(will.client_id))
        if self._log.full:
            self._drop_will(will, "the disk is full")
        else:
            try:
                routed = self.publisher.route(client, will.topic)
                to = self.publisher.destination(client, routed, will.topic, flags, will.properties)
                to.append(self._log.now_ms(), to.key, will.payload, to.headers)
            except PublishRefusedError as error:  # permitted at CONNECT, and not any more
                self._drop_will(will, error.what)
            else:
                self._log.appended(1, will.size_bytes + to.surplus_bytes + RECORD_OVERHEAD_BYTES)
                self.counters.wills += 1
        self._change(changes)

    def _drop_will(self, will: KeptWill, what: str) -> None:
        self.counters.wills_dropped += 1
        self.lines.warning("will dropped", what=what, where=f"will of {will.client_id!r}")

    def _publish_waiting(self, will: KeptWill) -> None:
        """The log has room again for a will that is due, if the client has no other one meanwhile."""
        if self.wills.get(will.client_id) is will:
            self.publish_will(will)

    # -- what is seen from outside

    def figures(self) -> BrokerFigures:
        """How much there is of everything, now."""
        return BrokerFigures(
            connected=self._connected,
            away=len(self.sessions) - self._connected,
            subscriptions=len(self.tree),
            retained_messages=len(self.retained),
            retained_bytes=self.retained.size_bytes,
            retained_refused=self._retaining.refused,
            queued_messages=self._queued_messages,
            queued_bytes=self._queued_bytes,
            wills=len(self.wills),
            will_bytes=self.wills.size_bytes,
            catch_up_slices=self._catch_up.slices,
            state_left_out=len(self._faults),
        )

    # -- within

    def _checked(self, connect: Connect, client: Client) -> KeptWill | None:
        """The will of a CONNECT that may be accepted. Raises RefusedError."""
        if connect.properties.authentication_method is not None:
            raise RefusedError(ReasonCode.BAD_AUTHENTICATION_METHOD, "enhanced authentication is not offered")
        if not self._authorizer.may_connect(client, connect.password):
            raise RefusedError(ReasonCode.NOT_AUTHORIZED, "not authorized")
        if connect.will is None:
            return None
        will = kept(connect.will, client.client_id, connect.username)
        try:
            self.publisher.route(client, will.topic)
        except PublishRefusedError as error:
            raise RefusedError(error.reason_code, f"its will: {error.what}") from error
        if not self.wills.has_room(will):
            raise RefusedError(ReasonCode.QUOTA_EXCEEDED, f"all wills together take {self.wills.size_bytes} bytes")
        return will

    def _new_session(self, connect: Connect, client_id: str) -> MqttSession:
        session = MqttSession(
            client_id,
            level=connect.protocol_level,
            expiry_s=self._expiry_s(connect),
            created_ms=self._log.now_ms(),
            username=connect.username,
            limits=self._queue_limits,
        )
        self.sessions[client_id] = session
        session.number = self.roster.add(session)
        return session

    def _expiry_s(self, connect: Connect) -> int:
        """How long the session is kept after its connection; in 3.1.1 as long as any is [MQTT-3.1.2-5]."""
        if connect.protocol_level == LEVEL_5:
            return self._bounded_expiry_s(connect.properties.session_expiry_interval_s or 0)
        return 0 if connect.clean_session else self._bounded_expiry_s(NEVER_EXPIRES_S)

    def _bounded_expiry_s(self, expiry_s: int) -> int:
        return min(expiry_s, round(self._settings.max_session_expiry_s))

    def _replace_will(self, client_id: str, will: KeptWill | None) -> list[Row]:
        before = _rows(self.wills.discard(client_id))  # one that waited: the client is back in time [MQTT5-3.1.3-9]
        return before if will is None else [self.wills.keep(will)]

    def _expire_later(self, session: MqttSession) -> None:
        due_ms = session.expires_ms()
        if due_ms is None:
            return
        heapq.heappush(self._expiring, (due_ms, session.client_id))
        if len(self._expiring) > 2 * len(self.sessions) + _SPARE_EXPIRIES:  # those of clients that came back
            self._expiring = [
                (due_ms, one.client_id) for one in self.sessions.values() if (due_ms := one.expires_ms()) is not None
            ]
            heapq.heapify(self._expiring)

    def _share_out(self, session: MqttSession) -> None:
        """Messages of shared subscriptions that a session did not get go to other members [MQTT5-4.8.2-5]."""
        places: list[tuple[Kind, int]] = []
        try:
            places.extend(session.queue.unfinished_shared())
        except StateRowError as error:  # what stands before the damaged row still goes on
            self.lines.warning("shared messages lost", what=error.what, where=error.where)
        self.sender.hand_over(places)

    def _overflowed(self, session: MqttSession) -> None:
        """A session has more to get than it may: it ends, and its client is told so, now or when it comes back."""
        if session in self._overflowing:
            return
        self._overflowing.add(session)
        self.counters.sessions_overflowed += 1
        self.lines.warning(
            "session ended",
            what=f"{session.queue.count} messages wait for it, which is what a session may have waiting",
            where=f"client {session.client_id!r}",
            mend="read faster, subscribe to less, or raise mqtt.max_queued_messages",
        )
        self.sender.later(lambda: self._end_overflowed(session))

    def _end_overflowed(self, session: MqttSession) -> None:
        self._overflowing.discard(session)
        self._end_with_connection(session, OVERFLOWED, ReasonCode.QUOTA_EXCEEDED)

    def _behind_the_log(self, session: MqttSession, lost: int) -> None:
        """Messages that a session had still to get have expired from the log: it ends honestly."""
        self.counters.lost += lost
        self.counters.sessions_behind += 1
        self.lines.warning(
            "session ended",
            what=f"{lost} messages waited for it, the oldest of which the log no longer has",
            where=f"client {session.client_id!r}",
            mend="come back sooner, or keep the log longer: retention.max_age",
        )
        self._end_with_connection(session, BEHIND_THE_LOG, ReasonCode.ADMINISTRATIVE_ACTION)

    def _unreadable(self, session: MqttSession, error: StateRowError) -> None:
        """A row of a session's queue is damaged: it ends honestly, and nobody else notices."""
        self.lines.warning("session ended", what=error.what, where=error.where, mend=error.mend)
        self._end_with_connection(session, UNREADABLE, ReasonCode.UNSPECIFIED_ERROR)

    def _end_with_connection(self, session: MqttSession, reason: str, reason_code: ReasonCode) -> None:
        connection = session.connection
        if connection is not None:
            connection.end(reason, reason_code)
        self.end_session(session)

    def _change(self, changes: Sequence[Row]) -> None:
        """Put rows into the open commit. More than a commit takes go in pieces, in their order."""
        piece: list[Row] = []
        size_bytes = 0
        for row in changes:
            row_size_bytes = row_bytes(row)
            if piece and size_bytes + row_size_bytes > _PIECE_BYTES:
                self._change_at_once(piece, size_bytes)
                piece, size_bytes = [], 0
            piece.append(row)
            size_bytes += row_size_bytes
        if piece:
            self._change_at_once(piece, size_bytes)

    def _change_at_once(self, changes: Sequence[Row], size_bytes: int) -> None:
        with self._log.whole(0, 0, size_bytes):
            for row in changes:
                self._log.change_reserved(row)
        self._log.appended(1, size_bytes)


def _rows(row: Row | None) -> list[Row]:
    return [] if row is None else [row]


def assigned_client_id() -> str:
    """A client id for a client that has none [MQTT-3.1.3-6] [MQTT5-3.1.3-6]."""
    return f"auto-{secrets.token_hex(8)}"
