"""The file reader where things are missing, damaged, slow or gone."""

from __future__ import annotations

import random
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from commitlog.base import Gap, TopicInfo, Watermark, WriterState
from commitlog.batch import CODEC_NONE, CRC_STARTS_AT, HEADER_BYTES, parse_header, place
from commitlog.embedded import EmbeddedLog
from commitlog.files import PartitionFiles
from commitlog.reader import SLICE_PLAIN_BYTES, FileLogReader
from commitlog.storage import LOG_DIR, RUN_DIR
from commitlog.watermarks import STALE_AFTER_MS, WatermarkWriter
from core.errors import UnavailableError
from tests.commitlog.batch_support import client_batch, patched, raw_record, resealed
from tests.commitlog.commitlog_disk import MemoryDisk
from tests.commitlog.log_support import log_settings, open_log, opened, read_partition, record
from tests.log_fakes import FakeClock


@dataclass
class Box:
    log: EmbeddedLog
    disk: MemoryDisk
    clock: FakeClock
    data_dir: Path

    def reader(self) -> FileLogReader:
        return FileLogReader(self.data_dir, storage=self.disk, clock=self.clock)

    def segment(self, base: int, suffix: str = ".log") -> bytearray:
        return self.disk.content(self.data_dir / LOG_DIR / "telemetry-0" / f"{base:020}{suffix}")

    async def append(self, *values: str) -> None:
        """One flushed batch per value."""
        for value in values:
            await self.log.append([record("telemetry", None, value)])
            self.log._engine.flusher.flush_now()
            await self.log._engine.segment_thread.run(lambda: None)


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    disk, clock = MemoryDisk(), FakeClock()
    async with opened(tmp_path, storage=disk, clock=clock, settings=log_settings(flush_interval="1h")) as log:
        await log.create_topic("telemetry", 1)
        await log.create_topic("other", 1)
        yield Box(log, disk, clock, tmp_path)


def batch_starts(segment: bytearray) -> list[int]:
    starts = [0]
    while (header := parse_header(segment, starts[-1])) is not None:
        starts.append(starts[-1] + header.size_bytes)
    return starts[:-1]


async def test_a_batch_that_fails_its_crc_is_a_gap(box: Box) -> None:
    await box.append("v0", "v1", "v2", "v3")
    starts = batch_starts(box.segment(0))
    assert len(starts) == 4
    for damaged in (1, 2):
        box.segment(0)[starts[damaged] + 70] ^= 0x01
    with closing(box.reader()) as reader:
        part = reader.read("telemetry", 0, 0)
        assert [r.value for r in part.records] == [b"v0", b"v3"]
        assert [(gap.first, gap.next, gap.reason) for gap in part.gaps] == [(1, 3, "damaged")]
        assert part.next_offset == 4
        assert list(reader.read("telemetry", 0, 2).gaps) == [Gap(first=2, next=3, reason="damaged")]


@pytest.mark.parametrize("field", [8, 9, 16], ids=["long-length", "negative-length-or-long", "magic"])
@pytest.mark.parametrize("damaged", [0, 1, 3])
async def test_a_damaged_header_is_a_gap_of_its_batch_alone(box: Box, field: int, damaged: int) -> None:
    await box.append("v0", "v1", "v2", "v3")
    box.segment(0)[batch_starts(box.segment(0))[damaged] + field] ^= 0x30
    with closing(box.reader()) as reader:
        gaps: list[Gap] = []
        found: list[int] = []
        offset = 0
        while offset < 4:
            part = reader.read("telemetry", 0, offset)
            gaps += part.gaps
            found += [r.offset for r in part.records]
            assert part.next_offset > offset, "stuck"
            offset = part.next_offset
        assert found == [n for n in range(4) if n != damaged]
        assert gaps == [Gap(first=damaged, next=damaged + 1, reason=gaps[0].reason)]
        assert reader.read("telemetry", 0, 2).records[0].offset == 2


async def test_a_payload_that_holds_a_batch_is_not_taken_for_one(box: Box) -> None:
    """Behind damage only a batch whose offset may stand there counts: a stored copy of an old one does not."""
    await box.append("v0", "v1")
    copy = bytes(box.segment(0))
    partition = box.log.partitions("telemetry")[0]
    await box.log.roll("telemetry", "one segment each")
    partition.append(box.log.now_ms(), None, copy, [])
    box.log.appended(1, len(copy))
    await box.log.drain()
    await box.append("v3")
    box.segment(2)[16] ^= 0x01
    with closing(box.reader()) as reader:
        values = []
        offset = 2
        while offset < 4:
            part = reader.read("telemetry", 0, offset)
            values += [r.value for r in part.records]
            assert part.next_offset > offset, "stuck"
            offset = part.next_offset
        assert b"v0" not in values
        assert b"v1" not in values


