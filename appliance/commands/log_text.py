"""What `headrace log check` and `headrace log stats` print, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from commitlog.findings import CheckReport, Finding
    from commitlog.log_stats import LogNumbers, Numbers, PartitionStats


def report_as_dict(report: CheckReport) -> dict[str, Any]:
    """For `--json`."""
    return {
        "clean": report.clean,
        "writer": "live" if report.live else "none",
        "findings": [finding.as_dict() for finding in report.found.findings.kept],
        "findings_total": report.found.findings.count,
        "notes": [note.as_dict() for note in report.found.notes.kept],
        "notes_total": report.found.notes.count,
        "checked": {
            "topics": report.topics,
            "partitions": report.partitions,
            "segments": report.segments,
            "batches": report.batches,
            "records": report.records,
            "segment_bytes": report.segment_bytes,
            "index_entries": report.index_entries,
            "journal_entries": report.journal_entries,
            "tables": report.tables,
            "windows": report.windows,
        },
    }


def report_lines(report: CheckReport) -> Iterator[str]:
    """For a person: each finding in two lines, then what was looked at, then the verdict."""
    found = report.found
    for sort, kept in (("found", found.findings), ("note", found.notes)):
        for one in kept.kept:
            yield from _finding_lines(sort, one)
        if kept.count > len(kept.kept):
            yield f"{sort}: {kept.count - len(kept.kept)} more of these"
    beside = "beside the running appliance" if report.live else "no appliance is writing"
    yield (
        f"{report.topics} topics, {report.partitions} partitions, {report.segments} segments "
        f"({size_text(report.segment_bytes)}, {report.batches} batches, {report.records} records, "
        f"{report.index_entries} index entries), {report.journal_entries} journal entries, "
        f"{report.tables} tables, {report.windows} windows; {beside}"
    )
    yield "clean" if report.clean else f"{found.findings.count} found"


def _finding_lines(sort: str, finding: Finding) -> Iterator[str]:
    at = f"{finding.topic}-{finding.partition}: " if finding.topic else ""
    yield f"{sort}: {finding.kind}: {at}{finding.what}"
    yield f"where: {finding.where}"


def stats_as_dict(numbers: LogNumbers) -> dict[str, Any]:
    """For `--json`."""
    topics: dict[str, Any] = {name: summed.as_dict() | {"partitions": []} for name, summed in numbers.topics().items()}
    for one in numbers.partitions:
        offsets = {"partition": one.partition, "log_start": one.start, "next_offset": one.next}
        topics[one.topic]["partitions"].append(offsets | one.numbers.as_dict())
    return {
        "writer": "live" if numbers.live else "none",
        "topics": topics,
        "journal": {
            "size_bytes": numbers.journal_size_bytes,
            "used_bytes": numbers.journal_used_bytes,
            "entries": numbers.journal_entries,
        },
        "tables": {name: {"rows": rows, "bytes": size} for name, (rows, size) in numbers.tables.items()},
    }


_COLUMNS: Final = (
    "partition",
    "offsets",
    "segments",
    "records",
    "bytes",
    "ratio",
    "records/batch",
    "index",
    "from",
    "to",
)


def stats_lines(numbers: LogNumbers) -> Iterator[str]:
    """For a person: a table for each topic, then journal and state tables."""
    for topic, summed in numbers.topics().items():
        yield f"topic {topic}"
        partitions = [one for one in numbers.partitions if one.topic == topic]
        rows = [_COLUMNS, *(_row(str(one.partition), _offsets(one), one.numbers) for one in partitions)]
        if len(partitions) > 1:
            rows.append(_row("all", "", summed))
        widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
        for row in rows:
            yield "  " + "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True))
    yield (
        f"journal: {size_text(numbers.journal_used_bytes)} of {size_text(numbers.journal_size_bytes)} "
        f"since the last checkpoint, {numbers.journal_entries} entries"
    )
    for name, (rows_count, size) in numbers.tables.items():
        yield f"table {name}: {rows_count} rows, {size_text(size)}"


def _offsets(one: PartitionStats) -> str:
    return f"{one.start}..{one.next}"


def _row(partition: str, offsets: str, numbers: Numbers) -> tuple[str, ...]:
    ratio = numbers.compression_ratio
    return (
        partition,
        offsets,
        str(numbers.segments),
        str(numbers.records),
        size_text(numbers.log_bytes),
        "-" if ratio is None else f"{ratio:.1f}",
        f"{numbers.records / numbers.batches:.0f}" if numbers.batches else "-",
        size_text(numbers.index_bytes + numbers.timeindex_bytes),
        _time(numbers.first_ms),
        _time(numbers.last_ms),
    )


def _time(time_ms: int) -> str:
    if time_ms < 0:
        return "-"
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def size_text(size_bytes: int) -> str:
    """A size as a person reads it."""
    value = float(size_bytes)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TB"
