"""The local channel: how the processes of one box talk to the one that writes the log.

A unix socket (`<data>/run/edge.sock`, mode 0600). Each frame is a 4-byte big-endian length and a msgpack map. A
request is `{"id": n, "verb": name, "args": {...}}`; its answer `{"id": n, "result": ...}` or `{"id": n, "error":
{"code", "what", "where", "mend"}}`. Requests of one connection may be answered in any order. Bounds: a frame has at
most `MAX_FRAME_BYTES`, a connection at most `MAX_IN_FLIGHT` unanswered requests (further ones wait unread), the server
at most `MAX_CONNECTIONS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from core.errors import BadRequestError, DataDirError, HeadraceError, NotFoundError, OutdatedError, UnavailableError
from core.logs import LimitedLog

MAX_FRAME_BYTES: Final = 32 << 20  # an `append` of a few thousand large records, a table of a few 100,000 rows
MAX_IN_FLIGHT: Final = 64  # a console, a sink and a few tools each ask a handful of things at once
MAX_CONNECTIONS: Final = 64

_LENGTH: Final = struct.Struct(">I")
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder().decode

Handler = Callable[[Mapping[str, Any]], Awaitable[Any]]
_MEND: Final = "ask through a headrace command of this release: the socket speaks msgpack frames"
_MAX_SHOWN_CHARS: Final = 100
_ERRORS: Final[Mapping[str, type[HeadraceError]]] = {
    error.code: error for error in (BadRequestError, NotFoundError, OutdatedError, UnavailableError)
}


class ChannelError(HeadraceError):
    """The other side answered with an error that has no class of its own here: `remote_code` is its code."""

    code = "channel"
    remote_code: str = ""


async def _read_frame(reader: asyncio.StreamReader) -> Any:
    """One decoded frame. Raises IncompleteReadError at the end, BadRequestError for what is not a frame."""
    (length,) = _LENGTH.unpack(await reader.readexactly(4))
    if length > MAX_FRAME_BYTES:
        raise BadRequestError(
            f"a frame announces {length} bytes, the limit is {MAX_FRAME_BYTES}", where="local channel"
        )
    try:
        return _decode(await reader.readexactly(length))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadRequestError(f"a frame is not msgpack: {error}", where="local channel") from error


def _frame(message: Mapping[str, Any]) -> bytes:
    body = _encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise BadRequestError(
            f"a message of {len(body)} bytes is over the limit of {MAX_FRAME_BYTES}", where="local channel"
        )
    return _LENGTH.pack(len(body)) + body


def _error_fields(error: HeadraceError) -> dict[str, str]:
    return {"code": error.code, "what": error.what, "where": error.where, "mend": error.mend}


def _error_from(fields: Mapping[str, str]) -> HeadraceError:
    kind = _ERRORS.get(fields["code"], ChannelError)
    error = kind(fields["what"], where=fields["where"], mend=fields["mend"])
    if isinstance(error, ChannelError):
        error.remote_code = fields["code"]
    return error


class ChannelServer:
    """Serves verbs on a unix socket. Handlers take the request's `args` and return what msgpack carries."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        self._path = path
        self._handlers = handlers
        self._server: asyncio.Server | None = None
        self.refused = 0
        """Connections ended because they did not speak the protocol, or were too many."""
        self._connections: set[asyncio.StreamWriter] = set()
        self._lines = LimitedLog(structlog.get_logger("headrace.channel"))

    async def start(self) -> None:
        """Listen. A socket file left by a dead process is replaced (the data directory's lock guards a live one).

        Raises DataDirError when the socket cannot be made.
        """
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            bind_private(listener, self._path)
        except OSError as error:
            listener.close()
            raise DataDirError(
                f"the local channel cannot be opened: {error.strerror or error}",
                where=str(self._path),
                mend="free some space; the directory's file system must allow sockets, and its path be short",
            ) from error
        self._server = await asyncio.start_unix_server(self._serve, sock=listener)

    async def close(self) -> None:
        """Stop listening and hang up."""
        if self._server is None:
            return
        self._server.close()
        for writer in list(self._connections):
            writer.close()
        await self._server.wait_closed()
        self._lines.flush()
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            self._refused(BadRequestError(f"there are {MAX_CONNECTIONS} connections", mend="end some of the programs"))
            writer.close()
            return
        self._connections.add(writer)
        slots = asyncio.Semaphore(MAX_IN_FLIGHT)
        tasks: set[asyncio.Task[None]] = set()
        try:
            while True:
                await slots.acquire()
                request = await _read_frame(reader)
                task = asyncio.create_task(self._answer(request, writer))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                task.add_done_callback(lambda _done: slots.release())
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client left
        except BadRequestError as error:  # it does not speak this protocol: one answer, and the connection is over
            self._refused(error)
            writer.write(_frame({"id": None, "error": _error_fields(error)}))
        finally:
            for task in tasks:
                task.cancel()
            self._connections.discard(writer)
            writer.close()

    async def _answer(self, request: Any, writer: asyncio.StreamWriter) -> None:
        number = request.get("id") if isinstance(request, dict) else None
        if not isinstance(number, int):
            number = None  # whatever else it is, it is not sent back
        try:
            reply = _frame({"id": number, "result": await self._call(request)})
        except HeadraceError as error:
            reply = _frame({"id": number, "error": _error_fields(error)})
        except Exception as error:  # noqa: BLE001 - a handler's bug must answer its caller, not end the log's process
            self._lines.error("channel handler failed", error=repr(error), exc_info=error)
            reply = _frame({"id": number, "error": {"code": "internal", "what": repr(error), "where": "", "mend": ""}})
        with contextlib.suppress(ConnectionError):
            writer.write(reply)
            await writer.drain()

    async def _call(self, request: Any) -> Any:
        if not isinstance(request, dict) or not isinstance(request.get("args"), dict):
            raise BadRequestError("a request is a map with id, verb and args", where="local channel")
        verb = request.get("verb")
        handler = self._handlers.get(verb) if isinstance(verb, str) else None
        if handler is None:
            raise BadRequestError(
                f"unknown verb {str(verb)[:_MAX_SHOWN_CHARS]!r}", mend=f"one of {', '.join(sorted(self._handlers))}"
            )
        return await handler(request["args"])

    def _refused(self, error: BadRequestError) -> None:
        self.refused += 1
        self._lines.warning("local channel refused", what=error.what, where=str(self._path), mend=error.mend or _MEND)


