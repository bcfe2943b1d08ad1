"""`log check` on logs that the real log made: clean ones are clean, each damage is found and named exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import pytest

from commitlog.base import TableChange
from commitlog.batch import CODEC_NONE, BatchHeader, new_builder, parse_header, place
from commitlog.check import check_log
from commitlog.checkpoint import CHECKPOINT_NAME, read_checkpoint
from commitlog.embedded import EmbeddedLog
from commitlog.findings import CheckReport, Finding
from commitlog.index import OFFSET_ENTRY, TIME_ENTRY
from commitlog.journal import ENTRY_HEADER
from commitlog.metadata import METADATA_NAME
from commitlog.segment import base_offsets
from commitlog.storage import LOG_DIR, SystemStorage
from commitlog.tables import CommittedTables
from core.errors import DataDirError
from tests.commitlog.commitlog_disk import MemoryDisk
from tests.commitlog.log_support import log_settings, open_log, opened, record, some_value
from tests.log_fakes import FakeClock

pytestmark = pytest.mark.timeout(60)


def check(data_dir: Path) -> CheckReport:
    """A check that does not wait between its looks: nobody writes."""
    return check_log(data_dir, clock=FakeClock(FakeClock().now_ms + 60_000), pause=lambda _seconds: None)


def told(report: CheckReport) -> list[tuple[str, int, int]]:
    return [(one.kind, one.first, one.next) for one in report.found.findings.kept]


async def fill(log: EmbeddedLog, seed: int = 1, appends: int = 150) -> None:
    rng = random.Random(seed)
    await log.create_topic("telemetry", 2)
    await log.create_topic("device.events", 1)
    for number in range(appends):
        change = TableChange(table="state", key=f"k{number % 5}", value=number)
        values = [rng.randbytes(1_500) if number % 3 else some_value(rng) for _ in range(2)]
        await log.append([record("telemetry", None, value, partition=p) for p, value in enumerate(values)], [change])
        await log.append([record("device.events", "d", b"{}")])
        if number in (30, 90):
            await log.roll("telemetry", "test")


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log closed in order: segments with several index entries, windows, tables."""
    data_dir = tmp_path_factory.mktemp("healthy")

    async def make() -> None:
        clock = FakeClock()
        async with opened(data_dir, clock=clock, settings=log_settings(flush_bytes="3KB")) as log:
            clock.now_ms += 5
            await fill(log)

    asyncio.run(make())
    return data_dir


@pytest.fixture
def data(healthy: Path, tmp_path: Path) -> Path:
    shutil.copytree(healthy, tmp_path / "data", ignore=shutil.ignore_patterns("*.sock"))
    return tmp_path / "data"


def test_a_log_closed_in_order_is_clean_and_all_of_it_was_looked_at(data: Path) -> None:
    report = check(data)
    assert told(report) == []
    assert not report.found.notes.count
    assert (report.topics, report.partitions, report.windows, report.tables) == (2, 3, 2, 2)
    assert report.records == 150 * 3
    assert report.index_entries > 10
    assert report.segment_bytes == sum(path.stat().st_size for path in data.glob("log/*/*.log"))
    assert not report.live


def test_a_directory_without_a_log_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(DataDirError, match="no log"):
        check(tmp_path)


# -- segments


def segment(data: Path, number: int = -1) -> Path:
    """A segment of telemetry-0."""
    directory = data / LOG_DIR / "telemetry-0"
    return directory / f"{base_offsets(SystemStorage(), directory)[number]:020}.log"


def batches(path: Path) -> list[tuple[int, BatchHeader]]:
    content, at, found = path.read_bytes(), 0, []
    while (header := parse_header(content, at)) is not None:
        found.append((at, header))
        at += header.size_bytes
    return found


def flip(path: Path, at: int, bit: int = 0x10) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ bit]))


