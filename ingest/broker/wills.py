"""Wills: what is published for a client that vanishes [MQTT-3.1.2-8] [MQTT5-3.1.2-8].

A will stands in the table `mqtt.wills` from its CONNECT until it is published or discarded, so it is published as well
when it was the server that vanished: the edge that comes back finds the wills of everybody who was connected, and they
are due, each after its delay, unless the client comes back before.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from ingest.broker.properties import published_with
from ingest.broker.rows import Row, StateRowError
from wire.mqtt.errors import ProtocolError
from wire.mqtt.packets import Will
from wire.mqtt.properties import NO_PUBLISH_PROPERTIES, PublishProperties
from wire.mqtt.property_codec import PUBLISH as PUBLISH_PROPERTIES

WILLS: Final = "mqtt.wills"
MAX_WILL_BYTES: Final = 64 << 20  # of all wills: a thousand of the greatest size, a million usual ones
_OVERHEAD_BYTES: Final = 200
_SPARE_DUE: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptWill:
    """A will and whose it is. `due_ms`: when it is published; None while its client is connected."""

    client_id: str
    username: str | None
    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: PublishProperties
    delay_s: int
    due_ms: int | None = None

    @property
    def size_bytes(self) -> int:
        """About what it takes."""
        return 2 * len(self.topic) + len(self.payload) + _OVERHEAD_BYTES


def kept(will: Will, client_id: str, username: str | None) -> KeptWill:
    """The will of a CONNECT."""
    return KeptWill(
        client_id=client_id,
        username=username,
        topic=will.topic,
        payload=will.payload,
        qos=will.qos,
        retain=will.retain,
        properties=published_with(will.properties),
        delay_s=will.properties.will_delay_interval_s or 0,
    )


class Wills:
    """All wills of the box, at most one a client. Reads no clock: times are arguments, milliseconds."""

    def __init__(self, max_bytes: int = MAX_WILL_BYTES) -> None:
        self._max_bytes = max_bytes
        self._wills: dict[str, KeptWill] = {}
        self._due: list[tuple[int, str]] = []
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._wills)

    def get(self, client_id: str) -> KeptWill | None:
        """The will of a client, if it has one."""
        return self._wills.get(client_id)

    def has_room(self, will: KeptWill) -> bool:
        """Whether it may be kept besides all others."""
        before = self._wills.get(will.client_id)
        return self.size_bytes + will.size_bytes - (before.size_bytes if before else 0) <= self._max_bytes

    def keep(self, will: KeptWill) -> Row:
        """Keep a client's will in the place of the one before; the row that does the same."""
        self.discard(will.client_id)
        self._wills[will.client_id] = will
        self.size_bytes += will.size_bytes
        if will.due_ms is not None:
            heapq.heappush(self._due, (will.due_ms, will.client_id))
            if len(self._due) > 2 * len(self._wills) + _SPARE_DUE:  # those of clients that came back in time
                self._due = [(one.due_ms, one.client_id) for one in self._wills.values() if one.due_ms is not None]
                heapq.heapify(self._due)
        return WILLS, will.client_id, _row(will)

    def discard(self, client_id: str) -> Row | None:
        """Forget a client's will; None if there is none."""
        will = self._wills.pop(client_id, None)
        if will is None:
            return None
        self.size_bytes -= will.size_bytes
        return WILLS, client_id, None

    def take_due(self, now_ms: int) -> Iterator[KeptWill]:
        """Those whose time has come, the oldest first. The caller publishes and discards each."""
        while self._due and self._due[0][0] <= now_ms:
            due_ms, client_id = heapq.heappop(self._due)
            will = self._wills.get(client_id)
            if will is not None and will.due_ms == due_ms:
                yield will

    def shift(self, step_ms: int) -> None:
        """The clock has stepped: every will that waits goes on waiting as long as it had to."""
        for will in self.all():
            if will.due_ms is not None:
                self.keep(replace(will, due_ms=will.due_ms + step_ms))

    def restore(self, rows: Mapping[str, Any]) -> list[StateRowError]:
        """Take over what the table holds; returns what could not be read."""
        faults: list[StateRowError] = []
        for client_id, value in rows.items():
            try:
                self.keep(_from_row(client_id, value))
            except StateRowError as error:
                faults.append(error)
        return faults

    def all(self) -> list[KeptWill]:
        """Every will."""
        return list(self._wills.values())


def _row(will: KeptWill) -> list[Any]:
    properties = b"" if will.properties is NO_PUBLISH_PROPERTIES else PUBLISH_PROPERTIES.encode(will.properties)
    return [will.topic, will.payload, will.qos, will.retain, properties, will.delay_s, will.due_ms, will.username]


def _from_row(client_id: str, value: Any) -> KeptWill:
    match value:
        case [str(topic), bytes(payload), int(qos), bool(retain), bytes(encoded), int(delay_s), due_ms, username]:
            try:
                properties = PUBLISH_PROPERTIES.read(encoded, 0, len(encoded))[0] if encoded else NO_PUBLISH_PROPERTIES
            except ProtocolError as error:
                raise StateRowError(f"a will's properties: {error.what}", where=f"{WILLS}: {client_id!r}") from error
            return KeptWill(
                client_id=client_id,
                username=username,
                topic=topic,
                payload=payload,
                qos=qos,
                retain=retain,
                properties=properties,
                delay_s=delay_s,
                due_ms=due_ms,
            )
    raise StateRowError("a will's row does not hold its eight values", where=f"{WILLS}: {client_id!r}")
