"""The lake as it stands: which files are published, what each says of itself, and which of them are not what they seem.

A published file is `<topic>/date=YYYY-MM-DD/<name>.parquet`, one of quarantine stands below `_quarantine/`. Its footer
names topic, window and offsets (docs/formats-parquet.md). What else lies in the folders is told apart, and never an
exception for whoever looks: a file of somebody else (*foreign*), one that cannot be read (*corrupt*), one whose footer
says two things at once or another place than it stands in (*contradiction*).

All files of one export form a *unit*: the same topic id and windows. The file that was published last names all of
them; without it, or one that it names, the unit is not whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Final, Literal

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from core.errors import DataDirError
from sink.parquet.plan import topic_folder
from sink.payload.columns import MORE, TYPES
from sink.payload.times import day_number

PREFIX: Final = "headrace."
QUARANTINE: Final = "_quarantine"
SUPERSEDED: Final = "_superseded"
SUFFIX: Final = ".parquet"

MAX_PARTITIONS: Final = 1 << 16  # of a topic; settings allow 256, Kafka tools make more

FileKind = Literal["rows", "quarantine"]
Trouble = Literal["foreign", "corrupt", "contradiction"]
Offsets = Mapping[int, tuple[int, int]]
"""partition -> (first, next): first <= offset < next."""

_PLACE: Final[Mapping[str, pa.DataType]] = {"_partition": pa.int32(), "_offset": pa.int64(), "_row": pa.int32()}
_TIME: Final = pa.timestamp("us", tz="UTC")
_OURS: Final[Mapping[str, Mapping[str, pa.DataType]]] = {
    "rows": {"device": pa.string(), "ts": _TIME, "received_at": _TIME, "_topic": pa.string(), **_PLACE},
    "quarantine": {
        **{"device": pa.string(), "received_at": _TIME, "payload": pa.binary(), "payload_is": pa.string()},
        **{"field": pa.string(), "reason": pa.string(), "detail": pa.string(), "_topic": pa.string(), **_PLACE},
    },
}
OWN_TEXTS: Final[Mapping[FileKind, Sequence[str]]] = {
    "rows": ("device", "_topic"),
    "quarantine": ("device", "_topic", "reason", "detail", "payload", "payload_is", "field"),
}
"""Our columns beside times and places."""


class ColumnNote(msgspec.Struct, frozen=True):
    """What a column of decoded rows holds: a payload's field, its kind, and the side column for what does not fit."""

    field: str
    kind: str
    other: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LakeFile:
    """A published file as its footer describes it. `path` is relative to the lake.

    `decoder` to `declared_text` are how its rows were read: the decoder's version, the payload field with the device's
    time, how far that may be ahead of and behind the time received, the version of the topic's declared schema and its
    text (both empty where none was). `more`: whether it has that column, for fields without one. `files` are the paths
    of its unit and `missing` the offsets of its windows that are in none of them - partition, first, next, reason -,
    named by the unit's last file alone; empty in the others. `replays` is the quarantine file that this one replaces,
    empty for the export of a window.
    """

    path: str
    size_bytes: int
    kind: FileKind
    topic: str
    topic_id: str
    first_window: int
    window: int
    start_ms: int
    end_ms: int
    offsets: Offsets
    date: str
    part: int
    rows: int
    records: int
    checksum: str
    decoder: str
    timestamp_field: str
    clock_skew_us: tuple[int, int]
    schema: str
    declared_text: str
    columns_text: str
    more: bool
    software: str
    files: tuple[str, ...] = ()
    missing: tuple[tuple[int, int, int, str], ...] = ()
    replays: str = ""

    @property
    def unit(self) -> tuple[str, int, int, str]:
        """What all files of one export have in common."""
        return (self.topic_id, self.first_window, self.window, self.replays)

    @property
    def columns(self) -> Mapping[str, ColumnNote]:
        """Payload columns by name."""
        return msgspec.json.decode(self.columns_text, type=dict[str, ColumnNote])