@pytest.mark.parametrize("number", [0, -1], ids=["closed", "active"])
@pytest.mark.parametrize("field", ["length", "magic", "crc", "attributes", "count", "records", "last-byte"])
def test_a_damaged_batch_is_named_once_with_its_offsets(data: Path, field: str, number: int) -> None:
    path = segment(data, number)
    found = batches(path)
    at, header = found[len(found) // 2]
    place_of = {"length": 10, "magic": 16, "crc": 18, "attributes": 22, "count": 60, "records": 70}
    flip(path, at + place_of.get(field, header.size_bytes - 1))
    report = check(data)
    assert told(report) == [("batch-damaged", header.base_offset, header.last_offset + 1)]
    assert f"telemetry-0/{path.name} at byte {at}" in report.found.findings.kept[0].where


@pytest.mark.parametrize("which", [0, 1, -1], ids=["first", "middle", "last"])
@pytest.mark.parametrize("byte", [1, 5, 7])
def test_a_wrong_base_offset_is_found_although_no_crc_covers_it(data: Path, which: int, byte: int) -> None:
    path = segment(data, 0)
    at, header = batches(path)[which]
    flip(path, at + byte, 0x40)
    report = check(data)
    assert told(report) == [("base-offset", header.base_offset, header.last_offset + 1)]


def test_a_wrong_leader_epoch_is_found_although_no_crc_covers_it(data: Path) -> None:
    path = segment(data, 0)
    flip(path, batches(path)[1][0] + 15, 0x04)
    assert [one.kind for one in check(data).found.findings.kept] == ["leader-epoch"]


@pytest.mark.parametrize("number", [0, -1], ids=["closed", "active"])
@pytest.mark.parametrize("cut", ["at-a-batch", "in-a-batch", "empty"])
def test_a_segment_cut_short_is_named_once(data: Path, cut: str, number: int) -> None:
    path = segment(data, number)
    found = batches(path)
    at, header = found[0] if cut == "empty" else found[-3]
    os.truncate(path, at + (20 if cut == "in-a-batch" else 0))
    kind = "batch-damaged" if cut == "in-a-batch" else "offset-gap"
    assert told(check(data)) == [(kind, header.base_offset, found[-1][1].last_offset + 1)]


@pytest.mark.parametrize("number", [0, 1, -1], ids=["first", "middle", "active"])
def test_a_segment_that_is_gone_is_named_once(data: Path, number: int) -> None:
    path = segment(data, number)
    found = batches(path)
    path.unlink()
    report = check(data)
    assert told(report) == [("offset-gap", found[0][1].base_offset, found[-1][1].last_offset + 1)]
    assert {one.kind for one in report.found.notes.kept} == {"leftover"}


def test_two_damaged_places_are_two_findings(data: Path) -> None:
    path = segment(data, 0)
    found = batches(path)
    for at, _ in (found[1], found[4]):
        flip(path, at + 30)
    assert told(check(data)) == [
        ("batch-damaged", header.base_offset, header.last_offset + 1) for _, header in (found[1], found[4])
    ]


def test_a_zeroed_page_is_one_finding_over_all_its_batches(data: Path) -> None:
    path = segment(data, 0)
    found = batches(path)
    first, last = found[2], found[5]
    with path.open("r+b") as file:
        file.seek(first[0])
        file.write(bytes(last[0] + 30 - first[0]))
    assert told(check(data)) == [("batch-damaged", first[1].base_offset, last[1].last_offset + 1)]


def test_a_wrong_base_offset_right_behind_damage_is_still_told_from_a_gap(data: Path) -> None:
    path = segment(data, 0)
    found = batches(path)
    with path.open("r+b") as file:
        file.seek(found[2][0])
        file.write(bytes(found[5][0] + 8 - found[2][0]))
    assert told(check(data)) == [
        ("batch-damaged", found[2][1].base_offset, found[5][1].base_offset),
        ("base-offset", found[5][1].base_offset, found[5][1].last_offset + 1),
    ]


def rewrite(path: Path, number: int, make: Callable[[BatchHeader], bytes]) -> BatchHeader:
    """Put another batch with the right CRC in the place of one; the indexes behind it are then wrong, and not told."""
    at, header = batches(path)[number]
    content = path.read_bytes()
    path.write_bytes(content[:at] + make(header) + content[at + header.size_bytes :])
    return header


def built(header: BatchHeader, times: list[int]) -> bytes:
    builder = new_builder(CODEC_NONE)
    for offset, time in enumerate(times):
        builder.append(offset, time, b"d", b"{}", [])
    batch = builder.build()
    place(batch, header.base_offset, header.leader_epoch)
    return bytes(batch)


def test_a_timestamp_that_decreases_is_found_though_the_crc_is_right(data: Path) -> None:
    count = None

    def earlier(header: BatchHeader) -> bytes:
        nonlocal count
        count = header.record_count
        return built(header, [header.first_timestamp_ms - 1] * count)

    header = rewrite(segment(data, -1), 3, earlier)
    assert told(check(data))[0] == ("timestamp-order", header.base_offset, header.last_offset + 1)


def test_records_that_cannot_be_read_are_found_though_the_crc_is_right(data: Path) -> None:
    def unreadable(header: BatchHeader) -> bytes:
        batch = bytearray(built(header, [header.first_timestamp_ms] * header.record_count))
        batch[61:64] = b"\xff\xff\xff"
        struct.pack_into(">I", batch, 17, google_crc32c.value(bytes(batch[21:])))
        return bytes(batch)

    header = rewrite(segment(data, -1), 3, unreadable)
    assert told(check(data)) == [("batch-records", header.base_offset, header.last_offset + 1)]


# -- indexes


@pytest.mark.parametrize("number", [0, -1], ids=["closed", "active"])
@pytest.mark.parametrize("how", ["flipped", "cut", "torn", "gone", "more"])
@pytest.mark.parametrize("suffix", ["index", "timeindex"])
def test_a_wrong_index_is_named_once(data: Path, suffix: str, how: str, number: int) -> None:
    path = segment(data, number).with_suffix(f".{suffix}")
    size, entry = path.stat().st_size, OFFSET_ENTRY.size if suffix == "index" else TIME_ENTRY.size
    assert size >= 2 * entry or suffix == "timeindex"
    if how == "flipped":
        flip(path, size - 5)
    elif how == "cut":
        os.truncate(path, 0)
    elif how == "torn":
        os.truncate(path, size + 3)
    elif how == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + bytes(entry))
    report = check(data)
    assert [one.kind for one in report.found.findings.kept] == [suffix]
    assert report.found.findings.kept[0].where.endswith(path.name)


