"""The table of packets of MQTT 5.0; see `mqtt_packets` for what a case is and how it is named."""

from __future__ import annotations

from typing import Any

from mqtt_packets import Case

from wire.mqtt.clauses import LEVEL_5
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
    Publish,
    PubRec,
    PubRel,
    RetainHandling,
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
    PublishProperties,
    SubscribeProperties,
    UnsubscribeProperties,
    WillProperties,
)
from wire.mqtt.reasons import ReasonCode


def raw(head: int, *parts: bytes) -> bytes:
    """A packet of less than 128 bytes."""
    body = b"".join(parts)
    assert len(body) < 128
    return bytes((head, len(body))) + body


def connect(flags: int, *parts: bytes, properties: bytes = b"\0", name: bytes = b"\0\x04MQTT", level: int = 5) -> bytes:
    return raw(0x10, name, bytes((level, flags)), b"\0\x3c", properties, *parts)


def listed(*properties: bytes) -> bytes:
    """Properties behind their length."""
    return raw(0, *properties)[1:]


def good(name: str, data: bytes, packet: Packet, *, canonical: bool = True, server: str | None = None) -> Case:
    server_clause = None if server is None else f"MQTT5-{server}"
    return Case(name=name, data=data, packet=packet, canonical=canonical, level=LEVEL_5, server_clause=server_clause)


def bad(name: str, data: bytes, clause: str, code: ReasonCode = ReasonCode.MALFORMED_PACKET) -> Case:
    return Case(name=name, data=data, clause=f"MQTT5-{clause}", reason_code=code, level=LEVEL_5)


def wrong(name: str, data: bytes, clause: str) -> Case:
    """It can be read, and the protocol does not allow it."""
    return bad(name, data, clause, ReasonCode.PROTOCOL_ERROR)


def _connected(client_id: str = "c", **more: Any) -> Connect:
    return Connect(client_id=client_id, keep_alive_s=60, protocol_level=LEVEL_5, **more)


ID_C = b"\0\x01c"
USER_AB = b"\x26\0\x01a\0\x01b"
REASON_NO = b"\x1f\0\x02no"
WILL_FIELDS = b"\0\0\x04gone\0\x03bye"

