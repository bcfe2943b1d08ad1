"""What the MQTT server counts besides what every listener does."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from wire.mqtt.reasons import PacketType


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
    sessions_overflowed: int = 0
    """Sessions ended because they had more to get than a session may have."""
    wills: int = 0
    """Wills published."""
    wills_dropped: int = 0
    """Wills that could not be: the disk was full, or the topic is not permitted any more."""
    reasons: Counter[tuple[PacketType, int]] = field(default_factory=Counter)
    """Reason codes sent, by packet: CONNACK, SUBACK, UNSUBACK, PUBACK, PUBREC (refusals), DISCONNECT."""
    disconnects: Counter[int] = field(default_factory=Counter)
    """Reason codes of the DISCONNECTs that clients sent."""
