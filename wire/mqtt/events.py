"""What the server's core and the shell around it say to each other: decisions, targets of publishes, states, events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from wire.mqtt.packets import ConnAck, Connect, Disconnect, Publish, Subscribe, Unsubscribe
from wire.mqtt.reasons import ReasonCode


class Append(Protocol):
    """Where a payload goes: PartitionAppender.append, or something with its shape that drops and counts."""

    def __call__(
        self, timestamp_ms: int, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]], /
    ) -> int:
        """Take a record; the return value is not used here."""
        ...


Target = tuple[Append, bytes | None, list[tuple[str, bytes | None]]]
"""(append, key, headers) for one MQTT topic, set of flags and set of properties. Its records share the headers list."""


class Decisions(Protocol):
    """What the core asks the shell, at once: packets behind the one in question may already be waiting.

    Whatever these raise ends the connection; a ProtocolError is answered as the protocol's version wants it.
    """

    def connect(self, connect: Connect) -> ConnAck:
        """Whether a CONNECT is accepted, and how it is answered. In a refusal only the reason counts."""
        ...

    def resolve(self, publish: Publish, flags: int) -> Target:
        """The target of publishes like this one: of its topic, properties and flags (DUP 8, QoS 6, RETAIN 1).

        A topic alias is already replaced by its topic. May raise PublishRefusedError.
        """
        ...

    def subscribe(self, subscribe: Subscribe) -> Sequence[ReasonCode]:
        """Subscribe; one reason per filter: the QoS granted, or why not."""
        ...

    def unsubscribe(self, unsubscribe: Unsubscribe) -> Sequence[ReasonCode]:
        """Take subscriptions back; one reason per filter (3.1.1 does not send them)."""
        ...


class State(Enum):
    """What has happened on the connection so far. The last three are final."""

    AWAITING_CONNECT = auto()
    CONNECTED = auto()
    DISCONNECTED = auto()
    REFUSED = auto()
    FAILED = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """CONNECT was accepted, and this is the answer."""

    connect: Connect
    connack: ConnAck


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """CONNECT was answered with a CONNACK that says why not; the shell sends `out` and closes [MQTT-3.2.2-5]."""

    reason_code: ReasonCode
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribed:
    """A SUBSCRIBE was answered: the shell sends what is retained."""

    subscribe: Subscribe
    reason_codes: Sequence[ReasonCode]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsubscribed:
    """An UNSUBSCRIBE was answered."""

    unsubscribe: Unsubscribe


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishRefused:
    """A publish was refused with a reason in its PUBACK or PUBREC, which 5.0 alone has."""

    topic: str
    reason_code: ReasonCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """PUBREC: the client has what was sent to it with QoS 2, or will not take it (a reason of 0x80 or more)."""

    packet_id: int
    reason_code: ReasonCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """PUBCOMP: what was sent with QoS 2 is done."""

    packet_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected:
    """DISCONNECT arrived: the shell discards the will, unless the reason asks for it, and closes [MQTT-3.14.4-3]."""

    disconnect: Disconnect


Event = Connected | Refused | Subscribed | Unsubscribed | PublishRefused | Received | Completed | Disconnected
