"""Old units leave the lake: which, whole, with the ledger before the files, and finished after a kill."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from structlog.testing import capture_logs

from commitlog.base import TableChange
from commitlog.committed import Committed, committed_row, committed_table
from commitlog.ledger import LEDGER_TABLE, LedgerEntry, entries
from core.clock import ClockState
from core.errors import UnavailableError
from retention import lake_files
from retention.lake_files import LakeFiles, date_of
from retention.lake_keeper import DROPPING_TABLE, EXPORTS_TABLE, SINK, LakeKeeper
from retention.lake_units import DAY_MS, DropReason, LakeUnit, cutoff_date, to_drop
from retention.settings import RetentionSettings
from sink.parquet.sink import ParquetSink
from sink.progress import EXPORTS_TABLE as SINKS_EXPORTS
from tests.commitlog.commitlog_disk import MemoryDisk
from tests.commitlog.log_support import open_log
from tests.log_fakes import FakeClock

TOPIC_ID = "ab" * 16
NOW_MS = 1_800_000_000_000  # 2027-01-15 08:00
DAYS = [date.fromordinal(date(2027, 1, 15).toordinal() - age) for age in range(40)]


def test_the_names_are_the_sinks() -> None:
    assert (ParquetSink.name, SINKS_EXPORTS) == (SINK, EXPORTS_TABLE)


class LakeBox:
    """A log, a lake, and what keeps it; units of ten offsets in each of two partitions, put in by `publish`."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self.lake = data_dir / "lake"
        self.data_dir = data_dir
        self.disk = MemoryDisk()
        self.clock = FakeClock(NOW_MS)
        self.settings = RetentionSettings(**settings)  # type: ignore[arg-type]
        self.clock_state = ClockState.OK

    async def open(self) -> LakeBox:
        self.log = await open_log(self.data_dir, storage=self.disk, clock=self.clock)
        self.files = LakeFiles(self.lake)
        self.keeper = LakeKeeper(
            self.log,
            self.files,
            self.settings,
            self.clock,
            clock_state=lambda: self.clock_state,
            lake_bytes=lambda: sum(path.stat().st_size for path in self.lake.rglob("*.parquet")),
        )
        return self

    def publish(
        self, number: int, *ages: int, quarantine: int | None = None, topic: str = "t", **changes: str | None
    ) -> list[str]:
        """The files of a unit, one for each age in days, and one in quarantine; what is None leaves the metadata."""
        files = [f"{topic}/date={DAYS[age]}/{number:04}.parquet" for age in ages]
        if quarantine is not None:
            files.append(f"_quarantine/{topic}/date={DAYS[quarantine]}/{number:04}.parquet")
        metadata = {
            "headrace.topic": topic,
            "headrace.topic_id": TOPIC_ID,
            "headrace.first_window": str(number),
            "headrace.window": str(number),
            "headrace.end_ms": str(NOW_MS - min([*ages, quarantine or 99]) * DAY_MS),
            "headrace.offsets": json.dumps({str(p): [10 * number, 10 * number + 10] for p in range(2)}),
            "headrace.files": json.dumps(files),
            **changes,
        }
        for path in files:
            self.put(path, {key: value for key, value in metadata.items() if value is not None})
        return files

    def put(self, path: str, metadata: Mapping[str, str]) -> None:
        full = self.lake / path
        full.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"a": [1]}).replace_schema_metadata(dict(metadata)), full)

    async def exported(self, through: int) -> None:
        row = committed_row("t", Committed(next_window=through + 1, offsets={}), NOW_MS)
        await self.log.append([], [TableChange(table=committed_table(SINK), key=TOPIC_ID, value=row)])

    def paths(self) -> list[str]:
        return sorted(str(path.relative_to(self.lake)) for path in self.lake.rglob("*.parquet"))

    def dropped(self) -> list[tuple[int, int, int, str]]:
        found = entries(self.log.rows_now(LEDGER_TABLE))
        return [(one.partition, one.first, one.next, one.reason) for one in found if one.state == "dropped"]


