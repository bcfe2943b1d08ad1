"""MQTT over WebSocket [MQTT-6.0.0-1..4]: stands between a socket and a connection that knows nothing of it.

To the socket this is a protocol, to the connection above a transport: what arrives in binary frames goes up as the
chunks that a TCP socket would bring, wherever frames begin and end [MQTT-6.0.0-2]; what the connection writes goes out
as one binary frame. The framing itself is the sans-I/O protocol of `websockets`; here are only the bytes' way through,
the limits, and how a connection ends:

- the request has `MAX_HANDSHAKE_BYTES` and the time that a client has for its CONNECT;
- a frame may be as large as an MQTT packet and some more; a message in many frames has no limit, since nothing of it is
  kept. A frame that is not whole counts as unfinished, as an incomplete packet does;
- compression is not offered: it costs memory for each connection, and lets a small frame become a large one;
- our close frame carries the reason. Then the client has its time to answer it (`Connection.second_passed`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from http import HTTPStatus
from typing import Any, Final

from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import BytesLike, Subprotocol

from ingest.listener import Connection
from ingest.origins import is_loopback, origin_allowed

SUBPROTOCOL: Final = Subprotocol("mqtt")
MAX_HANDSHAKE_BYTES: Final = 16 << 10  # browsers send cookies along; 128 headers of 8 KB are nobody's
_LEAST_FRAME_BYTES: Final = 1 << 20  # clients put what they have to say into one frame
_FRAME_SURPLUS_BYTES: Final = 64 << 10  # the largest packet and small ones beside it
_SLICE_BYTES: Final = 8 << 10  # taken apart at once: 1,365 frames at most, a few milliseconds of the loop
_MAX_SHOWN_CHARS: Final = 200  # of what a client says of itself, in an answer to it
_MAX_REASON_BYTES: Final = 120  # a close frame holds 123
_CLOSE_CODES: Final = {
    "shutdown": CloseCode.GOING_AWAY,
    "overloaded": CloseCode.TRY_AGAIN_LATER,
    "disconnected": CloseCode.NORMAL_CLOSURE,
    "taken over": CloseCode.NORMAL_CLOSURE,
}

_log = logging.getLogger("headrace.websocket")
_log.setLevel(logging.ERROR)  # below it the library says that connections come and go


class WebSocket(asyncio.Protocol):
    """One WebSocket; the transport of `connection`, and its `Carrier`."""

    __slots__ = (
        "_closing",
        "_connection",
        "_frame",
        "_handshake_bytes",
        "_origins",
        "_paused",
        "_rest",
        "_transport",
        "_websocket",
    )

    def __init__(self, connection: Connection, *, max_packet_size_bytes: int, origins: Collection[str] = ()) -> None:
        """`origins`: what a browser's `Origin` may be besides what always may (`ingest.origins`)."""
        self._connection = connection
        self._transport: Any = None
        self._closing = self._paused = False
        self._rest = b""
        self._handshake_bytes = 0
        self._frame = object()
        self._origins = origins
        self._websocket = ServerProtocol(
            subprotocols=[SUBPROTOCOL],
            max_size=(None, max(max_packet_size_bytes, _LEAST_FRAME_BYTES) + _FRAME_SURPLUS_BYTES),
            logger=_log,
        )
        connection.carrier = self

    # -- Carrier

    @property
    def unfinished_size_bytes(self) -> int:
        """See `Carrier.unfinished_size_bytes`."""
        return len(self._websocket.reader.buffer) + len(self._rest)

    @property
    def unfinished(self) -> object | None:
        """See `Carrier.unfinished`."""
        return self._frame if self._websocket.reader.buffer else None

    # -- asyncio.Protocol: what the socket says

    def connection_made(self, transport: Any) -> None:
        """A TCP connection is there: it counts from now on, and its time to CONNECT runs."""
        self._transport = transport
        self._connection.connection_made(self)

    def data_received(self, data: bytes) -> None:
        """A chunk arrived. A large one is taken apart in slices, with what else there is to do in between."""
        if self._rest or len(data) > _SLICE_BYTES:
            begun = bool(self._rest)
            self._rest += data
            if not begun:
                self._transport.pause_reading()
                self._next_slice()
        else:
            self._take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._closing = True
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        self._connection.resume_writing()

    # -- a transport: what the connection does

    def write(self, data: bytes) -> None:
        """Send a binary frame."""
        if self._websocket.state is State.OPEN:
            self._websocket.send_binary(data)
            self._send()

    def close(self) -> None:
        """Say why, and end when the client has answered; it gets what was written before."""
        if self._closing:
            return
        self._closing = True
        if self._websocket.state is State.OPEN:
            reason = self._connection.reason
            code = _CLOSE_CODES.get(reason, CloseCode.POLICY_VIOLATION)
            self._websocket.send_close(code, reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore"))
            self._send()
            self.resume_reading()  # the answer has to be heard
        else:
            self._transport.close()

    def abort(self) -> None:
        """End at once."""
        self._closing = True
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether nothing more can be written."""
        return self._closing

    def pause_reading(self) -> None:
        """Take no more from the socket."""
        if not self._closing:
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take more from the socket again."""
        self._paused = False
        if not self._rest and not self._transport.is_closing():
            self._transport.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See `asyncio.WriteTransport`."""
        self._transport.set_write_buffer_limits(high=high, low=low)

    def get_write_buffer_size(self) -> int:
        """See `asyncio.WriteTransport`."""
        size_bytes: int = self._transport.get_write_buffer_size()
        return size_bytes

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See `asyncio.BaseTransport`: that of the socket."""
        return self._transport.get_extra_info(name, default)

    # -- between the two

    def _next_slice(self) -> None:
        piece, self._rest = self._rest[:_SLICE_BYTES], self._rest[_SLICE_BYTES:]
        self._take(piece)
        if self._rest:
            asyncio.get_running_loop().call_soon(self._next_slice)
        elif not self._paused and not self._transport.is_closing():
            self._transport.resume_reading()

    def _take(self, data: bytes) -> None:
        websocket = self._websocket
        if websocket.eof_sent:
            return  # it has ended; what still comes is nobody's
        if websocket.state is State.CONNECTING and not self._shake_hands(data):
            return
        websocket.receive_data(data)
        chunks: list[BytesLike] = []
        refused = ""
        for event in websocket.events_received():
            if isinstance(event, Request):
                refused = self._answer(event)
            elif isinstance(event, Frame) and not self._closing:
                self._frame = object()
                if event.opcode in (Opcode.BINARY, Opcode.CONT):
                    chunks.append(event.data)
                elif event.opcode is Opcode.TEXT:  # [MQTT-6.0.0-1]
                    websocket.fail(CloseCode.UNSUPPORTED_DATA, "MQTT needs binary frames")
                    refused = "a text frame: MQTT needs binary ones"
                    break
        if chunks:
            self._connection.data_received(b"".join(chunks))
        elif websocket.reader.buffer:
            self._connection.heard = True  # of a frame that takes its time; how much is bounded
        if self._send():
            self._say_why(refused)

    def _answer(self, request: Request) -> str:
        """Answer the handshake; why it is refused, "" if it is not."""
        websocket = self._websocket
        if self._may_come(request):
            response = websocket.accept(request)
        else:
            named = ", ".join(request.headers.get_all("Origin"))[:_MAX_SHOWN_CHARS]
            what = f"Pages from {named!a} may not connect: mqtt.websocket_origins lists those that may.\n"
            response = websocket.reject(HTTPStatus.FORBIDDEN, what)
        websocket.send_response(response)
        if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            return ""
        return f"{response.status_code} {(response.body or b'').decode().strip()}"

    def _may_come(self, request: Request) -> bool:
        name = self._transport.get_extra_info("sockname")
        headers = request.headers
        return origin_allowed(
            headers.get_all("Origin"),
            headers.get_all("Host"),
            self._origins,
            on_loopback=not isinstance(name, tuple) or is_loopback(name[0].removeprefix("::ffff:")),
        )

    def _shake_hands(self, data: bytes) -> bool:
        """Whether the request is still within its bounds."""
        websocket = self._websocket
        self._handshake_bytes += len(data)
        if self._handshake_bytes <= MAX_HANDSHAKE_BYTES:
            return True
        what = f"A WebSocket handshake of more than {MAX_HANDSHAKE_BYTES} bytes"
        websocket.send_response(websocket.reject(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"{what}.\n"))
        self._send()
        self._say_why(what)
        return False

    def _say_why(self, refused: str) -> None:
        """It has ended, and not by us: count it and say so, unless the client closed it in order."""
        websocket = self._websocket
        error = websocket.handshake_exc or websocket.parser_exc
        if not refused and error is None:
            return
        mend = f"is it a WebSocket client of subprotocol mqtt? {refused or error}"
        if websocket.close_sent is None:
            self._connection.close("websocket handshake", mend=mend)
        else:
            self._connection.close("websocket error", mend=mend)

    def _send(self) -> bool:
        """Write what the WebSocket has to say; when that was its last word, close and be true."""
        out = b"".join(self._websocket.data_to_send())
        if out and not self._transport.is_closing():
            self._transport.write(out)
        ended = self._websocket.eof_sent
        if ended:
            self._closing = True
            self._transport.close()
        return ended