GOOD = [
    good("3.1.3-3 2.2.2-1 CONNECT, clean start", connect(0x02, ID_C), _connected()),
    good("3.1.2-11 3.1.2-16 3.1.2-18 CONNECT, clean start 0", connect(0x00, ID_C), _connected(clean_session=False)),
    good("1.5.4-3 CONNECT, client id with U+FEFF", connect(2, b"\0\x04\xef\xbb\xbfx"), _connected("\ufeffx")),
    good("3.1.3-6 CONNECT, no client id, session kept", connect(0, b"\0\0"), _connected("", clean_session=False)),
    good("3.1.2.9 CONNECT, password without user name", connect(0x42, ID_C, b"\0\x01p"), _connected(password=b"p")),
    good(
        "3.1.2-9 3.1.2-12 3.1.2-17 3.1.2-19 3.1.3-1 CONNECT, all fields in order",
        connect(0xEE, ID_C, WILL_FIELDS, b"\0\x01u\0\x02\0\xff"),
        _connected(will=Will(topic="gone", payload=b"bye", qos=1, retain=True), username="u", password=b"\0\xff"),
    ),
    good(
        "3.1.2.11 CONNECT, all properties",
        connect(
            0x02,
            ID_C,
            properties=listed(
                b"\x11\0\0\0\x0a\x21\0\x14\x27\0\0\x10\0\x22\0\x05\x19\x01\x17\0\x15\0\x02kx\x16\0\x01\0", USER_AB
            ),
        ),
        _connected(
            properties=ConnectProperties(
                session_expiry_interval_s=10,
                receive_maximum=20,
                maximum_packet_size_bytes=4096,
                topic_alias_maximum=5,
                request_response_information=True,
                request_problem_information=False,
                authentication_method="kx",
                authentication_data=b"\0",
                user_properties=(("a", "b"),),
            )
        ),
    ),
    good(
        "3.1.3.2 3.1.3-10 CONNECT, all will properties, user properties in order",
        connect(
            0x16,
            ID_C,
            listed(
                b"\x18\0\0\0\x05\x01\x01\x02\0\0\0\x06\x03\0\x01t\x08\0\x01r\x09\0\x01\0",
                USER_AB,
                b"\x26\0\x01a\0\x01a",
            ),
            b"\0\x04gone\0\0",
        ),
        _connected(
            will=Will(
                topic="gone",
                payload=b"",
                qos=2,
                properties=WillProperties(
                    will_delay_interval_s=5,
                    payload_format_indicator=True,
                    message_expiry_interval_s=6,
                    content_type="t",
                    response_topic="r",
                    correlation_data=b"\0",
                    user_properties=(("a", "b"), ("a", "a")),
                ),
            )
        ),
    ),
    good("3.2 CONNACK, success", b"\x20\x03\0\0\0", ConnAck(), server="2.1.2"),
    good("3.2.2-3 CONNACK, session present", b"\x20\x03\x01\0\0", ConnAck(session_present=True), server="2.1.2"),
    good("3.2.2-8 CONNACK, banned", b"\x20\x03\0\x8a\0", ConnAck(reason_code=ReasonCode.BANNED), server="2.1.2"),
    good(
        "3.2.2.3 CONNACK, all properties",
        raw(
            0x20,
            b"\0\0",
            listed(
                b"\x11\0\0\0\x0a\x21\0\x14\x24\x01\x25\0\x27\0\0\x10\0\x12\0\x01i\x22\0\x05",
                REASON_NO,
                b"\x28\0\x29\x01\x2a\0\x13\0\x1e\x1a\0\x01r\x1c\0\x01s\x15\0\x01m\x16\0\x01d",
                USER_AB,
            ),
        ),
        ConnAck(
            properties=ConnAckProperties(
                session_expiry_interval_s=10,
                receive_maximum=20,
                maximum_qos=1,
                retain_available=False,
                maximum_packet_size_bytes=4096,
                assigned_client_identifier="i",
                topic_alias_maximum=5,
                reason_string="no",
                wildcard_subscription_available=False,
                subscription_identifier_available=True,
                shared_subscription_available=False,
                server_keep_alive_s=30,
                response_information="r",
                server_reference="s",
                authentication_method="m",
                authentication_data=b"d",
                user_properties=(("a", "b"),),
            )
        ),
        server="2.1.2",
    ),
    good("2.2.1-2 4.3.1-1 PUBLISH, QoS 0", b"\x30\x06\0\x03a/b\0", Publish(topic="a/b", payload=b"")),
    good(
        "3.3.2-1 PUBLISH, QoS 1",
        b"\x32\x0a\0\x03a/b\0\x0a\0hi",
        Publish(topic="a/b", payload=b"hi", qos=1, packet_id=10),
    ),
    good(
        "3.3.1-1 PUBLISH, QoS 2 again, retained",
        b"\x3d\x07\0\x01a\0\x01\0x",
        Publish(topic="a", payload=b"x", qos=2, dup=True, retain=True, packet_id=1),
    ),
    good(
        "3.3.2.3 3.3.2-18 PUBLISH, all properties, user properties in order",
        raw(
            0x30,
            b"\0\x01a",
            listed(
                b"\x01\0\x02\0\0\0\x06\x03\0\x01t\x08\0\x01r\x09\0\x01\0",
                b"\x0b\x01\x0b\xff\xff\xff\x7f\x23\xff\xff",
                USER_AB * 2,
            ),
            b"hi",
        ),
        Publish(
            topic="a",
            payload=b"hi",
            properties=PublishProperties(
                payload_format_indicator=False,
                message_expiry_interval_s=6,
                content_type="t",
                response_topic="r",
                correlation_data=b"\0",
                subscription_identifiers=(1, 268_435_455),
                topic_alias=65_535,
                user_properties=(("a", "b"), ("a", "b")),
            ),
        ),
        server="3.3.4-6",
    ),
    good(
        "3.3.2.3.4 PUBLISH, alias without topic",
        b"\x30\x07\0\0\x03\x23\0\x01x",
        Publish(topic="", payload=b"x", properties=PublishProperties(topic_alias=1)),
        server="3.3.2.3.4",
    ),
    good(
        "2.2.2 PUBLISH, properties in another order",
        b"\x30\x0d\0\x01a\x09\x23\0\x07\x01\x01\x03\0\x01t",
        Publish(
            topic="a",
            payload=b"",
            properties=PublishProperties(topic_alias=7, payload_format_indicator=True, content_type="t"),
        ),
        canonical=False,
    ),
    good("3.4 PUBACK, short", b"\x40\x02\x12\x34", PubAck(packet_id=0x1234)),
    good("3.4.2.1 PUBACK, success written out", b"\x40\x03\0\x01\0", PubAck(packet_id=1), canonical=False),
    good("3.4.2.2 PUBACK, all of it without need", b"\x40\x04\0\x01\0\0", PubAck(packet_id=1), canonical=False),
    good(
        "3.4.2-1 PUBACK, reason alone",
        b"\x40\x03\0\x01\x10",
        PubAck(packet_id=1, reason_code=ReasonCode.NO_MATCHING_SUBSCRIBERS),
    ),
    good(
        "3.4.2.2 PUBACK, properties",
        raw(0x40, b"\0\x01\x87\x0c", REASON_NO, USER_AB),
        PubAck(
            packet_id=1,
            reason_code=ReasonCode.NOT_AUTHORIZED,
            properties=AckProperties(reason_string="no", user_properties=(("a", "b"),)),
        ),
    ),
    good("3.5.2-1 PUBREC, reason", b"\x50\x03\0\x01\x97", PubRec(packet_id=1, reason_code=ReasonCode.QUOTA_EXCEEDED)),
    good("3.6 PUBREL, short", b"\x62\x02\0\x01", PubRel(packet_id=1)),
    good(
        "3.6.2-1 PUBREL, reason",
        b"\x62\x03\0\x01\x92",
        PubRel(packet_id=1, reason_code=ReasonCode.PACKET_IDENTIFIER_NOT_FOUND),
    ),
    good(
        "3.7.2.2 PUBCOMP, success with a property",
        raw(0x70, b"\0\x01\0\x05", REASON_NO),
        PubComp(packet_id=1, properties=AckProperties(reason_string="no")),
    ),
    good(
        "3.8.3.1 SUBSCRIBE, options",
        raw(0x82, b"\0\x0a\0", b"\0\x01a\x1d", b"\0\x01b\x22"),
        Subscribe(
            packet_id=10,
            subscriptions=(
                TopicSubscription(
                    filter="a",
                    qos=1,
                    no_local=True,
                    retain_as_published=True,
                    retain_handling=RetainHandling.SEND_IF_NEW,
                ),
                TopicSubscription(filter="b", qos=2, retain_handling=RetainHandling.DO_NOT_SEND),
            ),
        ),
    ),
    good(
        "4.8.2-1 3.8.2.1 SUBSCRIBE, shared, with identifier",
        raw(0x82, b"\0\x0a\x0a\x0b\x80\x01", USER_AB, b"\0\x0c$share/g/a/#\x01"),
        Subscribe(
            packet_id=10,
            subscriptions=(TopicSubscription(filter="$share/g/a/#", qos=1),),
            properties=SubscribeProperties(subscription_identifier=128, user_properties=(("a", "b"),)),
        ),
    ),
    good(
        "3.9.3-1 SUBACK, reasons in order",
        raw(0x90, b"\0\x0a\x05", REASON_NO, b"\x02\x00\x8f"),
        SubAck(
            packet_id=10,
            reason_codes=(
                ReasonCode.GRANTED_QOS_2,
                ReasonCode.GRANTED_QOS_0,
                ReasonCode.TOPIC_FILTER_INVALID,
            ),
            properties=AckProperties(reason_string="no"),
        ),
        server="2.1.2",
    ),
    good(
        "3.10.2.1 UNSUBSCRIBE, user property",
        raw(0xA2, b"\0\x0a\x07", USER_AB, b"\0\x01a"),
        Unsubscribe(packet_id=10, filters=("a",), properties=UnsubscribeProperties(user_properties=(("a", "b"),))),
    ),
    good(
        "3.11.3-1 UNSUBACK, reasons in order",
        b"\xb0\x05\0\x0a\0\0\x11",
        UnsubAck(packet_id=10, reason_codes=(ReasonCode.SUCCESS, ReasonCode.NO_SUBSCRIPTION_EXISTED)),
        server="2.1.2",
    ),
    good("3.12 PINGREQ", b"\xc0\0", PingReq()),
    good("3.13 PINGRESP", b"\xd0\0", PingResp(), server="2.1.2"),
    good("3.14 DISCONNECT, short", b"\xe0\0", Disconnect()),
    good("3.14.2.1 DISCONNECT, success written out", b"\xe0\x01\0", Disconnect(), canonical=False),
    good(
        "3.14.2-1 DISCONNECT, reason alone",
        b"\xe0\x01\x04",
        Disconnect(reason_code=ReasonCode.DISCONNECT_WITH_WILL_MESSAGE),
    ),
    good(
        "3.14.2.2 DISCONNECT, all properties",
        raw(0xE0, b"\x9d\x15\x11\0\0\0\x01", REASON_NO, b"\x1c\0\x01s", USER_AB),
        Disconnect(
            reason_code=ReasonCode.SERVER_MOVED,
            properties=DisconnectProperties(
                session_expiry_interval_s=1, reason_string="no", server_reference="s", user_properties=(("a", "b"),)
            ),
        ),
        server="3.14.2-1",
    ),
    good("3.15.2.1 AUTH, short", b"\xf0\0", Auth(), server="4.12.0-7"),
    good("3.15.2.1 AUTH, success written out", b"\xf0\x02\0\0", Auth(), canonical=False, server="4.12.0-7"),
    good(
        "3.15.2-1 AUTH, continue",
        raw(0xF0, b"\x18\x14\x15\0\x01m\x16\0\x01d", REASON_NO, USER_AB),
        Auth(
            reason_code=ReasonCode.CONTINUE_AUTHENTICATION,
            properties=AuthProperties(
                authentication_method="m",
                authentication_data=b"d",
                reason_string="no",
                user_properties=(("a", "b"),),
            ),
        ),
        server="4.12.0-7",
    ),
]

