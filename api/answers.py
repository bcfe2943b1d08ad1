"""From the view's and the log's values to the shapes of answers."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, unquote_to_bytes

import msgspec

from api.models import (
    DeviceDetail,
    DeviceField,
    DeviceRates,
    DeviceReporting,
    DeviceSequence,
    DeviceSummary,
    OpenSession,
    Reading,
    Registration,
    View,
)
from api.payload import present
from api.reader_pool import ReaderPool
from api.times import to_datetime
from commitlog.base import Header
from devices.registry_entry import RegistryRow
from devices.status_model import DeviceStatus, FieldValue, LastReading, Numbering, Place, Silence
from devices.tail import TailState, TailStatus


def key_from_path(segment: str) -> bytes:
    """The device key that a percent-encoded path segment (or cursor) names, byte for byte."""
    return unquote_to_bytes(segment.encode("utf-8", "surrogatepass"))


def path_of_key(key: bytes) -> str:
    """A device key as one path segment; the inverse of `key_from_path`."""
    return quote(key, safe="")


def view_of(status: TailStatus) -> View:
    """How far the status view can be trusted."""
    return View(
        state=status.state,
        stale=status.state is not TailState.LIVE,
        as_of=None if status.as_of_ms is None else to_datetime(status.as_of_ms),
        lag_records=status.lag_records,
    )


def registration_of(row: RegistryRow) -> Registration:
    """An entry of the registry."""
    return Registration(version=row.revision, **entry_fields(row))


def entry_fields(row: RegistryRow) -> dict[str, Any]:
    """An entry's fields as shapes have them: all of them, empty or not."""
    return msgspec.structs.asdict(row.entry) | {
        "tags": list(row.entry.tags),
        "position": None if row.entry.position is None else msgspec.structs.asdict(row.entry.position),
    }


def summary_of(device: DeviceStatus, row: RegistryRow | None) -> DeviceSummary:
    """A device in a list; `row`: its entry in the registry."""
    return DeviceSummary(**_summary(device, row))


def detail_of(device: DeviceStatus, row: RegistryRow | None, tail: TailStatus, readers: ReaderPool) -> DeviceDetail:
    """A device with its last reading, fetched from the log when it was too large to keep. Blocks."""
    return DeviceDetail(
        **_summary(device, row),
        sessions=[
            OpenSession(
                session=session.session,
                since=to_datetime(session.since_ms),
                client_id=session.client_id,
                protocol=session.protocol,
                peer=session.peer,
            )
            for session in device.sessions
        ],
        further_sessions=device.further_sessions,
        last_disconnect_reason=device.last_disconnect_reason,
        fields={path: _field(value) for path, value in (device.fields or {}).items()},
        fields_cut=device.fields_cut,
        sequence=None if device.numbering is None else _sequence(device.numbering),
        resends=device.resends,
        undecodable=device.undecodable,
        last_reading=None if device.last is None else _last_reading(device.last, readers),
        view=view_of(tail),
    )


def reading_of(
    place: Place, offset: int, received_ms: int, value: bytes | None, headers: tuple[Header, ...] | list[Header]
) -> Reading:
    """A record as an answer carries it."""
    shown = present(value or b"")
    return Reading(
        topic=place.topic,
        partition=place.partition,
        offset=offset,
        received_at=to_datetime(received_ms),
        mqtt_topic=mqtt_topic_of(headers),
        size_bytes=len(value or b""),
        decoded=shown.json is not None,
        payload=None if shown.json is None else msgspec.Raw(shown.json),
        payload_text=shown.text,
        payload_base64=shown.base64,
    )


def mqtt_topic_of(headers: tuple[Header, ...] | list[Header]) -> str | None:
    """The MQTT topic a record was published to."""
    for name, value in headers:
        if name == "mqtt.topic" and value is not None:
            return value.decode("utf-8", "backslashreplace")
    return None


def full_reading(last: LastReading, readers: ReaderPool) -> LastReading:
    """The last reading with its payload, from the log when it was too large to keep. Blocks."""
    if not last.large:
        return last
    with readers.reader() as reader:
        piece = reader.read(last.place.topic, last.place.partition, last.offset)
    for record in piece.records:
        if record.offset == last.offset:
            return LastReading(
                place=last.place,
                offset=last.offset,
                received_ms=last.received_ms,
                value=record.value,
                headers=tuple(record.headers),
                large=False,
            )
    return last  # expired meanwhile


def _last_reading(last: LastReading, readers: ReaderPool) -> Reading:
    full = full_reading(last, readers)
    if full.large:
        return Reading(
            topic=full.place.topic,
            partition=full.place.partition,
            offset=full.offset,
            received_at=to_datetime(full.received_ms),
            size_bytes=None,
            decoded=False,
        )
    return reading_of(full.place, full.offset, full.received_ms, full.value, tuple(full.headers))


def _summary(device: DeviceStatus, row: RegistryRow | None) -> dict[str, Any]:
    since_ms = min((session.since_ms for session in device.sessions), default=None)
    return {
        "device": device.device,
        "href": f"/api/v1/devices/{path_of_key(device.key)}",
        "connected": device.connected,
        "connected_since": None if since_ms is None else to_datetime(since_ms),
        "first_seen": None if device.first_seen_ms is None else to_datetime(device.first_seen_ms),
        "last_seen": None if device.last_seen_ms is None else to_datetime(device.last_seen_ms),
        "reporting": _reporting(device.silence),
        "clock_skew_s": None if device.clock_skew_ms is None else device.clock_skew_ms / 1000,
        "messages": device.messages,
        "size_bytes": device.size_bytes,
        "registry": None if row is None else registration_of(row),
        "rates": DeviceRates(over_1_minute=round(device.rate_1m, 3), over_15_minutes=round(device.rate_15m, 3)),
    }


def _reporting(silence: Silence) -> DeviceReporting:
    return DeviceReporting(
        state=silence.state,
        since=None if silence.since_ms is None else to_datetime(silence.since_ms),
        expected_interval_s=None if silence.interval_ms is None else silence.interval_ms / 1000,
        configured=silence.configured,
    )


def _field(field: FieldValue) -> DeviceField:
    return DeviceField(
        value=None if field.value is None else msgspec.Raw(field.value),
        large=field.value is None,
        received_at=to_datetime(field.time_ms),
    )


def _sequence(numbering: Numbering) -> DeviceSequence:
    return DeviceSequence(
        newest=numbering.newest,
        missing=numbering.missing,
        duplicates=numbering.duplicates,
        restarts=numbering.restarts,
    )
