"""The properties of 5.0 against the specification's own table, written down here once more by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from wire.mqtt import property_codec
from wire.mqtt.errors import MalformedPacketError, ProtocolError
from wire.mqtt.fields import encode_varint
from wire.mqtt.packets import Publish
from wire.mqtt.properties import NO_PUBLISH_PROPERTIES, AckProperties, ConnectProperties, PublishProperties
from wire.mqtt.property_codec import PROPERTIES, Carrier
from wire.mqtt.reasons import ReasonCode

CARRIERS: dict[str, Carrier[Any]] = {
    "CONNECT": property_codec.CONNECT,
    "WILL": property_codec.WILL,
    "CONNACK": property_codec.CONNACK,
    "PUBLISH": property_codec.PUBLISH,
    "ACK": property_codec.ACK,
    "SUBSCRIBE": property_codec.SUBSCRIBE,
    "UNSUBSCRIBE": property_codec.UNSUBSCRIBE,
    "DISCONNECT": property_codec.DISCONNECT,
    "AUTH": property_codec.AUTH,
}
EVERYWHERE = "CONNECT WILL CONNACK PUBLISH ACK SUBSCRIBE UNSUBSCRIBE DISCONNECT AUTH"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of table 2-4: who carries the property, and one value of its type as bytes."""

    name: str
    carried_by: str
    sample: bytes


TABLE_2_4 = {
    0x01: Row(name="payload_format_indicator", carried_by="PUBLISH WILL", sample=b"\1"),
    0x02: Row(name="message_expiry_interval_s", carried_by="PUBLISH WILL", sample=b"\0\0\0\1"),
    0x03: Row(name="content_type", carried_by="PUBLISH WILL", sample=b"\0\1x"),
    0x08: Row(name="response_topic", carried_by="PUBLISH WILL", sample=b"\0\1x"),
    0x09: Row(name="correlation_data", carried_by="PUBLISH WILL", sample=b"\0\1\xff"),
    0x0B: Row(name="subscription_identifier", carried_by="PUBLISH SUBSCRIBE", sample=b"\x80\1"),
    0x11: Row(name="session_expiry_interval_s", carried_by="CONNECT CONNACK DISCONNECT", sample=b"\0\0\0\1"),
    0x12: Row(name="assigned_client_identifier", carried_by="CONNACK", sample=b"\0\1x"),
    0x13: Row(name="server_keep_alive_s", carried_by="CONNACK", sample=b"\0\1"),
    0x15: Row(name="authentication_method", carried_by="CONNECT CONNACK AUTH", sample=b"\0\1x"),
    0x16: Row(name="authentication_data", carried_by="CONNECT CONNACK AUTH", sample=b"\0\1\xff"),
    0x17: Row(name="request_problem_information", carried_by="CONNECT", sample=b"\0"),
    0x18: Row(name="will_delay_interval_s", carried_by="WILL", sample=b"\0\0\0\1"),
    0x19: Row(name="request_response_information", carried_by="CONNECT", sample=b"\1"),
    0x1A: Row(name="response_information", carried_by="CONNACK", sample=b"\0\1x"),
    0x1C: Row(name="server_reference", carried_by="CONNACK DISCONNECT", sample=b"\0\1x"),
    0x1F: Row(name="reason_string", carried_by="CONNACK ACK DISCONNECT AUTH", sample=b"\0\1x"),
    0x21: Row(name="receive_maximum", carried_by="CONNECT CONNACK", sample=b"\0\1"),
    0x22: Row(name="topic_alias_maximum", carried_by="CONNECT CONNACK", sample=b"\0\1"),
    0x23: Row(name="topic_alias", carried_by="PUBLISH", sample=b"\0\1"),
    0x24: Row(name="maximum_qos", carried_by="CONNACK", sample=b"\1"),
    0x25: Row(name="retain_available", carried_by="CONNACK", sample=b"\1"),
    0x26: Row(name="user_property", carried_by=EVERYWHERE, sample=b"\0\1x\0\1y"),
    0x27: Row(name="maximum_packet_size_bytes", carried_by="CONNECT CONNACK", sample=b"\0\0\0\1"),
    0x28: Row(name="wildcard_subscription_available", carried_by="CONNACK", sample=b"\1"),
    0x29: Row(name="subscription_identifier_available", carried_by="CONNACK", sample=b"\1"),
    0x2A: Row(name="shared_subscription_available", carried_by="CONNACK", sample=b"\1"),
}
REPEATABLE = {("PUBLISH", 0x0B)} | {(carrier, 0x26) for carrier in CARRIERS}
METHOD = b"\x15\0\1m"  # authentication data needs one
PAIRS = [
    pytest.param(carrier, number, id=f"MQTT5-2.2.2.2 {row.name} in {carrier}")
    for number, row in TABLE_2_4.items()
    for carrier in CARRIERS
]


