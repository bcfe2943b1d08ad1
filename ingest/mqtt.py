"""The MQTT listener: sockets around `wire.mqtt`, the broker and the log behind it.

The hot path: a chunk arrives, the protocol core puts every publish of it straight into its partition's open batches
and hands back the answers; they are registered with the log once for the whole chunk, and written when the commit is on
disk. What depends on the MQTT topic alone is computed at its first publish on the connection (`resolve`) and kept by
the core; when subscriptions change, it is computed anew.

An answer that promises something durable (CONNACK, SUBACK, UNSUBACK of a session that outlives its connection) waits
for the commit of the rows that it promises. Nothing overtakes a CONNACK that waits.

While the disk is full, MQTT 3.1.1 has no answer to a publish but to close the connection, and 5.0 says why; a QoS 0
publish is dropped and counted instead. That too is decided when an MQTT topic is resolved, so every topic is resolved
anew when the disk becomes full or has room again. Publishes taken before are committed and acknowledged: the journal
has its room.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from commitlog.base import Appender, Header
from ingest.broker.authorizer import Client
from ingest.broker.broker import Broker
from ingest.broker.opening import RefusedError, assigned_client_id
from ingest.broker.queue import PACKET_IDS
from ingest.broker.session import UNLIMITED_PACKET_BYTES, MqttSession
from ingest.limits import MAX_TOPIC_MEMORY_BYTES, RECORD_OVERHEAD_BYTES, Admission
from ingest.listener import DISK_FULL, Connection, Listener
from ingest.sessions import Session, Sessions
from ingest.settings import MqttSettings
from ingest.websocket import WebSocket
from wire.mqtt.aliases import OutgoingAliases
from wire.mqtt.clauses import LEVEL_5
from wire.mqtt.encode import encode_packet
from wire.mqtt.errors import ProtocolError, PublishRefusedError
from wire.mqtt.events import (
    Append,
    Completed,
    Connected,
    Disconnected,
    PublishRefused,
    Received,
    Refused,
    State,
    Subscribed,
    Target,
    Unsubscribed,
)
from wire.mqtt.packets import FLAG_QOS_1, FLAG_QOS_2, ConnAck, Connect, Disconnect, Publish, Subscribe, Unsubscribe
from wire.mqtt.properties import NO_CONNACK_PROPERTIES, ConnAckProperties
from wire.mqtt.reasons import PacketType, ReasonCode
from wire.mqtt.server import ServerConnection

PROTOCOL: Final = "mqtt"
_TARGET_BYTES: Final = 600  # what a remembered MQTT topic takes besides its text
_MEND: Final = "is it an MQTT 3.1.1 or 5.0 client? Other protocols have other ports"
_FLUSH_BYTES: Final = 64 << 10  # what is gathered for one write; then the socket is asked whether it takes more
_REASON_CODES: Final = {  # what 5.0 clients are told when somebody else ends the connection
    "shutdown": ReasonCode.SERVER_SHUTTING_DOWN,
    "overloaded": ReasonCode.SERVER_BUSY,
    "unfinished": ReasonCode.QUOTA_EXCEEDED,
    DISK_FULL: ReasonCode.QUOTA_EXCEEDED,
}
_GOODBYE_S: Final = 2.0  # for a 5.0 client to take the reason; one that is gone does not
_PUBLISH_TYPE: Final = int(PacketType.PUBLISH)


class DiskFullError(ProtocolError):
    """A publish that wants an acknowledgement while the disk is full: none will come, and the connection ends."""

    code = "disk-full"
    http_status = 507
    reason = DISK_FULL
    usual_reason_code = ReasonCode.QUOTA_EXCEEDED
    told_at_the_end = True

    def __init__(self) -> None:
        super().__init__("MQTT-3.3.5-2", "the disk is full", mend="free some space on the box")


class MqttListener(Listener):
    """Listens for MQTT clients."""

    def __init__(
        self,
        settings: MqttSettings,
        log: Appender,
        broker: Broker,
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
            user_timeout_s=settings.user_timeout_s,
        )
        self.settings = settings
        self.broker = broker
        self.tree = broker.tree
        self.max_topic_memory_bytes = max_topic_memory_bytes
        self.topic_memory_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._to_flush: list[MqttConnection] = []

    async def start_websocket(self, host: str, port: int | str) -> int:
        """Listen for WebSocket clients, too; see `start`."""
        settings = self.settings
        return await self.listen(
            host,
            port,
            setting="mqtt.websocket_port",
            make=lambda: WebSocket(
                MqttConnection(self),
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

    def flush_soon(self, connection: MqttConnection) -> None:
        """Write what the connection has gathered when what is happening now is over."""
        if not self._to_flush:
            self._loop.call_soon(self._flush)
        self._to_flush.append(connection)

    def _flush(self) -> None:
        connections, self._to_flush = self._to_flush, []
        for connection in connections:
            connection.flush()


class MqttConnection(Connection):
    """One MQTT client."""

    __slots__ = (
        "_aliases",
        "_client",
        "_closing",
        "_core",
        "_generation",
        "_held",
        "_limit_s",
        "_mqtt",
        "_must_wait",
        "_open",
        "_outgoing",
        "_outgoing_bytes",
        "_published",
        "_said",
        "_session",
        "_silent_s",
        "_topic_memory_bytes",
        "_topics",
        "_unanswered",
        "_unfinished",
        "_unfinished_s",
        "can_take",
        "max_packet_bytes",
    )
    listener: MqttListener

    def __init__(self, listener: MqttListener) -> None:
        super().__init__(listener)
        settings = listener.settings
        self._core = ServerConnection(
            self,
            max_packet_size_bytes=settings.max_packet_size_bytes,
            max_topics=settings.max_topics_per_connection,
        )
        self._client: Client | None = None
        self._session: Session | None = None
        self._mqtt: MqttSession | None = None
        self._aliases: OutgoingAliases | None = None
        self._unanswered: deque[int] | None = None
        self._generation = 0
        self._held = 0
        self._must_wait = False
        self._open = self._closing = self._said = False
        self._silent_s = 0
        self._unfinished: object | None = None
        self._unfinished_s = 0
        self._topics = self._topic_memory_bytes = 0
        self._limit_s: float = settings.connect_timeout_s
        self._published = 0
        self._outgoing: list[bytes] = []
        self._outgoing_bytes = 0
        self.can_take = False
        self.max_packet_bytes = UNLIMITED_PACKET_BYTES

    # -- Connection

    @property
    def unfinished_size_bytes(self) -> int:
        """See `Connection.unfinished_size_bytes`."""
        size_bytes = self._core.buffered_size_bytes
        return size_bytes if self.carrier is None else size_bytes + self.carrier.unfinished_size_bytes

    def opened(self) -> None:
        """See `Connection.opened`: nothing happens before CONNECT."""

    def take(self, data: bytes) -> None:
        """See `Connection.take`. The hot path: nearly every chunk holds publishes and nothing else."""
        self.heard = True
        listener = self.listener
        core = self._core
        log = listener.log
        if self._generation != listener.tree.generation:
            self._generation = listener.tree.generation
            self._forget_topics()
        try:
            core.receive(data, log.now_ms())
        except ProtocolError as error:
            self._take_unusual(core)
            self._protocol_error(error)
            return
        if core.unusual:
            self._take_unusual(core)
            return
        taken = core.taken
        if not taken:
            return
        size_bytes = core.size_bytes
        counters = listener.counters
        counters.records += taken
        counters.size_bytes += size_bytes
        self._published += taken
        size_bytes += taken * RECORD_OVERHEAD_BYTES
        acks = core.acks
        if acks:
            if self._unanswered is not None:
                self._unanswered.append(core.acked_ids)
            log.appended(taken, size_bytes, self, acks, listener.durability)
        else:
            log.appended(taken, size_bytes, None, None, listener.durability)

    def _take_unusual(self, core: ServerConnection) -> None:
        """A chunk with more in it than publishes: answers, events, QoS 2, the end."""
        if core.released:
            self._note_released(core)
        out = bytes(core.out) if core.out else b""
        if out and not self._open:
            self._answer(out)  # before acknowledgements: it begins with a CONNACK, or one waits already
            out = b""
        listener = self.listener
        listener.counters.records += core.taken
        listener.counters.size_bytes += core.size_bytes
        self._published += core.taken
        if core.acks:
            if self._unanswered is not None:
                self._unanswered.append(core.acked_ids)
            size_bytes = core.size_bytes + (core.taken + 1) * RECORD_OVERHEAD_BYTES + len(core.acks)
            listener.log.appended(max(1, core.taken), size_bytes, self, core.acks, listener.durability)
        elif core.taken:
            size_bytes = core.size_bytes + core.taken * RECORD_OVERHEAD_BYTES
            listener.log.appended(core.taken, size_bytes, None, None, listener.durability)
        if out:
            self._answer(out)
        if core.events or core.pubacks:
            self._note(core)

    def tick(self) -> None:
        """See `Connection.tick`: time to CONNECT, then keep-alive [MQTT-3.1.2-24] [MQTT5-3.1.2-22]."""
        published, self._published = self._published, 0
        if published > self.listener.settings.max_publish_rate:
            self._over_quota()
            return
        if self._dawdles():
            self._say(ReasonCode.QUOTA_EXCEEDED)
            self.close("slow packet", abort=True, mend="mqtt.packet_timeout: smaller payloads, or a faster link")
            return
        if self.heard and self._session is not None:
            self.heard = False
            self._silent_s = 0
            return
        if self.unread:
            return
        self._silent_s += 1
        if self._silent_s > self._limit_s:
            if self._session is not None:
                self._say(ReasonCode.KEEP_ALIVE_TIMEOUT)
                self.close("keep-alive timeout", abort=True)
            else:
                self.close("connect timeout", abort=True, mend="is it an MQTT client? It has to send a CONNECT first")

    def _dawdles(self) -> bool:
        """Whether one packet has been incomplete for too long: bytes that come one by one keep no connection alive."""
        unfinished = self._core.unfinished
        if unfinished is None and self.carrier is not None:
            unfinished = self.carrier.unfinished
        if unfinished is not self._unfinished:
            self._unfinished = unfinished
            self._unfinished_s = 0
        elif unfinished is not None and not self.unread:
            self._unfinished_s += 1
        return self._unfinished_s > self.listener.settings.packet_timeout_s

    def ended(self, reason: str) -> None:
        """See `Connection.ended`: the will, then the end of the session's devices."""
        self._leave(with_will=self._core.state is not State.DISCONNECTED)
        session = self._session
        if session is not None:
            self._session = None
            self.listener.when_room(lambda: self.listener.sessions.close(session, reason))

    def full_changed(self, full: bool) -> None:
        """See `Connection.full_changed`: what was put aside waits for an acknowledgement that cannot come soon."""
        self._forget_topics()
        if full and self._stashed:
            self.refuse_full()

    def close(self, reason: str, *, abort: bool = False, mend: str = "") -> None:
        """See `Connection.close`. 5.0 clients have a moment to take the reason, unless they had it already."""
        self.can_take = False
        if reason in _REASON_CODES and not self.reason:
            self._say(_REASON_CODES[reason])
        if abort and self._core.level == LEVEL_5 and not self._closing:
            abort = False
            asyncio.get_running_loop().call_later(_GOODBYE_S, self.transport.abort)
        self._closing = True
        super().close(reason, abort=abort, mend=mend)

    def pause_writing(self) -> None:
        """See `Connection.pause_writing`: what is delivered meanwhile has only its place kept."""
        self.can_take = False
        super().pause_writing()

    def resume_writing(self) -> None:
        """See `Connection.resume_writing`."""
        super().resume_writing()
        if self._open:
            self._send_on()

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

    def end(self, reason: str, reason_code: ReasonCode) -> None:
        """See `Outlet.end`."""
        self._say(reason_code)
        self._leave(with_will=True)
        self.close(reason, abort=True)

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

    # -- Decisions

    def connect(self, connect: Connect) -> ConnAck:
        """See `Decisions.connect`."""
        listener = self.listener
        broker = listener.broker
        client_id = connect.client_id or assigned_client_id()
        try:
            self._check_lengths(connect)
            opened = broker.opening.connect(connect, client_id, self.peer, self)
        except RefusedError as refused:
            return ConnAck(
                reason_code=refused.reason_code, properties=ConnAckProperties(reason_string=refused.what[:1000])
            )
        session = self._mqtt = opened.session
        self._must_wait = opened.durable
        self._client = Client(client_id=client_id, username=connect.username, peer=self.peer)
        self._session = listener.sessions.open(PROTOCOL, self.peer, client_id=client_id, username=connect.username)
        session.presence = self._session
        self._core.received_ids = session.received_ids
        longest_s = listener.settings.max_keep_alive_s
        keep_alive_s = min(connect.keep_alive_s or longest_s, longest_s)
        self._limit_s = keep_alive_s * 1.5
        session.receive_maximum = min(connect.properties.receive_maximum or PACKET_IDS, listener.settings.max_inflight)
        properties = NO_CONNACK_PROPERTIES
        if connect.protocol_level == LEVEL_5:
            asked = connect.properties
            self._unanswered = deque()
            self.max_packet_bytes = asked.maximum_packet_size_bytes or UNLIMITED_PACKET_BYTES
            if asked.topic_alias_maximum:
                self._aliases = OutgoingAliases(asked.topic_alias_maximum)
            properties = self._terms(connect, client_id, keep_alive_s)
        return ConnAck(session_present=opened.session_present, properties=properties)

    def _check_lengths(self, connect: Connect) -> None:
        """What is kept with a session is bounded. Raises RefusedError."""
        settings = self.listener.settings
        size_bytes = len(connect.client_id.encode())
        if size_bytes > settings.max_client_id_bytes:
            raise RefusedError(
                ReasonCode.CLIENT_IDENTIFIER_NOT_VALID,
                f"a client id of {size_bytes} bytes: mqtt.max_client_id_bytes = {settings.max_client_id_bytes}",
            )
        size_bytes = len((connect.username or "").encode())
        if size_bytes > settings.max_username_bytes:
            raise RefusedError(
                ReasonCode.BAD_USER_NAME_OR_PASSWORD,
                f"a user name of {size_bytes} bytes: mqtt.max_username_bytes = {settings.max_username_bytes}",
            )

    def _terms(self, connect: Connect, client_id: str, keep_alive_s: float) -> ConnAckProperties:
        """What a 5.0 client is told, where it differs from what it asked for or from what the protocol assumes."""
        settings = self.listener.settings
        asked_s = connect.properties.session_expiry_interval_s or 0
        session = self._mqtt
        assert session is not None
        return ConnAckProperties(
            session_expiry_interval_s=session.expiry_s if session.expiry_s != asked_s else None,
            receive_maximum=settings.receive_maximum,
            maximum_packet_size_bytes=settings.max_packet_size_bytes,
            assigned_client_identifier=None if connect.client_id else client_id,
            topic_alias_maximum=settings.topic_alias_maximum or None,
            server_keep_alive_s=int(keep_alive_s) if connect.keep_alive_s != keep_alive_s else None,
        )

    def resolve(self, publish: Publish, flags: int) -> Target:
        """See `Decisions.resolve`."""
        try:
            return self._target(publish, flags)
        except PublishRefusedError as refused:
            if self._core.level == LEVEL_5 and flags & (FLAG_QOS_1 | FLAG_QOS_2):
                answer = PacketType.PUBREC if flags & FLAG_QOS_2 else PacketType.PUBACK
                self._count_reason(answer, refused.reason_code)
            raise

    def _target(self, publish: Publish, flags: int) -> Target:
        session, client = self._session, self._client
        assert session is not None  # the core resolves nothing before CONNECT was accepted
        assert client is not None
        listener = self.listener
        publisher = listener.broker.publisher
        topic = publish.topic
        wants_answer = flags & (FLAG_QOS_1 | FLAG_QOS_2)
        if listener.log.full:
            if wants_answer:
                raise DiskFullError
            self._remember_topic(topic)
            return self._drop_full, b"", []
        try:
            routed = publisher.route(client, topic)
        except PublishRefusedError:
            if wants_answer:
                raise
            self._remember_topic(topic)
            return self._drop_refused, b"", []
        if routed.device is not None and listener.sessions.device_seen(session, routed.device):
            self._forget_topics()
        to = publisher.destination(client, routed, topic, flags, publish.properties)
        self._remember_topic(topic, to.surplus_bytes)
        append: Append = to.append
        if flags & FLAG_QOS_2 and self._mqtt is not None and self._mqtt.durable:
            append = listener.broker.receiving.target(self._mqtt, self._stored_last, append)
        if to.surplus_bytes > RECORD_OVERHEAD_BYTES:
            append = self._with_surplus(append, to.surplus_bytes)
        return append, to.key, to.headers

    def subscribe(self, subscribe: Subscribe) -> Sequence[ReasonCode]:
        """See `Decisions.subscribe`."""
        session, client = self._mqtt, self._client
        assert session is not None
        assert client is not None
        self._must_wait = self._must_wait or session.durable
        self._forget_topics()  # what it publishes behind this, in the same chunk, may come to itself
        return self.listener.broker.subscribing.subscribe(session, client, subscribe)

    def unsubscribe(self, unsubscribe: Unsubscribe) -> Sequence[ReasonCode]:
        """See `Decisions.unsubscribe`."""
        session = self._mqtt
        assert session is not None
        self._must_wait = self._must_wait or session.durable
        reasons = self.listener.broker.subscribing.unsubscribe(session, unsubscribe)
        if session.level == LEVEL_5:  # 3.1.1 does not send them
            for reason in reasons:
                self._count_reason(PacketType.UNSUBACK, reason)
        return reasons

    def _with_surplus(self, append: Append, surplus_bytes: int) -> Append:
        """For long keys: a record then takes much more than its packet, which has to count for the log's limits."""

        log = self.listener.log

        def counted(timestamp_ms: int, key: bytes | None, value: bytes | None, headers: list[Header], /) -> int:
            log.appended(0, surplus_bytes)
            return append(timestamp_ms, key, value, headers)

        return counted

    def _drop_full(self, timestamp_ms: int, key: bytes | None, value: bytes | None, headers: list[Header], /) -> int:
        """Where QoS 0 publishes go while the disk is full."""
        self.listener.counters.dropped[DISK_FULL] += 1
        return -1

    def _drop_refused(self, timestamp_ms: int, key: bytes | None, value: bytes | None, headers: list[Header], /) -> int:
        """Where QoS 0 publishes go that the client may not send."""
        self.listener.counters.dropped[PublishRefusedError.reason] += 1
        return -1

    def _remember_topic(self, mqtt_topic: str, surplus_bytes: int = 0) -> None:
        """Count what the core is about to remember; where it is too much, its memory is started anew."""
        listener = self.listener
        size_bytes = _TARGET_BYTES + 4 * len(mqtt_topic) + 3 * surplus_bytes  # as bytes, header and key; properties
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

    # -- rare things

    def _note_released(self, core: ServerConnection) -> None:
        session = self._mqtt
        if session is not None:
            taken_again = core.received_ids or ()  # by a client that does not wait for answers: its row stays
            released = [packet_id for packet_id in core.released if packet_id not in taken_again]
            self.listener.broker.receiving.released(session, released)

    def _stored_last(self) -> int:
        return self._core.stored[-1]

    def _note(self, core: ServerConnection) -> None:
        session = self._mqtt
        broker = self.listener.broker
        if core.pubacks and session is not None:
            broker.sender.acknowledged(session, core.pubacks)
        for event in core.events:
            match event:
                case Received(packet_id=packet_id, reason_code=code) if session is not None:
                    broker.sender.received(session, packet_id, code)
                case Completed(packet_id=packet_id) if session is not None:
                    broker.sender.completed(session, packet_id)
                case Connected():
                    self._count_reason(PacketType.CONNACK, ReasonCode.SUCCESS)
                    self.heard = True
                    if not self._held:
                        self._open_outlet()
                case Subscribed(reason_codes=codes):
                    for code in codes:
                        self._count_reason(PacketType.SUBACK, code)
                case PublishRefused(topic=topic, reason_code=code):
                    self.listener.lines.info(
                        "publish refused", what=f"to {topic!r}", code=int(code), client_id=self._client_id
                    )
                case Disconnected(disconnect=disconnect):
                    self._disconnected(disconnect)
                case Refused(reason_code=code, what=what):
                    self._count_reason(PacketType.CONNACK, code)
                    self.listener.lines.info("connect refused", code=int(code), what=what, peer=self.peer)
                    self.close("connect refused")
                case Unsubscribed() | Received() | Completed():
                    pass

    def _disconnected(self, disconnect: Disconnect) -> None:
        session = self._mqtt
        assert session is not None
        self.listener.broker.counters.disconnects[int(disconnect.reason_code)] += 1
        asked_s = disconnect.properties.session_expiry_interval_s
        if asked_s and not session.expiry_s:
            # A session that was to end here cannot be kept; such a DISCONNECT is none (5.0, 3.14.2.2.2).
            self._say(ReasonCode.PROTOCOL_ERROR)
            self._leave(with_will=True)
            self.close(ProtocolError.reason)
            return
        self.listener.broker.ending.disconnect(session, disconnect)
        # [MQTT-3.14.4-3] [MQTT5-3.14.4-3]: discarded, unless the client asks for it (0x04) or ends for another reason.
        self._leave(with_will=disconnect.reason_code is not ReasonCode.NORMAL_DISCONNECTION)
        self.reason = "disconnected"
        self.can_take = False
        self.transport.close()

    def _leave(self, *, with_will: bool) -> None:
        """This connection is no longer its session's."""
        session, self._mqtt = self._mqtt, None
        self.can_take = False
        self._forget_topics()
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
                self._count_reason(PacketType.DISCONNECT, reason_code)

    def _count_reason(self, packet_type: PacketType, reason_code: ReasonCode) -> None:
        self.listener.broker.counters.reasons[packet_type, int(reason_code)] += 1

    def _over_quota(self) -> None:
        self._say(ReasonCode.QUOTA_EXCEEDED)
        self.close(
            "publish rate",
            mend=f"send at most {self.listener.settings.max_publish_rate} a second: mqtt.max_publish_rate",
        )

    def _protocol_error(self, error: ProtocolError) -> None:
        if isinstance(error, DiskFullError):
            self.refuse_full()
            return
        self._said = True
        if self._core.level == LEVEL_5:  # by the core
            self._count_reason(PacketType.DISCONNECT if self._session else PacketType.CONNACK, error.reason_code)
        self.listener.lines.warning(
            "protocol error",
            what=error.what,
            where=error.where,
            mend=error.mend or _MEND,
            packet=error.packet,
            client_id=self._client_id,
            peer=self.peer,
        )
        self.close(error.reason)

    @property
    def _client_id(self) -> str:
        return self._client.client_id if self._client is not None else ""


class _HeldAnswer:
    """Waits for a commit with answers of a connection."""

    __slots__ = ("_connection",)

    def __init__(self, connection: MqttConnection) -> None:
        self._connection = connection

    def committed(self, token: Any) -> None:
        """See `Waiter.committed`."""
        self._connection.release(token)

    def failed(self, token: Any) -> None:
        """See `Waiter.failed`."""
        self._connection.failed(token)
