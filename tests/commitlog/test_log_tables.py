"""State tables, checkpoints, metadata files and windows: what is written is read back, and damage is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from commitlog.base import TopicInfo
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
from commitlog.tables import CommittedTables, LiveTables, SnapshotError, newest_snapshots, read_snapshot
from commitlog.windows import OpenWindow, last_window, window_change, window_from_row, window_to_row
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
    assert tables.snapshots == {"one": f"one-{7:020}.snapshot", "two": f"two-{9:020}.snapshot"}
    assert tables.decoded()["two"] == {}
    assert newest_snapshots(disk, DIRECTORY) == tables.snapshots


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
    assert last_window({key: row, "other/1": row}, INFO.topic_id) == before
    assert last_window({}, INFO.topic_id) is None
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
    newest = last_window(rows, INFO.topic_id)
    assert newest is not None
    assert newest.number == 11
