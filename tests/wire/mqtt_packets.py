"""The table of packets of 3.1.1: bytes written by hand from the specification, what they mean, or which clause they
break. `mqtt5_packets` is the same for 5.0. Codec, server and fuzz tests read them.

The naming rule: a case's name begins with the clauses or sections that it shows, and its test id writes them with the
version: `MQTT-3.1.2-3` is 3.1.1's, `MQTT5-3.1.2-3` is 5.0's. docs/mqtt_conformance.md finds its tests by these ids.

`server_clause` is what a server says when that differs from the decoder: correct packets at the wrong side.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from wire.mqtt.clauses import LEVEL_3_1_1
from wire.mqtt.packets import (
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
    SubAck,
    Subscribe,
    TopicSubscription,
    UnsubAck,
    Unsubscribe,
    Will,
)
from wire.mqtt.reasons import ReasonCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One packet. Either `packet` says what it means or `clause` what it breaks."""

    name: str
    data: bytes
    packet: Packet | None = None
    clause: str | None = None
    server_clause: str | None = None
    canonical: bool = True  # encoding `packet` gives `data` again
    level: int = LEVEL_3_1_1
    reason_code: ReasonCode = ReasonCode.MALFORMED_PACKET  # what a 5.0 server answers when `clause` is broken

    def __str__(self) -> str:
        version = "MQTT" if self.level == LEVEL_3_1_1 else "MQTT5"
        return re.sub(r"(?<![\d.])(\d+(?:\.\d+)+(?:-\d+)?)(?= )", rf"{version}-\1", self.name)


def _connect(flags: int, payload: bytes, name: bytes = b"\0\x04MQTT", level: int = 4) -> bytes:
    variable = name + bytes((level, flags)) + b"\0\x3c" + payload
    return bytes((0x10, len(variable))) + variable


CONNECT = _connect(0x02, b"\0\x06pump-1")
WILL = Will(topic="gone/pump", payload=b"bye", qos=1, retain=True)
WILL_BYTES = b"\0\x09gone/pump" + b"\0\x03bye"

