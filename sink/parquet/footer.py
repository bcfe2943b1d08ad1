"""What a file of the lake says of itself in its footer: where its rows come from, and how they were read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from sink.base import ExportWindow
from sink.parquet.plan import PlannedFile
from sink.payload.columns import Column
from sink.payload.reading import Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class Footers:
    """The metadata of the files of one unit. `replays`: the quarantine file whose records they have, or nothing."""

    window: ExportWindow
    reading: Reading
    software: str
    replays: str = ""

    def of(self, file: PlannedFile, columns: Sequence[Column]) -> dict[str, object]:
        """A file's notes, by their names in docs/formats-parquet.md without the prefix."""
        notes = {**self._of_window(), **_of_file(file), **self._of_reading()}
        notes["columns"] = {column.name: _column_note(column) for column in columns}
        notes["software"] = self.software
        if self.replays:
            notes["replays"] = self.replays
        return notes

    def _of_window(self) -> dict[str, object]:
        window = self.window
        return {
            "topic": window.topic,
            "topic_id": window.topic_id,
            "first_window": window.first_number,
            "window": window.number,
            "start_ms": window.start_ms,
            "end_ms": window.end_ms,
            "offsets": window.offsets_by_name,
        }

    def _of_reading(self) -> dict[str, object]:
        reading = self.reading
        return {
            "decoder": reading.decoder.version,
            "timestamp_field": reading.timestamp_field,
            "clock_skew_us": [reading.skew.ahead_us, reading.skew.behind_us],
            "schema": reading.schema_version,
            "declared": "" if reading.schema is None else reading.schema.canonical,
        }


def _of_file(file: PlannedFile) -> dict[str, object]:
    return {
        "kind": file.kind,
        "date": file.date,
        "part": file.part,
        "rows": file.rows,
        "records": file.records,
        "checksum": file.checksum,
    }


def closed(notes: Mapping[str, object], closing: Mapping[str, object], paths: Sequence[str]) -> dict[str, object]:
    """The notes of the file that closes a unit: it is published last, and names them all, itself last."""
    return {**notes, **closing, "files": paths, "parts": len(paths)}


def as_metadata(notes: Mapping[str, object]) -> dict[str, str]:
    """Notes as Parquet's key-value metadata."""
    return {f"headrace.{name}": _text(value) for name, value in notes.items()}


def _column_note(column: Column) -> dict[str, str | None]:
    return {"field": column.field, "kind": column.kind, "other": column.other}


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
