"""QoS 2 from clients whose sessions outlive their connections: which packet identifiers are taken, on disk.

A row of `mqtt.received` says that the publish of an identifier is stored; it is in the commit of the record itself, so
that a publish which is sent again after a kill is answered and not stored twice [MQTT-4.3.3-2] [MQTT5-4.3.3-8].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from commitlog.base import Header
from ingest.broker.session import MqttSession
from ingest.broker.shared import Shared
from ingest.broker.state import RECEIVED, received_key
from wire.mqtt.events import Append

_ROW_BYTES: Final = 40


class Receiving:
    """See the module."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def target(self, session: MqttSession, stored: Callable[[], int], append: Append) -> Append:
        """`append` for QoS 2 publishes of a durable session, and the row that says so, in one commit with the record.

        `stored` gives the packet identifier of the publish that is being appended.
        """
        log = self._shared.log
        client_id = session.client_id
        row_size = len(client_id) * 4 + _ROW_BYTES

        def put(timestamp_ms: int, key: bytes | None, value: bytes | None, headers: list[Header], /) -> int:
            log.reserve(row_size)
            offset = append(timestamp_ms, key, value, headers)
            log.change_reserved((RECEIVED, received_key(client_id, stored()), 1))
            return offset

        return put

    def released(self, session: MqttSession, packet_ids: Iterable[int]) -> None:
        """QoS 2 publishes are released: their identifiers are free once that is committed."""
        if session.durable:
            self._shared.change([(RECEIVED, received_key(session.client_id, number), None) for number in packet_ids])
