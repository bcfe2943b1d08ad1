"""The state machine of a connection, but for PUBLISH: every packet type in every state, CONNECT, SUBSCRIBE, the end."""

from __future__ import annotations

from typing import Any, Final

import mqtt_packets
import pytest
from mqtt_packets import Case
from mqtt_shell import (
    ACCEPTED_5,
    CONNACKS,
    CONNECTS,
    PUBACK,
    PUBLISH_OF,
    Shell,
    both,
    connected,
    in_single_bytes,
    publish,
)

from wire.mqtt.clauses import LEVEL_3_1_1, LEVEL_5, LEVELS
from wire.mqtt.decode import decode_packet
from wire.mqtt.encode import DISCONNECT, PINGREQ, PINGRESP, encode_packet
from wire.mqtt.events import (
    Completed,
    Connected,
    Disconnected,
    Received,
    Refused,
    State,
    Subscribed,
    Unsubscribed,
)
from wire.mqtt.packets import (
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    PubComp,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    TopicSubscription,
    UnsubAck,
    Unsubscribe,
    Will,
)
from wire.mqtt.properties import (
    AckProperties,
    AuthProperties,
    ConnAckProperties,
    ConnectProperties,
    DisconnectProperties,
)
from wire.mqtt.reasons import PacketType, ReasonCode

SUBSCRIBE: Final = Subscribe(packet_id=10, subscriptions=(TopicSubscription(filter="a", qos=1),))
PACKETS: Final[dict[PacketType, Packet]] = {
    PacketType.CONNECT: Connect(client_id="c"),
    PacketType.CONNACK: ConnAck(),
    PacketType.PUBLISH: publish(),
    PacketType.PUBACK: PubAck(packet_id=1),
    PacketType.PUBREC: PubRec(packet_id=1),
    PacketType.PUBREL: PubRel(packet_id=1),
    PacketType.PUBCOMP: PubComp(packet_id=1),
    PacketType.SUBSCRIBE: SUBSCRIBE,
    PacketType.SUBACK: SubAck(packet_id=1, reason_codes=(ReasonCode.SUCCESS,)),
    PacketType.UNSUBSCRIBE: Unsubscribe(packet_id=10, filters=("a",)),
    PacketType.UNSUBACK: UnsubAck(packet_id=1),
    PacketType.PINGREQ: PingReq(),
    PacketType.PINGRESP: PingResp(),
    PacketType.DISCONNECT: Disconnect(),
}
ONLY_FROM_A_SERVER: Final = {LEVEL_3_1_1: "MQTT-2.2.1", LEVEL_5: "MQTT5-2.1.2"}
REFUSED: Final = {  # what a connected client may not send, and the clause that says so
    PacketType.CONNECT: {LEVEL_3_1_1: "MQTT-3.1.0-2", LEVEL_5: "MQTT5-3.1.0-2"},
    PacketType.CONNACK: ONLY_FROM_A_SERVER,
    PacketType.SUBACK: ONLY_FROM_A_SERVER,
    PacketType.UNSUBACK: ONLY_FROM_A_SERVER,
    PacketType.PINGRESP: ONLY_FROM_A_SERVER,
}


def connect_5(client_id: str = "c", **more: Any) -> bytes:
    return encode_packet(Connect(client_id=client_id, protocol_level=LEVEL_5, properties=ConnectProperties(**more)))


def at_level(packet_type: PacketType, level: int) -> bytes:
    packet = PACKETS[packet_type]
    if isinstance(packet, Connect):
        packet = Connect(client_id="c", protocol_level=level)
    return encode_packet(packet, level)


# -- every packet type in every state


@both("3.1.0-1", "3.1.0-1 3.14.0-1")
@pytest.mark.parametrize("packet_type", [kind for kind in PACKETS if kind is not PacketType.CONNECT])
def test_nothing_but_a_connect_comes_first(packet_type: PacketType, level: int) -> None:
    data = at_level(packet_type, level)
    for chunks in ([data[:1]], [data], [data + CONNECTS[level]]):  # the first byte is enough
        shell = Shell().play(chunks)
        assert shell.failed_with()[0] == "MQTT-3.1.0-1"  # no version is agreed upon yet
        assert (shell.out, shell.records, shell.connects) == (b"", [], [])  # MQTT5-3.14.0-1


