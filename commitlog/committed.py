"""Committed offsets: how far a consumer that keeps its place in the log has come, as rows of a state table.

Table `sink.<name>`, one row a topic, by topic id: `{topic, next_window, offsets: {partition: next offset},
exported_at_ms, notes}`. A sink writes its row in the commit that records what became of a window; retention, which must
not delete what a sink still needs, and `headrace verify`, which must not look beyond it, read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


def committed_table(sink: str) -> str:
    """The table that holds a sink's committed offsets."""
    return f"sink.{sink}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """How far one topic is exported: the first window that is not, and the first offset of each partition."""

    next_window: int = 0
    offsets: Mapping[int, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    """What the sink wants to know of the topic at its next export; for the sink alone."""

    def offset(self, partition: int) -> int:
        """The first offset of a partition that is not exported."""
        return self.offsets.get(partition, 0)


def committed_row(topic: str, committed: Committed, now_ms: int) -> dict[str, Any]:
    """The row as it stands in the table."""
    return {
        "topic": topic,
        "next_window": committed.next_window,
        "offsets": {str(partition): following for partition, following in sorted(committed.offsets.items())},
        "exported_at_ms": now_ms,
        "notes": list(committed.notes),
    }


def committed_from_row(row: Mapping[str, Any]) -> Committed:
    """The inverse of `committed_row`."""
    return Committed(
        next_window=row["next_window"],
        offsets={int(partition): following for partition, following in row["offsets"].items()},
        notes=tuple(row.get("notes", ())),
    )
