"""How the sink stands, as the API and the console tell it from the file that the sink writes."""

from __future__ import annotations

from typing import Any, Final

from api.context import Services
from api.models_exports import SinkError, SinkReplay, SinkStanding, SinkTopic, SinkWork
from api.times import duration, to_datetime
from sink.standing import Standing, TopicStanding, Tried, read_standing

SINK_SILENT_AFTER_MS: Final = 60_000  # the sink writes its files every few seconds, also while it exports
LONG_FAILING_MS: Final = 300_000  # a disk that is full or away for a moment is nobody's work


def sink_standing(services: Services) -> Standing | None:
    """What the sink last told of itself; None where exporting is switched off, or it has told nothing. Reads a file."""
    return read_standing(services.run_dir) if services.sink_expected else None


def is_stale(standing: Standing, now_ms: int) -> bool:
    """Whether that was so long ago that it may not hold any more."""
    return now_ms - standing.at_ms > SINK_SILENT_AFTER_MS


def long_failing(standing: Standing | None, now_ms: int) -> list[str]:
    """What has failed for minutes, for people: no reason not to take readings, but somebody has to look at it."""
    if standing is None or is_stale(standing, now_ms):
        return []
    return [
        failing_text(name, one, now_ms)
        for name, one in standing.failing()
        if now_ms - (one.failing_since_ms or now_ms) >= LONG_FAILING_MS
    ][:10]


def failing_text(name: str, tried: Tried, now_ms: int) -> str:
    """One failure in a sentence; `name` is a topic, a quarantine file's path, or empty for the sink itself."""
    since = duration(now_ms - (tried.failing_since_ms or now_ms))
    times = f"{tried.failures:,} times in {since}" if tried.failures > 1 else "once"
    what = tried.last_error.what if tried.last_error else "the error was not told"
    doing = f"{'replaying' if '/' in name else 'exporting'} {name}" if name else "the sink"
    return f"{doing} has failed {times}: {what}"


def sink_answer(standing: Standing, now_ms: int, topic: str | None) -> SinkStanding:
    """The answer's part on the sink, with all topics or one."""
    stale = is_stale(standing, now_ms)
    work = standing.work
    return SinkStanding(
        as_of=to_datetime(standing.at_ms),
        stale=stale,
        state=standing.state,
        work=None
        if work is None
        else SinkWork(
            topic=work.topic,
            first_window=work.first_window,
            window=work.window,
            since=to_datetime(work.since_ms),
        ),
        lag_s=None if stale else _seconds(standing.lag_ms(now_ms)),
        topics=[_topic(one, now_ms, stale=stale) for one in standing.topics if topic in (None, one.topic)],
        topics_total=standing.topics_total,
        replays=[SinkReplay(path=one.path, **_tried(one)) for one in standing.replays],
        **_tried(standing),
    )


def _topic(one: TopicStanding, now_ms: int, *, stale: bool) -> SinkTopic:
    waiting = one.waiting
    if waiting is None:
        return SinkTopic(
            topic=one.topic,
            waiting_windows=None,
            held_windows=None,
            oldest_waiting=None,
            lag_s=None,
            counted_at=None,
            **_tried(one),
        )
    return SinkTopic(
        topic=one.topic,
        waiting_windows=waiting.windows,
        held_windows=waiting.held,
        oldest_waiting=None if waiting.oldest_end_ms is None else to_datetime(waiting.oldest_end_ms),
        lag_s=None if stale else _seconds(one.lag_ms(now_ms)),
        counted_at=to_datetime(waiting.counted_at_ms),
        **_tried(one),
    )


def _seconds(time_ms: int | None) -> float | None:
    return None if time_ms is None else time_ms / 1000


def _tried(one: Tried) -> dict[str, Any]:
    error = one.last_error
    return {
        "failures": one.failures,
        "failing_since": None if one.failing_since_ms is None else to_datetime(one.failing_since_ms),
        "next_attempt": None if one.next_attempt_ms is None else to_datetime(one.next_attempt_ms),
        "last_error": None
        if error is None
        else SinkError(
            event=error.event,
            code=error.code,
            what=error.what,
            where=error.where,
            mend=error.mend,
            at=to_datetime(error.at_ms),
        ),
    }