@asynccontextmanager
async def box(data_dir: Path, **settings: str) -> AsyncIterator[LakeBox]:
    made = await LakeBox(data_dir, **settings).open()
    try:
        yield made
    finally:
        await made.log.close()


@pytest.mark.parametrize(
    ("now_h", "age_h", "expected"),
    [
        (0, 0, None),
        (47, 24, None),
        (48, 24, date(1970, 1, 1)),
        (24 * 10 + 23, 24, date(1970, 1, 9)),
        (10, 24, None),
    ],
)
def test_a_day_is_old_when_its_last_moment_is(now_h: int, age_h: int, expected: date | None) -> None:
    assert cutoff_date(now_h * 3_600_000, age_h * 3_600_000) == expected


def unit(number: int, newest: date, *, size: int = 100, topic_id: str = TOPIC_ID) -> LakeUnit:
    return LakeUnit(
        topic="t",
        topic_id=topic_id,
        first_number=number,
        number=number,
        end_ms=number,
        offsets={},
        files={f"{number}": size},
        newest_date=newest,
    )


def test_units_go_by_age_and_the_oldest_by_size_but_none_that_is_being_published() -> None:
    units = [unit(3, DAYS[1]), unit(0, DAYS[9]), unit(1, DAYS[2]), unit(2, DAYS[8])]
    drops = to_drop(units, cutoff=DAYS[5], excess_bytes=0, exported={TOPIC_ID: 4})
    assert [(drop.unit.number, drop.reason) for drop in drops] == [(0, DropReason.AGE), (2, DropReason.AGE)]
    drops = to_drop(units, cutoff=None, excess_bytes=150, exported={TOPIC_ID: 4})
    assert [(drop.unit.number, drop.reason) for drop in drops] == [(0, DropReason.BYTES), (1, DropReason.BYTES)]
    assert [drop.unit.number for drop in to_drop(units, cutoff=DAYS[0], excess_bytes=999, exported={TOPIC_ID: 2})] == [
        0,
        1,
    ]
    assert not to_drop(units, cutoff=DAYS[0], excess_bytes=999, exported={})


async def test_whole_units_go_when_their_newest_day_is_old_and_the_ledger_has_their_offsets(tmp_path: Path) -> None:
    async with box(tmp_path, lake_max_age="7d") as it:
        it.publish(0, 20, 12, quarantine=12)
        late = it.publish(1, 11, 7)  # 2027-01-08 ended 7 days and 8 hours ago minus a day: still young
        young = it.publish(2, 1)
        await it.exported(2)
        keys = [f"{TOPIC_ID}/{number:020}" for number in range(3)]
        await it.log.append([], [TableChange(table=EXPORTS_TABLE, key=key, value={"files": []}) for key in keys])
        await it.keeper.look()
        assert it.paths() == sorted([*late, *young])
        assert not (it.lake / "t" / f"date={DAYS[20]}").exists(), "nor is an empty folder left"
        assert it.dropped() == [(0, 0, 10, "older than lake_max_age"), (1, 0, 10, "older than lake_max_age")]
        assert sorted(it.log.rows_now(EXPORTS_TABLE)) == keys[1:]
        assert not it.log.rows_now(DROPPING_TABLE)
        assert it.keeper.dropped_files == {("t", "older than lake_max_age"): 3}
        it.clock.now_ms += 2 * DAY_MS
        await it.keeper.look()
        assert it.paths() == young
        assert it.dropped()[0] == (0, 0, 20, "older than lake_max_age")


async def test_by_size_the_oldest_units_go_until_it_fits(tmp_path: Path) -> None:
    async with box(tmp_path) as it:
        for number in range(6):
            it.publish(number, 12 - number)
        size_bytes = (it.lake / it.paths()[0]).stat().st_size
        it.settings = RetentionSettings(lake_max_bytes=f"{3 * size_bytes + 50}B")
        it.keeper._settings = it.settings
        it.keeper._lake_bytes = lambda: 6 * size_bytes  # measured before anything went
        await it.exported(5)
        for _ in range(3):
            await it.keeper.look()
            assert [Path(path).stem for path in it.paths()] == ["0003", "0004", "0005"]


