"""Replays: quarantine read again ends as if it had been read that way from the start, whatever dies on the way."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from commitlog.committed import Committed
from commitlog.settings import FieldSettings, TopicSettings
from sink.base import (
    BackOffError,
    CancelFlag,
    ExportCancelledError,
    ExportedFile,
    NotConnectedError,
    RecordsFailedError,
    Replay,
    ReplayRefusedError,
)
from sink.metrics import SinkMetrics
from sink.parquet import held
from sink.parquet.held import Limits
from sink.parquet.lake import LakeFile, read_lake_file
from sink.parquet.sink import ParquetSink
from sink.payload.reading import Reading, json_reading, raw_reading
from sink.payload.schema import Schema
from sink.payload.times import Skew
from sink.replaying import REPLAYED_KEPT, recorded
from sink.requests import REQUESTS_TABLE, replay_request
from sink.storage import Storage
from tests.sink.sink_fakes import (
    DAY_MS,
    T0,
    FakeLog,
    FaultyStorage,
    Killed,
    export_all,
    lake_rows,
    quick_runner,
    run_until,
)


def declared(temp: str) -> Reading:
    fields = (FieldSettings(name="temp", type=temp),)  # type: ignore[arg-type]
    return json_reading(Skew(), schema=Schema.of(TopicSettings(name="telemetry", fields=fields)))


WRONG, MENDED = declared("int64"), declared("double")


def a_sink(lake: Path, reading: Reading, storage: Storage | None = None, *, memory_bytes: int = 1 << 20) -> ParquetSink:
    limits = Limits(memory_bytes=memory_bytes)
    return ParquetSink(lake, reading_of=lambda _topic: reading, limits=limits, software="test", storage=storage)


def a_log() -> FakeLog:
    """Two windows with everything that may be refused, and may be read later or not."""
    log = FakeLog(batch=3)
    log.topic()
    log.put({"temp": 1})
    log.put({"temp": 1.5, "ts": (T0 - DAY_MS) // 1000}, key=b"press-\xff", headers=[("mqtt.topic", b"a/b")])
    log.put([{"temp": 1}, {"temp": 2.5}, 7, {"temp": 3.5}])
    log.put({"readings": [{"temp": 1.5}, {"temp": 2}, {"temp": "x"}, {"temp": 3.5}], "site": "s"})
    log.put({"readings": [{"temp": 0.5}, {"temp": "x"}, {"temp": "y"}], "site": "s"}, partition=1)
    log.put({"readings": [{"temp": "x"}, {"temp": "y"}], "site": "s"})
    log.put(b"not json", raw=True, key=None)
    log.put([], partition=1)
    log.put(7.5, headers=[("headrace.field", b"temp")])
    log.put(b'{"temp":8.5}\n{"temp":9}\nbad\n', raw=True, timestamp=T0 + DAY_MS)
    log.close_window()
    log.put({"temp": 4.5, "other": [1, "x"]})
    log.put({"temp": 5}, partition=1)
    log.close_window()
    return log


def put_back(log: FakeLog, lake: Path, *paths: str) -> None:
    """Ask for replays: of those files, or of all there are."""
    for path in paths or quarantine_files(lake):
        change = replay_request(path, "telemetry", log.infos["telemetry"].topic_id, 5)
        log.tables.setdefault(REQUESTS_TABLE, {})[change.key] = change.value


def quarantine_files(lake: Path) -> list[str]:
    return sorted(str(path.relative_to(lake)) for path in (lake / "_quarantine").rglob("*.parquet"))


async def replay_all(sink: ParquetSink, log: FakeLog, **options: Any) -> None:
    """Run until nothing is asked for any more, and nothing is begun."""
    runner = quick_runner(sink, log, replayer=sink, **options)
    waits = log.waits

    def done() -> bool:
        return not log.tables.get(REQUESTS_TABLE) and not sink.replays_begun() and log.waits > waits

    await run_until(runner, done)


def rows(lake: Path) -> dict[tuple[int, int, int], Any]:
    """Every row that readers of the topic and of its quarantine meet, by place; each once."""
    found: dict[tuple[int, int, int], Any] = {}
    for folder in ("telemetry", "_quarantine/telemetry"):
        for row in lake_rows(lake, folder):
            place = (row.pop("_partition"), row.pop("_offset"), row.pop("_row"))
            assert place not in found, f"{place} is there twice"
            found[place] = {name: value for name, value in row.items() if value is not None}
    return found


async def exported(lake: Path, reading: Reading, log: FakeLog | None = None) -> FakeLog:
    log = log or a_log()
    await export_all(a_sink(lake, reading), log)
    return log


def check_account(lake: Path, log: FakeLog) -> None:
    """Rows of `exports` and the lake say the same."""
    listed = {file["path"]: file for row in log.tables["exports"].values() for file in row["files"]}
    standing = [path for path in lake.rglob("*.parquet") if path.relative_to(lake).parts[0] != "_superseded"]
    assert {path: file["bytes"] for path, file in listed.items()} == {
        str(path.relative_to(lake)): path.stat().st_size for path in standing
    }
    for row in log.tables["exports"].values():
        by_kind: Counter[str] = Counter()
        for file in row["files"]:
            by_kind[file["kind"]] += file["rows"]
        assert row["rows"] == by_kind["rows"]
        assert row["quarantined"] == by_kind["quarantine"] == sum(row["quarantine_reasons"].values())


async def test_a_replay_ends_as_if_the_schema_had_been_right_from_the_start(tmp_path: Path) -> None:
    await exported(tmp_path / "right", MENDED)
    lake, metrics = tmp_path / "lake", SinkMetrics()
    log = await exported(lake, WRONG)
    files = quarantine_files(lake)
    assert len(files) == 3
    originals = {path: (lake / path).read_bytes() for path in files}
    before = rows(lake)
    put_back(log, lake)
    await replay_all(a_sink(lake, MENDED), log, metrics=metrics)
    after = rows(lake)
    assert after == rows(tmp_path / "right")
    assert after != before
    assert after[0, 3, 2]["payload_is"] == after[0, 4, 0]["payload_is"] == "envelope"
    assert after[1, 0, 2]["payload_is"] == "elsewhere"
    assert {path: (lake / "_superseded" / path).read_bytes() for path in files} == originals
    assert not set(files) & set(quarantine_files(lake))
    check_account(lake, log)
    for path in quarantine_files(lake):
        found = read_lake_file(lake, path)
        assert isinstance(found, LakeFile)
        assert found.replays in files
        assert found.offsets == {0: (0, 8), 1: (0, 2)}
    told = log.tables["sink.replayed"]
    assert {told[path]["outcome"] for path in files} == {"done"}
    assert sum(told[path]["rows"] for path in files) == 9
    assert 'headrace_sink_replays_total{outcome="done",topic="telemetry"} 3.0' in metrics.text()
    assert 'headrace_sink_replayed_rows_total{topic="telemetry"} 9.0' in metrics.text()


async def test_what_cannot_be_read_any_better_stays_where_it_is(tmp_path: Path) -> None:
    log = await exported(tmp_path, WRONG)
    before = {path: (tmp_path / path).stat().st_ino for path in quarantine_files(tmp_path)}
    exports = json.dumps(log.tables["exports"])
    put_back(log, tmp_path)
    await replay_all(a_sink(tmp_path, WRONG), log)
    assert {path: (tmp_path / path).stat().st_ino for path in quarantine_files(tmp_path)} == before
    assert {row["outcome"] for row in log.tables["sink.replayed"].values()} == {"unchanged"}
    assert json.dumps(log.tables["exports"]) == exports
    assert list((tmp_path / ".tmp").iterdir()) == []
    assert [path.name for path in (tmp_path / ".plans").iterdir()] == ["lock"]


async def test_replays_of_replays(tmp_path: Path) -> None:
    """First one of two faults is mended, then the other."""
    log = await exported(tmp_path / "lake", WRONG)
    put_back(log, tmp_path / "lake")
    await replay_all(a_sink(tmp_path / "lake", MENDED), log)
    text = declared("json")
    put_back(log, tmp_path / "lake")
    await replay_all(a_sink(tmp_path / "lake", text), log)
    await exported(tmp_path / "right", text)
    assert rows(tmp_path / "lake").keys() == rows(tmp_path / "right").keys()
    found = {place: row.get("reason") for place, row in rows(tmp_path / "lake").items()}
    assert found == {place: row.get("reason") for place, row in rows(tmp_path / "right").items()}
    assert found[1, 0, 2] is None
    check_account(tmp_path / "lake", log)


async def test_a_stricter_schema_takes_nothing_back(tmp_path: Path) -> None:
    """Rows that are exported stay, whatever the settings say by now; what is refused keeps all it needs."""
    log = await exported(tmp_path, WRONG)
    good = {place for place, row in rows(tmp_path).items() if "reason" not in row}
    only = Schema.of(
        TopicSettings(name="t", fields=(FieldSettings(name="temp", type="double"),), unknown_fields="quarantine")
    )
    put_back(log, tmp_path)
    await replay_all(a_sink(tmp_path, json_reading(Skew(), schema=only)), log)
    found = rows(tmp_path)
    assert good < {place for place, row in found.items() if "reason" not in row}
    assert [found[0, 3, row].get("payload_is") for row in range(4)] == ["envelope", None, "elsewhere", "elsewhere"]
    assert json.loads(found[0, 3, 0]["payload"])["site"] == "s"
    check_account(tmp_path, log)


async def test_memory_is_bounded_by_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sink.payload.kept._CHUNK_RECORDS", 2)
    monkeypatch.setattr(held, "REFUSED_BYTES", 400)
    await exported(tmp_path / "right", MENDED)
    log = await exported(tmp_path / "lake", WRONG)
    put_back(log, tmp_path / "lake")
    await replay_all(a_sink(tmp_path / "lake", MENDED, memory_bytes=1), log)
    assert rows(tmp_path / "lake") == rows(tmp_path / "right")
    assert len(list((tmp_path / "lake/telemetry").rglob("*.parquet"))) > 6
    check_account(tmp_path / "lake", log)


# -- killed


def with_faults(log: FakeLog, storage: FaultyStorage) -> None:
    log.before_append = [lambda: storage.step("before checkpoint")]
    log.after_append = [lambda: storage.step("after checkpoint")]


def heal(log: FakeLog) -> None:
    log.before_append, log.after_append = [], []


def never_twice(lake: Path) -> None:
    """At any moment: no row is in the topic's folder twice, and each place is somewhere."""
    found = Counter((row["_partition"], row["_offset"], row["_row"]) for row in lake_rows(lake))
    assert set(found.values()) == {1}
    kept = {(row["_partition"], row["_offset"]) for row in lake_rows(lake, "_quarantine/telemetry")}
    assert {place[:2] for place in found} | kept == {(0, o) for o in range(9)} | {(1, o) for o in range(3)}


