"""What every device said last, how it does and whether it is connected: a consumer of the log.

Elsewhere "online" is one flag that guesses. Here four facts are kept apart, each from what the log says alone:

* *connected*: a session is open in which it has published (`presence.py` has the rules);
* *last seen*: when its newest reading was received;
* *reporting* or *silent*, and since when: by its own rhythm, learned, or by what an operator expects (`rhythm.py`);
* *clock skew*: the time it tells against the time received, the median of its newest readings.

A device may be connected and silent, or reporting without a connection of its own (through a gateway that came and
went); its clock may be years off, and none of the other facts is touched by that: they know only the box's clock, the
time received.

Beside them stand the newest value of every field with its time (`payload_fields.py`, `field_store.py`), counts of
messages and bytes, rates (`rates.py`), what sequence numbers say (`sequence.py`) and how many resends were marked.

Whether the view as a whole is up to date is the tail's business (devices/tail.py): `current=False` gives `connected`
None for every device. Reporting or silent is judged as of `as_of_ms`, up to which everything committed has been fed,
not by a clock of the view's own: a view that lags takes nobody for silent whose readings are only waiting. All but the
four facts are told in any state, as far as they are known.

What the view knows comes from the log, or from a snapshot and the log after it (`status_snapshot.py`). The two agree,
within what the log still holds, for a device that stays in one partition, as partitioning by key has it. Where a
device is met in several, the order between them is not in the log: its rhythm, rates and sequence may then differ.

Bounds: `max_devices` devices (the longest silent gives way, counted), `MAX_KEPT_BYTES` of a last reading (a larger one
is read from the log when asked for), `field_store`'s of other fields, `MAX_SESSIONS` named sessions a device (further
ones are counted). A feeding thread and any number of reading threads may use a view at the same time.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Final

from commitlog.base import Header, Slice
from devices.ahead import Ahead
from devices.presence import EVENTS_TOPIC as EVENTS_TOPIC
from devices.presence import MAX_SESSIONS as MAX_SESSIONS
from devices.presence import Presence
from devices.rates import PERIOD_MS
from devices.readings import DEVICE_HEADER as DEVICE_HEADER
from devices.readings import MAX_KEPT_BYTES as MAX_KEPT_BYTES
from devices.readings import Expected, NamesOf, ReadingFeed, device_key, expect_nothing, usual_names
from devices.rhythm import Reporting, allowed_ms
from devices.sequence import SequenceTrack
from devices.status_model import DeviceStatus, FieldValue, LastReading, Numbering, Place, Silence
from devices.status_rows import device_of, row_of
from devices.status_snapshot import Block, FedRow, Head, Snapshot, SnapshotError, SnapshotTopic
from devices.tracked import DeviceTable, TrackedDevice

TOPICS_WITHOUT_DEVICES: Final = frozenset({"mqtt", "alerts", EVENTS_TOPIC})
_NOT_FED: Final = TOPICS_WITHOUT_DEVICES - {EVENTS_TOPIC}

_FEED_CHUNK: Final = 1000  # records fed per hold of the lock, a few milliseconds: what a reading thread may wait


class StatusView:
    """The state of every device in the log. `expected`: what operators expect of devices (the registry)."""

    def __init__(
        self,
        *,
        max_devices: int,
        expected: Expected = expect_nothing,
        names_of: NamesOf = usual_names,
    ) -> None:
        self._lock = threading.Lock()
        self._table = DeviceTable(max_devices=max_devices)
        self._presence = Presence(self._table)
        self._expected = expected
        self._readings = ReadingFeed(
            self._table,
            self._presence.admit,
            expected=expected,
            names_of=names_of,
        )
        self._names_of = names_of
        self._places: dict[tuple[str, int], Place] = {}  # one object a partition, so that `is` compares them
        self._fed: dict[Place, int] = {}
        self._ahead = Ahead()
        self._presence.covers = self._ahead.covers
        self.fed_records = 0

    def begin_events(self, starts: Sequence[int], *, anew: bool = False) -> None:
        """`device.events` has these partitions and will be fed from these offsets; from 0 means nothing is missing.

        Partitions that are known already go on as they are, unless the topic was made `anew`.
        """
        with self._lock:
            self._presence.begin(starts, anew=anew)

    def begin_anew(self, topic: str) -> None:
        """A topic was made anew: its offsets begin at 0 again."""
        with self._lock:
            for place in self._fed:
                if place.topic == topic:
                    self._fed[place] = 0

    def feed(self, topic: str, partition: int, piece: Slice) -> None:
        """Take what one read of one partition brought. Pieces of a partition come in order, each once."""
        if topic in _NOT_FED:
            return
        place = self._place(topic, partition)
        if topic == EVENTS_TOPIC:
            with self._lock:
                self._presence.feed(place, piece)
                self._fed[place] = piece.next_offset
        else:
            self._feed_readings(place, piece)
        self.fed_records += len(piece.records)
        if self._ahead:
            with self._lock:
                self._ahead.settle(self._fed)

    def _feed_readings(self, place: Place, piece: Slice) -> None:
        records = piece.records
        for start in range(0, len(records), _FEED_CHUNK):
            chunk = records[start : start + _FEED_CHUNK]
            with self._lock:
                following = chunk[-1].offset + 1
                if self._ahead.reaches(place, chunk[0].offset):
                    covers = self._ahead.covers
                    chunk = [one for one in chunk if not covers(device_key(one) or b"", place, one.offset)]
                self._readings.feed(place, chunk)
                self._fed[place] = following
        with self._lock:
            self._fed[place] = piece.next_offset

    def _place(self, topic: str, partition: int) -> Place:
        return self._places.setdefault((topic, partition), Place(topic, partition))

    # Snapshots

    @property
    def settled(self) -> bool:
        """Whether the log has been read to beyond what the snapshot held that the view began with."""
        return not self._ahead

    @property
    def events_complete(self) -> Sequence[bool]:
        """By partition of `device.events`: whether nothing is missing since a known beginning."""
        with self._lock:
            return self._presence.complete

    def begin_snapshot(self, topic_ids: Mapping[str, str], taken_ms: int) -> tuple[Head, Sequence[bytes]]:
        """The head of a snapshot as of now, and the devices to be copied into it."""
        with self._lock:
            head = Head(
                topics={place.topic: self._topic(place.topic, topic_ids) for place in self._fed},
                fed=self._fed_rows(),
                complete=list(self._presence.complete),
                evicted=self._table.evicted,
                taken_ms=taken_ms,
            )
            return head, self._table.order()

    def copy(self, keys: Sequence[bytes]) -> Block:
        """The entries of these devices as they are now (those that gave way are left out); holds the lock."""
        with self._lock:
            fed = self._fed_rows()
            index = {place: number for number, place in enumerate(self._fed)}
            devices = self._table.devices
            return Block(fed=fed, rows=[row_of(devices[key], index) for key in keys if key in devices])

    def restore(self, snapshot: Snapshot) -> None:
        """Begin with what a snapshot holds, before anything is fed. Raises SnapshotError, and changes nothing then."""
        head = snapshot.head
        for name, topic in head.topics.items():
            if (topic.sequence_field, topic.timestamp_field) != tuple(self._names_of(name)):
                raise SnapshotError(f"topic {name!r} had other names for the fields of sequence and time")
        restored: dict[bytes, TrackedDevice] = {}
        ahead = Ahead()
        for block in snapshot.blocks():
            places = [self._place(topic, partition) for topic, partition, _ in block.fed]
            try:
                found = {row.key: device_of(row, places) for row in block.rows}
            except IndexError as error:
                raise SnapshotError("a device names a partition that its block does not") from error
            restored.update(found)
            ahead.add(list(found), {place: row[2] for place, row in zip(places, block.fed, strict=True)})
        complete = [begun and ended for begun, ended in zip(head.complete, snapshot.end.complete, strict=False)]
        with self._lock:
            self._fed = {self._place(topic, partition): offset for topic, partition, offset in head.fed}
            self._ahead = ahead
            self._presence.covers = ahead.covers
            self._ahead.settle(self._fed)
            kept = self._table.restore(restored, head.evicted)
            self._presence.restore(complete, [device for device in kept if device.open])

    def _topic(self, name: str, topic_ids: Mapping[str, str]) -> SnapshotTopic:
        names = self._names_of(name)
        return SnapshotTopic(
            topic_id=topic_ids.get(name, ""), sequence_field=names.sequence, timestamp_field=names.time
        )

    def _fed_rows(self) -> list[FedRow]:
        return [(place.topic, place.partition, offset) for place, offset in self._fed.items()]

    # Reading

    @property
    def devices(self) -> int:
        """Devices known."""
        return len(self._table.devices)

    @property
    def connected_devices(self) -> int:
        """Devices with a session open, as far as the events were fed."""
        return self._presence.connected_devices

    @property
    def evicted_devices(self) -> int:
        """Devices that gave way because the table was full."""
        return self._table.evicted

    @property
    def records_without_device(self) -> int:
        """Records fed that name no device."""
        return self._readings.without_device

    @property
    def undecodable_records(self) -> int:
        """Records fed of which no field could be read."""
        return self._readings.undecodable

    @property
    def bad_events(self) -> int:
        """Records of `device.events` that could not be read."""
        return self._presence.bad_events

    def get(self, key: bytes, *, current: bool, as_of_ms: int | None = None) -> DeviceStatus | None:
        """One device with its fields, or None when nothing is known of it.

        `current`: the view is up to date, as of `as_of_ms`; without that time nobody is said to be silent.
        """
        with self._lock:
            device = self._table.devices.get(key)
            return None if device is None else self._status(device, current, as_of_ms, _fields(device))

    def page(
        self, *, current: bool, as_of_ms: int | None = None, search: str = "", after: bytes = b"", limit: int = 100
    ) -> tuple[list[DeviceStatus], bytes | None]:
        """Devices in order of their ids' bytes, those after `after` whose id contains `search`; without their fields.

        ASCII letters match in either case, others as they are.

        The second value is where the next page begins (`after`), None at the end. Cost: linear in the devices
        passed over, so at most one pass over the table.
        """
        with self._lock:
            order = self._table.order()
        found: list[bytes] = []
        needle = search.encode("utf-8", "replace").lower()
        following = None
        for index in range(bisect_right(order, after) if after else 0, len(order)):
            if needle not in order[index].lower():
                continue
            if len(found) == limit:
                following = found[-1]
                break
            found.append(order[index])
        with self._lock:
            devices = [device for key in found if (device := self._table.devices.get(key)) is not None]
            return [self._status(device, current, as_of_ms, None) for device in devices], following

    def _status(
        self, device: TrackedDevice, current: bool, as_of_ms: int | None, fields: Mapping[str, FieldValue] | None
    ) -> DeviceStatus:
        reading = _last_reading(device)
        rate_1m, rate_15m = device.rates((device.last_seen_ms if as_of_ms is None else as_of_ms) // PERIOD_MS)
        track = device.sequence
        return DeviceStatus(
            key=device.key,
            device=device_text(device.key),
            first_seen_ms=device.first_seen_ms if reading else None,
            last_seen_ms=device.last_seen_ms if reading else None,
            messages=device.messages,
            size_bytes=device.size_bytes,
            last=reading,
            places=device.places,
            sessions=tuple(device.sessions.values()) if current else (),
            further_sessions=device.further if current else 0,
            connected=self._presence.is_connected(device) if current else None,
            last_disconnect_reason=device.last_reason,
            silence=self._silence(device, as_of_ms if current else None),
            clock_skew_ms=device.skew_ms,
            rate_1m=rate_1m,
            rate_15m=rate_15m,
            numbering=None if track is None else _numbering(track),
            resends=device.resends,
            undecodable=device.undecodable,
            fields=fields,
            fields_cut=device.fields_cut,
        )

    def _silence(self, device: TrackedDevice, as_of_ms: int | None) -> Silence:
        configured_ms = self._expected(device.key)
        interval_ms = configured_ms if configured_ms is not None else device.interval_ms or None
        limit_ms = allowed_ms(device.interval_ms, configured_ms)
        state, since_ms = Reporting.UNKNOWN, None
        if as_of_ms is not None and limit_ms is not None and device.last is not None:
            due_ms = device.last_seen_ms + limit_ms
            silent = as_of_ms > due_ms
            state = Reporting.SILENT if silent else Reporting.REPORTING
            since_ms = due_ms if silent else device.reporting_since_ms
        return Silence(state=state, since_ms=since_ms, interval_ms=interval_ms, configured=configured_ms is not None)


def device_text(key: bytes) -> str:
    """A device id as text. The edge admits UTF-8 only; what another producer wrote is shown with escapes."""
    return key.decode("utf-8", "backslashreplace")


def _last_reading(device: TrackedDevice) -> LastReading | None:
    last = device.last
    if last is None or device.place is None:
        return None
    headers: Sequence[Header] = tuple(last.headers)
    return LastReading(
        place=device.place,
        offset=last.offset,
        received_ms=last.timestamp,
        value=last.value,
        headers=headers,
        large=device.last_large,
    )


def _numbering(track: SequenceTrack) -> Numbering:
    return Numbering(newest=track.next - 1, missing=track.missing, duplicates=track.duplicates, restarts=track.restarts)


def _fields(device: TrackedDevice) -> Mapping[str, FieldValue]:
    return {
        path: FieldValue(time_ms=time_ms, value=value) for path, (time_ms, value) in sorted(device.fields().items())
    }
