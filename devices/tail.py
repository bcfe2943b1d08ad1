"""Keeps a status view up to date: reads device topics and `device.events` in a thread of its own.

From the log start, or from where a snapshot ends, it replays what is there in bounded slices, turn by turn over all
partitions, then waits for more.
What can be said of the view at any moment is one of five words (`TailState`); only LIVE lets a connected flag stand:

* REPLAYING - what was in the log when the tail began has not been read to the end yet;
* LIVE - everything committed up to at most `BEHIND_AFTER_MS` ago has been fed;
* BEHIND - it was live, but for longer than that readings arrive faster than they are fed;
* STALE - the process that writes the log is gone: what was true when it died is not known to be true now. The log's
  readers notice within a few seconds (its heartbeat); for so long a flag may outlive the process, never longer;
* FAILED - the log cannot be read; it is tried again with growing pauses.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

import structlog

from commitlog.base import LogReader, TopicInfo, Watermark, WriterState
from core.clock import Clock
from core.errors import HeadraceError
from devices.status import EVENTS_TOPIC, TOPICS_WITHOUT_DEVICES, StatusView

BEHIND_AFTER_MS: Final = 5_000
_SLICE_BYTES: Final = 256 << 10  # stored bytes a read; a few thousand records, a few milliseconds
_WAIT_S: Final = 0.5  # how soon a stop, a dead writer or a new topic is noticed at the latest
_RETRY_FIRST_S: Final = 0.5
_RETRY_MAX_S: Final = 30.0
_RATE_WINDOW_MS: Final = 5_000
_RATE_STEP_MS: Final = 250

_log = structlog.get_logger("headrace.status")


class TailState(Enum):
    """What can be said of the view now; see the module."""

    REPLAYING = "replaying"
    LIVE = "live"
    BEHIND = "behind"
    STALE = "stale"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class TailStatus:
    """The tail at one moment. `as_of_ms`: everything committed by then had been fed (None: never yet)."""

    state: TailState
    as_of_ms: int | None
    lag_records: int
    replayed: float
    records_per_s: float | None
    failure: str | None

    @property
    def current(self) -> bool:
        """Whether what the view says of sessions holds now."""
        return self.state is TailState.LIVE


class Snapshots(Protocol):
    """What a view may begin with instead of with the log's start."""

    def load(
        self, topics: Mapping[str, TopicInfo], marks: Mapping[str, Sequence[Watermark]]
    ) -> Mapping[tuple[str, int], int]:
        """Bring the view to what is kept of this log; says from which offsets to read on (empty: from the start)."""
        ...

    def follow(self, topics: Mapping[str, TopicInfo]) -> None:
        """These topics there are now."""
        ...


