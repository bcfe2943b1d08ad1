"""Listening sockets: what connections inherit, IPv6, unix sockets and what is left of them."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest
import uvloop

from core.errors import ConfigError, PortTakenError
from ingest.endpoints import peer_name, remove_unix_socket, tcp_sockets, unix_socket
from ingest.settings import MqttSettings
from tests.conftest import wait_until_async
from tests.ingest.edge_box import Client, edge_box
from wire.mqtt.encode import encode_connect
from wire.mqtt.packets import Connect

CONNACK = b"\x20\x02\0\0"


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose sockets have short names: the kernel's limit is 108 bytes."""
    path = Path(mkdtemp(prefix="hr"))
    yield path
    shutil.rmtree(path)


# TCP


def accepted_socket(user_timeout_s: float) -> socket.socket:
    """A connection that uvloop, the edge's loop, has accepted."""

    async def accept() -> socket.socket:
        loop = asyncio.get_running_loop()
        (listening,) = await tcp_sockets("127.0.0.1", "auto", setting="mqtt.port", user_timeout_s=user_timeout_s)
        made: asyncio.Future[socket.socket] = loop.create_future()

        class Accepting(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                made.set_result(socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())))

        server = await loop.create_server(Accepting, sock=listening)
        with socket.create_connection(listening.getsockname()):
            accepted = await made
        server.close()
        return accepted

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(accept())


def tcp_option(connection: socket.socket, name: str) -> int:
    return connection.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this platform has no TCP_USER_TIMEOUT")
def test_accepted_connections_inherit_what_finds_dead_peers() -> None:
    with accepted_socket(120) as connection:
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert tcp_option(connection, "TCP_USER_TIMEOUT") == 120_000
        idle_s, interval_s, count = (
            tcp_option(connection, name) for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
        )
        assert (idle_s, interval_s, count) == (60, 15, 4)
        assert idle_s + interval_s * count == 120, "a probe that is lost must not end a connection early"
        assert tcp_option(connection, "TCP_NODELAY") == 1


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this platform has no TCP_USER_TIMEOUT")
def test_without_a_user_timeout_everything_is_as_the_system_has_it() -> None:
    with accepted_socket(0) as connection:
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
        assert tcp_option(connection, "TCP_USER_TIMEOUT") == 0


async def test_the_options_are_set_where_a_platform_has_only_some(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TCP_USER_TIMEOUT", "TCP_KEEPIDLE"):
        monkeypatch.delattr(socket, name, raising=False)
    (listening,) = await tcp_sockets("127.0.0.1", "auto", setting="mqtt.port", user_timeout_s=60)
    with listening:
        assert listening.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


@needs_ipv6
@pytest.mark.parametrize("host", ["::1", "[::1]"])
async def test_ipv6(host: str) -> None:
    (listening,) = await tcp_sockets(host, "auto", setting="mqtt.port")
    with listening:
        assert listening.getsockname()[0] == "::1"


@needs_ipv6
async def test_any_ipv6_address_is_every_address_of_both_families() -> None:
    (listening,) = await tcp_sockets("::", "auto", setting="mqtt.port")
    with listening:
        listening.listen()
        port = listening.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, port)):
                accepted, address = listening.accept()
                accepted.close()
                assert peer_name(address).startswith("127.0.0.1:" if host == "127.0.0.1" else "[::1]:")


async def test_all_addresses_of_a_name_get_one_port() -> None:
    bound = await tcp_sockets("localhost", "auto", setting="mqtt.port")
    assert len({listening.getsockname()[1] for listening in bound}) == 1
    for listening in bound:
        listening.close()


