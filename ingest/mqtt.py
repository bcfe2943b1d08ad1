"""The MQTT listener: sockets around `wire.mqtt`, the log behind it.

The hot path: a chunk arrives, the protocol core puts every publish of it straight into its partition's open batches
and hands back the PUBACKs; they are registered with the log once for the whole chunk, and written when the commit is on
disk. What depends on the MQTT topic alone is computed at its first publish on the connection (`_resolve`) and kept by
the core.

While the disk is full, MQTT 3.1.1 has no answer to a publish but to close the connection; a QoS 0 publish is dropped
and counted instead. That too is decided when an MQTT topic is resolved, so every topic is resolved anew when the disk
becomes full or has room again. Publishes taken before are committed and acknowledged: the journal has its room.
"""

from __future__ import annotations

import secrets
from typing import Any, Final

from commitlog.base import Appender, Header
from commitlog.partitioner import partition_for_key
from ingest.headers import DEVICE, FIELD, MQTT_DUP, MQTT_QOS, MQTT_RETAIN, MQTT_TOPIC
from ingest.limits import (
    MAX_SURPLUS_BYTES,
    MAX_TOPIC_MEMORY_BYTES,
    MAX_WILL_BYTES,
    RECORD_OVERHEAD_BYTES,
    Admission,
)
from ingest.listener import DISK_FULL, Connection, Listener
from ingest.routing import Router
from ingest.sessions import Session, Sessions
from ingest.settings import MqttSettings
from wire.mqtt.errors import ProtocolError, TopicRefusedError
from wire.mqtt.events import Append, Connected, Disconnected, Refused, SubscriptionsRefused, Target
from wire.mqtt.packets import FLAG_DUP, FLAG_QOS_1, FLAG_QOS_2, FLAG_RETAIN, ConnAck, Connect, ConnectReturnCode, Will
from wire.mqtt.server import ServerConnection

PROTOCOL: Final = "mqtt"
_TARGET_BYTES: Final = 600  # what a remembered MQTT topic takes besides its text
_MEND: Final = "is it an MQTT 3.1.1 client? Other protocols have other ports"


class DiskFullError(ProtocolError):
    """A publish that wants an acknowledgement while the disk is full: none will come, and the connection ends."""

    code = "disk-full"
    http_status = 507
    reason = DISK_FULL

    def __init__(self) -> None:
        super().__init__("MQTT-3.3.5-2", "the disk is full", mend="free some space on the box")


class MqttListener(Listener):
    """Listens for MQTT clients; knows the connection of every client id."""

    def __init__(
        self,
        settings: MqttSettings,
        log: Appender,
        router: Router,
        sessions: Sessions,
        *,
        admission: Admission | None = None,
        max_topic_memory_bytes: int = MAX_TOPIC_MEMORY_BYTES,
    ) -> None:
        super().__init__(
            PROTOCOL,
            log,
            sessions,
            max_connections=settings.max_connections,
            make=lambda: MqttConnection(self),
            admission=admission,
            durability=settings.durability,
        )
        self.settings = settings
        self.router = router
        self.clients: dict[str, MqttConnection] = {}
        self.max_topic_memory_bytes = max_topic_memory_bytes
        self.topic_memory_bytes = 0
        self.will_bytes = 0


