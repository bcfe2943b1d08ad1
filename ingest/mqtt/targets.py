"""Where the publishes of one connection go: decided once for each MQTT topic, and bounded in what it remembers.

While the disk is full, MQTT 3.1.1 has no answer to a publish but to close the connection, and 5.0 says why; a QoS 0
publish is dropped and counted instead. That too is decided when an MQTT topic is resolved, so every topic is resolved
anew when the disk becomes full or has room again. Publishes taken before are committed and acknowledged: the journal
has its room.
"""

from __future__ import annotations

from typing import Final

from commitlog.base import Header
from ingest.broker.authorizer import Client
from ingest.broker.session import MqttSession
from ingest.limits import RECORD_OVERHEAD_BYTES
from ingest.listener import DISK_FULL
from ingest.mqtt.listener import MqttListener
from ingest.sessions import Session
from wire.mqtt.clauses import LEVEL_5
from wire.mqtt.errors import ProtocolError, PublishRefusedError
from wire.mqtt.events import Append, Target
from wire.mqtt.packets import FLAG_QOS_1, FLAG_QOS_2, Publish
from wire.mqtt.reasons import PacketType, ReasonCode
from wire.mqtt.server import ServerConnection

_TARGET_BYTES: Final = 600  # what a remembered MQTT topic takes besides its text


class DiskFullError(ProtocolError):
    """A publish that wants an acknowledgement while the disk is full: none will come, and the connection ends."""

    code = "disk-full"
    http_status = 507
    reason = DISK_FULL
    usual_reason_code = ReasonCode.QUOTA_EXCEEDED
    told_at_the_end = True

    def __init__(self) -> None:
        super().__init__("MQTT-3.3.5-2", "the disk is full", mend="free some space on the box")


class Targets:
    """See the module. Of a connection whose CONNECT was accepted."""

    __slots__ = ("_client", "_core", "_listener", "_presence", "_topic_memory_bytes", "_topics", "mqtt")

    def __init__(
        self,
        listener: MqttListener,
        core: ServerConnection,
        *,
        client: Client,
        presence: Session,
        mqtt: MqttSession,
    ) -> None:
        self._listener = listener
        self._core = core
        self._client = client
        self._presence = presence
        self.mqtt: MqttSession | None = mqtt
        """The session; None when it is this connection's no longer."""
        self._topics = self._topic_memory_bytes = 0

    def resolve(self, publish: Publish, flags: int) -> Target:
        """See `Decisions.resolve`."""
        try:
            return self._target(publish, flags)
        except PublishRefusedError as refused:
            if self._core.level == LEVEL_5 and flags & (FLAG_QOS_1 | FLAG_QOS_2):
                answer = PacketType.PUBREC if flags & FLAG_QOS_2 else PacketType.PUBACK
                self._listener.count_reason(answer, refused.reason_code)
            raise

    def _target(self, publish: Publish, flags: int) -> Target:
        listener = self._listener
        publisher = listener.broker.publisher
        topic = publish.topic
        wants_answer = flags & (FLAG_QOS_1 | FLAG_QOS_2)
        if listener.log.full:
            if wants_answer:
                raise DiskFullError
            self._remember(topic)
            return self._drop_full, b"", []
        try:
            routed = publisher.route(self._client, topic)
        except PublishRefusedError:
            if wants_answer:
                raise
            self._remember(topic)
            return self._drop_refused, b"", []
        if routed.device is not None and listener.sessions.device_seen(self._presence, routed.device):
            self.forget()
        to = publisher.destination(self._client, routed, topic, flags, publish.properties)
        self._remember(topic, to.surplus_bytes)
        append: Append = to.append
        if flags & FLAG_QOS_2 and self.mqtt is not None and self.mqtt.durable:
            append = listener.broker.receiving.target(self.mqtt, self._stored_last, append)
        if to.surplus_bytes > RECORD_OVERHEAD_BYTES:
            append = self._with_surplus(append, to.surplus_bytes)
        return append, to.key, to.headers

    def forget(self) -> None:
        """Every topic is resolved anew at its next publish."""
        self._core.forget_topics()
        self._listener.topic_memory_bytes -= self._topic_memory_bytes
        self._topics = self._topic_memory_bytes = 0

    def _with_surplus(self, append: Append, surplus_bytes: int) -> Append:
        """For long keys: a record then takes much more than its packet, which has to count for the log's limits."""

        log = self._listener.log

        def counted(timestamp_ms: int, key: bytes | None, value: bytes | None, headers: list[Header], /) -> int:
            log.appended(0, surplus_bytes)
            return append(timestamp_ms, key, value, headers)

        return counted

    def _drop_full(self, timestamp_ms: int, key: bytes | None, value: bytes | None, headers: list[Header], /) -> int:
        """Where QoS 0 publishes go while the disk is full."""
        self._listener.counters.dropped[DISK_FULL] += 1
        return -1

    def _drop_refused(self, timestamp_ms: int, key: bytes | None, value: bytes | None, headers: list[Header], /) -> int:
        """Where QoS 0 publishes go that the client may not send."""
        self._listener.counters.dropped[PublishRefusedError.reason] += 1
        return -1

    def _remember(self, mqtt_topic: str, surplus_bytes: int = 0) -> None:
        """Count what the core is about to remember; where it is too much, its memory is started anew."""
        listener = self._listener
        size_bytes = _TARGET_BYTES + 4 * len(mqtt_topic) + 3 * surplus_bytes  # as bytes, header and key; properties
        full = listener.topic_memory_bytes + size_bytes > listener.max_topic_memory_bytes
        if full or self._topics >= listener.settings.max_topics_per_connection:
            self.forget()
        self._topics += 1
        self._topic_memory_bytes += size_bytes
        listener.topic_memory_bytes += size_bytes

    def _stored_last(self) -> int:
        return self._core.stored[-1]
