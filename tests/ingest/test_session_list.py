"""Sessions as operators see them: MQTT sessions, connected and away, and TCP connections, in pages."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from core.errors import BadRequestError
from ingest import session_list
from ingest.roster import Roster
from ingest.session_list import SessionList
from ingest.sessions import Sessions
from ingest.settings import MqttSettings
from tests.conftest import wait_until_async
from tests.ingest.edge_box import Client, EdgeBox, edge_box
from wire.mqtt.encode import encode_connect, encode_packet, encode_publish
from wire.mqtt.packets import Connect, Publish, Subscribe, TopicSubscription
from wire.mqtt.properties import ConnectProperties

PERSISTENT = {"clean_session": False}


@asynccontextmanager
async def listed(tmp_path: Path, **options: Any) -> AsyncIterator[tuple[EdgeBox, SessionList]]:
    async with edge_box(tmp_path, **options) as box:
        yield box, SessionList(box.sessions, box.mqtt.broker)


async def client(box: EdgeBox, client_id: str, *filters: str, **options: Any) -> Client:
    """Connected and subscribed at QoS 1."""
    client = await Client.connect(box.mqtt_port)
    client.send(encode_connect(Connect(client_id=client_id, **options)))
    assert (await client.read(4))[3] == 0
    for topic_filter in filters:
        subscription = TopicSubscription(filter=topic_filter, qos=1)
        client.send(encode_packet(Subscribe(packet_id=1, subscriptions=(subscription,)), 4))
        assert await client.read(5) == b"\x90\x03\0\x01\x01"
    return client


async def gone(box: EdgeBox, count: int) -> None:
    await wait_until_async(lambda: box.mqtt.broker.figures().away == count, describe=f"{count} sessions away")


def ids(page: Mapping[str, Any]) -> list[str | None]:
    return [row["client_id"] for row in page["sessions"]]


def walk(sessions: SessionList, **args: Any) -> list[str | None]:
    """All pages."""
    found: list[str | None] = []
    cursor = None
    while True:
        page = sessions.page({**args, "cursor": cursor})
        found += ids(page)
        cursor = page["next"]
        if cursor is None:
            return found


async def test_a_session_is_shown_connected_then_away_with_what_waits_for_it(tmp_path: Path) -> None:
    async with listed(tmp_path, mqtt=MqttSettings(max_session_expiry="1h")) as (box, sessions):
        subscriber = await client(box, "display", "devices/+/t", "plant/#", username="u", **PERSISTENT)
        (row,) = sessions.page({})["sessions"]
        assert row["session"].startswith(box.log.boot_id[:8])
        assert row["peer"].startswith("127.0.0.1:")
        assert box.log.now_ms() - 60_000 < row["since_ms"] <= box.log.now_ms()
        assert {name: row[name] for name in row if name not in ("session", "peer", "since_ms")} == {
            "client_id": "display",
            "protocol": "mqtt",
            "level": 4,
            "username": "u",
            "connected": True,
            "devices": 0,
            "away_since_ms": None,
            "expires_ms": None,
            "expiry_s": 3600,
            "subscriptions": 2,
            "filters": ["devices/+/t", "plant/#"],
            "queued": 0,
            "in_flight": 0,
        }
        publisher = await client(box, "press")
        publisher.send(encode_publish(Publish(topic="devices/press/t", payload=b"1", qos=1, packet_id=1)))
        await publisher.read(4)
        await subscriber.read(2 + 2 + len("devices/press/t") + 2 + 1)
        row, other = sessions.page({})["sessions"]
        assert (row["queued"], row["in_flight"], other["devices"]) == (1, 1, 1)
        subscriber.abort()
        await gone(box, 1)
        publisher.send(encode_publish(Publish(topic="devices/press/t", payload=b"2", qos=1, packet_id=2)))
        await publisher.read(4)
        (away,) = sessions.page({"connected": False})["sessions"]
        assert (away["connected"], away["session"], away["peer"], away["since_ms"]) == (False, None, None, None)
        assert (away["queued"], away["filters"]) == (2, ["devices/+/t", "plant/#"])
        assert away["expires_ms"] == away["away_since_ms"] + 3_600_000


async def test_both_protocols_in_one_list_filtered_and_counted(tmp_path: Path) -> None:
    async with listed(tmp_path) as (box, sessions):
        await client(box, "a")
        (await client(box, "b", **PERSISTENT)).abort()
        await gone(box, 1)
        line = await Client.connect(box.tcp_port)
        line.send(b'{"device": "d"}\n')
        assert await line.line() == b"OK 1\n"
        page = sessions.page({})
        assert [(row["client_id"], row["protocol"], row["connected"]) for row in page["sessions"]] == [
            ("a", "mqtt", True),
            ("b", "mqtt", False),
            (None, "tcp", True),
        ]
        assert (page["connected"], page["away"], page["next"]) == (2, 1, None)
        assert page["sessions"][2]["devices"] == 1
        assert ids(sessions.page({"connected": True})) == ["a", None]
        assert ids(sessions.page({"connected": False})) == ["b"]
        assert ids(sessions.page({"client_id": "b"})) == ["b"]
        assert ids(sessions.page({"client_id": "b", "connected": True})) == []
        assert ids(sessions.page({"client_id": "nobody"})) == []
        first = sessions.page({"limit": 2})
        assert ids(first) == ["a", "b"]
        assert ids(sessions.page({"limit": 2, "cursor": first["next"]})) == [None]


async def test_pages_show_each_session_once_while_others_come_and_go(tmp_path: Path) -> None:
    async with listed(tmp_path) as (box, sessions):
        clients = [await client(box, f"c{number}") for number in range(12)]
        page = sessions.page({"limit": 5})
        assert ids(page) == [f"c{number}" for number in range(5)]
        for number in (3, 5, 7):
            clients[number].abort()
        await wait_until_async(lambda: len(box.mqtt.broker.sessions) == 9, describe="three sessions gone")
        await client(box, "late")
        rest = walk(sessions, limit=2)
        assert rest == [f"c{n}" for n in range(12) if n not in (3, 5, 7)] + ["late"]
        page = sessions.page({"limit": 50, "cursor": page["next"]})
        assert ids(page) == ["c6", "c8", "c9", "c10", "c11", "late"]


async def test_sessions_come_back_into_the_list_with_a_restart(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        await client(box, "one", "a/#", **PERSISTENT)
        await client(box, "two", **PERSISTENT)
        await client(box, "fleeting")
    async with listed(tmp_path) as (box, sessions):
        page = sessions.page({})
        assert (ids(page), page["connected"], page["away"]) == (["one", "two"], 0, 2)
        assert page["sessions"][0]["filters"] == ["a/#"]
        await client(box, "two", **PERSISTENT)
        page = sessions.page({})
        assert [row["connected"] for row in page["sessions"]] == [False, True]
        assert (page["connected"], page["away"]) == (1, 1)


async def test_takeover_and_clean_session_leave_one_session_in_the_list(tmp_path: Path) -> None:
    async with listed(tmp_path) as (box, sessions):
        for options in ({}, PERSISTENT, PERSISTENT, {}):
            await client(box, "same", **options)
            page = sessions.page({})
            assert (ids(page), page["connected"], page["away"]) == (["same"], 1, 0)


async def test_a_page_is_bounded_in_what_it_looks_at_and_in_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listed(tmp_path) as (box, sessions):
        for number in range(8):
            await client(box, f"c{number}")
        (await client(box, "away", **PERSISTENT)).abort()
        await gone(box, 1)
        monkeypatch.setattr(session_list, "MAX_LOOKED_AT", 3)
        page = sessions.page({"connected": False})
        assert (page["sessions"], page["next"]) == ([], "mqtt:3")
        assert walk(sessions, connected=False) == ["away"]
        monkeypatch.setattr(session_list, "MAX_LOOKED_AT", 100)
        monkeypatch.setattr(session_list, "_MAX_PAGE_CHARS", 5)
        assert ids(sessions.page({})) == ["c0", "c1", "c2"]
        assert len(walk(sessions)) == 9


async def test_few_of_many_filters_and_of_very_long_ones_are_shown(tmp_path: Path) -> None:
    async with listed(tmp_path) as (box, sessions):
        many = await client(box, "many")
        wanted = tuple(TopicSubscription(filter=f"a/{number}", qos=0) for number in range(150))
        many.send(encode_packet(Subscribe(packet_id=1, subscriptions=wanted), 4))
        assert await many.read(155)
        long = await client(box, "long")
        wanted = tuple(TopicSubscription(filter=f"{number}" * 40_000, qos=0) for number in range(3))
        long.send(encode_packet(Subscribe(packet_id=1, subscriptions=wanted), 4))
        assert await long.read(7)
        rows = sessions.page({})["sessions"]
        assert [row["subscriptions"] for row in rows] == [150, 3]
        assert rows[0]["filters"] == [f"a/{number}" for number in range(100)]
        assert rows[1]["filters"] == ["0" * 40_000]


@pytest.mark.parametrize(
    "args", [{"limit": 0}, {"limit": "1"}, {"connected": 1}, {"client_id": b"x"}, {"cursor": "mqtt"}, {"cursor": "a:²"}]
)
async def test_what_cannot_be_asked_is_refused(tmp_path: Path, args: dict[str, Any]) -> None:
    async with listed(tmp_path) as (_, sessions):
        with pytest.raises(BadRequestError):
            sessions.page(args)


async def test_a_session_of_5_0_says_how_long_it_is_kept(tmp_path: Path) -> None:
    async with listed(tmp_path) as (box, sessions):
        five = await Client.connect(box.mqtt_port)
        properties = ConnectProperties(session_expiry_interval_s=90)
        five.send(encode_connect(Connect(client_id="five", protocol_level=5, properties=properties)))
        assert await five.read(4)
        (row,) = sessions.page({})["sessions"]
        assert (row["level"], row["expiry_s"]) == (5, 90)


# -- the roster by itself


@pytest.mark.parametrize("seed", range(5))
def test_a_roster_is_in_order_and_without_what_was_removed(seed: int) -> None:
    rng = random.Random(seed)
    roster: Roster[str] = Roster()
    known: dict[int, str] = {}
    for step in range(3_000):
        if rng.random() < (0.6 if step < 1_500 else 0.3) or not known:
            entry = f"entry {step}"
            number = roster.add(entry)
            assert number > max(known, default=0)
            known[number] = entry
        else:
            number = rng.choice(list(known))
            roster.remove(number)
            roster.remove(number)  # a second time is nothing
            del known[number]
        if not step % 100:
            after = rng.randrange(step + 1)
            there = [(number, entry) for number, entry in roster.after(after) if entry is not None]
            assert there == [(number, entry) for number, entry in known.items() if number > after]
    assert len(roster) == len(known)
    assert len(list(roster.after(0))) <= 2 * len(known) + 66


async def test_a_page_of_100_000_sessions_costs_what_it_shows(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        many = Sessions(box.log, box.log.boot_id)
        opened = [many.open("tcp", "p") for _ in range(100_000)]
        for session in opened[:40_000]:
            many.close(session, "gone")
        looked_at: list[int] = []
        after = many.rosters["tcp"].after

        class Counting(Roster[Any]):
            def after(self, number: int) -> Any:
                for one in after(number):
                    looked_at.append(one[0])
                    yield one

        many._rosters["tcp"] = Counting()
        page = SessionList(many, box.mqtt.broker).page({"limit": 10, "cursor": "tcp:90000"})
        assert len(page["sessions"]) == 10
        assert page["next"] == "tcp:90010"
        assert len(looked_at) == 11
