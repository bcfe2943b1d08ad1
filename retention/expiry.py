"""What leaves the log: pure decisions, values in, decisions with their reasons out. No clock, no I/O.

A topic's windows are the unit. They go from the oldest on, whole, and never the newest closed one:

    due       older than the topic's max_age (by the window's end, and only while the clock can be trusted), or the
              topic takes more than its max_bytes, or the disk is over its high mark (`DISK`)
    exported  every configured sink has committed offsets beyond it; one that is due and not exported stays, with all
              that follow it, unless the loss was asked for
    settled   nothing more of it can go: its row in the `windows` table may be forgotten, once every sink is past it

Segments go with the window that holds their last record, so a segment that reaches into a later window stays until that
one goes; the newest segment of a partition always stays (`commitlog.deletion` says why), though its window has expired.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Final

from commitlog.base import ClosedWindow, TopicInfo
from commitlog.committed import Committed
from commitlog.holdings import PartitionHolding
from retention.limits import Limits

MAX_WINDOWS: Final = 16
"""Windows that one decision lets go, of all topics: their deletion takes a moment of the disk that ingest needs."""


class Reason(Enum):
    """Why a window leaves the log; the values stand in the ledger, in metrics and in answers."""

    AGE = "older than max_age"
    BYTES = "topic over max_bytes"
    DISK = "disk over the high mark"


_Kind = tuple[Reason, tuple[str, ...]]
"""A reason, and the sinks that have not exported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicState:
    """What there is of a topic: its closed windows in order, its partitions, how far each configured sink has come."""

    info: TopicInfo
    windows: Sequence[ClosedWindow]
    partitions: Sequence[PartitionHolding]
    committed: Mapping[str, Committed]
    limits: Limits

    @property
    def size_bytes(self) -> int:
        """What it takes in the log."""
        return sum(partition.size_bytes for partition in self.partitions)

    def behind(self, window: ClosedWindow) -> tuple[str, ...]:
        """The sinks that have not exported a window."""
        return tuple(name for name, committed in sorted(self.committed.items()) if not _is_past(committed, window))

    def leaving_bytes(self, window: ClosedWindow) -> int:
        """What is deleted with a window and all before it."""
        return sum(
            segment.size_bytes
            for partition in self.partitions
            for segment in partition.leaving(_end(window, partition.partition))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiry:
    """Windows of a topic, from the first of which something is there up to and including `last`, that leave the log.

    `ranges`: the offsets that go, (first, next) by partition; nothing beside them does. `unexported`: sinks that still
    wanted them, and will report them as lost.
    """

    info: TopicInfo
    first_number: int
    last: ClosedWindow
    ranges: Mapping[int, tuple[int, int]]
    size_bytes: int
    reason: Reason
    unexported: tuple[str, ...] = ()

    @property
    def before(self) -> Mapping[int, int]:
        """Up to where segments are deleted, by partition."""
        return {partition: following for partition, (_, following) in self.ranges.items()}

    @property
    def span(self) -> int:
        """Offsets that go."""
        return sum(following - first for first, following in self.ranges.values())

    @property
    def text(self) -> str:
        """The reason, as the ledger has it."""
        return f"{self.reason.value}, not exported" if self.unexported else self.reason.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A window that is due and has to stay, with all that follow it: these sinks have not exported it."""

    topic: str
    number: int
    reason: Reason
    sinks: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What becomes of one topic, or with `for_disk` of all: what goes, and what is due and may not."""

    expiries: Sequence[Expiry] = ()
    held: Sequence[Held] = ()


def by_limits(topic: TopicState, *, now_ms: int, clock_ok: bool, allow_loss: bool) -> Decision:
    """What a topic's own limits ask for. Windows go with others of the same reason; the next look takes the rest."""
    last: ClosedWindow | None = None
    kind: _Kind | None = None
    size_bytes = left_bytes = topic.size_bytes
    for window, leaving_bytes in islice(_steps(topic), MAX_WINDOWS):
        reason = _due(topic.limits, window, now_ms=now_ms, clock_ok=clock_ok, left_bytes=left_bytes)
        if reason is None:
            break
        behind = topic.behind(window)
        if behind and not allow_loss:
            held = Held(topic=topic.info.name, number=window.number, reason=reason, sinks=behind)
            return Decision(expiries=_expiries(topic, last, kind), held=(held,))
        if kind is not None and kind != (reason, behind):
            break
        last, kind = window, (reason, behind)
        left_bytes = size_bytes - leaving_bytes
    return Decision(expiries=_expiries(topic, last, kind))


def for_disk(topics: Sequence[TopicState], *, free_bytes: int, allow_loss: bool) -> Decision:
    """The oldest windows of whichever topics, until so many bytes are free; exported ones before all others."""
    chosen: Mapping[str, ClosedWindow] = {}
    for unexported in (False, True) if allow_loss else (False,):
        chosen = chosen or _oldest_of_all(topics, free_bytes, unexported=unexported)
    expiries: list[Expiry] = []
    for topic in topics:
        last = chosen.get(topic.info.topic_id)
        if last is not None:
            expiries += _expiries(topic, last, (Reason.DISK, topic.behind(last)))
    if expiries:
        return Decision(expiries=expiries)
    return Decision(held=tuple(held for topic in topics for held in _held_for_disk(topic)))


def _oldest_of_all(topics: Sequence[TopicState], free_bytes: int, *, unexported: bool) -> Mapping[str, ClosedWindow]:
    """The last window of each topic that has to go, by topic id."""
    chosen: dict[str, ClosedWindow] = {}
    leaving: dict[str, int] = {}
    merged = heapq.merge(
        *([(window, size, topic) for window, size in _goable(topic, unexported)] for topic in topics),
        key=lambda step: (step[0].end_ms, step[0].topic_id),
    )
    for window, leaving_bytes, topic in islice(merged, MAX_WINDOWS):
        if sum(leaving.values()) >= free_bytes:
            break
        chosen[topic.info.topic_id], leaving[topic.info.topic_id] = window, leaving_bytes
    return chosen


def _goable(topic: TopicState, unexported: bool) -> Iterator[tuple[ClosedWindow, int]]:
    for window, leaving_bytes in islice(_steps(topic), MAX_WINDOWS):
        if topic.behind(window) and not unexported:
            return
        yield window, leaving_bytes


def settled_before(topic: TopicState, *, now_ms: int, clock_ok: bool) -> int:
    """The number of the first window whose row has to stay.

    Those before it are past every sink, and gone from the log or due with nothing left that could go.
    """
    left_bytes = topic.size_bytes
    for window in topic.windows[:-1]:
        gone = all(p.log_start >= _end(window, p.partition) for p in topic.partitions)
        due = _due(topic.limits, window, now_ms=now_ms, clock_ok=clock_ok, left_bytes=left_bytes)
        if topic.behind(window) or topic.leaving_bytes(window) or not (gone or due):
            return window.number
    return topic.windows[-1].number if topic.windows else 0


def _steps(topic: TopicState) -> Iterator[tuple[ClosedWindow, int]]:
    """The windows with which something goes, oldest first, each with what goes with it and all before it.

    All but the newest. What has gone, or cannot because it is in newest segments, makes no step: it would stand in the
    way of the windows behind it.
    """
    taken = [0] * len(topic.partitions)
    leaving_bytes = 0
    for window in topic.windows[:-1]:
        before_bytes = leaving_bytes
        for index, partition in enumerate(topic.partitions):
            end = _end(window, partition.partition)
            closed = partition.segments[:-1]
            while taken[index] < len(closed) and closed[taken[index]].next_offset <= end:
                leaving_bytes += closed[taken[index]].size_bytes
                taken[index] += 1
        if leaving_bytes > before_bytes:
            yield window, leaving_bytes


def _end(window: ClosedWindow, partition: int) -> int:
    return window.offsets.get(partition, (0, 0))[1]


def _is_past(committed: Committed, window: ClosedWindow) -> bool:
    return committed.next_window > window.number and all(
        committed.offset(partition) >= following for partition, (_, following) in window.offsets.items()
    )


def _due(limits: Limits, window: ClosedWindow, *, now_ms: int, clock_ok: bool, left_bytes: int) -> Reason | None:
    if limits.max_age_ms and clock_ok and now_ms - window.end_ms > limits.max_age_ms:
        return Reason.AGE
    if limits.max_bytes and left_bytes > limits.max_bytes:
        return Reason.BYTES
    return None


def _expiries(topic: TopicState, last: ClosedWindow | None, kind: _Kind | None) -> Sequence[Expiry]:
    """One expiry, or none where no segment would go."""
    if last is None or kind is None:
        return ()
    leaving = {p.partition: p.leaving(_end(last, p.partition)) for p in topic.partitions}
    starts = {p.partition: p.log_start for p in topic.partitions}
    ranges = {
        partition: (starts[partition], segments[-1].next_offset) for partition, segments in leaving.items() if segments
    }
    if not ranges:
        return ()
    reason, unexported = kind
    return (
        Expiry(
            info=topic.info,
            first_number=next(window.number for window, _ in _steps(topic)),
            last=last,
            ranges=ranges,
            size_bytes=topic.leaving_bytes(last),
            reason=reason,
            unexported=unexported,
        ),
    )


def _held_for_disk(topic: TopicState) -> Iterator[Held]:
    """The oldest window that only its sinks keep."""
    for window, _ in islice(_steps(topic), 1):
        if behind := topic.behind(window):
            yield Held(topic=topic.info.name, number=window.number, reason=Reason.DISK, sinks=behind)