@pytest.mark.parametrize("power_loss", [False, True], ids=["kill -9", "power loss"])
async def test_killed_at_every_step(tmp_path: Path, power_loss: bool) -> None:
    await exported(tmp_path / "right", MENDED)
    wanted = rows(tmp_path / "right")
    places: set[str] = set()
    number = 0
    while True:
        number += 1
        lake = tmp_path / str(number)
        log = await exported(lake, WRONG)
        files = quarantine_files(lake)[:1]
        put_back(log, lake, *files)
        storage = FaultyStorage(die_at=number, power_loss=power_loss)
        with_faults(log, storage)
        try:
            await replay_all(a_sink(lake, MENDED, storage), log)
        except Killed:
            places.add(storage.died_at)
        else:
            break
        never_twice(lake)
        heal(log)
        await replay_all(a_sink(lake, MENDED), log)
        found = rows(lake)
        mended = {place for place in wanted if place in found and "reason" not in found[place]}
        assert {place: found[place] for place in mended} == {place: wanted[place] for place in mended}
        assert (lake / "_superseded" / files[0]).is_file()
        check_account(lake, log)
        hidden = [*lake.glob(".tmp/*"), *lake.glob(".plans/*")]
        assert [path for path in hidden if path.name != "lock"] == []
    assert number > 30
    assert {"before checkpoint", "after checkpoint", "renamed", "before rename", "before sync", "removed"} <= places