GOOD = [
    Case(
        name="3.1.2-11 3.1.2-18 3.1.2-20 3.1.3-3 CONNECT, clean session and nothing more",
        data=CONNECT,
        packet=Connect(client_id="pump-1", clean_session=True, keep_alive_s=60),
    ),
    Case(
        name="3.1.2-4 CONNECT, session kept",
        data=_connect(0x00, b"\0\x06pump-1"),
        packet=Connect(client_id="pump-1", clean_session=False, keep_alive_s=60),
    ),
    Case(
        name="3.1.3-6 CONNECT, empty client id with clean session",
        data=_connect(0x02, b"\0\0"),
        packet=Connect(client_id="", clean_session=True, keep_alive_s=60),
    ),
    Case(
        name="3.1.2-9 3.1.2-19 3.1.2-21 3.1.3-1 CONNECT, will, user name and password in order",
        data=_connect(0xEE, b"\0\x01c" + WILL_BYTES + b"\0\x04user" + b"\0\x02\0\xff"),
        packet=Connect(
            client_id="c", clean_session=True, keep_alive_s=60, will=WILL, username="user", password=b"\0\xff"
        ),
    ),
    Case(
        name="3.1.2-20 CONNECT, user name without a password",
        data=_connect(0x82, b"\0\x01c" + b"\0\x00"),
        packet=Connect(client_id="c", clean_session=True, keep_alive_s=60, username=""),
    ),
    Case(
        name="1.5.3-3 CONNECT, client id that begins with U+FEFF",
        data=_connect(0x02, b"\0\x04\xef\xbb\xbfx"),
        packet=Connect(client_id="\ufeffx", clean_session=True, keep_alive_s=60),
    ),
    Case(name="3.2 CONNACK, accepted", data=b"\x20\x02\x00\x00", packet=ConnAck(), server_clause="MQTT-2.2.1"),
    Case(
        name="3.2.2-2 CONNACK, session present",
        data=b"\x20\x02\x01\x00",
        packet=ConnAck(session_present=True),
        server_clause="MQTT-2.2.1",
    ),
    Case(
        name="3.2.2.3 CONNACK, not authorized",
        data=b"\x20\x02\x00\x05",
        packet=ConnAck(reason_code=ReasonCode.NOT_AUTHORIZED),
        server_clause="MQTT-2.2.1",
    ),
    Case(
        name="2.3.1-5 4.3.1-1 PUBLISH, QoS 0", data=b"\x30\x07\x00\x03a/bhi", packet=Publish(topic="a/b", payload=b"hi")
    ),
    Case(
        name="3.3.2-1 PUBLISH, QoS 1",
        data=b"\x32\x09\x00\x03a/b\x00\x0ahi",
        packet=Publish(topic="a/b", payload=b"hi", qos=1, packet_id=10),
    ),
    Case(
        name="3.3.1-1 PUBLISH, QoS 1 again with DUP, retained",
        data=b"\x3b\x09\x00\x03a/b\xff\xffhi",
        packet=Publish(topic="a/b", payload=b"hi", qos=1, dup=True, retain=True, packet_id=65535),
    ),
    Case(
        name="3.3.1-10 PUBLISH, retained and without payload",
        data=b"\x31\x05\x00\x03a/b",
        packet=Publish(topic="a/b", payload=b"", retain=True),
    ),
    Case(
        name="3.3 PUBLISH, QoS 1 without payload",
        data=b"\x32\x05\x00\x01a\x00\x01",
        packet=Publish(topic="a", payload=b"", qos=1, packet_id=1),
    ),
    Case(
        name="4.7.3-1 PUBLISH, topic of a space and a slash",
        data=b"\x30\x04\x00\x02 /",
        packet=Publish(topic=" /", payload=b""),
    ),
    Case(
        name="2.2.3 PUBLISH, remaining length of two bytes",
        data=b"\x30\xc8\x01\x00\x01a" + b"x" * 197,
        packet=Publish(topic="a", payload=b"x" * 197),
    ),
    Case(
        name="2.2.3 PUBLISH, remaining length longer than needed",
        data=b"\x30\x84\x80\x00\x00\x01ab",
        packet=Publish(topic="a", payload=b"b"),
        canonical=False,
    ),
    Case(
        name="3.3 PUBLISH, QoS 2",
        data=b"\x34\x06\x00\x01a\x00\x07x",
        packet=Publish(topic="a", payload=b"x", qos=2, packet_id=7),
    ),
    Case(name="3.4 PUBACK", data=b"\x40\x02\x12\x34", packet=PubAck(packet_id=0x1234)),
    Case(name="3.5 PUBREC", data=b"\x50\x02\x12\x34", packet=PubRec(packet_id=0x1234)),
    Case(name="3.6 PUBREL", data=b"\x62\x02\x12\x34", packet=PubRel(packet_id=0x1234)),
    Case(name="3.7 PUBCOMP", data=b"\x70\x02\x12\x34", packet=PubComp(packet_id=0x1234)),
    Case(
        name="3.8 SUBSCRIBE, two filters",
        data=b"\x82\x0f\x00\x0a\x00\x03a/b\x01\x00\x04+/c/\x02",
        packet=Subscribe(
            packet_id=10,
            subscriptions=(TopicSubscription(filter="a/b", qos=1), TopicSubscription(filter="+/c/", qos=2)),
        ),
    ),
    Case(
        name="4.7.1-2 SUBSCRIBE to everything",
        data=b"\x82\x06\x00\x01\x00\x01#\x00",
        packet=Subscribe(packet_id=1, subscriptions=(TopicSubscription(filter="#", qos=0),)),
    ),
    Case(
        name="3.9 SUBACK",
        data=b"\x90\x04\x00\x0a\x01\x80",
        packet=SubAck(packet_id=10, reason_codes=(ReasonCode.GRANTED_QOS_1, ReasonCode.UNSPECIFIED_ERROR)),
        server_clause="MQTT-2.2.1",
    ),
    Case(
        name="3.10 UNSUBSCRIBE",
        data=b"\xa2\x0a\x00\x0a\x00\x03a/b\x00\x01+",
        packet=Unsubscribe(packet_id=10, filters=("a/b", "+")),
    ),
    Case(name="3.11 UNSUBACK", data=b"\xb0\x02\x00\x0a", packet=UnsubAck(packet_id=10), server_clause="MQTT-2.2.1"),
    Case(name="3.12 PINGREQ", data=b"\xc0\x00", packet=PingReq()),
    Case(name="3.13 PINGRESP", data=b"\xd0\x00", packet=PingResp(), server_clause="MQTT-2.2.1"),
    Case(name="3.14 DISCONNECT", data=b"\xe0\x00", packet=Disconnect()),
]

