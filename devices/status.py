"""What every device said last and whether it is connected: a consumer of the log, rebuilt from it at any time.

Two kinds of records are fed in. Records of device topics: the device is the record's key, or the value of the header
`headrace.device` where that stands (an empty value: no device). Records of `device.events`: sessions that opened
and ended.

The rules of "connected", because an online flag that guesses is worse than none:

* A device is connected while at least one session of its is open. Sessions are told apart by their id, so a takeover
  (the new session's `connected` before or after the old one's `disconnected`) and a storm of reconnects come out
  right in whatever order the two arrive.
* `edge.started` stands in every partition of `device.events`. It ends, in its own partition, every session of another
  boot. All events of a device stand in one partition, so the order between partitions does not matter.
* `False` is claimed only when the events of the device's partition are known without a hole since the log began or
  since the last `edge.started`. Where the beginning has expired, where recovery reported a gap, or where a
  connected device had to give way to others, a device without a known open session is `None`: not known.
* Whether the view as a whole is up to date is the tail's business (devices/tail.py): `snapshot(..., current=False)`
  gives `None` for every device.

Bounds: `max_devices` devices (the longest silent gives way, counted), `MAX_KEPT_BYTES` of a last reading (a larger one
is read from the log when asked for), `MAX_SESSIONS` named sessions a device (further ones are counted).
A feeding thread and any number of reading threads may use a view at the same time.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from commitlog.base import Header, Record, Slice
from commitlog.partitioner import partition_for_key
from devices.status_model import DeviceStatus, DeviceTable, LargeRecord, LastReading, Place, Session, TrackedDevice

EVENTS_TOPIC: Final = "device.events"
TOPICS_WITHOUT_DEVICES: Final = frozenset({"mqtt", "alerts", EVENTS_TOPIC})
DEVICE_HEADER: Final = "headrace.device"

MAX_KEPT_BYTES: Final = 1024  # payload and header values; times 200,000 devices this is what a small box can spare
MAX_SESSIONS: Final = 8  # a device normally has one, two for a moment at a takeover
_FEED_CHUNK: Final = 1000  # records fed per hold of the lock, about a millisecond: what a reading thread may wait


class DeviceEvent(msgspec.Struct, frozen=True):
    """A record of `device.events`, as the edge writes it."""

    event: str
    boot_id: str = ""
    device: str | None = None
    session: str | None = None
    client_id: str | None = None
    protocol: str | None = None
    peer: str | None = None
    reason: str | None = None


_decode_event: Final = msgspec.json.Decoder(DeviceEvent).decode


class StatusView:
    """Last reading, counts and open sessions of every device in the log."""

    def __init__(self, *, max_devices: int) -> None:
        self._lock = threading.Lock()
        self._table = DeviceTable(max_devices=max_devices)
        self._complete: list[bool] = []  # by partition of device.events: nothing is missing since a known beginning
        self._connected: list[dict[bytes, TrackedDevice]] = []
        self._places: dict[tuple[str, int], Place] = {}  # one object a partition, so that `is` compares them
        self.fed_records = 0
        self.records_without_device = 0
        self.bad_events = 0
        self._handlers: dict[str, Callable[[int, Record, DeviceEvent], None]] = {
            "connected": self._session_opened,
            "disconnected": self._session_ended,
            "edge.started": self._edge_started,
        }

    def begin_events(self, starts: Sequence[int], *, anew: bool = False) -> None:
        """`device.events` has these partitions and will be fed from these offsets; from 0 means nothing is missing.

        Partitions that are known already go on as they are, unless the topic was made `anew`.
        """
        with self._lock:
            for partition in range(len(self._complete) if anew else 0):
                self._events_missing(partition)
            for partition in range(len(self._complete), len(starts)):
                self._complete.append(starts[partition] == 0)
                self._connected.append({})

    def feed(self, topic: str, partition: int, piece: Slice) -> None:
        """Take what one read of one partition brought. Pieces of a partition come in order, each once."""
        if topic == EVENTS_TOPIC:
            with self._lock:
                self._feed_events(partition, piece)
                self.fed_records += len(piece.records)
            return
        if topic in TOPICS_WITHOUT_DEVICES:
            return
        place = self._places.setdefault((topic, partition), Place(topic, partition))
        records = piece.records
        for start in range(0, len(records), _FEED_CHUNK):
            with self._lock:
                self._feed_readings(place, records[start : start + _FEED_CHUNK])
        self.fed_records += len(records)

    # Readings

    def _feed_readings(self, place: Place, records: Sequence[Record]) -> None:
        """The hot loop: a look-up and a few stores a record; nothing is decoded."""
        devices = self._table.devices
        for record in records:
            key = record.key
            headers_bytes = 0
            for name, header in record.headers:
                if header is not None:
                    headers_bytes += len(header)
                if name == DEVICE_HEADER:
                    key = header
            if not key:
                self.records_without_device += 1
                continue
            timestamp = record.timestamp
            device = devices.get(key)
            if device is None:
                device = self._admit(key, timestamp)
            value = record.value
            value_bytes = 0 if value is None else len(value)
            device.messages += 1
            device.size_bytes += value_bytes
            if device.place is not place:
                device.note(place)
            if timestamp >= device.last_seen_ms:
                device.last_seen_ms = timestamp
                device.place = place
                if value_bytes + headers_bytes > MAX_KEPT_BYTES:
                    record = LargeRecord(record.offset, timestamp)
                device.last = record
            elif timestamp < device.first_seen_ms:
                device.first_seen_ms = timestamp

    def _admit(self, key: bytes, timestamp_ms: int) -> TrackedDevice:
        device, gave_way = self._table.admit(key, timestamp_ms)
        if gave_way is not None and gave_way.open:
            partition = gave_way.events_partition
            del self._connected[partition][gave_way.key]
            self._complete[partition] = False
        return device

    # Sessions

    def _feed_events(self, partition: int, piece: Slice) -> None:
        # Gaps and records of a slice interleave by offset; an event after a gap may count on nothing before it.
        gaps = sorted(piece.gaps, key=lambda gap: gap.first, reverse=True)
        for record in piece.records:
            while gaps and gaps[-1].first <= record.offset:
                gaps.pop()
                self._events_missing(partition)
            self._feed_event(partition, record)
        if gaps:
            self._events_missing(partition)

    def _feed_event(self, partition: int, record: Record) -> None:
        try:
            event = _decode_event(record.value or b"")
        except msgspec.MsgspecError:
            self.bad_events += 1
            return
        handler = self._handlers.get(event.event)
        if handler is not None:  # wills and what later versions add say nothing about sessions
            handler(partition, record, event)

    def _session_opened(self, partition: int, record: Record, event: DeviceEvent) -> None:
        key = _device_of(record, event)
        if not key or event.session is None:
            self.bad_events += 1
            return
        device = self._table.devices.get(key) or self._admit(key, record.timestamp)
        device.events_partition = partition
        device.event_ms = max(device.event_ms, record.timestamp)
        session = Session(
            session=event.session,
            boot_id=event.boot_id,
            since_ms=record.timestamp,
            client_id=event.client_id,
            protocol=event.protocol,
            peer=event.peer,
        )
        device.open_session(session, MAX_SESSIONS)
        self._connected[partition][key] = device

    def _session_ended(self, partition: int, record: Record, event: DeviceEvent) -> None:
        device = self._table.devices.get(_device_of(record, event))
        if device is None or event.session is None:
            return
        device.event_ms = max(device.event_ms, record.timestamp)
        device.last_reason = event.reason
        device.close_session(event.session)
        if not device.open:
            self._connected[partition].pop(device.key, None)

    def _edge_started(self, partition: int, _record: Record, event: DeviceEvent) -> None:
        connected = self._connected[partition]
        for device in list(connected.values()):
            device.keep_boot(event.boot_id)
            if not device.open:
                del connected[device.key]
        self._complete[partition] = True

    def _events_missing(self, partition: int) -> None:
        """A hole in the events: any open session may have ended in it, any device may have connected in it."""
        for device in self._connected[partition].values():
            device.forget_sessions()
        self._connected[partition].clear()
        self._complete[partition] = False

    # Reading

    @property
    def devices(self) -> int:
        """Devices known."""
        return len(self._table.devices)

    @property
    def connected_devices(self) -> int:
        """Devices with a session open, as far as the events were fed."""
        return sum(map(len, self._connected))

    @property
    def evicted_devices(self) -> int:
        """Devices that gave way because the table was full."""
        return self._table.evicted

    def get(self, key: bytes, *, current: bool) -> DeviceStatus | None:
        """One device, or None when the log has nothing of it. `current`: the view is up to date (see above)."""
        with self._lock:
            device = self._table.devices.get(key)
            return None if device is None else self._status(device, current)

    def page(
        self, *, current: bool, search: str = "", after: bytes = b"", limit: int = 100
    ) -> tuple[list[DeviceStatus], bytes | None]:
        """Devices in order of their ids' bytes, those after `after` whose id contains `search`.

        ASCII letters match in either case, others as they are.

        The second value is where the next page begins (`after`), None at the end. Cost: linear in the devices
        passed over, so at most one pass over the table.
        """
        with self._lock:
            order = self._table.order()
        found: list[bytes] = []
        needle = search.encode("utf-8", "replace").lower()
        for index in range(bisect_right(order, after) if after else 0, len(order)):
            if needle not in order[index].lower():
                continue
            if len(found) == limit:
                return self._statuses(found, current), found[-1]
            found.append(order[index])
        return self._statuses(found, current), None

    def _statuses(self, keys: Sequence[bytes], current: bool) -> list[DeviceStatus]:
        with self._lock:
            devices = self._table.devices
            return [self._status(device, current) for key in keys if (device := devices.get(key)) is not None]

    def _status(self, device: TrackedDevice, current: bool) -> DeviceStatus:
        last = device.last
        reading = None
        if last is not None and device.place is not None:
            headers: Sequence[Header] = tuple(last.headers)
            reading = LastReading(
                place=device.place,
                offset=last.offset,
                received_ms=last.timestamp,
                value=last.value,
                headers=headers,
                large=isinstance(last, LargeRecord),
            )
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
            connected=self._is_connected(device) if current else None,
            last_disconnect_reason=device.last_reason,
        )

    def _is_connected(self, device: TrackedDevice) -> bool | None:
        if device.open:
            return True
        if not self._complete:
            return None
        if device.events_partition < 0:
            device.events_partition = partition_for_key(device.key, len(self._complete))
        return False if self._complete[device.events_partition] else None


def device_text(key: bytes) -> str:
    """A device id as text. The edge admits UTF-8 only; what another producer wrote is shown with escapes."""
    return key.decode("utf-8", "backslashreplace")


def _device_of(record: Record, event: DeviceEvent) -> bytes:
    return record.key or (event.device or "").encode()