def test_an_http_request_is_refused_at_its_first_bytes() -> None:
    assert Shell().play([b"GET / HTTP/1.1\r\n"]).failed_with()[0] == "MQTT-2.2.2-2"


@both("3.1.0-2", "3.1.0-2 3.2.0-2 4.13.1-1")
@pytest.mark.parametrize("packet_type", PACKETS)
def test_what_a_connected_client_may_send(packet_type: PacketType, level: int) -> None:
    shell = Shell().play([CONNECTS[level] + PUBLISH_OF[level] + at_level(packet_type, level)])
    if packet_type not in REFUSED:
        assert shell.error is None
        return
    assert shell.failed_with()[0] == REFUSED[packet_type][level]
    assert (len(shell.records), shell.acks, shell.connection.over) == (1, PUBACK, True)
    goodbye = b"" if level == LEVEL_3_1_1 else b"\xe0\x01\x82"
    assert shell.out == CONNACKS[level] + goodbye


@both("4.8.0-1", "4.13.1-1 4.13.2-1")
@pytest.mark.parametrize("packet_type", PACKETS)
def test_a_failed_connection_takes_nothing(packet_type: PacketType, level: int) -> None:
    shell = Shell().play([CONNECTS[level] + PUBLISH_OF[level] + b"\x00"])
    assert shell.connection.state is State.FAILED
    said = shell.out
    shell.receive(at_level(packet_type, level))
    assert shell.error is not None
    assert (len(shell.records), shell.acks, shell.out) == (1, PUBACK, said)
    shell.receive(b"")  # nothing is nothing
    assert (len(shell.records), shell.acks, shell.out) == (1, PUBACK, said)


@both("3.14.4-2", "3.14.4-1")
@pytest.mark.parametrize("packet_type", PACKETS)
def test_nothing_follows_a_disconnect(packet_type: PacketType, level: int) -> None:
    for chunks in ([DISCONNECT + at_level(packet_type, level)], [DISCONNECT, at_level(packet_type, level)]):
        shell = Shell().play([CONNECTS[level], *chunks])
        assert shell.failed_with()[0] == ("MQTT-3.14.4-2" if level == LEVEL_3_1_1 else "MQTT5-3.14.4-1")
        assert shell.events[1:] == [Disconnected(disconnect=Disconnect())]  # clean all the same
        assert (shell.out, shell.records) == (CONNACKS[level], [])  # and nothing is said after it


@both("3.1.4-5", "3.1.4-6")
@pytest.mark.parametrize("packet_type", PACKETS)
def test_nothing_behind_a_refused_connect_is_taken(packet_type: PacketType, level: int) -> None:
    shell = Shell(reply=ConnAck(reason_code=ReasonCode.NOT_AUTHORIZED))
    shell.play([CONNECTS[level] + at_level(packet_type, level), at_level(packet_type, level)])
    refusal = b"\x20\x02\x00\x05" if level == LEVEL_3_1_1 else b"\x20\x03\x00\x87\x00"
    assert (shell.out, shell.records, shell.error) == (refusal, [], None)
    assert shell.connection.state is State.REFUSED
    assert len(shell.events) == 1


# -- CONNECT


@both("3.1.4-4 3.2.0-1 3.2.2-2", "3.1.4-5 3.2.0-1 3.2.2-3")
def test_connect_is_answered_first_and_reported(level: int) -> None:
    connect = Connect(client_id="pump-1", clean_session=True, keep_alive_s=60, protocol_level=level)
    shell = Shell(reply=ConnAck(session_present=True)).play([CONNECTS[level] + PINGREQ])
    connack = b"\x20\x02\x01\x00" if level == LEVEL_3_1_1 else b"\x20\x03\x01\x00\x00"
    assert shell.out == connack + PINGRESP
    assert shell.events == [Connected(connect=connect, connack=ConnAck(session_present=True))]
    assert shell.connects == [connect]
    assert shell.connection.level == level


