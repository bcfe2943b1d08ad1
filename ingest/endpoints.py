"""Listening sockets: IPv4, IPv6 and unix, with the options that their connections inherit.

A peer that vanished without a word (no power, no radio, a firewall that forgot the connection) is noticed by the
operating system, not by a timer per connection: `SO_KEEPALIVE` asks the silent, `TCP_USER_TIMEOUT` gives up on one
that acknowledges nothing or never reads. Both are set on the listening socket, from which Linux and the BSDs hand them
down to every accepted connection, so that accepting costs no system call more. Where a platform lacks one of them
(macOS has no `TCP_USER_TIMEOUT`), it is left out: the keep-alive of the protocol still finds the dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from core.errors import ConfigError, PortTakenError

_PROBES: Final = 4  # one lost packet must not end a connection
ANY_IPV6: Final = "::"


async def tcp_sockets(host: str, port: int | str, *, setting: str, user_timeout_s: float = 0) -> list[socket.socket]:
    """Sockets bound to all addresses of `host`, one port for all; `auto` takes any free one.

    `::` is every address of both families. `setting` names the port's setting in errors; `user_timeout_s` (0: as the
    operating system has it) is how long a peer may acknowledge nothing. Raises PortTakenError, or ConfigError for an
    address that this machine does not have.
    """
    number = 0 if port == "auto" else int(port)
    bare = host.strip("[]")
    bound: list[socket.socket] = []
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            bare, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            taken = bound[0].getsockname()[1] if bound else number
            with _absent_family_skipped(last=len(found) == 1):
                bound.append(_bound(family, (address[0], taken, *address[2:]), both=bare == ANY_IPV6))
        if not bound:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    except OSError as error:
        for listening in bound:
            listening.close()
        raise _cannot_listen(setting, host, number, error) from error
    for listening in bound:
        _watch_peers(listening, user_timeout_s)
    return bound


def unix_socket(path: Path, mode: int, *, setting: str) -> tuple[socket.socket, int]:
    """A socket bound to `path`, and its inode.

    What a killed process left there is removed, but only if nobody listens on it. Raises
    PortTakenError when somebody does, and ConfigError when something else is there or it cannot be bound.
    """
    where = f"{setting} = {str(path)!r}"
    _remove_stale(path, where)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(str(path))
        path.chmod(mode)  # nobody gets in before `listen`, so nobody saw another mode
        return listening, path.lstat().st_ino
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"cannot listen on the unix socket: {error.strerror or error}",
            where=where,
            mend="a path of at most 100 bytes in a directory that the appliance may write to",
        ) from error


def remove_unix_socket(path: Path, inode: int) -> None:
    """Take away the socket that we bound; what somebody else has put there since stays."""
    with contextlib.suppress(FileNotFoundError):
        if path.lstat().st_ino == inode:
            path.unlink()


def peer_name(name: Any) -> str:
    """A peer's address as people write it: `192.0.2.1:4000`, `[2001:db8::1]:4000`; `unix` for one without."""
    if not isinstance(name, tuple):
        return str(name or "unix")
    host, port = name[0], name[1]
    if ":" not in host:
        return f"{host}:{port}"
    mapped = host.removeprefix("::ffff:")  # an IPv4 client at a socket of both families
    return f"{mapped}:{port}" if mapped != host and ":" not in mapped else f"[{host}]:{port}"


@contextlib.contextmanager
def _absent_family_skipped(*, last: bool) -> Any:
    """A name such as localhost may have an IPv6 address on a machine without IPv6."""
    try:
        yield
    except OSError as error:
        if last or error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise


def _bound(family: int, address: tuple[Any, ...], *, both: bool) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not both))
        listening.bind(address)
    except OSError:
        listening.close()
        raise
    return listening


def _watch_peers(listening: socket.socket, user_timeout_s: float) -> None:
    """Half the time silent, then four probes: a peer that is gone is found when the time is over, busy or idle."""
    if not user_timeout_s:
        return
    idle_s = max(1, int(user_timeout_s / 2))
    options = {
        "TCP_KEEPIDLE": idle_s,
        "TCP_KEEPALIVE": idle_s,  # macOS' name for it
        "TCP_KEEPINTVL": max(1, int(user_timeout_s / 2 / _PROBES)),
        "TCP_KEEPCNT": _PROBES,
        "TCP_USER_TIMEOUT": int(user_timeout_s * 1000),
    }
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in options.items():
        option = getattr(socket, name, None)
        if option is not None:
            listening.setsockopt(socket.IPPROTO_TCP, option, value)


def _remove_stale(path: Path, where: str) -> None:
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"cannot look at the unix socket: {error.strerror}", where=where) from error
    if not stat.S_ISSOCK(kind):
        raise ConfigError("something else than a socket is there", where=where, mend="choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full backlog: somebody listens
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass
        except OSError as error:
            raise ConfigError(f"cannot ask who listens there: {error.strerror or error}", where=where) from error
    raise PortTakenError("another program listens on the unix socket", where=where, mend="stop it, or another path")


def _cannot_listen(setting: str, host: str, port: int, error: OSError) -> Exception:
    section = setting.partition(".")[0]
    where = f"{section}.host = {host!r}, {setting} = {port}"
    if error.errno == errno.EADDRINUSE:
        mend = f"stop the program that has it, or choose another port: --set {setting}=auto takes any free one"
        return PortTakenError(f"port {port} on {host} is already in use", where=where, mend=mend)
    if error.errno == errno.EACCES:
        return ConfigError(f"no permission to listen on port {port}", where=where, mend="use a port above 1023")
    if isinstance(error, socket.gaierror) or error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return ConfigError(f"{host!r} is not an address of this machine", where=where, mend="127.0.0.1, for example")
    return ConfigError(f"cannot listen: {error}", where=where)


def first_port(bound: Sequence[socket.socket]) -> int:
    """The port that `tcp_sockets` has got."""
    port: int = bound[0].getsockname()[1]
    return port
