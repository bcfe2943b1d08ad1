"""Entries of the status view as plain rows, and back: what a snapshot keeps of a device.

A row names partitions by their place in a list that stands beside it. It holds everything but what follows from the
last record by itself (its shape) or from the topic of events (the partition of its sessions, where none is open).
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

import msgspec

from devices.sequence import SequenceTrack
from devices.status_model import Place, Session
from devices.tracked import NO_SHAPE, SKEWS, KeptRecord, TrackedDevice

SequenceRow = tuple[int, int, Sequence[int], int, int, int]


class LastRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The last record; `place` is where it stands, -1 where that is not followed any more."""

    place: int
    offset: int
    timestamp_ms: int
    large: bool
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    field: str


class SessionRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An open session."""

    session: str
    boot_id: str
    since_ms: int
    client_id: str | None
    protocol: str | None
    peer: str | None


class DeviceRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A device; docs/formats.md says what each field is."""

    key: bytes
    first_seen_ms: int
    last_seen_ms: int
    messages: int
    size_bytes: int
    last: LastRow | None
    places: list[int]
    older: bytes
    fields_cut: bool
    undecodable: int
    resends: int
    sequence: SequenceRow | None
    mark_ms: int
    interval_ms: int
    reporting_since_ms: int
    skews_ms: list[int]
    skew_count: int
    period: int
    in_period: int
    rate_1m: float
    rate_15m: float
    sessions: list[SessionRow]
    further: int
    event_ms: int
    events_partition: int
    last_reason: str | None


def row_of(device: TrackedDevice, index: Mapping[Place, int]) -> DeviceRow:
    """The row of an entry; `index` says where places stand in the list beside it."""
    return DeviceRow(
        key=device.key,
        first_seen_ms=device.first_seen_ms,
        last_seen_ms=device.last_seen_ms,
        messages=device.messages,
        size_bytes=device.size_bytes,
        last=_last_row(device, index),
        places=[index[place] for place in device.places],
        older=device.older,
        fields_cut=device.fields_cut,
        undecodable=device.undecodable,
        resends=device.resends,
        sequence=None if device.sequence is None else device.sequence.row(),
        mark_ms=device.mark_ms,
        interval_ms=device.interval_ms,
        reporting_since_ms=device.reporting_since_ms,
        skews_ms=[] if device.skews is None else device.skews.tolist(),
        skew_count=device.skew_count,
        period=device.period,
        in_period=device.in_period,
        rate_1m=device.rate_1m,
        rate_15m=device.rate_15m,
        sessions=[_session_row(session) for session in device.sessions.values()],
        further=device.further,
        event_ms=device.event_ms,
        events_partition=device.events_partition,
        last_reason=device.last_reason,
    )


def device_of(row: DeviceRow, places: Sequence[Place]) -> TrackedDevice:
    """The entry of a row. Raises IndexError for a place that is not in the list."""
    device = TrackedDevice(row.key)
    device.first_seen_ms = row.first_seen_ms
    device.last_seen_ms = row.last_seen_ms
    device.messages = row.messages
    device.size_bytes = row.size_bytes
    if row.last is not None:
        _restore_last(device, row.last, places)
    device.places = tuple(places[number] for number in row.places)
    device.older = row.older
    device.fields_cut = row.fields_cut
    device.undecodable = row.undecodable
    device.resends = row.resends
    device.sequence = None if row.sequence is None else SequenceTrack.of_row(row.sequence)
    device.mark_ms = row.mark_ms
    device.interval_ms = row.interval_ms
    device.reporting_since_ms = row.reporting_since_ms
    device.skews = array("q", row.skews_ms) if len(row.skews_ms) == SKEWS else None
    device.skew_count = row.skew_count
    device.period = row.period
    device.in_period = row.in_period
    device.rate_1m = row.rate_1m
    device.rate_15m = row.rate_15m
    for session in row.sessions:
        device.open_session(_session_of(session), len(row.sessions))
    device.further = row.further
    device.event_ms = row.event_ms
    device.events_partition = row.events_partition
    device.last_reason = row.last_reason
    return device


def _last_row(device: TrackedDevice, index: Mapping[Place, int]) -> LastRow | None:
    last = device.last
    if last is None or device.place is None:
        return None
    return LastRow(
        place=index[device.place],
        offset=last.offset,
        timestamp_ms=last.timestamp,
        large=device.last_large,
        value=last.value,
        headers=list(last.headers),
        field=device.last_field,
    )


def _restore_last(device: TrackedDevice, last: LastRow, places: Sequence[Place]) -> None:
    device.place = places[last.place]
    device.last = KeptRecord(last.offset, last.timestamp_ms, last.value, last.headers, large=last.large)
    device.last_field = last.field
    device.shape = NO_SHAPE if last.large else None


def _session_row(session: Session) -> SessionRow:
    return SessionRow(
        session=session.session,
        boot_id=session.boot_id,
        since_ms=session.since_ms,
        client_id=session.client_id,
        protocol=session.protocol,
        peer=session.peer,
    )


def _session_of(row: SessionRow) -> Session:
    return Session(
        session=row.session,
        boot_id=row.boot_id,
        since_ms=row.since_ms,
        client_id=row.client_id,
        protocol=row.protocol,
        peer=row.peer,
    )