@dataclass(frozen=True, slots=True, kw_only=True)
class BadFile:
    """A file in the lake's folders that is none of its exports, or not any more."""

    path: str
    trouble: Trouble
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """The files of one export that are there. `named` are the paths that its last file names; empty without it."""

    topic: str
    topic_id: str
    first_window: int
    window: int
    replays: str
    offsets: Offsets
    files: tuple[LakeFile, ...]
    named: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class LakeLook:
    """What a look at a lake found. `superseded` are quarantine files that a replay has replaced, by relative path, and
    `replaced` what their footers say where these can be read.
    """

    files: list[LakeFile] = field(default_factory=list)
    bad: list[BadFile] = field(default_factory=list)
    superseded: list[str] = field(default_factory=list)
    replaced: list[LakeFile] = field(default_factory=list)

    def units(self) -> list[Unit]:
        """The files by unit, in the order of topic id and window."""
        groups: dict[tuple[str, int, int, str], list[LakeFile]] = {}
        for file in self.files:
            groups.setdefault(file.unit, []).append(file)
        return [_unit(groups[key]) for key in sorted(groups)]


def _unit(files: Sequence[LakeFile]) -> Unit:
    one = files[0]
    return Unit(
        topic=one.topic,
        topic_id=one.topic_id,
        first_window=one.first_window,
        window=one.window,
        replays=one.replays,
        offsets=one.offsets,
        files=tuple(sorted(files, key=lambda file: file.path)),
        named=next((file.files for file in files if file.files), ()),
    )


def look_at_lake(lake: Path, topic: str | None = None) -> LakeLook:
    """Every file that stands in the lake now, of one topic or of all; what vanishes meanwhile is left out.

    Raises DataDirError when the lake's own folder may not be read.
    """
    look = LakeLook()
    texts: dict[str, str] = {}
    try:
        for path in published_paths(lake, topic):
            found = read_lake_file(lake, path)
            if isinstance(found, LakeFile):
                columns, declared = (texts.setdefault(text, text) for text in (found.columns_text, found.declared_text))
                look.files.append(replace(found, columns_text=columns, declared_text=declared))  # each text once
            elif found is not None:
                look.bad.append(found)
        look.superseded = sorted(_superseded(lake, topic))
        for path in look.superseded:
            found = read_lake_file(lake / SUPERSEDED, path)
            if isinstance(found, LakeFile):
                look.replaced.append(found)
    except OSError as error:
        raise DataDirError(
            f"the lake cannot be read ({error.strerror or error})",
            where=str(error.filename or lake),
            mend="run the command as the appliance's user; an input/output error comes from the disk itself",
        ) from error
    return look


def published_paths(lake: Path, topic: str | None = None) -> Iterator[str]:
    """Paths below the lake of everything called `*.parquet` that readers of a topic, or of any, would meet.

    Hidden folders are left out (`.tmp`, `.plans`, `_superseded`): nothing in them is published.
    """
    for root in (PurePosixPath(), PurePosixPath(QUARANTINE)):
        for name in sorted(_names(lake / root)):
            if name[0] not in "._" and (topic is None or name == topic_folder(topic)):
                for path in sorted(_parquet_below(lake / root / name)):
                    yield str(root / name / path)


def _superseded(lake: Path, topic: str | None) -> Iterator[str]:
    """Where files that were replaced stood, of one topic or of all."""
    root = lake / SUPERSEDED / QUARANTINE
    for name in _names(root):
        if topic is None or name == topic_folder(topic):
            for path in _parquet_below(root / name):
                yield str(PurePosixPath(QUARANTINE) / name / path)


def _names(directory: Path) -> list[str]:
    """The folders in a directory; none where it is not there."""
    try:
        return [entry.name for entry in os.scandir(directory) if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _parquet_below(directory: Path) -> Iterator[str]:
    """Paths of Parquet files at any depth below a directory; folders that are hidden from readers are left out."""
    for at, folders, names in os.walk(directory, onerror=_unless_gone):
        folders[:] = [name for name in folders if name[0] not in "._"]
        for name in (*names, *folders):  # readers that glob take a directory of such a name for a file
            if name.endswith(SUFFIX) and name[0] not in "._":
                yield str((Path(at) / name).relative_to(directory))


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def read_lake_file(lake: Path, path: str) -> LakeFile | BadFile | None:
    """What a file's footer says of it; None when it is not there (any more)."""
    try:
        if (lake / path).is_dir():
            return BadFile(path=path, trouble="foreign", what="it is a directory, and is called like a file of rows")
        size_bytes = (lake / path).stat().st_size
        footer = pq.read_metadata(lake / path)
        schema = footer.schema.to_arrow_schema()
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException) as error:
        return BadFile(path=path, trouble="corrupt", what=f"its footer cannot be read: {_first_line(error)}")
    notes = _notes(footer.metadata or {})
    if "topic_id" not in notes:
        return BadFile(path=path, trouble="foreign", what="its footer does not say that it is an export")
    try:
        file = _lake_file(path, size_bytes, notes, more=MORE in schema.names)
    except (KeyError, ValueError, TypeError, AttributeError) as error:  # msgspec's errors are ValueErrors
        what = f"its metadata cannot be understood: {error!r}"
        return BadFile(path=path, trouble="contradiction", what=what)
    problem = _contradiction(file, footer.num_rows, schema)
    return BadFile(path=path, trouble="contradiction", what=problem) if problem else file


