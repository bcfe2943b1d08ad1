"""State tables, checkpoints, metadata files and windows: what is written is read back, and damage is noticed."""

from __future__ import annotations

import random
from pathlib import Path

import google_crc32c
import msgspec
import pytest

from commitlog.base import ClosedWindow, TopicInfo
from commitlog.checkpoint import (
    CHECKPOINT_NAME,
    Checkpoint,
    CheckpointError,
    PartitionPoint,
    read_checkpoint,
    write_checkpoint,
)
from commitlog.metadata import METADATA_NAME, read_metadata, write_metadata
from commitlog.storage import parse_partition_dir_name, partition_dir_name
from commitlog.tables import CommittedTables, LiveTables, SnapshotError, newest_snapshots, read_snapshot, unpack
from commitlog.window_list import WindowList
from commitlog.windows import (
    OpenWindow,
    last_windows,
    window_change,
    window_from_row,
    window_key,
    window_to_row,
)
from tests.commitlog.commitlog_disk import MemoryDisk

DIRECTORY = Path("/log/tables")
LOG = Path("/log")
ROWS = {"a": 1, "b": {"x": [None, b"\x00", "ü"]}, "": False}


def written(disk: MemoryDisk) -> CommittedTables:
    tables = CommittedTables()
    tables.apply([("one", key, value) for key, value in ROWS.items()] + [("two", "k", 2)])
    tables.write_snapshots(disk, DIRECTORY, 7)
    return tables


def test_snapshots_come_back() -> None:
    disk = MemoryDisk()
    tables = written(disk)
    assert tables.snapshots == {"one": f"one-{7:020}.snapshot", "two": f"two-{7:020}.snapshot"}
    again = CommittedTables()
    again.load(disk, DIRECTORY, tables.snapshots)
    assert again.decoded() == tables.decoded() == {"one": ROWS, "two": {"k": 2}}


def test_only_changed_tables_are_written_again() -> None:
    disk = MemoryDisk()
    tables = written(disk)
    tables.apply([("two", "k", None)])
    tables.write_snapshots(disk, DIRECTORY, 9)
    assert tables.snapshots == {"one": f"one-{7:020}.snapshot", "two": f"two-{7:020}.snapshot"}
    assert tables.decoded()["two"] == {}
    again = CommittedTables()
    again.load(disk, DIRECTORY, tables.snapshots)
    assert again.decoded() == tables.decoded()
    assert again.snapshot_bytes == tables.snapshot_bytes
    assert newest_snapshots(disk, DIRECTORY) == tables.snapshots


