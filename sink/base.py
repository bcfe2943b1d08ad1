"""The connector seam: what a sink is to the runner, and what the two owe each other.

The runner hands a sink the closed windows of each topic in number order, one at a time or a few small ones joined, on
one thread that is the sink's own. A sink makes their rows visible to its readers exactly once although `write` may be
called for the same ones any number of times: the process may die between any two steps. After `write` has returned, the
runner records the progress durably in the log (the checkpoint) and only then calls `settle`. So a sink

1. makes everything ready before any of it can be seen, keeps a plan of it, and repeats the plan when called again,
2. recognises what it has already published and leaves it as it is,
3. forgets the decision in `settle`, or in the next `open`, when the checkpoint shows that the window is done.

Errors steer the runner. `NotConnectedError`: close, open, try again. `BackOffError`: try again after the time it
says (or the runner's longest pause, if that is shorter). `RecordsFailedError`: these records will not go through as
things stand; the runner goes on trying at its longest pause, tells loudly, and never skips them. Anything else is
retried with growing pauses. One topic's failure does not hold up another's.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from commitlog.base import ClosedWindow, LogReader, TopicInfo
from commitlog.committed import Committed
from commitlog.gaps import LEFT_OUT
from core.errors import HeadraceError


class SinkError(HeadraceError):
    """A sink could not do its work."""

    code = "sink"


class NotConnectedError(SinkError):
    """What the sink writes to is not there; it has to be opened again."""

    code = "sink.not-connected"


class BackOffError(SinkError):
    """Not now: try again after `retry_after_s` seconds."""

    code = "sink.back-off"

    def __init__(self, what: str, *, retry_after_s: float, where: str = "", mend: str = "") -> None:
        super().__init__(what, where=where, mend=mend)
        self.retry_after_s = retry_after_s


class RecordsFailedError(SinkError):
    """These records cannot be exported until something is mended; repeating alone will not help."""

    code = "sink.records-failed"


class ReplayRefusedError(SinkError):
    """A replay that cannot be carried out as it was asked for; trying again will not help."""

    code = "sink.replay-refused"


class ExportCancelledError(Exception):
    """The appliance is stopping; the window stays unexported and is taken up again at the next start."""


class CancelFlag:
    """Set from the event loop, checked by the sink's thread between batches."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Ask the sink to stop at its next check."""
        self._event.set()

    def check(self) -> None:
        """Raise ExportCancelledError once the flag is set."""
        if self._event.is_set():
            raise ExportCancelledError


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Offsets of a window (first <= offset < next) that are in no file, and why the log has nothing there."""

    partition: int
    first: int
    next: int
    reason: str

    @property
    def lost(self) -> bool:
        """Whether records may have been there: no record ever had offsets that recovery left out."""
        return self.reason != LEFT_OUT


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportWindow:
    """What is exported at once: a closed window, or consecutive small ones joined. See `ClosedWindow`.

    `number` is the last window's, `first_number` the first one's.
    """

    topic: str
    topic_id: str
    first_number: int
    number: int
    start_ms: int
    end_ms: int
    offsets: Mapping[int, tuple[int, int]]

    @property
    def span(self) -> int:
        """Offsets in it."""
        return sum(following - first for first, following in self.offsets.values())

    @property
    def offsets_by_name(self) -> dict[str, tuple[int, int]]:
        """The offset vector with its partitions as text, in order, as JSON has it."""
        return {str(partition): self.offsets[partition] for partition in sorted(self.offsets)}


def joined(windows: Sequence[ClosedWindow]) -> ExportWindow:
    """Consecutive windows of one topic as one."""
    first, last = windows[0], windows[-1]
    offsets: dict[int, tuple[int, int]] = {}
    for window in windows:
        for partition, (start, following) in window.offsets.items():
            offsets[partition] = (offsets.get(partition, (start, 0))[0], following)
    return ExportWindow(
        topic=last.topic,
        topic_id=last.topic_id,
        first_number=first.number,
        number=last.number,
        start_ms=first.start_ms,
        end_ms=last.end_ms,
        offsets=offsets,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedFile:
    """A published file: its path relative to the lake, kind, rows, size, checksum, and the date of its folder."""

    path: str
    kind: str
    rows: int
    size_bytes: int
    crc32c: str
    date: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What became of a window.

    `records` counts the records read, `rows` the decoded rows, `quarantined` the records kept raw, by reason;
    `clashes` the values that went to a side column, by column. `lost` are offsets whose records the log no longer has,
    `left_out` those that never belonged to a record. `notes` are handed to the next `write` of the topic (None: those
    before them still are). `taken_over`: it stood there, and was not recorded.
    """

    files: Sequence[ExportedFile] = ()
    records: int = 0
    rows: int = 0
    quarantined: Mapping[str, int] = field(default_factory=dict)
    lost: Sequence[Missing] = ()
    left_out: Sequence[Missing] = ()
    clashes: Mapping[str, int] = field(default_factory=dict)
    taken_over: bool = False
    notes: Sequence[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What became of a quarantine file that was read again.

    `path` is the file, `number` the last window of its unit. `before` counts its rows by reason, `quarantined` those
    that are still refused, `rows` the decoded ones. Without any of these the file stays as it is, and `files` are none.
    """

    path: str
    topic: str
    topic_id: str
    number: int
    files: Sequence[ExportedFile] = ()
    rows: int = 0
    before: Mapping[str, int] = field(default_factory=dict)
    quarantined: Mapping[str, int] = field(default_factory=dict)
    clashes: Mapping[str, int] = field(default_factory=dict)


class Replayer(Protocol):
    """A sink that can read again what it put into quarantine. Called from the sink's thread, while it is open."""

    def replays_begun(self) -> Sequence[str]:
        """The files whose replay has been begun and not settled, by an earlier process or this one."""
        ...

    def replay(self, path: str, progress: Mapping[str, Committed], cancel: CancelFlag) -> Replay:
        """Publish what a quarantine file's records have become, beside it. May be called any number of times.

        `progress` maps topic id -> how far the topic is exported. Raises ReplayRefusedError, and what `Sink.write`
        raises.
        """
        ...

    def settle_replay(self, path: str) -> None:
        """The replay is recorded: take the file away from where readers look, and drop what was kept for a retry."""
        ...


class Sink(Protocol):
    """Where closed windows go. Called from one thread, never from two at once."""

    @property
    def name(self) -> str:
        """Stable name; the table `sink.<name>` holds the progress."""
        ...

    def open(self, progress: Mapping[str, int]) -> None:
        """Make ready, and clear away what an earlier process left. Called again after NotConnectedError.

        `progress` maps topic id -> number of the first window that is not exported yet.
        """
        ...

    def unrecorded(self, info: TopicInfo, next_window: int | None, reader: LogReader) -> Sequence[ExportWindow]:
        """What readers of the sink see of a topic already, or will by a plan, and is not recorded; in order.

        Asked before a topic's first export since `open`. `next_window` is the first window that is not recorded, None
        where nothing is: the checkpoint may be lost. The runner hands each to `write` in its turn, exactly as it is
        here, also where the log no longer knows its windows.
        """
        ...

    def begun(self, topic_id: str, next_window: int) -> int | None:
        """The number of the last window of an export that has been begun and not recorded, if there is one.

        `next_window` is the first window that is not recorded. The runner then hands exactly the windows up to the
        one that this names to `write`.
        """
        ...

    def write(
        self, window: ExportWindow, reader: LogReader, cancel: CancelFlag, *, notes: Sequence[str] = ()
    ) -> Export:
        """Publish the rows of windows that have at least one offset. `notes` are those of the topic's last export.

        Raises the errors above, or ExportCancelledError when `cancel` was set; then nothing half-written is visible.
        """
        ...

    def settle(self, window: ExportWindow) -> None:
        """The window's checkpoint is durable: drop what was kept for a retry."""
        ...

    def close(self) -> None:
        """Let go of everything. The sink may be opened again."""
        ...