class MqttConnection(Connection):
    """One MQTT client."""

    __slots__ = (
        "_core",
        "_limit_s",
        "_session",
        "_silent_s",
        "_surplus_bytes",
        "_topic_memory_bytes",
        "_topics",
        "_will",
    )
    listener: MqttListener

    def __init__(self, listener: MqttListener) -> None:
        super().__init__(listener)
        settings = listener.settings
        self._core = ServerConnection(
            resolve=self._resolve,
            on_connect=self._connect,
            max_packet_size_bytes=settings.max_packet_size_bytes,
            max_topics=settings.max_topics_per_connection,
        )
        self._session: Session | None = None
        self._will: Will | None = None
        self._silent_s = 0
        self._surplus_bytes = 0
        self._topics = self._topic_memory_bytes = 0
        self._limit_s = settings.connect_timeout_s

    # -- Connection

    @property
    def unfinished_size_bytes(self) -> int:
        """See `Connection.unfinished_size_bytes`."""
        return self._core.buffered_size_bytes

    def opened(self) -> None:
        """See `Connection.opened`: nothing happens before CONNECT."""

    def take(self, data: bytes) -> None:
        """See `Connection.take`. The hot path."""
        self.heard = True
        listener = self.listener
        core = self._core
        log = listener.log
        error: ProtocolError | None = None
        try:
            core.receive(data, log.now_ms())
        except ProtocolError as broken:
            error = broken
        taken = core.taken
        if taken:
            size_bytes = core.size_bytes
            counters = listener.counters
            counters.records += taken
            counters.size_bytes += size_bytes
            size_bytes += taken * RECORD_OVERHEAD_BYTES
            if self._surplus_bytes:
                size_bytes += self._surplus_bytes
                self._surplus_bytes = 0
            if core.acks:
                log.appended(taken, size_bytes, self, core.acks, listener.durability)
            else:
                log.appended(taken, size_bytes, None, None, listener.durability)
        if core.out:
            self.transport.write(bytes(core.out))
        if core.events:
            self._note(core)
        if error is not None:
            self._protocol_error(error)

    def tick(self) -> None:
        """See `Connection.tick`: time to CONNECT, then keep-alive [MQTT-3.1.2-24]."""
        if self.heard and self._session is not None:
            self.heard = False
            self._silent_s = 0
            return
        if self.unread:
            return
        self._silent_s += 1
        if self._silent_s > self._limit_s:
            if self._session is not None:
                self.close("keep-alive timeout", abort=True)
            else:
                self.close("connect timeout", abort=True, mend="is it an MQTT client? It has to send a CONNECT first")

    def ended(self, reason: str) -> None:
        """See `Connection.ended`: the will, then the end of the session's devices."""
        session = self._session
        listener = self.listener
        self._forget_topics()
        if session is None:
            return
        if listener.clients.get(session.client_id) is self:
            del listener.clients[session.client_id]
        listener.when_room(lambda: self._say_goodbye(session, reason))

    def _say_goodbye(self, session: Session, reason: str) -> None:
        if self._will is not None:
            if self.listener.log.full:
                self.listener.counters.dropped[DISK_FULL] += 1
            else:
                self._publish_will_if_it_has_a_place(self._will)
            self._discard_will()
            self._forget_topics()
        self.listener.sessions.close(session, reason)

    def full_changed(self, full: bool) -> None:
        """See `Connection.full_changed`: what was put aside waits for an acknowledgement that cannot come soon."""
        self._forget_topics()
        if full and self._stashed:
            self.refuse_full()

    # -- Waiter

    def committed(self, token: Any) -> None:
        """See `Waiter.committed`: the PUBACKs of a chunk."""
        if not self.transport.is_closing():
            self.transport.write(token)

    def failed(self, token: Any) -> None:
        """See `Waiter.failed`: no PUBACK, and a client resends only after it has reconnected."""
        self.close("log failed", abort=True)

    # -- CONNECT

    def _connect(self, connect: Connect) -> ConnAck:
        listener = self.listener
        if connect.will is not None:
            size_bytes = _will_bytes(connect.will)
            if listener.will_bytes + size_bytes > MAX_WILL_BYTES:
                listener.lines.warning(
                    "will refused",
                    what=f"all wills together would take more than {MAX_WILL_BYTES} bytes",
                    where=f"CONNECT of {connect.client_id!r} from {self.peer}",
                    mend="smaller wills, or fewer clients with one",
                )
                return ConnAck(return_code=ConnectReturnCode.SERVER_UNAVAILABLE)
            listener.will_bytes += size_bytes
            self._will = connect.will
        client_id = connect.client_id or f"auto-{secrets.token_hex(8)}"  # [MQTT-3.1.3-6]
        before = listener.clients.get(client_id)
        if before is not None:
            before.close("taken over", abort=True)  # [MQTT-3.1.4-2]
        listener.clients[client_id] = self
        self._session = listener.sessions.open(PROTOCOL, self.peer, client_id=client_id, username=connect.username)
        longest_s = listener.settings.max_keep_alive_s
        self._limit_s = min(connect.keep_alive_s * 1.5 or longest_s, longest_s)
        # No session state is kept beyond a connection yet: the server has nothing to resume [MQTT-3.2.2-3].
        return ConnAck(session_present=False)

    # -- PUBLISH, once per MQTT topic and flags

    def _resolve(self, mqtt_topic: str, flags: int) -> Target:
        session = self._session
        assert session is not None  # the core resolves nothing before CONNECT was accepted
        listener = self.listener
        if listener.log.full:
            if flags & (FLAG_QOS_1 | FLAG_QOS_2):
                raise DiskFullError
            self._remember_topic(mqtt_topic)
            return self._drop, b"", []
        routed = listener.router.route(mqtt_topic, client_id=session.client_id, username=session.username)
        if routed.device is not None and listener.sessions.device_seen(session, routed.device):
            self._forget_topics()
        self._remember_topic(mqtt_topic)
        partitions = listener.log.partitions(routed.topic)
        key = routed.key.encode()
        headers: list[Header] = [(MQTT_TOPIC, mqtt_topic.encode()), *_facts(flags)]
        if routed.device != routed.key:
            headers.append((DEVICE, (routed.device or "").encode()))
        if routed.field is not None:
            headers.append((FIELD, routed.field.encode()))
        append: Append = partitions[partition_for_key(key, len(partitions))].append
        surplus_bytes = len(key) + sum(len(value or b"") for _, value in headers[1:])
        if surplus_bytes > MAX_SURPLUS_BYTES:
            raise TopicRefusedError(
                "MQTT-3.3.5-2",
                f"key and headers of its records would take {surplus_bytes} bytes, the limit is {MAX_SURPLUS_BYTES}",
                mend="a shorter MQTT topic, or a route whose key and field repeat less of it",
            )
        if surplus_bytes > RECORD_OVERHEAD_BYTES:
            append = self._with_surplus(append, surplus_bytes)
        return append, key, headers

    def _with_surplus(self, append: Append, surplus_bytes: int) -> Append:
        """For long keys: a record then takes much more than its packet, which has to count for the log's limits."""

        def counted(timestamp_ms: int, key: bytes | None, value: bytes | None, headers: list[Header], /) -> int:
            self._surplus_bytes += surplus_bytes
            return append(timestamp_ms, key, value, headers)

        return counted

    def _drop(self, timestamp_ms: int, key: bytes | None, value: bytes | None, headers: list[Header], /) -> int:
        """Where QoS 0 publishes go while the disk is full."""
        self.listener.counters.dropped[DISK_FULL] += 1
        return -1

    def _remember_topic(self, mqtt_topic: str) -> None:
        """Count what the core is about to remember; where it is too much, its memory is started anew."""
        listener = self.listener
        size_bytes = _TARGET_BYTES + 4 * len(mqtt_topic)  # as bytes, header and key
        full = listener.topic_memory_bytes + size_bytes > listener.max_topic_memory_bytes
        if full or self._topics >= listener.settings.max_topics_per_connection:
            self._forget_topics()
        self._topics += 1
        self._topic_memory_bytes += size_bytes
        listener.topic_memory_bytes += size_bytes

    def _forget_topics(self) -> None:
        self._core.forget_topics()
        self.listener.topic_memory_bytes -= self._topic_memory_bytes
        self._topics = self._topic_memory_bytes = 0

    def _publish_will_if_it_has_a_place(self, will: Will) -> None:
        try:
            self._publish_will(will)
        except TopicRefusedError as error:
            self.listener.counters.dropped[error.reason] += 1
            self.listener.lines.warning("will dropped", what=error.what, mend=error.mend, client_id=self._client_id)

    def _publish_will(self, will: Will) -> None:
        """[MQTT-3.1.2-8]: the client vanished without DISCONNECT."""
        flags = (FLAG_RETAIN if will.retain else 0) | will.qos << 1
        append, key, headers = self._resolve(will.topic, flags)
        append(self.listener.log.now_ms(), key, will.payload, headers)
        size_bytes = _will_bytes(will) + RECORD_OVERHEAD_BYTES
        self.listener.log.appended(1, size_bytes, durability=self.listener.durability)

    def _discard_will(self) -> None:
        if self._will is not None:
            self.listener.will_bytes -= _will_bytes(self._will)
            self._will = None

    # -- rare things

    def _note(self, core: ServerConnection) -> None:
        for event in core.events:
            match event:
                case Connected():
                    self.heard = True
                case Disconnected():
                    self._discard_will()  # [MQTT-3.14.4-3]
                    self.reason = "disconnected"
                    self.transport.close()
                case Refused(return_code=code, what=what):
                    self.listener.lines.info("connect refused", code=int(code), what=what, peer=self.peer)
                    self.close("connect refused")
                case SubscriptionsRefused():
                    self.listener.lines.info(
                        "subscription refused: subscriptions are not offered yet", client_id=self._client_id
                    )

    def _protocol_error(self, error: ProtocolError) -> None:
        if isinstance(error, DiskFullError):
            self.refuse_full()
            return
        self.listener.lines.warning(
            "protocol error",
            what=error.what,
            where=error.where,
            mend=error.mend or _MEND,
            client_id=self._client_id,
            peer=self.peer,
        )
        self.close(error.reason)

    @property
    def _client_id(self) -> str:
        return self._session.client_id if self._session is not None else ""


def _will_bytes(will: Will) -> int:
    return 3 * len(will.topic) + len(will.payload)


def _facts(flags: int) -> list[Header]:
    """Headers for what the flags of a PUBLISH say beyond the usual QoS 1."""
    facts: list[Header] = []
    if not flags & FLAG_QOS_1:
        facts.append((MQTT_QOS, b"2" if flags & FLAG_QOS_2 else b"0"))
    if flags & FLAG_RETAIN:
        facts.append((MQTT_RETAIN, b"1"))
    if flags & FLAG_DUP:
        facts.append((MQTT_DUP, b"1"))
    return facts