async def test_settings_that_change_between_a_kill_and_the_next_start(tmp_path: Path) -> None:
    """A plan that stands is carried out as it was made."""
    log = await exported(tmp_path, WRONG)
    put_back(log, tmp_path)
    storage = FaultyStorage()
    storage.die_before("before checkpoint", 1)
    with_faults(log, storage)
    with pytest.raises(Killed):
        await replay_all(a_sink(tmp_path, MENDED, storage), log)
    heal(log)
    published = set((tmp_path / "telemetry").rglob("*.parquet"))
    await replay_all(a_sink(tmp_path, WRONG), log)
    assert published == set((tmp_path / "telemetry").rglob("*.parquet"))
    assert sorted(row["outcome"] for row in log.tables["sink.replayed"].values()) == ["done", "unchanged", "unchanged"]
    check_account(tmp_path, log)


async def test_staged_files_that_are_gone_are_staged_anew(tmp_path: Path) -> None:
    log = await exported(tmp_path, WRONG)
    (path, *_) = quarantine_files(tmp_path)
    put_back(log, tmp_path, path)
    storage = FaultyStorage()
    with_faults(log, storage)
    storage.die_before("before checkpoint", 1)
    with pytest.raises(Killed):
        await replay_all(a_sink(tmp_path, MENDED, storage), log)
    heal(log)
    (plan,) = [json.loads(p.read_text()) for p in (tmp_path / ".plans").glob("*.json")]
    (tmp_path / plan["files"][0]["path"]).unlink()
    with capture_logs() as logs:
        await replay_all(a_sink(tmp_path, MENDED), log)
    assert "plan set aside" in [entry["event"] for entry in logs]
    check_account(tmp_path, log)
    never_twice(tmp_path)


