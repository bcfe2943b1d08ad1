"""Windows as rows of the `windows` state table, and how the next one is cut.

A window of a topic starts where the one before ended, in every partition, and ends at the open end: no offset is left
out and none is in two. Rows are keyed `<topic id>/<number, 20 digits>`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from commitlog.base import ClosedWindow, TopicInfo
from commitlog.journal import Change

WINDOWS_TABLE: Final = "windows"


def window_key(topic_id: str, number: int) -> str:
    """A window's key in the table; keys of one topic sort by number."""
    return f"{topic_id}/{number:020}"


def window_to_row(window: ClosedWindow) -> dict[str, Any]:
    """A window as msgpack carries it, on the channel and in the table."""
    return {
        "topic": window.topic,
        "topic_id": window.topic_id,
        "number": window.number,
        "start_ms": window.start_ms,
        "end_ms": window.end_ms,
        "offsets": {str(partition): list(pair) for partition, pair in window.offsets.items()},
        "reason": window.reason,
    }


def window_from_row(row: Mapping[str, Any]) -> ClosedWindow:
    """The inverse of `window_to_row`."""
    offsets = {int(partition): (first, following) for partition, (first, following) in row["offsets"].items()}
    return ClosedWindow(**{**row, "offsets": offsets})


def window_change(window: ClosedWindow) -> Change:
    """The table change that records a window."""
    return (WINDOWS_TABLE, window_key(window.topic_id, window.number), window_to_row(window))


def last_windows(rows: Mapping[str, Any]) -> dict[str, ClosedWindow]:
    """The newest window of each topic by its id, found in one pass."""
    newest: dict[str, str] = {}
    for key in rows:
        topic_id = key.partition("/")[0]
        if key > newest.get(topic_id, ""):
            newest[topic_id] = key
    return {topic_id: window_from_row(rows[key]) for topic_id, key in newest.items()}


class OpenWindow:
    """The part of a topic's log that no closed window covers yet."""

    __slots__ = ("_first", "_number", "_start_ms", "_topic")

    def __init__(self, topic: TopicInfo, before: ClosedWindow | None, log_starts: Sequence[int], start_ms: int) -> None:
        self._topic = topic
        self._number = 0 if before is None else before.number + 1
        self._start_ms = start_ms if before is None else before.end_ms
        self._first = [before.offsets.get(p, (0, s))[1] if before else s for p, s in enumerate(log_starts)]

    def close(self, ends: Sequence[int], now_ms: int, reason: str) -> ClosedWindow | None:
        """The window up to the given next offsets, after which the next one is open; None if it would be empty."""
        if all(end == first for first, end in zip(self._first, ends, strict=True)):
            return None
        window = ClosedWindow(
            topic=self._topic.name,
            topic_id=self._topic.topic_id,
            number=self._number,
            start_ms=self._start_ms,
            end_ms=max(now_ms, self._start_ms),
            offsets={p: (first, end) for p, (first, end) in enumerate(zip(self._first, ends, strict=True))},
            reason=reason,
        )
        self._number += 1
        self._start_ms = window.end_ms
        self._first = list(ends)
        return window
