"""What may happen to a lake from outside: each has a defined end, a text that says so, and a count.

The sink waits and tries again where something is in its way, mends what it can make anew, leaves alone what is not its
own, and never doubles or skips a row. What only a person can mend is named by `headrace verify`
(`test_verify_damage.py`).
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from structlog.testing import capture_logs

from sink.metrics import SinkMetrics
from sink.parquet.lake import look_at_lake
from sink.parquet.plan import from_json
from sink.storage import Storage
from tests.conftest import require_component, wait_until_async
from tests.sink.sink_fakes import FakeLog, FaultyStorage, Killed, export_all, quick_runner
from tests.sink.test_sink_contract import ParquetSubject, check, fleet_log, heal, with_faults

Said = list[Any]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sink.payload.chunks.CHUNK_RECORDS", 3)


@pytest.fixture(name="subject")
def _subject(tmp_path: Path) -> ParquetSubject:
    return ParquetSubject(lake=tmp_path / "lake")


async def hindered(
    subject: ParquetSubject, log: FakeLog, event: str, mend: Callable[[], None], storage: Storage | None = None
) -> tuple[dict[str, Any], SinkMetrics]:
    """Export with something in the way, taken away once the sink has told of it twice: its words, and the counts."""
    metrics, stop = SinkMetrics(), asyncio.Event()
    runner = quick_runner(subject.sink(storage or Storage()), log, metrics=metrics)
    with capture_logs() as said:
        task = asyncio.create_task(runner.run(stop))
        try:
            await wait_until_async(lambda: len(told(said, event)) >= 2, describe=lambda: f"{event}: {said[-3:]}")
            assert not log.tables.get("sink.parquet"), "nothing is recorded that is not done"
            mend()
            waits = log.waits
            topic_id, number = log.infos["telemetry"].topic_id, log.closed["telemetry"][-1].number
            await wait_until_async(
                lambda: (
                    log.waits > waits
                    and log.tables.get("sink.parquet", {}).get(topic_id, {}).get("next_window", 0) > number
                )
            )
        finally:
            stop.set()
            await task
    return told(said, event)[0], metrics


def told(said: Said, event: str) -> Said:
    return [entry for entry in said if entry["event"] == event]


def failures(metrics: SinkMetrics, kind: str) -> bool:
    return f'headrace_sink_failures_total{{kind="{kind}"}}' in metrics.text()


async def exported(subject: ParquetSubject, log: FakeLog) -> Said:
    with capture_logs() as said:
        await export_all(subject.sink(Storage()), log)
    return said


# -- the folder


class Refusing(Storage):
    """Every call that writes gives one error."""

    def __init__(self, code: int) -> None:
        self.code = code

    def _refuse(self, path: Path) -> None:
        if self.code:
            raise OSError(self.code, os.strerror(self.code), str(path))

    def make_dirs(self, path: Path) -> None:
        self._refuse(path)
        super().make_dirs(path)

    @contextmanager
    def create(self, path: Path) -> Iterator[BinaryIO]:
        self._refuse(path)
        with super().create(path) as file:
            yield file

    def rename(self, source: Path, target: Path) -> None:
        self._refuse(target)
        super().rename(source, target)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EIO], ids=errno.errorcode.get)
async def test_a_lake_that_may_not_be_written_is_waited_for(subject: ParquetSubject, code: int) -> None:
    log, storage = fleet_log(), Refusing(code)
    said, metrics = await hindered(
        subject, log, "the sink cannot start", lambda: setattr(storage, "code", 0), storage=storage
    )
    assert said["what"] == f"[Errno {code}] {os.strerror(code)}: '{subject.lake}'"
    assert said["mend"] == "is there space, and may it be written?"
    assert failures(metrics, "storage")
    check(subject, log)


async def test_a_lake_that_turns_read_only_under_the_sink(subject: ParquetSubject) -> None:
    log, storage = fleet_log(), Refusing(0)
    sink = subject.sink(storage)
    sink.open({})
    sink.close()
    storage.make_dirs = Storage().make_dirs  # type: ignore[method-assign]  # what there is already needs no write
    storage.code = errno.EROFS
    said, metrics = await hindered(subject, log, "export failed", lambda: setattr(storage, "code", 0), storage=storage)
    assert "Read-only file system" in said["what"]
    assert said["topic"] == "telemetry"
    assert failures(metrics, "storage")
    check(subject, log)


async def test_a_file_where_the_lake_should_be(subject: ParquetSubject) -> None:
    log = fleet_log()
    subject.lake.write_bytes(b"not a folder")
    said, metrics = await hindered(subject, log, "the sink cannot start", subject.lake.unlink)
    assert "File exists" in said["what"]
    assert str(subject.lake) in said["what"]
    assert failures(metrics, "storage")
    check(subject, log)


async def test_a_full_disk_is_waited_for_and_nothing_half_written_takes_its_room(tmp_path: Path) -> None:
    mount, umount = require_component("mount"), require_component("umount")
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small tmpfs")
    lake = tmp_path / "disk"
    lake.mkdir()
    command = [mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(lake)]
    if (done := subprocess.run(command, capture_output=True, check=False)).returncode != 0:
        pytest.skip(f"no tmpfs may be mounted here: {done.stderr.decode().strip()}")
    try:
        subject, log, other = ParquetSubject(lake=lake), fleet_log(), lake / "other"
        with other.open("wb") as file:
            file.write(bytes(240 << 10))  # somebody else's
        said, metrics = await hindered(subject, log, "export failed", other.unlink)
        assert "No space left on device" in said["what"]
        assert failures(metrics, "storage")
        check(subject, log)
    finally:
        subprocess.run([umount, "-l", str(lake)], check=True)


async def test_a_lake_that_is_deleted_under_the_sink_is_made_anew(subject: ParquetSubject) -> None:
    log, stop, metrics = fleet_log(), asyncio.Event(), SinkMetrics()
    topic_id = log.infos["telemetry"].topic_id

    def recorded(number: int) -> bool:
        return bool(log.tables.get("sink.parquet", {}).get(topic_id, {}).get("next_window", 0) > number)

    with capture_logs() as said:
        task = asyncio.create_task(quick_runner(subject.sink(Storage()), log, metrics=metrics).run(stop))
        await wait_until_async(lambda: recorded(2) and not subject.leftovers())
        shutil.rmtree(subject.lake)
        log.put({"t": 1, "after": True})
        number = log.close_window().number
        await wait_until_async(lambda: recorded(number))
        stop.set()
        await task
    (failed,) = told(said, "export failed")
    assert failed["what"] == "the lake's folders are gone"
    assert "`headrace verify` tells which files are missing" in failed["mend"]
    assert failures(metrics, "sink.not-connected")
    assert len(subject.visible()) == 1
    assert len({row["number"] for row in log.tables["exports"].values()}) == 3


# -- what lies in it


async def test_what_is_not_its_own_is_left_alone_and_named(subject: ParquetSubject) -> None:
    log = fleet_log()
    folder = subject.lake / "telemetry" / "date=2025-11-20"
    (folder / "folder.parquet").mkdir(parents=True)
    (folder / "broken.parquet").write_bytes(b"PAR1 and no more")
    (folder / "notes.txt").write_text("mine")
    (folder / "elsewhere.parquet").symlink_to(subject.lake / "nowhere")
    await exported(subject, log)
    log.tables.clear()
    await exported(subject, log)  # also where the lake has to be asked what it has
    for name in ("folder.parquet", "broken.parquet", "elsewhere.parquet"):
        path = folder / name
        assert path.is_dir() or path.is_symlink() or path.read_bytes() == b"PAR1 and no more"
    bad = {Path(one.path).name: one.trouble for one in look_at_lake(subject.lake).bad}
    assert bad == {"folder.parquet": "foreign", "broken.parquet": "corrupt"}
    (folder / "folder.parquet").rmdir()
    for name in ("broken.parquet", "elsewhere.parquet"):
        (folder / name).unlink()
    check(subject, log)


async def test_what_lies_in_its_own_folders(subject: ParquetSubject) -> None:
    """A file in .tmp is what a killed process left, and goes; no plan is nothing; directories are somebody else's."""
    for folder in (".tmp", ".plans"):
        (subject.lake / folder / "telemetry-1.json").mkdir(parents=True)
    (subject.lake / ".tmp" / "half.parquet").write_bytes(b"PAR1")
    (subject.lake / ".plans" / "mine.json").write_text("{}")
    (subject.lake / ".plans" / "torn.json").write_bytes(b"\xff{")
    log = fleet_log()
    said = await exported(subject, log)
    alone = told(said, "a directory is left alone")
    assert {entry["where"] for entry in alone} == {
        str(subject.lake / folder / "telemetry-1.json") for folder in (".tmp", ".plans")
    }
    aside = told(said, "plan set aside")
    assert {Path(entry["where"]).name for entry in aside} == {"mine.json", "torn.json"}
    for folder in (".tmp", ".plans"):
        (subject.lake / folder / "telemetry-1.json").rmdir()
    check(subject, log)


