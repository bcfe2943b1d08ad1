"""Who is connected: open sessions by device, from the records of `device.events`.

The rules, because an online flag that guesses is worse than none:

* A device is connected while at least one session of its is open. Sessions are told apart by their id, so a takeover
  (the new session's `connected` before or after the old one's `disconnected`) and a storm of reconnects come out
  right in whatever order the two arrive.
* `edge.started` stands in every partition of `device.events`. It ends, in its own partition, every session of another
  boot. All events of a device stand in one partition, so the order between partitions does not matter.
* `False` is claimed only when the events of the device's partition are known without a hole since the log began or
  since the last `edge.started`. Where the beginning has expired, where recovery reported a gap, or where a
  connected device had to give way to others, a device without a known open session is `None`: not known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from commitlog.base import Record, Slice
from commitlog.partitioner import partition_for_key
from devices.status_model import Place, Session
from devices.tracked import DeviceTable, TrackedDevice

EVENTS_TOPIC: Final = "device.events"
MAX_SESSIONS: Final = 8  # a device normally has one, two for a moment at a takeover

Covers = Callable[[bytes, Place, int], bool]
"""Whether the entry of a device already holds what the record at an offset of a place says."""


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


def covers_nothing(_key: bytes, _place: Place, _offset: int) -> bool:
    """What covers where no snapshot was read."""
    return False


class Presence:
    """Open sessions of the devices in a table. Not safe for threads by itself: the view holds its lock."""

    def __init__(self, table: DeviceTable) -> None:
        self._table = table
        self._complete: list[bool] = []  # by partition of device.events: nothing is missing since a known beginning
        self._connected: list[dict[bytes, TrackedDevice]] = []
        self.covers: Covers = covers_nothing
        self.bad_events = 0
        self._handlers: dict[str, Callable[[Place, Record, DeviceEvent], None]] = {
            "connected": self._session_opened,
            "disconnected": self._session_ended,
            "edge.started": self._edge_started,
        }

    @property
    def connected_devices(self) -> int:
        """Devices with a session open, as far as the events were fed."""
        return sum(map(len, self._connected))

    @property
    def complete(self) -> Sequence[bool]:
        """By partition of `device.events`: whether a device without an open session is known to have none."""
        return tuple(self._complete)

    def begin(self, starts: Sequence[int], *, anew: bool) -> None:
        """See `StatusView.begin_events`."""
        for partition in range(len(self._complete) if anew else 0):
            self._missing(Place(EVENTS_TOPIC, partition), 0)
        for partition in range(len(self._complete), len(starts)):
            self._complete.append(starts[partition] == 0)
            self._connected.append({})

    def restore(self, complete: Sequence[bool], devices: Sequence[TrackedDevice]) -> None:
        """What a snapshot knew; `devices` have sessions open."""
        self._complete = list(complete)
        self._connected = [{} for _ in complete]
        for device in devices:
            if 0 <= device.events_partition < len(complete):
                self._connected[device.events_partition][device.key] = device
            else:
                device.forget_sessions()

    def admit(self, key: bytes, timestamp_ms: int) -> TrackedDevice:
        """Make an entry for a device that has none; whoever gives way to it is not known to be connected any more."""
        device, gave_way = self._table.admit(key, timestamp_ms)
        if gave_way is not None and gave_way.open:
            partition = gave_way.events_partition
            del self._connected[partition][gave_way.key]
            self._complete[partition] = False
        return device

    def feed(self, place: Place, piece: Slice) -> None:
        """Take a slice of a partition of `device.events`."""
        # Gaps and records of a slice interleave by offset; an event after a gap may count on nothing before it.
        gaps = sorted(piece.gaps, key=lambda gap: gap.first, reverse=True)
        for record in piece.records:
            while gaps and gaps[-1].first <= record.offset:
                self._missing(place, gaps.pop().next - 1)
            self._feed_event(place, record)
        while gaps:
            self._missing(place, gaps.pop().next - 1)

    def is_connected(self, device: TrackedDevice) -> bool | None:
        """Whether a session is open; None where that is not known."""
        if device.open:
            return True
        if not self._complete:
            return None
        if device.events_partition < 0:
            device.events_partition = partition_for_key(device.key, len(self._complete))
        return False if self._complete[device.events_partition] else None

    def _feed_event(self, place: Place, record: Record) -> None:
        try:
            event = _decode_event(record.value or b"")
        except msgspec.MsgspecError:
            self.bad_events += 1
            return
        handler = self._handlers.get(event.event)
        if handler is not None:  # wills and what later versions add say nothing about sessions
            handler(place, record, event)

    def _session_opened(self, place: Place, record: Record, event: DeviceEvent) -> None:
        key = _device_of(record, event)
        if not key or event.session is None:
            self.bad_events += 1
            return
        if self.covers(key, place, record.offset):
            return
        device = self._table.devices.get(key) or self.admit(key, record.timestamp)
        device.events_partition = place.partition
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
        self._connected[place.partition][key] = device

    def _session_ended(self, place: Place, record: Record, event: DeviceEvent) -> None:
        key = _device_of(record, event)
        device = self._table.devices.get(key)
        if device is None or event.session is None or self.covers(key, place, record.offset):
            return
        device.event_ms = max(device.event_ms, record.timestamp)
        device.last_reason = event.reason
        device.close_session(event.session)
        if not device.open:
            self._connected[place.partition].pop(device.key, None)

    def _edge_started(self, place: Place, record: Record, event: DeviceEvent) -> None:
        connected = self._connected[place.partition]
        for device in list(connected.values()):
            if self.covers(device.key, place, record.offset):
                continue
            device.keep_boot(event.boot_id)
            if not device.open:
                del connected[device.key]
        self._complete[place.partition] = True

    def _missing(self, place: Place, offset: int) -> None:
        """A hole ends with `offset`: any open session may have ended in it, any device may have connected in it."""
        connected = self._connected[place.partition]
        for device in list(connected.values()):
            if not self.covers(device.key, place, offset):
                device.forget_sessions()
                del connected[device.key]
        self._complete[place.partition] = False


def _device_of(record: Record, event: DeviceEvent) -> bytes:
    return record.key or (event.device or "").encode()