def test_what_a_checkpoint_writes_does_not_grow_with_the_table() -> None:
    """And what is on disk stays within a small multiple of the table; every state in between reads back."""
    disk, tables, rng = MemoryDisk(), CommittedTables(), random.Random(3)
    written_bytes, model = [], {}
    for sequence in range(3_000):
        key, value = f"k{rng.randrange(2_000)}", rng.choice((None, rng.randbytes(100).hex()))
        model[key] = value
        tables.apply([("one", key, value)])
        before = {name: len(disk.content(DIRECTORY / name)) for name in disk.names(DIRECTORY)}
        tables.write_snapshots(disk, DIRECTORY, sequence)
        named = tables.snapshots["one"]
        written_bytes.append(len(disk.content(DIRECTORY / named)) - before.get(named, 0))
        for name in before:
            if name != named:
                disk.remove(DIRECTORY / name)
        if sequence % 500 == 499:
            rows = read_snapshot(disk, DIRECTORY / named)
            assert {k: unpack(v) for k, v in rows.items()} == {k: v for k, v in model.items() if v is not None}
    table_bytes = sum(len(key) + 210 for key, value in model.items() if value is not None)
    assert sorted(written_bytes)[len(written_bytes) * 9 // 10] < 300
    assert sum(written_bytes) < 3_000 * 300 * 4
    assert len(disk.content(DIRECTORY / tables.snapshots["one"])) < 2 * table_bytes + (64 << 10) + 300


def test_changes_behind_a_damaged_block_are_gone_and_the_table_goes_on() -> None:
    disk = MemoryDisk()
    tables = written(disk)
    ends = [tables.snapshot_bytes["one"]]
    for number in range(3):
        tables.apply([("one", f"n{number}", number)])
        tables.write_snapshots(disk, DIRECTORY, 8 + number)
        ends.append(tables.snapshot_bytes["one"])
    path = DIRECTORY / tables.snapshots["one"]
    whole = bytes(disk.content(path))
    assert len(whole) == ends[-1]
    for at in range(ends[0], len(whole)):
        for cut in (False, True):
            disk.content(path)[:] = whole[:at] if cut else whole
            if not cut:
                disk.content(path)[at] ^= 0x20
            again = CommittedTables()
            again.load(disk, DIRECTORY, {"one": path.name})
            kept = max(number for number, end in enumerate(ends) if end <= at)
            assert again.snapshot_bytes["one"] == ends[kept]
            assert again.decoded()["one"] == {**ROWS, **{f"n{number}": number for number in range(kept)}}
            again.apply([("one", "later", True)])
            again.write_snapshots(disk, DIRECTORY, 20)
            assert unpack(read_snapshot(disk, path)["later"]) is True


def test_a_snapshot_of_the_first_format_is_read_and_written_anew() -> None:
    disk = MemoryDisk()
    body = msgspec.msgpack.encode({"k": msgspec.msgpack.encode([1])})
    name = f"one-{7:020}.snapshot"
    data = b"HRTABLE1" + google_crc32c.value(body).to_bytes(4, "big") + body
    disk.open(DIRECTORY / name, create=True).write(data, 0)
    tables = CommittedTables()
    tables.load(disk, DIRECTORY, {"one": name})
    tables.apply([("one", "k2", 2)])
    tables.write_snapshots(disk, DIRECTORY, 8)
    assert tables.snapshots == {"one": f"one-{8:020}.snapshot"}
    again = CommittedTables()
    again.load(disk, DIRECTORY, tables.snapshots)
    assert again.decoded() == {"one": {"k": [1], "k2": 2}}
    disk.content(DIRECTORY / name)[-1] ^= 1
    with pytest.raises(SnapshotError):
        read_snapshot(disk, DIRECTORY / name)


def test_a_reader_of_windows_keeps_up_with_what_is_added_removed_and_rewritten() -> None:
    disk, tables, rng = MemoryDisk(), CommittedTables(), random.Random(8)
    topics = [TopicInfo(name=f"t{n}", topic_id=f"{n:032x}", partitions=1) for n in range(3)]
    model: dict[tuple[str, int], ClosedWindow] = {}
    windows = WindowList(disk, LOG)
    opened = {topic.topic_id: OpenWindow(topic, None, [0], 0) for topic in topics}
    for sequence in range(1, 400):
        topic = rng.choice(topics)
        closed = opened[topic.topic_id].close([sequence], sequence, "x" * rng.randrange(300))
        assert closed is not None
        model[(topic.topic_id, closed.number)] = closed
        tables.apply([window_change(closed)])
        if rng.random() < 0.1:
            gone = rng.choice(sorted(model))
            del model[gone]
            tables.apply([("windows", window_key(*gone), None)])
        tables.write_snapshots(disk, DIRECTORY, sequence)
        point = Checkpoint(
            journal_id=1,
            journal_size=1,
            journal_position=0,
            next_sequence=sequence,
            leader_epoch=0,
            last_timestamp_ms=0,
            clean=False,
            partitions=[],
            tables=dict(tables.snapshots),
        )
        write_checkpoint(disk, LOG, point)
        if rng.random() < 0.5:
            windows.refresh()
            for one in topics:
                numbers = sorted(number for topic_id, number in model if topic_id == one.topic_id)
                assert windows.after(one.topic_id, -1) == [model[(one.topic_id, number)] for number in numbers]
                half = rng.randrange(sequence)
                assert [w.number for w in windows.after(one.topic_id, half)] == [n for n in numbers if n > half]


def test_the_newest_snapshots_are_found_by_their_names() -> None:
    disk = MemoryDisk()
    for name in (f"a-1-{5:020}", f"a-1-{12:020}", f"b-{3:020}", "c-4", "stray"):
        disk.open(DIRECTORY / f"{name}.snapshot", create=True)
    assert newest_snapshots(disk, DIRECTORY) == {"a-1": f"a-1-{12:020}.snapshot", "b": f"b-{3:020}.snapshot"}


def test_a_damaged_snapshot_is_noticed_at_every_byte() -> None:
    disk = MemoryDisk()
    path = DIRECTORY / written(disk).snapshots["one"]
    whole = bytes(disk.content(path))
    for at in range(len(whole)):
        disk.content(path)[:] = whole
        disk.content(path)[at] ^= 0x20
        with pytest.raises(SnapshotError):
            read_snapshot(disk, path)
        disk.content(path)[:] = whole[:at]
        with pytest.raises(SnapshotError):
            read_snapshot(disk, path)


def test_live_tables_are_a_map_of_maps() -> None:
    start = {"t": {"a": 1}}
    tables = LiveTables(start)
    tables.apply(("t", "b", 2))
    tables.apply(("t", "a", None))
    tables.apply(("u", "never", None))
    assert tables.rows("t") == {"b": 2}
    assert tables.rows("nobody") == {}
    assert start == {"t": {"a": 1}}


CHECKPOINT = Checkpoint(
    journal_id=2**64 - 1,
    journal_size=4 << 20,
    journal_position=2**40,
    next_sequence=9,
    leader_epoch=3,
    last_timestamp_ms=1_800_000_000_000,
    clean=True,
    partitions=[
        PartitionPoint(
            topic="telemetry",
            topic_id=bytes(range(16)),
            partition=0,
            log_start=1,
            next_offset=5,
            segment=-1,
            log_bytes=0,
            index_bytes=0,
            timeindex_bytes=0,
        )
    ],
    tables={"windows": f"windows-{9:020}.snapshot"},
)


def test_a_checkpoint_comes_back_and_replaces_the_last() -> None:
    disk = MemoryDisk()
    assert read_checkpoint(disk, LOG) is None
    write_checkpoint(disk, LOG, CHECKPOINT)
    write_checkpoint(disk, LOG, CHECKPOINT)
    assert read_checkpoint(disk, LOG) == CHECKPOINT
    assert disk.names(LOG) == [CHECKPOINT_NAME]


def test_a_damaged_checkpoint_is_noticed_at_every_byte() -> None:
    disk = MemoryDisk()
    write_checkpoint(disk, LOG, CHECKPOINT)
    path = LOG / CHECKPOINT_NAME
    whole = bytes(disk.content(path))
    for at in range(len(whole)):
        disk.content(path)[:] = whole
        disk.content(path)[at] ^= 0x20
        with pytest.raises(CheckpointError):
            read_checkpoint(disk, LOG)
        disk.content(path)[:] = whole[:at]
        with pytest.raises(CheckpointError):
            read_checkpoint(disk, LOG)


def test_partition_metadata_is_what_kafka_writes() -> None:
    disk = MemoryDisk()
    topic_id = bytes(range(240, 256))
    write_metadata(disk, LOG, topic_id)
    assert bytes(disk.content(LOG / METADATA_NAME)) == b"version: 0\ntopic_id: 8PHy8_T19vf4-fr7_P3-_w\n"
    assert read_metadata(disk, LOG) == topic_id


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"version: 0\n",
        b"version: 1\ntopic_id: 8PHy8_T19vf4-fr7_P3-_w\n",
        b"version: 0\ntopic_id: short\n",
        b"no colon\n",
    ],
)
def test_damaged_metadata_reads_as_none(content: bytes) -> None:
    disk = MemoryDisk()
    disk.open(LOG / METADATA_NAME, create=True).write(content, 0)
    assert read_metadata(disk, LOG) is None


