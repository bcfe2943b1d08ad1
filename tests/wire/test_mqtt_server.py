"""The server core: the table of packets through a connection, whole, cut anywhere and corrupted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import mqtt_packets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mqtt_packets import CONNECT, Case
from mqtt_strategies import connects, others, publishes, subscribes, unsubscribes

from wire.mqtt.encode import encode_packet
from wire.mqtt.errors import NotOfferedError, PacketTooLargeError, ProtocolError, TopicRefusedError
from wire.mqtt.events import Connected, Disconnected, Event, Refused, State, SubscriptionsRefused, Target
from wire.mqtt.fields import encode_remaining_length
from wire.mqtt.packets import ConnAck, Connect, Packet, Publish
from wire.mqtt.reasons import ReasonCode
from wire.mqtt.server import MIN_MAX_PACKET_SIZE_BYTES, ServerConnection

NOW_MS = 1_790_000_000_000
CONNACK = b"\x20\x02\x00\x00"
PINGREQ = b"\xc0\x00"
PINGRESP = b"\xd0\x00"
PUBLISH = b"\x32\x09\x00\x03a/b\x00\x0ahi"
PUBACK = b"\x40\x02\x00\x0a"


@dataclass
class Shell:
    """The smallest shell: keeps what reaches its targets and what the connection says."""

    reply: ConnAck = field(default_factory=ConnAck)
    max_packet_size_bytes: int = 1 << 20
    max_topics: int = 100
    refused_topic: str = ""
    records: list[tuple[str, int, bytes | None]] = field(default_factory=list)
    resolved: list[tuple[str, int]] = field(default_factory=list)
    connects: list[Connect] = field(default_factory=list)
    acks: bytes = b""
    out: bytes = b""
    events: list[Event] = field(default_factory=list)
    taken: int = 0
    size_bytes: int = 0
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.connection = ServerConnection(
            resolve=self.resolve,
            on_connect=self.on_connect,
            max_packet_size_bytes=self.max_packet_size_bytes,
            max_topics=self.max_topics,
        )

    def resolve(self, topic: str, flags: int) -> Target:
        self.resolved.append((topic, flags))
        if topic == self.refused_topic:
            raise TopicRefusedError("MQTT-3.3.5-2", "not this one")

        def append(timestamp_ms: int, key: bytes | None, value: bytes | None, headers: list[Any], /) -> int:
            assert (timestamp_ms, key, headers) == (NOW_MS, topic.encode(), [("flags", bytes((flags,)))])
            self.records.append((topic, flags, value))
            return len(self.records)

        return append, topic.encode(), [("flags", bytes((flags,)))]

    def on_connect(self, connect: Connect) -> ConnAck:
        self.connects.append(connect)
        return self.reply

    def receive(self, data: bytes) -> None:
        """One chunk, and then what a shell does; an error is kept, and nothing is sent in after it."""
        connection = self.connection
        try:
            assert connection.receive(data, NOW_MS) == connection.taken
        except ProtocolError as error:
            self.error = error
        self.acks += connection.acks
        self.out += connection.out
        self.events += connection.events
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
        fault = (type(error), error.clause, error.offset, str(error)) if isinstance(error, ProtocolError) else None
        totals = (self.records, self.acks, self.out, self.events, self.taken, self.size_bytes)
        return (*totals, self.connection.state, fault)


def in_single_bytes(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def session_of(case: Case) -> bytes:
    """A connection in which the case's packet comes in the middle of others."""
    if case.data[0] >> 4 == 1:
        return case.data + PUBLISH
    return CONNECT + PUBLISH + case.data + PUBLISH


@pytest.mark.parametrize("case", [*mqtt_packets.BAD, *mqtt_packets.BAD_CONNECTS], ids=str)
def test_a_broken_packet_ends_the_connection(case: Case) -> None:
    shell = Shell().play([session_of(case)])
    assert isinstance(shell.error, ProtocolError)
    assert shell.error.clause == case.clause
    assert shell.connection.over
    if case.data[0] >> 4 == 1:
        assert shell.out == b""  # [MQTT-3.1.4-1] no CONNACK
    else:
        assert (shell.records, shell.acks) == ([("a/b", 2, b"hi")], PUBACK)  # what came before stays taken


