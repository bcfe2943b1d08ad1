"""What `headrace quarantine` prints, as text and as JSON. Payloads are shown so that they do nothing to a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from appliance.replay_now import Outcome
    from sink.parquet.lake import LakeFile
    from sink.query.quarantine import Found, Listing, Outlook

SHOWN_BYTES: Final = 80  # of a payload: enough to know it by
_NO_ROWS: Final = "no-rows"


def safely(data: bytes | str | None, limit: int = SHOWN_BYTES) -> str:
    """The beginning of a payload or a device's text on one line, with escapes for what is no plain character."""
    if data is None:
        return ""
    cut = data[:limit]
    text = cut.decode("utf-8", "backslashreplace") if isinstance(cut, bytes) else cut
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return f"{shown}..." if len(data) > limit else shown


def listing_lines(listing: Listing) -> Iterator[str]:
    """For a person: topics, files, rows."""
    for bad in listing.unread:
        yield f"note: lake/{bad.path} is left out: {bad.what} ({bad.trouble})"
    for topic in sorted({file.topic for file, _ in listing.files}):
        reasons = dict(listing.reasons(topic))
        harmless = reasons.pop(_NO_ROWS, 0)
        yield f"topic {topic}: {sum(reasons.values())} rows{_told(reasons)}"
        if harmless:
            yield f"  besides {harmless} records without readings (no-rows): nothing is wrong with them"
        for file, counts in listing.files:
            if file.topic == topic:
                yield f"  {file.path}  window {file.window}{_told(counts)}"
    if not listing.files:
        yield "nothing is in quarantine"
    for one in listing.rows:
        record, row = one.record, one.row
        detail = f" ({safely(row.detail, 200)})" if row.detail else ""
        yield (
            f"{_time(record.received_us)}  {one.file.topic}  {safely(record.device) or '-'}  "
            f"{record.partition}:{record.offset}:{row.row}  {row.reason}{detail}  {_payload(one)}"
        )


def _payload(found: Found) -> str:
    row = found.row
    return "its payload is with the record's first row here" if row.payload_is == "elsewhere" else safely(row.payload)


def _told(reasons: Mapping[str, int]) -> str:
    return f": {', '.join(f'{reason} {count}' for reason, count in sorted(reasons.items()))}" if reasons else ""


def listing_as_dict(listing: Listing) -> dict[str, Any]:
    """For `--json`."""
    topics = sorted({file.topic for file, _ in listing.files})
    return {
        "topics": {topic: {"reasons": dict(listing.reasons(topic))} for topic in topics},
        "nothing_wrong": listing.reasons().get(_NO_ROWS, 0),
        "files": [
            {"path": file.path, "topic": file.topic, "window": file.window, "reasons": dict(sorted(counts.items()))}
            for file, counts in listing.files
        ],
        "rows": [_row_as_dict(one) for one in listing.rows],
        "left_out": [{"path": bad.path, "trouble": bad.trouble, "what": bad.what} for bad in listing.unread],
    }


def _row_as_dict(found: Found) -> dict[str, Any]:
    record, row = found.record, found.row
    return {
        "topic": found.file.topic,
        "file": found.file.path,
        "device": record.device,
        "received": _time(record.received_us),
        "partition": record.partition,
        "offset": record.offset,
        "row": row.row,
        "reason": row.reason,
        "detail": row.detail,
        "payload_is": row.payload_is,
        "payload_bytes": len(row.payload or b""),
        "payload_begins": safely(row.payload),
    }


def outlook_line(file: LakeFile, outlook: Outlook) -> str:
    """What a replay would do with a file."""
    if not outlook.rows:
        return f"{file.path}: no row would be read any better{_told(outlook.refused)}"
    refused = sum(outlook.refused.values())
    return f"{file.path}: {outlook.rows} rows; {refused} would still be refused{_told(outlook.refused)}"


def outcome_lines(outcome: Outcome) -> Iterator[str]:
    """What a replay did."""
    if outcome.outcome == "refused":
        yield f"{outcome.path}: refused: {outcome.what}"
        if outcome.mend:
            yield f"mend:  {outcome.mend}"
    elif outcome.outcome == "unchanged":
        yield f"{outcome.path}: left as it is, no row can be read any better{_told(outcome.quarantined)}"
    else:
        refused = sum(outcome.quarantined.values())
        yield f"{outcome.path}: {outcome.rows} rows; {refused} still refused{_told(outcome.quarantined)}"
        for path in outcome.files:
            yield f"  lake/{path}"


def _time(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1_000_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
