"""The server core talks to paho-mqtt, a client that others wrote, over a real socket, step by step in one thread."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties

from wire.mqtt.clauses import LEVEL_3_1_1, LEVEL_5, LEVELS
from wire.mqtt.encode import encode_packet
from wire.mqtt.errors import ProtocolError, PublishRefusedError
from wire.mqtt.events import Completed, Disconnected, Event, PublishRefused, Received, Subscribed, Target
from wire.mqtt.frame import Frame
from wire.mqtt.packets import ConnAck, Connect, Publish, PubRel, Subscribe, Unsubscribe, Will
from wire.mqtt.properties import ConnAckProperties, ConnectProperties, PublishProperties
from wire.mqtt.reasons import ReasonCode
from wire.mqtt.server import ServerConnection

REPLIES = {
    LEVEL_3_1_1: ConnAck(),
    LEVEL_5: ConnAck(properties=ConnAckProperties(receive_maximum=50, topic_alias_maximum=3)),
}
PROTOCOLS = {LEVEL_3_1_1: paho.MQTTv311, LEVEL_5: paho.MQTTv5}


class Pair:
    """A paho client and the server core at the two ends of a loopback connection."""

    def __init__(self, client: paho.Client, reply: ConnAck | None = None) -> None:
        self.client = client
        self.records: list[tuple[str, int, bytes | None]] = []
        self.properties: list[PublishProperties] = []
        self.connects: list[Connect] = []
        self.events: list[Event] = []
        self.pubacks: list[int] = []
        self.said: list[str] = []
        self.reply = reply
        self.server = ServerConnection(self, max_packet_size_bytes=1 << 20, max_topics=10)
        client.on_connect = lambda *args: self.said.append(f"connack {args[3].value}")
        client.on_publish = lambda *args: self.said.append(f"published {args[2]} {args[3].value}")
        client.on_subscribe = lambda *args: self.said.append(f"suback {[code.value for code in args[3]]}")
        client.on_unsubscribe = lambda *args: self.said.append(f"unsuback {[code.value for code in args[3]]}")
        client.on_message = lambda *args: self.said.append(f"message {args[2].topic} {args[2].qos} {args[2].dup}")
        client.on_disconnect = lambda *args: self.said.append(f"disconnect {args[3].value}")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client.connect("127.0.0.1", listener.getsockname()[1], keepalive=30)
            self.socket, _ = listener.accept()
        self.socket.settimeout(5)

    # -- Decisions

    def connect(self, connect: Connect) -> ConnAck:
        self.connects.append(connect)
        return self.reply or REPLIES[connect.protocol_level]

    def resolve(self, publish: Publish, flags: int) -> Target:
        if publish.topic == "secret":
            raise PublishRefusedError(publish.topic, "not this one")

        def append(timestamp_ms: int, key: bytes | None, value: bytes | None, headers: list[Any], /) -> int:
            self.records.append((publish.topic, flags, value))
            self.properties.append(publish.properties)
            return 0

        return append, None, []

    def subscribe(self, subscribe: Subscribe) -> Sequence[ReasonCode]:
        return [
            ReasonCode.NOT_AUTHORIZED if wanted.filter == "secret" else ReasonCode(wanted.qos)
            for wanted in subscribe.subscriptions
        ]

    def unsubscribe(self, unsubscribe: Unsubscribe) -> Sequence[ReasonCode]:
        return [ReasonCode.SUCCESS for _ in unsubscribe.filters]

    # -- driving it

    def exchange(self, size_bytes: int = 65_536) -> None:
        """One chunk from the client to the core, and its answers back."""
        self.client.loop_write()
        self.server.receive(self.socket.recv(size_bytes), 0)
        self.server.acknowledged(self.server.acked_ids)
        self.events += self.server.events
        self.pubacks += self.server.pubacks
        if answer := bytes(self.server.out) + self.server.acks:
            self.socket.sendall(answer)

    def listen(self) -> None:
        """The client reads what is there for it."""
        client_socket = self.client.socket()
        assert client_socket is not None, self.said
        readable, _, _ = select.select([client_socket], [], [], 5)
        assert readable, self.said
        self.client.loop_read()

    def hear(self, count: int) -> list[str]:
        """What the client said of the first `count` answers."""
        while len(self.said) < count:
            self.listen()
        return self.said

    def close(self) -> None:
        self.socket.close()
        if (client_socket := self.client.socket()) is not None:
            client_socket.close()


@pytest.fixture(params=LEVELS, ids=["3.1.1", "5.0"])
def level(request: pytest.FixtureRequest) -> int:
    chosen: int = request.param
    return chosen


def client_of(level: int) -> paho.Client:
    kept = {"clean_session": False} if level == LEVEL_3_1_1 else {}
    return paho.Client(CallbackAPIVersion.VERSION2, client_id="press-17", protocol=PROTOCOLS[level], **kept)  # type: ignore[arg-type]


@pytest.fixture
def pair(level: int) -> Iterator[Pair]:
    client = client_of(level)
    client.username_pw_set("user", "pass")
    client.will_set("gone/press-17", b"bye", qos=1, retain=True)
    pair = Pair(client)
    pair.exchange()
    assert pair.hear(1) == ["connack 0"]
    pair.said.clear()
    yield pair
    pair.close()


def test_paho_connects(pair: Pair, level: int) -> None:
    assert pair.connects == [
        Connect(
            client_id="press-17",
            clean_session=level == LEVEL_5,
            keep_alive_s=30,
            will=Will(topic="gone/press-17", payload=b"bye", qos=1, retain=True),
            username="user",
            password=b"pass",
            protocol_level=level,
            properties=ConnectProperties(),
        )
    ]


def test_paho_publishes_are_acknowledged(pair: Pair) -> None:
    for qos, payload in ((1, b"x" * 120), (0, b""), (1, b"y" * 20_000), (1, b"x")):
        pair.client.publish("devices/press-17/telemetry", payload, qos=qos)
    while len(pair.records) < 4:
        pair.exchange(size_bytes=777)
    assert [(flags, len(payload or b"")) for _, flags, payload in pair.records] == [
        (2, 120),
        (0, 0),
        (2, 20_000),
        (2, 1),
    ]
    assert sorted(pair.hear(4)) == [f"published {number} 0" for number in (1, 2, 3, 4)]


def test_paho_publishes_with_qos_2(pair: Pair) -> None:
    for _ in range(3):
        pair.client.publish("a", b"x", qos=2)
    while len(pair.said) < 3:
        pair.exchange(size_bytes=13)
        if pair.server.acks:
            pair.listen()
    assert sorted(pair.said) == [f"published {number} 0" for number in (1, 2, 3)]
    assert len(pair.records) == 3
    assert pair.server.received_ids == set()


def test_paho_subscribes_and_unsubscribes(pair: Pair, level: int) -> None:
    pair.client.subscribe([("a/#", 1), ("secret", 0), ("b", 2)])
    pair.exchange()
    pair.client.unsubscribe(["b", "a/#"])
    pair.exchange()
    refused, of_unsubscribe = (128, []) if level == LEVEL_3_1_1 else (135, [0, 0])
    assert pair.hear(2) == [f"suback [1, {refused}, 2]", f"unsuback {of_unsubscribe}"]
    assert any(isinstance(event, Subscribed) for event in pair.events)


def test_paho_receives_and_answers(pair: Pair, level: int) -> None:
    frames = [Frame(topic=f"t/{qos}", qos=qos, level=level) for qos in (0, 1, 2)]
    pair.socket.sendall(frames[0].packet(b"0") + frames[1].packet_again(5, b"1"))
    pair.hear(2)
    pair.socket.sendall(frames[2].packet_with_id(6, b"2"))
    pair.listen()
    while not isinstance(pair.events[-1], Received):
        pair.exchange()
    pair.socket.sendall(encode_packet(PubRel(packet_id=6), level))
    pair.listen()
    while not isinstance(pair.events[-1], Completed):
        pair.exchange()
    assert pair.said == ["message t/0 0 False", "message t/1 1 True", "message t/2 2 False"]
    assert pair.pubacks == [5]
    assert pair.events[-2:] == [Received(packet_id=6, reason_code=ReasonCode.SUCCESS), Completed(packet_id=6)]


def test_paho_disconnects(pair: Pair) -> None:
    pair.client.disconnect()
    pair.exchange()
    assert isinstance(pair.events[-1], Disconnected)
    assert pair.server.over


def test_paho_is_refused(level: int) -> None:
    pair = Pair(client_of(level), reply=ConnAck(reason_code=ReasonCode.NOT_AUTHORIZED))
    pair.exchange()
    assert pair.hear(1)[0] == "connack 135"  # paho's name for 3.1.1's code 5 as well
    pair.close()


@pytest.mark.parametrize("level", [LEVEL_5], ids=["5.0"])
def test_paho_sends_properties_and_hears_of_refusals(pair: Pair) -> None:
    properties = PahoProperties(PacketTypes.PUBLISH)
    properties.UserProperty = [("site", "north"), ("site", "south")]
    properties.ResponseTopic, properties.CorrelationData = "answers", b"\x01"
    properties.MessageExpiryInterval, properties.TopicAlias = 60, 3
    for topic in ("a", "", "secret"):
        pair.client.publish(topic, b"x", qos=1, properties=properties if topic != "secret" else None)
    while len(pair.events) < 2:
        pair.exchange()
    assert [topic for topic, _, _ in pair.records] == ["a", "a"]
    assert pair.properties[0] == PublishProperties(
        message_expiry_interval_s=60,
        response_topic="answers",
        correlation_data=b"\x01",
        topic_alias=3,
        user_properties=(("site", "north"), ("site", "south")),
    )
    assert isinstance(pair.events[-1], PublishRefused)
    assert pair.hear(3) == ["published 1 0", "published 2 0", "published 3 135"]


@pytest.mark.parametrize("level", [LEVEL_5], ids=["5.0"])
def test_paho_hears_why_its_connection_ends(pair: Pair) -> None:
    properties = PahoProperties(PacketTypes.PUBLISH)
    properties.TopicAlias = 4  # it was given 3
    pair.client.publish("a", b"x", qos=1, properties=properties)
    pair.client.loop_write()
    with pytest.raises(ProtocolError):
        pair.server.receive(pair.socket.recv(65_536), 0)
    pair.socket.sendall(pair.server.out)
    assert pair.hear(1) == ["disconnect 148"]
