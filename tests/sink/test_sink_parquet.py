from __future__ import annotations

import errno
import io
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from commitlog.base import Gap
from commitlog.gaps import LEFT_OUT
from commitlog.settings import FieldSettings, TopicSettings
from sink.base import (
    BackOffError,
    CancelFlag,
    Export,
    ExportCancelledError,
    Missing,
    NotConnectedError,
    joined,
)
from sink.parquet.held import Limits
from sink.parquet.plan import file_path, from_json, plan_name, topic_folder
from sink.parquet.sink import ParquetSink
from sink.payload.reading import Reading, json_reading, raw_reading
from sink.payload.schema import Schema
from sink.payload.times import Skew
from sink.storage import Storage
from tests.sink.sink_fakes import DAY_MS, T0, FakeLog, FaultyStorage, Killed, lake_rows

SECOND = T0 // 1000
JSON = json_reading(Skew())
RAW = raw_reading(Skew())


def make_sink(lake: Path, **options: Any) -> ParquetSink:
    reading: Reading = options.pop("reading", JSON)
    settings = {"limits": Limits(), "software": "headrace 0", "storage": FaultyStorage(), **options}
    return ParquetSink(lake, reading_of=lambda _topic: reading, **settings)


def export(lake: Path, log: FakeLog, topic: str = "telemetry", **options: Any) -> Export:
    """Close the open window of a topic and write it."""
    notes = options.pop("notes", ())
    sink = make_sink(lake, **options)
    sink.open({})
    try:
        window = joined([log.close_window(topic)])
        done = sink.write(window, log, CancelFlag(), notes=notes)
        sink.settle(window)
        return done
    finally:
        sink.close()


@pytest.fixture(name="log")
def _log() -> FakeLog:
    log = FakeLog()
    log.topic()
    return log


def test_rows_have_our_columns_around_the_payload(tmp_path: Path, log: FakeLog) -> None:
    log.put({"ts": SECOND + 1, "temp": 21.5, "on": True}, headers=[("mqtt.topic", b"devices/press-1/x")])
    log.put({"temp": 22}, partition=1, headers=[("headrace.device", b"")], timestamp=T0 + 5)
    export(tmp_path, log)
    first, second = lake_rows(tmp_path)
    assert list(first)[:10] == [
        *("device", "ts", "received_at", "on", "temp", "_topic", "_partition", "_offset", "_row", "date")
    ]
    received = datetime.fromtimestamp(SECOND, UTC)
    assert (first["device"], first["temp"], first["on"]) == ("press-1", 21.5, True)
    assert (first["received_at"], (first["ts"] - received).total_seconds()) == (received, 1)
    assert (first["_topic"], first["_partition"], first["_offset"], first["_row"]) == ("devices/press-1/x", 0, 0, 0)
    assert (second["device"], second["temp"], second["on"], second["_topic"]) == (None, 22.0, None, None)
    assert second["ts"] == second["received_at"] == datetime.fromtimestamp((T0 + 5) / 1000, UTC)


def test_time_that_cannot_be_used_is_kept_beside(tmp_path: Path, log: FakeLog) -> None:
    log.put({"ts": "soon"})
    log.put({"ts": SECOND + 90_000_000})
    export(tmp_path, log)
    rows = lake_rows(tmp_path)
    assert [row["ts"] == row["received_at"] for row in rows] == [True, True]
    assert {(row["payload_ts"], row["payload_ts__other"]) for row in rows} == {
        (None, '"soon"'),
        (SECOND + 90_000_000, None),
    }


def test_clashes_are_counted_and_kept(tmp_path: Path, log: FakeLog) -> None:
    for value in (1, 2.5, "off", True, {"a": 1}, None):
        log.put({"x": value})
    done = export(tmp_path, log)
    assert done.clashes == {"x": 2}
    rows = [(row["x"], row["x__other"]) for row in lake_rows(tmp_path)]
    assert rows == [(1.0, None), (2.5, None), (None, '"off"'), (None, "true"), (None, None), (None, None)]


def test_scalars_go_to_value_or_the_named_field(tmp_path: Path, log: FakeLog) -> None:
    log.put(5)
    log.put(6, headers=[("headrace.field", b"temp")])
    log.put(None)
    export(tmp_path, log)
    assert [(row["value"], row["temp"]) for row in lake_rows(tmp_path)] == [(5, None), (None, 6), (None, None)]