@pytest.mark.parametrize("case", mqtt_packets.GOOD, ids=str)
def test_a_correct_packet_is_taken_or_refused_for_its_side(case: Case) -> None:
    shell = Shell().play([session_of(case)])
    if case.server_clause is not None:
        assert isinstance(shell.error, ProtocolError)
        assert shell.error.clause == case.server_clause
    elif case.data[0] >> 4 == 14:
        assert isinstance(shell.error, ProtocolError)
        assert shell.error.clause == "MQTT-3.14.4-2"  # session_of sends more after the DISCONNECT
    else:
        assert shell.error is None
        assert not shell.connection.over
        publish = case.packet
        if isinstance(publish, Publish):
            assert shell.records[1] == (publish.topic, case.data[0] & 15, publish.payload)


@pytest.mark.parametrize("case", mqtt_packets.ALL, ids=str)
def test_cutting_the_stream_changes_nothing(case: Case) -> None:
    session = session_of(case)
    whole = Shell().play([session]).outcome()
    assert Shell().play(in_single_bytes(session)).outcome() == whole
    for at in range(len(session) + 1):
        assert Shell().play([session[:at], session[at:]]).outcome() == whole, at


@pytest.mark.parametrize("case", mqtt_packets.ALL, ids=str)
def test_every_truncated_stream_is_patient_or_refused(case: Case) -> None:
    session = session_of(case)
    for size in range(len(session)):
        shell = Shell().play([session[:size]])
        assert shell.connection.over == (shell.error is not None or shell.connection.state is State.REFUSED) or any(
            isinstance(event, Disconnected) for event in shell.events
        )


@pytest.mark.parametrize("case", mqtt_packets.ALL, ids=str)
def test_every_corrupted_byte_is_taken_or_refused_alike(case: Case) -> None:
    session = session_of(case)
    first = session.index(case.data)
    for at in range(first, first + min(len(case.data), 32)):
        for bit in range(8):
            corrupted = bytearray(session)
            corrupted[at] ^= 1 << bit
            whole = Shell().play([bytes(corrupted)]).outcome()
            assert Shell().play([bytes(corrupted[: at + 1]), bytes(corrupted[at + 1 :])]).outcome() == whole


def split_at(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


@given(
    connects,
    st.lists(publishes | publishes | subscribes | unsubscribes | others, max_size=12),
    st.lists(st.integers(0, 1 << 16), max_size=8),
)
def test_random_sessions_do_not_depend_on_chunks(connect: Connect, packets: list[Packet], cuts: list[int]) -> None:
    session = b"".join(map(encode_packet, [connect, *packets]))
    whole = Shell().play([session])
    assert Shell().play(split_at(session, cuts)).outcome() == whole.outcome()
    assert whole.taken == len(whole.records)
    if whole.connection.state is State.CONNECTED:
        sent = [packet for packet in packets if isinstance(packet, Publish)]
        assert [(topic, value) for topic, _, value in whole.records] == [(p.topic, p.payload) for p in sent]
        assert whole.acks == b"".join(b"\x40\x02" + (p.packet_id or 0).to_bytes(2, "big") for p in sent if p.qos)
        assert whole.size_bytes == sum(len(encode_packet(p)) for p in sent)


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=4), st.booleans())
def test_noise_is_taken_or_refused(noise: bytes, cuts: list[int], connected: bool) -> None:
    stream = CONNECT + noise if connected else noise
    assert Shell().play(split_at(stream, cuts)).outcome() == Shell().play([stream]).outcome()


def test_mqtt_3_1_4_4_connect_is_answered_and_reported() -> None:
    shell = Shell(reply=ConnAck(session_present=True)).play([CONNECT])
    connect = Connect(client_id="pump-1", clean_session=True, keep_alive_s=60)
    assert shell.out == b"\x20\x02\x01\x00"
    assert shell.events == [Connected(connect=connect)]
    assert shell.connects == [connect]


