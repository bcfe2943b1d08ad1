"""A lost checkpoint: the files of the lake say what was exported, and the tables come to be what they were."""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from commitlog.base import Gap, TableChange
from commitlog.storage import LOG_DIR
from commitlog.tables import TABLES_DIR
from sink.metrics import SinkMetrics
from sink.parquet.lake import LakeFile, read_lake_file
from sink.storage import Storage
from tests.commitlog.log_support import log_settings, opened
from tests.sink import test_sink_replay as with_replays
from tests.sink.lake_box import CLOCK, Box, export, records
from tests.sink.sink_fakes import FakeLog, FaultyStorage, Killed, export_all, quick_runner, run_until
from tests.sink.test_sink_contract import ParquetSubject, check, count_steps, fleet_log, heal, with_faults

SINK_TABLES = ("sink.parquet", "exports", "ledger")


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sink.payload.chunks.CHUNK_RECORDS", 3)


def lose(log: FakeLog, *tables: str) -> None:
    for table in tables or SINK_TABLES:
        log.tables.pop(table, None)


def timeless(tables: Any) -> Any:
    """The sink's tables without the times of their commits."""
    kept = {table: copy.deepcopy(tables.get(table, {})) for table in SINK_TABLES}
    for rows in kept.values():
        for row in rows.values():
            row.pop("exported_at_ms", None)
            row.pop("at_ms", None)
    return kept


async def exported(tmp_path: Path, log: FakeLog | None = None) -> tuple[ParquetSubject, FakeLog]:
    subject, log = ParquetSubject(lake=tmp_path / "lake"), log or fleet_log()
    await export_all(subject.sink(Storage()), log)
    return subject, log


async def again(subject: ParquetSubject, log: FakeLog, **options: Any) -> list[Any]:
    """Export anew, as after a restart; what the sink said."""
    with capture_logs() as said:
        await export_all(subject.sink(Storage()), log, **options)
    return said


def windows_of(log: FakeLog, count: int, *, per_window: int = 5) -> FakeLog:
    for _ in range(count):
        for number in range(per_window):
            log.put({"n": number, "text": "x" * number}, partition=number % 2)
        log.close_window()
    return log


def plain_log(count: int) -> FakeLog:
    log = FakeLog()
    log.topic()
    return windows_of(log, count)


def units(subject: ParquetSubject) -> dict[int, list[Path]]:
    """Visible files by their unit's last window, the closing one last."""
    found: dict[int, list[LakeFile]] = {}
    for path in subject.published():
        file = read_lake_file(subject.lake, path)
        assert isinstance(file, LakeFile)
        found.setdefault(file.window, []).append(file)
    return {
        number: [subject.lake / file.path for file in sorted(files, key=lambda one: bool(one.files))]
        for number, files in found.items()
    }


def complete(log: FakeLog) -> Counter[tuple[int, int]]:
    return Counter((p, record.offset) for (_, p), found in log.records.items() for record in found)


async def test_all_three_tables_come_back_as_they_were_and_no_file_is_touched(tmp_path: Path) -> None:
    subject, log = await exported(tmp_path)
    before, identities, metrics = timeless(log.tables), subject.identities(), SinkMetrics()
    lose(log)
    said = await again(subject, log, metrics=metrics)
    assert timeless(log.tables) == before
    assert subject.identities() == identities
    check(subject, log)
    (told,) = [entry for entry in said if entry["event"] == "exports are not recorded"]
    assert (told["topic"], told["windows"], told["exports"], told["recorded_to"]) == ("telemetry", [0, 2], 2, None)
    assert 'headrace_sink_taken_over_total{topic="telemetry"} 2.0' in metrics.text()
    assert 'headrace_sink_rows_total{topic="telemetry"} 0.0' in metrics.text()


async def test_what_is_closed_afterwards_is_exported_and_no_footer_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, log = await exported(tmp_path)
    lose(log)
    windows_of(log, 2)
    await again(subject, log)
    assert subject.visible() == complete(log)
    reads: list[str] = []
    monkeypatch.setattr("sink.parquet.recorded.read_lake_file", lambda _lake, path: reads.append(path))
    windows_of(log, 1)
    assert not [entry for entry in await again(subject, log) if entry["event"] == "exports are not recorded"]
    assert reads == []
    assert subject.visible() == complete(log)