BAD_FIELDS = [
    bad("1.5.4-1 3.1.3-4 client id is not UTF-8", connect(2, b"\0\x01\xff"), "1.5.4-1"),
    bad("1.5.4-1 client id has a surrogate", connect(2, b"\0\x03\xed\xa0\x80"), "1.5.4-1"),
    bad("1.5.4-2 client id has U+0000", connect(2, b"\0\x03a\0b"), "1.5.4-2"),
    bad("1.5.5-1 remaining length longer than needed", b"\xc0\x80\0", "1.5.5-1"),
    bad("1.5.5 remaining length of five bytes", b"\x30\xff\xff\xff\xff\x01", "1.5.5"),
    bad("1.5.5-1 property length longer than needed", b"\x30\x05\0\x01a\x80\0", "1.5.5-1"),
    bad("1.5.5 property length of five bytes", b"\x30\x08\0\x01a\xff\xff\xff\xff\x01", "1.5.5"),
    bad("1.5.5-1 subscription identifier", b"\x30\x07\0\x01a\x03\x0b\x81\0", "1.5.5-1"),
    bad("1.5.7-1 user property whose name is not UTF-8", b"\xe0\x09\0\x07\x26\0\x01\xff\0\x01b", "1.5.4-1"),
    bad("1.5.7-1 user property whose value has U+0000", b"\xe0\x09\0\x07\x26\0\x01a\0\x01\0", "1.5.4-2"),
    bad("2.1.2 packet type 0", b"\0\0", "2.1.2"),
    bad("2.1.3-1 CONNECT with flags", b"\x11" + connect(2, ID_C)[1:], "2.1.3-1"),
    bad("2.1.3-1 PUBACK with flags", b"\x42\x02\0\x01", "2.1.3-1"),
    bad("2.1.4 PINGREQ with a body", b"\xc0\x01\0", "2.1.4"),
    wrong("2.2.1-3 PUBLISH with packet id 0", b"\x32\x06\0\x01a\0\0\0", "2.2.1-3"),
    wrong("2.2.1-3 SUBSCRIBE with packet id 0", b"\x82\x07\0\0\0\0\x01#\0", "2.2.1-3"),
    wrong("2.2.1-3 UNSUBSCRIBE with packet id 0", b"\xa2\x06\0\0\0\0\x01#", "2.2.1-3"),
    bad("2.2.2-1 PUBLISH without property length", b"\x30\x03\0\x01a", "2.1.4"),
    bad("2.2.2 properties longer than the packet", b"\x30\x06\0\x01a\x09\x01\x01", "2.2.2"),
    bad("2.2.2 property cut by the properties' end", b"\x30\x08\0\x01a\x02\x02\0\0\0", "2.1.4"),
    bad("2.2.2.2 no such property", b"\x30\x06\0\x01a\x02\x04\0", "2.2.2.2"),
    bad("2.2.2.2 property identifier of two bytes", b"\x30\x06\0\x01a\x02\x81\x01", "2.2.2.2"),
    bad("1.5.5-1 property identifier longer than needed", b"\x30\x07\0\x01a\x03\x81\0\x01", "1.5.5-1"),
    bad("2.2.2.2 property of another packet", b"\x30\x07\0\x01a\x03\x21\0\x01", "2.2.2.2"),
]

