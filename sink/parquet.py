"""The Parquet sink: closed windows into the lake, in three steps - plan, files, checkpoint.

1. *Plan.* One pass over the window decides columns and files (`sink.survey`); the plan goes to
   `<lake>/.plans/`, durably, before anything else is written.
2. *Files.* Each is written to `<lake>/.tmp/`, synced, and renamed to its final name, which follows from the window
   alone. A file that stands under its final name is whole: it is never opened for writing again.
3. *Checkpoint.* The runner records the window as exported in the log; then `settle` removes the plan.

Killed between any two of these, the next attempt finds the plan, skips the files that stand, writes the rest, and
records. Readers that glob the lake never see a temporary file, since `.tmp` and `.plans` are hidden folders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from commitlog.base import ClosedWindow, LogReader
from sink.base import CancelFlag, Export, ExportedFile, Missing, NotConnectedError, RecordsFailedError
from sink.decode import Decoder, JsonDecoder, RawDecoder, decoder_for
from sink.parquet_file import file_metadata, write_table
from sink.plan import Plan, PlannedFile, from_json, plan_name, to_json
from sink.records import WindowRecords
from sink.rows import RowReader, groups
from sink.storage import Storage
from sink.survey import Limits, Survey

_log: Final = structlog.get_logger("headrace.sink")


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicFormat:
    """How the payloads of a topic are read."""

    decoder: str = JsonDecoder.version
    timestamp_field: str = "ts"


RAW: Final = TopicFormat(decoder=RawDecoder.version)


class ParquetSink:
    """Writes windows to a lake folder. See `sink.base.Sink`."""

    name = "parquet"

    def __init__(
        self,
        lake: Path,
        *,
        format_of: Callable[[str], TopicFormat],
        limits: Limits,
        software: str,
        storage: Storage | None = None,
    ) -> None:
        self._lake = lake
        self._plans = lake / ".plans"
        self._tmp = lake / ".tmp"
        self._format_of = format_of
        self._limits = limits
        self._software = software
        self._storage = storage or Storage()
        self._lock: BinaryIO | None = None

    def open(self, progress: Mapping[str, int]) -> None:
        """Make the folders, empty `.tmp`, drop the plans of windows that are done."""
        for folder in (self._lake, self._plans, self._tmp):
            self._storage.make_dirs(folder)
        self._lock = self._lock or self._storage.lock(self._plans / "lock")
        if self._lock is None:
            raise NotConnectedError(
                "another process is exporting to this lake",
                where=str(self._lake),
                mend="it ends by itself when its appliance has stopped; otherwise stop it",
            )
        for leftover in sorted(self._tmp.iterdir()):
            self._storage.remove(leftover)
        for path in sorted(self._plans.glob("*.json")):
            plan = from_json(path.read_bytes())
            if plan is not None and plan.number < progress.get(plan.topic_id, 0):
                self._storage.remove(path)

    def write(self, window: ClosedWindow, reader: LogReader, cancel: CancelFlag) -> Export:
        """Publish a window's files; see `Sink.write`."""
        plan = self._resumed(window) or self._new_plan(window, reader, cancel)
        records = WindowRecords(window, reader, cancel)
        late: dict[Missing, None] = {}
        self._write_files(plan, records, late, cancel)
        self._sync_directories(plan)
        files = [(file, self._stand(file)) for file in plan.files]
        for planned, stored in files:
            if stored.rows != planned.rows:
                _read_again(planned, records)
                _note_late(late, records.missing, plan)
        return _export(plan, files, tuple(late))

    def settle(self, window: ClosedWindow) -> None:
        """Remove the plan of an exported window."""
        self._storage.remove(self._plan_path(window))

    def close(self) -> None:
        """Release the lake to other processes."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _plan_path(self, window: ClosedWindow) -> Path:
        return self._plans / plan_name(window.topic, window.number)

    def _published(self, file: PlannedFile) -> bool:
        return (self._lake / file.path).exists()

    def _resumed(self, window: ClosedWindow) -> Plan | None:
        path = self._plan_path(window)
        if not path.exists():
            return None
        plan = from_json(path.read_bytes())
        if plan is not None and plan.is_for(window):
            if decoder_for(plan.decoder, plan.timestamp_field) is not None:
                return plan
            if any(self._published(file) for file in plan.files):
                raise RecordsFailedError(
                    f"the export of window {window.number} of {window.topic} was begun by another release "
                    f"(decoder {plan.decoder})",
                    where=str(path),
                    mend="run that release once more until the window is exported, then upgrade",
                )
        _log.warning("plan set aside", path=str(path), window=window.number, topic=window.topic)
        return None

    def _new_plan(self, window: ClosedWindow, reader: LogReader, cancel: CancelFlag) -> Plan:
        wanted = self._format_of(window.topic)
        decoder = _decoder(wanted.decoder, wanted.timestamp_field)
        survey = Survey(window, decoder, self._limits)
        plan = survey.run(
            WindowRecords(window, reader, cancel), timestamp_field=wanted.timestamp_field, software=self._software
        )
        path = self._plan_path(window)
        self._storage.replace_text(path, self._tmp / path.name, to_json(plan))
        return plan

    def _write_files(self, plan: Plan, records: WindowRecords, late: dict[Missing, None], cancel: CancelFlag) -> None:
        """Write what is not published yet; note in `late` the offsets that went missing since the plan was made."""
        missing = [file for file in plan.files if not self._published(file)]
        rows = RowReader(plan, _decoder(plan.decoder, plan.timestamp_field), records)
        for group in groups(missing, self._limits, len(plan.columns)):
            collected = rows.collect(group)
            _note_late(late, records.missing, plan)
            for file_rows in collected:
                table: pa.Table = file_rows.table()
                if table.num_rows != file_rows.file.rows and not late:
                    raise _not_as_planned(file_rows.file, table.num_rows)
                self._publish(plan, file_rows.file, table, cancel)

    def _publish(self, plan: Plan, file: PlannedFile, table: pa.Table, cancel: CancelFlag) -> None:
        final = self._lake / file.path
        temporary = self._tmp / final.name
        try:
            with self._storage.create(temporary) as out:
                write_table(out, table, file_metadata(plan, file, table.num_rows), cancel)
            self._storage.make_dirs(final.parent)
            self._storage.rename(temporary, final)
        except Exception:
            self._storage.remove(temporary)
            raise

    def _sync_directories(self, plan: Plan) -> None:
        """A file found published may be the work of a process killed before it synced the directory: sync them all."""
        dates = {(self._lake / file.path).parent for file in plan.files}
        for directory in sorted(dates | {date.parent for date in dates}):
            self._storage.sync_dir(directory)

    def _stand(self, file: PlannedFile) -> ExportedFile:
        """A published file as it stands on disk, read from its footer."""
        path = self._lake / file.path
        with pq.ParquetFile(path) as stored:
            rows = stored.metadata.num_rows
        return ExportedFile(path=file.path, rows=rows, size_bytes=path.stat().st_size, date=file.date)


def _decoder(version: str, timestamp_field: str) -> Decoder:
    decoder = decoder_for(version, timestamp_field)
    if decoder is None:
        raise RecordsFailedError(f"there is no decoder {version}", mend="correct the topic's decoder setting")
    return decoder


def _not_as_planned(file: PlannedFile, rows: int) -> RecordsFailedError:
    return RecordsFailedError(
        f"{rows} rows were found for a file that was planned with {file.rows}, and no record is missing",
        where=file.path,
        mend="this is a defect: please report it, with the plan in `lake/.plans`",
    )


def _export(plan: Plan, files: Sequence[tuple[PlannedFile, ExportedFile]], late: tuple[Missing, ...]) -> Export:
    missing = (*plan.missing, *late)
    return Export(
        files=tuple(stored for _, stored in files),
        records=sum(stored.rows for _, stored in files),
        rows=sum(stored.rows for planned, stored in files if planned.kind == "rows"),
        quarantined=plan.quarantined,
        lost=tuple(each for each in missing if each.lost),
        left_out=tuple(each for each in missing if not each.lost),
        clashes={column.name: column.clashes for column in plan.columns if column.clashes},
    )


def _read_again(file: PlannedFile, records: WindowRecords) -> None:
    """Pass over a file's records once more, to learn which of them an earlier attempt no longer found."""
    for _ in records.read(file.start, file.end):
        pass


def _note_late(late: dict[Missing, None], missing: Sequence[Missing], plan: Plan) -> None:
    for each in missing:
        if not any(
            known.partition == each.partition and known.first <= each.first and each.next <= known.next
            for known in plan.missing
        ):
            late[each] = None
