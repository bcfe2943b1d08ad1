"""kill -9 of the edge under load, seen by an MQTT client library that is not ours: Paho's, in both versions.

Four publishers (3.1.1 and 5.0, QoS 1 and 2) number their messages; four subscribers (the same) keep their sessions over
the kills. HEADRACE_KILL_ROUNDS says how often the edge is killed (here 3 times).
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from commitlog.reader import FileLogReader
from tests.conftest import wait_until
from tests.e2e.appliance_process import Appliance, appliance

ROUNDS = int(os.environ.get("HEADRACE_KILL_ROUNDS", "3"))
VERSIONS = (paho.MQTTv311, paho.MQTTv5)
WAITING = 50
PATIENCE_S = 60


class Paho(paho.Client):
    """Paho's client, mended.

    When a second attempt to reconnect fails, Paho (2.2) publishes anew what it had sent a PUBREL for, as a message of
    its own, without DUP: against [MQTT-4.3.3-1], and nothing that a server could know.
    """

    def _messages_reconnect_reset_out(self) -> None:
        with self._out_message_mutex:
            for message in self._out_messages.values():
                if message.state == paho.mqtt_ms_resend_pubrel:
                    message.state = paho.mqtt_ms_wait_for_pubcomp
        super()._messages_reconnect_reset_out()


class Client:
    """A Paho client that keeps its session and reconnects by itself."""

    def __init__(self, port: int, version: int, qos: int, role: str) -> None:
        self.name = f"{role}-v{version}-q{qos}"
        self.qos = qos
        self.subscribed = threading.Event()
        options: dict[str, Any] = {} if version == paho.MQTTv5 else {"clean_session": False}
        self.client = Paho(paho.CallbackAPIVersion.VERSION2, client_id=self.name, protocol=version, **options)
        self.client.reconnect_delay_set(0.05, 0.2)  # type: ignore[arg-type]  # seconds; fractions work as well
        # No limit: beyond one, Paho (2.2) forgets at a reconnect that a message was released, and publishes it anew.
        self.client.max_inflight_messages_set(0)
        self.sessions_lost = 0
        self._connects = 0
        self.client.on_connect = self._connected
        properties = None
        if version == paho.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 3600
        self.client.connect("127.0.0.1", port, properties=properties)
        self.client.loop_start()

    def _connected(self, client: paho.Client, data: object, flags: Any, reason: Any, properties: object) -> None:
        if reason == 0:
            self._connects += 1
            self.sessions_lost += self._connects > 1 and not flags.session_present
            self.opened(first=self._connects == 1)

    def opened(self, *, first: bool) -> None:
        """Called in Paho's thread."""

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


class Publisher(Client):
    """Numbers its messages, with at most WAITING not yet acknowledged."""

    def __init__(self, port: int, version: int, qos: int) -> None:
        super().__init__(port, version, qos, "pub")
        self.topic = f"devices/{self.name}/x"
        self.sent = 0
        self._acked = 0
        self._room = threading.Condition()
        self._stop = False
        self.client.on_publish = self._published
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _published(self, client: paho.Client, data: object, mid: int, reason: Any, properties: object) -> None:
        with self._room:
            self._acked += 1
            self._room.notify()

    def _run(self) -> None:
        while True:
            with self._room:
                self._room.wait_for(lambda: self._stop or self.sent - self._acked < WAITING)
                if self._stop:
                    return
            self.client.publish(self.topic, b"%d" % self.sent, self.qos)
            self.sent += 1

    @property
    def acked(self) -> int:
        return self._acked

    def stop(self) -> None:
        """Publish nothing more."""
        with self._room:
            self._stop = True
            self._room.notify()
        self._thread.join()

    def finish(self) -> None:
        """Publish nothing more, and wait for what is not acknowledged."""
        self.stop()
        wait_until(lambda: self._acked == self.sent, PATIENCE_S, f"{self.name}: all acked")

    def close(self) -> None:
        self.stop()
        super().close()


class Subscriber(Client):
    """Gets everything, and keeps what it got."""

    def __init__(self, port: int, version: int, qos: int) -> None:
        self.got: dict[str, list[int]] = {}
        super().__init__(port, version, qos, "sub")
        self.client.on_message = self._message
        self.client.on_subscribe = self._is_subscribed
        self.client.subscribe("devices/+/x", qos)
        assert self.subscribed.wait(PATIENCE_S)

    def _is_subscribed(self, *_: object) -> None:
        self.subscribed.set()

    def _message(self, client: paho.Client, data: object, message: paho.MQTTMessage) -> None:
        self.got.setdefault(message.topic, []).append(int(message.payload))

    def has_all_of(self, publishers: Sequence[Publisher]) -> bool:
        return all(len(set(self.got.get(one.topic, ()))) == one.sent for one in publishers)


