"""SQL over everything that was acknowledged: the lake, and what is not exported yet, no row missing or twice.

A topic is a view of its name. Below the sink's committed offsets its rows come from files of the lake, which are listed
one by one; from these offsets on they come from the log, up to what was readable when the query began, and are put into
Parquet files in a folder of their own by the code that exports. So the two halves meet at the committed offsets, which
are read first, whatever is exported meanwhile. What is in quarantine is in the views `<topic>_quarantine`, and of all
topics together in `quarantine`, which says the `topic` besides.

Retention may delete under a query: what was not exported at its beginning and has expired since, or a file of the lake.
Then everything is looked at anew, up to `TRIES` times.

Only topics whose names stand in the SQL are prepared; the views of the others fail when they are read. DuckDB may read
the listed files and nothing else, and its configuration is locked. Memory is bounded: the tail is written by a bounded
writer, DuckDB has `MEMORY_LIMIT` and goes to the scratch folder beyond it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import duckdb
import pyarrow as pa

from commitlog.base import LogReader, TopicInfo
from commitlog.committed import Committed, committed_from_row, committed_table
from commitlog.gaps import EXPIRED
from commitlog.rest_reader import open_reader
from commitlog.table_rows import read_tables
from core.errors import BadRequestError, UnavailableError
from sink.base import CancelFlag, ExportWindow
from sink.parquet.held import Limits
from sink.parquet.lake import FileKind, LakeFile, look_at_lake, read_lake_file
from sink.parquet.staging import Staging
from sink.payload.reading import Reading
from sink.query.views import name_sql, text_sql, view_sql
from sink.records import WindowRecords
from sink.storage import Storage

SINK: Final = "parquet"
QUARANTINE_VIEW: Final = "quarantine"
QUARANTINE_SUFFIX: Final = "_quarantine"
MEMORY_LIMIT: Final = "1GB"
SCRATCH_LIMIT: Final = "20GB"
TAIL_LIMITS: Final = Limits(memory_bytes=64 << 20, file_bytes=64 << 20)
BATCH_ROWS: Final = 8_192
TRIES: Final = 3

ReadingOf = Callable[[str], Reading]
Tell = Callable[[str], object]
Files = dict[FileKind, list[tuple[Path, LakeFile]]]


class _Scratch(Storage):
    """Files that nobody needs after the query: nothing is synced."""

    @contextmanager
    def create(self, path: Path) -> Iterator[BinaryIO]:
        """See `Storage.create`."""
        with path.open("wb") as file:
            yield file

    def sync_dir(self, path: Path) -> None:
        """See `Storage.sync_dir`."""


class _ChangedError(Exception):
    """Something that the query needs was deleted since it began."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A statement's rows. `batches` raises BadRequestError where the rest cannot be computed; to be used once."""

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


@contextmanager
def query(
    data_dir: Path,
    sql: str,
    reading_of: ReadingOf,
    *,
    tell: Tell = lambda _line: None,
    scratch_root: Path | None = None,
) -> Iterator[Answer]:
    """Run one statement that reads.

    `reading_of` says how payloads of a topic are read that are not exported yet; `tell` hears what the answer leaves
    out. Blocks; not to be called on an event loop. Raises BadRequestError for SQL that cannot be run, DataDirError when
    there is no log, UnavailableError when files are deleted faster than they can be read.
    """
    _refuse_what_writes(sql)
    with tempfile.TemporaryDirectory(prefix="headrace-query-", dir=scratch_root) as folder:
        for attempt in range(TRIES):
            scratch = Path(folder) / str(attempt)
            scratch.mkdir()
            try:
                connection, told = _Preparation(data_dir, sql, reading_of, scratch, attempt).connect()
                answer = _answer(connection, sql)
            except _ChangedError:
                shutil.rmtree(scratch)
                continue
            with closing(connection):
                for line in told:
                    tell(line)
                yield answer
                return
    raise UnavailableError(
        f"files were deleted under the query {TRIES} times in a row",
        where=str(data_dir / "lake"),
        mend="run it again; if that does not help: does retention keep hardly anything?",
    )


