"""The topics' turns: where each stands, what waits of it, and what of that is exported next.

Nothing here blocks or asks anybody: the runner hands over what the log and the sink say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from commitlog.base import ClosedWindow, TopicInfo
from commitlog.committed import Committed
from core.clock import Clock
from sink.attempts import Attempts
from sink.base import ExportWindow, joined
from sink.holding import Holding
from sink.standing import TopicStanding, Waiting, tried, waiting_of


@dataclass(slots=True, kw_only=True)
class Turn(Attempts):
    """Where one topic stands, and whether it has to wait.

    `recorded`: the tables say where. `ahead` is what the sink has of it beyond that, None as long as nobody asked.
    """

    topic: str = ""
    committed: Committed = field(default_factory=Committed)
    waiting: Waiting | None = None
    recorded: bool = False
    ahead: Sequence[ExportWindow] | None = None


class Turns:
    """Every topic's turn, by topic id; as many as there are topics."""

    def __init__(self, holding: Holding, clock: Clock) -> None:
        self.flushes: Mapping[str, int] = {}
        """Topic id -> the window up to which nothing is to be held back."""
        self._holding = holding
        self._clock = clock
        self._turns: dict[str, Turn] = {}

    def __iter__(self) -> Iterator[Turn]:
        return iter(self._turns.values())

    def at(self, topic_id: str) -> Turn:
        """A topic's turn."""
        return self._turns.setdefault(topic_id, Turn())

    def of(self, info: TopicInfo) -> Turn:
        """A topic's turn, which then knows the topic's name."""
        turn = self.at(info.topic_id)
        turn.topic = info.name
        return turn

    @property
    def progress(self) -> dict[str, Committed]:
        """Topic id -> how far it is exported."""
        return {topic_id: turn.committed for topic_id, turn in self._turns.items()}

    def standing(self) -> Sequence[TopicStanding]:
        """How the topics stand whose names are known."""
        return [
            TopicStanding(topic=turn.topic, topic_id=topic_id, waiting=turn.waiting, **tried(turn))
            for topic_id, turn in self._turns.items()
            if turn.topic
        ]

    def due(self, windows: Sequence[ClosedWindow], topic_id: str, begun: int | None) -> ExportWindow | None:
        """What of a topic is to be exported now: windows of the log, up to what the sink has already, or that.

        `begun`: see `Sink.begun`.
        """
        flush_through = self._flush_through(topic_id)
        ahead = self.at(topic_id).ahead
        if ahead:
            first = ahead[0]
            windows = [window for window in windows if window.number < first.first_number]
            if not windows:
                return first
            flush_through = windows[-1].number  # what they could be held back for is out already
            begun = begun if begun is not None and begun < first.first_number else None
        due = self._holding.due(windows, now_ms=self._clock.time_ms(), flush_through=flush_through, begun=begun)
        return joined(due) if due else None

    def count(self, windows: Sequence[ClosedWindow], topic_id: str, begun: int | None) -> None:
        """Note what a topic has waiting, and how much of it is held back."""
        turn, now_ms = self.at(topic_id), self._clock.time_ms()
        ahead_to = turn.ahead[-1].number if turn.ahead else -1
        rest = [window for window in windows if window.number > ahead_to]
        units = self._holding.units(
            rest,
            now_ms=now_ms,
            flush_through=self._flush_through(topic_id),
            begun=None if turn.ahead else begun,
        )
        held = len(rest) - sum(len(unit) for unit in units)
        turn.waiting = waiting_of(windows, held, now_ms)

    def _flush_through(self, topic_id: str) -> int:
        return self.flushes.get(topic_id, -1)