async def forged(box: Box, forge: Callable[[bytes], bytes]) -> None:
    """Three batches of three records, `v0` to `v8`; the middle one is another of the same size, under a right CRC."""
    for number in range(3):
        box.clock.now_ms += 10
        await box.log.append([record("telemetry", None, f"v{number * 3 + n}") for n in range(3)])
        box.log._engine.flusher.flush_now()
        await box.log._engine.segment_thread.run(lambda: None)
    segment = box.segment(0)
    start, end = batch_starts(segment)[1:]
    segment[start:end] = resealed(forge(bytes(segment[start:end])))
    assert len(batch_starts(segment)) == 3


def records_of_deltas(*deltas: int) -> Callable[[bytes], bytes]:
    """Records that stand at these offsets of the batch, whose header still says three."""

    def forge(data: bytes) -> bytes:
        whole = bytearray(data[:HEADER_BYTES]) + b"".join(raw_record(delta) for delta in deltas)
        struct.pack_into(">h", whole, CRC_STARTS_AT, CODEC_NONE)
        struct.pack_into(">i", whole, 57, len(deltas))
        return bytes(whole)

    return forge


UNREADABLE = {
    "frame": lambda data: data[:HEADER_BYTES] + bytes(len(data) - HEADER_BYTES),
    "codec": lambda data: patched(data, CRC_STARTS_AT, ">h", 6),
    "count-more": lambda data: patched(data, 57, ">i", 4),
    "count-less": lambda data: patched(data, 57, ">i", 2),
    "offset-behind": records_of_deltas(0, 1, 3),
    "offset-before": records_of_deltas(-1, 0, 1),
    "offsets-fall": records_of_deltas(1, 0),
    "offset-twice": records_of_deltas(1, 1),
}