class StatusTail:
    """Feeds `view` from a reader of its own until stopped."""

    def __init__(
        self,
        view: StatusView,
        open_reader: Callable[[], LogReader],
        clock: Clock,
        snapshots: Snapshots | None = None,
    ) -> None:
        self._view = view
        self._snapshots = snapshots
        self._restored: Mapping[tuple[str, int], int] | None = None
        self._open_reader = open_reader
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="status-tail", daemon=True)
        self._positions: dict[tuple[str, int], int] = {}
        self._topic_ids: dict[str, str] = {}
        self._replay_until: dict[tuple[str, int], int] | None = None
        self._replay_from = 0
        self._caught_up = False
        self._writer: WriterState | None = None
        self._failure: str | None = None
        self._fed_up_to: tuple[int, int] | None = None  # wall and monotonic time of the last complete round
        self._lag_records = 0
        self._rate: deque[tuple[int, int]] = deque(maxlen=_RATE_WINDOW_MS // _RATE_STEP_MS + 2)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ask the thread to end and wait for it."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    @property
    def caught_up(self) -> bool:
        """Whether what was in the log at the start has been read."""
        return self._caught_up

    def status(self) -> TailStatus:
        """State, lag and rate now. The rate counts readings and events fed over the last seconds while live."""
        state = self._state()
        done = self._fed_up_to
        live = state is TailState.LIVE
        return TailStatus(
            state=state,
            as_of_ms=done[0] if done else None,
            lag_records=self._lag_records,
            replayed=1.0 if self._caught_up else self._replayed(),
            records_per_s=self._records_per_s() if live else None,
            failure=self._failure,
        )

    def _state(self) -> TailState:
        if self._failure is not None:
            return TailState.FAILED
        if self._writer is WriterState.STALE:
            return TailState.STALE
        if not self._caught_up or self._fed_up_to is None:
            return TailState.REPLAYING
        behind_ms = self._clock.monotonic_ms() - self._fed_up_to[1]
        return TailState.BEHIND if behind_ms > BEHIND_AFTER_MS else TailState.LIVE

    # The thread

    def _run(self) -> None:
        pause_s = _RETRY_FIRST_S
        while not self._stop.is_set():
            before = self._fed_up_to
            try:
                self._follow()
            except (HeadraceError, OSError) as error:
                self._fail(str(error))
            except Exception as error:  # noqa: BLE001 - the thread must not die unseen: it says so and tries again
                _log.error("status tail failed", error=repr(error), exc_info=error)
                self._fail(repr(error))
            pause_s = _RETRY_FIRST_S if self._fed_up_to != before else min(pause_s * 2, _RETRY_MAX_S)
            self._stop.wait(pause_s)

    def _fail(self, what: str) -> None:
        if self._failure is None:
            _log.warning("the status view cannot read the log", what=what)
        self._failure = what

    def _follow(self) -> None:
        reader = self._open_reader()
        try:
            while not self._stop.is_set():
                self.round(reader)
                reader.wait(_WAIT_S)
        finally:
            reader.close()

    def round(self, reader: LogReader) -> None:
        """Feed everything that is committed as the round begins. Public so that tests can step without a thread."""
        began = (self._clock.time_ms(), self._clock.monotonic_ms())
        self._writer = reader.writer_state()
        highs = self._discover(reader)
        moved = True
        while moved and not self._stop.is_set():
            behind = {at: high for at, high in highs.items() if self._positions[at] < high}
            self._lag_records = sum(high - self._positions[at] for at, high in behind.items())
            if not behind:
                self._round_done(began)
                return
            # Nothing moves when a reader meets the end before the high watermark: left to the next round, after a wait.
            moved = sum(self._read_slice(reader, topic, partition) for topic, partition in behind) > 0
            self._writer = reader.writer_state()

    def _round_done(self, began: tuple[int, int]) -> None:
        self._caught_up = True
        self._failure = None
        self._fed_up_to = began
        if not self._rate or began[1] - self._rate[-1][0] >= _RATE_STEP_MS:
            self._rate.append((began[1], self._view.fed_records))

    def _discover(self, reader: LogReader) -> dict[tuple[str, int], int]:
        """High watermark of every partition to follow; new ones begin at their log start."""
        topics = {
            info.name: info
            for info in list(reader.topics().values())
            if info.name == EVENTS_TOPIC or info.name not in TOPICS_WITHOUT_DEVICES
        }
        marks = {name: reader.watermarks(name) for name in topics}
        if self._snapshots is not None:
            if self._restored is None:
                self._restored = self._snapshots.load(topics, marks)
            self._snapshots.follow(topics)
        highs: dict[tuple[str, int], int] = {}
        for name, info in topics.items():
            self._begin_topic(info, [mark.start for mark in marks[name]])
            for partition, mark in enumerate(marks[name]):
                highs[name, partition] = mark.high
        if self._replay_until is None:
            self._replay_until = highs
            self._replay_from = sum(self._positions[at] for at in highs)
        return highs

    def _begin_topic(self, info: TopicInfo, starts: list[int]) -> None:
        before = self._topic_ids.get(info.name)
        if before != info.topic_id:
            self._topic_ids[info.name] = info.topic_id
            if before is not None:
                self._view.begin_anew(info.name)
            for partition, start in enumerate(starts):
                at = (info.name, partition)
                self._positions[at] = start if before is not None else (self._restored or {}).get(at, start)
        for partition, start in enumerate(starts):  # partitions may be added
            self._positions.setdefault((info.name, partition), start)
        if info.name == EVENTS_TOPIC:
            self._view.begin_events(starts, anew=before not in (None, info.topic_id))

    def _read_slice(self, reader: LogReader, topic: str, partition: int) -> bool:
        if self._stop.is_set():
            return False
        at = (topic, partition)
        piece = reader.read(topic, partition, self._positions[at], max_bytes=_SLICE_BYTES)
        self._view.feed(topic, partition, piece)
        moved = piece.next_offset > self._positions[at]
        self._positions[at] = piece.next_offset
        return moved

    # Figures

    def _replayed(self) -> float:
        until = self._replay_until
        if until is None:
            return 0.0
        total = sum(until.values()) - self._replay_from
        if total <= 0:
            return 0.0
        done = sum(min(self._positions[at], high) for at, high in until.items()) - self._replay_from
        return max(0.0, min(1.0, done / total))

    def _records_per_s(self) -> float | None:
        samples = list(self._rate)
        now_ms = self._clock.monotonic_ms()
        recent = [sample for sample in samples if sample[0] >= now_ms - _RATE_WINDOW_MS]
        if len(recent) < 2:
            return None
        (first_ms, first), (last_ms, last) = recent[0], recent[-1]
        return (last - first) * 1000 / (last_ms - first_ms)
