"""The smallest shell around the server core: keeps what reaches its targets and what the connection says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest

from wire.mqtt.clauses import LEVEL_3_1_1, LEVEL_5
from wire.mqtt.encode import encode_packet
from wire.mqtt.errors import ProtocolError, PublishRefusedError
from wire.mqtt.events import Event, Target
from wire.mqtt.framing import packet_bounds
from wire.mqtt.packets import ConnAck, Connect, Packet, Publish, Subscribe, Unsubscribe
from wire.mqtt.properties import NO_PUBLISH_PROPERTIES, ConnAckProperties, PublishProperties
from wire.mqtt.reasons import PacketType, ReasonCode
from wire.mqtt.server import ServerConnection

NOW_MS = 1_790_000_000_000
MAX_ALIAS = 10
RECEIVE_MAXIMUM = 100
ACCEPTED_5 = ConnAck(properties=ConnAckProperties(topic_alias_maximum=MAX_ALIAS, receive_maximum=RECEIVE_MAXIMUM))
ACCEPTED = {LEVEL_3_1_1: ConnAck(), LEVEL_5: ACCEPTED_5}
CONNECTS = {
    level: encode_packet(Connect(client_id="pump-1", keep_alive_s=60, protocol_level=level))
    for level in (LEVEL_3_1_1, LEVEL_5)
}
CONNACKS = {level: encode_packet(connack, level) for level, connack in ACCEPTED.items()}
PUBLISH_OF = {
    level: encode_packet(Publish(topic="a/b", payload=b"hi", qos=1, packet_id=10), level)
    for level in (LEVEL_3_1_1, LEVEL_5)
}
PUBACK = b"\x40\x02\x00\x0a"


@dataclass(frozen=True, slots=True)
class Record:
    """What reached a target: topic, flags and properties that it was resolved with, and the payload."""

    topic: str
    flags: int
    payload: bytes | None
    properties: PublishProperties = NO_PUBLISH_PROPERTIES


@dataclass
class Shell:
    """See the module. `reply` None: accept, on the terms that the version's tests count on."""

    reply: ConnAck | None = None
    max_packet_size_bytes: int = 1 << 20
    max_topics: int = 100
    refused_topics: Sequence[str] = ()
    refused_filters: Sequence[str] = ()
    received_ids: set[int] | None = None
    commits: bool = True
    records: list[Record] = field(default_factory=list)
    resolved: list[tuple[str, int]] = field(default_factory=list)
    connects: list[Connect] = field(default_factory=list)
    asked: list[Subscribe | Unsubscribe] = field(default_factory=list)
    acks: bytes = b""
    out: bytes = b""
    events: list[Event] = field(default_factory=list)
    pubacks: list[int] = field(default_factory=list)
    stored: list[int] = field(default_factory=list)
    released: list[int] = field(default_factory=list)
    taken: int = 0
    size_bytes: int = 0
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.connection = ServerConnection(
            self, max_packet_size_bytes=self.max_packet_size_bytes, max_topics=self.max_topics
        )

    # -- Decisions

    def connect(self, connect: Connect) -> ConnAck:
        self.connects.append(connect)
        self.connection.received_ids = self.received_ids
        return self.reply or ACCEPTED[connect.protocol_level]

    def resolve(self, publish: Publish, flags: int) -> Target:
        topic = publish.topic
        self.resolved.append((topic, flags))
        if topic in self.refused_topics:
            raise PublishRefusedError(topic, "not this one")

        def append(timestamp_ms: int, key: bytes | None, value: bytes | None, headers: list[Any], /) -> int:
            assert (timestamp_ms, key, headers) == (NOW_MS, topic.encode(), [("flags", bytes((flags,)))])
            self.records.append(Record(topic, flags, value, publish.properties))
            return len(self.records)

        return append, topic.encode(), [("flags", bytes((flags,)))]

    def subscribe(self, subscribe: Subscribe) -> Sequence[ReasonCode]:
        self.asked.append(subscribe)
        return [
            ReasonCode.NOT_AUTHORIZED if wanted.filter in self.refused_filters else ReasonCode(wanted.qos)
            for wanted in subscribe.subscriptions
        ]

    def unsubscribe(self, unsubscribe: Unsubscribe) -> Sequence[ReasonCode]:
        self.asked.append(unsubscribe)
        return [ReasonCode.NO_SUBSCRIPTION_EXISTED for _ in unsubscribe.filters]

    # -- driving it

    def receive(self, data: bytes) -> None:
        """One chunk, and then what a shell does; an error is kept, and nothing is sent in after it."""
        connection = self.connection
        try:
            assert connection.receive(data, NOW_MS) == connection.taken
        except ProtocolError as error:
            self.error = error
        if self.commits:
            connection.acknowledged(connection.acked_ids)
        self.acks += connection.acks
        self.out += connection.out
        self.events += connection.events
        self.pubacks += connection.pubacks
        self.stored += connection.stored
        self.released += connection.released
        self.taken += connection.taken
        self.size_bytes += connection.size_bytes

    def play(self, chunks: Iterable[bytes]) -> Shell:
        for chunk in chunks:
            self.receive(chunk)
            if self.error is not None:
                break
        return self

    def outcome(self) -> tuple[object, ...]:
        """Everything that must not depend on how the bytes were cut."""
        error = self.error
        fault = None
        if isinstance(error, ProtocolError):
            fault = (type(error), error.clause, error.offset, str(error), error.reason_code)
        said = (by_type(self.acks), self.out, self.events, self.pubacks)
        ids = (self.stored, self.released, self.connection.received_ids or set())
        totals = (self.records, self.taken, self.size_bytes, self.resolved)
        return (said, ids, totals, self.connection.state, fault)

    def failed_with(self) -> tuple[str, ReasonCode]:
        """Clause and reason code of the error that ended the connection."""
        assert isinstance(self.error, ProtocolError), self.error
        return self.error.clause, self.error.reason_code


