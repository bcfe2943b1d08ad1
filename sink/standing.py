"""How the sink stands: what waits, what is under way, what went wrong last; as values and as `<data>/run/sink.json`.

The file is one JSON object, `Standing` below, replaced whole beside `sink.prom`: at each export and failure, and every
five seconds, also during an export. Times are milliseconds of the wall clock; `at_ms` says as of when the file is, and
an old one means that the process is not there. Who computes an age does so against their own clock. On a full disk
the file is written over in place, which needs no space: whoever meets a half of it reads it again.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from prometheus_client.core import GaugeMetricFamily, Metric

from commitlog.base import ClosedWindow
from sink.attempts import Attempts, Trouble
from sink.base import ExportWindow

STANDING_FILE: Final = "sink.json"
VERSION: Final = 1
TOPICS_TOLD: Final = 500  # those that matter most: with texts as below, all of control characters, 5 MB
REPLAYS_TOLD: Final = 20  # of those that fail
TEXT_CHARS: Final = 500  # of each text of an error
MAX_FILE_BYTES: Final = 8 << 20

SinkState = Literal["starting", "cannot-start", "idle", "exporting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Closed windows of a topic that are not exported, as of `counted_at_ms`.

    `oldest_end_ms` is the end of the oldest of them that is not held back on purpose; None: all are, or there is none.
    """

    windows: int
    held: int
    oldest_end_ms: int | None
    counted_at_ms: int


def waiting_of(windows: Sequence[ClosedWindow], held: int, now_ms: int) -> Waiting:
    """What waits where the last `held` of the windows are held back and the others are to be exported now."""
    oldest_ms = windows[0].end_ms if len(windows) > held else None
    return Waiting(windows=len(windows), held=held, oldest_end_ms=oldest_ms, counted_at_ms=now_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """Failures in a row (0: the last attempt went well), since when, the last error there was, and the next attempt."""

    failures: int = 0
    failing_since_ms: int | None = None
    last_error: Trouble | None = None
    next_attempt_ms: int | None = None


def tried(attempts: Attempts) -> dict[str, Any]:
    """The fields of `Tried`, texts cut to a bounded length."""
    error = attempts.last_error
    if error is not None:
        error = replace(error, what=_cut(error.what), where=_cut(error.where), mend=_cut(error.mend))
    return {
        "failures": attempts.failures,
        "failing_since_ms": attempts.failing_since_ms,
        "last_error": error,
        "next_attempt_ms": attempts.next_attempt_ms,
    }


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_CHARS else text[: TEXT_CHARS - 1] + "…"


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicStanding(Tried):
    """One topic; `waiting` is None where its windows have not been counted, or could not be."""

    topic: str
    topic_id: str
    waiting: Waiting | None = None

    def lag_ms(self, now_ms: int) -> int | None:
        """Time since the end of the oldest window that is neither exported nor held back; 0: there is none.

        None where that is not known.
        """
        if self.waiting is None:
            return None
        oldest_ms = self.waiting.oldest_end_ms
        return 0 if oldest_ms is None else max(0, now_ms - oldest_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayStanding(Tried):
    """A replay that fails, of the quarantine file at `path` (relative to the lake)."""

    path: str


def failing_replays(attempts: Mapping[str, Attempts]) -> Sequence[ReplayStanding]:
    """Of replays by their path those that fail, at most `REPLAYS_TOLD`."""
    failing = [ReplayStanding(path=path, **tried(one)) for path, one in sorted(attempts.items()) if one.failures]
    return failing[:REPLAYS_TOLD]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The windows that are being exported."""

    topic: str
    first_window: int
    window: int
    since_ms: int


def work_on(window: ExportWindow, now_ms: int) -> Work:
    """The export of `window`, begun now."""
    return Work(topic=window.topic, first_window=window.first_number, window=window.number, since_ms=now_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing(Tried):
    """The whole sink. Its own `failures` are those of its start; `topics_total` counts those that are left out, too."""

    at_ms: int
    state: SinkState
    work: Work | None = None
    topics: Sequence[TopicStanding] = ()
    topics_total: int = 0
    replays: Sequence[ReplayStanding] = ()
    version: int = VERSION

    def failing(self) -> Iterator[tuple[str, Tried]]:
        """What fails now: the sink itself under the name "", topics, replays by their path; the longest first."""
        every: list[tuple[str, Tried]] = [("", self), *((one.topic, one) for one in self.topics)]
        every += [(one.path, one) for one in self.replays]
        found = [(name, one) for name, one in every if one.failures]
        yield from sorted(found, key=lambda named: (named[0] != "", named[1].failing_since_ms or 0, named[0]))

    def lag_ms(self, now_ms: int) -> int | None:
        """The largest lag of a topic; None where the windows of one, or of all, have not been counted."""
        lags = [lag_ms for topic in self.topics if (lag_ms := topic.lag_ms(now_ms)) is not None]
        return max(lags) if lags and len(lags) == len(self.topics) else None


def state_of(whole: Attempts, work: Work | None, *, started: bool) -> SinkState:
    """What the sink is doing."""
    if whole.failures:
        return "cannot-start"
    if not started:
        return "starting"
    return "idle" if work is None else "exporting"


def gauges(topics: Iterable[TopicStanding], now_ms: int) -> Iterator[Metric]:
    """The sink's standing as metrics. A topic whose windows could not be counted has no sample of what waits."""
    waiting = _gauge("waiting_windows", "Closed windows that are not exported, those that are held back included.")
    held = _gauge("held_windows", "Small windows among them that are held back to be published with the next.")
    lag = _gauge("lag_seconds", "Time since the end of the oldest window that is neither exported nor held back.")
    failures = _gauge("consecutive_failures", "Failed attempts since the last that went well.")
    for topic in topics:
        failures.add_metric([topic.topic], topic.failures)
        if topic.waiting is not None:
            waiting.add_metric([topic.topic], topic.waiting.windows)
            held.add_metric([topic.topic], topic.waiting.held)
            lag.add_metric([topic.topic], (topic.lag_ms(now_ms) or 0) / 1000)
    return iter((waiting, held, lag, failures))


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"headrace_sink_{name}", text, labels=["topic"])


def bounded(standing: Standing) -> Standing:
    """The same with at most `TOPICS_TOLD` topics: those that fail, then those that lag, are kept."""

    def matters(topic: TopicStanding) -> tuple[int, int, str]:
        return -topic.failures, -(topic.lag_ms(standing.at_ms) or 0), topic.topic

    kept = sorted(standing.topics, key=matters)[:TOPICS_TOLD]
    return replace(standing, topics=sorted(kept, key=lambda topic: topic.topic), topics_total=len(standing.topics))


def write_standing(standing: Standing, path: Path) -> None:
    """Replace the file whole. Raises OSError, on a full disk only where not even writing over the old one works."""
    data = msgspec.json.encode(bounded(standing))
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        with path.open("r+b") as file:
            file.write(data)
            file.truncate()


def read_standing(run_dir: Path) -> Standing | None:
    """What the sink last wrote; None where it has not, or where it cannot be read (half written, another version)."""
    try:
        with (run_dir / STANDING_FILE).open("rb") as file:
            standing = msgspec.json.decode(file.read(MAX_FILE_BYTES), type=Standing)
    except (OSError, msgspec.DecodeError):  # a ValidationError is one
        return None
    return standing if standing.version == VERSION else None