# -- what cannot be replayed


def ask(sink: ParquetSink, path: str, progress: dict[str, Committed]) -> ReplayRefusedError:
    with pytest.raises(ReplayRefusedError) as refusal:
        sink.replay(path, progress, CancelFlag())
    return refusal.value


async def test_files_that_cannot_be_replayed_say_why(tmp_path: Path) -> None:
    log = await exported(tmp_path, WRONG)
    progress = {log.infos["telemetry"].topic_id: Committed(next_window=2)}
    (path, *_) = quarantine_files(tmp_path)
    good = next(str(p.relative_to(tmp_path)) for p in (tmp_path / "telemetry").rglob("*.parquet"))
    sink = a_sink(tmp_path, MENDED)
    sink.open(progress)
    assert "no such file" in ask(sink, "_quarantine/telemetry/date=2025-01-01/x.parquet", progress).what
    assert "decoded rows" in ask(sink, good, progress).what
    assert "has exported nothing" in ask(sink, path, {"0" * 32: Committed(next_window=9)}).what
    with pytest.raises(BackOffError):
        sink.replay(path, {log.infos["telemetry"].topic_id: Committed()}, CancelFlag())
    cancel = CancelFlag()
    cancel.set()
    with pytest.raises(ExportCancelledError):
        sink.replay(path, progress, cancel)
    (tmp_path / path).write_bytes(b"PAR1")
    assert "corrupt" in ask(sink, path, progress).what
    (tmp_path / "_superseded" / path).parent.mkdir(parents=True)
    (tmp_path / path).rename(tmp_path / "_superseded" / path)
    assert "replayed already" in ask(sink, path, progress).what
    sink.close()
    assert list((tmp_path / ".tmp").iterdir()) == []


async def test_a_file_with_a_damaged_page_is_no_replay(tmp_path: Path) -> None:
    log = await exported(tmp_path, WRONG)
    (path, *_) = quarantine_files(tmp_path)
    data = bytearray((tmp_path / path).read_bytes())
    data[40:80] = bytes(40)
    (tmp_path / path).write_bytes(data)
    sink = a_sink(tmp_path, MENDED)
    sink.open({})
    with pytest.raises((RecordsFailedError, OSError)):
        sink.replay(path, {log.infos["telemetry"].topic_id: Committed(next_window=2)}, CancelFlag())
    sink.close()
    assert list((tmp_path / ".tmp").iterdir()) == []