BAD_CONNECTS = [
    bad("2.1.4 CONNECT that ends in a field", connect(2, b"\0\x06pump"), "2.1.4"),
    bad("2.1.4 CONNECT with more behind it", connect(2, ID_C, b"x"), "2.1.4"),
    bad(
        "3.1.2-1 protocol name",
        connect(2, ID_C, name=b"\0\x04mqtt"),
        "3.1.2-1",
        ReasonCode.UNSUPPORTED_PROTOCOL_VERSION,
    ),
    bad("3.1.2-2 level 6", connect(2, ID_C, level=6), "3.1.2-2", ReasonCode.UNSUPPORTED_PROTOCOL_VERSION),
    bad("3.1.2-3 reserved connect flag", connect(3, ID_C), "3.1.2-3"),
    bad("3.1.2-9 will without its fields", connect(6, ID_C), "2.1.4"),
    bad("3.1.2-11 will QoS without will", connect(0x0A, ID_C), "3.1.2-11"),
    bad("3.1.2-12 will QoS 3", connect(0x1E, ID_C, WILL_FIELDS), "3.1.2-12"),
    bad("3.1.2-13 will retain without will", connect(0x22, ID_C), "3.1.2-13"),
    bad("3.1.2-16 a user name without its flag", connect(2, ID_C, b"\0\x01u"), "2.1.4"),
    bad("3.1.2-17 user name missing", connect(0x82, ID_C), "2.1.4"),
    bad("3.1.2-18 a password without its flag", connect(0x82, ID_C, b"\0\x01u\0\x01p"), "2.1.4"),
    bad("3.1.2-19 password missing", connect(0x42, ID_C), "2.1.4"),
    bad("3.1.3-3 CONNECT without client id", connect(2), "2.1.4"),
    bad("3.1.3-11 will topic not UTF-8", connect(6, ID_C, b"\0\0\x01\xff\0\0"), "1.5.4-1"),
    bad("3.1.3-12 user name not UTF-8", connect(0x82, ID_C, b"\0\x01\xfe"), "1.5.4-1"),
    bad("3.3.2-2 will topic with a wildcard", connect(6, ID_C, b"\0\0\x01#\0\0"), "3.3.2-2"),
    wrong("3.1.2.11.3 receive maximum 0", connect(2, ID_C, properties=b"\x03\x21\0\0"), "3.1.2.11.3"),
    wrong("3.1.2.11.4 maximum packet size 0", connect(2, ID_C, properties=b"\x05\x27\0\0\0\0"), "3.1.2.11.4"),
    wrong("3.1.2.11.6 request response information 2", connect(2, ID_C, properties=b"\x02\x19\x02"), "3.1.2.11.6"),
    wrong("3.1.2.11.7 request problem information 2", connect(2, ID_C, properties=b"\x02\x17\x02"), "3.1.2.11.7"),
    wrong("3.1.2.11.10 data without method", connect(2, ID_C, properties=b"\x04\x16\0\x01d"), "3.1.2.11.10"),
    wrong("3.3.2.3.2 will payload format 2", connect(6, ID_C, b"\x02\x01\x02\0\x01a\0\0"), "3.3.2.3.2"),
]

