"""The hot loop of the status view: a record of a device topic into the entry of its device.

The device is the record's key, or the value of the header `headrace.device` where that stands (an empty value: no
device). For most records, an object without nesting that names the same fields as the one before, it is one parse, a
look-up, a comparison of names and a few stores; values are left in the record until somebody asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from commitlog.base import Record
from devices.payload_fields import NOTHING_TOLD, FieldNames, Shape, leaves, read_flat, told
from devices.rates import PERIOD_MS
from devices.rhythm import MARK_MS
from devices.sequence import NUMBERS, SequenceTrack
from devices.status_model import Place
from devices.tracked import NO_SHAPE, DeviceTable, KeptRecord, TrackedDevice
from wire.paths import DEFAULT_FIELD

DEVICE_HEADER: Final = "headrace.device"
FIELD_HEADER: Final = "headrace.field"
DUP_HEADER: Final = "mqtt.dup"
_TOPIC_HEADER: Final = "mqtt.topic"

MAX_KEPT_BYTES: Final = 1024  # payload and header values; times 200,000 devices this is what a small box can spare
MAX_SHAPES: Final = 4096
"""Shapes shared between devices: fleets have a few; beyond it the memory is started anew."""

Expected = Callable[[bytes], int | None]
"""The interval in ms that an operator expects of a device; None: nobody said."""


NamesOf = Callable[[str], FieldNames]
"""The names that a topic's payloads use."""


def usual_names(_topic: str) -> FieldNames:
    """Where nothing else is set."""
    return FieldNames()


def expect_nothing(_key: bytes) -> int | None:
    """Without a registry."""
    return None


def device_key(record: Record) -> bytes | None:
    """The device that a record names; empty or None: none."""
    key = record.key
    for name, header in record.headers:
        if name == DEVICE_HEADER:
            key = header
    return key


class ReadingFeed:
    """Takes records into the entries of a table. Not safe for threads by itself: the view holds its lock."""

    def __init__(
        self,
        table: DeviceTable,
        admit: Callable[[bytes, int], TrackedDevice],
        *,
        expected: Expected,
        names_of: NamesOf,
    ) -> None:
        self._table = table
        self._admit = admit
        self._expected = expected
        self._names_of = names_of
        self._shapes: dict[Shape, Shape] = {}
        self.without_device = 0
        self.undecodable = 0

    def feed(self, place: Place, records: Sequence[Record]) -> None:
        """Records of one partition, in order, each once."""
        devices = self._table.devices
        names = self._names_of(place.topic)
        sequence_field, time_field = names
        for record in records:
            key = record.key
            field = DEFAULT_FIELD
            resent = False
            headers_bytes = 0
            for name, header in record.headers:
                if header is not None:
                    headers_bytes += len(header)
                if name == _TOPIC_HEADER:
                    continue
                if name == DEVICE_HEADER:
                    key = header
                elif name == FIELD_HEADER and header:
                    field = header.decode("utf-8", "backslashreplace")
                elif name == DUP_HEADER:
                    resent = True
            if not key:
                self.without_device += 1
                continue
            timestamp = record.timestamp
            device = devices.get(key)
            if device is None:
                device = self._admit(key, timestamp)
            value = record.value or b""
            device.messages += 1
            device.size_bytes += len(value)
            if resent:
                device.resends += 1
            if device.place is not place:
                device.note(place)

            shape: Shape | None
            try:
                members = read_flat(value)
            except (ValueError, RecursionError):  # msgspec's own error is a ValueError
                shape, told_time = self._take_other(device, value, field, names, resent)
            else:
                shape = tuple(members)
                told_time = members.get(time_field)
                number = members.get(sequence_field)
                if number is not None:
                    track = device.sequence
                    if track is not None and number == track.next and type(number) is int:
                        track.next = number + 1
                    else:
                        _take_number(device, number, resent)

            period = timestamp // PERIOD_MS
            if period > device.period:
                device.end_periods(period)
            device.in_period += 1
            if timestamp - device.mark_ms >= MARK_MS:
                device.mark(timestamp, self._expected(key), told_time)

            if timestamp >= device.last_seen_ms:
                large = len(value) + headers_bytes > MAX_KEPT_BYTES
                if shape != device.shape or shape is None or large or field != device.last_field:
                    device.retire_last()
                    device.shape = self._shared(shape)
                    device.last_field = field
                device.last_seen_ms = timestamp
                device.place = place
                if large:
                    _take_large(device, record, field)
                else:
                    device.last = record
            else:
                device.add_fields(timestamp, leaves(value, field))
                if timestamp < device.first_seen_ms:
                    device.first_seen_ms = timestamp

    def _take_other(
        self, device: TrackedDevice, value: bytes, field: str, names: FieldNames, resent: bool
    ) -> tuple[Shape | None, Any]:
        """A payload that is no flat object: its shape and the time it tells."""
        found = told(value, field, names)
        if found is None:
            self.undecodable += 1
            device.undecodable += 1
            found = NOTHING_TOLD
        for number in found.numbers:
            _take_number(device, number, resent)
        return found.shape, found.time

    def _shared(self, shape: Shape | None) -> Shape | None:
        if shape is None:
            return None
        if len(self._shapes) >= MAX_SHAPES:
            self._shapes.clear()
        return self._shapes.setdefault(shape, shape)


def _take_number(device: TrackedDevice, number: Any, resent: bool) -> None:
    if type(number) is not int or not 0 <= number < NUMBERS:
        return
    if device.sequence is None:
        device.sequence = SequenceTrack(number)
    else:
        device.sequence.take(number, resent=resent)


def _take_large(device: TrackedDevice, record: Record, field: str) -> None:
    """Its values cannot wait in the record: it is not kept."""
    device.add_fields(record.timestamp, leaves(record.value or b"", field))
    device.last = KeptRecord(record.offset, record.timestamp, large=True)
    device.shape = NO_SHAPE