@pytest.mark.parametrize("forge", UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_a_batch_that_cannot_be_read_under_a_right_crc_is_a_gap(
    box: Box, forge: Callable[[bytes], bytes]
) -> None:
    await forged(box, forge)
    with closing(box.reader()) as reader:
        part = reader.read("telemetry", 0, 0)
        assert [r.offset for r in part.records] == [0, 1, 2, 6, 7, 8]
        assert list(part.gaps) == [Gap(first=3, next=6, reason="damaged")]
        part = reader.read("telemetry", 0, 4, max_bytes=1)
        assert (list(part.records), list(part.gaps), part.next_offset) == (
            [],
            [Gap(first=4, next=6, reason="damaged")],
            6,
        )
        assert reader.offset_for_time("telemetry", 0, box.clock.now_ms - 10) == 6


@pytest.mark.parametrize(
    ("deltas", "holes"),
    [((0, 2), [(4, 5)]), ((1, 2), [(3, 4)]), ((0,), [(4, 6)]), ((1,), [(3, 4), (5, 6)]), ((), [(3, 6)])],
)
async def test_offsets_that_no_record_of_a_batch_has_are_gaps(
    box: Box, deltas: tuple[int, ...], holes: list[tuple[int, int]]
) -> None:
    """As Kafka's compaction leaves them."""
    await forged(box, records_of_deltas(*deltas))
    with closing(box.reader()) as reader:
        part = reader.read("telemetry", 0, 0)
        assert [r.offset for r in part.records] == [0, 1, 2, *(3 + delta for delta in deltas), 6, 7, 8]
        assert [(gap.first, gap.next) for gap in part.gaps] == holes
        assert {gap.reason for gap in part.gaps} == {"missing"}
        assert part.next_offset == 9


async def test_a_slice_is_bounded_by_what_its_records_take_in_memory(box: Box) -> None:
    """Records that compress to next to nothing: by stored bytes one slice would hold them all."""
    value = "x" * 30_000
    for _ in range(12):
        await box.append(value)
    with closing(box.reader()) as reader:
        at = [0]
        while at[-1] < 12:
            part = reader.read("telemetry", 0, at[-1], max_bytes=1 << 30)
            size_bytes = sum(len(r.value or b"") for r in part.records)
            assert size_bytes - len(value) < SLICE_PLAIN_BYTES
            at.append(part.next_offset)
        assert at == [0, 2, 4, 6, 8, 10, 12]


async def test_the_map_is_taken_apart_once_for_each_change(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    await box.append("v0", "v1")
    with closing(box.reader()) as reader:
        reads: list[str] = []
        read = reader._marks.read
        monkeypatch.setattr(reader._marks, "read", lambda: (reads.append("read"), read())[1])
        for offset in (0, 1, 2):
            reader.read("telemetry", 0, offset)
        assert reads == ["read"]
        await box.append("v2")
        assert reader.watermarks("telemetry")[0].high == 3
        assert reads == ["read", "read"]


async def test_a_damaged_last_batch_does_not_hold_a_reader_up(box: Box) -> None:
    await box.append("v0", "v1")
    box.segment(0)[batch_starts(box.segment(0))[1] + 70] ^= 0x01
    with closing(box.reader()) as reader:
        part = reader.read("telemetry", 0, 1)
        assert (list(part.records), part.next_offset) == ([], 2)
        assert list(part.gaps) == [Gap(first=1, next=2, reason="damaged")]


async def test_a_missing_segment_is_a_gap_from_where_was_asked(box: Box) -> None:
    for number in range(3):
        await box.append(f"a{number}", f"b{number}")
        await box.log.roll("telemetry", "one segment each")
    box.disk.remove(box.data_dir / LOG_DIR / "telemetry-0" / f"{2:020}.log")
    with closing(box.reader()) as reader:
        for offset in (2, 3):
            part = reader.read("telemetry", 0, offset)
            assert list(part.gaps) == [Gap(first=offset, next=4, reason="missing")]
            assert [r.offset for r in part.records] == [4, 5]
        whole = reader.read("telemetry", 0, 0)
        assert [r.offset for r in whole.records] == [0, 1, 4, 5]
        assert list(whole.gaps) == [Gap(first=2, next=4, reason="missing")]


async def test_a_missing_last_segment_is_a_gap_while_the_writer_lives(box: Box) -> None:
    await box.append("v0")
    await box.log.roll("telemetry", "one segment each")
    await box.append("v1", "v2")
    await box.log.roll("telemetry", "one segment each")
    box.disk.remove(box.data_dir / LOG_DIR / "telemetry-0" / f"{1:020}.log")
    with closing(box.reader()) as reader:
        part = reader.read("telemetry", 0, 0)
        assert [r.value for r in part.records] == [b"v0"]
        part = part if part.gaps else reader.read("telemetry", 0, part.next_offset)
        assert list(part.gaps) == [Gap(first=1, next=3, reason="missing")]
        assert part.next_offset == 3


async def test_what_a_dead_writer_promised_and_no_file_holds_is_waited_for(tmp_path: Path) -> None:
    """The map may be ahead of the files until the next writer has recovered: not a gap yet."""
    disk, clock = MemoryDisk(), FakeClock()
    async with opened(tmp_path, storage=disk, clock=clock) as log:
        await log.create_topic("telemetry", 1)
        await log.append([record("telemetry", None, "v0")])
    disk.content(tmp_path / LOG_DIR / "telemetry-0" / f"{0:020}.log").clear()
    with closing(FileLogReader(tmp_path, storage=disk, clock=clock)) as reader:
        assert reader.writer_state() is WriterState.STALE
        part = reader.read("telemetry", 0, 0)
        assert (list(part.records), list(part.gaps), part.next_offset) == ([], [], 0)


async def test_a_reader_follows_from_segment_to_segment(box: Box) -> None:
    with closing(box.reader()) as reader:
        offset, values = 0, []
        for number in range(6):
            await box.append(f"v{number}")
            if number % 2:
                await box.log.roll("telemetry", "one segment each")
            part = reader.read("telemetry", 0, offset)
            assert not part.gaps
            values += [r.value for r in part.records]
            offset = part.next_offset
        assert values == [b"v%d" % number for number in range(6)]


async def test_jumping_about_reads_the_same(box: Box) -> None:
    rng = random.Random(3)
    for number in range(40):
        await box.append(f"v{number}" + "x" * rng.choice((0, 3_000)))
        if number % 9 == 8:
            await box.log.roll("telemetry", "one segment each")
    with closing(box.reader()) as reader:
        expected = [r.value for r in read_partition(reader, "telemetry", 0)]
        for _ in range(200):
            offset = rng.randrange(40)
            part = reader.read("telemetry", 0, offset, max_bytes=rng.choice((1, 5_000, 1 << 20)))
            assert [r.value for r in part.records] == expected[offset : part.next_offset]


async def test_offsets_before_the_log_start_are_expired(box: Box) -> None:
    await box.append("v0", "v1", "v2")
    files = next(f for f in box.log._engine.segments._files.values() if f.topic.name == "telemetry")
    files.log_start = 2
    box.log._engine.segments.publish_all()
    with closing(box.reader()) as reader:
        part = reader.read("telemetry", 0, 0)
        assert list(part.gaps) == [Gap(first=0, next=2, reason="expired")]
        assert [r.offset for r in part.records] == [2]
        assert reader.offset_for_time("telemetry", 0, 0) == 2


async def test_time_lookup_without_indexes_walks(box: Box) -> None:
    times = []
    for number in range(12):
        box.clock.now_ms += 10
        times.append(box.clock.now_ms)
        await box.append(f"v{number}" + "x" * 3_000)
        if number % 4 == 3:
            await box.log.roll("telemetry", "one segment each")
    for base in (0, 4, 8):
        box.disk.remove(box.data_dir / LOG_DIR / "telemetry-0" / f"{base:020}.timeindex")
    with closing(box.reader()) as reader:
        assert [reader.offset_for_time("telemetry", 0, time) for time in times] == list(range(12))


async def test_the_writer_is_stale_once_its_heartbeat_is_old(box: Box) -> None:
    with closing(box.reader()) as reader:
        assert reader.writer_state() is WriterState.LIVE
        box.clock.now_ms += STALE_AFTER_MS + 1
        assert reader.writer_state() is WriterState.STALE
        box.log._engine.marks.beat(box.clock.monotonic_ms())
        assert reader.writer_state() is WriterState.LIVE


def test_a_directory_without_a_log(tmp_path: Path) -> None:
    with closing(FileLogReader(tmp_path)) as reader:
        assert reader.writer_state() is WriterState.STALE
        assert not reader.wait(0)
        with pytest.raises(UnavailableError):
            reader.topics()


async def test_files_stay_few_however_many_segments_are_read(tmp_path: Path) -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async with opened(tmp_path) as log:
        await log.create_topic("telemetry", 2)
        with closing(FileLogReader(tmp_path, clock=FakeClock())) as reader:
            before = None
            for number in range(30):
                await log.append([record("telemetry", None, f"{number}", partition=p) for p in range(2)])
                await log.roll("telemetry", "one segment each")
                for partition in range(2):
                    assert len(read_partition(reader, "telemetry", partition)) == number + 1
                reader.windows("telemetry")
                if before is None:
                    before = open_files()
            assert before is not None
            assert open_files() <= before + 1


async def test_opening_and_closing_leaves_no_file_open(tmp_path: Path) -> None:
    counts = []
    for number in range(4):
        log = await open_log(tmp_path)
        await log.create_topic(f"t{number}", 2)
        await log.append([record(f"t{number}", None, "v", partition=p) for p in range(2)])
        await log.close()
        counts.append(len(list(Path("/proc/self/fd").iterdir())))
    assert counts[0] == counts[-1]


@pytest.mark.parametrize("segment_size_bytes", [1, 200])
def test_what_is_written_behind_a_stretch_that_was_left_out_is_no_damage_before_it_is_published(
    tmp_path: Path, segment_size_bytes: int
) -> None:
    """A flush writes several segments before it publishes them; the high watermark stands at the end of a gap."""
    disk, clock = MemoryDisk(), FakeClock()
    info = TopicInfo(name="t", topic_id="00" * 16, partitions=1)
    files = PartitionFiles(
        disk,
        tmp_path / LOG_DIR / "t-0",
        info,
        0,
        log_start=0,
        next_offset=0,
        active=None,
        segment_size_bytes=segment_size_bytes,
    )

    def write(offset: int) -> None:
        batch = bytearray(client_batch([b"%d" % offset]))
        place(batch, offset, 0)
        files.append(batch, offset, 1, 1)

    (tmp_path / RUN_DIR).mkdir()
    with closing(WatermarkWriter(tmp_path / RUN_DIR, boot_id=bytes(16), capacity=1)) as marks:
        write(0)
        marks.publish([(info, 0, Watermark(start=0, high=10))])
        marks.beat(clock.monotonic_ms())
        for offset in (10, 11, 12):
            write(offset)
        with closing(FileLogReader(tmp_path, storage=disk, clock=clock)) as reader:
            before = reader.read("t", 0, 0)
            assert before.next_offset <= 10
            assert all((gap.next, gap.reason) <= (10, "missing") for gap in before.gaps)
            marks.publish([(info, 0, Watermark(start=0, high=13))])
            after = reader.read("t", 0, before.next_offset)
            assert [one.offset for one in (*before.records, *after.records)] == [0, 10, 11, 12]
            assert [(gap.first, gap.next) for gap in (*before.gaps, *after.gaps)] == [(1, 10)]