BAD_PUBLISHES = [
    bad("3.3.1-2 PUBLISH, DUP with QoS 0", b"\x38\x05\0\x01a\0x", "3.3.1-2"),
    bad("3.3.1-4 PUBLISH, QoS 3", b"\x36\x07\0\x01a\0\x07\0x", "3.3.1-4"),
    bad("3.3.2-1 topic is not UTF-8", b"\x30\x05\0\x02a\xff\0", "1.5.4-1"),
    bad("3.3.2-2 4.7.0-1 topic with #", b"\x30\x06\0\x03a/#\0", "3.3.2-2"),
    bad("3.3.2-2 4.7.0-1 topic with +", b"\x30\x05\0\x02a+\0", "3.3.2-2"),
    wrong("3.3.2.1 4.7.3-1 no topic and no alias", b"\x30\x04\0\0\0x", "3.3.2.1"),
    wrong("3.3.2.3.2 payload format 2", b"\x30\x06\0\x01a\x02\x01\x02", "3.3.2.3.2"),
    wrong("3.3.2.3.3 message expiry twice", raw(0x30, b"\0\x01a\x0a", b"\x02\0\0\0\x01" * 2), "3.3.2.3.3"),
    bad("3.3.2-8 topic alias 0", b"\x30\x07\0\x01a\x03\x23\0\0", "3.3.2-8", ReasonCode.TOPIC_ALIAS_INVALID),
    bad("3.3.2-13 response topic is not UTF-8", b"\x30\x08\0\x01a\x04\x08\0\x01\xff", "1.5.4-1"),
    bad("3.3.2-14 response topic with #", b"\x30\x08\0\x01a\x04\x08\0\x01#", "3.3.2-14"),
    bad("3.3.2-14 response topic with +", b"\x30\x08\0\x01a\x04\x08\0\x01+", "3.3.2-14"),
    bad("4.7.3-1 response topic is empty", b"\x30\x07\0\x01a\x03\x08\0\0", "4.7.3-1"),
    wrong("3.3.2.3.8 subscription identifier 0", b"\x30\x06\0\x01a\x02\x0b\0", "3.8.2.1.2"),
    bad("3.3.2-19 content type is not UTF-8", b"\x30\x08\0\x01a\x04\x03\0\x01\xff", "1.5.4-1"),
]

