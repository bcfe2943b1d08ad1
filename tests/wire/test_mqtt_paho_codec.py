"""The codec against paho-mqtt, which others wrote: its property codec, and a client of 5.0 over a real socket."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mqtt_strategies import properties
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode as PahoReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from wire.mqtt import property_codec
from wire.mqtt.clauses import LEVEL_5
from wire.mqtt.decode import decode_packet
from wire.mqtt.encode import encode_packet
from wire.mqtt.framing import packet_bounds
from wire.mqtt.packets import (
    MAX_REMAINING_LENGTH,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
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
    ConnAckProperties,
    ConnectProperties,
    DisconnectProperties,
    PublishProperties,
    SubscribeProperties,
    WillProperties,
)
from wire.mqtt.property_codec import PROPERTIES, Carrier
from wire.mqtt.reasons import REASONS, PacketType, ReasonCode

CARRIERS: dict[int, Carrier[Any]] = {
    PacketTypes.CONNECT: property_codec.CONNECT,
    PacketTypes.WILLMESSAGE: property_codec.WILL,
    PacketTypes.CONNACK: property_codec.CONNACK,
    PacketTypes.PUBLISH: property_codec.PUBLISH,
    PacketTypes.PUBACK: property_codec.ACK,
    PacketTypes.SUBACK: property_codec.ACK,
    PacketTypes.SUBSCRIBE: property_codec.SUBSCRIBE,
    PacketTypes.UNSUBSCRIBE: property_codec.UNSUBSCRIBE,
    PacketTypes.DISCONNECT: property_codec.DISCONNECT,
    PacketTypes.AUTH: property_codec.AUTH,
}
NUMBERS = {name: row.number for row in PROPERTIES for name in (row.name, row.plural) if name}


def pahos(packet_type: int, ours: Any) -> Properties:
    """The same properties as paho's value."""
    theirs = Properties(packet_type)
    names = {number: name.replace(" ", "") for name, number in theirs.names.items()}
    for field in fields(ours):
        value = getattr(ours, field.name)
        if value not in (None, ()):
            setattr(theirs, names[NUMBERS[field.name]], list(value) if isinstance(value, tuple) else value)
    return theirs


@pytest.mark.parametrize("packet_type", CARRIERS)
@given(data=st.data())
def test_paho_and_we_read_each_others_properties(packet_type: int, data: st.DataObject) -> None:
    carrier = CARRIERS[packet_type]
    ours = data.draw(properties(type(carrier.empty)))
    if (getattr(ours, "maximum_packet_size_bytes", None) or 0) > MAX_REMAINING_LENGTH:
        ours = replace(ours, maximum_packet_size_bytes=MAX_REMAINING_LENGTH)  # paho's own limit
    theirs = pahos(packet_type, ours)
    packed = bytes(theirs.pack())
    assert carrier.read(packed, 0, len(packed)) == (ours, len(packed))
    unpacked, size = Properties(packet_type).unpack(carrier.encode(ours))
    assert size == len(packed)
    assert unpacked.json() == theirs.json()


def pahos_codes(packet_type: int) -> set[int]:
    """The reason codes that paho accepts for a packet type."""
    accepted = set()
    for code in range(256):
        with contextlib.suppress(KeyError, ValueError):
            accepted.add(PahoReasonCode(packet_type, identifier=code).value)
    return accepted


@pytest.mark.parametrize("packet_type", REASONS, ids=lambda packet_type: packet_type.name)
def test_paho_knows_the_same_reason_codes(packet_type: PacketType) -> None:
    forgotten = {0x99} if packet_type is PacketType.CONNACK else set()  # section 3.2.2.2 has it, paho has not
    assert pahos_codes(packet_type) == set(REASONS[packet_type]) - forgotten


