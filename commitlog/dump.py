"""Records as JSON lines: what a person or a script sees of the log.

Read through a `LogReader`, of a living writer's log or of one at rest (`rest_reader`): from log start to the end, in
offset order within a partition, partition after partition. What cannot be read is handed on as the reader's gaps.
Memory is bounded by one read. Lookups by time go through the time index; a key is compared with every record, because
not everybody who writes places records by key.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from commitlog.base import Gap, LogReader, Record, WriterState
from commitlog.rest_reader import RestReader
from core.errors import NotFoundError

READ_BYTES: Final = 1 << 20
_FOLLOW_S: Final = 1.0  # how long one wait for news lasts; only how soon a Ctrl-C between two waits is seen

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which records; None leaves a bound open. first <= offset < next, since_ms <= timestamp < until_ms."""

    topic: str | None = None
    partition: int | None = None
    key: bytes | None = None
    first: int | None = None
    next: int | None = None
    since_ms: int | None = None
    until_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dumped:
    """What one read brought of one partition. `in_journal`: only the journal holds the records."""

    topic: str
    partition: int
    records: list[Record]
    gaps: list[Gap]
    in_journal: bool = False


@dataclass(slots=True)
class _Place:
    topic: str
    partition: int
    offset: int
    done: bool = field(default=False)


def dump(reader: LogReader, selection: Selection, *, follow: bool = False) -> Iterator[Dumped]:
    """The selected records, in slices. With `follow` it goes on with what is appended, until every bound is reached.

    Raises NotFoundError for an unknown topic or partition.
    """
    places = list(_places(reader, selection))
    for place in places:
        yield from _read_out(reader, place, selection)
    while follow and not all(place.done for place in places):
        reader.wait(_FOLLOW_S)
        for place in places:
            yield from _read_out(reader, place, selection)


def _places(reader: LogReader, selection: Selection) -> Iterator[_Place]:
    """Where each partition's reading begins."""
    topics = reader.topics()
    if selection.topic is not None and selection.topic not in topics:
        raise NotFoundError(f"there is no topic {selection.topic!r}", mend=f"one of {', '.join(sorted(topics))}")
    for topic in sorted(topics) if selection.topic is None else [selection.topic]:
        count = topics[topic].partitions
        if selection.partition is not None and not 0 <= selection.partition < count:
            raise NotFoundError(f"topic {topic!r} has no partition {selection.partition}", mend=f"0 to {count - 1}")
        for partition in range(count) if selection.partition is None else [selection.partition]:
            start = reader.watermarks(topic)[partition].start
            if selection.since_ms is not None:
                start = max(start, reader.offset_for_time(topic, partition, selection.since_ms))
            yield _Place(topic, partition, start if selection.first is None else _from(start, selection))


def _from(start: int, selection: Selection) -> int:
    """An offset that was asked for may lie before the log start: the reader then says that it is expired."""
    assert selection.first is not None
    return max(start, selection.first) if selection.since_ms is not None else selection.first


def _read_out(reader: LogReader, place: _Place, selection: Selection) -> Iterator[Dumped]:
    """Everything of one partition up to its high watermark as of now, or to where the selection ends."""
    while not place.done:
        if selection.next is not None and place.offset >= selection.next:
            place.done = True
            return
        part = reader.read(place.topic, place.partition, place.offset, max_bytes=READ_BYTES)
        if part.next_offset == place.offset:
            yield from _not_there(reader, place)
            return
        in_journal = isinstance(reader, RestReader) and place.offset >= reader.segments_end(
            place.topic, place.partition
        )
        place.offset = part.next_offset
        records = [record for record in part.records if _wanted(record, selection)]
        gaps = [gap for gap in part.gaps if selection.next is None or gap.first < selection.next]
        if records or gaps:
            yield Dumped(
                topic=place.topic, partition=place.partition, records=records, gaps=gaps, in_journal=in_journal
            )
        if part.records and selection.until_ms is not None and part.records[-1].timestamp >= selection.until_ms:
            place.done = True  # timestamps never decrease: nothing earlier follows


def _in_journal(reader: LogReader, place: _Place) -> bool:
    """Whether only the journal holds what comes next."""
    return isinstance(reader, RestReader) and place.offset >= reader.segments_end(place.topic, place.partition)


def _not_there(reader: LogReader, place: _Place) -> Iterator[Dumped]:
    """What readers were shown before the writer went, and no segment holds: a start may bring it back."""
    high = reader.watermarks(place.topic)[place.partition].high
    if place.offset < high and reader.writer_state() is WriterState.STALE:
        gap = Gap(first=place.offset, next=high, reason="not in the segments; the next start looks in the journal")
        yield Dumped(topic=place.topic, partition=place.partition, records=[], gaps=[gap])
        place.done = True


def _wanted(record: Record, selection: Selection) -> bool:
    return (
        (selection.next is None or record.offset < selection.next)
        and (selection.since_ms is None or record.timestamp >= selection.since_ms)
        and (selection.until_ms is None or record.timestamp < selection.until_ms)
        and (selection.key is None or record.key == selection.key)
    )


def json_line(topic: str, partition: int, record: Record, *, in_journal: bool = False) -> bytes:
    """One record as a line of JSON, without the line's end. `docs/tools.md` says what stands in it."""
    line: dict[str, Any] = {
        "topic": topic,
        "partition": partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "key": _text(record.key),
        "headers": [[name, _text(value)] for name, value in record.headers],
    }
    if in_journal:
        line["in"] = "journal"
    encoding, value = _value(record.value)
    line["encoding"] = encoding
    line["value"] = value
    return _encode(line)


def _text(data: bytes | None) -> str | dict[str, str] | None:
    """Text as it is; bytes that are none as `{"base64": ...}`."""
    if data is None:
        return None
    try:
        return bytes(data).decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _value(data: bytes | None) -> tuple[str | None, Any]:
    """JSON digit by digit as it was sent, unless it spans lines; else text; else base64."""
    if data is None:
        return None, None
    data = bytes(data)
    if b"\n" not in data and b"\r" not in data and _is_json(data):
        return "json", msgspec.Raw(data)
    try:
        return "text", data.decode()
    except UnicodeDecodeError:
        return "base64", base64.b64encode(data).decode()


def _is_json(data: bytes) -> bool:
    try:
        _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
