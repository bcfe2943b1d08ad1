"""Rolls: topics' open windows closed at a commit, in the same journal entry as the last records before."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from commitlog.base import ClosedWindow
from commitlog.journal import Change
from commitlog.requests import resolve
from commitlog.topics import Topic, Topics
from commitlog.windows import window_change
from core.errors import BadRequestError

MAX_REASON_CHARS: Final = 200  # it stands in every window's row
_ROW_BYTES: Final = 512  # generous: a window's row without its topic, reason and offsets
_PARTITION_BYTES: Final = 26  # its number as text, and two offsets of at most nine bytes


@dataclass(frozen=True, slots=True)
class _Roll:
    topic: Topic
    reason: str
    closed: asyncio.Future[ClosedWindow | None]

    @property
    def size_bytes(self) -> int:
        """What its window takes in the journal, at most."""
        info = self.topic.info
        return _ROW_BYTES + 4 * len(self.reason) + len(info.name) + _PARTITION_BYTES * info.partitions


@dataclass(frozen=True, slots=True)
class Rolled:
    """Rolls that go with a commit, and the windows that they closed: fewer, where nothing had been appended."""

    rolls: Sequence[tuple[_Roll, ClosedWindow | None]] = ()
    size_bytes: int = 0

    @property
    def windows(self) -> list[ClosedWindow]:
        """The windows that were closed."""
        return [window for _, window in self.rolls if window is not None]

    @property
    def changes(self) -> list[Change]:
        """The table changes that record them."""
        return [window_change(window) for window in self.windows]

    def answer(self) -> None:
        """Tell who asked: the windows can be read."""
        for roll, window in self.rolls:
            resolve(roll.closed, window)


class Rolls:
    """What was asked for and is not carried out yet. Used on the event loop only."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._asked: deque[_Roll] = deque()  # one for each call under way

    def __bool__(self) -> bool:
        return bool(self._asked)

    def ask(
        self, topic: str, reason: str, promise: Callable[[], asyncio.Future[ClosedWindow | None]]
    ) -> asyncio.Future[ClosedWindow | None]:
        """Have a topic's window closed with the next commit. Raises NotFoundError, BadRequestError."""
        known = self._topics.named(topic)
        if not isinstance(reason, str) or len(reason) > MAX_REASON_CHARS:
            raise BadRequestError(f"a roll's reason is a text of at most {MAX_REASON_CHARS} characters")
        roll = _Roll(known, reason, promise())
        self._asked.append(roll)
        return roll.closed

    def carry_out(self, room_bytes: int, now_ms: Callable[[], int]) -> Rolled:
        """As many as a commit has room for; each topic's open window ends at its next offsets."""
        rolls: list[tuple[_Roll, ClosedWindow | None]] = []
        size_bytes = 0
        while self._asked and size_bytes + self._asked[0].size_bytes <= room_bytes:
            roll = self._asked.popleft()
            size_bytes += roll.size_bytes
            ends = [partition.next_offset for partition in roll.topic.partitions]
            rolls.append((roll, roll.topic.window.close(ends, now_ms(), roll.reason)))
        return Rolled(rolls, size_bytes)
