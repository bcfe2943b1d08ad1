"""PUBLISH through the server core: answers and their order, QoS 2, targets, topic aliases, refusals, limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from mqtt_shell import (
    CONNACKS,
    CONNECTS,
    MAX_ALIAS,
    NOW_MS,
    PUBACK,
    PUBLISH_OF,
    RECEIVE_MAXIMUM,
    Shell,
    both,
    by_type,
    connected,
    cut_at,
    in_single_bytes,
    publish,
    split,
)

from wire.mqtt.clauses import LEVEL_3_1_1, LEVEL_5, LEVELS
from wire.mqtt.decode import decode_packet
from wire.mqtt.encode import DISCONNECT, encode_packet
from wire.mqtt.errors import ProtocolError, PublishRefusedError
from wire.mqtt.events import PublishRefused, State
from wire.mqtt.packets import ConnAck, Packet, PubAck, PubComp, Publish, PubRec, PubRel
from wire.mqtt.properties import ConnAckProperties, PublishProperties
from wire.mqtt.publishes import MAX_VARIANT_SIZE_BYTES, MAX_VARIANTS
from wire.mqtt.reasons import PacketType, ReasonCode
from wire.mqtt.server import ServerConnection

NO_LIMITS: Final = ConnAck(properties=ConnAckProperties(topic_alias_maximum=MAX_ALIAS))


def answers(shell: Shell) -> list[Packet]:
    """What waits for commits, in order."""
    return [decode_packet(answer, shell.connection.level) for answer in split(shell.acks)]


def remembered(shell: Shell) -> int:
    return sum(len(by_topic) for by_topic in shell.connection._targets.values())


# -- answers


@both("2.3.1-6 3.3.4-1 4.3.2-2", "2.2.1-5 3.3.4-1 4.3.2-4")
def test_every_publish_is_answered_as_its_qos_says(level: int) -> None:
    shell = connected(level, publish(qos=0), publish(7), publish(9, qos=2), publish(8))
    assert answers(shell) == [PubAck(packet_id=7), PubAck(packet_id=8), PubRec(packet_id=9)]
    assert [record.flags for record in shell.records] == [0, 2, 4, 2]
    assert shell.connection.acked_ids == 2
    assert shell.out == CONNACKS[level]  # MQTT-3.3.5-2: none of them before its commit


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("qos", "packet_type"),
    [
        pytest.param(1, PacketType.PUBACK, id="MQTT-4.6.0-2"),
        pytest.param(2, PacketType.PUBREC, id="MQTT-4.6.0-3"),
    ],
)
def test_answers_keep_the_order_of_publishes(qos: int, packet_type: PacketType, level: int) -> None:
    ids = [3, 1, 2, 500, 65535, 4]
    shell = connected(level, *(publish(packet_id, topic="abc"[packet_id % 3], qos=qos) for packet_id in ids))
    assert [int.from_bytes(answer[2:4], "big") for answer in by_type(shell.acks)[packet_type]] == ids


@both("4.3.2-2", "4.3.2-5")
def test_an_answered_qos_1_identifier_is_a_new_message(level: int) -> None:
    again = publish(7, payload=b"2", dup=True)
    shell = connected(level, publish(7, payload=b"1"), again, publish(7, payload=b"3"))
    assert [record.payload for record in shell.records] == [b"1", b"2", b"3"]
    assert answers(shell) == [PubAck(packet_id=7)] * 3


@pytest.mark.parametrize("level", LEVELS)
def test_the_acks_of_a_chunk_are_its_own(level: int) -> None:
    whole = PUBLISH_OF[level]
    shell = connected(level).play([whole])
    assert shell.connection.acks == PUBACK
    shell.receive(whole[:5])
    assert (shell.connection.acks, shell.connection.taken, shell.connection.size_bytes) == (b"", 0, 0)
    shell.receive(whole[5:7])
    assert (shell.connection.acks, shell.connection.taken, shell.connection.acked_ids) == (b"", 0, 0)
    shell.receive(whole[7:])
    assert (shell.connection.acks, shell.connection.taken) == (PUBACK, 1)
    shell.receive(DISCONNECT)
    assert (shell.connection.acks, shell.connection.taken, shell.connection.acked_ids) == (b"", 0, 0)


# -- QoS 2


@both("4.3.3-2", "4.3.3-8 4.3.3-10 4.3.3-11 4.3.3-12")
def test_a_qos_2_message_is_taken_once(level: int) -> None:
    shell = connected(level)
    steps: list[tuple[Packet, Packet]] = [
        (publish(7, payload=b"1", qos=2), PubRec(packet_id=7)),
        (publish(7, payload=b"1", qos=2, dup=True), PubRec(packet_id=7)),
        (publish(7, payload=b"1", qos=2), PubRec(packet_id=7)),  # with or without DUP
        (PubRel(packet_id=7), PubComp(packet_id=7)),
        (publish(7, payload=b"2", qos=2), PubRec(packet_id=7)),
    ]
    for packet, answer in steps:
        shell.acks = b""
        shell.receive(encode_packet(packet, level))
        assert answers(shell) == [answer]
    assert [record.payload for record in shell.records] == [b"1", b"2"]
    assert (shell.stored, shell.released) == ([7, 7], [7])
    assert shell.connection.received_ids == {7}


@both("4.3.3-2", "4.3.3-11")
def test_an_unknown_pubrel_is_completed(level: int) -> None:
    shell = connected(level, PubRel(packet_id=0x1234))
    reason = ReasonCode.SUCCESS if level == LEVEL_3_1_1 else ReasonCode.PACKET_IDENTIFIER_NOT_FOUND
    assert answers(shell) == [PubComp(packet_id=0x1234, reason_code=reason)]
    assert (shell.released, shell.out) == ([], CONNACKS[level])


@both("4.3.3-2", "4.3.3-10")
def test_identifiers_of_an_earlier_connection_are_known(level: int) -> None:
    shell = connected(level, publish(5, qos=2, dup=True), publish(6, qos=2), received_ids={5})
    assert [record.flags for record in shell.records] == [4]
    assert answers(shell) == [PubRec(packet_id=5), PubRec(packet_id=6)]
    assert shell.connection.received_ids == {5, 6}
    assert shell.stored == [6]
    shell.receive(encode_packet(PubRel(packet_id=5), level))
    assert (shell.released, shell.connection.received_ids) == ([5], {6})


@both("4.3.3-2", "4.3.3-10")
def test_a_failing_target_leaves_no_identifier_behind(level: int) -> None:
    """It was not stored: when the client sends it again, it has to be."""

    class Failing(Shell):
        def resolve(self, publish: Publish, flags: int) -> Any:
            _, key, headers = super().resolve(publish, flags)

            def append(*record: object) -> int:
                raise PublishRefusedError(publish.topic, "no room")

            return append, key, headers

    shell = Failing(received_ids={5}).play([CONNECTS[level] + encode_packet(publish(6, qos=2), level)])
    assert shell.error is not None
    assert (shell.acks, shell.stored, shell.connection.received_ids) == (b"", [], {5})


@pytest.mark.parametrize("level", LEVELS)
def test_answers_of_all_kinds_in_one_chunk(level: int) -> None:
    packets = [publish(1, qos=2), publish(2), PubRel(packet_id=1), publish(3, qos=2), publish(4)]
    shell = connected(level, *packets)
    assert answers(shell) == [
        PubAck(packet_id=2),
        PubAck(packet_id=4),
        PubRec(packet_id=1),
        PubRec(packet_id=3),
        PubComp(packet_id=1),
    ]
    assert (shell.stored, shell.released, shell.connection.received_ids) == ([1, 3], [1], {3})
    assert shell.connection.acked_ids == 2


class ExactlyOnce(RuleBasedStateMachine):
    """A QoS 2 sender that keeps to the protocol, over connections that break at any point."""

    level = LEVEL_5

    @initialize(level=st.sampled_from(LEVELS))
    def begin(self, level: int) -> None:
        self.level = level
        self.ids: set[int] | None = None
        self.sent: dict[int, bytes] = {}
        self.releasing: set[int] = set()
        self.stored: list[bytes | None] = []
        self.wanted: list[bytes] = []
        self.shell = connected(level)

    def send(self, packet: Packet, cuts: list[int], *, heard: bool) -> None:
        before = len(self.shell.records)
        self.shell.acks = b""
        self.shell.play(cut_at(encode_packet(packet, self.level), cuts))
        assert self.shell.error is None
        self.stored += [record.payload for record in self.shell.records[before:]]
        for answer in answers(self.shell) if heard else ():
            if isinstance(answer, PubRec) and self.sent.pop(answer.packet_id, None) is not None:
                self.releasing.add(answer.packet_id)
            elif isinstance(answer, PubComp):
                self.releasing.discard(answer.packet_id)

    @rule(packet_id=st.integers(1, 5), cuts=st.lists(st.integers(0, 30), max_size=2), heard=st.booleans())
    def publishes(self, packet_id: int, cuts: list[int], heard: bool) -> None:
        if packet_id in self.releasing:
            return
        again = packet_id in self.sent
        if not again:
            self.sent[packet_id] = b"%d" % len(self.wanted)
            self.wanted.append(self.sent[packet_id])
        self.send(publish(packet_id, payload=self.sent[packet_id], qos=2, dup=again), cuts, heard=heard)

    @rule(cuts=st.lists(st.integers(0, 30), max_size=2), heard=st.booleans())
    def releases(self, cuts: list[int], heard: bool) -> None:
        for packet_id in sorted(self.releasing)[:1]:
            self.send(PubRel(packet_id=packet_id), cuts, heard=heard)

    @rule()
    def reconnects(self) -> None:
        ids = self.shell.connection.received_ids
        self.shell = connected(self.level, received_ids=ids)

    @invariant()
    def every_message_is_stored_once(self) -> None:
        if hasattr(self, "stored"):
            assert self.stored == self.wanted


ExactlyOnce.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestExactlyOnce = ExactlyOnce.TestCase


# -- targets


PUBREL: Final = b"b\x02\x12\x34"  # its first byte is a letter that a topic could go on with


@pytest.mark.parametrize("last_topic", ["a/b", "c"], ids=["topic just seen", "topic seen before"])
@pytest.mark.parametrize(
    ("data", "clause"),
    [
        (b"\x32\x09\x00\x03a/b\x00\x00hi", "MQTT-2.3.1-1"),
        (b"\x32\x05\x00\x03a/b", "MQTT-2.2.3"),
        (b"\x32\x06\x00\x03a/b\x00", "MQTT-2.2.3"),
        (b"\x34\x06\x00\x03a/b\x00", "MQTT-2.2.3"),
        (b"\x32\x04\x00\x03a/" + PUBREL, "MQTT-2.2.3"),
        (b"\x30\x04\x00\x03a/" + PUBREL, "MQTT-2.2.3"),
        (b"\x30\x02\x00\x03a/b", "MQTT-2.2.3"),
        (b"\x32\x0a\x00\x03a/b\x00\x00\x00hi", "MQTT5-2.2.1-3"),
        (b"\x32\x07\x00\x03a/b\x00\x01", "MQTT5-2.1.4"),
        (b"\x30\x05\x00\x03a/b\x00", "MQTT5-2.1.4"),
        (b"\x32\x07\x00\x03a/b\x00\x01\x00\x00", "MQTT5-2.1.4"),
        (b"\x30\x05\x00\x03a/b", "MQTT5-2.1.4"),
        (b"\x30\x04\x00\x03a/" + PUBREL, "MQTT5-2.1.4"),
        (b"\x30\x07\x00\x03a/b\x02\x01\x01", "MQTT5-2.2.2"),
        (b"\x30\x08\x00\x03a/b\x02\x01\x02", "MQTT5-3.3.2.3.2"),
        (b"\x32\x0a\x00\x03a/b\x00\x01\x02\x01\x02", "MQTT5-3.3.2.3.2"),
    ],
)
def test_a_known_topic_excuses_nothing(data: bytes, clause: str, last_topic: str) -> None:
    level = LEVEL_5 if clause.startswith("MQTT5") else LEVEL_3_1_1

    def known(packet_id: int, topic: str) -> bytes:
        return encode_packet(publish(packet_id, topic, qos=data[0] >> 1 & 3), level)

    stream = CONNECTS[level] + known(7, "a/b") + known(8, "a/b") + known(9, last_topic) + data + known(10, "a/b")
    shell = Shell().play([stream])
    assert shell.failed_with()[0] == clause
    assert [record.topic for record in shell.records] == ["a/b", "a/b", last_topic]
    assert Shell().play(in_single_bytes(stream)).outcome() == shell.outcome()


@pytest.mark.parametrize("level", LEVELS)
def test_a_topic_is_resolved_once_for_each_set_of_flags(level: int) -> None:
    packets = [publish(1, topic, dup=dup) for dup in (False, True) for topic in ("a", "b")]
    shell = connected(level, *packets * 3)
    assert shell.resolved == [("a", 2), ("b", 2), ("a", 10), ("b", 10)]
    assert len(shell.records) == 12


@pytest.mark.parametrize("level", LEVELS)
def test_the_memory_of_topics_is_bounded(level: int) -> None:
    shell = connected(level, max_topics=3)
    for _ in range(2):
        for name in "abcd":
            shell.receive(encode_packet(publish(None, name, name.encode(), qos=0), level))
            assert 1 <= remembered(shell) <= 3
    assert [record.payload for record in shell.records] == [b"a", b"b", b"c", b"d"] * 2
    assert len(shell.resolved) == 8  # a, b, c; d starts anew; so does c of the second round


@pytest.mark.parametrize("level", LEVELS)
def test_forgotten_topics_are_resolved_again(level: int) -> None:
    shell = connected(level).play([PUBLISH_OF[level], PUBLISH_OF[level]])
    assert len(shell.resolved) == 1
    shell.connection.forget_topics()
    shell.receive(PUBLISH_OF[level])
    assert len(shell.resolved) == 2
    assert len(shell.records) == 3


@pytest.mark.parametrize("level", LEVELS)
def test_topics_forgotten_inside_a_chunk_are_forgotten_with_the_next(level: int) -> None:
    class Forgetful(Shell):
        def resolve(self, publish: Publish, flags: int) -> Any:
            self.connection.forget_topics()
            return super().resolve(publish, flags)

    packets = b"".join(encode_packet(publish(1, topic), level) for topic in ("a", "b", "b", "a", "a", "b"))
    shell = Forgetful().play([CONNECTS[level] + packets, packets])
    assert [record.topic for record in shell.records] == ["a", "b", "b", "a", "a", "b"] * 2
    assert shell.taken == 12


@pytest.mark.parametrize("level", LEVELS)
def test_topics_forgotten_in_the_middle_of_a_packet(level: int) -> None:
    whole = PUBLISH_OF[level]
    shell = connected(level).play([whole])
    for at in range(len(whole)):
        shell.receive(whole[:at])
        shell.connection.forget_topics()
        shell.receive(whole[at:])
    assert len(shell.records) == 1 + len(whole)
    assert len(shell.resolved) == 1 + len(whole)


@pytest.mark.parametrize("level", LEVELS)
def test_a_target_that_fails_is_not_acknowledged(level: int) -> None:
    class Failing(Shell):
        def resolve(self, publish: Publish, flags: int) -> Any:
            def append(*record: object) -> int:
                raise IndexError("no room")

            return append, None, []

    connection = Failing().connection
    with pytest.raises(IndexError, match="no room"):
        connection.receive(CONNECTS[level] + PUBLISH_OF[level], NOW_MS)
    assert (connection.acks, connection.taken, connection.over) == (b"", 0, True)
    assert connection.state is State.FAILED


# -- properties


def with_properties(number: int, **more: Any) -> Publish:
    return publish(1, properties=PublishProperties(user_properties=(("n", str(number)),)), **more)


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_properties_reach_the_target_and_are_resolved_once(qos: int) -> None:
    ones = [with_properties(1, qos=qos), publish(1, qos=qos), with_properties(2, qos=qos)]
    sent = [replace(one, packet_id=number + 1 if qos else None) for number, one in enumerate(ones * 3)]
    stream = CONNECTS[LEVEL_5] + b"".join(encode_packet(packet, LEVEL_5) for packet in sent)
    shell = Shell().play([stream])
    assert [record.properties for record in shell.records] == [packet.properties for packet in sent]
    assert len(shell.resolved) == 3
    assert Shell().play(in_single_bytes(stream)).outcome() == shell.outcome()


def test_variants_of_properties_are_bounded() -> None:
    shell = connected(LEVEL_5, publish(1), reply=NO_LIMITS, max_topics=10_000)
    for number in range(3 * MAX_VARIANTS):
        shell.receive(encode_packet(with_properties(number), LEVEL_5))
        assert remembered(shell) <= MAX_VARIANTS + 1
    assert len(shell.records) == 3 * MAX_VARIANTS + 1


@pytest.mark.parametrize("qos", [0, 1])
def test_long_properties_are_not_kept(qos: int) -> None:
    """What a connection remembers is bounded also where its client sends a megabyte of user properties."""
    long = PublishProperties(user_properties=(("n", "x" * MAX_VARIANT_SIZE_BYTES),))
    packet = encode_packet(publish(1, qos=qos, properties=long), LEVEL_5)
    shell = connected(LEVEL_5).play([packet * 2, packet])
    assert [record.properties for record in shell.records] == [long] * 3
    assert len(shell.resolved) == 2  # once per chunk
    assert remembered(shell) == 0
    assert max(len(part) for part in shell.connection._last[:5] if isinstance(part, bytes)) < 10


# -- topic aliases


def aliased(alias: int, topic: str = "", payload: bytes = b"x", *, packet_id: int | None = 1, qos: int = 1) -> Publish:
    return publish(packet_id, topic, payload, qos=qos, properties=PublishProperties(topic_alias=alias))


def topics_of(shell: Shell) -> list[str]:
    return [record.topic for record in shell.records]


@pytest.mark.parametrize("qos", [0, 1])
def test_mqtt5_3_3_2_12_every_alias_up_to_the_maximum_is_accepted(qos: int) -> None:
    aliases = range(1, MAX_ALIAS + 1)
    first = [aliased(alias, f"t/{alias}", qos=qos) for alias in aliases]
    later = [aliased(alias, qos=qos) for alias in reversed(aliases)]
    shell = connected(LEVEL_5, *first, *later, *later)
    names = [f"t/{alias}" for alias in aliases]
    assert topics_of(shell) == names + names[::-1] * 2


def test_an_alias_may_change_its_topic() -> None:
    packets = [
        aliased(1, "a"),
        aliased(1),
        aliased(1),
        aliased(1, "b"),
        aliased(1),
        aliased(1, "b"),
        publish(1, "a"),
        aliased(1),
    ]
    stream = CONNECTS[LEVEL_5] + b"".join(encode_packet(packet, LEVEL_5) for packet in packets)
    shell = Shell().play([stream])
    assert topics_of(shell) == ["a", "a", "a", "b", "b", "b", "a", "b"]
    assert Shell().play(in_single_bytes(stream)).outcome() == shell.outcome()


def test_an_alias_moves_also_when_its_new_topic_is_refused() -> None:
    packets = [aliased(1, "a"), aliased(1), aliased(1, "secret"), aliased(1), aliased(1, "a"), aliased(1)]
    stream = CONNECTS[LEVEL_5] + b"".join(encode_packet(packet, LEVEL_5) for packet in packets)
    for chunks in ([stream], in_single_bytes(stream)):
        shell = Shell(refused_topics=["secret"]).play(chunks)
        assert topics_of(shell) == ["a", "a", "a", "a"]
        assert [event.topic for event in shell.events if isinstance(event, PublishRefused)] == ["secret"] * 2


@pytest.mark.parametrize(
    ("packet", "fault"),
    [
        pytest.param(
            aliased(MAX_ALIAS + 1, "a"), ("MQTT5-3.3.2-9", ReasonCode.TOPIC_ALIAS_INVALID), id="MQTT5-3.3.2-9 too great"
        ),
        pytest.param(aliased(2), ("MQTT5-3.3.2.3.4", ReasonCode.PROTOCOL_ERROR), id="unknown"),
        pytest.param(
            aliased(MAX_ALIAS + 1), ("MQTT5-3.3.2-9", ReasonCode.TOPIC_ALIAS_INVALID), id="too great, and no topic"
        ),
    ],
)
def test_an_alias_that_means_nothing_ends_the_connection(packet: Publish, fault: tuple[str, ReasonCode]) -> None:
    shell = connected(LEVEL_5, aliased(1, "a"), packet)
    assert shell.failed_with() == fault
    assert topics_of(shell) == ["a"]
    assert shell.out == CONNACKS[LEVEL_5] + bytes((0xE0, 1, fault[1]))


def test_without_a_maximum_there_are_no_aliases() -> None:
    shell = connected(LEVEL_5, aliased(1, "a"), reply=ConnAck())
    assert shell.failed_with()[1] is ReasonCode.TOPIC_ALIAS_INVALID


def test_mqtt5_3_3_2_7_aliases_end_with_the_connection() -> None:
    shell = connected(LEVEL_5, aliased(1, "a"))
    assert connected(LEVEL_5, aliased(1)).failed_with()[0] == "MQTT5-3.3.2.3.4"
    shell.receive(DISCONNECT)
    assert shell.connection._aliases is None


def test_aliases_outlive_forgotten_topics() -> None:
    shell = connected(LEVEL_5, aliased(1, "a"))
    shell.connection.forget_topics()
    shell.receive(encode_packet(aliased(1), LEVEL_5))
    assert topics_of(shell) == ["a", "a"]


@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.sampled_from(["", "a", "b", "c", "no"]), st.integers(0, 2), st.booleans()),
        max_size=30,
    ),
    st.lists(st.integers(0, 500), max_size=4),
)
def test_aliases_follow_a_model(steps: list[tuple[int, str, int, bool]], cuts: list[int]) -> None:
    known: dict[int, str] = {}
    expected: list[str] = []
    sent: list[Publish] = []
    for number, (alias, topic, qos, with_alias) in enumerate(steps):
        if with_alias:
            if not topic and alias not in known:
                continue
            known[alias] = topic or known[alias]
            meant = known[alias]
            sent.append(aliased(alias, topic, qos=qos, packet_id=number + 1))
        elif topic:
            meant = topic
            sent.append(publish(number + 1, topic, qos=qos))
        else:
            continue
        if meant != "no":
            expected.append(meant)
    stream = CONNECTS[LEVEL_5] + b"".join(encode_packet(packet, LEVEL_5) for packet in sent)
    shell = Shell(refused_topics=["no"]).play(cut_at(stream, cuts))
    assert shell.error is None
    assert topics_of(shell) == expected


# -- refusals


def test_mqtt_3_3_5_2_a_refused_publish_ends_the_connection() -> None:
    for qos in (0, 1, 2):
        shell = connected(LEVEL_3_1_1, publish(1), publish(9, "secret", qos=qos), refused_topics=["secret"])
        assert isinstance(shell.error, PublishRefusedError)
        assert (len(shell.records), answers(shell)) == (1, [PubAck(packet_id=1)])
        assert shell.connection.over


def test_a_refused_publish_is_answered_in_its_turn_and_5_goes_on() -> None:
    def of(numbers: str) -> list[Publish]:
        """Small letters are taken, capitals refused; every second with QoS 2."""
        return [
            publish(place + 1, "no" if letter.isupper() else "yes", qos=1 + place % 2)
            for place, letter in enumerate(numbers)
        ]

    for order in ("aBCdeF", "ABCD", "abcd", "AbCd", "aBcD", "aBBBbAAaa"):
        stream = CONNECTS[LEVEL_5] + b"".join(encode_packet(packet, LEVEL_5) for packet in of(order))
        shell = Shell(refused_topics=["no"]).play([stream])
        kinds = by_type(shell.acks)
        for first, packet_type in ((0, PacketType.PUBACK), (1, PacketType.PUBREC)):
            expected = [
                (place + 1, ReasonCode.NOT_AUTHORIZED if order[place].isupper() else ReasonCode.SUCCESS)
                for place in range(first, len(order), 2)
            ]
            got = [decode_packet(answer, LEVEL_5) for answer in kinds.get(packet_type, [])]
            assert [(answer.packet_id, answer.reason_code) for answer in got] == expected  # type: ignore[union-attr]
        refused = sum(letter.isupper() for letter in order)
        assert sum(isinstance(event, PublishRefused) for event in shell.events) == refused
        assert shell.taken == len(order) - refused
        assert Shell(refused_topics=["no"]).play(in_single_bytes(stream)).outcome() == shell.outcome()


def test_mqtt5_4_3_3_9_a_refused_qos_2_identifier_is_free_again() -> None:
    refused = [publish(3, "no", qos=2)]
    shell = connected(LEVEL_5, *refused, refused_topics=["no"])
    assert (shell.stored, shell.connection.received_ids or set()) == ([], set())
    shell.receive(encode_packet(publish(3, "yes", qos=2), LEVEL_5))
    assert topics_of(shell) == ["yes"]


def test_mqtt5_4_3_3_10_a_taken_qos_2_message_is_not_refused_later() -> None:
    """Were it, its identifier would be free for the client and taken for the server: the next message would be lost."""
    shell = connected(LEVEL_5, publish(3, "yes", qos=2))
    shell.connection.forget_topics()
    shell.refused_topics = ["yes"]
    shell.receive(encode_packet(publish(3, "yes", qos=2, dup=True), LEVEL_5))
    assert answers(shell) == [PubRec(packet_id=3)] * 2
    assert not any(isinstance(event, PublishRefused) for event in shell.events)


def test_a_refused_qos_0_publish_has_no_answer() -> None:
    shell = connected(LEVEL_5, publish(None, "no", qos=0), publish(1), refused_topics=["no"])
    assert answers(shell) == [PubAck(packet_id=1)]
    assert [event.topic for event in shell.events if isinstance(event, PublishRefused)] == ["no"]


# -- the receive maximum that the client was given


def exceeded(shell: Shell) -> bool:
    if shell.error is None:
        return False
    assert shell.failed_with() == ("MQTT5-3.3.4-7", ReasonCode.RECEIVE_MAXIMUM_EXCEEDED)
    assert shell.out == CONNACKS[LEVEL_5] + b"\xe0\x01\x93"
    return True


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("chunked", [False, True])
def test_mqtt5_3_3_4_7_more_than_the_receive_maximum_is_an_error(qos: int, chunked: bool) -> None:
    for count, too_many in ((RECEIVE_MAXIMUM, False), (RECEIVE_MAXIMUM + 1, True)):
        sent = [encode_packet(publish(number + 1, qos=qos), LEVEL_5) for number in range(count)]
        chunks = sent if chunked else [b"".join(sent)]
        shell = Shell(commits=False).play([CONNECTS[LEVEL_5], *chunks])
        assert exceeded(shell) == too_many
        assert len(shell.records) == (RECEIVE_MAXIMUM if qos == 2 else count)  # what was taken stays taken


@pytest.mark.parametrize("qos_1", [0, 1, RECEIVE_MAXIMUM])
def test_mqtt5_3_3_4_7_room_that_comes_too_late_is_none(qos_1: int) -> None:
    """A client that has sent too much goes on with PUBRELs, and all of it arrives at once."""
    for too_many in (False, True):
        two = [publish(number + 1, qos=2) for number in range(RECEIVE_MAXIMUM - qos_1)]
        one = [publish(number + 1000) for number in range(qos_1)]
        over: list[Packet] = [publish(5000, qos=1 if qos_1 else 2)] if too_many else []
        release = [PubRel(packet_id=1), PubRel(packet_id=2)]
        for packets in ([*two, *one, *over, *release], [*one, *two, *over, *release]):
            assert exceeded(connected(LEVEL_5, *packets, commits=False)) == too_many


def test_the_receive_maximum_is_about_what_is_unanswered() -> None:
    shell = connected(LEVEL_5, commits=False)
    many = b"".join(encode_packet(publish(number + 1), LEVEL_5) for number in range(RECEIVE_MAXIMUM))
    for _ in range(3):
        shell.receive(many)
        shell.connection.acknowledged(shell.connection.acked_ids)
    assert not exceeded(shell)
    for number in range(3 * RECEIVE_MAXIMUM):  # PUBREL frees what QoS 2 took
        shell.receive(encode_packet(publish(number + 1, qos=2), LEVEL_5))
        shell.receive(encode_packet(PubRel(packet_id=number + 1), LEVEL_5))
    assert not exceeded(shell)


def test_the_receive_maximum_begins_anew_with_each_connection() -> None:
    before = set(range(1, RECEIVE_MAXIMUM + 1))
    sent = [publish(number + 1000, qos=2) for number in range(RECEIVE_MAXIMUM)]
    shell = connected(LEVEL_5, *sent, received_ids=set(before))
    assert not exceeded(shell)
    shell.receive(encode_packet(PubRel(packet_id=1), LEVEL_5))  # one of before makes no room
    shell.receive(encode_packet(publish(1, qos=2), LEVEL_5))
    assert exceeded(shell)


def test_3_1_1_has_no_receive_maximum() -> None:
    sent = [publish(number + 1) for number in range(3 * RECEIVE_MAXIMUM)]
    assert connected(LEVEL_3_1_1, *sent, commits=False).error is None


@pytest.mark.parametrize("make", [lambda: publish(None, qos=0), lambda: PubAck(packet_id=1)], ids=["QoS 0", "PUBACK"])
def test_nothing_else_counts(make: Callable[[], Packet]) -> None:
    assert connected(LEVEL_5, *(make() for _ in range(3 * RECEIVE_MAXIMUM)), commits=False).error is None


def test_what_the_loop_and_the_decoder_see_is_the_same() -> None:
    connection = ServerConnection(Shell(), max_packet_size_bytes=1024, max_topics=1)
    with pytest.raises(AssertionError, match="disagree"):
        connection._refuse_publish(encode_packet(publish(1)), 2)
    with pytest.raises(ProtocolError):
        connection._refuse_publish(b"\x32\x03\0\x01a", 2)
