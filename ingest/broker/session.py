"""A session: what the server keeps for a client id, during a connection and, where it is agreed upon, beyond it.

Not to be taken for `ingest.sessions.Session`, its `presence`: that is about devices, and lives as long as one
connection.
"""

from __future__ import annotations

from typing import Final, Protocol

from ingest.broker.queue import PACKET_IDS, DeliveryQueue, QueueLimits
from ingest.sessions import Session
from wire.mqtt.properties import NEVER_EXPIRES_S
from wire.mqtt.reasons import ReasonCode

UNLIMITED_PACKET_BYTES: Final = 1 << 62


class Outlet(Protocol):
    """The connection of a session, as deliveries see it."""

    can_take: bool
    """The client reads what it is sent, and the connection is not closing."""
    max_packet_bytes: int
    """The largest packet that the client accepts [MQTT5-3.1.2-24]."""

    def send(self, packet: bytes) -> None:
        """Put a packet behind what goes out this turn. Only while `can_take`."""
        ...

    def end(self, reason: str, reason_code: ReasonCode) -> None:
        """End the connection, and its part in the session, now. 5.0 clients are told the reason code."""
        ...


class MqttSession:
    """One client id's session.

    `durable`: it was opened to outlive its connection, so its state is in the log's tables. That stays as it is, also
    when a later connection wants it to end with it: then `expiry_s` is 0.
    """

    __slots__ = (
        "_queue",
        "client_id",
        "connection",
        "created_ms",
        "durable",
        "ended_ms",
        "expiry_s",
        "keeps_up",
        "level",
        "limits",
        "number",
        "presence",
        "receive_maximum",
        "received_ids",
        "username",
    )

    def __init__(
        self, client_id: str, *, level: int, expiry_s: int, created_ms: int, username: str | None, limits: QueueLimits
    ) -> None:
        self.client_id = client_id
        self.level = level
        self.expiry_s = expiry_s
        self.created_ms = created_ms
        self.username = username
        self.limits = limits
        self.durable = expiry_s > 0
        self.receive_maximum = PACKET_IDS
        """Of the connection that is open, or was last."""
        self.ended_ms: int | None = None
        """When its last connection ended; None while one is open."""
        self.connection: Outlet | None = None
        self.presence: Session | None = None
        """The open connection as the device events know it."""
        self.number = 0
        """In the roster of all sessions."""
        self.received_ids: set[int] | None = None
        """See `wire.mqtt.control.ControlPackets.received_ids`."""
        self.keeps_up = True
        """Everything it is to get has been sent: the next message may go out from memory."""
        self._queue: DeliveryQueue | None = None

    @property
    def queue(self) -> DeliveryQueue:
        """What it still has to get. Most sessions only publish and never have one."""
        if self._queue is None:
            self._queue = DeliveryQueue(
                self.client_id, durable=self.durable, receive_maximum=self.receive_maximum, limits=self.limits
            )
        return self._queue

    @queue.setter
    def queue(self, queue: DeliveryQueue) -> None:
        self._queue = queue

    @property
    def has_queue(self) -> bool:
        """Whether it ever had anything to get."""
        return self._queue is not None

    def expires_ms(self) -> int | None:
        """When it ends if nobody comes back to it; None: not yet counting, or never."""
        if self.ended_ms is None or self.expiry_s == NEVER_EXPIRES_S:
            return None
        return self.ended_ms + self.expiry_s * 1000