async def test_parts_are_not_replayed_as_raw_records_are(tmp_path: Path) -> None:
    log = await exported(tmp_path, WRONG)
    put_back(log, tmp_path)
    with capture_logs() as logs:
        await replay_all(a_sink(tmp_path, raw_reading(Skew())), log)
    outcomes = Counter(row["outcome"] for row in log.tables["sink.replayed"].values())
    assert outcomes["refused"] >= 1
    assert outcomes["done"] >= 1
    assert any("raw/1" in entry.get("what", "") for entry in logs)
    check_account(tmp_path, log)
    never_twice(tmp_path)


# -- the runner


class ScriptedReplayer:
    """Does what the test says at each replay."""

    def __init__(self, *script: Exception) -> None:
        self.script = list(script)
        self.calls: list[tuple[str, str]] = []
        self.begun: list[str] = []
        self.threads: set[int] = set()

    def replays_begun(self) -> list[str]:
        self.threads.add(threading.get_ident())
        return self.begun

    def replay(self, path: str, progress: Any, cancel: CancelFlag) -> Replay:
        self.threads.add(threading.get_ident())
        self.calls.append(("replay", path))
        if self.script:
            raise self.script.pop(0)
        return Replay(path=path, topic="telemetry", topic_id="t", number=0, rows=1)

    def settle_replay(self, path: str) -> None:
        self.threads.add(threading.get_ident())
        self.calls.append(("settle", path))
        self.begun = [one for one in self.begun if one != path]


class Nothing:
    """A sink that has nothing to do."""

    name = "nothing"

    def open(self, progress: Any) -> None: ...
    def begun(self, topic_id: str, next_window: int) -> int | None: ...
    def close(self) -> None: ...
    def settle(self, window: Any) -> None: ...

    def write(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("no window is closed")


async def run_replays(replayer: ScriptedReplayer, log: FakeLog, *, metrics: SinkMetrics | None = None) -> None:
    runner = quick_runner(Nothing(), log, replayer=replayer, metrics=metrics)
    waits = log.waits
    await run_until(runner, lambda: not log.tables.get(REQUESTS_TABLE) and not replayer.begun and log.waits > waits + 1)


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left"), RecordsFailedError("page"), RuntimeError("bug"), NotConnectedError("gone")],
    ids=lambda error: type(error).__name__,
)
async def test_a_failing_replay_is_told_and_tried_again_and_others_go_on(error: Exception) -> None:
    log, replayer, metrics = FakeLog(), ScriptedReplayer(error, error), SinkMetrics()
    log.topic()
    put_back(log, Path(), "a", "b")
    with capture_logs() as logs:
        await run_replays(replayer, log, metrics=metrics)
    calls = [path for call, path in replayer.calls if call == "replay"]
    assert Counter(calls) + Counter() == Counter({"a": 2, "b": 2})
    assert [entry["failures"] for entry in logs if entry["event"] == "replay failed"] == [1, 1]
    assert {row["outcome"] for row in log.tables["sink.replayed"].values()} == {"done"}
    assert "headrace_sink_failures_total" in metrics.text()
    assert len(replayer.threads) == 1
    assert threading.get_ident() not in replayer.threads


async def test_what_was_begun_goes_first_and_a_refusal_ends_the_request() -> None:
    log, replayer = FakeLog(), ScriptedReplayer()
    log.topic()
    replayer.begun = ["z"]
    put_back(log, Path(), "a")
    await run_replays(replayer, log)
    assert replayer.calls == [("replay", "z"), ("settle", "z"), ("replay", "a"), ("settle", "a")]
    replayer.script = [ReplayRefusedError("no such file", where="b", mend="look")]
    put_back(log, Path(), "b")
    await run_replays(replayer, log)
    row = log.tables["sink.replayed"]["b"]
    assert {name: row[name] for name in ("outcome", "what", "mend")} == {
        **{"outcome": "refused", "what": "no such file", "mend": "look"}
    }
    assert replayer.calls[-1] == ("replay", "b")


