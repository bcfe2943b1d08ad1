"""Closed windows by topic, kept up with the rows of the `windows` table; each row is decoded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from commitlog.base import ClosedWindow
from commitlog.windows import window_from_row


class WindowBook:
    """See the module."""

    def __init__(self) -> None:
        self._known: dict[str, ClosedWindow] = {}
        self._topics: dict[str, list[ClosedWindow]] = {}

    def refresh(self, rows: Mapping[str, Any]) -> None:
        """Take over what was added to the table's rows, and let go of what was removed."""
        gone, new = self._known.keys() - rows.keys(), rows.keys() - self._known.keys()
        for key in gone:
            del self._known[key]
        for key in new:
            self._known[key] = window_from_row(rows[key])
        if gone or new:
            self._topics.clear()
            for _, window in sorted(self._known.items()):
                self._topics.setdefault(window.topic_id, []).append(window)

    def of(self, topic_id: str) -> Sequence[ClosedWindow]:
        """A topic's windows, in order."""
        return self._topics.get(topic_id, ())