@both("3.1.4-1", "3.1.4-1")
@pytest.mark.parametrize("cut", [0, 1], ids=["a field is missing", "a reserved flag is set"])
def test_a_connect_that_does_not_conform_is_closed(cut: int, level: int) -> None:
    broken = bytearray(CONNECTS[level])
    if cut == 0:
        broken[1] -= 1
        del broken[-1]
    else:
        broken[9] |= 1
    shell = Shell().play([bytes(broken) + PUBLISH_OF[level]])
    assert shell.error is not None
    assert (shell.connects, shell.events, shell.records) == ([], [], [])
    assert shell.out == (b"" if level == LEVEL_3_1_1 else b"\x20\x03\x00\x81\x00")


@pytest.mark.parametrize("case", mqtt_packets.OTHER_LEVELS, ids=str)
def test_mqtt_3_1_2_2_other_levels_are_answered(case: Case) -> None:
    shell = Shell().play([case.data + PUBLISH_OF[LEVEL_3_1_1]])
    assert shell.error is None
    assert shell.out == b"\x20\x02\x00\x01"
    assert (shell.connection.state, shell.connection.over) == (State.REFUSED, True)
    assert (shell.records, shell.connects) == ([], [])


def test_mqtt5_3_1_2_2_a_newer_level_is_answered_as_5_would() -> None:
    newer = bytearray(CONNECTS[LEVEL_5])
    newer[8] = 6
    assert Shell().play([bytes(newer)]).out == b"\x20\x03\x00\x84\x00"


def test_mqtt_3_1_3_8_an_empty_client_id_needs_a_clean_session() -> None:
    shell = Shell().play([b"\x10\x0c\x00\x04MQTT\x04\x00\x00\x3c\x00\x00"])
    assert shell.out == b"\x20\x02\x00\x02"
    assert isinstance(shell.events[0], Refused)
    assert shell.events[0].reason_code is ReasonCode.CLIENT_IDENTIFIER_NOT_VALID
    assert shell.connects == []


def test_mqtt5_3_1_3_6_an_empty_client_id_may_keep_its_session() -> None:
    shell = Shell().play([encode_packet(Connect(client_id="", clean_session=False, protocol_level=LEVEL_5))])
    assert shell.connection.state is State.CONNECTED


@both("3.1.3-9 3.2.2-5", "3.1.3-8 3.2.2-7")
def test_a_refusal_is_said_and_ends_the_connection(level: int) -> None:
    why = ConnAckProperties(reason_string="this one is taken")
    shell = Shell(reply=ConnAck(reason_code=ReasonCode.CLIENT_IDENTIFIER_NOT_VALID, properties=why))
    shell.play([CONNECTS[level]])
    if level == LEVEL_3_1_1:  # which has no words for it
        assert shell.out == b"\x20\x02\x00\x02"
    else:
        assert decode_packet(shell.out, level) == shell.reply
    assert shell.events == [
        Refused(reason_code=ReasonCode.CLIENT_IDENTIFIER_NOT_VALID, what="this one is taken"),
    ]
    assert shell.connection.over


def test_mqtt_3_2_2_6_where_no_code_fits_closing_says_it_all() -> None:
    reply = ConnAck(reason_code=ReasonCode.TOPIC_NAME_INVALID)
    shell = Shell(reply=reply).play([CONNECTS[LEVEL_3_1_1]])
    assert (shell.out, shell.connection.state) == (b"", State.REFUSED)
    assert Shell(reply=reply).play([CONNECTS[LEVEL_5]]).out == b"\x20\x03\x00\x90\x00"


def test_what_the_shell_raises_ends_the_connection() -> None:
    class Broken(Shell):
        def connect(self, connect: Connect) -> ConnAck:
            raise OSError("no table")

    shell = Broken()
    with pytest.raises(OSError, match="no table"):
        shell.receive(CONNECTS[LEVEL_3_1_1])
    assert shell.connection.state is State.FAILED


# -- no answer is larger than the client takes