async def test_only_the_closing_file_names_all_and_the_unit_is_as_old_as_the_newest(tmp_path: Path) -> None:
    async with box(tmp_path, lake_max_age="7d") as it:
        files = it.publish(0, 20, 12, quarantine=12, **{"headrace.files": None})
        metadata = pq.read_metadata(it.lake / files[-1]).metadata
        notes = {key.decode(): value.decode() for key, value in metadata.items() if key.startswith(b"headrace.")}
        young = f"t/date={DAYS[2]}/0000-closing.parquet"
        await it.exported(0)
        it.put(young, {**notes, "headrace.files": json.dumps([*files, young])})
        await it.keeper.look()
        assert it.paths() == sorted([*files, young]), "young, or not known to be old"
        (it.lake / young).unlink()
        old = f"t/date={DAYS[12]}/0000-closing.parquet"
        it.put(old, {**notes, "headrace.files": json.dumps([*files, old])})
        await it.keeper.look()
        assert it.paths() == []


async def test_what_a_replay_set_aside_goes_with_its_unit(tmp_path: Path) -> None:
    async with box(tmp_path, lake_max_age="7d") as it:
        *_, quarantined = it.publish(0, 20, quarantine=20)
        aside = it.lake / "_superseded" / quarantined
        aside.parent.mkdir(parents=True)
        (it.lake / quarantined).rename(aside)
        await it.exported(0)
        await it.keeper.look()
        assert it.paths() == []


@pytest.mark.parametrize(("age", "stays"), [(2, True), (12, False)])
async def test_a_unit_is_as_old_as_what_a_replay_made_of_it(tmp_path: Path, age: int, stays: bool) -> None:
    """Its files may be in a younger folder than those that name them, and its row of exports forgotten."""
    async with box(tmp_path, lake_max_age="7d") as it:
        *_, quarantined = it.publish(0, 20, quarantine=20)
        aside = it.lake / "_superseded" / quarantined
        aside.parent.mkdir(parents=True)
        (it.lake / quarantined).rename(aside)
        metadata = pq.read_metadata(aside).metadata
        notes = {key.decode(): value.decode() for key, value in metadata.items() if key.startswith(b"headrace.")}
        new = f"t/date={DAYS[age]}/0000-again.parquet"
        it.put(new, {**notes, "headrace.files": json.dumps([new]), "headrace.replays": quarantined})
        other = f"t/date={DAYS[age]}/0000-other.parquet"
        it.put(other, {**notes, "headrace.window": "9", "headrace.files": json.dumps([other])})
        before = it.paths()
        await it.exported(0)
        await it.keeper.look()
        assert it.paths() == (before if stays else [other])


async def test_offsets_that_are_lost_or_left_out_stay_that(tmp_path: Path) -> None:
    async with box(tmp_path, lake_max_age="7d") as it:
        it.publish(0, 20)
        lost = LedgerEntry(
            topic="t", topic_id=TOPIC_ID, partition=1, first=3, next=5, state="lost", reason="gone", at_ms=1
        )
        await it.log.append([], [lost.change])
        await it.exported(0)
        await it.keeper.look()
        assert [one[:3] for one in it.dropped()] == [(0, 0, 10), (1, 0, 3), (1, 5, 10)]