class Server:
    """The codec alone at the other end of a paho client's connection, step by step in one thread."""

    def __init__(self, client: paho.Client, **connect: Any) -> None:
        self.client = client
        self.said: list[tuple[Any, ...]] = []
        client.on_connect = lambda *args: self.said.append(("connected", args[3].value, args[4]))
        client.on_publish = lambda *args: self.said.append(("published", args[3].value, args[4]))
        client.on_subscribe = lambda *args: self.said.append(("subscribed", [code.value for code in args[3]], args[4]))
        client.on_unsubscribe = lambda *args: self.said.append(("unsubscribed", [code.value for code in args[3]]))
        client.on_message = lambda *args: self.said.append(("message", args[2]))
        client.on_disconnect = lambda *args: self.said.append(("disconnected", args[3].value, args[4]))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client.connect("127.0.0.1", listener.getsockname()[1], keepalive=30, **connect)
            self.socket, _ = listener.accept()
        self.socket.settimeout(5)
        self.received = b""

    def receive(self) -> Packet:
        """The client's next packet."""
        self.client.loop_write()
        while True:
            bounds = packet_bounds(self.received, 0, max_packet_size_bytes=1 << 20, level=LEVEL_5)
            if bounds is not None and bounds[1] <= len(self.received):
                packet, self.received = self.received[: bounds[1]], self.received[bounds[1] :]
                return decode_packet(packet, LEVEL_5)
            chunk = self.socket.recv(65_536)
            assert chunk, "the client closed"
            self.received += chunk

    def send(self, packet: Packet) -> tuple[Any, ...]:
        """What the client says to this packet."""
        self.write(packet)
        return self.said.pop(0)

    def write(self, packet: Packet) -> None:
        """The packet, read by the client."""
        self.socket.sendall(encode_packet(packet, LEVEL_5))
        client_socket = self.client.socket()
        assert client_socket is not None
        readable, _, _ = select.select([client_socket], [], [], 5)
        assert readable
        self.client.loop_read()

    def close(self) -> None:
        self.socket.close()
        if (client_socket := self.client.socket()) is not None:
            client_socket.close()


@pytest.fixture
def server() -> Iterator[Server]:
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="press-17", protocol=paho.MQTTv5)
    client.username_pw_set("user", "pass")
    will = pahos(PacketTypes.WILLMESSAGE, WillProperties(will_delay_interval_s=9, user_properties=(("a", "b"),)))
    client.will_set("gone/press-17", b"bye", qos=1, retain=True, properties=will)
    asked = ConnectProperties(session_expiry_interval_s=60, receive_maximum=7, user_properties=(("x", "y"),))
    server = Server(client, clean_start=False, properties=pahos(PacketTypes.CONNECT, asked))
    yield server
    server.close()


def accept(server: Server) -> None:
    server.receive()
    assert server.send(ConnAck())[:2] == ("connected", 0)


def test_paho_connects(server: Server) -> None:
    assert server.receive() == Connect(
        client_id="press-17",
        clean_session=False,
        keep_alive_s=30,
        protocol_level=LEVEL_5,
        username="user",
        password=b"pass",
        will=Will(
            topic="gone/press-17",
            payload=b"bye",
            qos=1,
            retain=True,
            properties=WillProperties(will_delay_interval_s=9, user_properties=(("a", "b"),)),
        ),
        properties=ConnectProperties(session_expiry_interval_s=60, receive_maximum=7, user_properties=(("x", "y"),)),
    )
    answer = ConnAckProperties(assigned_client_identifier="i", server_keep_alive_s=20, maximum_qos=1)
    what, code, told = server.send(ConnAck(session_present=True, properties=answer))
    assert (what, code) == ("connected", 0)
    assert (told.AssignedClientIdentifier, told.ServerKeepAlive, told.MaximumQoS) == ("i", 20, 1)


def test_paho_is_refused(server: Server) -> None:
    server.receive()
    assert server.send(ConnAck(reason_code=ReasonCode.BANNED))[:2] == ("connected", 0x8A)