def test_what_is_not_json_is_quarantined_whole(tmp_path: Path, log: FakeLog) -> None:
    log.put(b"\xff{", raw=True, key=b"press-9", headers=[("mqtt.topic", b"t")], timestamp=T0 + DAY_MS)
    log.put({"a": 1})
    done = export(tmp_path, log)
    assert (done.rows, done.records, done.quarantined) == (1, 2, {"not-json": 1})
    (row,) = lake_rows(tmp_path, "_quarantine/telemetry")
    assert list(row) == [
        "device",
        "received_at",
        "payload",
        "payload_is",
        "field",
        "reason",
        "detail",
        "_topic",
        "_partition",
        "_offset",
        "_row",
        "date",
    ]
    assert (row["device"], row["payload"], row["reason"], row["_topic"]) == ("press-9", b"\xff{", "not-json", "t")
    assert str(row["date"]) == "2025-11-21"


def test_raw_topics_keep_the_payload_as_bytes(tmp_path: Path) -> None:
    log = FakeLog()
    log.topic("mqtt")
    log.put(b"\x00\xff", topic="mqtt", raw=True, headers=[("headrace.device", b"")])
    log.put(b'{"ts":1}', topic="mqtt", raw=True)
    export(tmp_path, log, "mqtt", reading=RAW)
    rows = lake_rows(tmp_path, "mqtt")
    assert [(row["device"], row["payload"]) for row in rows] == [(None, b"\x00\xff"), ("press-1", b'{"ts":1}')]
    assert all(row["ts"] == row["received_at"] for row in rows)


@pytest.fixture(name="small_chunks")
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sink.payload.chunks.CHUNK_RECORDS", 5)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("limits", [Limits(memory_bytes=2000), Limits(file_bytes=600)])
def test_a_window_that_memory_does_not_hold_becomes_several_sorted_files(
    tmp_path: Path, log: FakeLog, limits: Limits
) -> None:
    for number in range(100):
        log.put({"ts": SECOND - number, "n": number}, key=b"d%d" % (number % 3), partition=number % 2)
    log.put({"n": 100}, headers=[("headrace.device", b"")])
    done = export(tmp_path, log, limits=limits)
    assert 2 < len(done.files) < 25
    for file in done.files:
        table = pq.read_table(tmp_path / file.path, partitioning=None)
        order = [(row["device"] is None, row["device"], row["ts"]) for row in table.to_pylist()]
        assert order == sorted(order)
    assert sorted(row["n"] for row in lake_rows(tmp_path)) == list(range(101))


@pytest.mark.usefixtures("small_chunks")
def test_files_written_early_get_the_columns_that_the_whole_window_has(tmp_path: Path, log: FakeLog) -> None:
    for value in (*range(20), 0.5, *["off"] * 3, [1, 2], {"deep": 1}, 2**60, True):
        log.put({"x": value, "same": "y"})
    log.put({"late": 1})
    done = export(tmp_path, log, limits=Limits(memory_bytes=1))
    assert len(done.files) > 3
    schemas = {pq.read_schema(tmp_path / file.path).remove_metadata() for file in done.files}
    assert len(schemas) == 1
    rows = lake_rows(tmp_path)
    assert [row["x"] for row in rows[:21]] == [*map(float, range(20)), 0.5]
    assert [row["x__other"] for row in rows[21:28]] == ['"off"'] * 3 + ["[1,2]", None, str(2**60), "true"]
    assert (rows[25]["x.deep"], rows[-1]["late"]) == (1, 1)
    assert done.clashes == {"x": 6}
    for file in done.files:
        facts = pq.read_metadata(tmp_path / file.path).metadata
        assert b'"late"' in facts[b"headrace.columns"]