class _Preparation:
    """One attempt at making the views. Raises _ChangedError where retention was quicker."""

    def __init__(self, data_dir: Path, sql: str, reading_of: ReadingOf, scratch: Path, attempt: int) -> None:
        self._data_dir = data_dir
        self._lake = data_dir / "lake"
        self._sql = sql.casefold()
        self._reading_of = reading_of
        self._scratch = scratch
        self._last = attempt == TRIES - 1
        self._told: list[str] = []
        self._paths: list[Path] = []

    def connect(self) -> tuple[duckdb.DuckDBPyConnection, Sequence[str]]:
        """A connection with the views, and what they leave out."""
        with closing(open_reader(self._data_dir)) as reader:
            rows = read_tables(self._data_dir, [committed_table(SINK)]).rows[committed_table(SINK)]
            committed = {topic_id: committed_from_row(row) for topic_id, row in rows.items()}
            files = self._lake_files(committed, reader.topics())
            views = self._views(reader, committed, files)
        connection = duckdb.connect(":memory:")
        try:
            for name, sql in views.items():
                connection.execute(f"CREATE VIEW {name_sql(name)} AS {sql}")
            self._lock(connection)
        except duckdb.IOException as error:
            connection.close()
            raise _ChangedError from error
        except duckdb.Error:
            connection.close()
            raise
        return connection, self._told

    def _lake_files(
        self, committed: Mapping[str, Committed], topics: Mapping[str, TopicInfo]
    ) -> Mapping[str, Sequence[LakeFile]]:
        """The files that the committed offsets cover, by topic."""
        look = look_at_lake(self._lake)
        ids = {info.topic_id: name for name, info in topics.items()}
        found: dict[str, list[LakeFile]] = {}
        standing = {file.path for file in look.files}
        unknown = 0
        for file in look.files:
            if file.replays in standing:
                continue  # a replay that is not settled: the file that it replaces has all its rows
            if file.topic_id not in ids and file.topic_id not in committed:
                unknown += 1
            elif file.window < committed.get(file.topic_id, Committed()).next_window:
                found.setdefault(file.topic, []).append(file)
        for bad in look.bad:
            self._told.append(f"lake/{bad.path} is left out: {bad.what} ({bad.trouble})")
        if unknown:
            self._told.append(f"{unknown} files are left out: they are of topic ids that this log does not have")
        return found

    # -- views

    def _views(
        self, reader: LogReader, committed: Mapping[str, Committed], files: Mapping[str, Sequence[LakeFile]]
    ) -> Mapping[str, str]:
        topics = reader.topics()
        names = sorted({*topics, *files})
        everything = QUARANTINE_VIEW in self._sql.replace(QUARANTINE_SUFFIX, "") and QUARANTINE_VIEW not in topics
        views: dict[str, str] = {}
        quarantines: list[str] = []
        for name in names:
            if not everything and name.casefold() not in self._sql:
                views[name] = views[f"{name}{QUARANTINE_SUFFIX}"] = _unprepared(name)
                continue
            found: Files = {"rows": [], "quarantine": []}
            for file in files.get(name, ()):
                found[file.kind].append((self._lake / file.path, file))
            if name in topics:
                self._add_tail(reader, topics[name], committed, found)
            self._paths += [path for kind in found.values() for path, _ in kind]
            views[name] = view_sql(found["rows"], "rows")
            views[f"{name}{QUARANTINE_SUFFIX}"] = view_sql(found["quarantine"], "quarantine")
            quarantines.append(f"SELECT {text_sql(name)} AS topic, * FROM {name_sql(name + QUARANTINE_SUFFIX)}")
        if everything and quarantines:
            views[QUARANTINE_VIEW] = " UNION ALL BY NAME ".join(quarantines)
        return self._told_apart(views)

    def _told_apart(self, views: Mapping[str, str]) -> Mapping[str, str]:
        """Without those whose names differ from another's only in case: SQL cannot have both."""
        taken: dict[str, str] = {}
        kept = {}
        for name, sql in views.items():
            first = taken.setdefault(name.casefold(), name)
            if first == name:
                kept[name] = sql
            else:
                self._told.append(f"there is no view {name}: SQL cannot tell it from {first}")
        return kept

    # -- what is not exported yet

    def _add_tail(self, reader: LogReader, topic: TopicInfo, committed: Mapping[str, Committed], found: Files) -> None:
        """Write the records from the committed offsets on as files, and add these."""
        reached = committed.get(topic.topic_id, Committed())
        offsets = {
            partition: (min(reached.offset(partition), mark.high), mark.high)
            for partition, mark in enumerate(reader.watermarks(topic.name))
        }
        number = reached.next_window
        window = ExportWindow(
            topic=topic.name,
            topic_id=topic.topic_id,
            first_number=number,
            number=number,
            start_ms=0,
            end_ms=0,
            offsets=offsets,
        )
        if not window.span:
            return
        tmp = self._scratch / f"{topic.topic_id}.tmp"
        tmp.mkdir()
        records = WindowRecords(window, reader, CancelFlag())
        plan = Staging(
            window,
            self._reading_of(topic.name),
            tmp=tmp,
            limits=TAIL_LIMITS,
            software="headrace query",
            storage=_Scratch(),
            cancel=CancelFlag(),
        ).run(records)
        lost = [each for each in records.missing if each.lost]
        if not self._last and any(each.reason == EXPIRED for each in lost):
            raise _ChangedError  # exported, most likely, and then deleted; if not, it is told at the last attempt
        if lost:
            count = sum(each.next - each.first for each in lost)
            self._told.append(f"{count} offsets of topic {topic.name} are not in the log ({lost[0].reason}, ...)")
        for planned in plan.files:
            path = self._scratch / planned.path
            path.parent.mkdir(parents=True, exist_ok=True)
            (tmp / planned.staged).rename(path)
            file = read_lake_file(self._scratch, planned.path)
            if not isinstance(file, LakeFile):
                raise AssertionError(f"a file just written is not one of ours: {file}")
            found[file.kind].append((path, file))

    def _lock(self, connection: duckdb.DuckDBPyConnection) -> None:
        """From here on only the listed files can be read, and nothing can be set."""
        temporary = self._scratch / "spilled"
        listed = ", ".join(text_sql(str(path)) for path in self._paths)
        for setting in (
            "TimeZone = 'UTC'",
            f"memory_limit = '{MEMORY_LIMIT}'",
            f"temp_directory = {text_sql(str(temporary))}",
            f"max_temp_directory_size = '{SCRATCH_LIMIT}'",
            "autoinstall_known_extensions = false",
            "autoload_known_extensions = false",
            f"allowed_paths = [{listed}]",
            "enable_external_access = false",
            "lock_configuration = true",
        ):
            connection.execute(f"SET {setting}")


