"""One kind of publish and who gets it: made when a connection's MQTT topic is resolved, where somebody subscribes.

Where nobody does, a publish goes straight to its partition and nothing here is touched. Otherwise `put` stands in the
place of the partition's `append`: it appends, notes the record's place in the queues of sessions that outlive their
connection, and puts one tuple on the list of what the open commit will deliver (`ingest.broker.fan_out`).

A publication holds for one state of all subscriptions (`SubscriptionTree.generation`); when that changes every
connection resolves its topics again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from commitlog.base import Header
from ingest.broker.chunk import Kind
from ingest.broker.properties import headers_of
from ingest.broker.session import MqttSession
from ingest.broker.subscriptions import Match, Subscription
from wire.mqtt.events import Append
from wire.mqtt.frame import Frame, sent_with
from wire.mqtt.properties import PublishProperties

_PUBLICATION_BYTES: Final = 1_500  # with the packet's frame for one kind of subscriber
_DELIVERY_BYTES: Final = 250  # a tuple and a kind of its own

Delivery = tuple[MqttSession, Frame, Kind | None]
"""A session, the packet it gets, and what its queue notes; no kind for QoS 0, which is never queued."""
Staged = tuple["Publication", int, bytes, int, "Sequence[int] | None", "Sequence[SharedPick] | None"]
"""What a commit delivers: (publication, offset, payload, time received, sequence numbers in the queues of `durable`,
whom shared subscriptions chose)."""
SharedPick = tuple[MqttSession, Frame, "Kind | None", "int | None"]
"""A delivery to one of a shared subscription's sessions, and its sequence number where its queue is durable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What a publish says besides its payload, and where its records go."""

    topic: str
    qos: int
    retain: bool
    properties: PublishProperties
    log_topic: str
    partition: int
    client_id: str


class Turn:
    """Whose turn it is in a shared subscription: the same for all topics and publishers."""

    __slots__ = ("__weakref__", "next")

    def __init__(self) -> None:
        self.next = 0


class SharedGroup:
    """The sessions of one shared subscription, taking turns [MQTT5-4.8.2-3]."""

    __slots__ = ("_deliveries", "_turn")

    def __init__(self, deliveries: Sequence[Delivery], turn: Turn) -> None:
        self._deliveries = deliveries
        self._turn = turn

    def __len__(self) -> int:
        return len(self._deliveries)

    def pick(self) -> Delivery:
        """Whose turn it is."""
        index = turn_of([session for session, _, _ in self._deliveries], self._turn)
        return self._deliveries[index]


_MOST_READY: Final = 2


def turn_of(sessions: Sequence[MqttSession], turn: Turn) -> int:
    """The next one that can take a message now, else the next one that is connected, else the next one."""
    count = len(sessions)
    begin = turn.next % count
    best, best_rank = begin, -1
    for step in range(count):
        index = (begin + step) % count
        rank = _readiness(sessions[index])
        if rank > best_rank:
            best, best_rank = index, rank
            if rank == _MOST_READY:
                break
    turn.next = best + 1
    return best


def _readiness(session: MqttSession) -> int:
    connection = session.connection
    if connection is None:
        return 0
    return 2 if connection.can_take and session.keeps_up else 1


class Stage(Protocol):
    """What a publication needs of the fan-out."""

    def reserve(self, sessions: Sequence[MqttSession], topic: str) -> None:
        """See `FanOut.reserve`."""
        ...

    def enqueue(self, session: MqttSession, kind: Kind, offset: int) -> int:
        """See `FanOut.enqueue`."""
        ...

    def stage(self, staged: Staged) -> None:
        """See `FanOut.stage`."""
        ...


