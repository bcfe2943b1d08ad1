"""Everything that `headrace verify` compares, looked at in the order that makes it fit together.

A sink makes files visible, and then commits; retention enters what it drops in the ledger, and then deletes. So

1. the committed offsets and the rows of `exports` are read first: every file of what they cover is there already;
2. then the lake, file by file, and then the plans: a file that was there beyond the committed offsets has a plan still,
   or is committed by now;
3. then the committed offsets once more, to tell that apart, and the ledger: what had gone from the lake stands there.

The log comes last (`sink.verify.topic`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from commitlog.committed import Committed, committed_from_row, committed_table
from commitlog.ledger import LEDGER_TABLE, LedgerState, entries
from commitlog.table_rows import TableRows, read_tables
from core.errors import NotFoundError
from sink.parquet.lake import BadFile, LakeFile, look_at_lake
from sink.parquet.plan import topic_folder
from sink.progress import EXPORTS_TABLE
from sink.verify.ranges import Range, union

SINK: Final = "parquet"
_COMMITTED: Final = committed_table(SINK)
Ledgered = Mapping[LedgerState, Mapping[int, list[Range]]]
"""Ranges of a topic by state and partition, each sorted and without overlaps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicLook:
    """What there is of one topic id. Two looks that are equal mean that nothing has changed in between.

    `committed` is None where the sink has no row. `later` is the first window that was not exported at the end of the
    look. `plans` are the last windows of exports under way, `replaying` the quarantine files that are being replaced.
    `replaced` are files that were.
    """

    topic: str
    topic_id: str
    committed: Committed | None
    later: int
    ledger: Ledgered
    exports: Mapping[int, Mapping[str, Any]]
    plans: frozenset[int]
    replaying: frozenset[str]
    files: tuple[LakeFile, ...]
    superseded: frozenset[str]
    replaced: tuple[LakeFile, ...]


@dataclass(slots=True, kw_only=True)
class Look:
    """One look at all topics, or at the one that was asked for. `problems` are of state tables, by table."""

    topics: dict[str, TopicLook] = field(default_factory=dict)
    bad: list[BadFile] = field(default_factory=list)
    problems: Mapping[str, str] = field(default_factory=dict)


def look(data_dir: Path, topic: str | None, log_topics: Mapping[str, str]) -> Look:
    """See the module. `log_topics`: topic id by name, as the log has them.

    Raises DataDirError, UnavailableError; NotFoundError for a topic of which there is neither a log nor a file.
    """
    before = read_tables(data_dir, [_COMMITTED, EXPORTS_TABLE])
    lake = look_at_lake(data_dir / "lake", topic)
    plans = _plans(data_dir / "lake" / ".plans")
    after = read_tables(data_dir, [_COMMITTED, LEDGER_TABLE])
    names = {topic_id: name for name, topic_id in log_topics.items()}
    names |= {key.partition("/")[0]: row["topic"] for key, row in before.rows[EXPORTS_TABLE].items()}
    names |= {topic_id: row["topic"] for topic_id, row in before.rows[_COMMITTED].items()}
    names |= {file.topic_id: file.topic for file in lake.files}
    if topic is not None:
        names = {topic_id: name for topic_id, name in names.items() if name == topic}
        if not names and not lake.bad:
            raise NotFoundError(
                f"there is no topic {topic!r}", where=str(data_dir), mend=f"one of {', '.join(sorted(log_topics))}"
            )
    files: dict[str, list[LakeFile]] = {}
    for file in lake.files:
        files.setdefault(file.topic_id, []).append(file)
    superseded = frozenset(lake.superseded)
    ledger = _ledgered(after)
    exports = _exports(before)
    found = Look(bad=lake.bad, problems={**before.problems, **after.problems})
    for topic_id, name in sorted(names.items(), key=lambda pair: (pair[1], pair[0])):
        found.topics[topic_id] = TopicLook(
            topic=name,
            topic_id=topic_id,
            committed=_committed(before, topic_id),
            later=(_committed(after, topic_id) or Committed()).next_window,
            ledger=ledger.get(topic_id, {}),
            exports=exports.get(topic_id, {}),
            plans=frozenset(number for of, number, replays in plans if of == topic_id and not replays),
            replaying=frozenset(replays for of, _, replays in plans if of == topic_id and replays),
            files=tuple(files.get(topic_id, ())),
            superseded=frozenset(path for path in superseded if f"/{topic_folder(name)}/" in f"/{path}"),
            replaced=tuple(file for file in lake.replaced if file.topic_id == topic_id),
        )
    return found


def _committed(tables: TableRows, topic_id: str) -> Committed | None:
    row = tables.rows[_COMMITTED].get(topic_id)
    return None if row is None else committed_from_row(row)


def _ledgered(tables: TableRows) -> Mapping[str, Ledgered]:
    """The ledger by topic id."""
    found: dict[str, dict[LedgerState, dict[int, list[Range]]]] = {}
    for entry in entries(tables.rows[LEDGER_TABLE]):
        states = found.setdefault(entry.topic_id, {}).setdefault(entry.state, {})
        states.setdefault(entry.partition, []).append((entry.first, entry.next))
    return {
        topic_id: {
            state: {partition: union(ranges) for partition, ranges in by_partition.items()}
            for state, by_partition in states.items()
        }
        for topic_id, states in found.items()
    }


def _exports(tables: TableRows) -> Mapping[str, Mapping[int, Mapping[str, Any]]]:
    """The rows of `exports` by topic id and window number."""
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    for key, row in tables.rows[EXPORTS_TABLE].items():
        found.setdefault(key.partition("/")[0], {})[row["number"]] = row
    return found


def _plans(folder: Path) -> set[tuple[str, int, str]]:
    """(topic id, last window, quarantine file that is replaced or nothing) of plans, whatever else is in them."""
    found: set[tuple[str, int, str]] = set()
    for path in sorted(folder.glob("*.json")):
        try:
            plan = msgspec.json.decode(path.read_bytes())
            found.add((plan["topic_id"], plan["number"], plan.get("replays", "")))
        except (FileNotFoundError, msgspec.DecodeError, KeyError, TypeError, AttributeError):
            continue  # gone meanwhile, or no plan: then it explains nothing
    return found