BAD_CONNECTS = [
    Case(name="1.5.3-1 3.1.3-4 client id is not UTF-8", data=_connect(2, b"\0\x01\xff"), clause="MQTT-1.5.3-1"),
    Case(name="1.5.3-1 client id has a surrogate", data=_connect(2, b"\0\x03\xed\xa0\x80"), clause="MQTT-1.5.3-1"),
    Case(name="1.5.3-1 client id is overlong UTF-8", data=_connect(2, b"\0\x02\xc0\x80"), clause="MQTT-1.5.3-1"),
    Case(name="1.5.3-2 client id has U+0000", data=_connect(2, b"\0\x03a\0b"), clause="MQTT-1.5.3-2"),
    Case(name="2.2.2-1 2.2.2-2 CONNECT with flags", data=b"\x11" + CONNECT[1:], clause="MQTT-2.2.2-2"),
    Case(name="2.2.3 CONNECT that ends in a field", data=_connect(2, b"\0\x06pump"), clause="MQTT-2.2.3"),
    Case(name="2.2.3 CONNECT with more behind it", data=_connect(2, b"\0\x01cx"), clause="MQTT-2.2.3"),
    Case(name="2.2.3 CONNECT of no bytes", data=b"\x10\x00", clause="MQTT-2.2.3"),
    Case(
        name="3.1.2-1 protocol name",
        data=_connect(2, b"\0\x01c", b"\0\x04mqtt"),
        clause="MQTT-3.1.2-1",
        reason_code=ReasonCode.UNSUPPORTED_PROTOCOL_VERSION,
    ),
    Case(name="3.1.2-3 reserved connect flag", data=_connect(3, b"\0\x01c"), clause="MQTT-3.1.2-3"),
    Case(name="3.1.2-9 will flag without a will", data=_connect(6, b"\0\x01c"), clause="MQTT-2.2.3"),
    Case(name="3.1.2-13 will QoS without will", data=_connect(0x0A, b"\0\x01c"), clause="MQTT-3.1.2-13"),
    Case(name="3.1.2-14 will QoS 3", data=_connect(0x1E, b"\0\x01c" + WILL_BYTES), clause="MQTT-3.1.2-14"),
    Case(name="3.1.2-15 will retain without will", data=_connect(0x22, b"\0\x01c"), clause="MQTT-3.1.2-15"),
    Case(name="3.1.2-19 user name missing", data=_connect(0x82, b"\0\x01c"), clause="MQTT-2.2.3"),
    Case(name="3.1.2-22 password without user name", data=_connect(0x42, b"\0\x01c\0\x01p"), clause="MQTT-3.1.2-22"),
    Case(name="3.1.3-11 user name not UTF-8", data=_connect(0x82, b"\0\x01c\0\x01\xfe"), clause="MQTT-1.5.3-1"),
    Case(name="3.1.2-11 a will topic without a will", data=_connect(2, b"\0\x01c" + WILL_BYTES), clause="MQTT-2.2.3"),
    Case(name="3.1.2-18 a user name without its flag", data=_connect(2, b"\0\x01c\0\x01u"), clause="MQTT-2.2.3"),
    Case(name="3.1.2-20 a password without its flag", data=_connect(0x82, b"\0\x01c\0\0\0\x01p"), clause="MQTT-2.2.3"),
    Case(name="3.1.2-21 password missing", data=_connect(0xC2, b"\0\x01c\0\0"), clause="MQTT-2.2.3"),
    Case(
        name="3.1.3-10 will topic not UTF-8", data=_connect(0x06, b"\0\x01c" + b"\0\x01\xff\0\0"), clause="MQTT-1.5.3-1"
    ),
    Case(
        name="3.3.2-2 will topic with a wildcard",
        data=_connect(0x06, b"\0\x01c" + b"\0\x01#\0\0"),
        clause="MQTT-3.3.2-2",
    ),
]