def split(packets: bytes) -> list[bytes]:
    """A stream of whole packets, taken apart."""
    parts, at = [], 0
    while at < len(packets):
        bounds = packet_bounds(packets, at, max_packet_size_bytes=1 << 28)
        assert bounds is not None
        parts.append(packets[at : bounds[1]])
        at = bounds[1]
    return parts


def by_type(packets: bytes) -> dict[PacketType, list[bytes]]:
    """Order is promised among packets of one type only."""
    kinds: dict[PacketType, list[bytes]] = {}
    for packet in split(packets):
        kinds.setdefault(PacketType(packet[0] >> 4), []).append(packet)
    return kinds


def in_single_bytes(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def cut_at(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


def connected(level: int, *packets: Packet, **how: Any) -> Shell:
    """A shell whose client has connected and sent these in one more chunk."""
    data = b"".join(encode_packet(packet, level) for packet in packets)
    return Shell(**how).play([CONNECTS[level], data] if data else [CONNECTS[level]])


def both(clauses: str, clauses_5: str) -> pytest.MarkDecorator:
    """Run a test with `level` of both versions; its ids name these clauses of each, separated by blanks."""
    named = {LEVEL_3_1_1: ("MQTT-", clauses), LEVEL_5: ("MQTT5-", clauses_5)}
    return pytest.mark.parametrize(
        "level",
        [
            pytest.param(level, id=" ".join(prefix + number for number in numbers.split()))
            for level, (prefix, numbers) in named.items()
        ],
    )


def publish(
    packet_id: int | None = 1, topic: str = "a", payload: bytes = b"x", *, qos: int = 1, **more: Any
) -> Publish:
    """A PUBLISH, of QoS 1 unless it is said otherwise."""
    return Publish(topic=topic, payload=payload, qos=qos, packet_id=packet_id if qos else None, **more)