@pytest.mark.parametrize("limit", range(1, 60))
def test_mqtt5_3_1_2_24_no_connack_beyond_the_clients_maximum(limit: int) -> None:
    properties = ConnAckProperties(
        reason_string="welcome", user_properties=(("site", "north"),), topic_alias_maximum=10
    )
    shell = Shell(reply=ConnAck(properties=properties)).play([connect_5(maximum_packet_size_bytes=limit)])
    assert len(shell.out) <= limit
    least = encode_packet(ConnAck(properties=ConnAckProperties(topic_alias_maximum=10)), LEVEL_5)
    if limit < len(least):
        assert shell.failed_with() == ("MQTT5-3.1.2-24", ReasonCode.PACKET_TOO_LARGE)
        assert shell.out == b""
    else:
        connack = decode_packet(shell.out, LEVEL_5)
        assert isinstance(connack, ConnAck)
        assert connack.properties.topic_alias_maximum == 10  # MQTT5-3.2.2-19 MQTT5-3.2.2-20: words go first
        assert shell.connection.state is State.CONNECTED


@pytest.mark.parametrize("limit", range(1, 40))
def test_mqtt5_3_1_2_24_no_refusal_beyond_the_clients_maximum(limit: int) -> None:
    why = ConnAckProperties(reason_string="this one is taken")
    shell = Shell(reply=ConnAck(reason_code=ReasonCode.BANNED, properties=why))
    shell.play([connect_5(maximum_packet_size_bytes=limit)])
    assert len(shell.out) <= limit
    assert (shell.connection.state, shell.error) == (State.REFUSED, None)
    assert (shell.out == b"") == (limit < 5)


def test_mqtt5_3_2_2_19_mqtt5_3_2_2_20_words_do_not_make_a_connack_too_large() -> None:
    properties = ConnAckProperties(reason_string="x" * 30, user_properties=(("a", "b" * 30),))
    shell = Shell(reply=ConnAck(properties=properties)).play([connect_5(maximum_packet_size_bytes=45)])
    connack = decode_packet(shell.out, LEVEL_5)
    assert connack == ConnAck(properties=ConnAckProperties(reason_string="x" * 30))


@pytest.mark.parametrize("kind", [Subscribe, Unsubscribe])
def test_mqtt5_3_1_2_24_an_answer_to_many_filters_that_does_not_fit_ends_the_connection(kind: type[Packet]) -> None:
    filters = [f"a/{number}" for number in range(20)]
    request: Packet = (
        Subscribe(packet_id=1, subscriptions=tuple(TopicSubscription(filter=name, qos=0) for name in filters))
        if kind is Subscribe
        else Unsubscribe(packet_id=1, filters=tuple(filters))
    )
    for limit, fits in ((25, True), (24, False)):
        shell = Shell(reply=ConnAck()).play(
            [connect_5(maximum_packet_size_bytes=limit) + encode_packet(request, LEVEL_5)]
        )
        if fits:
            assert (shell.error, len(shell.out)) == (None, 5 + 25)
        else:
            assert shell.failed_with() == ("MQTT5-3.1.2-24", ReasonCode.PACKET_TOO_LARGE)
            assert shell.out == b"\x20\x03\0\0\0" + b"\xe0\x01\x95"


def test_mqtt5_3_1_2_24_every_other_answer_is_smaller_than_any_connack() -> None:
    """With the smallest limit that a CONNACK fits into, nothing that the core says is larger."""
    shell = Shell(reply=ConnAck(), refused_topics=["no"])
    packets: list[Packet] = [
        PingReq(),
        publish(1, "no"),
        publish(2, "no", qos=2),
        publish(3),
        publish(4, qos=2),
        PubRel(packet_id=4),
        PubRel(packet_id=5),
        Disconnect(reason_code=ReasonCode.DISCONNECT_WITH_WILL_MESSAGE),
    ]
    shell.play([connect_5(maximum_packet_size_bytes=5), *(encode_packet(packet, LEVEL_5) for packet in packets)])
    shell.receive(b"\0")
    assert all(len(answer) <= 5 for answer in (*in_packets(shell.out), *in_packets(shell.acks)))
    assert len(in_packets(shell.acks)) == 6


def in_packets(data: bytes) -> list[bytes]:
    answers = []
    while data:
        answers.append(data[: 2 + data[1]])
        data = data[2 + data[1] :]
    return answers


