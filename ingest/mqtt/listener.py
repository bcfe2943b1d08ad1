"""The MQTT listener: what all its connections share, and the ports they come from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from commitlog.base import Appender
from ingest.broker.broker import Broker
from ingest.limits import MAX_TOPIC_MEMORY_BYTES, Admission
from ingest.listener import Connection, Listener
from ingest.sessions import Sessions
from ingest.settings import MqttSettings
from ingest.websocket import WebSocket
from wire.mqtt.reasons import PacketType, ReasonCode

PROTOCOL: Final = "mqtt"


class Flushed(Protocol):
    """A connection that gathers what it writes."""

    def flush(self) -> None:
        """Write what was gathered."""
        ...


class MqttListener(Listener):
    """Listens for MQTT clients."""

    def __init__(
        self,
        settings: MqttSettings,
        log: Appender,
        broker: Broker,
        sessions: Sessions,
        make: Callable[[MqttListener], Connection],
        *,
        admission: Admission | None = None,
        max_topic_memory_bytes: int = MAX_TOPIC_MEMORY_BYTES,
    ) -> None:
        """`make` makes a connection of this listener (`connection.MqttConnection`)."""
        super().__init__(
            PROTOCOL,
            log,
            sessions,
            max_connections=settings.max_connections,
            make=lambda: make(self),
            admission=admission,
            durability=settings.durability,
            user_timeout_s=settings.user_timeout_s,
        )
        self._make_connection = make
        self.settings = settings
        self.broker = broker
        self.tree = broker.tree
        self.max_topic_memory_bytes = max_topic_memory_bytes
        self.topic_memory_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._to_flush: list[Flushed] = []

    async def start_websocket(self, host: str, port: int | str) -> int:
        """Listen for WebSocket clients, too; see `start`."""
        settings = self.settings
        return await self.listen(
            host,
            port,
            setting="mqtt.websocket_port",
            make=lambda: WebSocket(
                self._make_connection(self),
                max_packet_size_bytes=settings.max_packet_size_bytes,
                origins=settings.websocket_origins,
            ),
        )

    async def start_unix(self) -> bool:
        """Listen on the unix socket that the settings name; False if they name none."""
        path = self.settings.unix_socket
        if path is None:
            return False
        await self.listen_unix(path, int(self.settings.unix_socket_mode, 8), setting="mqtt.unix_socket")
        return True

    def second_passed(self) -> None:
        """See `Listener.second_passed`."""
        self.broker.tick()

    def kick(self, client_id: str) -> bool:
        """End a client's connection; False if it has none."""
        session = self.broker.sessions.get(client_id)
        if session is None or session.connection is None:
            return False
        session.connection.end("kicked", ReasonCode.ADMINISTRATIVE_ACTION)
        return True

    def flush_soon(self, connection: Flushed) -> None:
        """Write what the connection has gathered when what is happening now is over."""
        if not self._to_flush:
            self._loop.call_soon(self._flush)
        self._to_flush.append(connection)

    def _flush(self) -> None:
        connections, self._to_flush = self._to_flush, []
        for connection in connections:
            connection.flush()

    def count_reason(self, packet_type: PacketType, reason_code: ReasonCode) -> None:
        """A reason code was sent."""
        self.broker.counters.reasons[packet_type, int(reason_code)] += 1