def _notes(metadata: Mapping[bytes, bytes]) -> dict[str, str]:
    return {
        name.decode("utf-8", "replace").removeprefix(PREFIX): value.decode("utf-8", "replace")
        for name, value in metadata.items()
        if name.startswith(PREFIX.encode())
    }


def _lake_file(path: str, size_bytes: int, notes: Mapping[str, str], *, more: bool) -> LakeFile:
    """The values of a footer's notes. Raises KeyError, ValueError or TypeError for what they are not."""
    kind = notes["kind"]
    if kind not in ("rows", "quarantine"):
        raise ValueError(f"kind {kind!r}")
    file = LakeFile(
        path=path,
        size_bytes=size_bytes,
        kind="rows" if kind == "rows" else "quarantine",
        topic=notes["topic"],
        topic_id=notes["topic_id"],
        first_window=int(notes["first_window"]),
        window=int(notes["window"]),
        start_ms=int(notes["start_ms"]),
        end_ms=int(notes["end_ms"]),
        offsets=_offsets(notes["offsets"]),
        date=notes["date"],
        part=int(notes["part"]),
        rows=int(notes["rows"]),
        records=int(notes["records"]),
        checksum=notes["checksum"],
        decoder=notes["decoder"],
        timestamp_field=notes["timestamp_field"],
        clock_skew_us=msgspec.json.decode(notes["clock_skew_us"], type=tuple[int, int]),
        schema=notes["schema"],
        declared_text=notes["declared"],
        columns_text=notes["columns"],
        more=more,
        software=notes.get("software", ""),
        files=tuple(msgspec.json.decode(notes.get("files", "[]"), type=list[str])),
        missing=msgspec.json.decode(notes.get("missing", "[]"), type=tuple[tuple[int, int, int, str], ...]),
        replays=notes.get("replays", ""),
    )
    _ = file.columns, day_number(file.date)  # they can be read
    return file


def _offsets(text: str) -> Offsets:
    pairs = msgspec.json.decode(text, type=dict[str, tuple[int, int]])
    return {int(partition): pair for partition, pair in pairs.items()}


def _contradiction(file: LakeFile, footer_rows: int, schema: pa.Schema) -> str:
    """What a file says of itself against where it stands, and against itself; empty when all is well."""
    root = f"{QUARANTINE}/" if file.kind == "quarantine" else ""
    if not file.topic or str(PurePosixPath(file.path).parent) != f"{root}{topic_folder(file.topic)}/date={file.date}":
        return f"it says that it holds {file.kind} of topic {file.topic!r}, date {file.date}, and stands elsewhere"
    if file.rows != footer_rows:
        return f"it says that it has {file.rows} rows, and has {footer_rows}"
    if not 0 < file.records <= file.rows or not 0 <= file.first_window <= file.window:
        return "its records, rows and windows do not fit together"
    if not all(0 <= p < MAX_PARTITIONS and 0 <= first <= following for p, (first, following) in file.offsets.items()):
        return f"its offsets are no ranges: {dict(file.offsets)}"
    if file.files and file.path not in file.files:
        return "it names the files of its export, and not itself"
    wanted = dict(_OURS[file.kind])
    for name, note in file.columns.items():
        wanted[name] = TYPES.get(note.kind, pa.null())
        if note.other is not None:
            wanted[note.other] = pa.string()
    for name, kind in wanted.items():
        index = schema.get_field_index(name)
        if index < 0 or schema.field(index).type != kind:
            return f"it has no column {name} of type {kind}"
    for name, note in file.columns.items():
        if any(wanted not in schema.names for wanted in (name, note.other) if wanted is not None):
            return f"it says that it has a column {name}, and has not, or not what stands beside it"
    return ""


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