BAD_SUBSCRIBES = [
    bad("3.8.1-1 SUBSCRIBE with flags 0000", b"\x80\x07\0\x01\0\0\x01#\0", "3.8.1-1"),
    bad("3.8.3-1 filter is not UTF-8", b"\x82\x07\0\x01\0\0\x01\xff\0", "1.5.4-1"),
    wrong("3.8.3-2 SUBSCRIBE without a filter", b"\x82\x03\0\x01\0", "3.8.3-2"),
    wrong("3.8.3.1 SUBSCRIBE with QoS 3", b"\x82\x07\0\x01\0\0\x01#\x03", "3.8.3.1"),
    wrong("3.8.3.1 SUBSCRIBE with retain handling 3", b"\x82\x07\0\x01\0\0\x01#\x30", "3.8.3.1"),
    wrong("3.8.3-4 shared subscription with No Local", raw(0x82, b"\0\x01\0\0\x0a$share/g/a\x04"), "3.8.3-4"),
    bad("3.8.3-5 SUBSCRIBE with reserved bits", b"\x82\x07\0\x01\0\0\x01#\x40", "3.8.3-5"),
    bad("2.1.4 SUBSCRIBE without its options", b"\x82\x06\0\x01\0\0\x01#", "2.1.4"),
    wrong("3.8.2.1.2 subscription identifier 0", raw(0x82, b"\0\x01\x02\x0b\0\0\x01#\0"), "3.8.2.1.2"),
    wrong("3.8.2.1.2 two subscription identifiers", raw(0x82, b"\0\x01\x04\x0b\x01\x0b\x02\0\x01#\0"), "3.8.2.1.2"),
    bad("4.7.1-1 # not last", raw(0x82, b"\0\x01\0\0\x03#/a\0"), "4.7.1-1"),
    bad("4.7.1-2 + in a level", raw(0x82, b"\0\x01\0\0\x02a+\0"), "4.7.1-2"),
    bad("4.7.3-1 filter is empty", raw(0x82, b"\0\x01\0\0\0\0"), "4.7.3-1"),
    wrong("4.8.2-1 share name is empty", raw(0x82, b"\0\x01\0\0\x09$share//a\0"), "4.8.2-1"),
    wrong("4.8.2-1 $share alone", raw(0x82, b"\0\x01\0\0\x06$share\0"), "4.8.2-1"),
    wrong("4.8.2-2 share name with a wildcard", raw(0x82, b"\0\x01\0\0\x0a$share/+/a\0"), "4.8.2-2"),
    wrong("4.8.2-2 shared without a filter", raw(0x82, b"\0\x01\0\0\x08$share/g\0"), "4.8.2-2"),
    wrong("4.8.2-2 shared with an empty filter", raw(0x82, b"\0\x01\0\0\x09$share/g/\0"), "4.8.2-2"),
    bad("3.10.1-1 UNSUBSCRIBE with flags 0000", b"\xa0\x06\0\x01\0\0\x01#", "3.10.1-1"),
    bad("3.10.3-1 filter is not UTF-8", b"\xa2\x06\0\x01\0\0\x01\xff", "1.5.4-1"),
    wrong("3.10.3-2 UNSUBSCRIBE without a filter", b"\xa2\x03\0\x01\0", "3.10.3-2"),
]

