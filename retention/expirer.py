"""Lets windows leave the log: looks every few seconds, asks the pure policy, and does what it says, in this order.

1. enter the offsets into the ledger (`expired`, with the reason); 2. delete the segments (`commitlog.deletion`);
3. forget the rows of windows that nobody needs any more.

Killed between 1 and 2, the ledger says of offsets that they have expired which can still be read. That is harmless: the
ledger explains what is absent, nobody takes it for what may be read, and the next look decides the same again. The
other way round, offsets would be gone of which nothing says why. A row of a window that has gone does no harm either.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

from commitlog.base import Log, TableChange, TopicInfo
from commitlog.committed import Committed, committed_from_row, committed_table
from commitlog.holdings import PartitionHolding
from commitlog.ledger import LEDGER_TABLE, Ledger, LedgerEntry
from commitlog.space import DiskState
from commitlog.windows import WINDOWS_TABLE
from core.clock import Clock, ClockState
from retention.disk_watch import DiskWatch, Measure
from retention.expiry import Decision, Expiry, Held, TopicState, by_limits, for_disk, settled_before
from retention.limits import TopicLimits
from retention.settings import RetentionSettings
from retention.window_book import WindowBook

LOOK_S: Final = 5.0
KEPT_LATELY: Final = 50  # expiries that are remembered for whoever asks what has gone
_HOLDINGS_MS: Final = 60_000  # how old what is known of a topic's files may be while no window closes
_log = structlog.get_logger("headrace.retention")


class ExpiringLog(Log, Protocol):
    """What the expirer needs of the log beyond `Log`; see `commitlog.embedded` and `commitlog.old_end`."""

    def topics(self) -> Sequence[TopicInfo]:
        """Every topic."""
        ...

    def rows_now(self, table: str) -> Mapping[str, Any]:
        """The durable rows of a table, not to be changed."""
        ...

    @property
    def disk(self) -> DiskState:
        """What the last look at the disk found."""
        ...

    @property
    def holdings(self) -> Callable[[str], Any]:
        """See `OldEnd.holdings`."""
        ...

    @property
    def delete_before(self) -> Callable[[str, Mapping[int, int], str], Any]:
        """See `OldEnd.delete_before`."""
        ...

    @property
    def forget_windows(self) -> Callable[[str, int], Any]:
        """See `OldEnd.forget_windows`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """An expiry that was carried out."""

    expiry: Expiry
    at_ms: int