def listed(body: bytes) -> bytes:
    return encode_varint(len(body)) + body


def read(carrier: str, body: bytes) -> Any:
    data = listed(body) + b"behind"
    value, at = CARRIERS[carrier].read(data, 0, len(data))
    assert data[at:] == b"behind"
    return value


def test_the_table_is_the_specifications() -> None:
    assert {row.number: row.name for row in PROPERTIES} == {number: row.name for number, row in TABLE_2_4.items()}
    assert len(PROPERTIES) == 27
    for name, carrier in CARRIERS.items():
        carried = {number for number, row in TABLE_2_4.items() if name in row.carried_by.split()}
        assert carrier.once | carrier.repeatable == carried
        assert carrier.repeatable == {number for packet, number in REPEATABLE if packet == name}


@pytest.mark.parametrize(("carrier", "number"), PAIRS)
def test_every_property_in_every_packet(carrier: str, number: int) -> None:
    row = TABLE_2_4[number]
    one = (METHOD if number == 0x16 and carrier in row.carried_by.split() else b"") + bytes((number,)) + row.sample
    if carrier not in row.carried_by.split():
        with pytest.raises(MalformedPacketError) as refused:
            read(carrier, one)
        assert refused.value.clause == "MQTT5-2.2.2.2"
        assert refused.value.reason_code is ReasonCode.MALFORMED_PACKET
        return
    value = read(carrier, one)
    encoded = CARRIERS[carrier].encode(value)
    assert encoded == listed(one)
    for size in range(1, len(one)):  # every truncation, with a length that fits and one that does not
        if one[:size] != METHOD:
            with pytest.raises(MalformedPacketError):
                read(carrier, one[:size])
        with pytest.raises(MalformedPacketError):
            CARRIERS[carrier].read(encoded[: size + 1], 0, size + 1)
    if (carrier, number) in REPEATABLE:
        assert read(carrier, one * 2) != value
    else:
        with pytest.raises(ProtocolError, match="twice") as twice:
            read(carrier, one + one[-1 - len(row.sample) :])
        assert twice.value.reason_code is ReasonCode.PROTOCOL_ERROR


def test_no_properties_are_one_shared_value() -> None:
    for carrier in CARRIERS.values():
        assert carrier.read(b"\0", 0, 1) == (carrier.empty, 1)
        assert carrier.read(b"\0", 0, 1)[0] is carrier.empty
        assert carrier.encode(carrier.empty) == b"\0"
        assert carrier.encode(type(carrier.empty)()) == b"\0"
    assert Publish(topic="a", payload=b"").properties is NO_PUBLISH_PROPERTIES


def test_many_user_properties_are_read_in_order() -> None:
    pairs = [(str(number), "") for number in range(20_000)]
    body = b"".join(b"\x26" + property_codec.PAIR.write(pair) for pair in pairs)
    assert read("PUBLISH", body).user_properties == tuple(pairs)


@pytest.mark.parametrize(
    ("carrier", "properties"),
    [
        ("CONNECT", ConnectProperties(receive_maximum=0)),
        ("CONNECT", ConnectProperties(receive_maximum=65_536)),
        ("CONNECT", ConnectProperties(session_expiry_interval_s=1 << 32)),
        ("CONNECT", ConnectProperties(maximum_packet_size_bytes=0)),
        ("CONNECT", ConnectProperties(authentication_data=b"x")),
        ("PUBLISH", PublishProperties(topic_alias=0)),
        ("PUBLISH", PublishProperties(subscription_identifiers=(0,))),
        ("PUBLISH", PublishProperties(subscription_identifiers=(268_435_456,))),
        ("PUBLISH", PublishProperties(response_topic="a/#")),
        ("PUBLISH", PublishProperties(content_type="\0")),
        ("ACK", AckProperties(reason_string="\ud800")),
        ("ACK", AckProperties(user_properties=(("a" * 65_536, ""),))),
    ],
)
def test_what_a_property_may_not_be_is_not_written(carrier: str, properties: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the messages are the clauses; which one is no contract
        CARRIERS[carrier].encode(properties)


def test_secrets_are_not_shown() -> None:
    assert "hush" not in repr(ConnectProperties(authentication_method="m", authentication_data=b"hush"))
