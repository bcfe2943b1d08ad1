"""Which side may send what in 5.0, and where packets end in a stream."""

from __future__ import annotations

import mqtt5_packets
import pytest
from mqtt_packets import Case

from wire.mqtt.clauses import LEVEL_3_1_1, LEVEL_5, LEVELS
from wire.mqtt.errors import MalformedPacketError, PacketTooLargeError, ProtocolError
from wire.mqtt.framing import packet_bounds
from wire.mqtt.packets import (
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    Publish,
    SubAck,
    Subscribe,
    TopicSubscription,
    UnsubAck,
    Unsubscribe,
)
from wire.mqtt.properties import DisconnectProperties, PublishProperties
from wire.mqtt.reasons import ReasonCode
from wire.mqtt.sides import check_from_client, check_from_server

CLIENTS: list[Packet] = [
    Connect(client_id="c", protocol_level=LEVEL_5),
    Subscribe(packet_id=1, subscriptions=(TopicSubscription(filter="a", qos=0),)),
    Unsubscribe(packet_id=1, filters=("a",)),
    PingReq(),
    Disconnect(reason_code=ReasonCode.DISCONNECT_WITH_WILL_MESSAGE),
    Disconnect(properties=DisconnectProperties(session_expiry_interval_s=1)),
    Auth(reason_code=ReasonCode.RE_AUTHENTICATE),
]
SERVERS: list[Packet] = [
    ConnAck(),
    SubAck(packet_id=1, reason_codes=(ReasonCode.GRANTED_QOS_0,)),
    UnsubAck(packet_id=1, reason_codes=(ReasonCode.SUCCESS,)),
    PingResp(),
    Publish(topic="a", payload=b"", properties=PublishProperties(subscription_identifiers=(1,))),
    Disconnect(reason_code=ReasonCode.KEEP_ALIVE_TIMEOUT),
    Disconnect(reason_code=ReasonCode.SERVER_MOVED, properties=DisconnectProperties(server_reference="x")),
    Auth(reason_code=ReasonCode.SUCCESS),
]
BOTH: list[Packet] = [
    Publish(topic="a", payload=b""),
    PubAck(packet_id=1),
    Disconnect(),
    Disconnect(reason_code=ReasonCode.PROTOCOL_ERROR),
    Auth(reason_code=ReasonCode.CONTINUE_AUTHENTICATION),
]


def test_what_each_side_may_send() -> None:
    for packet in [*CLIENTS, *BOTH]:
        check_from_client(packet)
    for packet in [*SERVERS, *BOTH]:
        check_from_server(packet)


@pytest.mark.parametrize("packet", SERVERS, ids=repr)
def test_no_client_sends_what_servers_send(packet: Packet) -> None:
    with pytest.raises(ProtocolError) as caught:
        check_from_client(packet)
    assert caught.value.reason_code is ReasonCode.PROTOCOL_ERROR


@pytest.mark.parametrize("packet", CLIENTS, ids=repr)
def test_no_server_sends_what_clients_send(packet: Packet) -> None:
    with pytest.raises(ProtocolError) as caught:
        check_from_server(packet)
    assert caught.value.reason_code is ReasonCode.PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("clause", "packet"),
    [
        ("MQTT5-3.3.4-6", SERVERS[4]),
        ("MQTT5-3.14.2-1", SERVERS[5]),
        ("MQTT5-3.14.2.2.5", Disconnect(properties=DisconnectProperties(server_reference="x"))),
        ("MQTT5-3.15.2-1", SERVERS[7]),
    ],
)
def test_clauses_that_clients_break(clause: str, packet: Packet) -> None:
    with pytest.raises(ProtocolError) as caught:
        check_from_client(packet)
    assert caught.value.clause == clause


@pytest.mark.parametrize(
    ("clause", "packet"),
    [("MQTT5-3.14.2-1", CLIENTS[4]), ("MQTT5-3.14.2-2", CLIENTS[5]), ("MQTT5-3.15.2-1", CLIENTS[6])],
)
def test_clauses_that_servers_break(clause: str, packet: Packet) -> None:
    with pytest.raises(ProtocolError) as caught:
        check_from_server(packet)
    assert caught.value.clause == clause


@pytest.mark.parametrize("case", mqtt5_packets.GOOD, ids=str)
def test_bounds_are_known_with_the_fixed_header(case: Case) -> None:
    stream = b"before" + case.data + b"behind"
    for size in range(len(b"before"), len(stream)):
        found = packet_bounds(stream[:size], 6, max_packet_size_bytes=1 << 20, level=LEVEL_5)
        assert found == (None if size < 8 else (8, 6 + len(case.data)))


@pytest.mark.parametrize("level", LEVELS)
def test_a_packet_that_is_too_large_is_told_by_its_fixed_header(level: int) -> None:
    assert packet_bounds(b"\x30\x80\x01", 0, max_packet_size_bytes=131, level=level) == (3, 131)
    with pytest.raises(PacketTooLargeError) as caught:
        packet_bounds(b"\x30\x80\x01", 0, max_packet_size_bytes=130, level=level, mend="smaller")
    assert caught.value.reason_code is ReasonCode.PACKET_TOO_LARGE
    assert "131 bytes" in str(caught.value)


def test_a_remaining_length_that_is_too_long() -> None:
    assert packet_bounds(b"\x30\x81\x00", 0, max_packet_size_bytes=130, level=LEVEL_3_1_1) == (3, 4)
    for level, stream in ((LEVEL_3_1_1, b"\x30\xff\xff\xff\xff"), (LEVEL_5, b"\x30\x81\x00")):
        with pytest.raises(MalformedPacketError):
            packet_bounds(stream, 0, max_packet_size_bytes=130, level=level)