def test_mqtt5_3_1_2_29_answers_have_no_words() -> None:
    shell = Shell(reply=ConnAck(), refused_topics=["no"], refused_filters=["no"])
    subscribe = Subscribe(packet_id=1, subscriptions=(TopicSubscription(filter="no", qos=1),))
    packets: list[Packet] = [
        publish(1, "no"),
        publish(2, "no", qos=2),
        subscribe,
        Unsubscribe(packet_id=2, filters=("a",)),
    ]
    shell.play([connect_5(request_problem_information=False), *(encode_packet(one, LEVEL_5) for one in packets)])
    answers = [decode_packet(answer, LEVEL_5) for answer in in_packets(shell.out + shell.acks)[1:]]
    assert len(answers) == 4
    assert all(answer.properties == AckProperties() for answer in answers)  # type: ignore[union-attr]


# -- SUBSCRIBE and UNSUBSCRIBE


@both("2.3.1-7 3.8.4-1 3.8.4-2 3.8.4-5 3.9.3-1", "2.2.1-6 3.8.4-1 3.8.4-2 3.8.4-6 3.8.4-7")
def test_subscribe_is_answered_filter_by_filter(level: int) -> None:
    wanted = tuple(TopicSubscription(filter=name, qos=qos) for name, qos in (("a/b", 1), ("no", 0), ("#", 2), ("c", 0)))
    subscribe = Subscribe(packet_id=10, subscriptions=wanted)
    shell = connected(level, subscribe, refused_filters=["no"])
    refused = 0x80 if level == LEVEL_3_1_1 else 0x87
    answer = bytes((1, refused, 2, 0))
    head = b"\x90\x06\x00\x0a" if level == LEVEL_3_1_1 else b"\x90\x07\x00\x0a\x00"
    assert shell.out == CONNACKS[level] + head + answer
    assert shell.asked == [subscribe]  # MQTT-3.8.4-4: each with its own outcome
    reasons = (ReasonCode.GRANTED_QOS_1, ReasonCode.NOT_AUTHORIZED, ReasonCode.GRANTED_QOS_2, ReasonCode.GRANTED_QOS_0)
    assert shell.events[1:] == [Subscribed(subscribe=subscribe, reason_codes=reasons)]


@both("2.3.1-7 3.10.4-4 3.10.4-5", "2.2.1-6 3.10.4-4 3.10.4-5")
def test_unsubscribe_is_acknowledged_also_where_there_was_nothing(level: int) -> None:
    unsubscribe = Unsubscribe(packet_id=10, filters=("#", "a"))
    shell = connected(level, unsubscribe)
    answer = b"\xb0\x02\x00\x0a" if level == LEVEL_3_1_1 else b"\xb0\x05\x00\x0a\x00\x11\x11"
    assert shell.out == CONNACKS[level] + answer
    assert shell.asked == [unsubscribe]
    assert shell.events[1:] == [Unsubscribed(unsubscribe=unsubscribe)]


# -- what was sent to the client


@both("4.3.2-1 4.3.3-1", "4.3.2-3 4.3.3-3 4.3.3-5")
def test_a_clients_acknowledgements_are_told_apart(level: int) -> None:
    shell = connected(
        level, PubAck(packet_id=1), PubRec(packet_id=2), PubAck(packet_id=65535), PubComp(packet_id=2), PingReq()
    )
    assert shell.pubacks == [1, 65535]
    assert shell.events[1:] == [Received(packet_id=2, reason_code=ReasonCode.SUCCESS), Completed(packet_id=2)]
    assert shell.out == CONNACKS[level] + PINGRESP
    shell.receive(b"")
    assert shell.connection.pubacks == []  # of the last chunk alone


@pytest.mark.parametrize("reason_code", [ReasonCode.NO_MATCHING_SUBSCRIBERS, ReasonCode.QUOTA_EXCEEDED])
def test_mqtt5_4_4_0_2_a_refusing_acknowledgement_acknowledges(reason_code: ReasonCode) -> None:
    words = AckProperties(reason_string="full")
    shell = connected(
        LEVEL_5,
        PubAck(packet_id=3, reason_code=reason_code, properties=words),
        PubRec(packet_id=4, reason_code=reason_code),
    )
    assert shell.pubacks == [3]
    assert shell.events[1:] == [Received(packet_id=4, reason_code=reason_code)]


