"""What the templates show, worked out beforehand: templates hold no logic beyond choosing what to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from api.answers import mqtt_topic_of, path_of_key
from api.history import Found
from api.overview import Overview
from api.payload import compact, fields
from api.standing import failing_text, is_stale
from api.times import duration, relative, to_datetime
from devices.status import device_text
from devices.status_model import DeviceStatus, LastReading
from devices.tail import TailState, TailStatus
from sink.standing import Standing

NOT_KNOWN: Final = "—"
NOTICE_AFTER_MS: Final = 5_000  # an edge that starts again fails an export or two


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A time: how long ago, exactly, and for machines."""

    ago: str
    exact: str
    iso: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure at the head of the page."""

    label: str
    value: str
    title: str
    mark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """The state of the view, when it is not simply live. `kind` is `wait` or `warn`."""

    kind: str
    title: str
    text: str
    progress_percent: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRow:
    """A device in the table."""

    device: str
    href: str
    fragment: str
    connection: str
    connection_kind: str
    last_seen: Moment | None
    reading: str
    messages: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingRow:
    """A reading in the device page's table."""

    received: Moment
    reading: str
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Paging:
    """Links of a page of devices; None where there is nothing to go to."""

    poll: str
    first: str | None
    following: str | None
    shown: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A fact of a device."""

    label: str
    value: str
    title: str = ""


def moment(time_ms: int | None, now_ms: int) -> Moment | None:
    """A time for people."""
    if time_ms is None:
        return None
    iso = to_datetime(time_ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    exact = iso.replace("T", " ").replace("Z", " UTC")
    return Moment(ago=relative(time_ms, now_ms), exact=exact, iso=iso)


def figures(devices: int, connected: int, tail: TailStatus, overview: Overview, now_ms: int) -> list[Figure]:
    """The head of the page."""
    rate = tail.records_per_s
    unsynced = overview.unsynced_records
    exported = moment(overview.last_export_ms, now_ms)
    return [
        Figure(label="devices", value=f"{devices:,}", title="Devices the log has something of"),
        Figure(
            label="connected",
            value=f"{connected:,}" if tail.current else NOT_KNOWN,
            title="Devices with an open session; not told unless the view is live",
        ),
        Figure(
            label="readings/s",
            value=NOT_KNOWN if rate is None else f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}",
            title="Records committed, over the last 5 seconds",
        ),
        Figure(
            label="not yet on disk",
            value=NOT_KNOWN if unsynced is None else f"{unsynced:,}",
            title="Records acknowledged before they were synced to disk; always 0 at durability fsync",
            mark="warn" if unsynced else "",
        ),
        Figure(
            label="last export",
            value=exported.ago if exported else NOT_KNOWN,
            title=exported.exact if exported else "Nothing was exported since the sink started",
        ),
        _export_lag(overview.sink, now_ms),
    ]


def _export_lag(sink: Standing | None, now_ms: int) -> Figure:
    title = "Time since the end of the oldest closed window that should be exported and is not"
    if sink is None or is_stale(sink, now_ms):
        return Figure(label="export lag", value=NOT_KNOWN, title=f"{title}; the sink does not tell")
    waiting = sum(one.waiting.windows for one in sink.topics if one.waiting is not None)
    held = sum(one.waiting.held for one in sink.topics if one.waiting is not None)
    title = f"{title}. {waiting:,} windows wait, {held:,} of them are small and held back on purpose"
    lag_ms = sink.lag_ms(now_ms)
    value = NOT_KNOWN if lag_ms is None else duration(lag_ms)
    return Figure(label="export lag", value=value, title=title, mark="warn" if any(sink.failing()) else "")


def notice(tail: TailStatus, now_ms: int, disk_full: str = "") -> Notice | None:
    """What stands above the table when the view is not live, or readings are refused."""
    if disk_full:
        return Notice(
            kind="warn",
            title="The disk is full: readings are refused",
            text=f"{disk_full}. Free some space: everything goes on by itself. Nothing acknowledged is lost.",
        )
    as_of = moment(tail.as_of_ms, now_ms)
    since = f"What you see is as of {as_of.exact} ({as_of.ago})." if as_of else "Nothing has been read yet."
    if tail.state is TailState.REPLAYING:
        return Notice(
            kind="wait",
            title="Reading the log from its start",
            text="Counts and last readings grow until it is done; who is connected is told then.",
            progress_percent=int(tail.replayed * 100),
        )
    if tail.state is TailState.STALE:
        text = f"Nothing new can arrive, and who is connected is not known. {since}"
        return Notice(kind="warn", title="The edge process is down", text=text)
    if tail.state is TailState.BEHIND:
        text = f"{tail.lag_records:,} records are waiting. Who is connected is not told until it has caught up. {since}"
        return Notice(kind="warn", title="Readings arrive faster than this page takes them in", text=text)
    if tail.state is TailState.FAILED:
        return Notice(kind="warn", title="The log cannot be read", text=f"{tail.failure}. It is tried again. {since}")
    return None


def sink_notice(sink: Standing | None, now_ms: int) -> Notice | None:
    """What stands there while exporting fails, or the sink is silent; nothing for what is over in a moment."""
    if sink is None:
        return None
    if is_stale(sink, now_ms):
        told = f"It last reported {relative(sink.at_ms, now_ms)}. Readings are taken and kept; none is exported."
        return Notice(kind="warn", title="The sink process is silent", text=told)
    failing = list(sink.failing())
    lasting = [(name, one) for name, one in failing if now_ms - (one.failing_since_ms or now_ms) >= NOTICE_AFTER_MS]
    if not lasting:
        return None
    name, one = lasting[0]
    parts = [f"{upper_first(failing_text(name, one, now_ms))}."]
    if one.last_error is not None and one.last_error.mend:
        parts.append(
            f"{upper_first(one.last_error.mend.rstrip('.'))}{'' if one.last_error.mend.endswith('?') else '.'}"
        )
    if one.next_attempt_ms is not None:
        parts.append(f"The next attempt is in {duration(one.next_attempt_ms - now_ms)}.")
    if len(lasting) > 1:
        parts.append(f"So it is with {len(lasting) - 1:,} more.")
    return Notice(kind="warn", title="Exporting fails", text=" ".join(parts))


def upper_first(text: str) -> str:
    """The text as a sentence begins."""
    return text[:1].upper() + text[1:]


def device_row(device: DeviceStatus, now_ms: int) -> DeviceRow:
    """A device in the table."""
    path = path_of_key(device.key)
    kind, text = connection(device)
    return DeviceRow(
        device=device.device,
        href=f"/devices/{path}",
        fragment=f"d-{device.key.hex()}",
        connection=text,
        connection_kind=kind,
        last_seen=moment(device.last_seen_ms, now_ms),
        reading=compact(device.last.value) if device.last else "",
        messages=f"{device.messages:,}",
    )


def connection(device: DeviceStatus) -> tuple[str, str]:
    """Kind (a style) and text of a device's connection."""
    if device.connected is None:
        return "unknown", "not known"
    return ("on", "connected") if device.connected else ("off", "not connected")


