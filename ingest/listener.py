"""What every listener is: a socket that accepts, a bounded set of connections, a slow sweep for the silent ones.

The sweep stands in for a timer per connection: each second every connection is asked once whether it has been heard
(`tick`), a tenth of them every 100 ms, so that thousands of idle connections cost the loop no pause.

While the disk is full, a connection that has to end for it is not read from any more and waits for its turn: clients
come back at once, and a fleet that is refused as fast as it connects would leave the loop to nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from commitlog.base import Appender
from commitlog.durability import Durability, DurabilityName
from core.logs import LimitedLog
from ingest.counters import ListenerCounters
from ingest.endpoints import first_port, peer_name, remove_unix_socket, tcp_sockets, unix_socket
from ingest.limits import MAX_UNFINISHED_BYTES, MAX_UNREAD_BYTES, Admission
from ingest.sessions import Sessions
from ingest.together import Together

_SLICES: Final = 10
_SWEEP_S: Final = 1.0
_CLOSE_PATIENCE_S: Final = 2.0  # for clients to take the acknowledgements written to them
MAX_STASHED_BYTES: Final = 32 << 20  # chunks put aside under congestion by all connections of a listener together
_HOLD_BYTES: Final = MAX_STASHED_BYTES // 2  # at which nobody is read from any more: the rest is for what is under way
_PIECE_BYTES: Final = (
    32 << 10
)  # of a chunk taken at once: 256 KB of packets made to be slow hold everybody up for 1.6 s
_MAX_CUT_BYTES: Final = (
    _HOLD_BYTES // 2
)  # put aside, at which large chunks are taken whole: fairness is not worth memory
_REFUSALS_PER_SLICE: Final = 10  # connections ended for the full disk in 100 ms: 100 a second, whatever the fleet does
DISK_FULL: Final = "disk full"
_WRITE_HIGH_WATER_BYTES: Final = 64 << 10  # acknowledgements a client may leave unread before it is not read from
_CLOSING_S: Final = 10  # a closing connection waits so long for a client that does not take what was written to it


class Carrier(Protocol):
    """What carries a connection's bytes in frames of its own (WebSocket), where it is not the socket itself."""

    @property
    def unfinished_size_bytes(self) -> int:
        """Bytes kept of a frame that is not whole yet."""

    @property
    def unfinished(self) -> object | None:
        """Which frame that is: the same object for as long as it is the same frame; None if there is none."""


