"""One MQTT connection: a socket around `wire.mqtt`, the broker and the log behind it.

The hot path: a chunk arrives, the protocol core puts every publish of it straight into its partition's open batches
and hands back the answers; they are registered with the log once for the whole chunk, and written when the commit is on
disk. What depends on the MQTT topic alone is computed at its first publish on the connection (`resolve`) and kept by
the core; when subscriptions change, it is computed anew.

What is written is in `output`, where publishes go in `targets`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from ingest.broker.authorizer import Client
from ingest.broker.opening import RefusedError, assigned_client_id
from ingest.broker.queue import PACKET_IDS
from ingest.broker.session import UNLIMITED_PACKET_BYTES
from ingest.limits import RECORD_OVERHEAD_BYTES
from ingest.mqtt.listener import PROTOCOL, MqttListener
from ingest.mqtt.output import MqttOutput
from ingest.mqtt.targets import DiskFullError, Targets
from ingest.mqtt.terms import check_lengths, terms
from ingest.sessions import Session
from wire.mqtt.aliases import OutgoingAliases
from wire.mqtt.clauses import LEVEL_5
from wire.mqtt.errors import ProtocolError
from wire.mqtt.events import (
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
from wire.mqtt.packets import ConnAck, Connect, Disconnect, Publish, Subscribe, Unsubscribe
from wire.mqtt.properties import NO_CONNACK_PROPERTIES, ConnAckProperties
from wire.mqtt.reasons import PacketType, ReasonCode
from wire.mqtt.server import ServerConnection

_MEND: Final = "is it an MQTT 3.1.1 or 5.0 client? Other protocols have other ports"


class MqttConnection(MqttOutput):
    """One MQTT client."""

    __slots__ = (
        "_client",
        "_generation",
        "_limit_s",
        "_published",
        "_session",
        "_silent_s",
        "_unfinished",
        "_unfinished_s",
    )

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
        self._generation = 0
        self._silent_s = 0
        self._unfinished: object | None = None
        self._unfinished_s = 0
        self._limit_s: float = settings.connect_timeout_s
        self._published = 0

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
            self._resolve_anew()
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
        self._resolve_anew()
        if full and self._stashed:
            self.refuse_full()

    # -- Decisions

    def connect(self, connect: Connect) -> ConnAck:
        """See `Decisions.connect`."""
        listener = self.listener
        broker = listener.broker
        client_id = connect.client_id or assigned_client_id()
        try:
            check_lengths(connect, listener.settings)
            opened = broker.opening.connect(connect, client_id, self.peer, self)
        except RefusedError as refused:
            return ConnAck(
                reason_code=refused.reason_code, properties=ConnAckProperties(reason_string=refused.what[:1000])
            )
        session = self._mqtt = opened.session
        self._must_wait = opened.durable
        client = self._client = Client(client_id=client_id, username=connect.username, peer=self.peer)
        self._session = listener.sessions.open(PROTOCOL, self.peer, client_id=client_id, username=connect.username)
        session.presence = self._session
        self._targets = Targets(listener, self._core, client=client, presence=self._session, mqtt=session)
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
            properties = terms(connect, session, keep_alive_s, listener.settings)
        return ConnAck(session_present=opened.session_present, properties=properties)

    def resolve(self, publish: Publish, flags: int) -> Target:
        """See `Decisions.resolve`."""
        targets = self._targets
        assert targets is not None  # the core resolves nothing before CONNECT was accepted
        return targets.resolve(publish, flags)

    def _resolve_anew(self) -> None:
        if self._targets is not None:
            self._targets.forget()

    def subscribe(self, subscribe: Subscribe) -> Sequence[ReasonCode]:
        """See `Decisions.subscribe`."""
        session, client = self._mqtt, self._client
        assert session is not None
        assert client is not None
        self._must_wait = self._must_wait or session.durable
        self._resolve_anew()  # what it publishes behind this, in the same chunk, may come to itself
        return self.listener.broker.subscribing.subscribe(session, client, subscribe)

    def unsubscribe(self, unsubscribe: Unsubscribe) -> Sequence[ReasonCode]:
        """See `Decisions.unsubscribe`."""
        session = self._mqtt
        assert session is not None
        self._must_wait = self._must_wait or session.durable
        reasons = self.listener.broker.subscribing.unsubscribe(session, unsubscribe)
        if session.level == LEVEL_5:  # 3.1.1 does not send them
            for reason in reasons:
                self.listener.count_reason(PacketType.UNSUBACK, reason)
        return reasons

    # -- rare things

    def _note_released(self, core: ServerConnection) -> None:
        session = self._mqtt
        if session is not None:
            taken_again = core.received_ids or ()  # by a client that does not wait for answers: its row stays
            released = [packet_id for packet_id in core.released if packet_id not in taken_again]
            self.listener.broker.receiving.released(session, released)

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
                    self.listener.count_reason(PacketType.CONNACK, ReasonCode.SUCCESS)
                    self.heard = True
                    if not self._held:
                        self._open_outlet()
                case Subscribed(reason_codes=codes):
                    for code in codes:
                        self.listener.count_reason(PacketType.SUBACK, code)
                case PublishRefused(topic=topic, reason_code=code):
                    self.listener.lines.info(
                        "publish refused", what=f"to {topic!r}", code=int(code), client_id=self._client_id
                    )
                case Disconnected(disconnect=disconnect):
                    self._disconnected(disconnect)
                case Refused(reason_code=code, what=what):
                    self.listener.count_reason(PacketType.CONNACK, code)
                    self.listener.lines.info("connect refused", code=int(code), what=what, peer=self.peer)
                    self.close("connect refused", lingers=True)
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
            self.listener.count_reason(
                PacketType.DISCONNECT if self._session else PacketType.CONNACK, error.reason_code
            )
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