def test_mqtt_3_1_0_1_the_first_packet_is_a_connect() -> None:
    for first_byte, clause in ((b"G", "MQTT-2.2.2-2"), (b"\x30", "MQTT-3.1.0-1"), (b"\xe0", "MQTT-3.1.0-1")):
        shell = Shell().play([first_byte])  # "GET / HTTP/1.1": no need to wait for the packet's end
        assert isinstance(shell.error, ProtocolError)
        assert shell.error.clause == clause


def test_mqtt_3_1_0_2_a_second_connect() -> None:
    shell = Shell().play([CONNECT + PUBLISH + CONNECT + PUBLISH])
    assert isinstance(shell.error, ProtocolError)
    assert shell.error.clause == "MQTT-3.1.0-2"
    assert (len(shell.records), shell.acks, shell.out) == (1, PUBACK, CONNACK)


@pytest.mark.parametrize("case", mqtt_packets.OTHER_LEVELS, ids=str)
def test_mqtt_3_1_2_2_other_levels_are_answered(case: Case) -> None:
    shell = Shell().play([case.data + PUBLISH])
    assert shell.error is None
    assert shell.out == b"\x20\x02\x00\x01"
    assert shell.connection.state is State.REFUSED
    assert shell.connection.over
    assert (shell.records, shell.connects) == ([], [])


def test_mqtt_3_1_3_8_an_empty_client_id_needs_a_clean_session() -> None:
    shell = Shell().play([b"\x10\x0c\x00\x04MQTT\x04\x00\x00\x3c\x00\x00"])
    assert shell.out == b"\x20\x02\x00\x02"
    assert isinstance(shell.events[0], Refused)
    assert shell.events[0].reason_code is ReasonCode.CLIENT_IDENTIFIER_NOT_VALID
    assert shell.connects == []


def test_mqtt_3_1_4_5_nothing_behind_a_refused_connect_is_taken() -> None:
    shell = Shell(reply=ConnAck(reason_code=ReasonCode.NOT_AUTHORIZED))
    shell.play([CONNECT + PUBLISH, PUBLISH])
    assert (shell.out, shell.records, shell.error) == (b"\x20\x02\x00\x05", [], None)
    assert shell.connection.state is State.REFUSED


def test_mqtt_3_14_4_3_disconnect_ends_cleanly() -> None:
    shell = Shell().play([CONNECT + PUBLISH + b"\xe0\x00"])
    assert shell.events[1:] == [Disconnected()]
    assert (shell.connection.state, shell.connection.over, shell.error) == (State.DISCONNECTED, True, None)
    assert shell.acks == PUBACK


def test_mqtt_3_14_4_2_nothing_follows_a_disconnect() -> None:
    shell = Shell().play([CONNECT, b"\xe0\x00" + PUBLISH])
    assert isinstance(shell.error, ProtocolError)
    assert shell.error.clause == "MQTT-3.14.4-2"
    assert shell.events[1:] == [Disconnected()]  # clean all the same: the will is discarded
    assert shell.records == []


def test_mqtt_4_8_0_1_a_failed_connection_takes_nothing() -> None:
    shell = Shell().play([CONNECT + PUBLISH + b"\x00"])
    shell.receive(PUBLISH)
    assert isinstance(shell.error, ProtocolError)
    assert (len(shell.records), shell.acks) == (1, PUBACK)


def test_mqtt_3_12_4_1_pings_are_answered() -> None:
    shell = Shell().play([CONNECT, PINGREQ * 3, PUBLISH])
    assert shell.out == CONNACK + PINGRESP * 3
    assert bytes(shell.connection.out) == b""  # of the last chunk alone


def test_mqtt_3_9_3_1_each_filter_is_refused() -> None:
    subscribe = b"\x82\x0e\x00\x0a\x00\x03a/b\x01\x00\x03a/c\x02"
    shell = Shell().play([CONNECT + subscribe])
    assert shell.out == CONNACK + b"\x90\x04\x00\x0a\x80\x80"
    assert isinstance(shell.events[1], SubscriptionsRefused)
    assert [wanted.filter for wanted in shell.events[1].subscribe.subscriptions] == ["a/b", "a/c"]