class Publication:
    """See the module."""

    __slots__ = ("_append", "_frames", "_properties_bytes", "_stage", "durable", "live", "once", "published", "shared")

    def __init__(self, published: Published, append: Append, stage: Stage) -> None:
        self.published = published
        self._append = append
        self._stage = stage
        self._properties_bytes = sum(len(name) + len(value or b"") for name, value in headers_of(published.properties))
        self._frames: dict[tuple[int, int, bool, tuple[int, ...]], Frame] = {}
        self.once: list[tuple[MqttSession, Frame]] = []
        """Deliveries of QoS 0."""
        self.live: list[tuple[MqttSession, Frame, Kind]] = []
        """To sessions that end with their connection."""
        self.durable: list[tuple[MqttSession, Frame, Kind]] = []
        """To sessions that outlive it."""
        self.shared: list[SharedGroup] = []

    def deliver_to(self, session: MqttSession, match: Match) -> None:
        """One more session gets it."""
        how = match.own if session.client_id == self.published.client_id else match.delivery
        if how is None:
            return  # [MQTT5-3.8.3-3]
        delivery = self._delivery(session, how.qos, how.retain_as_published, how.identifiers, None)
        if delivery[2] is None:
            self.once.append(delivery[:2])
        elif session.durable:
            self.durable.append((delivery[0], delivery[1], delivery[2]))
        else:
            self.live.append((delivery[0], delivery[1], delivery[2]))

    def share(self, members: Sequence[tuple[MqttSession, Subscription]], turn: Turn) -> None:
        """One of these gets it, by turns."""
        self.shared.append(
            SharedGroup(
                [
                    self._delivery(
                        session,
                        subscription.qos,
                        subscription.retain_as_published,
                        () if subscription.identifier is None else (subscription.identifier,),
                        f"{subscription.share}/{subscription.filter}",
                    )
                    for session, subscription in members
                ],
                turn,
            )
        )

    @property
    def size_bytes(self) -> int:
        """What it takes, about; it does not change once everybody who gets it is in it.

        Where every message has properties of its own (a correlation, a time) each has a publication of its own.
        """
        deliveries = len(self.once) + len(self.live) + len(self.durable) + sum(map(len, self.shared))
        return _PUBLICATION_BYTES + _DELIVERY_BYTES * deliveries + 4 * self._properties_bytes

    @property
    def wanted(self) -> bool:
        """Anybody gets it at all."""
        return bool(self.once or self.live or self.durable or self.shared)

    def put(self, timestamp_ms: int, key: bytes | None, value: bytes | None, headers: list[Header], /) -> int:
        """`PartitionAppender.append`, and what the module says."""
        stage = self._stage
        picks = [group.pick() for group in self.shared] if self.shared else None
        if self.durable or picks:
            sessions = [session for session, _, _ in self.durable]
            if picks:
                sessions += [session for session, _, kind in picks if kind is not None and session.durable]
            if sessions:
                stage.reserve(sessions, self.published.topic)
        offset = self._append(timestamp_ms, key, value, headers)
        numbers: list[int] | None = None
        if self.durable:
            numbers = [stage.enqueue(session, kind, offset) for session, _, kind in self.durable]
        picked: list[SharedPick] | None = None
        if picks:
            picked = [
                (session, frame, kind, stage.enqueue(session, kind, offset) if kind and session.durable else None)
                for session, frame, kind in picks
            ]
        stage.stage((self, offset, value or b"", timestamp_ms, numbers, picked))
        return offset

    def _delivery(
        self, session: MqttSession, qos: int, retain_as_published: bool, identifiers: tuple[int, ...], group: str | None
    ) -> Delivery:
        published = self.published
        qos = min(qos, published.qos)  # [MQTT-3.8.4-6] [MQTT5-3.8.4-8]
        retain = published.retain and retain_as_published  # [MQTT-3.3.1-9] [MQTT5-3.3.1-12] [MQTT5-3.3.1-13]
        frame = self.frame(session.level, qos, retain, identifiers)
        if not qos:
            return session, frame, None
        kind = Kind(
            log_topic=published.log_topic,
            partition=published.partition,
            qos=qos,
            retain=retain,
            identifiers=identifiers,
            group=group,
        )
        return session, frame, kind

    def frame_for(self, session: MqttSession, frame: Frame) -> Frame:
        """The same packet in the version that the session has now."""
        keys = [key for key, known in self._frames.items() if known is frame]
        _, qos, retain, identifiers = keys[0]
        return self.frame(session.level, qos, retain, identifiers)

    def frame(self, level: int, qos: int, retain: bool, identifiers: tuple[int, ...]) -> Frame:
        """The packet for subscribers of one kind."""
        key = (level, qos, retain, identifiers)
        frame = self._frames.get(key)
        if frame is None:
            published = self.published
            left_s = published.properties.message_expiry_interval_s  # all of it: it is just being published
            properties = sent_with(published.properties, level, identifiers, left_s)
            frame = Frame(topic=published.topic, qos=qos, retain=retain, level=level, properties=properties)
            self._frames[key] = frame
        return frame
