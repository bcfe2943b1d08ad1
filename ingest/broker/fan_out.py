"""What was committed goes to those who subscribed to it.

While a chunk is read, publications that somebody subscribed to `stage` what they append. Before the open commit is
taken, the queues of sessions that outlive their connection write the places of their new messages as changes of state
tables into that same commit (`prepare`); what is staged becomes one of its waiters. When it is durable, it is delivered
from memory to everybody who keeps up, one write per connection, after the publishers' acknowledgements.

Who cannot take a message now (it reads slowly, its receive maximum is reached, it is away) has only its place in the
log, in its queue, and is served by `ingest.broker.catch_up` later. QoS 0 is not kept for anybody: it is dropped and
counted [MQTT-4.3.1].
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final
from weakref import WeakValueDictionary

from commitlog.base import Appender
from core.errors import BadRequestError
from ingest.broker.chunk import Kind
from ingest.broker.counters import BrokerCounters
from ingest.broker.publication import Publication, Published, Staged, Turn, turn_of
from ingest.broker.queue import DeliveryQueue, QueueFullError
from ingest.broker.recent import Recent
from ingest.broker.session import MqttSession, Outlet
from ingest.broker.subscriptions import Subscription, SubscriptionTree
from wire.mqtt.errors import PublishRefusedError
from wire.mqtt.events import Append
from wire.mqtt.frame import Frame
from wire.mqtt.reasons import ReasonCode

ROW_BYTES: Final = 3_000  # at most what a queue's last chunk takes in a commit, with what begins the next one
PLACE_BYTES: Final = 100  # at most what another place takes, or a row's removal
TOUCHED_BYTES: Final = 32 << 10  # of rows in one commit that nobody counted: what clients have acknowledged


class FanOut:
    """See the module. Used on the event loop only."""

    def __init__(
        self,
        log: Appender,
        tree: SubscriptionTree,
        session_of: Callable[[str], MqttSession | None],
        counters: BrokerCounters,
        *,
        behind: Callable[[MqttSession], None],
        overflowed: Callable[[MqttSession], None],
        released: Callable[[MqttSession, Sequence[int]], None],
    ) -> None:
        """`behind` is told of a connected session that has something to catch up with; `overflowed` of one whose queue
        has no room for what it should get; `released` of QoS 2 messages whose PUBREC is durable."""
        self.recent: Recent[Publication] = Recent()
        self.waiting: dict[MqttSession, None] = {}
        """Sessions that something waits for."""
        self._log = log
        self._tree = tree
        self._session_of = session_of
        self._counters = counters
        self._behind = behind
        self._overflowed = overflowed
        self._released = released
        self._staged: list[Staged] = []
        self._turns: WeakValueDictionary[tuple[str, str], Turn] = WeakValueDictionary()
        self._enqueued: dict[MqttSession, None] = {}
        self._touched: OrderedDict[MqttSession, None] = OrderedDict()  # who has waited longest is first
        self._under_way: dict[MqttSession, int] = {}
        log.before_commit(self._prepare)

    def target(self, published: Published, append: Append) -> Append:
        """Where such publishes go: straight to `append` if nobody subscribed to them."""
        matched = self._tree.match(published.topic)
        if not matched.direct and not matched.shared:
            return append
        publication = Publication(published, append, self)
        for match in matched.direct:
            session = self._session_of(match.client_id)
            if session is not None:
                publication.deliver_to(session, match)
        for group in matched.shared:
            members = list(self._members(group.members))
            if members:
                publication.share(members, self._turn(group.share, group.filter))
        return publication.put if publication.wanted else append

    def _members(self, subscriptions: tuple[Subscription, ...]) -> Iterator[tuple[MqttSession, Subscription]]:
        for subscription in subscriptions:
            session = self._session_of(subscription.client_id)
            if session is not None:
                yield session, subscription

    def touch(self, session: MqttSession) -> None:
        """The queue of this session changed by what its client said: its rows go into one of the next commits."""
        if session not in self._touched:
            self._touched[session] = None
            self._log.appended(1, ROW_BYTES)

    def reserve(self, sessions: Sequence[MqttSession], topic: str = "") -> None:
        """Count what the queues of these durable sessions will write for one more message in each of them.

        To be called before the message is appended: it and its places are then in one commit. Raises
        PublishRefusedError where no commit holds them all.
        """
        size_bytes, counted = self._rows_bytes(sessions), self._enqueued
        try:
            self._log.reserve(size_bytes)
            if self._enqueued is not counted:  # that has made a cut: their rows went with it, and begin anew
                self._log.reserve(self._rows_bytes(sessions) - size_bytes)
        except BadRequestError as error:
            raise PublishRefusedError(
                topic,
                f"{len(sessions)} sessions that outlive their connections subscribed to this, more than a commit holds",
                mend="raise log.journal_size, or subscribe with fewer such sessions",
                reason_code=ReasonCode.QUOTA_EXCEEDED,
            ) from error

    def _rows_bytes(self, sessions: Sequence[MqttSession]) -> int:
        size_bytes = 0
        for session in sessions:
            size_bytes += PLACE_BYTES
            if session not in self._enqueued:
                size_bytes += ROW_BYTES + 4 * len(session.client_id)
        return size_bytes

    def enqueue(self, session: MqttSession, kind: Kind, offset: int) -> int:
        """Put a place into a session's queue, for which there is room (`reserve`).

        Returns its sequence number, -1 where the queue is full.
        """
        try:
            number = session.queue.append(kind, offset)
        except QueueFullError:
            self._counters.lost += 1
            self._overflowed(session)
            return -1
        if session.durable:
            self._enqueued[session] = None
        if session.connection is None or not session.keeps_up:
            self.waiting[session] = None
        return number

    def enqueue_alone(self, session: MqttSession, put: Callable[[], object]) -> None:
        """Put places of messages that are in the log already into a queue."""
        if session.durable:
            self.reserve((session,))
        try:
            put()
        except QueueFullError:
            self._overflowed(session)
            return
        self.waiting[session] = None
        if session.durable:
            self._enqueued[session] = None
            self._log.appended(1, ROW_BYTES)

    def enqueue_retained(self, session: MqttSession, kind: Kind, topic: str) -> None:
        """Put what is retained under an MQTT topic into a session's queue."""
        self.enqueue_alone(session, lambda: session.queue.append_retained(kind, topic))

    def hand_over(self, kind: Kind, offset: int) -> None:
        """Put a message that a member of a shared subscription did not get into the queue of whose turn it is.

        It comes as that one's subscription says [MQTT5-4.8.2-3]. One with QoS 0 has no queue to put it into.
        """
        chosen = self._next_of(kind.group or "")
        if chosen is None:
            self._counters.lost += 1
            return
        session, subscription = chosen
        identifiers = () if subscription.identifier is None else (subscription.identifier,)
        kind = kind._replace(qos=min(kind.qos, subscription.qos), identifiers=identifiers)
        self.enqueue_alone(session, lambda: session.queue.append(kind, offset))
        session.keeps_up = False
        self._behind(session)

    def stage(self, staged: Staged) -> None:
        """Deliver this once the open commit is durable."""
        self._staged.append(staged)

    def _next_of(self, group: str) -> tuple[MqttSession, Subscription] | None:
        """Whose turn it is in a shared subscription, `<share name>/<filter>`; only who can queue a message."""
        share, _, topic_filter = group.partition("/")
        members = [one for one in self._members(tuple(self._tree.members(share, topic_filter))) if one[1].qos]
        if not members:
            return None
        return members[turn_of([session for session, _ in members], self._turn(share, topic_filter))]

    def _turn(self, share: str, topic_filter: str) -> Turn:
        turn = self._turns.get((share, topic_filter))
        if turn is None:
            turn = self._turns[share, topic_filter] = Turn()
        return turn

    # -- commits

    def _prepare(self) -> None:
        """What is open is being closed: it and the places of its messages are one commit."""
        taken, self._enqueued = self._enqueued, {}
        for session in taken:
            self._take_rows(session)
        left_bytes = TOUCHED_BYTES
        while self._touched and left_bytes > 0:
            session, _ = self._touched.popitem(last=False)
            if session not in taken:
                left_bytes -= self._take_rows(session)
                taken[session] = None
        staged, self._staged = self._staged, []
        if taken or staged:
            self._log.join(self, (taken, staged))

    def _take_rows(self, session: MqttSession) -> int:
        rows = session.queue.take_changes()
        self._under_way[session] = self._under_way.get(session, 0) + 1
        for row in rows:
            self._log.change_reserved(row)
        return ROW_BYTES + PLACE_BYTES * len(rows)

    def _rows_durable(self, session: MqttSession) -> None:
        """A commit with rows of this session is durable; a queue hears of the last one that is under way."""
        left = self._under_way.pop(session) - 1
        if left:
            self._under_way[session] = left
            return
        released = session.queue.committed()
        if released:
            self._released(session, released)

    def committed(self, token: Any) -> None:
        """See `Waiter.committed`: the messages of a commit."""
        taken: dict[MqttSession, None]
        staged: list[Staged]
        taken, staged = token
        if self._touched:  # there were more than one commit takes; while it is being taken nothing may ask for the next
            self._log.appended(1, ROW_BYTES)
        for session in taken:
            self._rows_durable(session)
        for message in staged:
            self._deliver(message)
        for session in taken:
            # What was queued without being published now: retained messages, those of another shared member.
            if session.connection is not None and not session.queue.caught_up:
                self._behind(session)

    def _deliver(self, message: Staged) -> None:
        publication, offset, payload, timestamp_ms, numbers, picks = message
        for session, frame in publication.once:
            self._send_once(session, frame, payload, publication)
        for session, frame, kind in publication.live:
            self._send_live(session, frame, kind, publication, offset, payload, timestamp_ms)
        if numbers is not None:
            for (session, frame, _), number in zip(publication.durable, numbers, strict=True):
                self._send_durable(session, frame, number, publication, offset, payload, timestamp_ms)
        if picks is not None:
            for session, frame, picked, number_or_none in picks:
                if picked is None:
                    self._send_once(session, frame, payload, publication)
                elif number_or_none is None and session.connection is None:
                    self.hand_over(picked, offset)  # it has ended since it was chosen, and nothing was sent
                elif number_or_none is None:
                    self._send_live(session, frame, picked, publication, offset, payload, timestamp_ms)
                else:
                    self._send_durable(session, frame, number_or_none, publication, offset, payload, timestamp_ms)

    def failed(self, token: Any) -> None:
        """See `Waiter.failed`: nothing that was not committed is delivered, and the process ends."""

    def _send_once(self, session: MqttSession, frame: Frame, payload: bytes, publication: Publication) -> None:
        connection = session.connection
        if connection is None or not connection.can_take:
            self._counters.dropped_qos_0 += 1
            return
        if frame.level != session.level:  # its client came back meanwhile, with another version
            frame = publication.frame_for(session, frame)
        packet = frame.packet(payload)
        if len(packet) > connection.max_packet_bytes:
            self._counters.dropped_too_large += 1  # [MQTT5-3.1.2-25]
            return
        connection.send(packet)
        self._counters.delivered += 1

    def _send_live(
        self,
        session: MqttSession,
        frame: Frame,
        kind: Kind,
        publication: Publication,
        offset: int,
        payload: bytes,
        timestamp_ms: int,
    ) -> None:
        """To a session that ends with its connection: its queue holds only what it could not take."""
        connection = session.connection
        if connection is None:
            return
        queue = session.queue
        ready = session.keeps_up and connection.can_take
        if ready and kind.group is None:
            packet_id = queue.send_now(kind.qos)
            if packet_id is not None:
                self._sent(connection, queue, frame, packet_id, payload)
                return
        try:
            number = queue.append(kind, offset)
        except QueueFullError:
            self._overflowed(session)
            return
        if ready and kind.group is not None:  # its place is kept: another member gets it if this one ends without it
            packet_id = queue.send(number, kind.qos)
            if packet_id is not None:
                self._sent(connection, queue, frame, packet_id, payload)
                return
        self.waiting[session] = None
        self._miss(session, publication, offset, payload, timestamp_ms)

    def _send_durable(
        self,
        session: MqttSession,
        frame: Frame,
        number: int,
        publication: Publication,
        offset: int,
        payload: bytes,
        timestamp_ms: int,
    ) -> None:
        """To a session that outlives its connection: the message has its place in the queue already."""
        connection = session.connection
        if connection is None:
            return
        queue = session.queue
        if session.keeps_up and connection.can_take:
            packet_id = queue.send(number, frame.qos)
            if packet_id is not None:
                self._sent(connection, queue, frame, packet_id, payload)
                return
        self._miss(session, publication, offset, payload, timestamp_ms)

    def _sent(self, connection: Outlet, queue: DeliveryQueue, frame: Frame, packet_id: int, payload: bytes) -> None:
        packet = frame.packet_with_id(packet_id, payload)
        if len(packet) > connection.max_packet_bytes:
            self._counters.dropped_too_large += 1  # [MQTT5-3.1.2-25]: as if it had been sent and acknowledged
            if frame.qos == 1:
                queue.acknowledged(packet_id)
            else:
                queue.received(packet_id, refused=True)
            return
        connection.send(packet)
        self._counters.delivered += 1

    def _miss(
        self, session: MqttSession, publication: Publication, offset: int, payload: bytes, timestamp_ms: int
    ) -> None:
        published = publication.published
        self.recent.add((published.log_topic, published.partition, offset), publication, payload, timestamp_ms)
        session.keeps_up = False
        self._behind(session)
