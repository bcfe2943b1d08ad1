"""The runner: hands closed windows to a sink, in order per topic, and records what is done.

Everything that blocks - reading the log, building files - happens on one thread; the event loop only waits for it and
talks to the log. Topics take turns, a few windows each. A topic that fails waits alone, with growing pauses, while
the others go on; nothing is skipped. Errors steer as `sink.base` says. After the topics, one replay of a quarantine
file that somebody asked for has its turn.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Final, ParamSpec, TypeVar

import structlog

from commitlog.base import ClosedWindow, Log, LogReader, TopicInfo
from commitlog.committed import Committed, committed_from_row, committed_table
from commitlog.ledger import LEDGER_TABLE, Ledger, LedgerState, without
from core.clock import Clock
from core.errors import HeadraceError
from core.tasks import background, log_unexpected
from sink.attempts import Attempts, Pauses, trouble_of
from sink.base import (
    CancelFlag,
    Export,
    ExportCancelledError,
    ExportWindow,
    Missing,
    NotConnectedError,
    Replayer,
    Sink,
    joined,
)
from sink.holding import Holding
from sink.metrics import SinkMetrics
from sink.progress import EXPORTS_TABLE, after, checkpoint, ledger_entry, restored, unseen
from sink.replaying import Threaded, carry_out, due_first
from sink.requests import REQUESTS_TABLE, flush_done, flushes, replays
from sink.standing import (
    REPLAYS_TOLD,
    ReplayStanding,
    Standing,
    TopicStanding,
    Waiting,
    Work,
    state_of,
    tried,
    waiting_of,
    work_on,
)

_log: Final = structlog.get_logger("headrace.sink")
_P = ParamSpec("_P")
_T = TypeVar("_T")

_TOLD: Final[Collection[LedgerState]] = ("lost", "left_out", "dropped")  # offsets that need no other explanation
WINDOWS_PER_TURN: Final = 8  # of one topic before the next topic's turn


@dataclass(slots=True, kw_only=True)
class _Turn(Attempts):
    """Where one topic stands, and whether it has to wait.

    `recorded`: the tables say where. `ahead` is what the sink has of it beyond that, None as long as nobody asked.
    """

    topic: str = ""
    committed: Committed = field(default_factory=Committed)
    waiting: Waiting | None = None
    recorded: bool = False
    ahead: Sequence[ExportWindow] | None = None


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
        self._replayer = replayer
        self._replay_turns: dict[str, _Turn] = {}
        self._sink = sink
        self._open_reader = open_reader
        self._log = log
        self._clock = clock
        self._metrics = metrics
        self._pauses = pauses
        self._holding = holding or Holding()
        self._ledger = Ledger({})
        self._flushes: Mapping[str, int] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sink")
        self._cancel = CancelFlag()
        self._reader: LogReader | None = None
        self._sink_open = False
        self._loaded = False
        self._turns: dict[str, _Turn] = {}
        self._whole = Attempts()
        self._started = False
        self._work: Work | None = None

    def standing(self) -> Standing:
        """How the sink stands now; to be asked from the event loop."""
        topics = [
            TopicStanding(topic=turn.topic, topic_id=topic_id, waiting=turn.waiting, **tried(turn))
            for topic_id, turn in self._turns.items()
            if turn.topic
        ]
        return Standing(
            at_ms=self._clock.time_ms(),
            state=state_of(self._whole, self._work, started=self._started),
            work=self._work,
            topics=topics,
            topics_total=len(topics),
            replays=self._failing_replays(),
            **tried(self._whole),
        )

    def _failing_replays(self) -> Sequence[ReplayStanding]:
        turns = sorted(self._replay_turns.items())
        return [ReplayStanding(path=path, **tried(turn)) for path, turn in turns if turn.failures][:REPLAYS_TOLD]

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
            await self._in_thread(self._close)
            self._thread.shutdown()

    async def _relay(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._cancel.set()

    async def _in_thread(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: call(*args, **kwargs))

    def _close(self) -> None:
        if self._sink_open:
            self._sink.close()
            self._sink_open = False
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    async def _round(self, stop: asyncio.Event) -> bool:
        """One turn for every topic that is due; True if any window was exported."""
        if self._waits(self._whole):
            await self._look_at_all()
            return False
        try:
            requests = await self._log.rows(REQUESTS_TABLE)
            self._flushes = flushes(requests)
            reader = await self._ready()
            topics = await self._in_thread(reader.topics)
        except Exception as error:  # noqa: BLE001 - whatever keeps the log or the sink from opening, it is tried again
            self._failed(self._whole, error, "the sink cannot start")
            return False
        self._whole.succeeded()
        self._started = True
        moved = False
        for info in topics.values():
            if stop.is_set():
                return moved
            turn = self._turns.setdefault(info.topic_id, _Turn())
            turn.topic = info.name
            if self._sink_open and not self._waits(turn):
                moved |= await self._turn(reader, info, turn)
            else:
                await self._look(reader, info, turn)
        return await self._replay_one(requests, stop) or moved

    async def _ready(self) -> LogReader:
        if not self._loaded:
            rows = await self._log.rows(committed_table(self._sink.name))
            for topic_id, row in rows.items():
                turn = self._turns.setdefault(topic_id, _Turn())
                turn.committed, turn.recorded = committed_from_row(row), True
            self._ledger = await self._whole_ledger()
            self._loaded = True
        if not self._sink_open:
            done = {topic_id: turn.committed.next_window for topic_id, turn in self._turns.items()}
            await self._in_thread(self._open_sink, done)
            for turn in self._turns.values():
                turn.ahead = None
        if self._reader is None:
            self._reader = await self._in_thread(self._open_reader)
        return self._reader

    async def _whole_ledger(self) -> Ledger:
        """The ledger, with what the rows of `exports` say of it should it be lost."""
        ledger = Ledger(await self._log.rows(LEDGER_TABLE))
        changes = list(restored(await self._log.rows(EXPORTS_TABLE), ledger))
        if changes:
            _log.warning("the ledger is mended", what="it did not have what exports list as lost", entries=len(changes))
            await self._log.append([], changes)
        return ledger

    def _open_sink(self, done: Mapping[str, int]) -> None:
        self._sink.open(done)
        self._sink_open = True

    async def _turn(self, reader: LogReader, info: TopicInfo, turn: _Turn) -> bool:
        """Export what one topic has waiting, up to its share; True if any window was exported."""
        moved = False
        try:
            await self._forget_flush(info, turn)
            if turn.ahead is None:
                known = turn.committed.next_window if turn.recorded else None
                turn.ahead = await self._in_thread(self._sink.unrecorded, info, known, reader)
            last = turn.committed.next_window - 1
            windows = await self._in_thread(reader.windows, info.name, after=last)
            self._count(windows, info, turn)
            for _ in range(WINDOWS_PER_TURN):
                window = self._due(windows, info, turn)
                if window is None:
                    break
                await self._export(reader, window, turn)
                windows = [later for later in windows if later.number > window.number]
                self._count(windows, info, turn)
                self._metrics.changed.set()
                turn.succeeded()
                moved = True
            turn.succeeded()
        except ExportCancelledError:
            _log.info("export dropped", topic=info.name, window=turn.committed.next_window, reason="stopping")
        except NotConnectedError as error:
            await self._in_thread(self._close_sink)
            self._failed(turn, error, "export failed", topic=info.name)
        except Exception as error:  # noqa: BLE001 - one topic's failure must not stop the others'; it is retried
            self._failed(turn, error, "export failed", topic=info.name)
        return moved

    def _close_sink(self) -> None:
        self._sink_open = False
        self._sink.close()

    def _due(self, windows: Sequence[ClosedWindow], info: TopicInfo, turn: _Turn) -> ExportWindow | None:
        """What of a topic is to be exported now: windows of the log, up to what the sink has already, or that."""
        flush_through = self._flushes.get(info.topic_id, -1)
        begun = self._sink.begun(info.topic_id, turn.committed.next_window)
        if turn.ahead:
            ahead = turn.ahead[0]
            windows = [window for window in windows if window.number < ahead.first_number]
            if not windows:
                return ahead
            flush_through = windows[-1].number  # what they could be held back for is out already
            begun = begun if begun is not None and begun < ahead.first_number else None
        due = self._holding.due(windows, now_ms=self._clock.time_ms(), flush_through=flush_through, begun=begun)
        return joined(due) if due else None

    def _count(self, windows: Sequence[ClosedWindow], info: TopicInfo, turn: _Turn) -> None:
        """Note what a topic has waiting, and how much of it is held back."""
        ahead_to = turn.ahead[-1].number if turn.ahead else -1
        rest = [window for window in windows if window.number > ahead_to]
        ask = self._sink_open and not turn.ahead
        begun = self._sink.begun(info.topic_id, turn.committed.next_window) if ask else None
        units = self._holding.units(
            rest,
            now_ms=self._clock.time_ms(),
            flush_through=self._flushes.get(info.topic_id, -1),
            begun=begun,
        )
        held = len(rest) - sum(len(unit) for unit in units)
        turn.waiting = waiting_of(windows, held, self._clock.time_ms())

    async def _look_at_all(self) -> None:
        """Count what waits while nothing can be exported. Where that is not to be known, none is counted."""
        topics: Mapping[str, TopicInfo] = {}
        reader = self._reader
        if self._loaded:
            with contextlib.suppress(Exception):  # what it is, the next attempt to start meets and tells
                if reader is None:
                    reader = self._reader = await self._in_thread(self._open_reader)
                topics = await self._in_thread(reader.topics)
        if reader is None or not topics:
            for turn in self._turns.values():
                turn.waiting = None
            return
        for info in topics.values():
            turn = self._turns.setdefault(info.topic_id, _Turn())
            turn.topic = info.name
            await self._look(reader, info, turn)

    async def _look(self, reader: LogReader, info: TopicInfo, turn: _Turn) -> None:
        """Count what waits of a topic that is not tried now."""
        try:
            windows = await self._in_thread(reader.windows, info.name, after=turn.committed.next_window - 1)
            self._count(windows, info, turn)
        except Exception:  # noqa: BLE001 - what it is, the topic's next attempt meets and tells
            turn.waiting = None

    async def _forget_flush(self, info: TopicInfo, turn: _Turn) -> None:
        """Withdraw a request for windows that are exported already."""
        if info.topic_id in self._flushes and self._flushes[info.topic_id] < turn.committed.next_window:
            await self._log.append([], [flush_done(info.topic_id)])

    async def _export(self, reader: LogReader, window: ExportWindow, turn: _Turn) -> None:
        skipped = await self._unseen(turn, window)
        export = Export()
        if window.span:
            self._work = work_on(window, self._clock.time_ms())
            try:
                export = await self._in_thread(
                    self._sink.write, window, reader, self._cancel, notes=turn.committed.notes
                )
            finally:
                self._work = None
        export = replace(export, lost=(*skipped, *export.lost))
        reached = after(turn.committed, window, export.notes)
        now_ms = self._clock.time_ms()
        recorded = export if window.span or skipped else None
        changes = checkpoint(self._sink.name, window, recorded, reached, self._ledger, now_ms)
        if self._flushes.get(window.topic_id, reached.next_window) < reached.next_window:
            changes.append(flush_done(window.topic_id))
        self._loaded = False  # until this is known to stand, the tables say what is exported and not this object
        await self._log.append([], changes)
        self._loaded = True
        turn.committed, turn.recorded = reached, True
        turn.ahead = [later for later in turn.ahead or () if later.number > window.number]
        self._metrics.exported(window.topic, export, now_ms)
        self._tell(window, export)
        if window.span:
            await self._in_thread(self._sink.settle, window)

    async def _unseen(self, turn: _Turn, window: ExportWindow) -> Sequence[Missing]:
        """Offsets between what is committed and the window, but for those of which the ledger knows where they are."""
        skipped = tuple(unseen(turn.committed, window))
        if not skipped:
            return ()
        rows = await self._log.rows(LEDGER_TABLE)
        return [
            replace(each, first=first, next=following)
            for each in skipped
            for first, following in without(
                rows, ledger_entry(window, "lost", each, 0), ("lost", "left_out", "dropped")
            )
        ]

    # -- replays

    async def _replay_one(self, requests: Mapping[str, Any], stop: asyncio.Event) -> bool:
        """Carry out the first replay that is due; one a round, so that windows come first. True if one was ended."""
        if self._replayer is None or not self._sink_open or stop.is_set():
            return False
        paths = due_first(replays(requests), self._replayer.replays_begun())
        turns = self._replay_turns = {path: self._replay_turns.get(path) or _Turn() for path in paths}
        due = [path for path in paths if not self._waits(turns[path])]
        path = min(due, key=lambda path: turns[path].failures, default=None)  # one that fails comes after the others
        if path is None:
            return False
        try:
            progress = {topic_id: turn.committed for topic_id, turn in self._turns.items()}
            in_thread = Threaded(self._replayer, progress, self._cancel, self._in_thread)
            asked = replays(requests).get(path, {})
            await carry_out(path, asked.get("topic", ""), in_thread, self._log, self._metrics, self._clock.time_ms())
        except ExportCancelledError:
            _log.info("replay dropped", file=path, reason="stopping")
        except NotConnectedError as error:
            await self._in_thread(self._close_sink)
            self._failed(turns[path], error, "replay failed", file=path)
        except Exception as error:  # noqa: BLE001 - one file's failure must not stop the windows; it is retried
            self._failed(turns[path], error, "replay failed", file=path)
        else:
            return True
        return False

    def _tell(self, window: ExportWindow, export: Export) -> None:
        facts: dict[str, object] = {"topic": window.topic, "window": window.number}
        facts |= {"rows": export.rows, "files": len(export.files)}
        if export.taken_over:
            facts["taken_over"] = True
        if export.quarantined:
            facts["quarantined"] = sum(export.quarantined.values())
        if export.lost:
            ranges = [(lost.partition, lost.first, lost.next, lost.reason) for lost in export.lost[:10]]
            _log.error("records lost before export", **facts, ranges=ranges, ranges_total=len(export.lost))
        else:
            _log.info("window exported", **facts)

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
        turns = (self._whole, *self._turns.values(), *self._replay_turns.values())
        waiting = [turn.due_ms for turn in turns if turn.due_ms > now_ms]
        pause_s = min([self._pauses.wait_s, *((due_ms - now_ms) / 1000 for due_ms in waiting)])
        if self._reader is None:
            await _sleep(stop, pause_s)
            return
        try:
            await self._in_thread(self._reader.wait, pause_s)
        except Exception as error:  # noqa: BLE001 - a reader that cannot wait is opened again after a pause
            self._failed(self._whole, error, "the log cannot be watched")
            await self._in_thread(self._drop_reader)
        await _sleep(stop, self._pauses.poll_s)

    def _drop_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


async def _sleep(stop: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), timeout_s)
