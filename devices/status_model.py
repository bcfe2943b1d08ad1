"""What the status view says of a device at one moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from commitlog.base import Header
from devices.rhythm import Reporting


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
class Silence:
    """Whether a device is heard as often as expected, and since when that is so (None: not known).

    `since_ms` of a reporting device is when it was first heard after its last silence, of a silent one when its time
    was up. `interval_ms` is what is expected (None: nothing yet), `configured` whether an operator said so.
    """

    state: Reporting
    since_ms: int | None
    interval_ms: int | None
    configured: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldValue:
    """The newest value of a field as JSON (None: too large to keep), and when it was received."""

    time_ms: int
    value: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbering:
    """What sequence numbers tell: numbers that never came, that came twice, and how often they began anew."""

    newest: int
    missing: int
    duplicates: int
    restarts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStatus:
    """A device as of one moment. Times are times received.

    `connected` is None when it is not known; `last_disconnect_reason` is that of the last session that ended.
    `clock_skew_ms`: how far the device's clock is ahead of the box's (negative: behind), the median of its newest
    readings, the way to the box included; None: it tells no time. Rates are readings a second. `resends` were marked
    as such by their client (DUP). `fields` is None where it was not asked for; `fields_cut`: fields that it told long
    ago are not kept.
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
    silence: Silence
    clock_skew_ms: int | None
    rate_1m: float
    rate_15m: float
    numbering: Numbering | None
    resends: int
    undecodable: int
    fields: Mapping[str, FieldValue] | None
    fields_cut: bool
