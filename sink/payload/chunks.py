"""Records taken apart into columns of facts, a few thousand at a time.

A record costs one visit here; what follows works on whole columns. Devices and MQTT topics repeat, so they are
numbered (`Texts`) and carried as numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

import numpy as np
import numpy.typing as npt

from commitlog.base import Header, Record
from sink.payload.decode import DEFAULT_FIELD, DEVICE_HEADER, FIELD_HEADER, TOPIC_HEADER
from sink.payload.times import END_US, US_PER_MS
from sink.records import WindowRecords

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]

CHUNK_RECORDS: Final = 4_096  # enough that what is done once a chunk costs nothing, few enough to stay in the cache
CHUNK_BYTES: Final = 4 << 20  # of payloads: records of a megabyte make short chunks
MAX_TEXTS: Final = 200_000  # different texts numbered at once, some 100 bytes each; then what is held is written out
NO_TEXT: Final = -1


class Texts(dict[bytes | None, int]):
    """Numbers for texts, in the order of their first appearance; NO_TEXT for none.

    Bytes that are not UTF-8 show as `\\xNN`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __missing__(self, data: bytes | None) -> int:
        if not data:
            return NO_TEXT
        number = self[data] = len(self.names)
        self.names.append(data.decode("utf-8", "backslashreplace"))
        return number


@dataclass(slots=True)
class Chunk:
    """Consecutive records of one partition. `devices` and `topics` are numbers of texts, or NO_TEXT.

    `fields` has the field that a scalar belongs to for the records, by index, whose headers name one.
    """

    partition: int
    offsets: Int64s
    received_us: Int64s
    devices: Int32s
    topics: Int32s
    values: list[bytes | None]
    fields: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values)

    def field_of(self, index: int) -> str:
        """The name of the field that a scalar payload is."""
        return self.fields.get(index, DEFAULT_FIELD)


class Gatherer:
    """Makes chunks of a window's records; knows the texts that their numbers stand for."""

    def __init__(self) -> None:
        self.devices = Texts()
        self.topics = Texts()

    @property
    def full(self) -> bool:
        """Whether so many texts are numbered that it is time to `start_anew`."""
        return len(self.devices) + len(self.topics) > MAX_TEXTS

    def start_anew(self) -> None:
        """Forget all texts: numbers given from here on stand for others."""
        self.devices, self.topics = Texts(), Texts()

    def chunks(self, records: WindowRecords) -> Iterator[Chunk]:
        """All records of a window, in reading order."""
        pending = _Pending(-1)
        for partition, piece in records.pieces():
            if partition != pending.partition:
                yield from self._chunk(pending)
                pending = _Pending(partition)
            pending.take(piece)
            if len(pending.values) >= CHUNK_RECORDS or pending.size_bytes >= CHUNK_BYTES:
                yield from self._chunk(pending)
                pending = _Pending(partition)
        yield from self._chunk(pending)

    def _chunk(self, pending: _Pending) -> Iterator[Chunk]:
        if not pending.values:
            return
        devices, topics, fields = self._facts(pending)
        yield Chunk(
            partition=pending.partition,
            offsets=np.concatenate(pending.offsets),
            received_us=held_us(np.fromiter(pending.stamps, np.int64, len(pending.stamps))),
            devices=devices,
            topics=topics,
            values=pending.values,
            fields=fields,
        )

    def _facts(self, pending: _Pending) -> tuple[Int32s, Int32s, dict[int, str]]:
        """Device and topic numbers, and fields."""
        device_numbers = np.fromiter(map(self.devices.__getitem__, pending.keys), np.int32, len(pending.keys))
        fields: dict[int, str] = {}
        topic_numbers = self._lone_topics(pending.headers)
        if topic_numbers is None:
            topic_numbers = np.full(len(device_numbers), NO_TEXT, np.int32)
            for index, headers in enumerate(pending.headers):
                if headers:
                    self._look_closer(index, headers, device_numbers, topic_numbers, fields)
        return device_numbers, topic_numbers, fields

    def _lone_topics(self, headers: Sequence[Sequence[Header]]) -> Int32s | None:
        """Topic numbers where the MQTT topic is every record's only header: mostly. None where it is not."""
        pairs = list(chain.from_iterable(headers))
        if len(pairs) != len(headers) or not all(headers):  # one has several, or none
            return None
        names, values = zip(*pairs, strict=True)
        if names.count(TOPIC_HEADER) < len(names):
            return None
        return np.fromiter(map(self.topics.__getitem__, values), np.int32, len(values))

    def _look_closer(
        self, index: int, headers: Sequence[Header], devices: Int32s, topics: Int32s, fields: dict[int, str]
    ) -> None:
        """The facts of a record with other headers, or more; of headers with the same name the last one counts."""
        topics[index] = NO_TEXT
        for name, value in headers:
            if name == TOPIC_HEADER:
                topics[index] = self.topics[value]
            elif name == DEVICE_HEADER:
                devices[index] = self.devices[value]
            elif name == FIELD_HEADER and value:
                fields[index] = value.decode("utf-8", "backslashreplace")


class _Pending:
    """Records on their way into a chunk."""

    __slots__ = ("headers", "keys", "offsets", "partition", "size_bytes", "stamps", "values")

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.offsets: list[Int64s] = []
        self.stamps: list[int] = []
        self.keys: list[bytes | None] = []
        self.values: list[bytes | None] = []
        self.headers: list[list[Header]] = []
        self.size_bytes = 0

    def take(self, piece: Sequence[Record]) -> None:
        values = [record.value for record in piece]
        self.offsets.append(_offsets(piece))
        self.stamps += [record.timestamp for record in piece]
        self.keys += [record.key for record in piece]
        self.headers += [record.headers for record in piece]
        self.values += values
        self.size_bytes += sum(map(len, filter(None, values)))


def _offsets(piece: Sequence[Record]) -> Int64s:
    first, last = piece[0].offset, piece[-1].offset
    if last - first + 1 == len(piece):  # they ascend, so none is missing
        return np.arange(first, last + 1, dtype=np.int64)
    return np.array([record.offset for record in piece], np.int64)


def held_us(timestamps_ms: Int64s) -> Int64s:
    """Record timestamps in microseconds, held within 1970 to 2100 (Kafka clients may write any 64-bit number)."""
    held: Int64s = np.minimum(np.clip(timestamps_ms, 0, END_US // US_PER_MS) * US_PER_MS, END_US - 1)
    return held
