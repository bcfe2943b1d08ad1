"""The status view's mutable entries, and their table: bounded, and in order when somebody asks."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, Final

from commitlog.base import Header, Record
from devices.field_store import EMPTY, Entry, entry, merge, unpack
from devices.payload_fields import Shape, leaves
from devices.rates import KEEP_1M, KEEP_15M, after_periods
from devices.rhythm import allowed_ms, learn_ms
from devices.sequence import SequenceTrack
from devices.status_model import Place, Session
from wire.device_time import MS_FROM, MS_TO, US_PER_MS, time_us
from wire.paths import DEFAULT_FIELD

MAX_PLACES: Final = 16  # (topic, partition) pairs remembered a device; a device has one, or one per route it uses
SKEWS: Final = 9
"""Clock readings of which the median counts: four bad ones among them, such as of buffered readings, do no harm."""
NEVER_MS: Final = -(1 << 62)  # further back than any clock goes
NO_SHAPE: Final[Shape] = ()


class KeptRecord:
    """A record without what its place in the table says: from a snapshot, or too large to keep (then no value)."""

    __slots__ = ("headers", "large", "offset", "timestamp", "value")

    def __init__(
        self,
        offset: int,
        timestamp: int,
        value: bytes | None = None,
        headers: Sequence[Header] = (),
        *,
        large: bool = False,
    ) -> None:
        self.offset = offset
        self.timestamp = timestamp
        self.value = value
        self.headers = headers
        self.large = large


_NO_SESSIONS: Final[Mapping[str, Session]] = {}


class TrackedDevice:
    """The mutable entry of one device. 100,000s of them live at once: slots, and nothing made before it is needed.

    What stands in `last` and what in `older`: the newest record is kept as it came, and `shape` says which fields it
    names. Only when another shape follows are its values put into `older`. `shape` is None where that has to be done
    whatever follows.
    """

    __slots__ = (
        "event_ms",
        "events_partition",
        "fields_cut",
        "first_seen_ms",
        "further",
        "in_period",
        "interval_ms",
        "key",
        "last",
        "last_field",
        "last_reason",
        "last_seen_ms",
        "mark_ms",
        "messages",
        "older",
        "period",
        "place",
        "places",
        "rate_1m",
        "rate_15m",
        "reporting_since_ms",
        "resends",
        "sequence",
        "sessions",
        "shape",
        "size_bytes",
        "skew_count",
        "skews",
        "undecodable",
    )

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.messages = 0
        self.size_bytes = 0
        self.first_seen_ms = NEVER_MS
        self.last_seen_ms = 0
        self.last: Record | KeptRecord | None = None
        self.last_field = DEFAULT_FIELD  # what the last record's payload is the value of, if it is no object
        self.shape: Shape | None = NO_SHAPE
        self.older = EMPTY
        self.fields_cut = False
        self.undecodable = 0
        self.resends = 0
        self.sequence: SequenceTrack | None = None
        self.mark_ms = NEVER_MS
        self.interval_ms = 0
        self.reporting_since_ms = NEVER_MS
        self.skews: array[int] | None = None
        self.skew_count = 0
        self.period = 0
        self.in_period = 0
        self.rate_1m = 0.0
        self.rate_15m = 0.0
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
    def last_large(self) -> bool:
        """Whether the last record was too large to keep."""
        return isinstance(self.last, KeptRecord) and self.last.large

    @property
    def heard_ms(self) -> int:
        """When anything was heard of it last."""
        return max(self.last_seen_ms, self.event_ms)

    def mark(self, timestamp_ms: int, configured_ms: int | None, told_time: Any) -> None:
        """A burst begins: what it says of the device's rhythm, and of its clock."""
        gap_ms = timestamp_ms - self.mark_ms
        if self.mark_ms == NEVER_MS:  # its first reading
            self.first_seen_ms = self.reporting_since_ms = timestamp_ms
        else:
            limit_ms = allowed_ms(self.interval_ms, configured_ms)
            if limit_ms is not None and gap_ms > limit_ms:
                self.reporting_since_ms = timestamp_ms
            self.interval_ms = learn_ms(self.interval_ms, gap_ms)
        self.mark_ms = timestamp_ms
        if told_time is None:
            return
        if type(told_time) is int and MS_FROM <= told_time < MS_TO:  # what most devices write, without a call
            self.note_skew(told_time - timestamp_ms)
        elif (us := time_us(told_time)) is not None:
            self.note_skew(us // US_PER_MS - timestamp_ms)

    def note_skew(self, skew_ms: int) -> None:
        """The device's clock was so far ahead of the time received."""
        if self.skews is None:
            self.skews = array("q", bytes(8 * SKEWS))
        self.skews[self.skew_count % SKEWS] = skew_ms
        self.skew_count += 1

    @property
    def skew_ms(self) -> int | None:
        """The median of the newest `SKEWS` (the lower of the two in the middle); None: it tells no time."""
        if self.skews is None:
            return None
        newest = sorted(self.skews[: self.skew_count])
        return newest[(len(newest) - 1) // 2]

    def end_periods(self, period: int) -> None:
        """The readings counted since belong to a period that has ended, as `period` has begun."""
        self.rate_1m, self.rate_15m = self.rates(period)
        self.period = period
        self.in_period = 0

    def rates(self, period: int) -> tuple[float, float]:
        """Readings a second over a minute and 15, as of the beginning of `period`."""
        passed = period - self.period
        if passed <= 0:
            return self.rate_1m, self.rate_15m
        return (
            after_periods(self.rate_1m, self.in_period, passed, KEEP_1M),
            after_periods(self.rate_15m, self.in_period, passed, KEEP_15M),
        )

    def retire_last(self) -> None:
        """Put the values of the last record with those told before: what comes next may not have them."""
        last = self.last
        if last is not None and last.value is not None:
            self.add_fields(last.timestamp, leaves(last.value, self.last_field))

    def add_fields(self, time_ms: int, told: Mapping[str, bytes]) -> None:
        """Values of a record that is not kept as it came."""
        if told:
            self.older, gave_way = merge(self.older, time_ms, told)
            self.fields_cut = self.fields_cut or gave_way

    def fields(self) -> dict[str, Entry]:
        """Every field that is kept: its newest value, and when it was received."""
        entries = unpack(self.older)
        last = self.last
        if last is not None and last.value is not None:
            for path, leaf in leaves(last.value, self.last_field).items():
                entries[path] = entry(last.timestamp, leaf)
        return entries

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
        device = self.devices[key] = TrackedDevice(key)
        self._added[key] = None
        if self._silent is not None:
            heapq.heappush(self._silent, (timestamp_ms, key))
        return device, gave_way

    def restore(self, devices: Mapping[bytes, TrackedDevice], evicted: int) -> Sequence[TrackedDevice]:
        """Begin with these, those heard last where they are too many; returns them."""
        newest = sorted(devices.values(), key=lambda device: device.heard_ms, reverse=True)[: self._max_devices]
        self.devices.update((device.key, device) for device in newest)
        self._added.update(dict.fromkeys(self.devices))
        self.evicted += evicted + len(devices) - len(newest)
        return newest

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
