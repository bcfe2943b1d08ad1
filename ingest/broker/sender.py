"""One session's queue goes to its client: what waits, what is sent again, and what the client's answers complete.

`pump` sends as long as the client takes it, its receive maximum allows it and the loop can spare the time. It is called
when a connection is opened, when messages were missed at their commit, when answers have made room, when the socket has
room again, and when a slice of the log has arrived.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from commitlog.base import Record
from ingest.broker.catch_up import PAUSE_S, Budget, CatchUp, GoneError
from ingest.broker.chunk import Kind
from ingest.broker.counters import BrokerCounters
from ingest.broker.fan_out import FanOut
from ingest.broker.properties import properties_of
from ingest.broker.queue import DeliveryQueue, Item, Received
from ingest.broker.retained import RetainedMessage, RetainedMessages, Walk
from ingest.broker.rows import StateRowError
from ingest.broker.session import MqttSession, Outlet
from ingest.broker.subscriptions import Subscription
from ingest.headers import MQTT_TOPIC
from wire.mqtt.clauses import LEVEL_5
from wire.mqtt.encode import encode_packet
from wire.mqtt.frame import sent_with
from wire.mqtt.packets import Publish, PubRel
from wire.mqtt.properties import PublishProperties
from wire.mqtt.reasons import PacketType, ReasonCode

BEHIND_THE_LOG: Final = "position behind the log start"

RETAINED_AHEAD: Final = 1_000  # messages in a queue at which further retained ones are left where they are


class Sender:
    """See the module. Used on the event loop only."""

    def __init__(
        self,
        fan_out: FanOut,
        catch_up: CatchUp,
        retained: RetainedMessages,
        counters: BrokerCounters,
        *,
        now_ms: Callable[[], int],
        behind_the_log: Callable[[MqttSession, int], None],
        unreadable: Callable[[MqttSession, StateRowError], None],
    ) -> None:
        """`behind_the_log(session, lost)` is told of a session some of whose messages have expired from the log,
        `unreadable` of one whose queue cannot be read."""
        self._fan_out = fan_out
        self._catch_up = catch_up
        self._retained = retained
        self._counters = counters
        self._now_ms = now_ms
        self._behind_the_log = behind_the_log
        self._unreadable = unreadable
        self._loop = asyncio.get_running_loop()
        self._pumping: dict[MqttSession, None] = {}
        self._retained_for: dict[MqttSession, dict[str, tuple[Walk, Subscription]]] = {}  # by filter

    # -- what a client is sent

    def soon(self, session: MqttSession) -> None:
        """Pump when what is happening now is over."""
        if session not in self._pumping:
            self._pumping[session] = None
            self._loop.call_soon(self._pump_soon, session)

    def _after_a_pause(self, session: MqttSession) -> None:
        """Pump on when others have had their turn."""
        if session not in self._pumping:
            self._pumping[session] = None
            self._loop.call_later(PAUSE_S, self._pump_soon, session)

    def _pump_soon(self, session: MqttSession) -> None:
        self._pumping.pop(session, None)
        self.pump(session)

    def pump(self, session: MqttSession) -> None:
        """Send what the client can take now."""
        connection = session.connection
        if connection is None:
            return
        budget = Budget()
        if session in self._retained_for:
            self._pump_retained(session, connection, budget)
        if not session.has_queue:
            return
        try:
            self._pump_queue(session, connection, session.queue, budget)
        except StateRowError as error:
            self._unreadable(session, error)

    def _pump_queue(self, session: MqttSession, connection: Outlet, queue: DeliveryQueue, budget: Budget) -> None:
        session.keeps_up = False  # until there is nothing left to be sent
        while connection.can_take:
            item = queue.next_unsent()
            if item is None:
                if queue.window_open or queue.caught_up:  # what is committed next goes out from memory
                    session.keeps_up = True
                    self._catch_up.leave(session)
                break
            if not self._send(session, connection, queue, item):
                break
            if budget.spent:
                self._after_a_pause(session)
                break
        if queue.changed:
            self._fan_out.touch(session)

    def later(self, call: Callable[[], None]) -> None:
        """Do something when what is happening now is over."""
        self._loop.call_soon(call)

    def left(self, session: MqttSession) -> None:
        """The session's connection is gone. What is retained and was still to be offered waits for the next one."""
        if not session.durable:
            self._retained_for.pop(session, None)
        self._catch_up.leave(session)

    def ended(self, session: MqttSession) -> None:
        """The session itself is gone."""
        self._retained_for.pop(session, None)
        self._catch_up.leave(session)

    def hand_over(self, places: Sequence[tuple[Kind, int]]) -> None:
        """Queue messages of shared subscriptions, whose session has ended, for whoever has the next turn."""
        for kind, offset in places:
            self._fan_out.hand_over(kind, offset)

    def released(self, session: MqttSession, packet_ids: Sequence[int]) -> None:
        """It is durable that these were received: PUBREL [MQTT-4.3.3-1]."""
        connection = session.connection
        if connection is None:
            return
        for packet_id in packet_ids:
            connection.send(encode_packet(PubRel(packet_id=packet_id), session.level))

    def _send(self, session: MqttSession, connection: Outlet, queue: DeliveryQueue, item: Item) -> bool:
        """Send one item, or be done with it otherwise; False if that has to wait."""
        kind = item.kind
        if item.mqtt_topic is not None:
            packet = self._retained_packet(session, item.mqtt_topic, kind, item.packet_id, again=item.again)
        else:
            known = self._fan_out.recent.get((kind.log_topic, kind.partition, item.offset))
            if known is not None:
                publication, payload, received_ms = known
                frame = publication.frame(session.level, kind.qos, kind.retain, kind.identifiers)
                if publication.published.properties.message_expiry_interval_s is not None:
                    packet = self._packet(
                        session,
                        kind,
                        item.packet_id,
                        item.again,
                        publication.published.topic,
                        payload,
                        publication.published.properties,
                        received_ms,
                    )
                elif item.again:
                    packet = frame.packet_again(item.packet_id, payload)
                else:
                    packet = frame.packet_with_id(item.packet_id, payload)
            else:
                try:
                    record = self._catch_up.record(session, kind.log_topic, kind.partition, item.offset, self.pump)
                except GoneError as gone:
                    return self._gone(session, queue, item, gone)
                if record is None:
                    return False
                packet = self._record_packet(session, item, record)
        if packet is None:
            queue.skip(item.seq)
        elif len(packet) > connection.max_packet_bytes:
            self._counters.dropped_too_large += 1  # [MQTT5-3.1.2-25]
            queue.skip(item.seq)
        else:
            queue.send(item.seq, kind.qos)
            connection.send(packet)
            self._counters.delivered += 1
            if item.again:
                self._counters.delivered_again += 1
        return True

    def _gone(self, session: MqttSession, queue: DeliveryQueue, item: Item, gone: GoneError) -> bool:
        """Its record cannot be read: one that is damaged is passed by, one that has expired ends the session."""
        if gone.expired:
            self._behind_the_log(session, queue.count)
            return False
        self._counters.lost += 1
        queue.skip(item.seq)
        return True

    def _record_packet(self, session: MqttSession, item: Item, record: Record) -> bytes | None:
        headers = record.headers
        topic = next((value for name, value in headers if name == MQTT_TOPIC), None)
        if topic is None:
            return None  # not from MQTT: nobody subscribed to it
        return self._packet(
            session,
            item.kind,
            item.packet_id,
            item.again,
            topic.decode(),
            record.value or b"",
            properties_of(headers),
            record.timestamp,
        )

    def _packet(
        self,
        session: MqttSession,
        kind: Kind,
        packet_id: int | None,
        again: bool,
        topic: str,
        payload: bytes,
        properties: PublishProperties,
        received_ms: int,
    ) -> bytes | None:
        """The PUBLISH; None if the message has expired [MQTT5-3.3.2-5]."""
        left_s = self._left_s(properties, received_ms)
        if left_s is not None and left_s <= 0:
            if not again or kind.qos != 2:
                self._counters.expired += 1
                return None
            left_s = 0  # the client may have it already, and the exchange goes on [MQTT5-4.3.3-7]
        return encode_packet(
            Publish(
                topic=topic,
                payload=payload,
                qos=kind.qos,
                retain=kind.retain,
                dup=again,
                packet_id=packet_id,
                properties=sent_with(properties, session.level, kind.identifiers, left_s),
            ),
            session.level,
        )

    def _left_s(self, properties: PublishProperties, received_ms: int) -> int | None:
        """How much of its expiry interval a message has left [MQTT5-3.3.2-6]; None if it does not expire."""
        expiry_s = properties.message_expiry_interval_s
        if expiry_s is None:
            return None
        return expiry_s - max(0, self._now_ms() - received_ms) // 1000

    # -- retained messages

    def send_retained(self, session: MqttSession, subscription: Subscription) -> None:
        """Send what is retained for a new subscription, as fast as the client and the loop allow [MQTT-3.3.1-6].

        One that is made again while that is going on begins anew: there is one walk for each filter at most.
        """
        if session.connection is None:
            return
        waiting = self._retained_for.setdefault(session, {})
        waiting.pop(subscription.filter, None)
        waiting[subscription.filter] = self._retained.walk(subscription.filter), subscription
        self.soon(session)

    def forget_retained(self, session: MqttSession, topic_filter: str) -> None:
        """The subscription is gone: what is still to be sent of it is not."""
        waiting = self._retained_for.get(session)
        if waiting is not None and waiting.pop(topic_filter, None) is not None and not waiting:
            del self._retained_for[session]

    def _pump_retained(self, session: MqttSession, connection: Outlet, budget: Budget) -> None:
        waiting = self._retained_for.get(session)
        while waiting and connection.can_take:
            if session.has_queue and session.queue.count >= RETAINED_AHEAD:
                break  # its answers bring the rest: no queue has to hold all that is retained
            topic_filter, (walk, subscription) = next(iter(waiting.items()))
            for topic in walk.take(1):  # a step that finds nothing takes its time as well
                message = self._retained.get(topic, self._now_ms())
                if message is not None:
                    self._offer_retained(session, connection, message, subscription)
            if walk.done:
                waiting.pop(topic_filter, None)
            if budget.spent:
                self.soon(session)
                break
        if not waiting:
            self._retained_for.pop(session, None)

    def _offer_retained(
        self, session: MqttSession, connection: Outlet, message: RetainedMessage, subscription: Subscription
    ) -> None:
        """QoS 0 goes out at once; anything else takes its place in the queue."""
        identifiers = () if subscription.identifier is None else (subscription.identifier,)
        qos = min(message.qos, subscription.qos)
        kind = Kind(log_topic="", partition=0, qos=qos, retain=True, identifiers=identifiers)
        if qos:
            self._fan_out.enqueue_retained(session, kind, message.topic)
            session.keeps_up = False
            return
        packet = self._retained_packet(session, message.topic, kind, None, again=False)
        if packet is not None and len(packet) <= connection.max_packet_bytes:
            connection.send(packet)
            self._counters.delivered += 1

    def _retained_packet(
        self, session: MqttSession, topic: str, kind: Kind, packet_id: int | None, *, again: bool
    ) -> bytes | None:
        message = self._retained.get(topic, self._now_ms())
        if message is None:
            return None  # removed, or expired, since the client subscribed
        properties = properties_of(message.headers)
        return self._packet(
            session, kind, packet_id, again, message.topic, message.payload, properties, message.timestamp_ms
        )

    # -- what a client answers

    def acknowledged(self, session: MqttSession, packet_ids: Sequence[int]) -> None:
        """PUBACKs."""
        if not session.has_queue:
            return
        queue = session.queue
        for packet_id in packet_ids:
            queue.acknowledged(packet_id)  # one that is unknown was for an earlier life of the session
        self._answered(session, queue)

    def received(self, session: MqttSession, packet_id: int, reason_code: ReasonCode) -> None:
        """PUBREC."""
        answer = (
            session.queue.received(packet_id, refused=reason_code.failed) if session.has_queue else Received.UNKNOWN
        )
        connection = session.connection
        if connection is not None and answer in (Received.RELEASE, Received.UNKNOWN):
            reason = ReasonCode.SUCCESS
            if answer is Received.UNKNOWN and session.level == LEVEL_5:
                reason = ReasonCode.PACKET_IDENTIFIER_NOT_FOUND
                self._counters.reasons[PacketType.PUBREL, int(reason)] += 1
            connection.send(encode_packet(PubRel(packet_id=packet_id, reason_code=reason), session.level))
        if session.has_queue:
            self._answered(session, session.queue)

    def completed(self, session: MqttSession, packet_id: int) -> None:
        """PUBCOMP."""
        if session.has_queue:
            session.queue.completed(packet_id)
            self._answered(session, session.queue)

    def _answered(self, session: MqttSession, queue: DeliveryQueue) -> None:
        if not session.keeps_up or session in self._retained_for:
            self.soon(session)
        if queue.changed:
            self._fan_out.touch(session)
