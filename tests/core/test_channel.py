from __future__ import annotations

import asyncio
import stat
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from core.channel import MAX_CONNECTIONS, MAX_FRAME_BYTES, ChannelClient, ChannelError, ChannelServer, Handler
from core.errors import BadRequestError, DataDirError, NotFoundError, UnavailableError
from tests.conftest import wait_until_async


async def echo(arguments: Mapping[str, Any]) -> Any:
    return dict(arguments)


@asynccontextmanager
async def serving(path: Path, handlers: Mapping[str, Handler]) -> AsyncIterator[ChannelClient]:
    server = ChannelServer(path, handlers)
    await server.start()
    client = ChannelClient(path)
    try:
        yield client
    finally:
        await client.close()
        await server.close()


async def test_a_verb_answers_with_what_its_handler_returned(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", {"echo": echo}) as client:
        assert await client.call("echo", a=1, b=b"\x00\xff", c=["x", None]) == {
            "a": 1,
            "b": b"\x00\xff",
            "c": ["x", None],
        }


async def test_the_socket_belongs_to_its_owner_alone_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(path, {}):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


async def test_a_dead_processs_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("left behind")
    async with serving(path, {"echo": echo}) as client:
        assert await client.call("echo", a=1) == {"a": 1}


async def test_a_path_longer_than_a_unix_address_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    monkeypatch.chdir(deep)
    async with serving(deep / "s", {"echo": echo}) as client:
        assert await client.call("echo") == {}


async def test_answers_come_in_any_order(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def slow(_arguments: Mapping[str, Any]) -> Any:
        await release.wait()
        return "slow"

    async with serving(tmp_path / "s", {"slow": slow, "echo": echo}) as client:
        waiting = asyncio.create_task(client.call("slow"))
        assert await client.call("echo", n=1) == {"n": 1}
        assert not waiting.done()
        release.set()
        assert await waiting == "slow"


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (NotFoundError("no such topic", where="here", mend="make it"), NotFoundError),
        (BadRequestError("what?"), BadRequestError),
        (UnavailableError("disk full"), UnavailableError),
        (DataDirError("gone", where="x"), ChannelError),
        (ZeroDivisionError("a bug"), ChannelError),
    ],
)
async def test_a_handlers_error_reaches_the_caller(
    tmp_path: Path, raised: Exception, expected: type[Exception]
) -> None:
    async def fail(_arguments: Mapping[str, Any]) -> Any:
        raise raised

    async with serving(tmp_path / "s", {"fail": fail, "echo": echo}) as client:
        with pytest.raises(expected) as caught:
            await client.call("fail")
        assert str(raised) in str(caught.value)
        assert await client.call("echo") == {}, "the connection goes on"


async def test_an_unknown_verb_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", {"echo": echo}) as client:
        with pytest.raises(BadRequestError, match="unknown verb 'what'") as caught:
            await client.call("what")
        assert caught.value.mend == "one of echo"


async def test_nobody_there_is_unavailable(tmp_path: Path) -> None:
    client = ChannelClient(tmp_path / "none")
    with pytest.raises(UnavailableError, match="does not answer"):
        await client.call("echo")
    await client.close()


async def test_no_answer_in_time_is_unavailable(tmp_path: Path) -> None:
    async def never(_arguments: Mapping[str, Any]) -> Any:
        await asyncio.Event().wait()

    async with serving(tmp_path / "s", {"never": never}) as client:
        with pytest.raises(UnavailableError, match="no answer to 'never'"):
            await client.call("never", timeout_s=0.01)


async def test_a_lost_server_fails_who_waits_and_is_found_again(tmp_path: Path) -> None:
    arrived = asyncio.Event()

    async def never(_arguments: Mapping[str, Any]) -> Any:
        arrived.set()
        await asyncio.Event().wait()

    first = ChannelServer(tmp_path / "s", {"never": never})
    await first.start()
    client = ChannelClient(tmp_path / "s")
    waiting = asyncio.create_task(client.call("never"))
    await arrived.wait()
    await first.close()
    with pytest.raises(UnavailableError, match="hung up"):
        await waiting
    second = ChannelServer(tmp_path / "s", {"echo": echo})
    await second.start()
    assert await client.call("echo", a=2) == {"a": 2}
    await client.close()
    await second.close()


async def test_a_message_over_the_limit_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", {"echo": echo}) as client:
        with pytest.raises(BadRequestError, match="over the limit"):
            await client.call("echo", data=b"x" * MAX_FRAME_BYTES)
        assert await client.call("echo") == {}


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (struct.pack(">I", MAX_FRAME_BYTES + 1), b"announces 33554433 bytes"),
        (struct.pack(">I", 1) + b"\xc1", b"not msgpack"),
        (struct.pack(">I", 100_001) + b"\x91" * 100_001, b"not msgpack"),
        (struct.pack(">I", 9) + b"short", b""),
    ],
    ids=["announces too much", "not msgpack", "nested too deep", "ends early"],
)
async def test_who_does_not_speak_the_protocol_is_told_and_hung_up_on(
    tmp_path: Path, data: bytes, answer: bytes
) -> None:
    async with serving(tmp_path / "s", {"echo": echo}) as client:
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        writer.write(data)
        writer.write_eof()
        told = await asyncio.wait_for(reader.read(), 5)
        assert answer in told if answer else told == b""
        writer.close()
        assert await client.call("echo") == {}


@pytest.mark.parametrize(
    "message",
    [
        [],
        5,
        {},
        {"id": 1, "verb": "echo"},
        {"id": 1, "verb": "echo", "args": [1]},
        {"id": 1, "verb": ["echo"], "args": {}},
        {"id": "x" * 1000, "verb": "x" * 1000, "args": {}},
    ],
)
async def test_a_request_of_another_shape_is_answered_with_an_error(tmp_path: Path, message: Any) -> None:
    async with serving(tmp_path / "s", {"echo": echo}):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        body = msgspec.msgpack.encode(message)
        writer.write(struct.pack(">I", len(body)) + body)
        (length,) = struct.unpack(">I", await asyncio.wait_for(reader.readexactly(4), 5))
        reply = msgspec.msgpack.decode(await reader.readexactly(length))
        assert reply["error"]["code"] == "bad-request"
        assert length < 500  # nothing long is sent back
        writer.close()


async def test_connections_over_the_limit_are_closed(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", {"echo": echo}) as client:
        assert await client.call("echo") == {}
        others = [await asyncio.open_unix_connection(tmp_path / "s") for _ in range(MAX_CONNECTIONS)]

        async def one_was_closed() -> bool:
            await asyncio.sleep(0)
            return any(reader.at_eof() for reader, _ in others)

        await wait_until_async(one_was_closed, describe="one connection too many is closed")
        assert sum(reader.at_eof() for reader, _ in others) == 1
        assert await client.call("echo") == {}
        for _, writer in others:
            writer.close()