def test_mqtt_3_10_4_5_unsubscribe_is_acknowledged() -> None:
    assert Shell().play([CONNECT + b"\xa2\x05\x00\x0a\x00\x01#"]).out == CONNACK + b"\xb0\x02\x00\x0a"


def test_mqtt_4_3_3_2_pubrel_of_another_life_is_completed() -> None:
    assert Shell().play([CONNECT + b"\x62\x02\x12\x34"]).out == CONNACK + b"\x70\x02\x12\x34"


def test_mqtt_4_3_3_qos_2_is_not_offered() -> None:
    shell = Shell().play([CONNECT + PUBLISH + b"\x34"])  # its first byte is enough
    assert isinstance(shell.error, NotOfferedError)
    assert shell.error.reason == "not-offered"
    assert shell.acks == PUBACK


def test_mqtt_4_6_0_2_acks_keep_the_order_of_publishes() -> None:
    def publish(packet_id: int, topic: str) -> bytes:
        return encode_packet(Publish(topic=topic, payload=b"x", qos=1, packet_id=packet_id))

    shell = Shell().play([CONNECT + publish(3, "a") + publish(1, "b") + b"\x30\x04\x00\x01cx" + publish(2, "a")])
    assert shell.acks == b"\x40\x02\x00\x03\x40\x02\x00\x01\x40\x02\x00\x02"
    assert [topic for topic, _, _ in shell.records] == ["a", "b", "c", "a"]


def test_the_acks_of_a_chunk_are_its_own() -> None:
    shell = Shell().play([CONNECT, PUBLISH])
    assert shell.connection.acks == PUBACK
    shell.receive(PUBLISH[:5])
    assert (shell.connection.acks, shell.connection.taken, shell.connection.size_bytes) == (b"", 0, 0)
    shell.receive(PUBLISH[5:7])
    assert (shell.connection.acks, shell.connection.taken) == (b"", 0)
    shell.receive(PUBLISH[7:])
    assert (shell.connection.acks, shell.connection.taken) == (PUBACK, 1)


PUBREL = b"b\x02\x12\x34"  # its first byte is a letter that a topic could go on with


@pytest.mark.parametrize("last_topic", ["a/b", "c"], ids=["topic just seen", "topic seen before"])
@pytest.mark.parametrize(
    ("data", "clause"),
    [
        (b"\x32\x09\x00\x03a/b\x00\x00hi", "MQTT-2.3.1-1"),
        (b"\x32\x05\x00\x03a/b", "MQTT-2.2.3"),
        (b"\x32\x06\x00\x03a/b\x00", "MQTT-2.2.3"),
        (b"\x32\x04\x00\x03a/" + PUBREL, "MQTT-2.2.3"),
        (b"\x30\x04\x00\x03a/" + PUBREL, "MQTT-2.2.3"),
        (b"\x30\x02\x00\x03a/b", "MQTT-2.2.3"),
    ],
    ids=["packet id 0", "no packet id", "half a packet id", "QoS 1 topic beyond", "QoS 0 topic beyond", "no topic"],
)
def test_a_known_topic_excuses_nothing(data: bytes, clause: str, last_topic: str) -> None:
    def known(topic: str) -> bytes:
        qos = data[0] >> 1 & 1
        return encode_packet(Publish(topic=topic, payload=b"x", qos=qos, packet_id=1 if qos else None))

    stream = CONNECT + known("a/b") + known(last_topic) + data + known("a/b")
    shell = Shell().play([stream])
    assert isinstance(shell.error, ProtocolError)
    assert shell.error.clause == clause
    assert [topic for topic, _, _ in shell.records] == ["a/b", last_topic]
    assert Shell().play(in_single_bytes(stream)).outcome() == shell.outcome()


def test_a_topic_is_resolved_once_for_each_set_of_flags() -> None:
    packets = [
        Publish(topic=topic, payload=b"x", qos=1, dup=dup, packet_id=1) for dup in (False, True) for topic in ("a", "b")
    ]
    shell = Shell().play([CONNECT, b"".join(map(encode_packet, packets)) * 3])
    assert shell.resolved == [("a", 2), ("b", 2), ("a", 10), ("b", 10)]
    assert len(shell.records) == 12