def test_paho_publishes(server: Server) -> None:
    accept(server)
    said = PublishProperties(content_type="text/plain", topic_alias=3, correlation_data=b"\0", response_topic="r")
    server.client.publish("a/b", b"hi", qos=1, retain=True, properties=pahos(PacketTypes.PUBLISH, said))
    assert server.receive() == Publish(topic="a/b", payload=b"hi", qos=1, retain=True, packet_id=1, properties=said)
    notes = AckProperties(reason_string="full")
    what, code, told = server.send(PubAck(packet_id=1, reason_code=ReasonCode.QUOTA_EXCEEDED, properties=notes))
    assert (what, code, told.ReasonString) == ("published", 0x97, "full")
    server.client.publish("a/b", b"2", qos=2)
    assert server.receive() == Publish(topic="a/b", payload=b"2", qos=2, packet_id=2)
    server.write(PubRec(packet_id=2))
    assert server.receive() == PubRel(packet_id=2)
    assert server.send(PubComp(packet_id=2))[:2] == ("published", 0)


def test_paho_subscribes_and_takes_back(server: Server) -> None:
    accept(server)
    options = SubscribeOptions(qos=2, noLocal=True, retainAsPublished=True, retainHandling=1)
    identifier = SubscribeProperties(subscription_identifier=300)
    server.client.subscribe("a/#", options=options, properties=pahos(PacketTypes.SUBSCRIBE, identifier))
    assert server.receive() == Subscribe(
        packet_id=1,
        subscriptions=(
            TopicSubscription(
                filter="a/#",
                qos=2,
                no_local=True,
                retain_as_published=True,
                retain_handling=RetainHandling.SEND_IF_NEW,
            ),
        ),
        properties=identifier,
    )
    reasons = (ReasonCode.GRANTED_QOS_1,)
    what, codes, told = server.send(
        SubAck(packet_id=1, reason_codes=reasons, properties=AckProperties(user_properties=(("a", "b"),)))
    )
    assert (what, codes, told.UserProperty) == ("subscribed", [1], [("a", "b")])
    server.client.unsubscribe(["a/#", "b"])
    assert server.receive() == Unsubscribe(packet_id=2, filters=("a/#", "b"))
    gone = (ReasonCode.SUCCESS, ReasonCode.NO_SUBSCRIPTION_EXISTED)
    assert server.send(UnsubAck(packet_id=2, reason_codes=gone)) == ("unsubscribed", [0, 0x11])


def test_paho_receives(server: Server) -> None:
    accept(server)
    sent = PublishProperties(subscription_identifiers=(1, 300), message_expiry_interval_s=5, content_type="t")
    _, message = server.send(Publish(topic="a", payload=b"x", qos=1, packet_id=9, properties=sent))
    assert (message.topic, message.payload, message.qos) == ("a", b"x", 1)
    assert message.properties.SubscriptionIdentifier == [1, 300]
    assert (message.properties.MessageExpiryInterval, message.properties.ContentType) == (5, "t")
    assert server.receive() == PubAck(packet_id=9)


def test_paho_leaves(server: Server) -> None:
    accept(server)
    last = DisconnectProperties(session_expiry_interval_s=0)
    reason = PahoReasonCode(PacketTypes.DISCONNECT, "Disconnect with will message")
    server.client.disconnect(reasoncode=reason, properties=pahos(PacketTypes.DISCONNECT, last))
    assert server.receive() == Disconnect(reason_code=ReasonCode.DISCONNECT_WITH_WILL_MESSAGE, properties=last)


def test_paho_is_sent_away(server: Server) -> None:
    accept(server)
    notes = DisconnectProperties(reason_string="bye", server_reference="other:1883")
    what, code, told = server.send(Disconnect(reason_code=ReasonCode.SERVER_MOVED, properties=notes))
    assert (what, code, told.ServerReference) == ("disconnected", 0x9D, "other:1883")