@pytest.mark.parametrize("renames", [2, 3, 5, 8])
async def test_a_plan_that_is_damaged_after_some_of_its_files_are_published(tmp_path: Path, renames: int) -> None:
    """What is out already counts, if it is all of an export; else it is taken back. The first rename is the plan's."""
    whole, log = ParquetSubject(lake=tmp_path / "whole"), fleet_log()
    await exported(whole, log)
    subject, log = ParquetSubject(lake=tmp_path / "lake"), fleet_log()
    storage = FaultyStorage()
    storage.die_before("renamed", renames)
    with_faults(log, storage)
    with pytest.raises(Killed):
        await export_all(subject.sink(storage), log)
    heal(log)
    (plan,) = (subject.lake / ".plans").glob("*.json")
    plan.write_bytes(plan.read_bytes()[: plan.stat().st_size // 2])
    said = await exported(subject, log)
    assert len(told(said, "plan set aside")) == 1
    assert len(told(said, "files taken back")) + len(told(said, "exports are not recorded")) == 1
    assert subject.published() == whole.published()
    check(subject, log)


async def planned(subject: ParquetSubject) -> tuple[FakeLog, Path]:
    """A sink killed when its first plan was there and no file was published; where the first one will be."""
    log, storage = fleet_log(), FaultyStorage()
    storage.die_before("before rename", 2)
    with_faults(log, storage)
    with pytest.raises(Killed):
        await export_all(subject.sink(storage), log)
    heal(log)
    (text,) = (subject.lake / ".plans").glob("*.json")
    plan = from_json(text.read_bytes())
    assert plan is not None
    path = subject.lake / plan.files[0].path
    path.parent.mkdir(parents=True, exist_ok=True)
    return log, path


async def test_a_directory_where_a_file_is_to_be_published(subject: ParquetSubject) -> None:
    log, path = await planned(subject)
    path.mkdir()
    said, metrics = await hindered(subject, log, "export failed", path.rmdir)
    assert "Is a directory" in said["what"]
    assert path.name in said["what"]
    assert failures(metrics, "storage")
    check(subject, log)


async def test_something_else_under_the_name_of_a_file_that_is_to_be_published(subject: ParquetSubject) -> None:
    log, path = await planned(subject)
    path.write_bytes(b"PAR1 of an earlier life")
    said = await exported(subject, log)
    (replaced,) = told(said, "a file of the lake is replaced")
    assert replaced["where"] == str(path)
    check(subject, log)


async def test_a_file_removed_by_hand_is_not_made_again_and_stops_nothing(subject: ParquetSubject) -> None:
    """It is recorded, and whoever removed it may have meant to: `headrace verify` names it."""
    log = fleet_log()
    await exported(subject, log)
    path = subject.lake / next(iter(sorted(subject.published())))
    path.unlink()
    log.put({"t": 1})
    log.close_window()
    assert {entry["event"] for entry in await exported(subject, log)} == {"window exported"}
    assert not path.exists()
    assert any(str(path.relative_to(subject.lake)) in str(row) for row in log.tables["exports"].values())
