"""What a log was asked, what it answered, what readers were shown; and the check of what came back after a crash.

The model knows nothing of journals and segments. Each append puts its first record into one partition, the spine, so
that the order of the spine is the order of all appends; an append is there whole, row changes included, or not at all.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from commitlog.base import ClosedWindow, Position, Record, TopicInfo
from commitlog.reader import FileLogReader
from tests.commitlog.log_support import read_partition

SPINE = ("spine", 0)
At = tuple[str, int]


class WrongError(AssertionError):
    """The log broke a promise."""


def hold(condition: object, promise: str, *details: object) -> None:
    """Fail with the promise that was broken."""
    if not condition:
        raise WrongError(": ".join((promise, *map(str, details))))


@dataclass(slots=True, kw_only=True)
class Append:
    """One append: its records in order, the rows it sets; `acked`, and `positions` where the log told them."""

    serial: int
    records: list[tuple[At, bytes]]
    rows: list[tuple[str, Any]]
    acked: bool = False
    positions: Sequence[Position] = ()


@dataclass(slots=True)
class Model:
    """Everything known of one log, over all its lives. Appends are listed in the order in which they were made."""

    serial: int = 0
    appends: dict[int, Append] = field(default_factory=dict)
    alone: dict[str, bool] = field(default_factory=dict)  # rows set without any record; whether acked
    topics: dict[str, TopicInfo] = field(default_factory=dict)
    windows: dict[tuple[str, int], ClosedWindow] = field(default_factory=dict)
    shown: dict[At, list[bytes]] = field(default_factory=dict)
    leader_epoch: int = -1
    last_timestamp_ms: dict[At, int] = field(default_factory=dict)

    def next_serial(self) -> int:
        self.serial += 1
        return self.serial


def watch(reader: FileLogReader, model: Model) -> None:
    """What a reader sees while the log runs: from now on it has to stay."""
    for topic, info in reader.topics().items():
        known = model.topics.setdefault(topic, info)
        hold(known == info, "a topic stays what it is", known, info)
        for partition, mark in enumerate(reader.watermarks(topic)):
            at, high = (topic, partition), mark.high
            seen = model.shown.setdefault(at, [])
            if high == len(seen):
                continue
            hold(high >= len(seen), "a high watermark never goes back", at, high, len(seen))
            records = _read(reader, at, len(seen))
            hold([r.offset for r in records] == list(range(len(seen), high)), "what is announced is there", at)
            seen.extend(r.value or b"" for r in records)
        _watch_windows(reader, topic, model)


def _watch_windows(reader: FileLogReader, topic: str, model: Model) -> None:
    windows = reader.windows(topic)
    hold([w.number for w in windows] == list(range(len(windows))), "windows are numbered from 0 without a gap", topic)
    for window in windows:
        known = model.windows.setdefault((topic, window.number), window)
        hold(known == window, "a closed window stays what it is", known, window)
    for before, after in itertools.pairwise(windows):
        ends = {p: end for p, (_, end) in before.offsets.items()}
        hold(ends == {p: first for p, (first, _) in after.offsets.items()}, "windows leave nothing out", after)
    if windows:
        highs = [mark.high for mark in reader.watermarks(topic)]
        hold(all(end <= highs[p] for p, (_, end) in windows[-1].offsets.items()), "a window holds what is there", topic)


def check(reader: FileLogReader, rows: Mapping[str, Mapping[str, Any]], model: Model) -> None:
    """After a recovery: everything acknowledged or shown is there, whole and in order; from now on all of it stays."""
    _check_topics(reader, model)
    content = {
        (topic, partition): _read(reader, (topic, partition), 0)
        for topic, info in reader.topics().items()
        for partition in range(info.partitions)
    }
    found = _found(content.get(SPINE, []), model)
    expected: dict[At, list[bytes]] = {}
    for append in found:
        for at, value in append.records:
            expected.setdefault(at, []).append(value)
    for at, records in content.items():
        _check_partition(at, records, expected.pop(at, []), model)
    hold(not expected, "an append is there whole or not at all", expected)
    _check_positions(found, content)
    _check_rows(found, rows, model)
    for topic in reader.topics():
        _watch_windows(reader, topic, model)
        count = len(reader.windows(topic))
        promised = [number for name, number in model.windows if name == topic and number >= count]
        hold(not promised, "a closed window is not lost", topic, promised)
    model.appends = {append.serial: append for append in found}
    for append in found:
        append.acked = True
    model.shown = {at: [r.value or b"" for r in records] for at, records in content.items()}


def _check_topics(reader: FileLogReader, model: Model) -> None:
    there = reader.topics()
    for name, info in model.topics.items():
        hold(there.get(name) == info, "a topic that was made is there with its id", info, there.get(name))
    model.topics.update(there)


def _found(spine: Sequence[Record], model: Model) -> list[Append]:
    """The appends that are there, in order; nothing acknowledged is missing, and nothing before what is there."""
    found: list[Append] = []
    for record in spine:
        serial = int((record.value or b"0").split(b":")[0])
        append = model.appends.get(serial)
        if append is None:
            raise WrongError(f"what was lost or never appended is not there: {serial}")
        found.append(append)
    serials = [append.serial for append in found]
    hold(len(set(serials)) == len(serials), "nothing is there twice", serials)
    missing = [append.serial for append in model.appends.values() if append.acked and append.serial not in set(serials)]
    hold(not missing, "what was acknowledged is there", missing)
    hold(serials == list(model.appends)[: len(serials)], "what is there is a prefix of what was appended", serials)
    return found


def _check_partition(at: At, records: Sequence[Record], expected: list[bytes], model: Model) -> None:
    values = [record.value or b"" for record in records]
    hold([r.offset for r in records] == list(range(len(records))), "offsets have no hole", at)
    hold(values == expected, "each partition holds its records in order, whole and unchanged", at, len(values))
    shown = model.shown.get(at, [])
    hold(values[: len(shown)] == shown, "what a reader was shown stays where it was", at, len(values), len(shown))
    times = [record.timestamp for record in records]
    hold(times == sorted(times), "timestamps never decrease", at)
    keys = [record.key for record in records]
    hold(keys == [value[:4] for value in values], "keys are as they were", at)


def _check_positions(found: Sequence[Append], content: Mapping[At, Sequence[Record]]) -> None:
    for append in found:
        for place, (at, value) in zip(append.positions, append.records, strict=bool(append.positions)):
            hold((place.topic, place.partition) == at, "a record is where the log said", place)
            hold(content[at][place.offset].value == value, "a record has the offset that the log said", place)


def _check_rows(found: Sequence[Append], rows: Mapping[str, Mapping[str, Any]], model: Model) -> None:
    last: dict[str, Any] = dict(row for append in found for row in append.rows)
    expected = {key: value for key, value in last.items() if value is not None}
    hold(dict(rows["state"]) == expected, "tables are as of the last append that is there", rows["state"], expected)
    alone = rows["alone"]
    lost = [key for key, acked in model.alone.items() if acked and key not in alone]
    hold(not lost, "an acknowledged row is there", lost)
    hold(set(alone) <= set(model.alone), "no row is there that nobody set, or that was lost before", set(alone))
    model.alone = dict.fromkeys(alone, True)


def _read(reader: FileLogReader, at: At, offset: int) -> list[Record]:
    try:
        return read_partition(reader, *at, offset)
    except AssertionError as error:
        raise WrongError(f"what is announced can be read: {error}") from error