@both("2.3.1-1", "2.2.1-3")
@pytest.mark.parametrize("head", [0x40, 0x50, 0x62, 0x70], ids=["PUBACK", "PUBREC", "PUBREL", "PUBCOMP"])
def test_packet_identifier_0_acknowledges_nothing(head: int, level: int) -> None:
    shell = Shell().play([CONNECTS[level] + bytes((head, 2, 0, 0))])
    assert shell.failed_with()[0] == ("MQTT-2.3.1-1" if level == LEVEL_3_1_1 else "MQTT5-2.2.1-3")
    assert (shell.pubacks, shell.events[1:]) == ([], [])


# -- PINGREQ, DISCONNECT, AUTH


@both("3.12.4-1", "3.12.4-1")
def test_pings_are_answered(level: int) -> None:
    shell = Shell().play([CONNECTS[level], PINGREQ * 3, PUBLISH_OF[level]])
    assert shell.out == CONNACKS[level] + PINGRESP * 3
    assert bytes(shell.connection.out) == b""  # of the last chunk alone


@both("3.14.4-3", "3.14.4-2")
def test_disconnect_ends_cleanly(level: int) -> None:
    shell = Shell().play([CONNECTS[level] + PUBLISH_OF[level] + DISCONNECT])
    assert shell.events[1:] == [Disconnected(disconnect=Disconnect())]
    assert (shell.connection.state, shell.connection.over, shell.error) == (State.DISCONNECTED, True, None)
    assert shell.acks == PUBACK


def test_mqtt5_3_14_4_3_the_shell_hears_why_a_client_leaves() -> None:
    disconnect = Disconnect(
        reason_code=ReasonCode.DISCONNECT_WITH_WILL_MESSAGE,
        properties=DisconnectProperties(session_expiry_interval_s=7, reason_string="so long"),
    )
    assert connected(LEVEL_5, disconnect).events[1:] == [Disconnected(disconnect=disconnect)]


@pytest.mark.parametrize(
    "disconnect",
    [
        Disconnect(reason_code=ReasonCode.SERVER_SHUTTING_DOWN),
        Disconnect(properties=DisconnectProperties(server_reference="elsewhere")),
    ],
    ids=["MQTT5-3.14.2-1 a server's reason", "a server's property"],
)
def test_a_client_cannot_disconnect_like_a_server(disconnect: Disconnect) -> None:
    shell = connected(LEVEL_5, disconnect)
    assert shell.failed_with()[1] is ReasonCode.PROTOCOL_ERROR
    assert shell.connection.state is State.FAILED  # and not disconnected: the will is published
    assert shell.out == CONNACKS[LEVEL_5] + b"\xe0\x01\x82"


AUTHS: Final = [
    Auth(),
    Auth(
        reason_code=ReasonCode.CONTINUE_AUTHENTICATION, properties=AuthProperties(authentication_method="SCRAM-SHA-1")
    ),
    Auth(reason_code=ReasonCode.RE_AUTHENTICATE, properties=AuthProperties(authentication_method="SCRAM-SHA-1")),
]


@pytest.mark.parametrize("auth", AUTHS, ids=["success", "continue", "again"])
def test_mqtt5_4_12_0_6_mqtt5_4_12_0_7_mqtt5_4_12_1_2_auth_without_a_method_closes(auth: Auth) -> None:
    """No connection is open on a method, so an AUTH of a client breaks the protocol whatever it says."""
    shell = connected(LEVEL_5, auth)
    assert shell.failed_with() == ("MQTT5-4.12.0-7", ReasonCode.PROTOCOL_ERROR)
    assert shell.out == CONNACKS[LEVEL_5] + b"\xe0\x01\x82"
    assert Shell().play([CONNECTS[LEVEL_3_1_1] + encode_packet(auth, LEVEL_5)]).failed_with()[0] == "MQTT-2.2.1"


@pytest.mark.parametrize("level", LEVELS)
def test_the_core_answers_every_connect_once(level: int) -> None:
    will = Will(topic="gone", payload=b"bye", qos=2, retain=True)
    connect = Connect(client_id="c", will=will, username="u", password=b"p", protocol_level=level)
    shell = Shell().play(in_single_bytes(encode_packet(connect)))
    assert shell.connects == [connect]
    assert shell.out == CONNACKS[level]
    if level == LEVEL_5:
        assert decode_packet(shell.out, LEVEL_5) == ACCEPTED_5
