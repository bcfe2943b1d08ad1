"""The runner's side of replays: which is due, and what is recorded of it.

Asked for by rows of `sink.requests`; what was begun by a process that died is gone on with even if its request is done.
Each waits for itself when it fails, as a topic does. What became of one stands in table `sink.replayed`: file ->
`{topic, outcome, rows, before, quarantined, files, what, mend, at_ms}`, the newest `REPLAYED_KEPT` of them.
`outcome` is `done`, `unchanged` (no row can be read any better, and the file stays as it is) or `refused` (`what` and
`mend` say why).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from commitlog.base import Log, TableChange
from commitlog.committed import Committed
from sink.base import CancelFlag, Replay, Replayer, ReplayRefusedError
from sink.metrics import SinkMetrics
from sink.progress import EXPORTS_TABLE, export_key, file_row
from sink.requests import replay_done

_log: Final = structlog.get_logger("headrace.sink")
REPLAYED_TABLE: Final = "sink.replayed"
REPLAYED_KEPT: Final = 1_000  # files: a few hundred KB


@dataclass(frozen=True, slots=True)
class Threaded:
    """A sink that replays, called in its thread."""

    replayer: Replayer
    progress: Mapping[str, Committed]
    cancel: CancelFlag
    in_thread: Callable[..., Awaitable[Any]]

    async def replay(self, path: str) -> Replay:
        """See `Replayer.replay`."""
        replay: Replay = await self.in_thread(self.replayer.replay, path, self.progress, self.cancel)
        return replay

    async def settle(self, path: str) -> None:
        """See `Replayer.settle_replay`."""
        await self.in_thread(self.replayer.settle_replay, path)


async def carry_out(path: str, topic: str, sink: Threaded, log: Log, metrics: SinkMetrics, now_ms: int) -> None:
    """One replay, from its files to its end; `topic` is the one that its request names.

    Raises what the sink and the log raise, but for refusals, which end the request.
    """
    replayed = await log.rows(REPLAYED_TABLE)
    try:
        replay = await sink.replay(path)
    except ReplayRefusedError as error:
        await log.append([], refused(path, topic, error, replayed, now_ms))
        _log.warning("replay refused", file=path, what=error.what, where=error.where, mend=error.mend)
        metrics.replayed(path, topic, "refused", 0)
        return
    exports = await log.rows(EXPORTS_TABLE) if replay.rows else {}
    export = exports.get(export_key(replay.topic_id, replay.number))
    await log.append([], recorded(replay, export, replayed, now_ms))
    if replay.rows:
        await sink.settle(path)
    metrics.replayed(path, replay.topic, outcome_of(replay), replay.rows)
    left = sum(replay.quarantined.values())
    _log.info("quarantine replayed", topic=replay.topic, file=path, rows=replay.rows, still_refused=left)


def outcome_of(replay: Replay) -> str:
    """`done`, or `unchanged`."""
    return "done" if replay.rows else "unchanged"


def recorded(
    replay: Replay, export: Mapping[str, Any] | None, replayed: Mapping[str, Any], now_ms: int
) -> list[TableChange]:
    """The commit of a replay: its unit's row of `exports` if there is one, its outcome, and the end of its request.

    `replayed` are the rows of `sink.replayed`. Recorded twice, it changes nothing more.
    """
    outcome = {
        "topic": replay.topic,
        "outcome": outcome_of(replay),
        "rows": replay.rows,
        "before": dict(replay.before),
        "quarantined": dict(replay.quarantined),
        "files": [file.path for file in replay.files],
        "at_ms": now_ms,
    }
    changes = _ended(replay.path, outcome, replayed)
    row = None if export is None or not replay.rows else _export_row(export, replay, now_ms)
    if row is not None:
        key = export_key(replay.topic_id, replay.number)
        changes.append(TableChange(table=EXPORTS_TABLE, key=key, value=row))
    return changes


def refused(
    path: str, topic: str, error: ReplayRefusedError, replayed: Mapping[str, Any], now_ms: int
) -> list[TableChange]:
    """The commit that ends the request of a replay that cannot be."""
    why = {"what": error.what, "where": error.where, "mend": error.mend}
    return _ended(path, {"topic": topic, "outcome": "refused", **why, "at_ms": now_ms}, replayed)


def _ended(path: str, outcome: Mapping[str, Any], replayed: Mapping[str, Any]) -> list[TableChange]:
    changes = [replay_done(path), TableChange(table=REPLAYED_TABLE, key=path, value=dict(outcome))]
    others = sorted((key for key in replayed if key != path), key=lambda key: replayed[key]["at_ms"])
    surplus = others[: max(0, len(others) + 1 - REPLAYED_KEPT)]
    return changes + [TableChange(table=REPLAYED_TABLE, key=key, value=None) for key in surplus]


def _export_row(export: Mapping[str, Any], replay: Replay, now_ms: int) -> dict[str, Any] | None:
    """The unit's row with the new files in place of the old one; None when that is done already."""
    if not any(file["path"] == replay.path for file in export["files"]):
        return None
    kept = [file for file in export["files"] if file["path"] != replay.path]
    known = {file["path"] for file in kept}
    if any(file.path in known for file in replay.files):  # the row was made of what stood in the lake meanwhile
        replay = replace(replay, files=(), rows=0, quarantined={}, clashes={})
    reasons = dict(export["quarantine_reasons"])
    for counts, sign in ((replay.before, -1), (replay.quarantined, 1)):
        for reason, count in counts.items():
            reasons[reason] = reasons.get(reason, 0) + sign * count
    clashes = dict(export["clashes"])
    for column, count in replay.clashes.items():
        clashes[column] = clashes.get(column, 0) + count
    return {
        **export,
        "files": [*kept, *map(file_row, replay.files)],
        "rows": export["rows"] + replay.rows,
        "quarantined": export["quarantined"] + sum(replay.quarantined.values()) - sum(replay.before.values()),
        "quarantine_reasons": {reason: count for reason, count in sorted(reasons.items()) if count},
        "clashes": clashes,
        "replayed_at_ms": now_ms,
    }


def due_first(requests: Mapping[str, Any], begun: Sequence[str]) -> list[str]:
    """The files to be replayed: what was begun first, then what has waited longest."""
    asked = sorted(requests.keys() - set(begun), key=lambda path: (requests[path]["at_ms"], path))
    return [*begun, *asked]