async def test_killed_at_any_step_and_the_checkpoint_lost_as_well(tmp_path: Path) -> None:
    whole = ParquetSubject(lake=tmp_path / "whole")
    steps = await count_steps(whole.lake)
    rng, seen = random.Random(5), set()
    for number in sorted(rng.sample(range(1, steps + 1), 40)):
        subject, log = ParquetSubject(lake=tmp_path / str(number)), fleet_log()
        storage = FaultyStorage(die_at=number, power_loss=number % 2 == 0)
        with_faults(log, storage)
        with pytest.raises(Killed):
            await export_all(subject.sink(storage), log)
        heal(log)
        lose(log)
        if rng.random() < 0.5:  # and the plan with it: what it has published is a whole export, or a broken one
            for plan in (subject.lake / ".plans").glob("*.json"):
                plan.unlink()
            seen.add("no plan")
        await again(subject, log)
        check(subject, log)
        assert subject.published() == whole.published()
    assert seen


async def test_taking_over_is_killed_at_any_step(tmp_path: Path) -> None:
    """Also between two exports: the row that is then there must not hide those that are not recorded yet."""
    for number in range(1, 12):
        subject, log = await exported(tmp_path / str(number), plain_log(4))
        before = timeless(log.tables)
        lose(log)
        del log.closed["telemetry"][:3]  # the log has let go of them: only the lake knows
        storage = FaultyStorage(die_at=number)
        with_faults(log, storage)
        with pytest.raises(Killed):
            await export_all(subject.sink(storage), log)
        heal(log)
        await again(subject, log)
        assert timeless(log.tables) == before
        assert subject.visible() == complete(log)


async def test_an_older_copy_of_the_tables_is_brought_up_to_the_lake(tmp_path: Path) -> None:
    subject, log = await exported(tmp_path, plain_log(2))
    old = copy.deepcopy(log.tables)
    windows_of(log, 3)
    await again(subject, log)
    new, identities = timeless(log.tables), subject.identities()
    log.tables = old
    said = await again(subject, log)
    assert timeless(log.tables) == new
    assert subject.identities() == identities
    assert [entry["recorded_to"] for entry in said if entry["event"] == "exports are not recorded"] == [2]


@pytest.mark.parametrize("which", [0, -1], ids=["the first file", "the one that names the others"])
async def test_an_export_that_is_not_whole_is_taken_back_and_made_anew(tmp_path: Path, which: int) -> None:
    subject, log = await exported(tmp_path)
    before, files = timeless(log.tables), subject.published()
    lose(log)
    units(subject)[0][which].unlink()
    said = await again(subject, log)
    (told,) = [entry for entry in said if entry["event"] == "files taken back"]
    assert told["files_total"] == len(units(subject)[0]) - 1
    assert subject.published() == files
    assert timeless(log.tables) == before


async def test_a_corrupt_file_is_made_anew_as_long_as_the_log_has_its_records(tmp_path: Path) -> None:
    subject, log = await exported(tmp_path)
    before = subject.published()
    lose(log)
    for path in (units(subject)[0][0], units(subject)[2][-1]):
        path.write_bytes(path.read_bytes()[:-20])
    await again(subject, log)
    assert subject.published() == before
    check(subject, log)


async def test_an_export_that_is_not_whole_is_kept_when_the_log_has_let_go_of_it(tmp_path: Path) -> None:
    subject, log = await exported(tmp_path)
    lose(log)
    lost = units(subject)[0][0]
    lost.unlink()
    left = subject.visible()
    log.records["telemetry", 0] = log.records["telemetry", 0][8:]
    log.gaps.clear()
    said = await again(subject, log)
    assert subject.visible() == left
    (told,) = [entry for entry in said if entry["event"] == "an export that is not whole is kept"]
    assert told["log_level"] == "error"
    rows = log.tables["exports"].values()
    assert str(lost.relative_to(subject.lake)) not in {file["path"] for row in rows for file in row["files"]}
    assert len(rows) == 2


