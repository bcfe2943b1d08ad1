"""The server core, both versions: the tables of packets through a connection, whole, cut anywhere and corrupted."""

from __future__ import annotations

from typing import Final

import mqtt5_packets
import mqtt_packets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mqtt_packets import Case
from mqtt_shell import (
    CONNACKS,
    CONNECTS,
    PUBACK,
    PUBLISH_OF,
    RECEIVE_MAXIMUM,
    Record,
    Shell,
    by_type,
    cut_at,
    in_single_bytes,
)
from mqtt_strategies import packets

from wire.mqtt.clauses import LEVEL_3_1_1, LEVEL_5, LEVELS
from wire.mqtt.encode import encode_packet
from wire.mqtt.errors import PacketTooLargeError
from wire.mqtt.events import Disconnected, State
from wire.mqtt.fields import encode_remaining_length
from wire.mqtt.packets import ConnAck, Connect, Disconnect, Packet, Publish
from wire.mqtt.reasons import PacketType, ReasonCode
from wire.mqtt.server import MIN_MAX_PACKET_SIZE_BYTES

GOOD: Final = [*mqtt_packets.GOOD, *mqtt5_packets.GOOD]
BAD_5: Final = [case for case in mqtt5_packets.BAD if case.clause != "MQTT5-3.1.2-2"]
BAD: Final = [*mqtt_packets.BAD, *mqtt_packets.BAD_CONNECTS, *BAD_5]
ALL: Final = [*mqtt_packets.ALL, *mqtt5_packets.ALL]
FROM_SERVER_ALONE: Final = (PacketType.CONNACK, PacketType.SUBACK, PacketType.UNSUBACK, PacketType.PINGRESP)


def type_of(case: Case) -> int:
    return case.data[0] >> 4


def is_connect(case: Case) -> bool:
    return type_of(case) == PacketType.CONNECT


def session_of(case: Case) -> bytes:
    """A connection in which the case's packet comes in the middle of others."""
    publish = PUBLISH_OF[case.level]
    return case.data + publish if is_connect(case) else CONNECTS[case.level] + publish + case.data + publish


def expected_fault(case: Case) -> tuple[str, ReasonCode]:
    """Clause and reason that a server ends the connection with."""
    assert case.clause is not None
    if case.level == LEVEL_5 and type_of(case) in FROM_SERVER_ALONE:
        return "MQTT5-2.1.2", ReasonCode.PROTOCOL_ERROR  # whatever is in it
    if case.level == LEVEL_5 and type_of(case) == PacketType.AUTH and case.clause != "MQTT5-3.15.1-1":
        return "MQTT5-4.12.0-7", ReasonCode.PROTOCOL_ERROR
    if is_connect(case) and case.clause == "MQTT5-2.1.3-1":
        return "MQTT-2.2.2-2", ReasonCode.MALFORMED_PACKET  # its level is not known yet
    return case.clause, case.reason_code


@pytest.mark.parametrize("case", BAD, ids=str)
def test_a_broken_packet_ends_the_connection(case: Case) -> None:
    shell = Shell().play([session_of(case)])
    clause, reason_code = shell.failed_with()
    assert (clause, reason_code) == expected_fault(case)
    assert shell.connection.over
    if not is_connect(case):  # what came before stays taken
        assert (shell.records, shell.acks) == ([Record("a/b", 2, b"hi")], PUBACK)
        goodbye = encode_packet(Disconnect(reason_code=reason_code), LEVEL_5) if case.level == LEVEL_5 else b""
        assert shell.out == CONNACKS[case.level] + goodbye
    elif clause.startswith("MQTT5-"):
        assert shell.out == encode_packet(ConnAck(reason_code=reason_code), LEVEL_5)
    else:
        assert (shell.out, shell.connects) == (b"", [])