# -- state


@pytest.mark.parametrize(
    ("name", "kind"), [(CHECKPOINT_NAME, "checkpoint"), ("tables/state", "table"), ("tables/windows", "table")]
)
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_damaged_state_is_named_once(data: Path, name: str, kind: str, how: str) -> None:
    (path,) = (data / LOG_DIR).glob(f"{name}*")
    if how == "flipped":
        flip(path, path.stat().st_size - 3)
    elif how == "cut":
        os.truncate(path, path.stat().st_size // 2)
    else:
        path.unlink()
    if how == "gone" and kind == "table" and "state" in name:
        assert len(list((data / LOG_DIR / "tables").iterdir())) == 1
    assert [one.kind for one in check(data).found.findings.kept] == [kind]


@pytest.mark.parametrize("how", ["flipped", "gone"])
def test_a_topic_id_that_is_lost_is_named_once(data: Path, how: str) -> None:
    path = data / LOG_DIR / "telemetry-1" / METADATA_NAME
    if how == "gone":
        path.unlink()
    else:
        flip(path, 25, 0x01)
    assert [(one.kind, one.topic, one.partition) for one in check(data).found.findings.kept] == [
        ("metadata", "telemetry", 1)
    ]


def test_a_partition_that_is_gone_is_named_once(data: Path) -> None:
    shutil.rmtree(data / LOG_DIR / "telemetry-1")
    assert [(one.kind, one.topic, one.partition) for one in check(data).found.findings.kept] == [
        ("partition", "telemetry", 1)
    ]


def test_a_journal_that_is_gone_is_named_once(data: Path) -> None:
    (data / LOG_DIR / "journal").unlink()
    assert [one.kind for one in check(data).found.findings.kept] == ["journal"]


@pytest.mark.parametrize(
    "name",
    ["checkpoint.tmp", "notes.txt", "backup-2024", "telemetry-0/core", "telemetry-0/x.tmp",
     "telemetry-0/00000000000000000000.log.deleted", f"tables/state-{7:020}.snapshot"],
)  # fmt: skip
def test_what_does_not_belong_is_noted_once_and_is_no_damage(data: Path, name: str) -> None:
    path = data / LOG_DIR / name
    if name == "backup-2024":
        path.mkdir()
    else:
        path.write_bytes(b"something")
    report = check(data)
    assert report.clean
    assert [(one.kind, one.where) for one in report.found.notes.kept] == [("leftover", f"{LOG_DIR}/{name}")]


def test_windows_that_leave_something_out_are_named_once(data: Path) -> None:
    tables_dir = data / LOG_DIR / "tables"
    checkpoint = read_checkpoint(SystemStorage(), data / LOG_DIR)
    assert checkpoint is not None
    name = checkpoint.tables["windows"]
    tables = CommittedTables()
    tables.load(SystemStorage(), tables_dir, {"windows": name})
    rows = tables.decoded()["windows"]
    key = max(rows)
    row = rows[key]
    row["offsets"]["1"][0] += 2
    tables.apply([("windows", key, row)])
    tables.write_snapshots(SystemStorage(), tables_dir, int(name[-29:-9]))
    assert [one.kind for one in check(data).found.findings.kept] == ["window"]


# -- after a kill


async def killed(data_dir: Path, *, appends: int = 12) -> None:
    """What kill -9 leaves: everything since the start in the journal, a part of it in segments, nothing settled."""
    settings = log_settings(flush_interval="1h", flush_bytes="20KB")
    async with opened(data_dir / "writer", settings=settings) as log:
        await fill(log, appends=appends)
        shutil.copytree(data_dir / "writer", data_dir, ignore=shutil.ignore_patterns("*.sock"), dirs_exist_ok=True)


async def test_what_only_the_journal_holds_after_a_kill_is_no_damage(tmp_path: Path) -> None:
    await killed(tmp_path)
    report = check(tmp_path)
    assert told(report) == []
    assert report.journal_entries >= 24


async def test_a_torn_tail_after_a_kill_is_a_note(tmp_path: Path) -> None:
    await killed(tmp_path)
    paths = [path for path in sorted((tmp_path / LOG_DIR).glob("telemetry-*/*.log")) if path.stat().st_size > 200]
    assert paths, "nothing was flushed"
    os.truncate(paths[0], paths[0].stat().st_size - 5)
    report = check(tmp_path)
    assert told(report) == []
    assert [one.kind for one in report.found.notes.kept] == ["torn-tail"]


async def test_a_damaged_journal_entry_with_whole_ones_behind_it_is_named_once(tmp_path: Path) -> None:
    await killed(tmp_path)
    checkpoint = read_checkpoint(SystemStorage(), tmp_path / LOG_DIR)
    assert checkpoint is not None
    journal = tmp_path / LOG_DIR / "journal"
    header = journal.read_bytes()[checkpoint.journal_position :][: ENTRY_HEADER.size]
    length = ENTRY_HEADER.unpack(header)[0]
    flip(journal, checkpoint.journal_position + ENTRY_HEADER.size + length + 40)
    (finding,) = check(tmp_path).found.findings.kept
    assert finding.kind == "journal"
    assert f"entry {checkpoint.next_sequence + 1} is damaged" in finding.what


async def test_offsets_that_readers_saw_and_nobody_holds_are_named(tmp_path: Path) -> None:
    await killed(tmp_path)
    report = check(tmp_path)
    assert report.clean
    (tmp_path / LOG_DIR / "journal").unlink()
    for path in (tmp_path / LOG_DIR).glob("telemetry-0/*.log"):
        os.truncate(path, 0)
    found = [one for one in check(tmp_path).found.findings.kept if one.kind == "offset-gap"]
    assert [(one.topic, one.partition, one.first) for one in found] == [("telemetry", 0, 0)]


# -- beside a writer


async def test_beside_a_writer_what_it_promises_is_checked_and_what_it_is_writing_is_not(tmp_path: Path) -> None:
    clock = FakeClock()
    async with opened(tmp_path, clock=clock) as log:
        await fill(log, appends=40)
        report = check_log(tmp_path, clock=clock, pause=lambda _: None)
        assert (report.live, told(report), report.found.notes.count) == (True, [], 0)
        directory = tmp_path / LOG_DIR / "telemetry-0"
        active = directory / f"{base_offsets(SystemStorage(), directory)[-1]:020}.log"
        with active.open("ab") as file:
            file.write(b"half a batch")
        (directory / "partition.metadata.tmp").touch()
        report = check_log(tmp_path, clock=clock, pause=lambda _: None)
        assert (report.live, told(report), report.found.notes.count) == (True, [], 0)
        at, header = batches(active)[0]
        flip(active, at + 40)
        report = check_log(tmp_path, clock=clock, pause=lambda _: None)
        assert told(report) == [("batch-damaged", header.base_offset, header.last_offset + 1)]


async def test_what_is_gone_at_the_second_look_is_not_told(tmp_path: Path) -> None:
    clock = FakeClock()
    async with opened(tmp_path, clock=clock) as log:
        await fill(log, appends=40)
        directory = tmp_path / LOG_DIR / "telemetry-0"
        path = directory / f"{base_offsets(SystemStorage(), directory)[0]:020}.log"
        flip(path, 40)
        report = check_log(tmp_path, clock=clock, pause=lambda _: flip(path, 40))
        assert report.clean


@pytest.mark.parametrize("death", ["kill", "power-cut"])
@pytest.mark.parametrize("seed", range(6))
async def test_a_log_that_died_is_clean_before_and_after_its_recovery(tmp_path: Path, seed: int, death: str) -> None:
    """Nothing that a kill or a power cut can leave is taken for damage, whether or not it was recovered from."""
    rng = random.Random(f"{seed}-{death}")
    disk, clock = MemoryDisk(), FakeClock()
    async with opened(tmp_path, storage=disk, clock=clock) as log:
        await fill(log, seed=seed, appends=5)  # each of the deaths below may come before the log is open
    for _ in range(6):
        disk.stop_at = disk.calls + int(2 ** rng.uniform(5, 11))
        with contextlib.suppress(Exception):
            log = await open_log(tmp_path, storage=disk, clock=clock, settings=log_settings(flush_bytes="3KB"))
            with contextlib.suppress(Exception):
                await fill(log, seed=rng.randrange(99), appends=40)
            await log.close()
        disk.revive(power_cut=rng if death == "power-cut" else None)
        clock.now_ms += 10_000
        with contextlib.suppress(DataDirError):  # it died before there was anything
            report = check_log(tmp_path, storage=disk, clock=clock, pause=lambda _: None)
            assert _named(report.found.findings.kept) == []
    async with opened(tmp_path, storage=disk, clock=clock):
        pass
    clock.now_ms += 10_000
    report = check_log(tmp_path, storage=disk, clock=clock, pause=lambda _: None)
    assert _named(report.found.findings.kept) == []
    assert report.records


def _named(findings: list[Finding]) -> list[str]:
    return [f"{one.kind}: {one.what} ({one.where})" for one in findings]
