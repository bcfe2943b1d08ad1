"""The readings of one device, newest first, straight from the log.

A device's records stand among those of others in its partition (or in a few, when its routes go to several topics).
The log reads forwards only, so the scan goes back in chunks of offsets, each read forwards. Its cost is bounded by a
`Budget`; when that is spent the answer is what was found, with a cursor to go on from. A cursor says for each
partition below which offset to go on (`telemetry:3:1234~other:0:55`); it stays valid as the log grows.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from commitlog.base import LogReader, Record
from core.clock import Clock
from devices.status import DEVICE_HEADER
from devices.status_model import Place

CURSOR_PATTERN: Final = (
    r"^[a-zA-Z0-9._-]{1,249}:[0-9]{1,6}:[0-9]{1,19}(~[a-zA-Z0-9._-]{1,249}:[0-9]{1,6}:[0-9]{1,19}){0,15}$"
)
SCAN_MS: Final = 1_000  # what a person will wait, and what two scans may take of two cores
SCAN_BYTES: Final = 64 << 20
_FIRST_CHUNK: Final = 512  # offsets
_LEAST_CHUNK: Final = 64  # never given up half-way: at 1 MB a record still a bounded piece of work, and progress
_MOST_CHUNK: Final = 65_536
_CHEAP_CHUNK_BYTES: Final = 2 << 20  # a chunk below this may be followed by a larger one
_CHUNK_BYTES: Final = 16 << 20  # a chunk above this is given up for a smaller one


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A record of the device and where it stands."""

    place: Place
    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Newest first; `cursor` is where older ones begin, None when there are none in the asked range."""

    found: Sequence[Found]
    cursor: str | None
    scanned_records: int


class Budget:
    """How long and how much a scan may still read."""

    def __init__(self, clock: Clock, *, scan_ms: int = SCAN_MS, scan_bytes: int = SCAN_BYTES) -> None:
        self._clock = clock
        self._deadline_ms = clock.monotonic_ms() + scan_ms
        self._bytes_left = scan_bytes
        self._used = False
        self.scanned_records = 0

    def note(self, records: int, size_bytes: int) -> None:
        """This much was read."""
        self.scanned_records += records
        self._bytes_left -= size_bytes
        self._used = True

    @property
    def spent(self) -> bool:
        """Whether to stop; never before anything was read, so that every request gets further."""
        return self._used and (self._bytes_left <= 0 or self._clock.monotonic_ms() >= self._deadline_ms)


class _PlaceScan:
    """Goes back through one partition. Records of the device wait in `newest` (newest first) until taken."""

    def __init__(self, reader: LogReader, place: Place, device: bytes, lower: int, upper: int) -> None:
        self.place = place
        self._reader = reader
        self._device = device
        self._lower = lower
        self._upper = upper  # below here nothing was scanned yet
        self._chunk = _FIRST_CHUNK
        self.newest: deque[Record] = deque()

    @property
    def ended(self) -> bool:
        return self._upper <= self._lower

    @property
    def resume_below(self) -> int:
        """The offset below which everything is still to be told; at the lower end there is nothing more."""
        return self.newest[0].offset + 1 if self.newest else max(self._upper, self._lower)

    def more(self, budget: Budget) -> None:
        """Scan one chunk further back; a chunk that turns out too big is given up and made smaller."""
        first = max(self._lower, self._upper - self._chunk)
        records: list[Record] = []
        size_bytes = 0
        offset = first
        while offset < self._upper:
            piece = self._reader.read(self.place.topic, self.place.partition, offset)
            if piece.next_offset <= offset:
                break  # at the high watermark
            for record in piece.records:
                size_bytes += len(record.value or b"")
                if first <= record.offset < self._upper and device_key(record) == self._device:
                    records.append(record)
            budget.note(len(piece.records), sum(len(record.value or b"") for record in piece.records))
            offset = piece.next_offset
            if size_bytes > _CHUNK_BYTES and self._chunk > _LEAST_CHUNK:
                self._chunk = _LEAST_CHUNK
                return
        self._chunk = min(self._chunk * 4, _MOST_CHUNK) if size_bytes < _CHEAP_CHUNK_BYTES else self._chunk
        self._upper = first
        self.newest.extend(reversed(records))


def device_key(record: Record) -> bytes | None:
    """The device a record belongs to, None or empty for none."""
    for name, value in record.headers:
        if name == DEVICE_HEADER:
            return value
    return record.key


def device_history(
    reader: LogReader,
    device: bytes,
    places: Sequence[Place],
    *,
    since_ms: int | None,
    until_ms: int | None,
    limit: int,
    cursor: str | None,
    budget: Budget,
) -> History:
    """Up to `limit` readings received at `since_ms` <= t < `until_ms`, newest first over all `places`."""
    below = parse_cursor(cursor) if cursor else None
    scans = [_scan(reader, place, device, since_ms, until_ms, below) for place in places]
    found: list[Found] = []
    while len(found) < limit:
        short = [scan for scan in scans if not scan.newest and not scan.ended]
        if short:
            if budget.spent:
                break
            for scan in short:
                scan.more(budget)
            continue
        newest = max((scan for scan in scans if scan.newest), key=lambda scan: scan.newest[0].timestamp, default=None)
        if newest is None:
            break
        found.append(Found(place=newest.place, record=newest.newest.popleft()))
    left = any(scan.newest or not scan.ended for scan in scans)
    return History(
        found=found, cursor=_cursor(scans) if left and scans else None, scanned_records=budget.scanned_records
    )


def _scan(
    reader: LogReader,
    place: Place,
    device: bytes,
    since_ms: int | None,
    until_ms: int | None,
    below: Mapping[Place, int] | None,
) -> _PlaceScan:
    mark = reader.watermarks(place.topic)[place.partition]
    lower, upper = mark.start, mark.high
    if since_ms is not None:
        lower = max(lower, reader.offset_for_time(place.topic, place.partition, since_ms))
    if until_ms is not None:
        upper = min(upper, reader.offset_for_time(place.topic, place.partition, until_ms))
    if below is not None:
        upper = min(upper, below.get(place, lower))  # a place the cursor does not name has been told to its end
    return _PlaceScan(reader, place, device, lower, upper)


def _cursor(scans: Sequence[_PlaceScan]) -> str:
    return "~".join(f"{scan.place.topic}:{scan.place.partition}:{scan.resume_below}" for scan in scans)


def parse_cursor(text: str) -> Mapping[Place, int]:
    """The offsets of a cursor that matches `CURSOR_PATTERN`; empty for any other text."""
    if re.match(CURSOR_PATTERN.replace("$", r"\Z"), text) is None:
        return {}
    parts = (part.rsplit(":", 2) for part in text.split("~"))
    return {Place(topic, int(partition)): int(offset) for topic, partition, offset in parts}
