"""What the server's core and the shell around it say to each other: targets of publishes, states, rare events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from wire.mqtt.packets import ConnAck, Connect, Subscribe
from wire.mqtt.reasons import ReasonCode


class Append(Protocol):
    """Where a payload goes: PartitionAppender.append, or something with its shape that drops and counts."""

    def __call__(
        self, timestamp_ms: int, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]], /
    ) -> int:
        """Take a record; the return value is not used here."""
        ...


Target = tuple[Append, bytes | None, list[tuple[str, bytes | None]]]
"""(append, key, headers) for one MQTT topic and one set of flags. The headers list is shared by all its records."""

Resolve = Callable[[str, int], Target]
"""(topic name, flags nibble of the first byte: DUP 8, QoS 1 2, RETAIN 1) -> target. May raise TopicRefusedError."""

OnConnect = Callable[[Connect], ConnAck]
"""Decides about a CONNECT, at once: packets behind it may already be waiting [MQTT-3.1.4-5]."""


class State(Enum):
    """What has happened on the connection so far. The last three are final."""

    AWAITING_CONNECT = auto()
    CONNECTED = auto()
    DISCONNECTED = auto()
    REFUSED = auto()
    FAILED = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """CONNECT was accepted."""

    connect: Connect


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """CONNECT was answered with a CONNACK that says why not; the shell sends `out` and closes [MQTT-3.2.2-5]."""

    reason_code: ReasonCode
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionsRefused:
    """Each filter was answered with 0x80, since subscriptions are not offered."""

    subscribe: Subscribe


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected:
    """DISCONNECT arrived: the shell discards the will and closes [MQTT-3.14.4-3]."""


Event = Connected | Refused | SubscriptionsRefused | Disconnected
