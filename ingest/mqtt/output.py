"""What goes out to one MQTT client, in which order, and how it is told that it is over.

An answer that promises something durable (CONNACK, SUBACK, UNSUBACK of a session that outlives its connection) waits
for the commit of the rows that it promises. Nothing overtakes a CONNACK that waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

from ingest.broker.session import UNLIMITED_PACKET_BYTES, MqttSession
from ingest.limits import RECORD_OVERHEAD_BYTES
from ingest.listener import DISK_FULL, SHUTDOWN, Connection
from ingest.mqtt.listener import MqttListener
from ingest.mqtt.targets import Targets
from wire.mqtt.aliases import OutgoingAliases
from wire.mqtt.clauses import LEVEL_5
from wire.mqtt.encode import encode_packet
from wire.mqtt.events import State
from wire.mqtt.packets import Disconnect
from wire.mqtt.reasons import PacketType, ReasonCode
from wire.mqtt.server import ServerConnection

_FLUSH_BYTES: Final = 64 << 10  # what is gathered for one write; then the socket is asked whether it takes more
_REASON_CODES: Final = {  # what 5.0 clients are told when somebody else ends the connection
    SHUTDOWN: ReasonCode.SERVER_SHUTTING_DOWN,
    "overloaded": ReasonCode.SERVER_BUSY,
    "unfinished": ReasonCode.QUOTA_EXCEEDED,
    DISK_FULL: ReasonCode.QUOTA_EXCEEDED,
}
_GOODBYE_S: Final = 2.0  # for a 5.0 client to take the reason; one that is gone does not
_PUBLISH_TYPE: Final = int(PacketType.PUBLISH)


class MqttOutput(Connection):
    """The half of an MQTT connection that writes; `MqttConnection` is the whole."""

    __slots__ = (
        "_aliases",
        "_closing",
        "_core",
        "_held",
        "_mqtt",
        "_must_wait",
        "_open",
        "_outgoing",
        "_outgoing_bytes",
        "_said",
        "_targets",
        "_unanswered",
        "can_take",
        "max_packet_bytes",
    )
    listener: MqttListener
    _core: ServerConnection

    def __init__(self, listener: MqttListener) -> None:
        super().__init__(listener)
        self._mqtt: MqttSession | None = None
        self._targets: Targets | None = None
        self._aliases: OutgoingAliases | None = None
        self._unanswered: deque[int] | None = None
        self._held = 0
        self._must_wait = False
        self._open = self._closing = self._said = False
        self._outgoing: list[bytes] = []
        self._outgoing_bytes = 0
        self.can_take = False
        self.max_packet_bytes = UNLIMITED_PACKET_BYTES

    # -- Outlet: what the broker sends

    def send(self, packet: bytes) -> None:
        """See `Outlet.send`."""
        if self._aliases is not None and packet[0] >> 4 == _PUBLISH_TYPE:
            packet = self._aliases.applied(packet, self.max_packet_bytes)
        outgoing = self._outgoing
        if not self._open and self._outgoing_bytes >= _FLUSH_BYTES:
            # Answers to PUBRECs for what it cannot have got: nothing counts them for as long as the CONNACK waits.
            self.close("overloaded", abort=True, mend="a client has to await its CONNACK before it answers messages")
            return
        if not outgoing:
            self.listener.flush_soon(self)
        outgoing.append(packet)
        self._outgoing_bytes += len(packet)
        if self._outgoing_bytes >= _FLUSH_BYTES:
            self.flush()
            outgoing.append(b"")  # it stands on the listener's list already

    def flush(self) -> None:
        """Write what was gathered; nothing goes out before the CONNACK [MQTT-3.2.0-1] [MQTT5-3.2.0-1]."""
        if not self._open:
            return
        outgoing = self._outgoing
        if outgoing and not self.transport.is_closing():
            self.transport.write(outgoing[0] if len(outgoing) == 1 else b"".join(outgoing))
        outgoing.clear()
        self._outgoing_bytes = 0

    def pause_writing(self) -> None:
        """See `Connection.pause_writing`: what is delivered meanwhile has only its place kept."""
        self.can_take = False
        super().pause_writing()

    def resume_writing(self) -> None:
        """See `Connection.resume_writing`."""
        super().resume_writing()
        if self._open:
            self._send_on()

    # -- Waiter

    def committed(self, token: Any) -> None:
        """See `Waiter.committed`: the answers to a chunk."""
        if self._unanswered is not None:
            self._core.acknowledged(self._unanswered.popleft())
        if not self.transport.is_closing():
            self.transport.write(token)

    def failed(self, token: Any) -> None:
        """See `Waiter.failed`: no PUBACK, and a client resends only after it has reconnected."""
        self.close("log failed", abort=True)

    # -- answers that wait

    def _answer(self, out: bytes) -> None:
        """Write answers; behind the commit that makes true what they promise, and behind answers that wait for one."""
        if not self._must_wait and not self._held:
            self.transport.write(out)
            return
        self._must_wait = False
        self._held += 1
        size_bytes = len(out) + RECORD_OVERHEAD_BYTES
        self.listener.log.appended(1, size_bytes, _HeldAnswer(self), out, self.listener.durability)

    def release(self, out: bytes) -> None:
        """The commit that `out` waited for is durable."""
        self._held -= 1
        if self.transport.is_closing():
            return
        self.transport.write(out)
        self._open_outlet()

    def _open_outlet(self) -> None:
        """The CONNACK has been written: from now on messages may be."""
        session = self._mqtt
        if self._open or session is None or self._core.over:
            return
        self._open = True
        self.flush()
        self.listener.broker.opening.opened(session)
        self._send_on()

    def _send_on(self) -> None:
        session = self._mqtt
        if session is not None and not self._unread and not self.transport.is_closing():
            self.can_take = True
            self.listener.broker.sender.soon(session)

    # -- the end

    def end(self, reason: str, reason_code: ReasonCode) -> None:
        """See `Outlet.end`."""
        self._say(reason_code)
        self._leave(with_will=True)
        self.close(reason, abort=True)

    def close(self, reason: str, *, abort: bool = False, mend: str = "", lingers: bool = False) -> None:
        """See `Connection.close`. 5.0 clients have a moment to take the reason, unless they had it already."""
        self.can_take = False
        if reason in _REASON_CODES and not self.reason:
            self._say(_REASON_CODES[reason])
        if self._core.level == LEVEL_5 and not self._closing and reason != SHUTDOWN:
            lingers = True
            if abort:
                abort = False
                asyncio.get_running_loop().call_later(_GOODBYE_S, self.transport.abort)
        self._closing = True
        self._leave(with_will=self._core.state is not State.DISCONNECTED)
        super().close(reason, abort=abort, mend=mend, lingers=lingers)

    def _leave(self, *, with_will: bool) -> None:
        """This connection is no longer its session's."""
        session, self._mqtt = self._mqtt, None
        self.can_take = False
        if self._targets is not None:
            self._targets.forget()
            self._targets.mqtt = None
        if session is not None:
            if self._core.unknown_releases:
                not_found = int(ReasonCode.PACKET_IDENTIFIER_NOT_FOUND)
                reasons = self.listener.broker.counters.reasons
                reasons[PacketType.PUBCOMP, not_found] += self._core.unknown_releases
            session.received_ids = self._core.received_ids
            self.listener.broker.ending.closed(session, self, with_will=with_will)

    def _say(self, reason_code: ReasonCode) -> None:
        """5.0 clients are told why the connection ends, once, and if they have their CONNACK [MQTT5-3.14.0-1]."""
        if self._core.level == LEVEL_5 and self._open and not self._said:
            self._said = True
            self.flush()
            if not self.transport.is_closing():
                self.transport.write(encode_packet(Disconnect(reason_code=reason_code), LEVEL_5))
                self.listener.count_reason(PacketType.DISCONNECT, reason_code)


class _HeldAnswer:
    """Waits for a commit with answers of a connection."""

    __slots__ = ("_connection",)

    def __init__(self, connection: MqttOutput) -> None:
        self._connection = connection

    def committed(self, token: Any) -> None:
        """See `Waiter.committed`."""
        self._connection.release(token)

    def failed(self, token: Any) -> None:
        """See `Waiter.failed`."""
        self._connection.failed(token)