@pytest.mark.parametrize("table", ["ledger", "exports"])
async def test_one_table_alone_is_gone(tmp_path: Path, table: str) -> None:
    """The ledger is made again from the rows of exports; these are for show, and the files say as much."""
    subject, log = await exported(tmp_path)
    before, identities = timeless(log.tables), subject.identities()
    lose(log, table)
    windows_of(log, 1)
    said = await again(subject, log)
    assert [entry["entries"] for entry in said if entry["event"] == "the ledger is mended"] == [2] * (table == "ledger")
    assert timeless(log.tables)["ledger"] == before["ledger"]
    assert subject.visible() == complete(log)
    assert identities <= subject.identities()


async def test_windows_between_exports_that_are_there_are_exported(tmp_path: Path) -> None:
    """Someone removed all files of a window, and the tables are lost, too."""
    subject, log = await exported(tmp_path, plain_log(5))
    before, files = timeless(log.tables), subject.published()
    lose(log)
    for number in (1, 2):
        for path in units(subject)[number]:
            path.unlink()
    await again(subject, log)
    assert subject.published() == files
    assert timeless(log.tables) == before


async def test_windows_that_neither_the_log_nor_the_lake_has_are_listed_as_lost(tmp_path: Path) -> None:
    subject, log = await exported(tmp_path, plain_log(4))
    lose(log)
    for number in (0, 1):
        for path in units(subject)[number]:
            path.unlink()
    first = log.closed["telemetry"][2].offsets
    del log.closed["telemetry"][:2]
    await again(subject, log)
    lost = {key: row["next"] for key, row in log.tables["ledger"].items()}
    topic_id = log.infos["telemetry"].topic_id
    assert lost == {f"{topic_id}/lost/{p}/{0:020}": low for p, (low, _) in first.items()}


async def test_what_retention_dropped_is_not_lost(tmp_path: Path) -> None:
    subject, log = await exported(tmp_path, plain_log(4))
    lose(log)
    for path in units(subject)[0]:
        path.unlink()
    window = log.closed["telemetry"].pop(0)
    dropped = {
        f"{window.topic_id}/dropped/{p}/{0:020}": {"topic": "telemetry", "next": next_, "reason": "age", "at_ms": 1}
        for p, (_, next_) in window.offsets.items()
    }
    log.tables["ledger"] = dict(dropped)
    await again(subject, log)
    assert log.tables["ledger"] == dropped


async def test_a_log_that_is_an_older_copy_exports_nothing_and_says_why(tmp_path: Path) -> None:
    subject, log = await exported(tmp_path, plain_log(4))
    lose(log)
    for partition in (0, 1):
        log.records["telemetry", partition] = log.records["telemetry", partition][:6]
    log.closed["telemetry"] = log.closed["telemetry"][:2]
    before = subject.published()
    said = await failing(subject, log)
    assert "that this log does not know: its offsets are not there yet" in said["what"]
    assert "older copy" in said["mend"]
    assert subject.published() == before
    assert not log.tables.get("sink.parquet")


async def test_windows_that_are_numbered_anew_are_not_mistaken_for_those_in_the_lake(tmp_path: Path) -> None:
    subject, log = await exported(tmp_path, plain_log(2))
    lose(log)
    log.closed["telemetry"].clear()
    log.close_window()
    said = await failing(subject, log)
    assert "its windows have other offsets" in said["what"]
    assert not log.tables.get("sink.parquet")


async def failing(subject: ParquetSubject, log: FakeLog) -> Any:
    """What the sink says of a topic that it does not export."""
    with capture_logs() as said:
        await run_until(
            quick_runner(subject.sink(Storage()), log),
            lambda: any(entry["event"] == "export failed" for entry in said),
        )
    return next(entry for entry in said if entry["event"] == "export failed")


async def test_missing_offsets_without_any_file_are_found_missing_again(tmp_path: Path) -> None:
    """A window of which nothing was left has no file that could tell."""
    log = plain_log(1)
    first = log.closed["telemetry"][-1].offsets[0][1]
    log.gaps["telemetry", 0] = [Gap(first=first, next=first + 4, reason="cut")]
    log.put({"n": 1}, offset=first + 4)
    window = log.close_window()
    log.closed["telemetry"][-1:] = [
        split(window, 1, {0: (first, first + 4)}),
        split(window, 2, {0: (first + 4, first + 5)}),
    ]
    subject, log = await exported(tmp_path, log)
    before = timeless(log.tables)
    assert sorted(units(subject)) == [0, 2]
    lose(log)
    await again(subject, log)
    assert timeless(log.tables) == before