class Expirer:
    """See the module. Used on the event loop."""

    def __init__(
        self,
        log: ExpiringLog,
        settings: RetentionSettings,
        limits: TopicLimits,
        clock: Clock,
        *,
        sinks: Sequence[str],
        clock_state: Callable[[], ClockState],
        measure: Measure,
    ) -> None:
        """`sinks` are the names of those that are configured."""
        self.expired_windows: Counter[tuple[str, str]] = Counter()
        """By topic and reason, since the start; so are the two that follow, but that the last is by topic alone."""
        self.expired_bytes: Counter[tuple[str, str]] = Counter()
        self.unexported_offsets: Counter[str] = Counter()
        self.lately: deque[Gone] = deque(maxlen=KEPT_LATELY)
        self.held: Sequence[Held] = ()
        self.disk = DiskWatch(settings, clock, measure)
        self.topics: Sequence[TopicState] = ()
        """As of the last look, which was at `looked_ms`."""
        self.looked_ms = 0
        self._log = log
        self._settings = settings
        self._limits = limits
        self._clock = clock
        self._sinks = sinks
        self._clock_state = clock_state
        self._windows = WindowBook()
        self._holdings: dict[str, tuple[int, int, Sequence[PartitionHolding]]] = {}
        self._ledger: Ledger | None = None

    async def look(self) -> None:
        """One round: decide, and do. Raises what the log or the disk raises; the next look begins anew."""
        self.topics = await self._states()
        await self.disk.look(sum(topic.size_bytes for topic in self.topics), self._log.disk.needed_bytes)
        self.looked_ms = self._clock.time_ms()
        decision = self._decide()
        self._tell_held(decision.held)
        for expiry in decision.expiries:
            await self._expire(expiry)
        await self._forget()

    # -- looking

    async def _states(self) -> Sequence[TopicState]:
        self._windows.refresh(self._log.rows_now(WINDOWS_TABLE))
        return [await self._state(info) for info in self._log.topics()]

    async def _state(self, info: TopicInfo) -> TopicState:
        windows = self._windows.of(info.topic_id)
        newest = windows[-1].number if windows else -1
        now_ms = self._clock.monotonic_ms()
        known = self._holdings.get(info.topic_id)
        if known is None or known[0] != newest or now_ms - known[1] >= _HOLDINGS_MS:
            known = (newest, now_ms, await self._log.holdings(info.name))
            self._holdings[info.topic_id] = known
        return TopicState(
            info=info,
            windows=windows,
            partitions=known[2],
            committed={sink: self._committed(sink, info.topic_id) for sink in self._sinks},
            limits=self._limits.of(info.name),
        )

    def _committed(self, sink: str, topic_id: str) -> Committed:
        row = self._log.rows_now(committed_table(sink)).get(topic_id)
        return Committed() if row is None else committed_from_row(row)

    # -- deciding

    def _decide(self) -> Decision:
        """The disk comes first: what it takes are the oldest windows, which the limits would take, too."""
        on_disk = self._for_disk()
        if on_disk.expiries:
            return on_disk
        allow_loss = self._settings.allow_unexported_loss
        decisions = [
            by_limits(topic, now_ms=self._clock.time_ms(), clock_ok=self._clock_ok, allow_loss=allow_loss)
            for topic in self.topics
        ]
        return Decision(
            expiries=[expiry for decision in decisions for expiry in decision.expiries],
            held=_one_for_each_topic([*on_disk.held, *(held for decision in decisions for held in decision.held)]),
        )

    @property
    def _clock_ok(self) -> bool:
        return self._clock_state() is ClockState.OK

    def _for_disk(self) -> Decision:
        free_bytes = self.disk.to_free_bytes
        if not free_bytes:
            return Decision()
        decision = for_disk(self.topics, free_bytes=free_bytes, allow_loss=self._settings.allow_unexported_loss)
        self.disk.tried(found=bool(decision.expiries))
        return decision

    def _tell_held(self, held: Sequence[Held]) -> None:
        known = {(one.topic, one.sinks) for one in self.held}
        for one in held:
            if (one.topic, one.sinks) not in known:
                _log.warning(
                    "a window is due and stays: it is not exported",
                    topic=one.topic,
                    window=one.number,
                    due=one.reason.value,
                    sinks=list(one.sinks),
                    mend="see what keeps the sink; retention.allow_unexported_loss = true lets it go unexported",
                )
        self.held = held

    # -- doing

    async def _expire(self, expiry: Expiry) -> None:
        info, now_ms = expiry.info, self._clock.time_ms()
        if expiry.unexported:
            _log.error(
                "windows leave the log before they were exported: their readings are lost",
                topic=info.name,
                windows=[expiry.first_number, expiry.last.number],
                offsets=expiry.span,
                reason=expiry.reason.value,
                sinks=list(expiry.unexported),
                where="retention.allow_unexported_loss",
            )
        await self._enter(expiry, now_ms)
        self._holdings.pop(info.topic_id, None)
        await self._log.delete_before(info.name, expiry.before, expiry.text)
        place = info.name, expiry.reason.value
        self.expired_windows[place] += expiry.last.number - expiry.first_number + 1
        self.expired_bytes[place] += expiry.size_bytes
        if expiry.unexported:
            self.unexported_offsets[info.name] += expiry.span
        self.lately.append(Gone(expiry=expiry, at_ms=now_ms))
        _log.info(
            "windows expired",
            topic=info.name,
            windows=[expiry.first_number, expiry.last.number],
            offsets=expiry.span,
            size_bytes=expiry.size_bytes,
            reason=expiry.text,
        )

    async def _enter(self, expiry: Expiry, now_ms: int) -> None:
        ledger = self._ledger or Ledger(self._log.rows_now(LEDGER_TABLE))
        self._ledger = None  # until the commit is there: it may know of entries that are not
        changes = [ledger.enter(entry) for entry in _entries(expiry, now_ms)]
        await self._commit(change for change in changes if change is not None)
        self._ledger = ledger

    async def _commit(self, changes: Iterable[TableChange]) -> None:
        if wanted := list(changes):
            await self._log.append([], wanted)

    async def _forget(self) -> None:
        for topic in self.topics:
            before = settled_before(topic, now_ms=self._clock.time_ms(), clock_ok=self._clock_ok)
            if topic.windows and before > topic.windows[0].number:
                await self._log.forget_windows(topic.info.name, before)


def _entries(expiry: Expiry, now_ms: int) -> Iterable[LedgerEntry]:
    for partition, (first, following) in sorted(expiry.ranges.items()):
        yield LedgerEntry(
            topic=expiry.info.name,
            topic_id=expiry.info.topic_id,
            partition=partition,
            first=first,
            next=following,
            state="expired",
            reason=expiry.text,
            at_ms=now_ms,
        )


def _one_for_each_topic(held: Sequence[Held]) -> Sequence[Held]:
    """The first of each topic: the disk's before its own limits'."""
    return list({one.topic: one for one in reversed(held)}.values())[::-1]