@contextmanager
def clients(port: int) -> Iterator[tuple[list[Publisher], list[Subscriber]]]:
    with ExitStack() as stack:
        subscribers = [stack.enter_context(closing(Subscriber(port, v, qos))) for v in VERSIONS for qos in (1, 2)]
        publishers = [stack.enter_context(closing(Publisher(port, v, qos))) for v in VERSIONS for qos in (1, 2)]
        yield publishers, subscribers


@pytest.mark.timeout(60 + 60 * ROUNDS)
def test_nothing_acknowledged_is_lost_and_qos_2_is_exactly_once(tmp_path: Path) -> None:
    rng = random.Random(ROUNDS)
    with appliance(tmp_path / "data", ["log.checkpoint_interval=200ms"]) as box:
        box.wait_ready()
        with clients(box.ports["mqtt"]) as (publishers, subscribers):
            for _ in range(ROUNDS):
                goal = [one.acked + 200 for one in publishers]
                wait_until(
                    lambda: all(one.acked >= least for one, least in zip(publishers, goal, strict=True)),  # noqa: B023
                    PATIENCE_S,
                    describe=lambda: f"acks: {[one.acked for one in publishers]}; it said:\n{box.output[-3000:]}",
                )
                time.sleep(rng.uniform(0, 0.4))  # not to wait for something: the kill is to come at any moment
                box.kill("edge", PATIENCE_S)  # each pause before the next start is twice as long, up to 30 s
            for one in publishers:
                one.finish()
            for subscriber in subscribers:
                wait_until(
                    lambda: subscriber.has_all_of(publishers),  # noqa: B023
                    PATIENCE_S,
                    describe=lambda: _missing(subscriber, publishers),  # noqa: B023
                )
        assert box.stop() == 0
        stored = _stored(box)
        for publisher in publishers:
            _check(publisher, stored[publisher.topic], "the log")
            for subscriber in subscribers:
                _check(publisher, subscriber.got[publisher.topic], subscriber.name, once=subscriber.qos == 2)
        for one in (*publishers, *subscribers):
            assert one.sessions_lost == 0, one.name
        again = sum(count - 1 for numbers in stored.values() for count in Counter(numbers).values())
        print(
            f"{ROUNDS} kills, {sum(one.sent for one in publishers)} messages, {again} stored twice (QoS 1),"
            f" {sum(len(got) for one in subscribers for got in one.got.values())} delivered"
        )


def _check(publisher: Publisher, numbers: list[int], where: str, *, once: bool = True) -> None:
    """Everything is there, in order; with QoS 2 all the way exactly once."""
    first = list(dict.fromkeys(numbers))
    assert sorted(first) == list(range(publisher.sent)), f"{publisher.name} is not complete in {where}"
    assert first == sorted(first), f"{publisher.name} is out of order in {where}"
    if publisher.qos == 2 and once:
        twice = [number for number, count in Counter(numbers).items() if count > 1]
        assert not twice, f"{publisher.name}: twice in {where}: {twice[:10]}"


def _missing(subscriber: Subscriber, publishers: Sequence[Publisher]) -> str:
    missing = {
        one.name: sorted(set(range(one.sent)) - set(subscriber.got.get(one.topic, ())))[:10] for one in publishers
    }
    return f"{subscriber.name} gets everything; missing: {missing}"


def _stored(box: Appliance) -> dict[str, list[int]]:
    """The numbers in the log by MQTT topic, in the order of the log."""
    stored: dict[str, list[int]] = {}
    with closing(FileLogReader(box.data_dir)) as reader:
        for partition, mark in enumerate(reader.watermarks("telemetry")):
            offset = mark.start
            while offset < mark.high:
                part = reader.read("telemetry", partition, offset)
                assert not part.gaps
                offset = part.next_offset
                for record in part.records:
                    topic = (dict(record.headers)["mqtt.topic"] or b"").decode()
                    stored.setdefault(topic, []).append(int(record.value or b"-1"))
    return stored