async def test_addresses_of_a_family_that_the_machine_lacks_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]

    async def found(*_: object, **__: object) -> object:
        return both

    made = socket.socket

    def without_ipv6(family: int = socket.AF_INET, *arguments: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return made(family, *arguments)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", found, raising=False)
    monkeypatch.setattr("ingest.endpoints.socket.socket", without_ipv6)
    (listening,) = await tcp_sockets("localhost", "auto", setting="mqtt.port")
    with listening:
        assert listening.family == socket.AF_INET
    del both[1]
    with pytest.raises(ConfigError, match="not an address of this machine"):
        await tcp_sockets("localhost", "auto", setting="mqtt.port")


async def test_errors_name_the_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortTakenError) as taken:
            await tcp_sockets("127.0.0.1", port, setting="mqtt.websocket_port")
    assert taken.value.where == f"mqtt.host = '127.0.0.1', mqtt.websocket_port = {port}"
    assert "--set mqtt.websocket_port=auto" in taken.value.mend
    with pytest.raises(ConfigError, match=r"'192\.0\.2\.1' is not an address of this machine"):
        await tcp_sockets("192.0.2.1", "auto", setting="mqtt.port")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (("192.0.2.1", 4000), "192.0.2.1:4000"),
        (("2001:db8::1", 4000, 0, 0), "[2001:db8::1]:4000"),
        (("::ffff:192.0.2.1", 4000, 0, 0), "192.0.2.1:4000"),
        (("::ffff:1:2", 4000, 0, 0), "[::ffff:1:2]:4000"),
        ("", "unix"),
        (None, "unix"),
    ],
)
def test_peers_are_shown_as_people_write_them(name: object, shown: str) -> None:
    assert peer_name(name) == shown


@needs_ipv6
async def test_a_listener_on_ipv6(tmp_path: Path) -> None:
    async with edge_box(tmp_path) as box:
        port = await box.mqtt.start("::1", "auto")
        client = Client(*await asyncio.open_connection("::1", port))
        client.send(encode_connect(Connect(client_id="six")))
        assert await client.read(4) == CONNACK
        (connection,) = box.mqtt._all()
        assert connection.peer.startswith("[::1]:")
        await client.close()


# Unix sockets


async def test_mqtt_over_a_unix_socket(tmp_path: Path, short_path: Path) -> None:
    path = short_path / "mqtt.sock"
    async with edge_box(tmp_path, mqtt=MqttSettings(unix_socket=path, unix_socket_mode="0600")) as box:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        client = Client(*await asyncio.open_unix_connection(path))
        client.send(encode_connect(Connect(client_id="local")))
        assert await client.read(4) == CONNACK
        (connection,) = box.mqtt._all()
        assert connection.peer == "unix"
        await client.close()
        await wait_until_async(lambda: not box.mqtt.counters.connections)
    assert not path.exists()


@pytest.mark.parametrize("mode", ["0600", "660", "0777"])
def test_a_unix_socket_has_the_mode_of_the_settings_whatever_the_umask(short_path: Path, mode: str) -> None:
    before = os.umask(0o077)
    try:
        listening, inode = unix_socket(short_path / "s", int(mode, 8), setting="mqtt.unix_socket")
    finally:
        os.umask(before)
    with listening:
        found = (short_path / "s").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_ino) == (int(mode, 8), inode)


def test_what_a_killed_process_left_is_replaced(short_path: Path) -> None:
    path = short_path / "s"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    listening, _ = unix_socket(path, 0o600, setting="mqtt.unix_socket")
    with listening:
        listening.listen()
        with pytest.raises(PortTakenError, match="another program listens"):
            unix_socket(path, 0o600, setting="mqtt.unix_socket")
        assert path.is_socket(), "the other's socket stays"


def test_a_socket_whose_owner_has_no_time_is_not_taken_for_dead(short_path: Path) -> None:
    path = short_path / "s"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))  # the backlog is full now
        with pytest.raises(PortTakenError):
            unix_socket(path, 0o600, setting="mqtt.unix_socket")


def test_a_file_that_is_no_socket_is_not_touched(short_path: Path) -> None:
    path = short_path / "notes"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="something else than a socket"):
        unix_socket(path, 0o600, setting="mqtt.unix_socket")
    assert path.read_text() == "mine"


@pytest.mark.parametrize("name", ["missing/s", "x" * 120])
def test_a_path_that_cannot_be_bound_says_so(short_path: Path, name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        unix_socket(short_path / name, 0o600, setting="mqtt.unix_socket")
    assert "mqtt.unix_socket" in (refused.value.where or "")


def test_a_socket_that_somebody_else_put_there_since_stays(short_path: Path) -> None:
    path = short_path / "s"
    listening, inode = unix_socket(path, 0o600, setting="mqtt.unix_socket")
    with listening, socket.socket(socket.AF_UNIX) as theirs:
        path.rename(short_path / "away")
        theirs.bind(str(path))
        remove_unix_socket(path, inode)
        assert path.exists()
    path.unlink()
    remove_unix_socket(path, inode)  # nothing there: nothing to do
