"""A message and its places are one commit: what no commit holds is refused, not half queued."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingest.broker import authorizer
from ingest.broker.chunk import Kind
from ingest.broker.fan_out import PLACE_BYTES
from tests.ingest.edge_box import Client, EdgeBox, edge_box
from wire.mqtt.encode import encode_connect, encode_packet
from wire.mqtt.packets import Connect, Publish, Subscribe, TopicSubscription, Will
from wire.mqtt.properties import WillProperties
from wire.mqtt.reasons import PacketType, ReasonCode

FITS, TOO_MANY = 300, 600  # sessions; the log of the tests has the smallest journal


class Deaf:
    """An outlet that takes nothing."""

    can_take = False
    max_packet_bytes = 1 << 20

    def send(self, packet: bytes) -> None:
        raise AssertionError("nothing is sent to who takes nothing")

    def end(self, reason: str, reason_code: ReasonCode) -> None:
        raise AssertionError(reason)


def subscribers(box: EdgeBox, first: int, last: int) -> None:
    """Sessions that outlive their connections, all of which want the same."""
    broker = box.mqtt.broker
    wanted = Subscribe(packet_id=1, subscriptions=(TopicSubscription(filter="devices/#", qos=1),))
    for number in range(first, last):
        connect = Connect(client_id=f"subscriber {number}", clean_session=False)
        opened = broker.opening.connect(connect, connect.client_id, "here", Deaf())
        who = authorizer.Client(client_id=connect.client_id, username=None, peer="here")
        assert broker.subscribing.subscribe(opened.session, who, wanted) == [ReasonCode.GRANTED_QOS_1]


async def publisher(box: EdgeBox, will: Will | None = None) -> Client:
    client = await Client.connect(box.mqtt_port)
    client.send(encode_connect(Connect(client_id="publisher", protocol_level=5, will=will)))
    head = await client.read(2)
    assert (await client.read(head[1]))[1] == 0
    return client


def publish(packet_id: int, payload: bytes) -> bytes:
    return encode_packet(Publish(topic="devices/d/t", payload=payload, qos=1, packet_id=packet_id), 5)


async def test_too_many_durable_subscribers_refuse_the_publish_and_nothing_of_it_stays(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        sessions = box.mqtt.broker.sessions
        subscribers(box, 0, FITS)
        first = await publisher(box)
        first.send(publish(1, b"taken"))
        assert await first.read(4) == b"\x40\x02\0\x01"
        assert {session.queue.count for name, session in sessions.items() if name != "publisher"} == {1}
        subscribers(box, FITS, TOO_MANY)
        first.send(publish(2, b"refused"))
        assert await first.rest() == bytes((PacketType.DISCONNECT << 4, 1, ReasonCode.QUOTA_EXCEEDED))
        await box.log.drain()
        waiting = [session.queue.count if session.has_queue else 0 for session in sessions.values()]
        assert sorted(waiting) == [0] * (TOO_MANY - FITS) + [1] * FITS
        assert [record.value for record in await box.records("telemetry", 1)] == [b"taken"]
        assert not box.failures


async def test_a_will_to_too_many_is_dropped_and_counted(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        subscribers(box, 0, TOO_MANY)
        will = Will(topic="devices/d/will", payload=b"gone", qos=1, properties=WillProperties())
        (await publisher(box, will)).abort()
        client = await publisher(box)  # takes the session over at the latest: the will is due
        client.send(encode_packet(Publish(topic="other", payload=b"", qos=1, packet_id=1), 5))
        assert await client.read(4) == b"\x40\x02\0\x01"
        assert box.mqtt.broker.counters.wills_dropped == 1
        assert len(box.mqtt.broker.wills) == 0


async def test_a_message_reserves_once_and_again_only_behind_a_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with edge_box(tmp_path) as box:
        subscribers(box, 0, 3)
        fan_out = box.mqtt.broker.fan_out
        sessions = list(box.mqtt.broker.sessions.values())
        asked: list[int] = []
        cuts = [False]

        def reserve(size_bytes: int) -> None:
            asked.append(size_bytes)
            if cuts[0]:
                cuts[0] = False
                fan_out._prepare()  # as the log does when it closes what is open

        monkeypatch.setattr(box.log, "reserve", reserve)
        kind = Kind(log_topic="telemetry", partition=0, qos=1)
        fan_out.reserve(sessions)
        first = asked.pop()
        for session in sessions:
            fan_out.enqueue(session, kind, 0)
        fan_out.reserve(sessions)
        assert asked == [PLACE_BYTES * len(sessions)]  # their rows are counted already
        asked.clear()
        cuts[0] = True
        fan_out.reserve(sessions)
        assert sum(asked) == first  # the rows went with the cut: all of it is counted behind it
