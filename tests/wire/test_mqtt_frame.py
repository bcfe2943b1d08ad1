"""Messages encoded once for many, and answers cut to what their receiver takes: the same bytes as the encoder's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mqtt_strategies import packet_ids, properties, topics

from wire.mqtt.aliases import OutgoingAliases
from wire.mqtt.clauses import LEVEL_3_1_1, LEVEL_5
from wire.mqtt.decode import decode_packet
from wire.mqtt.encode import encode_packet, encode_publish
from wire.mqtt.fitting import encode_fitting
from wire.mqtt.frame import Frame, sent_with
from wire.mqtt.packets import (
    Auth,
    ConnAck,
    Disconnect,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    UnsubAck,
)
from wire.mqtt.properties import (
    NO_PUBLISH_PROPERTIES,
    AckProperties,
    AuthProperties,
    ConnAckProperties,
    DisconnectProperties,
    PublishProperties,
)
from wire.mqtt.reasons import ReasonCode

publishers = properties(PublishProperties).map(
    lambda chosen: replace(chosen, topic_alias=None, subscription_identifiers=())
)
payloads = st.binary(max_size=200)
identifier_lists = st.lists(st.integers(1, 268_435_455), max_size=3).map(tuple)


def packet_of(frame: Frame, packet_id: int, payload: bytes, *, again: bool) -> bytes:
    if not frame.qos:
        return frame.packet(payload)
    return frame.packet_again(packet_id, payload) if again else frame.packet_with_id(packet_id, payload)


@given(topics, st.lists(payloads, min_size=1, max_size=5), st.integers(0, 2), st.booleans(), packet_ids, st.booleans())
def test_3_1_1_frames_are_the_encoders_packets(
    topic: str, sent: list[bytes], qos: int, retain: bool, packet_id: int, again: bool
) -> None:
    frame = Frame(topic=topic, qos=qos, retain=retain)
    for payload in [*sent, *sent]:
        plain = Publish(
            topic=topic,
            payload=payload,
            qos=qos,
            retain=retain,
            dup=again and qos > 0,  # MQTT-3.3.1-1
            packet_id=packet_id if qos else None,
        )
        assert packet_of(frame, packet_id, payload, again=again) == encode_publish(plain)


@given(topics, payloads, st.integers(0, 2), packet_ids, publishers, identifier_lists, st.booleans())
def test_5_frames_are_the_encoders_packets(
    topic: str,
    payload: bytes,
    qos: int,
    packet_id: int,
    of_publisher: PublishProperties,
    identifiers: tuple[int, ...],
    again: bool,
) -> None:
    sent = sent_with(of_publisher, LEVEL_5, identifiers, of_publisher.message_expiry_interval_s)
    frame = Frame(topic=topic, qos=qos, level=LEVEL_5, properties=sent)
    plain = Publish(
        topic=topic,
        payload=payload,
        qos=qos,
        dup=again and qos > 0,
        packet_id=packet_id if qos else None,
        properties=replace(of_publisher, subscription_identifiers=identifiers),
    )
    written = packet_of(frame, packet_id, payload, again=again)
    assert written == encode_publish(plain, LEVEL_5)
    assert decode_packet(written, LEVEL_5) == plain


WHOLE = PublishProperties(
    payload_format_indicator=True,
    message_expiry_interval_s=60,
    content_type="text/plain",
    response_topic="answers",
    correlation_data=b"\0\1",
    topic_alias=7,
    user_properties=(("b", "2"), ("a", "1"), ("b", "2")),
)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        pytest.param("payload_format_indicator", True, id="MQTT5-3.3.2-4"),
        pytest.param("message_expiry_interval_s", 45, id="MQTT5-3.3.2-6"),
        pytest.param("topic_alias", None, id="MQTT5-3.3.2-7 another connection's"),
        pytest.param("response_topic", "answers", id="MQTT5-3.3.2-15"),
        pytest.param("correlation_data", b"\0\1", id="MQTT5-3.3.2-16"),
        pytest.param("user_properties", WHOLE.user_properties, id="MQTT5-3.3.2-17 MQTT5-3.3.2-18"),
        pytest.param("content_type", "text/plain", id="MQTT5-3.3.2-20"),
        pytest.param("subscription_identifiers", (3, 4), id="MQTT5-3.3.4-3 MQTT5-3.3.4-4"),
    ],
)
def test_what_a_subscriber_is_sent_of_a_publish(name: str, kept: object) -> None:
    sent = sent_with(WHOLE, LEVEL_5, (3, 4), 45)
    assert getattr(sent, name) == kept
    packet = Frame(topic="a", qos=1, level=LEVEL_5, properties=sent).packet_with_id(1, b"x")
    read = decode_packet(packet, LEVEL_5)
    assert isinstance(read, Publish)
    assert getattr(read.properties, name) == kept


def test_3_1_1_subscribers_are_sent_no_properties() -> None:
    assert sent_with(WHOLE, LEVEL_3_1_1, (3,), 45) is NO_PUBLISH_PROPERTIES


def test_the_heads_that_a_frame_keeps_are_bounded() -> None:
    frame = Frame(topic="a", qos=1)
    for size in range(1000):
        assert frame.packet_with_id(7, b"x" * size) == encode_publish(
            Publish(topic="a", payload=b"x" * size, qos=1, packet_id=7)
        )
        assert len(frame._heads) <= 64


def test_equal_payloads_of_other_messages_are_told_apart() -> None:
    """A packet is kept for the payload object that it was made for, and an equal one gives an equal packet."""
    frame = Frame(topic="a", qos=0)
    first = frame.packet(b"".join((b"x", b"y")))
    assert frame.packet(b"".join((b"x", b"z"))) != first
    assert frame.packet(b"".join((b"x", b"y"))) == first


@pytest.mark.parametrize(
    "how",
    [
        {"topic": ""},
        {"topic": "a\0"},
        {"topic": "a/#"},
        {"topic": "x" * 65_536},
        {"qos": 3},
        {"qos": -1},
        {"properties": PublishProperties(content_type="x")},
        {"level": LEVEL_5, "properties": PublishProperties(topic_alias=1)},
        {"level": LEVEL_5, "properties": PublishProperties(subscription_identifiers=(0,))},
        {"level": LEVEL_5, "properties": PublishProperties(response_topic="#")},
    ],
    ids=repr,
)
def test_what_no_publish_may_say(how: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="MQTT"):
        Frame(**{"topic": "a", "qos": 1, **how})


# -- topic aliases, put on by the connection


def aliased(aliases: OutgoingAliases, topic: str, qos: int = 0, most_bytes: int = 1 << 20) -> bytes:
    frame = Frame(topic=topic, qos=qos, level=LEVEL_5, properties=PublishProperties(content_type="t"))
    packet = frame.packet_with_id(1, b"x") if qos else frame.packet(b"x")
    return aliases.applied(packet, most_bytes)


@given(st.integers(1, 5), st.lists(st.tuples(topics, st.integers(0, 2)), max_size=20))
def test_mqtt5_3_1_2_26_mqtt5_3_3_2_11_aliases_sent_keep_to_the_clients_maximum(
    most: int, sent: list[tuple[str, int]]
) -> None:
    aliases = OutgoingAliases(most)
    known: dict[int, str] = {}
    for topic, qos in sent:
        read = decode_packet(aliased(aliases, topic, qos), LEVEL_5)
        assert isinstance(read, Publish)
        alias = read.properties.topic_alias
        assert alias is None or 1 <= alias <= most
        if alias is not None and read.topic:
            known[alias] = read.topic
        assert (read.topic or known[alias or 0]) == topic  # what the client understands
        assert replace(read.properties, topic_alias=None) == PublishProperties(content_type="t")
        assert (read.qos, read.payload) == (qos, b"x")


def test_mqtt5_3_1_2_24_an_alias_does_not_make_a_packet_too_large() -> None:
    plain = len(aliased(OutgoingAliases(1), "abc", most_bytes=0))
    aliases = OutgoingAliases(1)
    assert len(aliased(aliases, "abc", most_bytes=plain)) == plain
    assert len(aliased(aliases, "abc", most_bytes=plain + 3)) == plain + 3
    assert len(aliased(aliases, "abc", most_bytes=plain)) == plain  # three bytes of alias for three of topic
    assert len(aliased(OutgoingAliases(1), "a", most_bytes=0)) == plain - 2


# -- answers cut to what their receiver takes


NOTES = AckProperties(reason_string="because", user_properties=(("a", "b"),))
ANSWERS = {
    "MQTT5-3.2.2-19 MQTT5-3.2.2-20 CONNACK": ConnAck(
        reason_code=ReasonCode.BANNED,
        properties=ConnAckProperties(reason_string="because", user_properties=(("a", "b"),), server_keep_alive_s=5),
    ),
    "MQTT5-3.4.2-2 MQTT5-3.4.2-3 PUBACK": PubAck(packet_id=1, properties=NOTES),
    "MQTT5-3.5.2-2 MQTT5-3.5.2-3 PUBREC": PubRec(packet_id=1, properties=NOTES),
    "MQTT5-3.6.2-2 MQTT5-3.6.2-3 PUBREL": PubRel(packet_id=1, properties=NOTES),
    "MQTT5-3.7.2-2 MQTT5-3.7.2-3 PUBCOMP": PubComp(packet_id=1, properties=NOTES),
    "MQTT5-3.9.2-1 MQTT5-3.9.2-2 SUBACK": SubAck(packet_id=1, reason_codes=(ReasonCode.SUCCESS,), properties=NOTES),
    "MQTT5-3.11.2-1 MQTT5-3.11.2-2 UNSUBACK": UnsubAck(
        packet_id=1, reason_codes=(ReasonCode.SUCCESS,), properties=NOTES
    ),
    "MQTT5-3.14.2-3 MQTT5-3.14.2-4 DISCONNECT": Disconnect(
        reason_code=ReasonCode.SERVER_MOVED,
        properties=DisconnectProperties(reason_string="because", user_properties=(("a", "b"),), server_reference="x"),
    ),
    "MQTT5-3.15.2-2 MQTT5-3.15.2-3 AUTH": Auth(
        reason_code=ReasonCode.CONTINUE_AUTHENTICATION,
        properties=AuthProperties(authentication_method="m", reason_string="because", user_properties=(("a", "b"),)),
    ),
}


@pytest.mark.parametrize("packet", ANSWERS.values(), ids=ANSWERS)
def test_answers_fit_their_receiver(packet: Any) -> None:
    whole = encode_packet(packet, LEVEL_5)
    shorter = replace(packet, properties=replace(packet.properties, user_properties=()))
    shortest = replace(shorter, properties=replace(shorter.properties, reason_string=None))
    sizes = [len(encode_packet(one, LEVEL_5)) for one in (packet, shorter, shortest)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3
    for limit in range(sizes[2] - 1, sizes[0] + 2):
        fitting = encode_fitting(packet, limit)
        if limit >= sizes[0]:
            assert fitting == whole
        elif limit >= sizes[1]:
            assert fitting == encode_packet(shorter, LEVEL_5)
        elif limit >= sizes[2]:
            assert fitting == encode_packet(shortest, LEVEL_5)
        else:
            assert fitting is None
