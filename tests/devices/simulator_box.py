"""A box to simulate against: listens on real sockets, decides each reading by a script, and keeps its own books.

It shares no code with the simulator, so that a misunderstanding shows.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum


class Verdict(Enum):
    """What becomes of one reading."""

    ACK = "stored and acknowledged"
    HOLD = "stored, never answered on this connection"
    LOSE_ACK = "stored, and the connection dropped instead of the answer"
    DROP = "not stored, connection dropped"
    REFUSE = "not stored, ERR"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A reading as the box saw it. `attempt` counts its arrivals from 1; `position` its place on its connection."""

    device: str
    seq: int
    attempt: int
    connection: int
    position: int
    dup: bool = False
    packet_id: int = 0
    payload: dict[str, object] = field(default_factory=dict)


Script = Callable[[Arrival], Verdict]


class FakeBox:
    """Speaks both protocols. `connack` is the return code given to every CONNECT."""

    def __init__(self, script: Script = lambda _: Verdict.ACK) -> None:
        self.script = script
        self.connack = 0
        self.stored: dict[str, set[int]] = defaultdict(set)
        self.refused: dict[str, set[int]] = defaultdict(set)
        self.arrivals: dict[str, list[Arrival]] = defaultdict(list)
        self.connections = 0
        self.connects: list[tuple[str, int, int]] = []
        self.pings = 0
        self.farewells = 0
        self.mqtt_port = 0
        self.tcp_port = 0
        self._counts: Counter[tuple[str, int]] = Counter()
        self._writers: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def listening(self, mqtt_port: int = 0, tcp_port: int = 0) -> AsyncIterator[FakeBox]:
        """Listen until the block is left, then hang up on everyone."""
        mqtt = await asyncio.start_server(self._guarded(self._serve_mqtt), "127.0.0.1", mqtt_port)
        tcp = await asyncio.start_server(self._guarded(self._serve_tcp), "127.0.0.1", tcp_port)
        self.mqtt_port = mqtt.sockets[0].getsockname()[1]
        self.tcp_port = tcp.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            for server in (mqtt, tcp):
                server.close()
            self.hang_up()
            for server in (mqtt, tcp):
                await server.wait_closed()

    def hang_up(self) -> None:
        """Drop every connection there is."""
        for writer in list(self._writers):
            writer.transport.abort()

    @property
    def open_connections(self) -> int:
        """Connections that stand now."""
        return len(self._writers)

    def seen(self) -> int:
        """Arrivals so far."""
        return sum(len(arrivals) for arrivals in self.arrivals.values())

    def _guarded(self, serve: Callable[..., object]) -> Callable[..., object]:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            self._writers.add(writer)
            try:
                await serve(reader, writer, self.connections)
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                self._writers.discard(writer)
                writer.close()

        return handle

    def _arrived(self, device: str, payload: bytes, **facts: object) -> tuple[Arrival, Verdict]:
        fields = json.loads(payload)
        seq = fields["seq"]
        self._counts[device, seq] += 1
        arrival = Arrival(device=device, seq=seq, attempt=self._counts[device, seq], payload=fields, **facts)
        self.arrivals[device].append(arrival)
        verdict = self.script(arrival)
        if verdict in (Verdict.ACK, Verdict.HOLD, Verdict.LOSE_ACK):
            self.stored[device].add(seq)
        elif verdict is Verdict.REFUSE:
            self.refused[device].add(seq)
        return arrival, verdict

    async def _serve_mqtt(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        position = 0
        while True:
            head, body = await _packet(reader)
            if head == 0x10:
                assert body[:7] == b"\x00\x04MQTT\x04"
                client_id = body[12 : 12 + int.from_bytes(body[10:12], "big")].decode()
                self.connects.append((client_id, body[7], int.from_bytes(body[8:10], "big")))
                writer.write(bytes((0x20, 2, 0, self.connack)))
                if self.connack:
                    return
            elif head == 0xC0:
                self.pings += 1
                writer.write(b"\xd0\x00")
            elif head == 0xE0:
                self.farewells += 1
                return
            else:
                assert head & 0xF7 == 0x32, f"PUBLISH at QoS 1 expected, not {head:#x}"
                position += 1
                topic_end = 2 + int.from_bytes(body[:2], "big")
                _, device, last = body[2:topic_end].decode().split("/")
                assert last == "telemetry"
                packet_id = body[topic_end : topic_end + 2]
                _, verdict = self._arrived(
                    device,
                    body[topic_end + 2 :],
                    connection=connection,
                    position=position,
                    dup=bool(head & 8),
                    packet_id=int.from_bytes(packet_id, "big"),
                )
                if verdict in (Verdict.DROP, Verdict.LOSE_ACK):
                    return
                if verdict is Verdict.ACK:
                    writer.write(b"\x40\x02" + packet_id)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        line, held = 0, False
        while True:
            data = await reader.readuntil(b"\n")
            line += 1
            device = json.loads(data)["device"]
            _, verdict = self._arrived(device, data, connection=connection, position=line)
            if verdict in (Verdict.DROP, Verdict.LOSE_ACK):
                return
            held = held or verdict is Verdict.HOLD
            if held:
                continue
            if verdict is Verdict.REFUSE:
                writer.write(b"ERR %d reading %d is not wanted\n" % (line, self._last(device).seq))
            elif line % 2:  # an OK stands for the lines before it, too
                writer.write(b"OK %d\r\n" % line)
            else:
                asyncio.get_running_loop().call_soon(writer.write, b"OK %d\n" % line)

    def _last(self, device: str) -> Arrival:
        return self.arrivals[device][-1]


async def _packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The first byte and the body of the next MQTT packet."""
    head = (await reader.readexactly(1))[0]
    length = shift = 0
    while True:
        digit = (await reader.readexactly(1))[0]
        length |= (digit & 0x7F) << shift
        shift += 7
        if not digit & 0x80:
            return head, await reader.readexactly(length)