@pytest.mark.usefixtures("small_chunks")
def test_the_last_file_names_all_of_its_export(tmp_path: Path, log: FakeLog) -> None:
    for number in range(40):
        log.put({"n": number, "ts": SECOND - 86_400 * (number % 3)})
        log.put(b"{", raw=True)
    log.put({"n": 40, "late": 1})  # files that were written before are written again
    done = export(tmp_path, log, limits=Limits(memory_bytes=1500))
    closing = [pq.read_metadata(tmp_path / file.path).metadata.get(b"headrace.files") for file in done.files]
    assert closing[:-1] == [None] * (len(done.files) - 1)
    assert msgspec.json.decode(closing[-1]) == [file.path for file in done.files]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("last", [b'{"n": 1}', b"{"], ids=["rows", "quarantine"])
def test_a_file_closes_its_export_also_where_nothing_is_left_to_be_written(
    tmp_path: Path, log: FakeLog, monkeypatch: pytest.MonkeyPatch, last: bytes
) -> None:
    """Too many names in a piece of a window: all of it is written, and this piece is the window's last."""
    monkeypatch.setattr("sink.payload.chunks.Gatherer.full", True)
    for number in range(9):
        log.put({"n": number, "early": 1})
    log.put(last, raw=True)
    done = export(tmp_path, log)
    closing = [pq.read_metadata(tmp_path / file.path).metadata.get(b"headrace.files") for file in done.files]
    assert closing[:-1] == [None] * (len(done.files) - 1)
    assert msgspec.json.decode(closing[-1]) == [file.path for file in done.files]
    assert len(lake_rows(tmp_path)) + (last == b"{") == 10


def test_dates_beyond_the_limit_are_filed_where_they_were_received(tmp_path: Path, log: FakeLog) -> None:
    for number in range(10):
        log.put({"ts": SECOND - 86_400 * number, "n": number})
    done = export(tmp_path, log, limits=Limits(dates=3))
    assert {file.date for file in done.files} == {"2025-11-20", "2025-11-19", "2025-11-18"}
    rows = lake_rows(tmp_path)
    assert [row["n"] for row in rows] == list(range(10))
    assert rows[9]["ts"] == datetime.fromtimestamp(SECOND - 86_400 * 9, UTC)


