"""Where a publish goes: its route and record headers, and on top of its partition's `append` what subscribers,
retained messages and large keys need.

Asked once per connection, MQTT topic, flags and properties; and once for each will.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from commitlog.base import Appender, Header
from commitlog.partitioner import partition_for_key
from ingest.broker.authorizer import Authorizer, Client
from ingest.broker.fan_out import FanOut
from ingest.broker.properties import headers_of
from ingest.broker.publication import Published
from ingest.broker.retaining import Retaining
from ingest.headers import DEVICE, FIELD, MQTT_DUP, MQTT_QOS, MQTT_RETAIN, MQTT_TOPIC
from ingest.limits import MAX_SURPLUS_BYTES
from ingest.routing import Routed, Router
from wire.mqtt.errors import PublishRefusedError
from wire.mqtt.events import Append
from wire.mqtt.packets import FLAG_DUP, FLAG_QOS_2, FLAG_RETAIN
from wire.mqtt.properties import PublishProperties
from wire.mqtt.reasons import ReasonCode

MAX_TOPIC_LEVELS: Final = 128  # of an MQTT topic or filter: a tree of subscriptions is walked as deep as that


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where records go, and what stands in each of them besides key and value."""

    append: Append
    key: bytes
    headers: list[Header]
    surplus_bytes: int
    """What a record takes more than its packet."""


class Publisher:
    """Used on the event loop only."""

    def __init__(
        self, log: Appender, router: Router, authorizer: Authorizer, fan_out: FanOut, retaining: Retaining
    ) -> None:
        self._log = log
        self._router = router
        self._authorizer = authorizer
        self._fan_out = fan_out
        self._retaining = retaining

    def route(self, client: Client, topic: str) -> Routed:
        """Where a client's publishes to an MQTT topic go. Raises PublishRefusedError."""
        if topic.count("/") >= MAX_TOPIC_LEVELS:
            raise PublishRefusedError(
                topic,
                f"an MQTT topic of more than {MAX_TOPIC_LEVELS} levels",
                reason_code=ReasonCode.TOPIC_NAME_INVALID,
            )
        if not self._authorizer.may_publish(client, topic):
            raise PublishRefusedError(
                topic,
                f"{client.client_id!r} may not publish to {topic!r}",
                mend="see mqtt.refuse_publish in the configuration",
            )
        return self._router.route(topic, client_id=client.client_id, username=client.username)

    def destination(
        self, client: Client, routed: Routed, topic: str, flags: int, properties: PublishProperties
    ) -> Destination:
        """The target of publishes to that topic, with these flags (DUP 8, QoS 6, RETAIN 1) and properties."""
        partitions = self._log.partitions(routed.topic)
        key = routed.key.encode()
        partition = partitions[partition_for_key(key, len(partitions))]
        headers: list[Header] = [(MQTT_TOPIC, topic.encode()), *_facts(flags), *headers_of(properties)]
        if routed.device != routed.key:
            headers.append((DEVICE, (routed.device or "").encode()))
        if routed.field is not None:
            headers.append((FIELD, routed.field.encode()))
        qos, retain = flags >> 1 & 3, bool(flags & FLAG_RETAIN)
        published = Published(
            topic=topic,
            qos=qos,
            retain=retain,
            properties=properties,
            log_topic=routed.topic,
            partition=partition.index,
            client_id=client.client_id,
        )
        append = self._fan_out.target(published, partition.append)
        if retain:
            append = self._retaining.target(topic, qos, properties.message_expiry_interval_s, headers, append)
        surplus_bytes = len(key) + sum(len(name) + len(value or b"") for name, value in headers[1:])
        if surplus_bytes > MAX_SURPLUS_BYTES:
            raise PublishRefusedError(
                topic,
                f"key and headers of its records would take {surplus_bytes} bytes, the limit is {MAX_SURPLUS_BYTES}",
                mend="a shorter MQTT topic, or a route whose key and field repeat less of it",
                reason_code=ReasonCode.QUOTA_EXCEEDED,
            )
        return Destination(append=append, key=key, headers=headers, surplus_bytes=surplus_bytes)


def _facts(flags: int) -> list[Header]:
    """Headers for what the flags of a PUBLISH say beyond the usual QoS 1."""
    facts: list[Header] = []
    if flags >> 1 & 3 != 1:
        facts.append((MQTT_QOS, b"2" if flags & FLAG_QOS_2 else b"0"))
    if flags & FLAG_RETAIN:
        facts.append((MQTT_RETAIN, b"1"))
    if flags & FLAG_DUP:
        facts.append((MQTT_DUP, b"1"))
    return facts