async def test_a_checkpoint_that_is_refused_is_tried_again() -> None:
    log, replayer = FakeLog(), ScriptedReplayer()
    log.topic()
    put_back(log, Path(), "a")
    log.unavailable = 2
    await run_replays(replayer, log)
    assert replayer.calls == [("replay", "a")] * 3 + [("settle", "a")]


async def test_a_stop_ends_a_replay_that_is_under_way() -> None:
    log = FakeLog()
    log.topic()
    put_back(log, Path(), "a")
    stop = asyncio.Event()

    class Slow(ScriptedReplayer):
        def replay(self, path: str, progress: Any, cancel: CancelFlag) -> Replay:
            loop.call_soon_threadsafe(stop.set)
            while True:
                cancel.check()

    loop = asyncio.get_running_loop()
    runner = quick_runner(Nothing(), log, replayer=Slow())
    await asyncio.wait_for(runner.run(stop), 10)
    assert list(log.tables[REQUESTS_TABLE]) == ["replay/a"]


def test_outcomes_are_kept_for_a_bounded_number_of_files() -> None:
    done = Replay(path="new", topic="t", topic_id="i", number=0)
    held = {str(number): {"at_ms": number} for number in range(REPLAYED_KEPT)}
    removed = [change.key for change in recorded(done, None, held, 9999) if change.value is None]
    assert removed == ["replay/new", "0"]
    again = {**held, "new": {"at_ms": 1}}
    del again["0"]
    assert [c.key for c in recorded(done, None, again, 9999) if c.value is None] == ["replay/new"]
    assert not [c for c in recorded(replace(done, rows=1), {"files": []}, {}, 1) if c.table == "exports"]


def test_a_row_of_exports_that_was_made_of_the_lake_meanwhile_counts_no_file_twice() -> None:
    """Tables lost between publication and commit: the row is made anew of every file that stands, new ones too."""
    new = [
        ExportedFile(path="a", kind="rows", rows=3, size_bytes=1, crc32c="0" * 8, date="d"),
        ExportedFile(path="b", kind="quarantine", rows=2, size_bytes=1, crc32c="0" * 8, date="d"),
    ]
    replay = Replay(
        path="q",
        topic="t",
        topic_id="i",
        number=0,
        files=new,
        rows=3,
        before={"schema": 5},
        quarantined={"schema": 2},
    )
    row = {
        "files": [{"path": "q"}, {"path": "a"}, {"path": "b"}],
        "rows": 3,
        "quarantined": 7,
        "quarantine_reasons": {"schema": 7},
        "clashes": {},
    }
    (changed,) = [change.value for change in recorded(replay, row, {}, 1) if change.table == "exports"]
    assert [file["path"] for file in changed["files"]] == ["a", "b"]
    assert (changed["rows"], changed["quarantined"], changed["quarantine_reasons"]) == (3, 2, {"schema": 2})


async def test_tables_lost_while_a_replay_is_not_settled(tmp_path: Path) -> None:
    """The lake says what was exported, the plan says what was being replayed."""
    log = await exported(tmp_path, WRONG)
    (path, *_) = quarantine_files(tmp_path)
    put_back(log, tmp_path, path)
    storage = FaultyStorage()
    with_faults(log, storage)
    storage.die_before("before checkpoint", 1)
    with pytest.raises(Killed):
        await replay_all(a_sink(tmp_path, MENDED, storage), log)
    heal(log)
    log.tables.clear()
    sink = a_sink(tmp_path, MENDED)
    waits = log.waits
    runner = quick_runner(sink, log, replayer=sink)
    await run_until(runner, lambda: log.waits > waits + 2 and not list((tmp_path / ".plans").glob("replay-*")))
    never_twice(tmp_path)
    check_account(tmp_path, log)
    assert (tmp_path / "_superseded" / path).is_file()
