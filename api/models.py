"""The shapes of answers, as OpenAPI documents them. Times are RFC 3339 in UTC; sizes are bytes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from api import examples
from api.examples import example
from devices.rhythm import Reporting
from devices.tail import TailState


class Shape(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(frozen=True)


def answer(shape: Shape) -> Response:
    """The shape as JSON. Payloads (`msgspec.Raw`) go out byte for byte as the device wrote them."""
    return Response(msgspec.json.encode(shape.model_dump(by_alias=True)), media_type="application/json")


class View(Shape):
    """How far what is said of devices can be trusted."""

    model_config = ConfigDict(json_schema_extra=example(examples.VIEW))

    state: TailState = Field(
        description="`live`: up to date. `replaying`: the log is still being read from its start. `behind`: readings "
        "arrive faster than the view takes them. `stale`: the process that writes the log is gone. `failed`: the log "
        "cannot be read. Only while `live` is `connected` told."
    )
    stale: bool = Field(description="Whether `connected` cannot be told now (any state but `live`).")
    as_of: datetime | None = Field(description="Everything committed by then is in the view; null: never yet.")
    lag_records: int = Field(description="Records committed but not yet in the view.")


class Reading(Shape):
    """A record of a device. Exactly one of `payload`, `payload_text`, `payload_base64` carries what it sent."""

    model_config = ConfigDict(json_schema_extra=example(examples.READING))

    topic: str = Field(description="Topic of the log.", examples=["telemetry"])
    partition: int = Field(examples=[3])
    offset: int = Field(examples=[18231])
    received_at: datetime
    mqtt_topic: str | None = Field(None, description="MQTT topic it was published to.", examples=["devices/press-17/t"])
    size_bytes: int | None = Field(description="Size of the payload; null when it was not kept in memory.")
    decoded: bool = Field(description="Whether the payload is JSON.")
    payload: Any = Field(None, description="The JSON the device sent, as it sent it.", examples=[{"temperature": 21.5}])
    payload_text: str | None = Field(None, description="The payload when it is UTF-8 but not JSON.")
    payload_base64: str | None = Field(None, description="The payload when it is not UTF-8.")


class OpenSession(Shape):
    """An open session of a device."""

    session: str
    since: datetime = Field(description="When the device first published in it.")
    client_id: str | None
    protocol: str | None = Field(examples=["mqtt"])
    peer: str | None = Field(examples=["127.0.0.1:51874"])


class Position(Shape):
    """Degrees of WGS 84."""

    latitude: float
    longitude: float


class Registration(Shape):
    """What people say of a device; empty fields were never set."""

    version: int = Field(description="Changes with every change; the `ETag` of the entry.", examples=[7])
    name: str = Field(examples=["Press 17"])
    tags: list[str] = Field(examples=[["press", "hall-4"]])
    location: str
    position: Position | None
    expected_interval_ms: int | None = Field(description="Milliseconds between two readings; null: not told.")
    units: dict[str, str] = Field(description="Unit by field.", examples=[{"temperature": "°C"}])
    notes: str


class DeviceReporting(Shape):
    """Whether a device is heard as often as is expected of it. Nothing else is said by it: not who is connected."""

    state: Reporting = Field(
        description="`reporting`, `silent`, or `unknown`: no interval is known yet, or the view is not `live`."
    )
    since: datetime | None = Field(
        description="`reporting`: when it was first heard after its last silence. `silent`: when its time was up."
    )
    expected_interval_s: float | None = Field(description="Null: neither configured nor learned yet.", examples=[1.0])
    configured: bool = Field(description="Whether an operator said the interval; else it was learned.")


class DeviceRates(Shape):
    """Readings a second, averaged as load averages are; as of the last whole 5 seconds."""

    over_1_minute: float
    over_15_minutes: float


class DeviceSequence(Shape):
    """What the sequence numbers in its payloads tell."""

    newest: int
    missing: int = Field(description="Numbers that never came.")
    duplicates: int = Field(description="Numbers that came again.")
    restarts: int = Field(description="How often the numbers began anew.")


class DeviceField(Shape):
    """The newest value of a field."""

    value: Any = Field(description="As the device wrote it; null also where `large`.", examples=[21.5])
    large: bool = Field(description="The value is too large to keep: see the readings.")
    received_at: datetime


class DeviceSummary(Shape):
    """A device in a list. Four facts are told apart: connected, last seen, reporting or silent, clock skew."""

    model_config = ConfigDict(json_schema_extra=example(examples.DEVICE))

    device: str = Field(examples=["press-17"])
    href: str = Field(description="Where its details are.", examples=["/api/v1/devices/press-17"])
    connected: bool | None = Field(description="Whether a session of it is open; null when that is not known.")
    connected_since: datetime | None
    first_seen: datetime | None
    last_seen: datetime | None = Field(description="When its last reading was received.")
    reporting: DeviceReporting
    clock_skew_s: float | None = Field(
        description="How far its clock is ahead of the box's (negative: behind), by the median of its newest readings; "
        "the way to the box is part of it. Null: it tells no time."
    )
    messages: int
    size_bytes: int = Field(description="Bytes of payload.")
    registry: Registration | None = Field(
        description="What people say of it; null when nobody did, and while the registry is not loaded yet."
    )
    rates: DeviceRates


class DeviceDetail(DeviceSummary):
    """A device and what it said last."""

    model_config = ConfigDict(json_schema_extra=example(examples.DEVICE_DETAIL))

    sessions: list[OpenSession]
    further_sessions: int = Field(description="Open sessions beyond the listed ones.")
    last_disconnect_reason: str | None
    fields: dict[str, DeviceField] = Field(description="By path, such as `motor.temp`, the names of exports' columns.")
    fields_cut: bool = Field(description="Fields that it told long ago are not kept: it has too many.")
    sequence: DeviceSequence | None = Field(description="Null: its payloads carry no sequence numbers.")
    resends: int = Field(description="Readings that their client marked as sent before (MQTT's DUP).")
    undecodable: int = Field(description="Readings of which no field could be read.")
    last_reading: Reading | None
    view: View


class DeviceList(Shape):
    """A page of devices, in order of their ids' UTF-8 bytes."""

    model_config = ConfigDict(json_schema_extra=example(examples.DEVICE_LIST))

    devices: list[DeviceSummary]
    total: int = Field(description="Devices known, whatever was searched for.")
    next: str | None = Field(description="`cursor` of the next page; null at the end.")
    view: View