async def test_foreign_files_and_those_that_do_not_say_enough_are_left_alone(tmp_path: Path) -> None:
    async with box(tmp_path, lake_max_age="7d") as it:
        before = it.publish(0, 20, **{"headrace.files": None, "headrace.first_window": None})
        known = it.publish(1, 19, 18, **{"headrace.files": None, "headrace.first_window": None})
        foreign = f"t/date={DAYS[21]}/foreign.parquet"
        it.put(foreign, {})
        (it.lake / f"t/date={DAYS[21]}/broken.parquet").write_bytes(b"PAR1 no more")
        (it.lake / ".tmp").mkdir()
        (it.lake / ".tmp" / "x.parquet").write_bytes(b"")
        row = {"files": [{"path": path} for path in known]}
        await it.log.append([], [TableChange(table=EXPORTS_TABLE, key=f"{TOPIC_ID}/{1:020}", value=row)])
        await it.exported(1)
        with capture_logs() as told:
            for _ in range(3):
                await it.keeper.look()
        assert it.paths() == sorted([".tmp/x.parquet", *before, foreign, f"t/date={DAYS[21]}/broken.parquet"])
        assert [one[:3] for one in it.dropped()] == [(0, 10, 20), (1, 10, 20)]
        assert it.keeper.left_alone == 3
        assert ["are left alone" in line["event"] for line in told].count(True) == 1


async def test_not_while_the_clock_is_wrong_nor_before_the_sink_has_recorded_it_nor_switched_off(
    tmp_path: Path,
) -> None:
    async with box(tmp_path, lake_max_age="7d") as it:
        files = it.publish(0, 20)
        await it.keeper.look()
        assert it.paths() == files
        await it.exported(0)
        it.clock_state = ClockState.STEPPED
        await it.keeper.look()
        assert it.paths() == files
        it.keeper._settings = RetentionSettings()
        it.clock_state = ClockState.OK
        await it.keeper.look()
        assert it.paths() == files
        assert not it.keeper.on


async def test_killed_between_any_two_steps_it_is_finished_whatever_the_settings_are_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = await LakeBox(tmp_path, lake_max_age="7d").open()
    files = it.publish(0, 20, 12, quarantine=12)
    await it.exported(0)

    def dies(paths: Any) -> int:
        (it.lake / paths[0]).unlink()
        raise OSError(5, "input/output error", paths[0])

    monkeypatch.setattr(it.files, "delete", dies)
    with pytest.raises(OSError, match="input/output"):
        await it.keeper.look()
    assert len(it.paths()) == len(files) - 1
    assert len(it.dropped()) == 2, "the ledger knows before the first file goes"
    await it.log.close()
    it.disk.revive()
    it.settings = RetentionSettings()
    await it.open()
    assert list(it.log.rows_now(DROPPING_TABLE)) == [f"{TOPIC_ID}/{0:020}"]
    await it.keeper.look()
    assert it.paths() == []
    assert not it.log.rows_now(DROPPING_TABLE)
    assert len(it.dropped()) == 2
    await it.log.close()


async def test_nothing_is_deleted_that_could_not_be_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with box(tmp_path, lake_max_age="7d") as it:
        files = it.publish(0, 20)
        await it.exported(0)

        async def refused(*_: Any) -> Any:
            raise UnavailableError("not now")

        with monkeypatch.context() as patch:
            patch.setattr(it.log, "append", refused)
            with pytest.raises(UnavailableError):
                await it.keeper.look()
        assert it.paths() == files
        await it.keeper.look()
        assert it.paths() == []


async def test_footers_are_read_once_and_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lake_files, "MAX_FOOTERS", 4)
    read: list[Path] = []
    footer = lake_files._footer
    monkeypatch.setattr(lake_files, "_footer", lambda path: (read.append(path), footer(path))[1])
    async with box(tmp_path, lake_max_age="7d") as it:
        for number in range(10):
            it.publish(number, 20)
        await it.keeper.look()
        assert len(read) == 4
        for _ in range(5):
            await it.keeper.look()
        assert len(read) == len(set(read)) == 10
        await it.exported(9)
        await it.keeper.look()
        assert it.paths() == []


def test_dates_are_those_of_folders() -> None:
    assert date_of("t/date=2026-11-20/a.parquet") == date(2026, 11, 20)
    assert date_of("t/date=2026-13-20/a.parquet") is None
    assert date_of("t/a.parquet") is None


def test_a_box_that_keeps_its_lake_never_loads_pyarrow() -> None:
    import subprocess

    code = "import sys, appliance.edge; print([name for name in sys.modules if name.startswith('pyarrow')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
