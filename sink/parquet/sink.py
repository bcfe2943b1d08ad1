"""The Parquet sink: closed windows into the lake, in four steps - stage, plan, publish, checkpoint.

1. *Stage.* The window's rows are written to `<lake>/.tmp/`, as whole, synced files (`sink.parquet.staging`).
2. *Plan.* Which files those are, and what they will be called, goes to `<lake>/.plans/`, durably (`sink.parquet.plan`).
3. *Publish.* Each file is renamed to its final name, which follows from the window alone; directories are synced. A
   file that stands under its final name is whole: it is never opened for writing again.
4. *Checkpoint.* The runner records the window as exported in the log; then `settle` removes the plan.

Killed before 2, the next attempt finds nothing and starts anew; killed after it, the next one goes on renaming. Readers
that glob the lake never see an unfinished file, since `.tmp` and `.plans` are hidden folders. A unit's last file, which
is published last, names all of them, so that the lake itself says which exports are complete (`sink.parquet.recorded`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import structlog

from commitlog.base import LogReader, TopicInfo
from commitlog.committed import Committed
from sink.base import CancelFlag, Export, ExportWindow, NotConnectedError, Replay
from sink.parquet.held import Limits
from sink.parquet.plan import AnyPlan, Plan, any_plan, from_json, plan_name, window_of
from sink.parquet.publisher import Publisher, exported_files
from sink.parquet.recorded import LakeRecord, Recorded, export_of
from sink.parquet.replay import Replays
from sink.parquet.staging import Staging
from sink.payload.reading import Reading
from sink.records import WindowRecords
from sink.storage import Storage

_log: Final = structlog.get_logger("headrace.sink")

MAX_NAMED: Final = 10  # files named in one line of the log


class ParquetSink:
    """Writes windows to a lake folder. See `sink.base.Sink`."""

    name = "parquet"

    def __init__(
        self,
        lake: Path,
        *,
        reading_of: Callable[[str], Reading],
        limits: Limits,
        software: str,
        storage: Storage | None = None,
    ) -> None:
        """`reading_of` says how a topic's payloads are read."""
        self._lake = lake
        self._plans = lake / ".plans"
        self._tmp = lake / ".tmp"
        self._reading_of = reading_of
        self._limits = limits
        self._software = software
        self._storage = storage or Storage()
        self._publisher = Publisher(lake, self._storage)
        self._replays = Replays(self._publisher, reading_of=reading_of, limits=limits, software=software)
        self._lock: BinaryIO | None = None
        self._begun: dict[tuple[str, int], Plan] = {}
        self._recorded: dict[tuple[str, int], Recorded] = {}

    def open(self, progress: Mapping[str, int]) -> None:
        """Make the folders, drop the plans of windows that are done, and what no plan needs in `.tmp`."""
        for folder in (self._lake, self._plans, self._tmp):
            self._storage.make_dirs(folder)
        self._lock = self._lock or self._storage.lock(self._plans / "lock")
        if self._lock is None:
            raise NotConnectedError(
                "another process is exporting to this lake",
                where=str(self._lake),
                mend="it ends by itself when its appliance has stopped; otherwise stop it",
            )
        self._begun.clear()
        self._replays.forget_all()
        self._recorded.clear()
        for path in sorted(self._plans.glob("*.json")):
            if not _is_directory(path):
                self._take_over(path, progress)
        needed = {file.staged for plan in self._begun.values() for file in plan.files} | self._replays.staged_names()
        for leftover in sorted(self._tmp.iterdir()):
            if leftover.name not in needed and not _is_directory(leftover):
                self._storage.remove(leftover)

    def _take_over(self, path: Path, progress: Mapping[str, int]) -> None:
        """A plan that an earlier process left: to be carried out, taken back, or done and recorded."""
        text = path.read_bytes()
        plan, known = from_json(text), any_plan(text)
        if known is not None and known.replays:
            self._replays.take_over(path, plan, known)
            return
        recorded = known is not None and known.number < progress.get(known.topic_id, 0)
        if plan is not None and not recorded:
            self._begun[plan.topic_id, plan.number] = plan
        elif recorded:
            self._storage.remove(path)
        else:
            self._set_aside(path, known)

    def unrecorded(self, info: TopicInfo, next_window: int | None, reader: LogReader) -> Sequence[ExportWindow]:
        """See `Sink.unrecorded` and `sink.parquet.recorded`. What is broken, and the log has still, is taken back."""
        planned = [window_of(plan) for plan in self._plans_of(info.topic_id) if plan.number >= (next_window or 0)]
        found = LakeRecord(self._lake, info, next_window, reader).find(planned)
        if found.broken:
            _log.warning(
                "files taken back",
                what="they are of exports that are not whole; the log still has the records, and exports them anew",
                topic=info.name,
                where=str(self._lake),
                files=found.broken[:MAX_NAMED],
                files_total=len(found.broken),
            )
            self._publisher.take_back(found.broken)
        there = [one.window for one in found.recorded]
        if there:
            _log.warning(
                "exports are not recorded",
                what="the lake has them, and the log's tables do not tell of them: they are recorded as they stand",
                topic=info.name,
                windows=[there[0].first_number, there[-1].number],
                exports=len(there),
                recorded_to=next_window,
            )
        self._recorded |= {(info.topic_id, one.window.number): one for one in found.recorded}
        windows = [*planned, *there]
        return sorted(windows, key=lambda window: window.first_number)

    def begun(self, topic_id: str, next_window: int) -> int | None:
        """See `Sink.begun`."""
        for plan in self._plans_of(topic_id):
            if plan.number >= next_window:
                return plan.number
            self._forget(plan)  # recorded, and whoever recorded it never heard of it
        return None

    def write(
        self, window: ExportWindow, reader: LogReader, cancel: CancelFlag, *, notes: Sequence[str] = ()
    ) -> Export:
        """Publish a window's files; see `Sink.write`."""
        self._check_there()
        recorded = self._recorded.get((window.topic_id, window.number))
        if recorded is not None and recorded.window == window:
            return self._taken_over(recorded, cancel, notes)
        plan = self._resumed(window) or self._new_plan(window, reader, cancel, notes)
        self._publisher.publish(plan)
        return _export(plan)

    def _taken_over(self, recorded: Recorded, cancel: CancelFlag, notes: Sequence[str]) -> Export:
        window = recorded.window
        if not recorded.whole:
            _log.error(
                "an export that is not whole is kept",
                what="files of it are missing, and the log no longer has all of its records",
                topic=window.topic,
                windows=[window.first_number, window.number],
                where=str(self._lake),
                mend="put its files back from a copy; `headrace verify` names them, or the offsets that are nowhere",
            )
        return export_of(recorded, self._lake, cancel, notes)

    def settle(self, window: ExportWindow) -> None:
        """Remove the plan of an exported window."""
        self._recorded.pop((window.topic_id, window.number), None)
        plan = self._begun.get((window.topic_id, window.number))
        if plan is not None:
            self._forget(plan)

    def replays_begun(self) -> Sequence[str]:
        """See `Replayer.replays_begun`."""
        return self._replays.begun

    def replay(self, path: str, progress: Mapping[str, Committed], cancel: CancelFlag) -> Replay:
        """See `Replayer.replay`, and `sink.parquet.replay`."""
        self._check_there()
        return self._replays.replay(path, progress, cancel)

    def settle_replay(self, path: str) -> None:
        """See `Replayer.settle_replay`."""
        self._replays.settle(path)

    def close(self) -> None:
        """Release the lake to other processes."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _forget(self, plan: Plan) -> None:
        """Drop a plan that is carried out and recorded."""
        self._storage.remove(self._plans / plan_name(plan.topic, plan.number))
        self._begun.pop((plan.topic_id, plan.number), None)

    def _plans_of(self, topic_id: str) -> list[Plan]:
        """The plans of a topic that are not recorded, in order; mostly there is one at most."""
        return [self._begun[key] for key in sorted(self._begun) if key[0] == topic_id]

    def _check_there(self) -> None:
        """The lake may have been removed, or another disk mounted over it, since it was opened."""
        if not (self._tmp.is_dir() and self._plans.is_dir()):
            raise NotConnectedError(
                "the lake's folders are gone",
                where=str(self._lake),
                mend="they are made anew; `headrace verify` tells which files are missing",
            )

    def _plan_path(self, window: ExportWindow) -> Path:
        return self._plans / plan_name(window.topic, window.number)

    def _resumed(self, window: ExportWindow) -> Plan | None:
        """The plan of an earlier attempt, if it can be carried out."""
        path = self._plan_path(window)
        if not path.exists():
            return None
        plan = from_json(path.read_bytes())
        if plan is not None and plan.is_for(window) and all(map(self._publisher.is_at_hand, plan.files)):
            return plan
        self._set_aside(path, plan)
        self._begun.pop((window.topic_id, window.number), None)
        return None

    def _set_aside(self, path: Path, plan: Plan | AnyPlan | None) -> None:
        """Take back what is published of a plan that cannot be carried out: another will publish the same rows."""
        _log.warning(
            "plan set aside",
            what="it is another release's, or files that it names are neither in .tmp nor published",
            where=str(path),
        )
        self._publisher.take_back([file.path for file in plan.files] if plan is not None else [])
        self._storage.remove(path)
        self._storage.sync_dir(path.parent)

    def _new_plan(self, window: ExportWindow, reader: LogReader, cancel: CancelFlag, notes: Sequence[str]) -> Plan:
        staging = Staging(
            window,
            self._reading_of(window.topic),
            tmp=self._tmp,
            limits=self._limits,
            software=self._software,
            storage=self._storage,
            cancel=cancel,
            doubles=notes,
        )
        path = self._plan_path(window)
        try:
            plan = staging.run(WindowRecords(window, reader, cancel))
            self._publisher.keep(plan, path)
        except Exception:
            self._publisher.clear([*staging.names, path.name])
            raise
        self._begun[plan.topic_id, plan.number] = plan
        return plan


def _is_directory(path: Path) -> bool:
    """Whether something stands there that this sink never makes; it is told, and left alone."""
    if not path.is_dir():
        return False
    _log.warning(
        "a directory is left alone",
        what="the sink keeps nothing but files there",
        where=str(path),
        mend="it is somebody else's: move it away",
    )
    return True


def _export(plan: Plan) -> Export:
    return Export(
        files=exported_files(plan),
        records=plan.records,
        rows=plan.rows,
        quarantined=plan.quarantined,
        lost=tuple(each for each in plan.missing if each.lost),
        left_out=tuple(each for each in plan.missing if not each.lost),
        clashes=plan.clashes,
        notes=plan.doubles,
    )
