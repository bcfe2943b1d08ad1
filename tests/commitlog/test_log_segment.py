"""Segments and their indexes: against brute force, cut at every byte, with every byte flipped."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from commitlog.batch import CODEC_NONE, BatchHeader, new_builder, place
from commitlog.index import (
    INDEX_INTERVAL_BYTES,
    OFFSET_ENTRY,
    TIME_ENTRY,
    IndexBuilder,
    entry_before_time,
    offset_entries,
    time_entries,
)
from commitlog.placing import checked_position
from commitlog.segment import INDEX_SUFFIX, TIMEINDEX_SUFFIX, Redo, Segment, base_offsets, segment_path
from commitlog.walk import FoundBatch, walk
from tests.commitlog.commitlog_disk import MemoryDisk

DIRECTORY = Path("/log/telemetry-0")
BASE = 1_000


def a_batch(base: int, count: int, time_ms: int, size: int) -> bytes:
    builder = new_builder(CODEC_NONE)
    for number in range(count):
        builder.append(number, time_ms, b"k", bytes(size), [])
    data = builder.build()
    place(data, base, 0)
    return bytes(data)


def filled(disk: MemoryDisk, seed: int, batches: int) -> tuple[Segment, list[BatchHeader]]:
    """A segment of random batches, and their headers."""
    rng = random.Random(seed)
    segment = Segment(disk, DIRECTORY, BASE)
    offset, time_ms = BASE, 5_000
    for _ in range(batches):
        count = rng.randint(1, 4)
        time_ms += rng.choice((0, 0, 1, 50))
        segment.append(a_batch(offset, count, time_ms, rng.choice((0, 100, 1_500))), offset + count - 1, time_ms)
        offset += count + (rng.randint(1, 9) if rng.random() < 0.1 else 0)  # a gap, as recovery may leave one
    return segment, headers_in(disk)


def headers_in(disk: MemoryDisk, start: int = 0) -> list[BatchHeader]:
    file = disk.open(segment_path(DIRECTORY, BASE))
    return [found.header for found in walk(file, start, BASE) if isinstance(found, FoundBatch)]


def indexes(disk: MemoryDisk) -> tuple[bytes, bytes]:
    return (
        bytes(disk.content(segment_path(DIRECTORY, BASE, INDEX_SUFFIX))),
        bytes(disk.content(segment_path(DIRECTORY, BASE, TIMEINDEX_SUFFIX))),
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_offset_index_against_brute_force(seed: int) -> None:
    disk = MemoryDisk()
    _, headers = filled(disk, seed, 60)
    entries = offset_entries(indexes(disk)[0])
    assert len(entries) > 5
    starts = {}
    position = 0
    for header in headers:
        starts[position] = header
        position += header.size_bytes
    for relative, at in entries:
        assert starts[at].last_offset - BASE == relative
    file = disk.open(segment_path(DIRECTORY, BASE))
    for offset in range(BASE, headers[-1].last_offset + 1):
        wanted = next(at for at, header in starts.items() if header.last_offset >= offset)
        found = checked_position(file, BASE, entries, offset)
        assert found <= wanted
        assert sum(header.size_bytes for at, header in starts.items() if found <= at < wanted) <= (
            2 * INDEX_INTERVAL_BYTES + 2 * 7_000  # one interval, and what the batches at its ends may exceed it by
        )


@pytest.mark.parametrize("seed", range(5))
def test_the_time_index_against_brute_force(seed: int) -> None:
    disk = MemoryDisk()
    segment, headers = filled(disk, seed, 60)
    segment.seal()
    entries = time_entries(indexes(disk)[1])
    assert entries == sorted(set(entries))
    for time_ms, relative in entries:
        assert all(header.max_timestamp_ms <= time_ms for header in headers if header.last_offset <= BASE + relative)
    assert entries[-1][0] == headers[-1].max_timestamp_ms
    for wanted_ms in range(4_990, headers[-1].max_timestamp_ms + 2):
        start = BASE + (entry_before_time(entries, wanted_ms) or (0, 0))[1]
        first = next((header for header in headers if header.max_timestamp_ms >= wanted_ms), None)
        assert first is None or start <= first.last_offset


def test_entries_are_an_interval_apart() -> None:
    """Kafka `LogSegment.append`: an entry once more than `index.interval.bytes` went in since the last."""
    builder = IndexBuilder(0)
    written = [builder.batch(n * 1_000, 1_000, n, n)[0] for n in range(20)]
    assert [n for n, data in enumerate(written) if data] == [5, 10, 15]
    assert [OFFSET_ENTRY.unpack(data) for data in written if data] == [(5, 5_000), (10, 10_000), (15, 15_000)]


def test_a_torn_entry_is_left_out() -> None:
    assert offset_entries(OFFSET_ENTRY.pack(1, 2) + b"\0" * 7) == [(1, 2)]
    assert time_entries(TIME_ENTRY.pack(1, 2) + b"\0" * 11) == [(1, 2)]
    assert entry_before_time([], 5) is None


def test_recovery_at_every_truncation_keeps_the_whole_batches() -> None:
    disk = MemoryDisk()
    segment, headers = filled(disk, 7, 6)
    path = segment_path(DIRECTORY, BASE)
    whole, whole_indexes = bytes(disk.content(path)), indexes(disk)
    ends = [0]
    for header in headers:
        ends.append(ends[-1] + header.size_bytes)
    assert ends[-1] == len(whole)
    for length in range(len(whole) + 1):
        disk.content(path)[:] = whole[:length]
        segment = Segment(disk, DIRECTORY, BASE)
        walked = segment.recover(None)
        kept = [header for header, end in zip(headers, ends[1:], strict=True) if end <= length]
        assert (walked.batches, walked.last, walked.damage) == (len(kept), kept[-1] if kept else None, [])
        assert (walked.tail is not None) == (length not in ends)
        assert headers_in(disk) == kept
        assert segment.log_bytes == len(disk.content(path)) == max(end for end in ends if end <= length)
    assert indexes(disk) == whole_indexes


@pytest.mark.parametrize("bit", range(8))
def test_recovery_with_a_flipped_bit_loses_the_one_batch_and_says_so(bit: int) -> None:
    """Every bit outside the leader epoch, which no check covers, of every batch."""
    disk = MemoryDisk()
    _, headers = filled(disk, 7, 4)
    path = segment_path(DIRECTORY, BASE)
    whole = bytes(disk.content(path))
    position = 0
    for number, header in enumerate(headers):
        for at in range(header.size_bytes):
            if 12 <= at < 16 or (at < 8 and number == len(headers) - 1):
                continue  # the last batch's offset has no neighbour that would prove it wrong
            disk.content(path)[:] = whole
            disk.content(path)[position + at] ^= 1 << bit
            segment = Segment(disk, DIRECTORY, BASE)
            walked = segment.recover(None)
            if at < 8 and (at, bit) != (0, 7):  # a negative one is no header at all
                assert bytes(disk.content(path)) == whole, "the offset is mended from the neighbours"
                continue
            kept = [h for h in headers if h is not header]
            assert headers_in(disk) == kept, f"batch {number} byte {at}"
            if number < len(headers) - 1:
                (damage,) = walked.damage
                assert (damage.position, damage.size_bytes) == (position, header.size_bytes)
                assert (damage.first, damage.next) == (header.base_offset, headers[number + 1].base_offset)
            else:
                assert walked.tail is not None
                assert segment.log_bytes == len(disk.content(path)) == position
        position += header.size_bytes


@pytest.mark.parametrize("first", [0, 3, 9])
@pytest.mark.parametrize("size", [1, 61, 5_000])
def test_zeroed_stretches_are_stepped_over(first: int, size: int) -> None:
    disk = MemoryDisk()
    _, headers = filled(disk, 11, 12)
    path = segment_path(DIRECTORY, BASE)
    position = sum(header.size_bytes for header in headers[:first])
    content = disk.content(path)
    end = min(position + 10 + size, len(content))
    content[position + 10 : end] = bytes(end - position - 10)  # from the length field on
    ends = list(itertools.accumulate(header.size_bytes for header in headers))
    kept = [h for h, stop in zip(headers, ends, strict=True) if stop - h.size_bytes >= end or stop <= position]
    walked = Segment(disk, DIRECTORY, BASE).recover(None)
    assert headers_in(disk) == kept
    assert len(walked.damage) + (walked.tail is not None) == 1


def test_from_where_the_journal_has_it_the_segment_is_cut_and_what_is_behind_handed_back() -> None:
    disk = MemoryDisk()
    _, headers = filled(disk, 7, 8)
    starts = [0, *itertools.accumulate(header.size_bytes for header in headers)]
    content = disk.content(segment_path(DIRECTORY, BASE))
    for damaged in (2, 5):
        content[starts[damaged] + 62] ^= 1
    segment = Segment(disk, DIRECTORY, BASE)
    walked = segment.recover(None, Redo(from_byte=starts[4]))
    assert [(damage.first, damage.next) for damage in walked.damage] == [
        (headers[2].base_offset, headers[3].base_offset)
    ]
    assert walked.tail is not None
    assert walked.tail.first == headers[5].base_offset
    assert [batch.header for batch in walked.behind] == headers[6:]
    assert segment.log_bytes == starts[5]


@pytest.mark.parametrize("seed", range(5))
def test_going_on_from_a_durable_point_ends_as_a_whole_walk_does(seed: int) -> None:
    """Resume at every batch boundary, append one more batch: the offset index is the one of an undisturbed segment."""
    disk = MemoryDisk()
    undisturbed, headers = filled(disk, seed, 40)
    points = []
    copy = MemoryDisk()
    whole = bytes(disk.content(segment_path(DIRECTORY, BASE)))
    segment = Segment(copy, DIRECTORY, BASE)
    for header in headers:
        points.append((segment.log_bytes, segment.index_bytes, segment.timeindex_bytes))
        data = whole[segment.log_bytes : segment.log_bytes + header.size_bytes]
        segment.append(data, header.last_offset, header.max_timestamp_ms)
    for point, header in zip(points, headers, strict=True):
        again = Segment(copy, DIRECTORY, BASE)
        walked = again.recover(point, next_offset=header.base_offset)  # with gaps, which the journal would have to fill
        assert walked.batches == sum(h.base_offset >= header.base_offset for h in headers)
        assert again.log_bytes == undisturbed.log_bytes
        assert indexes(copy)[0] == indexes(disk)[0]


@pytest.mark.parametrize("suffix", [".log", INDEX_SUFFIX, TIMEINDEX_SUFFIX])
def test_a_file_shorter_than_its_durable_point_has_the_segment_walked_whole(suffix: str) -> None:
    disk = MemoryDisk()
    segment, headers = filled(disk, 3, 40)
    point = (segment.log_bytes, segment.index_bytes, segment.timeindex_bytes)
    before = indexes(disk)
    del disk.content(segment_path(DIRECTORY, BASE, suffix))[-1:]
    walked = Segment(disk, DIRECTORY, BASE).recover(point)
    assert walked.batches == len(headers) - (suffix == ".log")
    if suffix != ".log":
        assert indexes(disk) == before


def test_names_that_are_not_segments_are_not_taken_for_them() -> None:
    disk = MemoryDisk()
    for name in (f"{5:020}.log", f"{3:020}.log", f"{3:020}.index", "5.log", f"{7:020}.log.deleted", "x" * 20 + ".log"):
        disk.open(DIRECTORY / name, create=True)
    assert base_offsets(disk, DIRECTORY) == [3, 5]