class Connection(asyncio.Protocol):
    """One client's connection: reads only while the log and the client keep up."""

    __slots__ = (
        "_closing_s",
        "_refused",
        "_stashed",
        "_unread",
        "among",
        "carrier",
        "heard",
        "listener",
        "reason",
        "transport",
    )

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.transport: Any = None
        self.heard = True
        self.reason = ""
        self.carrier: Carrier | None = None
        self.among: set[Connection] | None = None  # the listener's set that it is in, once admitted
        self._unread = self._refused = False
        self._stashed = b""
        self._closing_s = 0

    @property
    def peer(self) -> str:
        """The client's address."""
        return peer_name(self.transport.get_extra_info("peername"))

    @property
    @abstractmethod
    def unfinished_size_bytes(self) -> int:
        """Bytes kept of what is not whole yet."""

    @property
    def unread_size_bytes(self) -> int:
        """Bytes written to the client that are not in its socket yet: it does not read them."""
        size_bytes: int = self.transport.get_write_buffer_size()
        return size_bytes

    @abstractmethod
    def opened(self) -> None:
        """The connection was admitted."""

    @abstractmethod
    def take(self, data: bytes) -> None:
        """A chunk arrived and the log has room for it."""

    @abstractmethod
    def tick(self) -> None:
        """A second has passed."""

    @abstractmethod
    def ended(self, reason: str) -> None:
        """The connection is gone."""

    @abstractmethod
    def full_changed(self, full: bool) -> None:
        """The disk became full, or has room again."""

    # asyncio.Protocol

    def connection_made(self, transport: Any) -> None:
        """Admit or refuse."""
        self.transport = transport
        transport.set_write_buffer_limits(high=_WRITE_HIGH_WATER_BYTES)
        if not self.listener.admit(self):
            self.reason = "refused"
            transport.abort()
            return
        if self.listener.held:
            transport.pause_reading()
        self.opened()

    def data_received(self, data: bytes) -> None:
        """A chunk arrived. Under congestion it is put aside, at most one per connection, and reading stops.

        One that is large is taken in pieces, so that a client whose packets are slow to take leaves others their turn.
        """
        if self._refused:
            return
        if self.listener.log.congested or self._stashed:
            self._put_aside(data)
        elif len(data) > _PIECE_BYTES and self.listener.stashed_bytes + len(data) <= _MAX_CUT_BYTES:
            self._take_piece(data)
        else:
            self.take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, whoever ended it."""
        if self.listener.forget(self):
            self.ended(self.reason or ("connection lost" if exc else "closed by the client"))

    def pause_writing(self) -> None:
        """The client does not read its acknowledgements: do not read its publishes either."""
        self._unread = True
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """It has read them."""
        self._unread = False
        self._read_on()

    # for subclasses and the listener

    @property
    def unread(self) -> bool:
        """We do not read: its silence is ours."""
        return self.listener.held or bool(self._stashed) or self._refused

    def refuse_full(self) -> None:
        """The disk is full and this connection has published: read no more of it, and end it when it is its turn."""
        if not self._refused:
            self._refused = True
            self.transport.pause_reading()
            self.listener.refused.append(self)

    def close(self, reason: str, *, abort: bool = False, mend: str = "") -> None:
        """End the connection; what was written still goes out unless `abort`. With `mend` a log line says so."""
        if not self.reason:
            self.reason = reason
            self.listener.counters.refused_connections[reason] += 1
            if mend:
                self.listener.lines.warning("connection closed", what=reason, where=self.peer, mend=mend)
        if abort:
            self.transport.abort()
        else:
            self.transport.close()

    def second_passed(self) -> None:
        """`tick`, for as long as the connection is open. A closing one has its own patience."""
        if not self.transport.is_closing():
            self.tick()
            return
        self._closing_s += 1
        if self._closing_s > _CLOSING_S:
            self.transport.abort()

    def _take_piece(self, data: bytes) -> None:
        """Take the beginning of a large chunk, and the rest when others have had their turn."""
        self.take(data[:_PIECE_BYTES])
        if self.transport.is_closing() or self._refused:
            return
        self._stashed = data[_PIECE_BYTES:]
        self.listener.stashed_bytes += len(self._stashed)
        self.transport.pause_reading()
        asyncio.get_running_loop().call_soon(self._take_stashed)

    def _put_aside(self, data: bytes) -> None:
        listener = self.listener
        if listener.stashed_bytes + len(data) > MAX_STASHED_BYTES:
            # Nothing of the chunk was acknowledged: the client resends.
            self.close("overloaded", abort=True, mend="the disk is slower than what arrives: fewer or slower clients")
            return
        if not self._stashed:
            listener.log.when_clear(self._take_stashed)
        self._stashed += data
        listener.stashed_bytes += len(data)
        self.transport.pause_reading()
        if listener.stashed_bytes >= _HOLD_BYTES:
            listener.hold()

    def _take_stashed(self) -> None:
        data, self._stashed = self._stashed, b""
        self.listener.stashed_bytes -= len(data)
        if self.transport.is_closing():
            return
        self.data_received(data)
        self._read_on()

    def _read_on(self) -> None:
        listener = self.listener
        if self._unread or self._stashed or self._refused or listener.held or listener.draining:
            return
        if self.transport.is_closing():
            return
        self.transport.resume_reading()


class Listener:
    """Accepts connections of one protocol and keeps them within limits."""

    def __init__(
        self,
        protocol: str,
        log: Appender,
        sessions: Sessions,
        *,
        max_connections: int,
        make: Callable[[], Connection],
        admission: Admission | None = None,
        durability: DurabilityName | None = None,
        user_timeout_s: float = 0,
    ) -> None:
        """`user_timeout_s`: see `tcp_sockets`."""
        self.durability = None if durability is None else Durability.named(durability)
        self.counters = ListenerCounters(protocol)
        self.log = log
        self.sessions = sessions
        self.draining = False
        self.held = False
        self.stashed_bytes = 0
        self.refused: deque[Connection] = deque()  # at most one entry per connection
        self.lines = LimitedLog(structlog.get_logger(f"headrace.{protocol}"))
        self._protocol = protocol
        self._max_connections = max_connections
        self._make = make
        self._admission = admission or Admission()
        self._all_unfinished: Together[Connection] = Together(_SLICES, lambda one: one.unfinished_size_bytes)
        self._all_unread: Together[Connection] = Together(_SLICES, lambda one: one.unread_size_bytes)
        self._user_timeout_s = user_timeout_s
        self._servers: list[asyncio.AbstractServer] = []
        self._unix: list[tuple[Path, int]] = []
        self._empty = asyncio.Event()
        self._slices: list[set[Connection]] = [set() for _ in range(_SLICES)]
        self._sweep_timer: asyncio.TimerHandle | None = None
        log.watch_full(self._full_changed)

    async def start(self, host: str, port: int | str) -> int:
        """Listen; returns the port. Raises PortTakenError, or ConfigError for an address this machine does not have."""
        return await self.listen(host, port, setting=f"{self._protocol}.port", make=self._make)

    async def listen(
        self, host: str, port: int | str, *, setting: str, make: Callable[[], asyncio.BaseProtocol]
    ) -> int:
        """`start`, for connections that `make` makes; may be called for several ports. `setting`: see `tcp_sockets`."""
        bound = await tcp_sockets(host, port, setting=setting, user_timeout_s=self._user_timeout_s)
        loop = asyncio.get_running_loop()
        for listening in bound:
            self._servers.append(await loop.create_server(make, sock=listening, backlog=self._admission.backlog))
        self._begin_sweep()
        return first_port(bound)

    async def listen_unix(self, path: Path, mode: int, *, setting: str) -> None:
        """Listen on a unix socket, too. See `unix_socket` for what it raises."""
        listening, inode = unix_socket(path, mode, setting=setting)
        self._unix.append((path, inode))
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(self._make, sock=listening, backlog=self._admission.backlog)
        self._servers.append(server)
        self._begin_sweep()

    async def drain(self) -> None:
        """Accept nothing more and read nothing more; what was read is left to commit."""
        self.draining = True
        while self._servers:
            self._servers.pop().close()
        while self._unix:
            remove_unix_socket(*self._unix.pop())
        for connection in self._all():
            connection.transport.pause_reading()

    async def close(self) -> None:
        """End every connection, after what was written to it; a client that does not read is not waited for long."""
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None
        for patience_s, abort in ((_CLOSE_PATIENCE_S, False), (None, True)):
            self._empty.clear()
            for connection in self._all():
                connection.close("shutdown", abort=abort)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    while self.counters.connections:
                        await self._empty.wait()
        self.lines.flush()

    def fail(self) -> None:
        """The log has failed: end every connection at once, so that clients resend what was not acknowledged."""
        for connection in self._all():
            connection.close("log failed", abort=True)

    def admit(self, connection: Connection) -> bool:
        """Count a connection in, unless there are too many."""
        counters = self.counters
        if self.draining or counters.connections >= self._max_connections:
            self._refuse("too many connections", self._max_connections, f"raise {self._protocol}.max_connections")
            return False
        if not self._admission.enter():
            self._refuse("too many open files", counters.connections, "raise the limit on open files (ulimit -n)")
            return False
        connection.among = self._slices[counters.accepted % _SLICES]
        connection.among.add(connection)
        counters.accepted += 1
        counters.connections += 1
        return True

    def forget(self, connection: Connection) -> bool:
        """Count a connection out; False if it never was in."""
        connections, connection.among = connection.among, None
        if connections is None:
            return False
        connections.discard(connection)
        self.counters.connections -= 1
        self._admission.leave()
        if not self.counters.connections:
            self._empty.set()
        return True

    def hold(self) -> None:
        """Read from nobody until the log has caught up: much is put aside already."""
        if self.held:
            return
        self.held = True
        for connection in self._all():
            connection.transport.pause_reading()
        self.log.when_clear(self._release)

    def _full_changed(self, full: bool) -> None:
        for connection in self._all():
            connection.full_changed(full)
        if not full:
            self._end_refused(len(self.refused))  # they may come again now

    def _end_refused(self, most: int) -> None:
        for _ in range(min(most, len(self.refused))):
            connection = self.refused.popleft()
            connection.close(DISK_FULL, mend="free some space on the box: it accepts readings again by itself")

    def _release(self) -> None:
        self.held = False
        for connection in self._all():
            connection._read_on()

    def second_passed(self) -> None:
        """Called about once a second while listening."""

    def when_room(self, call: Callable[[], None]) -> None:
        """Do what appends to the log: now, or when it is no longer congested."""
        if self.log.congested:
            self.log.when_clear(lambda: self.when_room(call))
        else:
            call()

    def _refuse(self, reason: str, limit: int, mend: str) -> None:
        self.counters.refused_connections[reason] += 1
        self.lines.warning("connection refused", what=reason, where=self._protocol, limit=limit, mend=mend)

    def _all(self) -> list[Connection]:
        return [connection for connections in self._slices for connection in connections]

    def _begin_sweep(self) -> None:
        if self._sweep_timer is None:
            self._sweep_timer = asyncio.get_running_loop().call_later(_SWEEP_S / _SLICES, self._sweep, 0)

    def _sweep(self, index: int) -> None:
        for connection in list(self._slices[index]):
            connection.second_passed()
        self._bound_memory(index)
        self._end_refused(_REFUSALS_PER_SLICE)
        if index == 0:
            self.lines.flush()
            self.second_passed()
        loop = asyncio.get_running_loop()
        self._sweep_timer = loop.call_later(_SWEEP_S / _SLICES, self._sweep, (index + 1) % _SLICES)

    def _bound_memory(self, index: int) -> None:
        """Where incomplete packets and lines, or what clients leave unread, take too much together."""
        connections = self._slices[index]
        for connection in self._all_unfinished.excess(index, connections, MAX_UNFINISHED_BYTES):
            connection.close("unfinished", abort=True, mend="fewer clients that send much at once, or smaller payloads")
        for connection in self._all_unread.excess(index, connections, MAX_UNREAD_BYTES):
            connection.close("unread", mend="clients have to read what they are sent, or ask for less")
            connection.transport.abort()  # not even a client with a moment to take a reason takes any