class ReadingList(Shape):
    """Readings of a device, newest first."""

    model_config = ConfigDict(json_schema_extra=example(examples.READING_LIST))

    device: str
    readings: list[Reading]
    next: str | None = Field(
        description="`cursor` for older readings; null when the asked range has no more. A page may be shorter than "
        "`limit` and still have a next: a request reads for about a second, then answers with what it found."
    )
    scanned_records: int = Field(description="Records that were read for this answer.")


class RecoveredRange(Shape):
    """Offsets (first <= offset < next) that the last start of the log could not keep, or left out, and why."""

    first: int
    next: int
    reason: str
    after: datetime | None = Field(description="When the record before them was received; null: not known.")
    before: datetime | None = Field(description="When the record behind them was received; null: not known.")
    devices: list[str] = Field(description="Devices whose records could still be read in part: some, at most 20.")


class PartitionMarks(Shape):
    """The readable range of a partition: `log_start_offset` <= offset < `high_watermark`."""

    partition: int
    log_start_offset: int
    high_watermark: int
    recovered: list[RecoveredRange] = Field(description="What the last start of the log could not keep.")


class Window(Shape):
    """A closed window: per partition the offsets from the first up to, not including, the second."""

    number: int
    start: datetime
    end: datetime
    reason: str = Field(examples=["interval"])
    offsets: dict[str, tuple[int, int]]


class Topic(Shape):
    """A topic of the log."""

    topic: str
    topic_id: str
    partitions: list[PartitionMarks]
    records: int = Field(description="Offsets between log start and high watermark, without those reported as lost.")
    size_bytes: int = Field(description="What its segments take on disk.")
    oldest: datetime | None = Field(description="When its oldest readable record was received; null: it has none.")
    windows_closed: int
    last_window: Window | None


class TopicList(Shape):
    """All topics."""

    model_config = ConfigDict(json_schema_extra=example(examples.TOPIC_LIST))

    topics: list[Topic]
    writer: str = Field(description="`live`, or `stale` when the process that writes the log is gone.")


class SessionInfo(Shape):
    """A session: of an MQTT client, connected or kept while it is away, or another protocol's connection."""

    model_config = ConfigDict(json_schema_extra=example(examples.SESSION))

    client_id: str | None = Field(description="Null for a TCP connection.")
    protocol: str = Field(examples=["mqtt"])
    level: int | None = Field(description="4: MQTT 3.1.1. 5: MQTT 5.0. Null: not MQTT.")
    username: str | None
    connected: bool
    session: str | None = Field(description="What `device.events` calls this connection; null while away.")
    peer: str | None
    since: datetime | None = Field(description="When it connected; null while away.")
    devices: int = Field(description="Devices that have published in this connection.")
    away_since: datetime | None = Field(description="When its last connection ended; null while connected.")
    expires: datetime | None = Field(description="When it ends, unless its client comes back; null while connected.")
    expiry_s: int = Field(description="Seconds that it is kept without a connection; 0: it ends with its connection.")
    subscriptions: int
    filters: list[str] = Field(description="Filters of the first 100 of them (fewer where they are very long).")
    queued: int = Field(description="QoS 1 and 2 messages that its client has not completed, in flight or waiting.")
    in_flight: int = Field(description="Those among them sent on this connection, or received and not yet released.")


class SessionList(Shape):
    """A page of sessions."""

    model_config = ConfigDict(json_schema_extra=example(examples.SESSION_LIST))

    sessions: list[SessionInfo]
    connected: int = Field(description="Sessions and connections there are, whatever was asked for.")
    away: int = Field(description="Sessions kept for clients that are away.")
    next: str | None = Field(
        description="`cursor` of the next page; null at the end. A page may be shorter than `limit` and still have a "
        "next: a request looks at some thousands of sessions, then answers with what it found."
    )


class Health(Shape):
    """The process answers."""

    status: str = Field(examples=["ok"])


class Ready(Shape):
    """The box is ready."""

    ready: bool
    view: View
    clock: str | None = Field(None, description="`ok`, `behind` or `stepped`; null while the edge does not answer.")
    weaker_durability: dict[str, str] = Field(
        default_factory=dict,
        description="Where readings are acknowledged before they are synced to disk, and the level there (`interval`, "
        "`os`); empty: nowhere.",
        examples=[{"mqtt": "interval"}],
    )
    warnings: list[str] = Field(
        default_factory=list,
        description="What somebody has to look at although readings are taken: exporting that has failed for minutes.",
        examples=[["exporting telemetry has failed 14 times in 6 min: No space left on device"]],
    )