def split(window: Any, number: int, offsets: dict[int, tuple[int, int]]) -> Any:
    end = window.offsets[1][1]
    return replace(window, number=number, offsets={1: (end, end), **offsets})


# -- replays


async def replayed(lake: Path) -> FakeLog:
    """An export, and then a replay of its quarantine that made rows of some of it."""
    log = await with_replays.exported(lake, with_replays.WRONG)
    with_replays.put_back(log, lake)
    await with_replays.replay_all(with_replays.a_sink(lake, with_replays.MENDED), log)
    assert list((lake / "_superseded").rglob("*.parquet"))
    return log


async def test_an_export_with_a_replay_comes_back_as_it_stands(tmp_path: Path) -> None:
    """Also where the file that closed the export is the one that was superseded."""
    log = await replayed(tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
    before = with_replays.rows(tmp_path)
    lose(log)
    await with_replays.exported(tmp_path, with_replays.MENDED, log)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")} == files
    assert with_replays.rows(tmp_path) == before
    with_replays.check_account(tmp_path, log)


async def test_a_broken_export_is_taken_back_with_what_a_replay_made_of_it(tmp_path: Path) -> None:
    log = await replayed(tmp_path)
    before = with_replays.rows(tmp_path)
    for path in sorted((tmp_path / "telemetry").rglob("*.parquet")):
        file = read_lake_file(tmp_path, str(path.relative_to(tmp_path)))
        if isinstance(file, LakeFile) and not file.replays:
            path.unlink()
    lose(log)
    await with_replays.exported(tmp_path, with_replays.MENDED, log)
    with_replays.never_twice(tmp_path)
    assert with_replays.rows(tmp_path) == before
    with_replays.check_account(tmp_path, log)


# -- the real log


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


@pytest.mark.parametrize("table", ["exports", "ledger"])
async def test_verify_holds_without_one_of_the_other_tables(box: Box, table: str) -> None:
    async with opened(box.data_dir, settings=log_settings(), clock=CLOCK) as log:
        await log.append([], [TableChange(table=table, key=key, value=None) for key in await log.rows(table)])
        await export(log, box.data_dir)
    assert box.verify().clean


@pytest.mark.parametrize("harm", [damage, Path.unlink], ids=["damaged", "removed"])
async def test_tables_of_the_real_log(box: Box, harm: Callable[[Path], None]) -> None:
    before = {path: path.stat().st_ino for path in box.lake.rglob("*.parquet")}
    told = await tables(box)
    names = [path for path in (box.data_dir / LOG_DIR / TABLES_DIR).iterdir() if path.name.startswith(SINK_TABLES)]
    assert len(names) >= 2
    for path in names:
        harm(path)
    assert not box.verify().clean
    async with opened(box.data_dir, settings=log_settings(), clock=CLOCK) as log:
        assert not await log.rows("sink.parquet")
        await log.append(records("telemetry", 50, 7))
        await log.roll("telemetry", "test")
        await export(log, box.data_dir)
    report = box.verify()
    assert report.clean, [finding.as_dict() for finding in report.findings.kept]
    now = await tables(box)
    assert now["exports"].items() >= told["exports"].items()
    assert {path: path.stat().st_ino for path in before} == before


async def tables(box: Box) -> Any:
    async with opened(box.data_dir, settings=log_settings(), clock=CLOCK) as log:
        return timeless({table: await log.rows(table) for table in SINK_TABLES})


async def test_rows_of_one_topic_are_gone(box: Box) -> None:
    async with opened(box.data_dir, settings=log_settings(), clock=CLOCK) as log:
        rows = await log.rows("sink.parquet")
        topic_id = next(key for key, row in rows.items() if row["topic"] == "mqtt")
        await log.append([], [TableChange(table="sink.parquet", key=topic_id, value=None)])
        await export(log, box.data_dir)
        assert timeless({"sink.parquet": await log.rows("sink.parquet")}) == timeless({"sink.parquet": rows})
    assert box.verify().clean