@pytest.mark.parametrize(("topic", "partition"), [("a", 0), ("a-1", 2), ("x" * 249, 99_999), ("...", 0), ("a-0", 0)])
def test_partition_directories_are_named_both_ways(topic: str, partition: int) -> None:
    assert parse_partition_dir_name(partition_dir_name(topic, partition)) == (topic, partition)


@pytest.mark.parametrize("name", ["tables", "journal", "a-", "-1", "a-01", "a b-1", "a-1\n", "x" * 250 + "-1"])
def test_other_directories_are_not_partitions(name: str) -> None:
    assert parse_partition_dir_name(name) is None


INFO = TopicInfo(name="telemetry", topic_id="ab" * 16, partitions=2)


def test_windows_follow_each_other() -> None:
    window = OpenWindow(INFO, None, [0, 7], 100)
    assert window.close([0, 7], 150, "nothing came") is None
    first = window.close([3, 7], 200, "size")
    assert first is not None
    assert (first.number, first.start_ms, first.end_ms, first.span) == (0, 100, 200, 3)
    assert first.offsets == {0: (0, 3), 1: (7, 7)}
    assert window.close([3, 7], 250, "nothing came") is None
    second = window.close([3, 9], 150, "the clock stepped back")
    assert second is not None
    assert (second.number, second.start_ms, second.end_ms) == (1, 200, 200)
    assert second.offsets == {0: (3, 3), 1: (7, 9)}


def test_a_window_goes_on_after_a_restart() -> None:
    before = OpenWindow(INFO, None, [0, 0], 100).close([3, 4], 200, "size")
    assert before is not None
    table, key, row = window_change(before)
    assert (table, window_from_row(row)) == ("windows", before)
    assert last_windows({key: row, "other/1": row})[INFO.topic_id] == before
    assert last_windows({}) == {}
    after = OpenWindow(INFO, before, [0, 0], 999).close([5, 4], 300, "time")
    assert after is not None
    assert (after.number, after.start_ms, after.offsets) == (1, 200, {0: (3, 5), 1: (4, 4)})


def test_the_last_window_is_the_one_with_the_highest_number() -> None:
    rows = {}
    window = OpenWindow(INFO, None, [0, 0], 0)
    for number in range(12):
        closed = window.close([number + 1, 0], number, "x")
        assert closed is not None
        _, key, row = window_change(closed)
        rows[key] = row
        assert window_to_row(window_from_row(row)) == row
    assert last_windows(rows)[INFO.topic_id].number == 11