def test_the_memory_of_topics_is_bounded() -> None:
    shell = Shell(max_topics=3).play([CONNECT])
    for _ in range(2):
        for name in "abcd":
            shell.receive(encode_packet(Publish(topic=name, payload=name.encode())))
            remembered = sum(len(by_topic) for by_topic in shell.connection._targets.values())
            assert 1 <= remembered <= 3
    assert [value for _, _, value in shell.records] == [b"a", b"b", b"c", b"d"] * 2
    assert len(shell.resolved) == 8  # a, b, c; d starts anew; so does c of the second round


def test_forgotten_topics_are_resolved_again() -> None:
    shell = Shell().play([CONNECT, PUBLISH, PUBLISH])
    assert len(shell.resolved) == 1
    shell.connection.forget_topics()
    shell.receive(PUBLISH)
    assert len(shell.resolved) == 2
    assert len(shell.records) == 3


def test_mqtt_3_3_5_2_a_refused_topic_ends_the_connection() -> None:
    refused = encode_packet(Publish(topic="secret", payload=b"x", qos=1, packet_id=9))
    shell = Shell(refused_topic="secret").play([CONNECT + PUBLISH + refused + PUBLISH])
    assert isinstance(shell.error, TopicRefusedError)
    assert (len(shell.records), shell.acks) == (1, PUBACK)
    assert shell.connection.over


def test_a_target_that_fails_is_not_acknowledged() -> None:
    def append(*record: object) -> int:
        raise IndexError("no room")

    connection = ServerConnection(
        resolve=lambda topic, flags: (append, None, []),
        on_connect=lambda connect: ConnAck(),
        max_packet_size_bytes=1024,
        max_topics=1,
    )
    with pytest.raises(IndexError, match="no room"):
        connection.receive(CONNECT + PUBLISH, NOW_MS)
    assert (connection.acks, connection.taken, connection.over) == (b"", 0, True)


@pytest.mark.parametrize("remaining_length", [1022, 20_000, 3_000_000, 268_435_455])
def test_mqtt_2_2_3_a_packet_is_refused_when_it_announces_too_much(remaining_length: int) -> None:
    header = b"\x30" + encode_remaining_length(remaining_length)
    shell = Shell(max_packet_size_bytes=1024).play([CONNECT, *in_single_bytes(header)])
    assert isinstance(shell.error, PacketTooLargeError)
    assert shell.connection.buffered_size_bytes == 0


def test_mqtt_2_2_3_a_packet_that_announces_just_enough_is_awaited() -> None:
    header = b"\x30" + encode_remaining_length(1021)
    shell = Shell(max_packet_size_bytes=1024).play([CONNECT, *in_single_bytes(header)])
    assert shell.error is None
    assert shell.connection.buffered_size_bytes == len(header)


def test_a_packet_of_the_largest_size_is_taken() -> None:
    largest = encode_packet(Publish(topic="a", payload=b"x" * (1024 - 6)))
    assert len(largest) == 1024
    shell = Shell(max_packet_size_bytes=1024).play([CONNECT + largest])
    assert len(shell.records) == 1
    assert isinstance(Shell(max_packet_size_bytes=1023).play([CONNECT + largest]).error, PacketTooLargeError)


def test_a_large_packet_is_collected_and_its_memory_given_back() -> None:
    payload = bytes(range(256)) * 1024
    packet = encode_packet(Publish(topic="a", payload=payload, qos=1, packet_id=1))
    shell = Shell().play([CONNECT])
    for at in range(0, len(packet), 1000):
        shell.receive(packet[at : at + 1000])
        assert shell.connection.buffered_size_bytes in (0, min(at + 1000, len(packet)))
    assert shell.records == [("a", 2, payload)]
    assert shell.connection.buffered_size_bytes == 0


@pytest.mark.parametrize(("size_bytes", "topics"), [(MIN_MAX_PACKET_SIZE_BYTES - 1, 1), (1024, 0)])
def test_limits_that_cannot_work_are_refused(size_bytes: int, topics: int) -> None:
    with pytest.raises(ValueError, match="needed"):
        Shell(max_packet_size_bytes=size_bytes, max_topics=topics)
