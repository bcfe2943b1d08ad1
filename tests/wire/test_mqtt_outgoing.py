"""Messages encoded once for many, and answers cut to what their receiver takes: the same bytes as the encoder's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mqtt_strategies import packet_ids, properties, topics

from wire.mqtt.clauses import LEVEL_5
from wire.mqtt.decode import decode_packet
from wire.mqtt.encode import encode_packet, encode_publish
from wire.mqtt.fitting import encode_fitting
from wire.mqtt.outgoing import OutgoingPublish, sent_again
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


@given(topics, st.binary(max_size=200), st.integers(0, 2), st.booleans(), packet_ids)
def test_3_1_1_parts_are_the_packet(topic: str, payload: bytes, qos: int, retain: bool, packet_id: int) -> None:
    parts = OutgoingPublish(topic=topic, payload=payload).parts(qos=qos, retain=retain)
    written = parts.packet(packet_id if qos else None)
    plain = Publish(topic=topic, payload=payload, qos=qos, retain=retain, packet_id=packet_id if qos else None)
    assert written == encode_publish(plain)
    assert parts.size_bytes == len(written)


@given(
    topics,
    st.binary(max_size=200),
    st.integers(0, 2),
    packet_ids,
    publishers,
    st.lists(st.integers(1, 268_435_455), max_size=3),
    st.none() | st.integers(1, 65_535),
    st.booleans(),
)
def test_5_parts_are_the_packet(
    topic: str,
    payload: bytes,
    qos: int,
    packet_id: int,
    of_publisher: PublishProperties,
    identifiers: list[int],
    alias: int | None,
    known: bool,
) -> None:
    message = OutgoingPublish(topic=topic, payload=payload, properties=of_publisher, level=LEVEL_5)
    with_topic = alias is None or not known
    parts = message.parts(qos=qos, subscription_identifiers=identifiers, topic_alias=alias, with_topic=with_topic)
    written = parts.packet(packet_id if qos else None)
    assert parts.size_bytes == len(written)
    assert decode_packet(written, LEVEL_5) == Publish(
        topic=topic if with_topic else "",
        payload=payload,
        qos=qos,
        packet_id=packet_id if qos else None,
        properties=replace(of_publisher, subscription_identifiers=tuple(identifiers), topic_alias=alias),
    )


@given(publishers)
def test_user_properties_keep_their_order(of_publisher: PublishProperties) -> None:
    packet = OutgoingPublish(topic="a", payload=b"", properties=of_publisher, level=LEVEL_5).parts(qos=0).packet()
    sent = decode_packet(packet, LEVEL_5)
    assert isinstance(sent, Publish)
    assert sent.properties == of_publisher


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        ({"topic": ""}, {}),
        ({"topic": "a\0"}, {}),
        ({"properties": PublishProperties(topic_alias=1), "level": LEVEL_5}, {}),
        ({"properties": PublishProperties(subscription_identifiers=(1,)), "level": LEVEL_5}, {}),
        ({"properties": PublishProperties(content_type="x")}, {}),
        ({}, {"qos": 3}),
        ({}, {"subscription_identifiers": (1,)}),
        ({"level": LEVEL_5}, {"subscription_identifiers": (0,)}),
        ({"level": LEVEL_5}, {"topic_alias": 0}),
        ({"level": LEVEL_5}, {"with_topic": False}),
    ],
)
def test_what_no_publish_may_say(message: dict[str, Any], parts: dict[str, Any]) -> None:
    whole: dict[str, Any] = {"topic": "a", "payload": b"", "properties": NO_PUBLISH_PROPERTIES, **message}
    with pytest.raises(ValueError, match="MQTT"):
        OutgoingPublish(**whole).parts(**{"qos": 0, **parts})


@pytest.mark.parametrize(("qos", "packet_id"), [(0, 1), (1, None), (2, None), (1, 0), (1, 65_536)])
def test_a_packet_identifier_belongs_to_qos_1_and_2(qos: int, packet_id: int | None) -> None:
    with pytest.raises(ValueError, match=r"2\.3\.1"):
        OutgoingPublish(topic="a", payload=b"").parts(qos=qos).packet(packet_id)


@given(topics, st.integers(1, 2), packet_ids)
def test_sent_again_it_has_dup(topic: str, qos: int, packet_id: int) -> None:
    publish = Publish(topic=topic, payload=b"x", qos=qos, packet_id=packet_id)
    assert sent_again(encode_publish(publish)) == encode_publish(replace(publish, dup=True))


@pytest.mark.parametrize("packet", [b"\x30\x03\0\x01a", b"\x40\x02\0\x01"], ids=["MQTT-3.3.1-2 QoS 0", "PUBACK"])
def test_nothing_else_is_sent_again(packet: bytes) -> None:
    with pytest.raises(ValueError, match=r"3\.3\.1-2"):
        sent_again(packet)


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
