"""Wills whose time has come are published, in the name of their clients [MQTT-3.1.2-8] [MQTT5-3.1.2-8]."""

from __future__ import annotations

from ingest.broker.authorizer import Client
from ingest.broker.publisher import Publisher
from ingest.broker.shared import Shared
from ingest.broker.wills import KeptWill
from ingest.limits import RECORD_OVERHEAD_BYTES
from wire.mqtt.errors import PublishRefusedError
from wire.mqtt.packets import FLAG_RETAIN


class WillPublisher:
    """See the module."""

    def __init__(self, shared: Shared, publisher: Publisher) -> None:
        self._shared = shared
        self._log = shared.log
        self._wills = shared.wills
        self._publisher = publisher

    def publish(self, will: KeptWill) -> None:
        """Publish a will in the name of its client, and forget it."""
        client = Client(client_id=will.client_id, username=will.username, peer="")
        flags = (FLAG_RETAIN if will.retain else 0) | will.qos << 1
        if self._log.congested:  # it is kept until then, and so is its row
            self._log.when_clear(lambda: self._publish_waiting(will))
            return
        discarded = self._wills.discard(will.client_id)
        if self._log.full:
            self._drop(will, "the disk is full")
        else:
            try:
                routed = self._publisher.route(client, will.topic)
                to = self._publisher.destination(client, routed, will.topic, flags, will.properties)
                to.append(self._log.now_ms(), to.key, will.payload, to.headers)
            except PublishRefusedError as error:  # permitted at CONNECT, and not any more
                self._drop(will, error.what)
            else:
                self._log.appended(1, will.size_bytes + to.surplus_bytes + RECORD_OVERHEAD_BYTES)
                self._shared.counters.wills += 1
        self._shared.change([] if discarded is None else [discarded])

    def _publish_waiting(self, will: KeptWill) -> None:
        """The log has room again for a will that is due, if the client has no other one meanwhile."""
        if self._wills.get(will.client_id) is will:
            self.publish(will)

    def _drop(self, will: KeptWill, what: str) -> None:
        self._shared.counters.wills_dropped += 1
        self._shared.lines.warning("will dropped", what=what, where=f"will of {will.client_id!r}")
