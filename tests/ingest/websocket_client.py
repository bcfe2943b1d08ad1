"""A WebSocket client over a raw socket that can also do what none should."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from websockets.frames import Close, Frame, Opcode

from tests.ingest.edge_box import Client
from wire.mqtt.encode import encode_connect
from wire.mqtt.packets import Connect

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455, section 1.3
CONNACK = b"\x20\x02\0\0"


def request(
    *, subprotocol: str | None = "mqtt", path: str = "/mqtt", first: str = "", upgrade: str = "websocket", **more: str
) -> bytes:
    """A handshake; header names in `more` have _ for -."""
    lines = [first or f"GET {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: Upgrade"]
    if upgrade:
        lines.append(f"Upgrade: {upgrade}")
    lines += [f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13"]
    if subprotocol is not None:
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in more.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def frame(data: bytes, opcode: Opcode = Opcode.BINARY, *, fin: bool = True, mask: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=mask)


@dataclass
class WebSocketClient:
    """One connection; `raw` is its socket."""

    raw: Client

    @classmethod
    async def open(cls, port: int) -> WebSocketClient:
        client = cls(await Client.connect(port))
        client.raw.send(request())
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"Sec-WebSocket-Protocol: mqtt\r\n" in head
        assert ACCEPT in head
        return client

    @classmethod
    async def mqtt(cls, port: int, client_id: str, **options: Any) -> WebSocketClient:
        """Connected and accepted."""
        client = await cls.open(port)
        client.send(encode_connect(Connect(client_id=client_id, **options)))
        assert await client.data(4) == CONNACK
        return client

    async def head(self) -> bytes:
        """An HTTP response up to its body."""
        lines = []
        while (line := await self.raw.line()) not in (b"\r\n", b""):
            lines.append(line)
        return b"".join(lines)

    def send(self, data: bytes) -> None:
        self.raw.send(frame(data))

    async def frame(self) -> tuple[Opcode, bytes]:
        """The next frame, whatever it is."""
        head, size = await self.raw.read(2)
        assert head & 0x80, "the server does not fragment"
        assert not size & 0x80, "a server's frames are not masked"
        if size == 126:
            size = int.from_bytes(await self.raw.read(2), "big")
        elif size == 127:
            size = int.from_bytes(await self.raw.read(8), "big")
        return Opcode(head & 15), await self.raw.read(size)

    async def data(self, size_bytes: int) -> bytes:
        """So many bytes out of binary frames."""
        data = b""
        while len(data) < size_bytes:
            opcode, more = await self.frame()
            assert opcode is Opcode.BINARY
            data += more
        assert len(data) == size_bytes
        return data

    async def closed(self) -> Close:
        """The close frame that comes next, answered as RFC 6455 wants it, and then the end."""
        opcode, data = await self.frame()
        assert opcode is Opcode.CLOSE
        self.raw.send(frame(data, Opcode.CLOSE))
        assert await self.raw.rest() == b""
        return Close.parse(data)
