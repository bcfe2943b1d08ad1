"""The raw TCP listener over real sockets: OK and ERR in line order, after the commit."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingest.settings import TcpSettings
from ingest.tcp import answers
from tests.conftest import wait_until_async
from tests.ingest.edge_box import Client, edge_box


async def test_ok_comes_only_after_the_sync(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await Client.connect(box.tcp_port)
        await box.log.drain()
        box.storage.gate.clear()
        client.send(b'{"device": "d", "x": 1}\n')
        await wait_until_async(lambda: box.tcp.counters.records == 1)
        assert await client.silent()
        box.storage.gate.set()
        assert await client.line() == b"OK 1\n"


async def test_refused_lines_are_answered_in_line_order_and_not_stored(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await Client.connect(box.tcp_port)
        client.send(b'{"device": "d", "x": 1}\r\n\n{"x": 2}\n[1]\n{"device": "d", "x": 3}\n')
        assert await client.line() == b"OK 2\n"
        assert (await client.line()).startswith(b"ERR 3 no device")
        assert (await client.line()).startswith(b"ERR 4 no device")
        assert await client.line() == b"OK 5\n"
        records = await box.records("telemetry", 2)
        assert [(r.key, r.value) for r in records] == [
            (b"d", b'{"device": "d", "x": 1}'),
            (b"d", b'{"device": "d", "x": 3}'),
        ]
        assert box.tcp.counters.refused_lines == {"no-device": 2}


@pytest.mark.parametrize("line", [b"not json", b'{"device": "d"', b'{"device": "\xff"}', b"\x00\x01"])
async def test_lines_that_are_not_json_are_stored_without_a_device(tmp_path: Path, line: bytes) -> None:
    async with edge_box(tmp_path) as box:
        client = await Client.connect(box.tcp_port)
        client.send(line + b"\n")
        assert await client.line() == b"OK 1\n"
        (record,) = await box.records("telemetry", 1)
        assert (record.key, record.value, record.headers) == (None, line, [("headrace.device", b"")])


async def test_a_line_of_10_mb_is_refused_once_and_the_connection_goes_on(tmp_path: Path) -> None:
    async with edge_box(tmp_path, tcp=TcpSettings(max_line_size="64KB")) as box:
        client = await Client.connect(box.tcp_port)
        client.send(b"x" * (10 << 20) + b"\n" + b'{"device": "d"}\n')
        assert await client.line() == b"ERR 1 line is longer than 65536 bytes\n"
        assert await client.line() == b"OK 2\n"
        assert box.tcp.counters.refused_lines == {"too-long": 1}


async def test_connected_at_the_first_line_and_disconnected_at_the_end(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await Client.connect(box.tcp_port)
        client.send(b'{"device": "d"}\n{"device": "d"}\n')
        await client.line()
        await client.close()
        events = await box.events(2)
        assert [e["event"] for e in events] == ["connected", "disconnected"]
        assert events[0]["protocol"] == "tcp"


async def test_silence_beyond_the_idle_timeout_ends_the_connection(tmp_path: Path) -> None:
    async with edge_box(tmp_path, tcp=TcpSettings(idle_timeout="2s")) as box:
        client = await Client.connect(box.tcp_port)
        (connection,) = await wait_until_async(lambda: box.tcp._all())
        for _ in range(4):
            connection.tick()
        assert await client.rest() == b""
        assert box.tcp.counters.refused_connections == {"idle timeout": 1}


async def test_who_sends_nothing_more_still_gets_the_answers(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await Client.connect(box.tcp_port)
        await box.log.drain()
        box.storage.gate.clear()
        client.send(b'{"device": "d"}\n{"x": 1}\n')
        client.end()
        await wait_until_async(lambda: box.tcp.counters.records == 1)
        assert await client.silent()
        box.storage.gate.set()
        assert await client.rest() == b"OK 1\nERR 2 no device: the object has no field named device\n"
        await wait_until_async(lambda: not box.tcp.counters.connections)


async def test_an_end_without_a_question_is_an_end(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await Client.connect(box.tcp_port)
        client.send(b'{"device": "d"')
        client.end()
        assert await client.rest() == b""
        await wait_until_async(lambda: box.tcp.counters.refused_lines == {"cut-off": 1})


async def test_a_failed_log_answers_nothing(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        client = await Client.connect(box.tcp_port)
        client.send(b'{"device": "d"}\n')
        assert await client.line() == b"OK 1\n"
        await box.log.drain()
        box.storage.fail = True
        client.send(b'{"device": "d"}\n')
        assert await client.rest() == b""


@pytest.mark.parametrize(
    ("first", "last", "refused", "expected"),
    [
        (1, 3, [(1, "a")], b"ERR 1 a\nOK 3\n"),
        (1, 3, [(3, "a")], b"OK 2\nERR 3 a\n"),
        (5, 9, [(5, "a"), (6, "b"), (8, "c")], b"ERR 5 a\nERR 6 b\nOK 7\nERR 8 c\nOK 9\n"),
        (2, 2, [(2, "näh")], b"ERR 2 n?h\n"),
    ],
)
def test_answers(first: int, last: int, refused: list[tuple[int, str]], expected: bytes) -> None:
    assert answers(first, last, refused) == expected
