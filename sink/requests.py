"""What others ask of the sink, as rows of a state table: they survive both processes and are done once.

Table `sink.requests`:

* `flush/<topic id>` -> `{"through": window number, "at_ms"}`: publish the windows up to that one without
  holding them back.
* `replay/<path>` -> `{"topic", "topic_id", "at_ms"}`: read a quarantine file's payloads again
  (`sink.parquet.replay`); the path is relative to the lake.

A row is removed in the commit that records what was asked for as done.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from commitlog.base import TableChange

REQUESTS_TABLE: Final = "sink.requests"
_FLUSH: Final = "flush/"
_REPLAY: Final = "replay/"


def flush_request(topic_id: str, through: int, now_ms: int) -> TableChange:
    """Ask for the windows of a topic up to `through`."""
    return TableChange(table=REQUESTS_TABLE, key=_FLUSH + topic_id, value={"through": through, "at_ms": now_ms})


def flush_done(topic_id: str) -> TableChange:
    """Withdraw it."""
    return TableChange(table=REQUESTS_TABLE, key=_FLUSH + topic_id, value=None)


def flushes(rows: Mapping[str, Any]) -> dict[str, int]:
    """Topic id -> number of the last window that is asked for."""
    return {key.removeprefix(_FLUSH): row["through"] for key, row in rows.items() if key.startswith(_FLUSH)}


def replay_request(path: str, topic: str, topic_id: str, now_ms: int) -> TableChange:
    """Ask for a quarantine file to be read again."""
    value = {"topic": topic, "topic_id": topic_id, "at_ms": now_ms}
    return TableChange(table=REQUESTS_TABLE, key=_REPLAY + path, value=value)


def replay_done(path: str) -> TableChange:
    """Withdraw it."""
    return TableChange(table=REQUESTS_TABLE, key=_REPLAY + path, value=None)


def replays(rows: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What is asked for, by the file's path."""
    return {key.removeprefix(_REPLAY): row for key, row in rows.items() if key.startswith(_REPLAY)}