def paging(search: str, cursor: str, after: bytes | None, shown: int, total: int) -> Paging:
    """Links of a page of devices."""

    def link(path: str, cursor: str) -> str:
        query = urlencode({name: value for name, value in (("search", search), ("cursor", cursor)) if value})
        return f"{path}?{query}" if query else path

    return Paging(
        poll=link("/fragments/live", cursor),
        first=link("/", "") if cursor else None,
        following=None if after is None else link("/", path_of_key(after)),
        shown=f"{shown:,} of {total:,}" if not search else f"{shown:,} shown",
    )


def device_facts(device: DeviceStatus, now_ms: int) -> list[Fact]:
    """The facts of the device page."""
    facts = [
        Fact(label="messages", value=f"{device.messages:,}", title="Records in the log"),
        Fact(label="payload", value=f"{device.size_bytes:,} bytes"),
    ]
    for label, time_ms in (("last seen", device.last_seen_ms), ("first seen", device.first_seen_ms)):
        when = moment(time_ms, now_ms)
        facts.append(Fact(label=label, value=when.ago if when else "never", title=when.exact if when else ""))
    for session in device.sessions:
        since = moment(session.since_ms, now_ms)
        told = " · ".join(part for part in (session.protocol, session.client_id, session.peer) if part)
        started = since.ago if since else NOT_KNOWN
        facts.append(Fact(label="session", value=f"{told} · since {started}", title=since.exact if since else ""))
    if device.further_sessions:
        facts.append(Fact(label="further sessions", value=f"{device.further_sessions:,}"))
    if device.last_disconnect_reason:
        facts.append(Fact(label="last disconnect", value=device.last_disconnect_reason))
    if device.last is not None:
        place = device.last.place
        facts.append(Fact(label="in the log", value=f"{place.topic}-{place.partition} @ {device.last.offset:,}"))
        if mqtt_topic := mqtt_topic_of(tuple(device.last.headers)):
            facts.append(Fact(label="MQTT topic", value=mqtt_topic))
    return facts


def payload_rows(last: LastReading | None) -> list[tuple[str, str]]:
    """The last payload as a table: its fields, or the whole of it in one row."""
    if last is None:
        return []
    return fields(last.value or b"") or [("payload", compact(last.value))]


def reading_rows(found: Sequence[Found], now_ms: int) -> list[ReadingRow]:
    """The device page's latest readings."""
    rows = []
    for one in found:
        received = moment(one.record.timestamp, now_ms)
        if received is not None:
            place = f"{one.place.topic}-{one.place.partition} @ {one.record.offset:,}"
            rows.append(ReadingRow(received=received, reading=compact(one.record.value or b""), place=place))
    return rows


def title_of(key: bytes) -> str:
    """A device id as a page title."""
    return device_text(key)