# Answered with a CONNACK before the connection is closed.
OTHER_LEVELS = [
    Case(
        name="3.1.2-2 MQTT 3.1",
        data=_connect(2, b"\0\x01c", b"\0\x06MQIsdp", 3),
        clause="MQTT-3.1.2-2",
        reason_code=ReasonCode.UNSUPPORTED_PROTOCOL_VERSION,
    ),
    Case(
        name="3.1.2-2 level 0x84 of a bridge",
        data=_connect(2, b"\0\x01c", level=0x84),
        clause="MQTT-3.1.2-2",
        reason_code=ReasonCode.UNSUPPORTED_PROTOCOL_VERSION,
    ),
]

BAD = [
    Case(name="2.2.1 packet type 0", data=b"\x00\x00", clause="MQTT-2.2.1"),
    Case(name="2.2.1 packet type 15", data=b"\xf0\x00", clause="MQTT-2.2.1"),
    Case(name="2.2.2-2 PUBACK with flags", data=b"\x41\x02\x00\x01", clause="MQTT-2.2.2-2"),
    Case(name="2.2.2-2 PUBREC with flags", data=b"\x52\x02\x00\x01", clause="MQTT-2.2.2-2"),
    Case(name="2.2.2-2 PINGREQ with flags", data=b"\xc8\x00", clause="MQTT-2.2.2-2"),
    Case(name="2.2.3 PINGREQ with a body", data=b"\xc0\x01\x00", clause="MQTT-2.2.3"),
    Case(name="2.2.3 PUBACK of one byte", data=b"\x40\x01\x01", clause="MQTT-2.2.3"),
    Case(name="2.2.3 PUBACK of three bytes", data=b"\x40\x03\x00\x01\x00", clause="MQTT-2.2.3"),
    Case(name="2.2.3 remaining length of five bytes", data=b"\x30\xff\xff\xff\xff\x01", clause="MQTT-2.2.3"),
    Case(name="2.3.1-1 PUBLISH with packet id 0", data=b"\x32\x05\x00\x01a\x00\x00", clause="MQTT-2.3.1-1"),
    Case(name="2.3.1-1 SUBSCRIBE with packet id 0", data=b"\x82\x06\x00\x00\x00\x01#\x00", clause="MQTT-2.3.1-1"),
    Case(name="2.3.1-1 UNSUBSCRIBE with packet id 0", data=b"\xa2\x05\x00\x00\x00\x01#", clause="MQTT-2.3.1-1"),
    Case(name="2.3.1-6 PUBACK with packet id 0", data=b"\x40\x02\x00\x00", clause="MQTT-2.3.1-1"),
    Case(name="2.2.3 PUBLISH of no bytes", data=b"\x30\x00", clause="MQTT-2.2.3"),
    Case(name="2.2.3 PUBLISH of one byte", data=b"\x30\x01\x00", clause="MQTT-2.2.3"),
    Case(name="2.2.3 PUBLISH that ends in its topic", data=b"\x30\x04\x00\x03a/", clause="MQTT-2.2.3"),
    Case(name="2.2.3 PUBLISH that ends in its packet id", data=b"\x32\x04\x00\x01a\x00", clause="MQTT-2.2.3"),
    Case(name="2.2.3 PUBLISH without its packet id", data=b"\x32\x03\x00\x01a", clause="MQTT-2.2.3"),
    Case(name="3.3.1-2 PUBLISH, DUP with QoS 0", data=b"\x38\x04\x00\x01ax", clause="MQTT-3.3.1-2"),
    Case(name="3.3.1-4 PUBLISH, QoS 3", data=b"\x36\x06\x00\x01a\x00\x07x", clause="MQTT-3.3.1-4"),
    Case(name="3.3.1-4 PUBLISH, QoS 3 and DUP", data=b"\x3e\x06\x00\x01a\x00\x07x", clause="MQTT-3.3.1-4"),
    Case(name="3.3.2-1 topic is not UTF-8", data=b"\x30\x04\x00\x02a\xff", clause="MQTT-1.5.3-1"),
    Case(name="1.5.3-2 topic has U+0000", data=b"\x30\x04\x00\x02a\x00", clause="MQTT-1.5.3-2"),
    Case(name="3.3.2-2 4.7.1-1 topic with #", data=b"\x30\x05\x00\x03a/#", clause="MQTT-3.3.2-2"),
    Case(name="3.3.2-2 topic with +", data=b"\x30\x04\x00\x02a+", clause="MQTT-3.3.2-2"),
    Case(name="4.7.3-1 topic is empty", data=b"\x30\x03\x00\x00x", clause="MQTT-4.7.3-1"),
    Case(name="3.6.1-1 PUBREL with flags 0000", data=b"\x60\x02\x00\x01", clause="MQTT-3.6.1-1"),
    Case(name="3.8.1-1 SUBSCRIBE with flags 0000", data=b"\x80\x06\x00\x01\x00\x01#\x00", clause="MQTT-3.8.1-1"),
    Case(name="3.8.3-1 filter is not UTF-8", data=b"\x82\x06\x00\x01\x00\x01\xff\x00", clause="MQTT-1.5.3-1"),
    Case(name="3.8.3-3 SUBSCRIBE without a filter", data=b"\x82\x02\x00\x01", clause="MQTT-3.8.3-3"),
    Case(name="3.8.3-4 SUBSCRIBE with QoS 3", data=b"\x82\x06\x00\x01\x00\x01#\x03", clause="MQTT-3.8.3-4"),
    Case(name="3.8.3-4 SUBSCRIBE with reserved bits", data=b"\x82\x06\x00\x01\x00\x01#\x81", clause="MQTT-3.8.3-4"),
    Case(name="2.2.3 SUBSCRIBE without its QoS", data=b"\x82\x05\x00\x01\x00\x01#", clause="MQTT-2.2.3"),
    Case(name="4.7.1-2 # not last", data=b"\x82\x08\x00\x01\x00\x03#/a\x00", clause="MQTT-4.7.1-2"),
    Case(name="4.7.1-3 + in a level", data=b"\x82\x07\x00\x01\x00\x02a+\x00", clause="MQTT-4.7.1-3"),
    Case(name="4.7.3-1 filter is empty", data=b"\x82\x05\x00\x01\x00\x00\x00", clause="MQTT-4.7.3-1"),
    Case(name="3.10.1-1 UNSUBSCRIBE with flags 0000", data=b"\xa0\x05\x00\x01\x00\x01#", clause="MQTT-3.10.1-1"),
    Case(name="3.10.3-1 filter is not UTF-8", data=b"\xa2\x05\x00\x01\x00\x01\xff", clause="MQTT-1.5.3-1"),
    Case(name="3.10.3-2 UNSUBSCRIBE without a filter", data=b"\xa2\x02\x00\x01", clause="MQTT-3.10.3-2"),
    Case(name="3.14.1-1 DISCONNECT with flags", data=b"\xe1\x00", clause="MQTT-3.14.1-1"),
    Case(name="2.2.3 DISCONNECT with a body", data=b"\xe0\x01\x00", clause="MQTT-2.2.3"),
]

# Only a client meets these.
BAD_FROM_SERVER = [
    Case(name="3.2.2 CONNACK with reserved flags", data=b"\x20\x02\x02\x00", clause="MQTT-3.2.2"),
    Case(name="3.2.2 CONNACK with a reserved code", data=b"\x20\x02\x00\x06", clause="MQTT-3.2.2"),
    Case(name="3.2.2-4 CONNACK, refusal with session", data=b"\x20\x02\x01\x01", clause="MQTT-3.2.2-4"),
    Case(name="3.9.3-2 SUBACK with a reserved code", data=b"\x90\x03\x00\x01\x03", clause="MQTT-3.9.3-2"),
]

ALL = [*GOOD, *BAD_CONNECTS, *OTHER_LEVELS, *BAD, *BAD_FROM_SERVER]
