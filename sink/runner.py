"""The runner: hands closed windows to a sink, in order per topic, and records what is done.

Everything that blocks - reading the log, building files - happens on one thread; the event loop only waits for it and
talks to the log. Topics take turns, a few windows each. A topic that fails waits alone, with growing pauses, while
the others go on; nothing is skipped. Errors steer as `sink.base` says. After the topics, one replay of a quarantine
file that somebody asked for has its turn.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import structlog

from commitlog.base import Log, LogReader, TopicInfo
from core.clock import Clock
from core.errors import HeadraceError
from core.tasks import background, log_unexpected
from sink.attempts import Attempts, Pauses, trouble_of
from sink.base import CancelFlag, Export, ExportCancelledError, ExportWindow, NotConnectedError, Replayer, Sink
from sink.checkpoints import Checkpoints
from sink.holding import Holding
from sink.metrics import SinkMetrics
from sink.replaying import Threaded, carry_out, due_first
from sink.requests import REQUESTS_TABLE, flush_done, flushes, replays
from sink.sink_thread import SinkThread
from sink.standing import Standing, Work, failing_replays, state_of, tried, work_on
from sink.turns import Turn, Turns

_log: Final = structlog.get_logger("headrace.sink")
WINDOWS_PER_TURN: Final = 8  # of one topic before the next topic's turn


class Runner:
    """Runs one sink over all topics until told to stop."""

    def __init__(
        self,
        sink: Sink,
        *,
        open_reader: Callable[[], LogReader],
        log: Log,
        clock: Clock,
        metrics: SinkMetrics,
        pauses: Pauses,
        holding: Holding | None = None,
        replayer: Replayer | None = None,
    ) -> None:
        """`replayer`: the sink again, if it can read its quarantine again."""
        self._sink = sink
        self._replayer = replayer
        self._log = log
        self._clock = clock
        self._metrics = metrics
        self._pauses = pauses
        self._thread = SinkThread(sink, open_reader)
        self._checkpoints = Checkpoints(sink.name, log=log, clock=clock, metrics=metrics)
        self._turns = Turns(holding or Holding(), clock)
        self._replay_turns: dict[str, Attempts] = {}
        self._whole = Attempts()
        self._cancel = CancelFlag()
        self._started = False
        self._work: Work | None = None

    def standing(self) -> Standing:
        """How the sink stands now; to be asked from the event loop."""
        topics = self._turns.standing()
        return Standing(
            at_ms=self._clock.time_ms(),
            state=state_of(self._whole, self._work, started=self._started),
            work=self._work,
            topics=topics,
            topics_total=len(topics),
            replays=failing_replays(self._replay_turns),
            **tried(self._whole),
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Export until `stop` is set; the window under way is then dropped cleanly and taken up at the next start."""
        tasks: set[asyncio.Task[None]] = set()
        relay = background(self._relay(stop), "sink-stop", tasks)
        try:
            while not stop.is_set():
                if not await self._round(stop):
                    await self._idle(stop)
        finally:
            relay.cancel()
            await self._thread.end()

    async def _relay(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._cancel.set()

    async def _round(self, stop: asyncio.Event) -> bool:
        """One turn for every topic that is due; True if any window was exported."""
        if self._waits(self._whole):
            await self._look_at_all()
            return False
        try:
            requests = await self._log.rows(REQUESTS_TABLE)
            self._turns.flushes = flushes(requests)
            reader = await self._ready()
            topics = await self._thread.call(reader.topics)
        except Exception as error:  # noqa: BLE001 - whatever keeps the log or the sink from opening, it is tried again
            self._failed(self._whole, error, "the sink cannot start")
            return False
        self._whole.succeeded()
        self._started = True
        moved = False
        for info in topics.values():
            if stop.is_set():
                return moved
            turn = self._turns.of(info)
            if self._thread.sink_open and not self._waits(turn):
                moved |= await self._turn(reader, info, turn)
            else:
                await self._look(reader, info, turn)
        return await self._replay_one(requests, stop) or moved

    async def _ready(self) -> LogReader:
        await self._checkpoints.load(self._turns)
        if not self._thread.sink_open:
            progress = self._turns.progress
            await self._thread.open_sink({topic_id: reached.next_window for topic_id, reached in progress.items()})
            for turn in self._turns:
                turn.ahead = None
        return await self._thread.open_reader()

    # -- windows

    async def _turn(self, reader: LogReader, info: TopicInfo, turn: Turn) -> bool:
        """Export what one topic has waiting, up to its share; True if any window was exported."""
        moved = False
        try:
            async for _ in self._exports(reader, info, turn):
                turn.succeeded()
                moved = True
            turn.succeeded()
        except ExportCancelledError:
            _log.info("export dropped", topic=info.name, window=turn.committed.next_window, reason="stopping")
        except NotConnectedError as error:
            await self._thread.close_sink()
            self._failed(turn, error, "export failed", topic=info.name)
        except Exception as error:  # noqa: BLE001 - one topic's failure must not stop the others'; it is retried
            self._failed(turn, error, "export failed", topic=info.name)
        return moved

    async def _exports(self, reader: LogReader, info: TopicInfo, turn: Turn) -> AsyncIterator[ExportWindow]:
        """The windows of one turn, each when it is exported."""
        await self._forget_flush(info, turn)
        if turn.ahead is None:
            known = turn.committed.next_window if turn.recorded else None
            turn.ahead = await self._thread.call(self._sink.unrecorded, info, known, reader)
        windows = await self._thread.call(reader.windows, info.name, after=turn.committed.next_window - 1)
        begun = await self._begun(info, turn)
        self._turns.count(windows, info.topic_id, begun)
        for _ in range(WINDOWS_PER_TURN):
            window = self._turns.due(windows, info.topic_id, begun)
            if window is None:
                break
            await self._export(reader, window, turn)
            windows = [later for later in windows if later.number > window.number]
            begun = await self._begun(info, turn)
            self._turns.count(windows, info.topic_id, begun)
            self._metrics.changed.set()
            yield window

    async def _begun(self, info: TopicInfo, turn: Turn) -> int | None:
        """See `Sink.begun`; a sink that is closed is not asked."""
        if not self._thread.sink_open:
            return None
        return await self._thread.call(self._sink.begun, info.topic_id, turn.committed.next_window)

    async def _export(self, reader: LogReader, window: ExportWindow, turn: Turn) -> None:
        skipped = await self._checkpoints.unseen(turn, window)
        export = await self._written(reader, window, turn) if window.span else Export()
        export = replace(export, lost=(*skipped, *export.lost))
        await self._checkpoints.record(turn, window, export, self._turns.flushes.get(window.topic_id))
        if window.span:
            await self._thread.call(self._sink.settle, window)

    async def _written(self, reader: LogReader, window: ExportWindow, turn: Turn) -> Export:
        self._work = work_on(window, self._clock.time_ms())
        try:
            return await self._thread.call(self._sink.write, window, reader, self._cancel, notes=turn.committed.notes)
        finally:
            self._work = None

    async def _forget_flush(self, info: TopicInfo, turn: Turn) -> None:
        """Withdraw a request for windows that are exported already."""
        if self._turns.flushes.get(info.topic_id, turn.committed.next_window) < turn.committed.next_window:
            await self._log.append([], [flush_done(info.topic_id)])

    # -- what waits

    async def _look_at_all(self) -> None:
        """Count what waits while nothing can be exported. Where that is not to be known, none is counted."""
        reader: LogReader | None = None
        topics: Mapping[str, TopicInfo] = {}
        if self._checkpoints.loaded:
            with contextlib.suppress(Exception):  # what it is, the next attempt to start meets and tells
                reader = await self._thread.open_reader()
                topics = await self._thread.call(reader.topics)
        if reader is None or not topics:
            for turn in self._turns:
                turn.waiting = None
            return
        for info in topics.values():
            await self._look(reader, info, self._turns.of(info))

    async def _look(self, reader: LogReader, info: TopicInfo, turn: Turn) -> None:
        """Count what waits of a topic that is not tried now."""
        try:
            windows = await self._thread.call(reader.windows, info.name, after=turn.committed.next_window - 1)
            self._turns.count(windows, info.topic_id, await self._begun(info, turn))
        except Exception:  # noqa: BLE001 - what it is, the topic's next attempt meets and tells
            turn.waiting = None

    # -- replays

    async def _replay_one(self, requests: Mapping[str, Any], stop: asyncio.Event) -> bool:
        """Carry out the first replay that is due; one a round, so that windows come first. True if one was ended."""
        if self._replayer is None or not self._thread.sink_open or stop.is_set():
            return False
        asked = replays(requests)
        path = self._replay_due(due_first(asked, await self._thread.call(self._replayer.replays_begun)))
        if path is None:
            return False
        try:
            in_thread = Threaded(self._replayer, self._turns.progress, self._cancel, self._thread.call)
            topic = asked.get(path, {}).get("topic", "")
            await carry_out(path, topic, in_thread, self._log, self._metrics, self._clock.time_ms())
        except ExportCancelledError:
            _log.info("replay dropped", file=path, reason="stopping")
        except NotConnectedError as error:
            await self._thread.close_sink()
            self._failed(self._replay_turns[path], error, "replay failed", file=path)
        except Exception as error:  # noqa: BLE001 - one file's failure must not stop the windows; it is retried
            self._failed(self._replay_turns[path], error, "replay failed", file=path)
        else:
            return True
        return False

    def _replay_due(self, paths: Sequence[str]) -> str | None:
        """Which of the replays is tried now, if any; one that fails comes after the others."""
        turns = self._replay_turns = {path: self._replay_turns.get(path) or Attempts() for path in paths}
        due = [path for path in paths if not self._waits(turns[path])]
        return min(due, key=lambda path: turns[path].failures, default=None)

    # -- failures and pauses

    def _waits(self, turn: Attempts) -> bool:
        return turn.due_ms > self._clock.monotonic_ms()

    def _failed(self, turn: Attempts, error: Exception, event: str, **facts: object) -> None:
        trouble = trouble_of(error, event, self._clock.time_ms())
        pause_s = self._pauses.after(error, turn.failures + 1)
        turn.failed(trouble, pause_s, self._clock)
        facts = {**facts, "failures": turn.failures, "retry_in_s": pause_s}
        if isinstance(error, HeadraceError | OSError):
            _log.warning(event, what=trouble.what, where=trouble.where, mend=trouble.mend, **facts)
        else:
            log_unexpected(event, error, **facts)
        self._metrics.failed(trouble.code)

    async def _idle(self, stop: asyncio.Event) -> None:
        """Wait for news of the log, for a topic's next attempt, or for the stop, whichever comes first."""
        now_ms = self._clock.monotonic_ms()
        turns = (self._whole, *self._turns, *self._replay_turns.values())
        waiting = [turn.due_ms for turn in turns if turn.due_ms > now_ms]
        pause_s = min([self._pauses.wait_s, *((due_ms - now_ms) / 1000 for due_ms in waiting)])
        if self._thread.reader is None:
            await _sleep(stop, pause_s)
            return
        try:
            await self._thread.call(self._thread.reader.wait, pause_s)
        except Exception as error:  # noqa: BLE001 - a reader that cannot wait is opened again after a pause
            self._failed(self._whole, error, "the log cannot be watched")
            await self._thread.close_reader()
        await _sleep(stop, self._pauses.poll_s)


async def _sleep(stop: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), timeout_s)