def test_fields_beyond_the_limit_go_to_one_column(
    tmp_path: Path, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sink.payload.decoding.MAX_FIELDS", 2)
    for number in range(4):
        log.put({f"f{number}": number, "all": 1})
    export(tmp_path, log)
    rows = lake_rows(tmp_path)
    assert [row["f0"] for row in rows] == [0, None, None, None]
    assert [row["_more"] for row in rows] == [None, '{"f1":1}', '{"f2":2}', '{"f3":3}']


def test_a_column_that_was_of_doubles_stays_one(tmp_path: Path, log: FakeLog) -> None:
    log.put({"temp": 21.5, "n": 1})
    first = export(tmp_path, log)
    assert first.notes == ("temp",)
    log.put({"temp": 22, "n": 2})
    second = export(tmp_path, log, notes=first.notes)
    types = [pq.read_schema(tmp_path / done.files[0].path).field("temp").type for done in (first, second)]
    assert types == [pa.float64(), pa.float64()]
    assert pq.read_schema(tmp_path / second.files[0].path).field("n").type == pa.int64()
    log.put({"n": 3})
    assert export(tmp_path, log, notes=second.notes).notes == ("temp",)


def test_metadata_and_types_are_what_the_docs_say(tmp_path: Path, log: FakeLog) -> None:
    log.put({"i": 1, "f": 1.5, "b": True, "s": "x", "j": [1], "k": [[1]]})
    done = export(tmp_path, log)
    path = tmp_path / done.files[0].path
    with pq.ParquetFile(path) as stored:
        schema, metadata = stored.schema_arrow, stored.metadata
    stamp = pa.timestamp("us", tz="UTC")
    assert {name: schema.field(name).type for name in ("ts", "received_at", "i", "f", "b", "s", "j", "k")} == {
        **{"ts": stamp, "received_at": stamp, "i": pa.int64(), "f": pa.float64()},
        **{"b": pa.bool_(), "s": pa.string(), "j": pa.list_(pa.int64()), "k": pa.string()},
    }
    assert schema.field("_partition").type == schema.field("_row").type == pa.int32()
    facts = {key.decode(): value.decode() for key, value in metadata.metadata.items() if key.startswith(b"headrace.")}
    assert facts["headrace.topic"] == "telemetry"
    assert (facts["headrace.window"], facts["headrace.rows"], facts["headrace.part"]) == ("0", "1", "0")
    assert facts["headrace.offsets"] == '{"0":[0,1],"1":[0,0]}'
    assert (facts["headrace.decoder"], facts["headrace.software"]) == ("json/2", "headrace 0")
    column = metadata.row_group(0).column(0)
    assert (column.compression, column.is_stats_set, column.has_column_index) == ("ZSTD", True, True)
    assert path.name.startswith("20251120T100000Z-")


def test_polars_reads_the_lake(tmp_path: Path, log: FakeLog) -> None:
    log.put({"ts": SECOND, "temp": 1})
    export(tmp_path, log)
    log.put({"ts": SECOND + 1, "temp": 2, "other": "x"})
    export(tmp_path, log)
    pattern = str(tmp_path / "telemetry/**/*.parquet")
    frame = pl.scan_parquet(pattern, missing_columns="insert", extra_columns="ignore", hive_partitioning=True).collect()
    assert sorted(frame["temp"].to_list()) == [1, 2]
    assert frame.schema["ts"] == pl.Datetime("us", "UTC")


def test_offsets_that_are_missing_are_listed(tmp_path: Path, log: FakeLog) -> None:
    for offset in (0, 1, 5, 6, 9, 15):
        log.put({"n": offset}, offset=offset)
    left_out = Gap(first=11, next=14, reason=LEFT_OUT)
    log.gaps["telemetry", 0] = [Gap(first=3, next=5, reason="corrupt"), left_out]
    exported = export(tmp_path, log)
    assert exported.left_out == (Missing(partition=0, first=11, next=14, reason="left out"),)
    assert exported.lost == (
        Missing(partition=0, first=2, next=3, reason="not in the log"),
        Missing(partition=0, first=3, next=5, reason="corrupt"),
        Missing(partition=0, first=7, next=9, reason="not in the log"),
        Missing(partition=0, first=10, next=11, reason="not in the log"),
        Missing(partition=0, first=14, next=15, reason="not in the log"),
    )


def test_window_that_cannot_be_read_to_its_end_yet_is_put_off(tmp_path: Path, log: FakeLog) -> None:
    log.put({"n": 1})
    ahead = replace(joined([log.close_window()]), offsets={0: (0, 2), 1: (0, 0)})
    sink = make_sink(tmp_path)
    sink.open({})
    with pytest.raises(BackOffError, match="up to offset 1, the window needs 2"):
        sink.write(ahead, log, CancelFlag())
    sink.close()


def test_cancelled_export_leaves_nothing_half_done(tmp_path: Path, log: FakeLog) -> None:
    class CancelAtCheck(CancelFlag):
        def __init__(self, at: int) -> None:
            super().__init__()
            self.left = at

        def check(self) -> None:
            self.left -= 1
            if self.left < 0:
                self.set()
            super().check()

    for number in range(20):
        log.put({"n": number})
    window = joined([log.close_window()])
    sink = make_sink(tmp_path)
    sink.open({})
    cancelled = 0
    for at in range(20):
        try:
            sink.write(window, log, CancelAtCheck(at))
        except ExportCancelledError:
            cancelled += 1
            assert list((tmp_path / ".tmp").iterdir()) == []
            assert not list((tmp_path).glob("telemetry/**/*.parquet"))
            continue
        break
    assert cancelled == 4
    assert len(lake_rows(tmp_path)) == 20
    sink.close()


class FullStorage(FaultyStorage):
    """A disk that fills up after `room_bytes`."""

    def __init__(self, room_bytes: int) -> None:
        super().__init__()
        self.room_bytes = room_bytes

    @contextmanager
    def create(self, path: Path) -> Iterator[BinaryIO]:
        with super().create(path) as file:
            yield _Limited(file, self)  # type: ignore[misc]


class _Limited(io.RawIOBase):
    def __init__(self, file: BinaryIO, storage: FullStorage) -> None:
        self._file, self._storage = file, storage

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def write(self, data: Any) -> int:
        self._storage.room_bytes -= len(data)
        if self._storage.room_bytes < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._file.write(data)


@pytest.mark.parametrize("room_bytes", [0, 1000, 3000, 4000])
def test_full_disk_is_an_error_that_leaves_no_half_files(tmp_path: Path, log: FakeLog, room_bytes: int) -> None:
    for number in range(40):
        log.put({"n": number})
    window = joined([log.close_window()])
    storage = FullStorage(room_bytes)
    sink = make_sink(tmp_path, storage=storage)
    sink.open({})
    with pytest.raises(OSError, match="No space left"):
        sink.write(window, log, CancelFlag())
    assert list((tmp_path / ".tmp").glob("*.parquet")) == []
    storage.room_bytes = 1 << 20
    assert sink.write(window, log, CancelFlag()).rows == 40
    assert len(lake_rows(tmp_path)) == 40
    sink.close()


def test_longest_topic_name_has_a_plan_and_a_folder(tmp_path: Path) -> None:
    names = ["." + "x" * 248, "." + "x" * 247 + "y"]
    assert len({plan_name(name, 1) for name in names}) == 2
    log = FakeLog()
    log.topic(names[0])
    log.put({"n": 1}, topic=names[0])
    assert export(tmp_path, log, names[0]).rows == 1


def test_second_process_on_one_lake_is_refused(tmp_path: Path) -> None:
    first, second = make_sink(tmp_path), make_sink(tmp_path)
    first.open({})
    with pytest.raises(NotConnectedError, match="another process"):
        second.open({})
    first.close()
    second.open({})
    second.close()


def test_open_clears_leftovers_but_keeps_unfinished_plans(tmp_path: Path, log: FakeLog) -> None:
    log.put({"n": 1})
    window = joined([log.close_window()])
    sink = make_sink(tmp_path)
    sink.open({})
    sink.write(window, log, CancelFlag())
    sink.close()
    (tmp_path / ".tmp" / "half.parquet").write_bytes(b"PAR1")
    sink.open({window.topic_id: 0})
    assert [path.name for path in (tmp_path / ".plans").glob("*.json")] == ["telemetry-00000000000000000000.json"]
    assert list((tmp_path / ".tmp").iterdir()) == []
    sink.close()
    sink.open({window.topic_id: 1})
    assert list((tmp_path / ".plans").glob("*.json")) == []
    sink.close()


def test_plan_outlives_a_change_of_settings(tmp_path: Path, log: FakeLog) -> None:
    """What was planned is published, though the topic's decoder and the software have changed since."""
    log.put({"time": SECOND - 5, "n": 1})
    window = joined([log.close_window()])
    dying = FaultyStorage()
    sink = make_sink(tmp_path, reading=json_reading(Skew(), timestamp_field="time"), storage=dying)
    sink.open({})
    dying.die_before("before rename", 2)  # the plan's is the first
    with pytest.raises(Killed):
        sink.write(window, log, CancelFlag())
    sink = make_sink(tmp_path, reading=RAW, software="headrace 9")
    sink.open({})
    assert sink.begun(window.topic_id, 0) == 0
    done = sink.write(window, log, CancelFlag())
    sink.close()
    facts = pq.read_metadata(tmp_path / done.files[0].path).metadata
    assert (facts[b"headrace.software"], facts[b"headrace.decoder"]) == (b"headrace 0", b"json/2")


@pytest.mark.parametrize("made", [1, 2], ids=["topic", "date"])
def test_folders_that_a_killed_process_made_outlive_a_power_cut(tmp_path: Path, log: FakeLog, made: int) -> None:
    """It had no time to sync them; whoever finds them there must, and what is published must not go with them."""
    log.put({"n": 1})
    window = joined([log.close_window()])
    killed = FaultyStorage()
    sink = make_sink(tmp_path, storage=killed)
    sink.open({})
    killed.die_before("directory made", made)
    with pytest.raises(Killed):
        sink.write(window, log, CancelFlag())
    cut = FaultyStorage(after=killed, power_loss=True)
    sink = make_sink(tmp_path, storage=cut)
    sink.open({})
    assert sink.begun(window.topic_id, 0) == 0
    sink.write(window, log, CancelFlag())  # the runner's checkpoint is durable behind it
    cut.die_before("before remove", 1)
    with pytest.raises(Killed):
        sink.settle(window)
    assert len(lake_rows(tmp_path)) == 1


@pytest.mark.parametrize("lost", ["staged file", "its release"])
def test_a_plan_that_cannot_be_carried_out_is_taken_back(tmp_path: Path, log: FakeLog, lost: str) -> None:
    log.put({"n": 1})
    log.put(b"{", raw=True)
    window = joined([log.close_window()])
    dying = FaultyStorage()
    sink = make_sink(tmp_path, storage=dying)
    sink.open({})
    dying.die_before("before rename", 3)  # one of two files is published
    with pytest.raises(Killed):
        sink.write(window, log, CancelFlag())
    plan = tmp_path / ".plans" / "telemetry-00000000000000000000.json"
    assert len(list(tmp_path.glob("telemetry/**/*.parquet"))) == 1
    sink = make_sink(tmp_path)
    if lost == "its release":
        plan.write_text(plan.read_text().replace('"version": 2', '"version": 1'))
    sink.open({})
    if lost == "staged file":
        (staged,) = (tmp_path / ".tmp").iterdir()
        staged.unlink()
    log.put({"n": 2})  # another window joins: what was published by the plan would be there twice
    window = joined([*log.closed["telemetry"], log.close_window()])
    done = sink.write(window, log, CancelFlag()) if lost == "its release" else None
    if done is None:
        assert sink.begun(window.topic_id, 0) == 0
        done = sink.write(joined(log.closed["telemetry"][:1]), log, CancelFlag())
    assert done.rows == len(lake_rows(tmp_path)) > 0
    assert len(lake_rows(tmp_path, "_quarantine/telemetry")) == 1
    sink.close()


def test_plans_that_cannot_be_read_are_made_again(tmp_path: Path, log: FakeLog) -> None:
    assert from_json(b"{") is None
    log.put({"n": 1})
    window = joined([log.close_window()])
    sink = make_sink(tmp_path)
    sink.open({})
    (tmp_path / ".plans" / "telemetry-00000000000000000000.json").write_bytes(b"{}")
    assert sink.write(window, log, CancelFlag()).rows == 1
    sink.close()


def test_names_of_files_differ_by_window_kind_date_and_part(log: FakeLog) -> None:
    log.put(1)
    first = joined([log.close_window()])
    log.put(2)
    second = joined([log.close_window()])
    paths = [
        file_path(window, kind, date, part)
        for window in (first, second)
        for kind in ("rows", "quarantine")
        for date in ("2025-11-20", "2025-11-21")
        for part in (0, 1)
    ]
    assert max(Counter(path.rsplit("/", 1)[1] for path in paths).values()) == 1


def test_topics_that_would_hide_get_a_visible_folder() -> None:
    names = ["telemetry", "device.events", ".tmp", "_quarantine", ".."]
    assert [topic_folder(name) for name in names] == ["telemetry", "device.events", "%2Etmp", "%5Fquarantine", "%2E."]


def test_storage_syncs_the_file_before_and_the_folder_after_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    sync, rename = os.fsync, Path.rename

    def fsync(descriptor: int) -> None:
        calls.append("sync " + Path(f"/proc/self/fd/{descriptor}").resolve().name)
        sync(descriptor)

    def renamed(source: Path, target: Path) -> Path:
        calls.append("rename")
        return rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", renamed)
    storage = Storage()
    storage.make_dirs(tmp_path / "a" / "b")
    storage.replace_text(tmp_path / "a" / "b" / "new", tmp_path / "old", "text")
    assert calls == [f"sync {tmp_path.name}", "sync a", "sync old", "rename", "sync b"]
    assert (tmp_path / "a" / "b" / "new").read_text() == "text"


def test_a_declared_column_of_json_takes_every_value(tmp_path: Path, log: FakeLog) -> None:
    schema = Schema.of(TopicSettings(name="telemetry", fields=(FieldSettings(name="any", type="json"),)))
    values = ["hot", 1, 2.5, True, {"a": 1}, None, [1], ["x", 2], {}, 2**70]
    for value in values:
        log.put({"any": value})
    export(tmp_path, log, reading=json_reading(Skew(), schema=schema))
    found = [row["any"] for row in lake_rows(tmp_path)]
    assert [None if text is None else json.loads(text) for text in found] == values
