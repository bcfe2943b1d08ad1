"""The server core talks to paho-mqtt, a client that others wrote, over a real socket, step by step in one thread."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from wire.mqtt.events import Disconnected, Event, SubscriptionsRefused, Target
from wire.mqtt.packets import ConnAck, Connect, Will
from wire.mqtt.reasons import ReasonCode
from wire.mqtt.server import ServerConnection


class Pair:
    """A paho client and the server core at the two ends of a loopback connection."""

    def __init__(self, client: paho.Client, reply: ConnAck | None = None) -> None:
        self.client = client
        self.records: list[tuple[str, int, bytes | None]] = []
        self.connects: list[Connect] = []
        self.events: list[Event] = []
        self.said: list[str] = []
        self.reply = reply or ConnAck()
        self.server = ServerConnection(
            resolve=self._resolve, on_connect=self._on_connect, max_packet_size_bytes=1 << 20, max_topics=10
        )
        client.on_connect = lambda *args: self.said.append(f"connack {args[3].value}")
        client.on_publish = lambda *args: self.said.append(f"puback {args[2]}")
        client.on_subscribe = lambda *args: self.said.append(f"suback {[code.value for code in args[3]]}")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client.connect("127.0.0.1", listener.getsockname()[1], keepalive=30)
            self.socket, _ = listener.accept()
        self.socket.settimeout(5)

    def _resolve(self, topic: str, flags: int) -> Target:
        def append(timestamp_ms: int, key: bytes | None, value: bytes | None, headers: list[Any], /) -> int:
            self.records.append((topic, flags, value))
            return 0

        return append, None, []

    def _on_connect(self, connect: Connect) -> ConnAck:
        self.connects.append(connect)
        return self.reply

    def exchange(self, size_bytes: int = 65_536) -> None:
        """One chunk from the client to the core, and its answers back."""
        self.client.loop_write()
        self.server.receive(self.socket.recv(size_bytes), 0)
        self.events += self.server.events
        if answer := bytes(self.server.out) + self.server.acks:
            self.socket.sendall(answer)

    def hear(self, count: int) -> list[str]:
        """What the client said of the first `count` answers."""
        while len(self.said) < count:
            client_socket = self.client.socket()
            assert client_socket is not None, self.said
            readable, _, _ = select.select([client_socket], [], [], 5)
            assert readable, self.said
            self.client.loop_read()
        return self.said

    def close(self) -> None:
        self.socket.close()
        if (client_socket := self.client.socket()) is not None:
            client_socket.close()


@pytest.fixture
def client() -> paho.Client:
    return paho.Client(CallbackAPIVersion.VERSION2, client_id="press-17", clean_session=False, protocol=paho.MQTTv311)


@pytest.fixture
def pair(client: paho.Client) -> Iterator[Pair]:
    client.username_pw_set("user", "pass")
    client.will_set("gone/press-17", b"bye", qos=1, retain=True)
    pair = Pair(client)
    yield pair
    pair.close()


def test_paho_connects(pair: Pair) -> None:
    pair.exchange()
    assert pair.connects == [
        Connect(
            client_id="press-17",
            clean_session=False,
            keep_alive_s=30,
            will=Will(topic="gone/press-17", payload=b"bye", qos=1, retain=True),
            username="user",
            password=b"pass",
        )
    ]
    assert pair.hear(1) == ["connack 0"]


def test_paho_publishes_are_acknowledged(pair: Pair) -> None:
    pair.exchange()
    pair.hear(1)
    for qos, payload in ((1, b"x" * 120), (0, b""), (1, b"y" * 20_000)):
        pair.client.publish("devices/press-17/telemetry", payload, qos=qos)
    while len(pair.records) < 3:
        pair.exchange(size_bytes=777)
    assert [(flags, len(payload or b"")) for _, flags, payload in pair.records] == [(2, 120), (0, 0), (2, 20_000)]
    assert sorted(pair.hear(4)) == ["connack 0", "puback 1", "puback 2", "puback 3"]


def test_paho_learns_that_subscriptions_are_not_offered(pair: Pair) -> None:
    pair.exchange()
    pair.hear(1)
    pair.client.subscribe([("a/#", 1), ("b", 0)])
    pair.exchange()
    assert pair.hear(2) == ["connack 0", "suback [128, 128]"]
    assert any(isinstance(event, SubscriptionsRefused) for event in pair.events)


def test_paho_disconnects(pair: Pair) -> None:
    pair.exchange()
    pair.hear(1)
    pair.client.disconnect()
    pair.exchange()
    assert isinstance(pair.events[-1], Disconnected)
    assert pair.server.over


def test_paho_is_refused(client: paho.Client) -> None:
    pair = Pair(client, reply=ConnAck(reason_code=ReasonCode.NOT_AUTHORIZED))
    pair.exchange()
    assert pair.hear(1) == ["connack 135"]  # paho's name for 3.1.1's code 5
    pair.close()


def test_paho_of_another_version_is_told() -> None:
    pair = Pair(paho.Client(CallbackAPIVersion.VERSION2, client_id="x", protocol=paho.MQTTv5))
    pair.client.loop_write()
    pair.server.receive(pair.socket.recv(65_536), 0)
    assert bytes(pair.server.out) == b"\x20\x02\x00\x01"
    assert pair.connects == []
    pair.close()
