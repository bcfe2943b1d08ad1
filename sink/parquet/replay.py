"""Replays: a quarantine file read again, after a decoder or a schema was mended, in steps that a kill may come between.

1. *Stage.* Its records are decoded by the topic's present reading (`sink.payload.kept`). What has become rows goes to
   files of decoded rows, what is still refused to a new quarantine file, all in `.tmp`. Where nothing has become a row,
   that is all, and the file stays as it is.
2. *Plan.* `.plans/replay-<16 hex>.json`, durable; it names the file that is replaced.
3. *Publish.* The new files are renamed to their final names, the one that names them all at last.
4. *Checkpoint.* One commit: the unit's row of `exports` names the new files instead of the old one, the request goes.
5. *Settle.* The old file moves to `_superseded/`, where readers do not look; then the plan is removed.

In `<topic>/` a row is visible once, from 3 on. Between 3 and 5, a moment unless the sink is killed there, the old file
is in `_quarantine/` still: a record that has become rows is then in both, and one that is still refused twice in
`_quarantine/`. Never is one in neither. `headrace verify` counts the old file as long as it stands and the plan does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pyarrow as pa
import structlog

from commitlog.committed import Committed
from sink.base import BackOffError, CancelFlag, ExportWindow, RecordsFailedError, Replay, ReplayRefusedError
from sink.parquet.held import Limits
from sink.parquet.lake import SUPERSEDED, BadFile, LakeFile, read_lake_file
from sink.parquet.plan import AnyPlan, Plan, replay_plan_name
from sink.parquet.publisher import Publisher, exported_files
from sink.parquet.staging import Staging
from sink.payload.kept import kept_records
from sink.payload.reading import Reading

_log: Final = structlog.get_logger("headrace.sink")
UNRECORDED_S: Final = 5.0  # until a unit that is being exported is looked at again


class Replays:
    """The replays of one lake. Used by the sink's thread, while it holds the lake."""

    def __init__(
        self, publisher: Publisher, *, reading_of: Callable[[str], Reading], limits: Limits, software: str
    ) -> None:
        self._publisher = publisher
        self._lake = publisher.lake
        self._reading_of = reading_of
        self._limits = limits
        self._software = software
        self._begun: dict[str, Plan] = {}

    @property
    def begun(self) -> Sequence[str]:
        """The files whose replay is planned and not settled."""
        return sorted(self._begun)

    def forget_all(self) -> None:
        """Before the plans are looked at anew."""
        self._begun.clear()

    def take_over(self, path: Path, plan: Plan | None, known: AnyPlan) -> None:
        """A plan that an earlier process left. One of another release is made anew, if the file still stands."""
        if plan is not None:
            self._begun[plan.replays] = plan
            return
        _log.warning("plan set aside", what="it is another release's", where=str(path))
        if (self._lake / known.replays).exists():
            self._publisher.take_back([file.path for file in known.files])
        self._publisher.storage.remove(path)

    def staged_names(self) -> set[str]:
        """Names in `.tmp` that are still needed."""
        return {file.staged for plan in self._begun.values() for file in plan.files}

    def replay(self, path: str, progress: Mapping[str, Committed], cancel: CancelFlag) -> Replay:
        """See `Replayer.replay`."""
        plan = self._resumed(path)
        if plan is None:
            file = self._checked(path, progress)
            plan = self._new_plan(path, file, cancel, progress[file.topic_id].notes)
        if plan.rows:
            self._publisher.publish(plan)
        return Replay(
            path=path,
            topic=plan.topic,
            topic_id=plan.topic_id,
            number=plan.number,
            files=exported_files(plan) if plan.rows else (),
            rows=plan.rows,
            before=plan.before,
            quarantined=plan.quarantined,
            clashes=plan.clashes,
        )

    def settle(self, path: str) -> None:
        """See `Replayer.settle_replay`."""
        storage, source, target = self._publisher.storage, self._lake / path, self._lake / SUPERSEDED / path
        if source.exists():
            storage.make_dirs(target.parent)
            storage.rename(source, target)
            storage.sync_dir(source.parent)
        storage.remove(self._plan_path(path))
        self._begun.pop(path, None)

    def _plan_path(self, path: str) -> Path:
        return self._publisher.plans / replay_plan_name(path)

    def _resumed(self, path: str) -> Plan | None:
        """The plan of an earlier attempt, if it can be carried out, or has been."""
        plan = self._begun.get(path)
        if plan is None or all(map(self._publisher.is_at_hand, plan.files)):
            return plan
        if not (self._lake / path).exists():  # carried out and recorded; a file was taken away since: `verify` tells
            _log.error("files of a replay are gone", where=path, mend="`headrace verify` tells which")
            return replace(plan, files=tuple(filter(self._publisher.is_at_hand, plan.files)))
        _log.warning("plan set aside", what="files that it names are gone", where=str(self._plan_path(path)))
        self._publisher.take_back([file.path for file in plan.files])
        self._publisher.storage.remove(self._plan_path(path))
        self._publisher.storage.sync_dir(self._publisher.plans)
        del self._begun[path]
        return None

    def _checked(self, path: str, progress: Mapping[str, Committed]) -> LakeFile:
        """The file as its footer describes it. Raises ReplayRefusedError for what cannot be replayed."""
        found = quarantine_file(self._lake, path)
        if found.topic_id not in progress:
            what = f"it is of topic id {found.topic_id}, of which this appliance has exported nothing"
            raise ReplayRefusedError(what, where=path, mend="`headrace verify` says what it is")
        if found.window >= progress[found.topic_id].next_window:
            raise BackOffError("its window is being exported", where=path, retry_after_s=UNRECORDED_S)
        return found

    def _new_plan(self, path: str, file: LakeFile, cancel: CancelFlag, doubles: Sequence[str]) -> Plan:
        staging = Staging(
            _window(file),
            self._reading_of(file.topic),
            tmp=self._publisher.tmp,
            limits=self._limits,
            software=self._software,
            storage=self._publisher.storage,
            cancel=cancel,
            doubles=doubles,
            replays=path,
        )
        plan_path = self._plan_path(path)
        try:
            plan = staging.run_replay(kept_records(self._lake / path))
            if plan.rows:
                self._publisher.keep(plan, plan_path)
        except pa.ArrowException as error:
            self._publisher.clear(staging.names)
            what = f"it cannot be read to its end: {error}"
            raise RecordsFailedError(what, where=path, mend="put the file back from a copy") from error
        except Exception:
            self._publisher.clear([*staging.names, plan_path.name])
            raise
        if plan.rows:
            self._begun[path] = plan
        else:
            self._publisher.clear(staging.names)
        return plan


