"""The status view's values, and its table of devices: bounded, and in order when somebody asks."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from commitlog.base import Header, Record

MAX_PLACES: Final = 16  # (topic, partition) pairs remembered a device; a device has one, or one per route it uses


class Place(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """An open session of a device; `since_ms` is when the device first published in it."""

    session: str
    boot_id: str
    since_ms: int
    client_id: str | None
    protocol: str | None
    peer: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LastReading:
    """The newest record of a device. A `large` one is not kept: `value` is None, the log has it at `offset`."""

    place: Place
    offset: int
    received_ms: int
    value: bytes | None
    headers: Sequence[Header]
    large: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStatus:
    """A device as of one moment. Times are received times within what the log still holds.

    `connected` is None when it is not known; `last_disconnect_reason` is that of the last session that ended.
    """

    key: bytes
    device: str
    first_seen_ms: int | None
    last_seen_ms: int | None
    messages: int
    size_bytes: int
    last: LastReading | None
    places: Sequence[Place]
    sessions: Sequence[Session]
    further_sessions: int
    connected: bool | None
    last_disconnect_reason: str | None


class LargeRecord:
    """Stands for a record that is too large to keep."""

    __slots__ = ("offset", "timestamp")

    key: None = None
    value: None = None

    def __init__(self, offset: int, timestamp: int) -> None:
        self.offset = offset
        self.timestamp = timestamp

    @property
    def headers(self) -> list[Header]:
        """None kept."""
        return []


_NO_SESSIONS: Final[Mapping[str, Session]] = {}


class TrackedDevice:
    """The mutable entry of one device. 100,000s of them live at once: slots, and nothing made before it is needed."""

    __slots__ = (
        "event_ms",
        "events_partition",
        "first_seen_ms",
        "further",
        "key",
        "last",
        "last_reason",
        "last_seen_ms",
        "messages",
        "place",
        "places",
        "sessions",
        "size_bytes",
    )

    def __init__(self, key: bytes, timestamp_ms: int) -> None:
        self.key = key
        self.messages = 0
        self.size_bytes = 0
        self.first_seen_ms = timestamp_ms
        self.last_seen_ms = 0
        self.last: Record | LargeRecord | None = None
        self.place: Place | None = None
        self.places: tuple[Place, ...] = ()
        self.sessions: Mapping[str, Session] = _NO_SESSIONS
        self.further = 0  # open sessions beyond the ones kept by name
        self.event_ms = 0
        self.events_partition = -1
        self.last_reason: str | None = None

    @property
    def open(self) -> bool:
        """Whether any session is open."""
        return bool(self.sessions) or self.further > 0

    @property
    def heard_ms(self) -> int:
        """When anything was heard of it last."""
        return max(self.last_seen_ms, self.event_ms)

    def note(self, place: Place) -> None:
        """It was met at `place`."""
        if place not in self.places and len(self.places) < MAX_PLACES:
            self.places = (*self.places, place)

    def open_session(self, session: Session, limit: int) -> None:
        """A session opened; said twice counts once."""
        if session.session not in self.sessions and len(self.sessions) >= limit:
            self.further += 1
            return
        self.sessions = {**self.sessions, session.session: session}

    def close_session(self, session: str) -> None:
        """A session ended; one that is not open by name was one of the further ones, or ended before."""
        if session in self.sessions:
            self.sessions = {name: kept for name, kept in self.sessions.items() if name != session} or _NO_SESSIONS
        elif self.further:
            self.further -= 1

    def keep_boot(self, boot_id: str) -> None:
        """End every session of another boot."""
        kept = {name: session for name, session in self.sessions.items() if session.boot_id == boot_id}
        self.sessions = kept or _NO_SESSIONS
        self.further = 0

    def forget_sessions(self) -> None:
        """Nothing is known of its sessions any more."""
        self.sessions = _NO_SESSIONS
        self.further = 0


class DeviceTable:
    """At most `max_devices` entries by key; a new one beyond that takes the place of the longest silent.

    Who is the longest silent is found with a heap that is only built once the table is full. An entry's time in the
    heap may be old (devices go on talking); it is corrected when it comes up, so every correction is paid for by a
    reading, and readings themselves cost the heap nothing.
    """

    def __init__(self, *, max_devices: int) -> None:
        self._max_devices = max_devices
        self.devices: dict[bytes, TrackedDevice] = {}
        self.evicted = 0
        self._silent: list[tuple[int, bytes]] | None = None
        self._order: list[bytes] = []
        self._added: dict[bytes, None] = {}
        self._removed: set[bytes] = set()

    def admit(self, key: bytes, timestamp_ms: int) -> tuple[TrackedDevice, TrackedDevice | None]:
        """Make an entry for `key`, which has none; returns it and the entry that gave way, if any."""
        gave_way = self._make_room() if len(self.devices) >= self._max_devices else None
        device = self.devices[key] = TrackedDevice(key, timestamp_ms)
        self._added[key] = None
        if self._silent is not None:
            heapq.heappush(self._silent, (timestamp_ms, key))
        return device, gave_way

    def order(self) -> Sequence[bytes]:
        """All keys in byte order. The list returned is never changed afterwards."""
        if self._added or self._removed:
            kept = [key for key in self._order if key not in self._removed] if self._removed else self._order
            merged = kept + [key for key in self._added if key in self.devices]
            merged.sort()  # a sorted run and a short tail: close to linear
            self._order = merged
            self._added = {}
            self._removed = set()
        return self._order

    def _make_room(self) -> TrackedDevice:
        if self._silent is None:
            self._silent = [(device.heard_ms, key) for key, device in self.devices.items()]
            heapq.heapify(self._silent)
        while True:  # ends: each turn removes an entry or brings one up to date, and nobody feeds meanwhile
            noted_ms, key = self._silent[0]
            heard_ms = self.devices[key].heard_ms
            if heard_ms <= noted_ms:
                break
            heapq.heapreplace(self._silent, (heard_ms, key))
        heapq.heappop(self._silent)
        self.evicted += 1
        self._removed.add(key)
        self._added.pop(key, None)
        return self.devices.pop(key)
