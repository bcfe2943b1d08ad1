"""What a log was asked, what it answered, what readers were shown: what has to be true of it from then on.

The model knows nothing of journals and segments. Each append puts its first record into one partition, the spine, and
has a serial number, so that the order of the spine is the order of all appends. `seen` holds every offset that anybody
may have seen, by an acknowledgement or as a reader, with its value: for ever, also where a power cut took the record.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from commitlog.base import ClosedWindow, Gap, Record, TopicInfo
from commitlog.durability import Durability
from commitlog.gaps import EXPIRED
from commitlog.reader import FileLogReader
from tests.commitlog.sim.sim_batches import Producer
from tests.commitlog.sim.sim_promises import At, WrongError, hold

SPINE = ("spine", 0)
Content = dict[At, dict[int, bytes]]
ONE_MEANING = "no offset that anybody may have seen is given to another record"


@dataclass(slots=True, kw_only=True)
class Append:
    """One append: its records in order, the rows it sets; the level it was promised, the offsets the log told."""

    serial: int
    records: list[tuple[At, bytes]]
    rows: list[tuple[str, Any]]
    level: Durability
    acked: bool = False
    offsets: Sequence[int] = ()


@dataclass(slots=True)
class Model:
    """Everything known of one log, over all its lives. Appends are listed in the order in which they were made."""

    serial: int = 0
    appends: dict[int, Append] = field(default_factory=dict)
    synced: int = 0  # appends up to this serial were followed by an acknowledged sync
    weak: bool = False  # whether any level below fsync is in use
    cut: bool = False  # whether the power was cut since the last check
    passed_over: int = 0  # offsets that recovery may leave out
    alone: dict[str, bool] = field(default_factory=dict)  # rows set without any record; whether acked
    topics: dict[str, TopicInfo] = field(default_factory=dict)
    windows: dict[tuple[str, int], ClosedWindow] = field(default_factory=dict)
    seen: Content = field(default_factory=dict)
    there: Content = field(default_factory=dict)  # what was read; what was deleted after that is still in it
    lost: dict[At, set[int]] = field(default_factory=dict)  # seen, and taken by a power cut as it may be
    highs: dict[At, int] = field(default_factory=dict)
    starts: dict[At, int] = field(default_factory=dict)
    deletable: dict[At, int] = field(default_factory=dict)  # before which offset deletion was asked for
    holes: dict[At, list[tuple[int, int]]] = field(default_factory=dict)  # as recoveries reported them
    producers: list[Producer] = field(default_factory=list)
    leader_epoch: int = -1

    def next_serial(self) -> int:
        self.serial += 1
        return self.serial

    def acknowledge(self, append: Append) -> None:
        """Its caller was told."""
        append.acked = True
        for (at, value), offset in zip(append.records, append.offsets, strict=True):
            self.see(at, offset, value)

    def see(self, at: At, offset: int, value: bytes) -> None:
        """Somebody may have seen this record at this offset."""
        known = self.seen.setdefault(at, {}).setdefault(offset, value)
        hold(known == value, ONE_MEANING, at, offset, known, value)

    def expect_start(self, at: At, start: int) -> None:
        """A log start that somebody was told."""
        hold(start >= self.starts.get(at, 0), "a log start never goes back", at, start, self.starts.get(at))
        hold(start <= self.deletable.get(at, 0), "only what was asked for is deleted", at, start)
        self.starts[at] = start

    def expect_gap(self, at: At, gap: Gap) -> None:
        """A gap that a reader met: either deleted, or told of by a recovery."""
        if gap.reason == EXPIRED:
            hold(gap.next <= self.deletable.get(at, 0), "only what was asked for expires", at, gap)
        else:
            told = any(first <= gap.first and gap.next <= following for first, following in self.holes.get(at, ()))
            hold(told, "a gap was told of by a recovery", at, gap, self.holes.get(at))


def partitions_of(reader: FileLogReader) -> list[At]:
    """Every partition that readers know."""
    return [(topic, number) for topic, info in reader.topics().items() for number in range(info.partitions)]


def watch(reader: FileLogReader, model: Model) -> None:
    """What a reader sees while the log runs: from now on it has to stay."""
    for topic, info in reader.topics().items():
        known = model.topics.setdefault(topic, info)
        hold(known == info, "a topic stays what it is", known, info)
        for partition, mark in enumerate(reader.watermarks(topic)):
            at, seen_to = (topic, partition), model.highs.get((topic, partition), 0)
            model.expect_start(at, mark.start)
            hold(mark.high >= seen_to, "a high watermark never goes back", at, mark.high, seen_to)
            if mark.high > seen_to:
                for record in read_on(reader, at, seen_to, mark.high, model):
                    value = record.value or b""
                    model.see(at, record.offset, value)
                    model.there.setdefault(at, {})[record.offset] = value
                model.highs[at] = mark.high
        watch_windows(reader, topic, model)


def watch_windows(reader: FileLogReader, topic: str, model: Model) -> None:
    """A topic's windows: numbered, seamless, unchanged, and never of what cannot be read yet."""
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


def read_on(reader: FileLogReader, at: At, offset: int, high: int, model: Model) -> list[Record]:
    """Every record from an offset on; every offset below `high` is that of a record or in a gap that may be."""
    records: list[Record] = []
    while offset < high:
        part = reader.read(*at, offset, max_bytes=10_000)
        if part.next_offset <= offset:
            raise WrongError(f"what is announced can be read: stuck at {at} offset {offset} of {high}")
        expect_slice(at, offset, part.next_offset, part.records, part.gaps, model)
        records.extend(part.records)
        offset = part.next_offset
    return records


def expect_slice(
    at: At, first: int, following: int, records: Sequence[Record], gaps: Sequence[Gap], model: Model
) -> None:
    """A slice accounts for each of its offsets once and in order."""
    for gap in gaps:
        model.expect_gap(at, gap)
    parts = sorted([*((gap.first, gap.next) for gap in gaps), *((r.offset, r.offset + 1) for r in records)])
    for begin, end in parts:
        hold(begin == first, "what is announced is there", at, first, begin)
        first = end
    hold(first == following, "what is announced is there", at, first, following)
    offsets = [record.offset for record in records]
    hold(offsets == sorted(offsets), "records come in the order of their offsets", at)
