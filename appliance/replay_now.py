"""Replays that a person asked for: entered as requests, which survive both processes, and waited for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from appliance.export_now import POLL_S, check_sink, failing_now
from commitlog.base import Log
from commitlog.remote import RemoteLog
from core.channel import ChannelClient
from core.errors import UnavailableError
from sink.parquet.lake import LakeFile
from sink.replaying import REPLAYED_TABLE
from sink.requests import REQUESTS_TABLE, replay_request, replays

AT_ONCE: Final = 1_000  # requests entered in one commit


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one file: `done`, `unchanged` or `refused`; see `sink.replaying`."""

    path: str
    outcome: str
    rows: int
    quarantined: Mapping[str, int]
    files: Sequence[str]
    what: str
    mend: str


async def replay_now(
    data_dir: Path,
    files: Sequence[LakeFile],
    *,
    timeout_s: float,
    sink_enabled: bool = True,
    tell: Callable[[str], object] = lambda _line: None,
) -> list[Outcome]:
    """Have the running appliance replay these files, and wait for the outcomes, in the files' order.

    `tell` hears, while it waits, why the sink does not get on. Raises UnavailableError when no appliance or no sink
    runs, or it takes longer than `timeout_s`; what is not done by then is done later.
    """
    channel = ChannelClient(data_dir / "run" / "edge.sock")
    log = RemoteLog(channel)
    try:
        await log.rows(REQUESTS_TABLE)  # first of all: it says whether an appliance runs
        check_sink(data_dir, enabled=sink_enabled)
        now_ms = time.time_ns() // 1_000_000
        changes = [replay_request(file.path, file.topic, file.topic_id, now_ms) for file in files]
        for start in range(0, len(changes), AT_ONCE):
            await log.append([], changes[start : start + AT_ONCE])
        await _wait(data_dir, log, [file.path for file in files], timeout_s, tell)
        replayed = await log.rows(REPLAYED_TABLE)
    finally:
        await channel.close()
    return [_outcome(file.path, replayed.get(file.path, {})) for file in files]


async def _wait(
    data_dir: Path, log: Log, paths: Sequence[str], timeout_s: float, tell: Callable[[str], object]
) -> None:
    deadline_s = time.monotonic() + timeout_s
    told: set[str] = set()
    while left := sorted(replays(await log.rows(REQUESTS_TABLE)).keys() & set(paths)):
        tried = next(iter(failing_now(data_dir, left).values()), None)
        trouble = None if tried is None else tried.last_error
        if tried is not None and trouble is not None and trouble.what not in told:
            told.add(trouble.what)
            tell(f"the sink is failing ({tried.failures} times so far): {trouble.what}")
        if time.monotonic() >= deadline_s:
            what = f"{len(left)} of {len(paths)} files are not replayed after {timeout_s:g} s"
            if trouble is not None:
                what = f"{what}. The sink is failing: {trouble.what}"
                raise UnavailableError(what, where=trouble.where or left[0], mend=trouble.mend)
            check_sink(data_dir, enabled=True)
            mend = "it goes on by itself: ask again, or give it longer with --timeout"
            raise UnavailableError(what, where=left[0], mend=mend)
        await asyncio.sleep(POLL_S)


def _outcome(path: str, row: Mapping[str, Any]) -> Outcome:
    return Outcome(
        path=path,
        outcome=row.get("outcome", "done"),
        rows=row.get("rows", 0),
        quarantined=row.get("quarantined", {}),
        files=row.get("files", ()),
        what=row.get("what", ""),
        mend=row.get("mend", ""),
    )