BAD_ANSWERS = [
    bad("3.2.2-1 CONNACK with reserved flags", b"\x20\x03\x02\0\0", "3.2.2-1"),
    bad("3.2.2-6 CONNACK, refusal with session", b"\x20\x03\x01\x87\0", "3.2.2-6"),
    wrong("3.2.2-8 CONNACK with a 3.1.1 code", b"\x20\x03\0\x05\0", "3.2.2-8"),
    wrong("3.2.2.3.4 maximum QoS 2", b"\x20\x05\0\0\x02\x24\x02", "3.2.2.3.4"),
    wrong("3.2.2.3.5 retain available 2", b"\x20\x05\0\0\x02\x25\x02", "3.2.2.3.5"),
    wrong("3.4.2-1 PUBACK with another packet's reason", b"\x40\x03\0\x01\x92", "3.4.2-1"),
    bad("2.1.4 PUBACK of one byte", b"\x40\x01\x01", "2.1.4"),
    bad("2.1.4 PUBACK with more behind its properties", b"\x40\x05\0\x01\0\0\0", "2.1.4"),
    wrong("3.5.2-1 PUBREC with another packet's reason", b"\x50\x03\0\x01\x11", "3.5.2-1"),
    bad("3.6.1-1 PUBREL with flags 0000", b"\x60\x02\0\x01", "3.6.1-1"),
    wrong("3.6.2-1 PUBREL with another packet's reason", b"\x62\x03\0\x01\x80", "3.6.2-1"),
    wrong("3.7.2-1 PUBCOMP with another packet's reason", b"\x70\x03\0\x01\x80", "3.7.2-1"),
    wrong("3.9.3-2 SUBACK with another packet's reason", b"\x90\x04\0\x01\0\x03", "3.9.3-2"),
    wrong("3.11.3-2 UNSUBACK with another packet's reason", b"\xb0\x04\0\x01\0\x01", "3.11.3-2"),
    bad("3.14.1-1 DISCONNECT with flags", b"\xe1\0", "3.14.1-1"),
    wrong("3.14.2-1 DISCONNECT with another packet's reason", b"\xe0\x01\x10", "3.14.2-1"),
    bad("2.1.4 DISCONNECT with more behind its properties", b"\xe0\x03\0\0\0", "2.1.4"),
    bad("3.15.1-1 AUTH with flags", b"\xf1\0", "3.15.1-1"),
    wrong("3.15.2-1 AUTH with another packet's reason", b"\xf0\x02\x04\0", "3.15.2-1"),
    wrong("3.15.2.2.2 AUTH without a method", b"\xf0\x02\x18\0", "3.15.2.2.2"),
    bad("2.1.4 AUTH without property length", b"\xf0\x01\x18", "2.1.4"),
]

BAD = [*BAD_FIELDS, *BAD_CONNECTS, *BAD_PUBLISHES, *BAD_SUBSCRIBES, *BAD_ANSWERS]
ALL = [*GOOD, *BAD]
