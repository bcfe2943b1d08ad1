"""Exporting at once: closes the open windows of a running appliance and waits until the sink has published them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from commitlog.base import Log
from commitlog.committed import Committed, committed_from_row, committed_table
from commitlog.reader import FileLogReader
from commitlog.remote import RemoteLog
from core.channel import ChannelClient
from core.errors import NotFoundError, UnavailableError
from sink.progress import EXPORTS_TABLE
from sink.requests import flush_request
from sink.standing import Tried, read_standing

POLL_S: Final = 0.1
SINK_AWAY_S: Final = 20.0
"""How old its metrics file may be: a sink writes it every 5 s, and one that was killed is back within seconds."""
_TABLE: Final = committed_table("parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedTopic:
    """What became of a topic: offsets in the window that was closed (None: nothing was new), and its export rows."""

    topic: str
    closed: int | None
    exports: Sequence[Mapping[str, Any]]

    @property
    def files(self) -> list[Mapping[str, Any]]:
        """The files of all exports: `path`, `rows`, `bytes`."""
        return [file for row in self.exports for file in row["files"]]


@dataclass(slots=True, kw_only=True)
class _Awaited:
    topic: str
    topic_id: str
    closed: int | None
    from_window: int
    through: int


async def export_now(
    data_dir: Path,
    topics: Sequence[str] = (),
    *,
    timeout_s: float,
    sink_enabled: bool = True,
    tell: Callable[[str], object] = lambda _line: None,
) -> list[ExportedTopic]:
    """Close the open windows of the topics (all, when none is named), and wait for the files of everything closed.

    `tell` hears, while it waits, why the sink does not get on. Raises UnavailableError when no appliance or no sink
    runs, or it takes longer than `timeout_s`; NotFoundError for an unknown topic.
    """
    channel = ChannelClient(data_dir / "run" / "edge.sock")
    try:
        return await _Export(data_dir, RemoteLog(channel), timeout_s, tell).run(topics, sink_enabled)
    finally:
        await channel.close()


class _Export:
    def __init__(self, data_dir: Path, log: Log, timeout_s: float, tell: Callable[[str], object]) -> None:
        self._data_dir = data_dir
        self._log = log
        self._timeout_s = timeout_s
        self._deadline_s = time.monotonic() + timeout_s
        self._tell = tell
        self._told: set[tuple[str, str]] = set()

    async def run(self, topics: Sequence[str], sink_enabled: bool) -> list[ExportedTopic]:
        committed = await self._committed()  # first of all: it says whether an appliance runs
        check_sink(self._data_dir, enabled=sink_enabled)
        awaited = [await self._close(name, topic_id, committed) for name, topic_id in await self._named(topics)]
        await self._ask(awaited, committed)
        await self._wait(awaited)
        rows = await self._log.rows(EXPORTS_TABLE)
        return [_exported(one, rows) for one in awaited]

    async def _committed(self) -> Mapping[str, Committed]:
        return {topic_id: committed_from_row(row) for topic_id, row in (await self._log.rows(_TABLE)).items()}

    async def _named(self, topics: Sequence[str]) -> list[tuple[str, str]]:
        known = await asyncio.to_thread(self._topics)
        for name in topics:
            if name not in known:
                raise NotFoundError(f"there is no topic {name!r}", mend=f"one of {', '.join(sorted(known))}")
        return [(name, known[name]) for name in (topics or sorted(known))]

    def _topics(self) -> dict[str, str]:
        with closing(FileLogReader(self._data_dir)) as reader:
            return {name: info.topic_id for name, info in reader.topics().items()}

    async def _close(self, topic: str, topic_id: str, committed: Mapping[str, Committed]) -> _Awaited:
        window = await self._log.roll(topic, "asked for on the command line")
        reached = committed.get(topic_id, Committed()).next_window
        through = await asyncio.to_thread(self._last_window, topic) if window is None else window.number
        closed = None if window is None else window.span
        return _Awaited(topic=topic, topic_id=topic_id, closed=closed, from_window=reached, through=through)

    def _last_window(self, topic: str) -> int:
        with closing(FileLogReader(self._data_dir)) as reader:
            return max((window.number for window in reader.windows(topic)), default=-1)

    async def _ask(self, awaited: Sequence[_Awaited], committed: Mapping[str, Committed]) -> None:
        """Windows are not to be held back: entered as requests, which survive both processes."""
        now_ms = time.time_ns() // 1_000_000
        open_ = [one for one in awaited if committed.get(one.topic_id, Committed()).next_window <= one.through]
        if open_:
            await self._log.append([], [flush_request(one.topic_id, one.through, now_ms) for one in open_])

    async def _wait(self, awaited: Sequence[_Awaited]) -> None:
        while True:
            committed = await self._committed()
            late = [one for one in awaited if committed.get(one.topic_id, Committed()).next_window <= one.through]
            if not late:
                return
            failing = failing_now(self._data_dir, [one.topic for one in late])
            for topic, tried in failing.items():
                self._tell_once(topic, tried)
            if time.monotonic() >= self._deadline_s:
                raise self._too_late(late, failing)
            await asyncio.sleep(POLL_S)

    def _tell_once(self, topic: str, tried: Tried) -> None:
        error = tried.last_error
        if error is not None and (topic, error.what) not in self._told:
            self._told.add((topic, error.what))
            of = f"exporting {topic}" if topic else error.event
            self._tell(f"the sink is failing ({of}, {tried.failures} times so far): {error.what}")

    def _too_late(self, late: Sequence[_Awaited], failing: Mapping[str, Tried]) -> UnavailableError:
        names = ", ".join(one.topic for one in late)
        what = f"not exported within {self._timeout_s:g} s: {names}"
        error = next((tried.last_error for tried in failing.values()), None)
        if error is not None:
            what += f". The sink is failing: {error.what}"
            return UnavailableError(what, where=error.where, mend=error.mend)
        check_sink(self._data_dir, enabled=True)
        mend = "it goes on by itself: ask again, or give it longer with --timeout"
        return UnavailableError(what, where=str(self._data_dir / "lake"), mend=mend)


def failing_now(data_dir: Path, names: Sequence[str]) -> Mapping[str, Tried]:
    """What fails now of the sink (an empty name), these topics or quarantine files; nothing where it is not there."""
    standing = read_standing(data_dir / "run")
    if standing is None or time.time() - standing.at_ms / 1000 > SINK_AWAY_S:
        return {}
    return {name: tried for name, tried in standing.failing() if name in ("", *names)}


def check_sink(data_dir: Path, *, enabled: bool) -> None:
    """Raise UnavailableError, which says what to do, where no sink runs."""
    if not enabled:
        raise UnavailableError(
            "there is no sink: exporting is switched off", where="sink.enabled", mend="set it to true and restart"
        )
    path = data_dir / "run" / "sink.prom"
    try:
        age_s = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        age_s = float("inf")
    if age_s > SINK_AWAY_S:
        since = "has not started yet" if age_s == float("inf") else f"has given no sign of life for {age_s:.0f} s"
        raise UnavailableError(
            f"the sink {since}",
            where=str(path),
            mend="the appliance's log output says why it does not start; windows are kept until it does",
        )


def _exported(one: _Awaited, rows: Mapping[str, Any]) -> ExportedTopic:
    exports = [
        row
        for key, row in sorted(rows.items())
        if key.partition("/")[0] == one.topic_id and one.from_window <= row["number"] <= one.through
    ]
    return ExportedTopic(topic=one.topic, closed=one.closed, exports=exports)