def quarantine_file(lake: Path, path: str) -> LakeFile:
    """A quarantine file that stands, as its footer describes it; `path` is relative to the lake.

    Raises ReplayRefusedError for what is none.
    """
    found = read_lake_file(lake, path)
    if found is None:
        raise _not_there(lake, path)
    if isinstance(found, BadFile):
        raise ReplayRefusedError(f"it is {found.trouble}: {found.what}", where=path, mend="`headrace verify`")
    if found.kind != "quarantine":
        raise ReplayRefusedError("it holds decoded rows, and is no quarantine file", where=path)
    return found


def _window(file: LakeFile) -> ExportWindow:
    """The unit that a file belongs to."""
    return ExportWindow(
        topic=file.topic,
        topic_id=file.topic_id,
        first_number=file.first_window,
        number=file.window,
        start_ms=file.start_ms,
        end_ms=file.end_ms,
        offsets=file.offsets,
    )


def _not_there(lake: Path, path: str) -> ReplayRefusedError:
    if (lake / SUPERSEDED / path).exists():
        what = "it has been replayed already: what was still refused is in a newer file"
        return ReplayRefusedError(what, where=path, mend="`headrace quarantine list` names it")
    return ReplayRefusedError(
        "there is no such file", where=path, mend="`headrace quarantine list` names those there are"
    )