def bind_private(listener: socket.socket, path: Path) -> None:
    """Bind so that the socket file is never open to others, not even for a moment; long paths go by a relative name."""
    before = os.umask(0o177)
    try:
        listener.bind(socket_address(path))
    finally:
        os.umask(before)


def socket_address(path: Path) -> str:
    """A spelling of `path` that fits a unix address (108 bytes): through /proc/self/fd or relative when long."""
    text = str(path)
    if len(os.fsencode(text)) < 100:
        return text
    relative = os.path.relpath(path)
    return relative if len(os.fsencode(relative)) < len(os.fsencode(text)) else text


class ChannelClient:
    """Calls verbs of the process that writes the log; connects when first needed and again after a loss."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._next_id = 0
        self._connecting = asyncio.Lock()

    async def call(self, verb: str, *, timeout_s: float = 30.0, **args: Any) -> Any:
        """The verb's result. Raises the handler's HeadraceError, or UnavailableError when nobody answers.

        An UnavailableError after the request was sent leaves open whether it was carried out.
        """
        writer = await self._connected()
        self._next_id += 1
        number = self._next_id
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            writer.write(_frame({"id": number, "verb": verb, "args": args}))
            return await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            raise self._unavailable(f"no answer to {verb!r} within {timeout_s:g} s") from None
        finally:
            self._waiting.pop(number, None)

    async def close(self) -> None:
        """Hang up; calls under way fail with UnavailableError."""
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading
            self._reading = None

    async def _connected(self) -> asyncio.StreamWriter:
        async with self._connecting:
            if self._writer is not None:
                return self._writer
            try:
                reader, writer = await asyncio.open_unix_connection(socket_address(self._path))
            except OSError as error:
                raise self._unavailable(f"the edge process does not answer ({error.strerror or error})") from error
            self._writer = writer
            self._reading = asyncio.create_task(self._read(reader, writer))
            return writer

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                reply = await _read_frame(reader)
                future = self._waiting.get(reply["id"])
                if future is None or future.done():
                    continue
                if "error" in reply:
                    future.set_exception(_error_from(reply["error"]))
                else:
                    future.set_result(reply["result"])
        except (asyncio.IncompleteReadError, ConnectionError, BadRequestError):
            pass  # the edge is gone; whoever waits is told below
        finally:
            self._writer = None
            writer.close()
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(self._unavailable("the edge process hung up"))

    def _unavailable(self, what: str) -> UnavailableError:
        return UnavailableError(what, where=str(self._path), mend="is `headrace run` up on this data directory?")