@pytest.mark.parametrize("case", GOOD, ids=str)
def test_a_correct_packet_is_taken_or_refused_for_its_side(case: Case) -> None:
    shell = Shell().play([session_of(case)])
    if case.server_clause is not None:
        assert shell.failed_with()[0] == case.server_clause
    elif type_of(case) == PacketType.DISCONNECT:  # session_of sends more after it
        assert shell.failed_with()[0] == ("MQTT-3.14.4-2" if case.level == LEVEL_3_1_1 else "MQTT5-3.14.4-1")
        assert shell.events[1:] == [Disconnected(disconnect=case.packet)]  # type: ignore[arg-type]
    else:
        assert shell.error is None
        assert not shell.connection.over
        publish = case.packet
        if isinstance(publish, Publish):
            expected = Record(publish.topic, case.data[0] & 15, publish.payload, publish.properties)
            assert shell.records[1] == expected


@pytest.mark.parametrize("case", ALL, ids=str)
def test_cutting_the_stream_changes_nothing(case: Case) -> None:
    session = session_of(case)
    whole = Shell().play([session]).outcome()
    assert Shell().play(in_single_bytes(session)).outcome() == whole
    for at in range(len(session) + 1):
        assert Shell().play([session[:at], session[at:]]).outcome() == whole, at


@pytest.mark.parametrize("case", ALL, ids=str)
def test_every_truncated_stream_is_patient_or_refused(case: Case) -> None:
    session = session_of(case)
    for size in range(len(session)):
        shell = Shell().play([session[:size]])
        ended = shell.error is not None or shell.connection.state is State.REFUSED
        assert shell.connection.over == ended or any(isinstance(event, Disconnected) for event in shell.events)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_every_corrupted_byte_is_taken_or_refused_alike(case: Case) -> None:
    session = session_of(case)
    first = session.index(case.data)
    for at in range(first, first + min(len(case.data), 32)):
        for bit in range(8):
            corrupted = bytearray(session)
            corrupted[at] ^= 1 << bit
            whole = Shell().play([bytes(corrupted)]).outcome()
            assert Shell().play([bytes(corrupted[: at + 1]), bytes(corrupted[at + 1 :])]).outcome() == whole


@st.composite
def sessions(draw: st.DrawFn) -> tuple[int, list[Packet]]:
    level = draw(st.sampled_from(LEVELS))
    return level, draw(st.lists(packets(level).filter(lambda packet: not isinstance(packet, Connect)), max_size=12))


@given(sessions(), st.lists(st.integers(0, 1 << 16), max_size=8))
def test_random_sessions_do_not_depend_on_chunks(session: tuple[int, list[Packet]], cuts: list[int]) -> None:
    level, sent = session
    stream = CONNECTS[level] + b"".join(encode_packet(packet, level) for packet in sent)
    whole = Shell().play([stream])
    assert Shell().play(cut_at(stream, cuts)).outcome() == whole.outcome()
    assert Shell().play(in_single_bytes(stream)).outcome() == whole.outcome()
    assert whole.taken == len(whole.records)


@given(st.sampled_from(LEVELS), st.data())
def test_all_publishes_of_a_session_are_taken_and_answered_in_order(level: int, data: st.DataObject) -> None:
    topics = st.sampled_from(["a", "b", "a/b", "é"])
    payloads = st.sampled_from([b"", b"x", b"y" * 200])
    one = st.builds(
        Publish,
        topic=topics,
        payload=payloads,
        qos=st.just(1),
        retain=st.booleans(),
        dup=st.booleans(),
        packet_id=st.integers(1, 65535),
    ) | st.builds(Publish, topic=topics, payload=payloads, retain=st.booleans())
    sent = data.draw(st.lists(one, max_size=RECEIVE_MAXIMUM))
    two = [
        Publish(topic="q", payload=payload, qos=2, packet_id=number + 1)
        for number, payload in enumerate(data.draw(st.lists(payloads, max_size=5)))
    ]
    mixed: list[Publish] = data.draw(st.permutations([*sent, *two])) if two else sent
    stream = b"".join(encode_packet(publish, level) for publish in mixed)
    shell = Shell().play([CONNECTS[level], *cut_at(stream, data.draw(st.lists(st.integers(0, 9999), max_size=6)))])
    assert shell.error is None
    assert [(record.topic, record.payload) for record in shell.records] == [(p.topic, p.payload) for p in mixed]
    answers = by_type(shell.acks)
    for qos, packet_type in ((1, PacketType.PUBACK), (2, PacketType.PUBREC)):  # MQTT-4.6.0-2 MQTT-4.6.0-3
        expected = [bytes((packet_type << 4, 2)) + (p.packet_id or 0).to_bytes(2, "big") for p in mixed if p.qos == qos]
        assert answers.pop(packet_type, []) == expected
    assert answers == {}
    assert shell.size_bytes == len(stream)
    assert shell.stored == [p.packet_id for p in mixed if p.qos == 2]


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=4), st.sampled_from([None, *LEVELS]))
def test_noise_is_taken_or_refused(noise: bytes, cuts: list[int], level: int | None) -> None:
    stream = noise if level is None else CONNECTS[level] + noise
    assert Shell().play(cut_at(stream, cuts)).outcome() == Shell().play([stream]).outcome()


