"""What recovery has to say: nothing that was cut or skipped goes without a word."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Bytes or offsets of one partition that recovery could not keep."""

    topic: str
    partition: int
    first: int
    next: int
    reason: str


@dataclass(slots=True, kw_only=True)
class RecoveryReport:
    """What recovery found and did; logged at every start."""

    clean: bool = True
    entries_replayed: int = 0
    records_replayed: int = 0
    cuts: list[Cut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    duration_s: float = 0.0
