"""What the listeners count: once per chunk of data or per rare event, never per message."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class ListenerCounters:
    """Counters of one protocol's listener."""

    protocol: str
    connections: int = 0
    accepted: int = 0
    records: int = 0
    size_bytes: int = 0
    refused_connections: Counter[str] = field(default_factory=Counter)
    """Connections closed by us, by reason."""
    refused_lines: Counter[str] = field(default_factory=Counter)
    """Readings answered with an error and not stored, by reason."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Readings that the protocol has no answer for (QoS 0, wills) and that were not stored, by reason."""
