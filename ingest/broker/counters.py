"""What the MQTT server counts besides what every listener does."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from wire.mqtt.reasons import PacketType


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerFigures:
    """How much there is now. `queued_*`: what waits for clients, places of messages, as last counted."""

    connected: int
    away: int
    subscriptions: int
    retained_messages: int
    retained_bytes: int
    retained_refused: int
    """Messages that were taken and delivered, and not retained since there was no room."""
    queued_messages: int
    queued_bytes: int
    wills: int
    will_bytes: int
    catch_up_slices: int
    """Slices of the log read for clients that were behind."""
    state_left_out: int
    """Rows of state tables that could not be read at the start."""


@dataclass(slots=True)
class BrokerCounters:
    """Messages to subscribers, and how requests and connections ended."""

    delivered: int = 0
    """Messages sent to subscribers."""
    delivered_again: int = 0
    """Those among them that were sent again, with DUP, after a reconnect."""
    dropped_qos_0: int = 0
    """QoS 0 messages for subscribers that could not take them."""
    dropped_too_large: int = 0
    """Messages larger than a subscriber's maximum packet size."""
    expired: int = 0
    """Messages whose expiry interval passed before they could be sent."""
    lost: int = 0
    """Queued messages whose records were no longer in the log."""
    sessions_expired: int = 0
    sessions_behind: int = 0
    """Sessions ended because what they had still to get was no longer in the log."""
    sessions_overflowed: int = 0
    """Sessions ended because they had more to get than a session may have."""
    wills: int = 0
    """Wills published."""
    wills_dropped: int = 0
    """Wills that could not be: the disk was full, or the topic is not permitted any more."""
    reasons: Counter[tuple[PacketType, int]] = field(default_factory=Counter)
    """Reasons sent, by packet: of every CONNACK, SUBACK, UNSUBACK and DISCONNECT, and of each PUBACK, PUBREC, PUBREL
    and PUBCOMP that refuses. A 3.1.1 client is told the nearest that its version has."""
    disconnects: Counter[int] = field(default_factory=Counter)
    """Reason codes of the DISCONNECTs that clients sent."""