# -- what is kept of a packet, and how large it may be


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("remaining_length", [1022, 20_000, 3_000_000, 268_435_455])
def test_a_packet_is_refused_when_it_announces_too_much(remaining_length: int, level: int) -> None:
    header = b"\x30" + encode_remaining_length(remaining_length)
    for chunks in (in_single_bytes(header), [header], [header + b"\0\x01a"]):
        shell = Shell(max_packet_size_bytes=1024).play([CONNECTS[level], *chunks])
        assert isinstance(shell.error, PacketTooLargeError)
        assert shell.failed_with() == (
            "MQTT-2.2.3" if level == LEVEL_3_1_1 else "MQTT5-2.1.4",
            ReasonCode.PACKET_TOO_LARGE,
        )
        assert shell.connection.buffered_size_bytes == 0
        assert shell.out.removeprefix(CONNACKS[level]) == (b"" if level == LEVEL_3_1_1 else b"\xe0\x01\x95")


@pytest.mark.parametrize("level", LEVELS)
def test_a_packet_that_announces_just_enough_is_awaited(level: int) -> None:
    header = b"\x30" + encode_remaining_length(1021)
    shell = Shell(max_packet_size_bytes=1024).play([CONNECTS[level], *in_single_bytes(header)])
    assert shell.error is None
    assert shell.connection.buffered_size_bytes == len(header)


@pytest.mark.parametrize("level", LEVELS)
def test_a_packet_of_the_largest_size_is_taken(level: int) -> None:
    overhead = 6 if level == LEVEL_3_1_1 else 7
    largest = encode_packet(Publish(topic="a", payload=b"x" * (1024 - overhead)), level)
    assert len(largest) == 1024
    shell = Shell(max_packet_size_bytes=1024).play([CONNECTS[level] + largest])
    assert len(shell.records) == 1
    assert isinstance(Shell(max_packet_size_bytes=1023).play([CONNECTS[level] + largest]).error, PacketTooLargeError)


@pytest.mark.parametrize("level", LEVELS)
def test_a_large_packet_is_collected_and_its_memory_given_back(level: int) -> None:
    payload = bytes(range(256)) * 1024
    packet = encode_packet(Publish(topic="a", payload=payload, qos=1, packet_id=1), level)
    shell = Shell().play([CONNECTS[level]])
    for at in range(0, len(packet), 1000):
        shell.receive(packet[at : at + 1000])
        assert shell.connection.buffered_size_bytes in (0, min(at + 1000, len(packet)))
    assert shell.records == [Record("a", 2, payload)]
    assert shell.connection.buffered_size_bytes == 0


def test_3_1_1_reads_a_longer_form_of_the_remaining_length_and_5_refuses_it() -> None:
    longer = b"\x30\x85\x00\x00\x01abc"
    shell = Shell().play([CONNECTS[LEVEL_3_1_1] + longer])
    assert shell.records == [Record("a", 0, b"bc")]
    assert Shell().play([CONNECTS[LEVEL_5] + b"\x30\x85\x00\x00\x01a\x00c"]).failed_with() == (
        "MQTT5-1.5.5-1",
        ReasonCode.MALFORMED_PACKET,
    )


@pytest.mark.parametrize(("size_bytes", "topics"), [(MIN_MAX_PACKET_SIZE_BYTES - 1, 1), (1024, 0)])
def test_limits_that_cannot_work_are_refused(size_bytes: int, topics: int) -> None:
    with pytest.raises(ValueError, match="needed"):
        Shell(max_packet_size_bytes=size_bytes, max_topics=topics)