def _unprepared(topic: str) -> str:
    """A view that is listed, and fails where somebody gets at it without naming it."""
    return f"SELECT error({text_sql(f'topic {topic} is not named in the SQL')}) AS device"


def _refuse_what_writes(sql: str) -> None:
    with duckdb.connect(":memory:") as connection:
        try:
            statements = connection.extract_statements(sql)
        except duckdb.Error as error:
            raise _sql_error(error) from error
    if len(statements) != 1:
        raise BadRequestError(
            f"one statement is run at a time, not {len(statements)}", where="SQL", mend="run each alone"
        )
    if statements[0].type not in _READING:
        raise BadRequestError(
            f"{statements[0].type.name} is not a statement that reads",
            where="SQL",
            mend="SELECT, FROM, WITH, VALUES, PIVOT, DESCRIBE, SUMMARIZE, SHOW or EXPLAIN; `--format parquet -o FILE` "
            "writes the answer to a file",
        )


_READING: Final = frozenset({duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN, duckdb.StatementType.MULTI})


def _answer(connection: duckdb.DuckDBPyConnection, sql: str) -> Answer:
    """Begin to run. The connection is closed when that fails."""
    try:
        reader = connection.sql(sql).to_arrow_reader(BATCH_ROWS)
        first = next(reader, None)
    except duckdb.IOException as error:
        connection.close()
        raise _ChangedError from error
    except duckdb.Error as error:
        connection.close()
        raise _sql_error(error) from error
    return Answer(reader.schema, _batches(first, reader))


def _batches(first: pa.RecordBatch | None, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    try:
        if first is not None:
            yield first
            yield from reader
    except duckdb.Error as error:
        raise _sql_error(error) from error


def _sql_error(error: duckdb.Error) -> BadRequestError:
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return BadRequestError(
        lines[0],
        where="; ".join(line.strip() for line in lines[1:3] if line.strip("^ ")) or "SQL",
        mend="views are called as their topics, names with a dot need double quotes; `SHOW TABLES` lists them",
    )
