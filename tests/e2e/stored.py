"""What stands in a log at rest, read twice, and held against what clients were told."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from commitlog.base import Gap
from commitlog.reader import FileLogReader
from ingest.headers import MQTT_DUP
from tests.commitlog.other_reader import Seen, by_kafka_python
from tests.e2e.publishers import Book

SEQ = re.compile(rb'"seq": ?(\d+)')


@dataclass(frozen=True, slots=True)
class Reading:
    """One record of a device: its sequence number, and whether the client had marked it as sent before."""

    seq: int
    dup: bool


@dataclass(slots=True)
class Stored:
    """A topic's records by device, in the order of their offsets; these by partition; the gaps that the reader met."""

    devices: dict[str, list[Reading]] = field(default_factory=dict)
    offsets: dict[int, list[int]] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)

    @property
    def records(self) -> int:
        """How many."""
        return sum(map(len, self.offsets.values()))

    @property
    def twice(self) -> int:
        """Records beyond the first of a reading."""
        return self.records - sum(len({one.seq for one in found}) for found in self.devices.values())


def read_stored(data_dir: Path, topic: str) -> Stored:
    """Everything, by our reader; kafka-python's has to see the same, record by record, before a word is believed."""
    stored = Stored()
    with closing(FileLogReader(data_dir)) as reader:
        for partition, mark in enumerate(reader.watermarks(topic)):
            ours = _by_our_reader(reader, topic, partition, mark.start, mark.high, stored.gaps)
            theirs = by_kafka_python(data_dir, topic, partition)
            offsets = stored.offsets.setdefault(partition, [])
            for one, other in itertools.zip_longest(ours, theirs):
                assert one == other, f"{topic}-{partition}: two readers differ: {one} and {other}"
                offset, _, key, value, headers = one
                number = SEQ.search(value or b"")
                assert number is not None, f"{topic}-{partition} offset {offset}: {value!r} was never published"
                device = stored.devices.setdefault((key or b"").decode(), [])
                device.append(Reading(int(number[1]), any(name == MQTT_DUP for name, _ in headers)))
                offsets.append(offset)
    return stored


def _by_our_reader(
    reader: FileLogReader, topic: str, partition: int, offset: int, high: int, gaps: list[Gap]
) -> Iterator[Seen]:
    """Offsets without a hole from the log start to the high watermark: each is a record's, or in a gap that is told."""
    while offset < high:
        part = reader.read(topic, partition, offset)
        told = [(gap.first, gap.next) for gap in part.gaps]
        for first, following in sorted(told + [(one.offset, one.offset + 1) for one in part.records]):
            assert first == offset, f"{topic}-{partition} offset {offset}: a hole that nobody tells of"
            offset = following
        assert offset == part.next_offset, f"{topic}-{partition} offset {offset}: the log promises more than it holds"
        assert part.records or part.gaps, f"{topic}-{partition} offset {offset}: nothing comes"
        gaps += part.gaps
        for one in part.records:
            yield one.offset, one.timestamp, one.key, one.value, list(one.headers)


def compare(stored: Stored, books: Mapping[str, Book], first_seq: Mapping[str, int]) -> None:
    """Acked is there; nothing is there twice that was sent once; each device's readings stand in the order sent.

    Every client sends again what had no answer before anything new, so the first records of a device's readings follow
    each other without one left out, whatever was acknowledged. `first_seq`: the first number by a device's prefix.
    """
    for device in books.keys() | stored.devices.keys():
        book = books.get(device, Book())
        seen: set[int] = set()
        again: list[Reading] = []
        expected = next(number for prefix, number in first_seq.items() if device.startswith(prefix))
        for one in stored.devices.get(device, []):
            if one.seq in seen:
                again.append(one)
                continue
            assert one.seq == expected, f"{device}: {one.seq} stands where {expected} was sent"
            seen.add(one.seq)
            expected += 1
        missing = book.acked - seen
        assert not missing, f"{device}: acked and lost: {sorted(missing)[:20]}"
        assert {one.seq for one in again} <= book.resent, f"{device}: twice in the log, and sent once"
        assert not book.marks_resends or all(one.dup for one in again), f"{device}: a resend that is not marked"


def check_result(output: str) -> tuple[list[dict[str, object]], set[str]]:
    """The findings and the kinds of notes in what `headrace log check --json` printed."""
    shown = json.loads(output)
    return shown["findings"], {note["kind"] for note in shown["notes"]}
