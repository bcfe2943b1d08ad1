"""A small segment, damaged everywhere: each flipped bit and each cut is one finding, with the offsets it costs."""

from __future__ import annotations

import pytest

from commitlog.batch import CODEC_NONE, CODEC_ZSTD, new_builder, place
from commitlog.check_segment import Reached, SegmentCheck, SegmentResult, SegmentTask

COUNTS = (2, 1, 3)  # records of each batch
BASE, EPOCH = 40, 5


class BytesFile:
    """A `StorageFile` over bytes."""

    def __init__(self, content: bytes | bytearray) -> None:
        self.content = bytearray(content)

    def read(self, size: int, position: int) -> bytes:
        return bytes(self.content[position : position + size])

    def write(self, data: bytes | bytearray | memoryview, position: int) -> None:
        self.content[position : position + len(data)] = data

    def sync(self) -> None:
        pass

    def size(self) -> int:
        return len(self.content)

    def truncate(self, size: int) -> None:
        del self.content[size:]

    def close(self) -> None:
        pass


def segment(codec: int) -> tuple[bytes, list[tuple[int, int]]]:
    """A segment, and the byte and the offset at which each batch starts."""
    content, starts, offset = b"", [], BASE
    for count in COUNTS:
        builder = new_builder(codec)
        for number in range(count):
            builder.append(number, 1000 + offset + number, b"k", b'{"n": %d}' % (offset + number), [("h", b"v")])
        batch = builder.build()
        place(batch, offset, EPOCH)
        starts.append((len(content), offset))
        content += bytes(batch)
        offset += count
    return content, starts


def check(content: bytes | bytearray, **task: object) -> SegmentResult:
    end = BASE + sum(COUNTS)
    known: dict[str, object] = {"following": end, "ends_at": end, "max_epoch": EPOCH, **task}
    whole = SegmentTask(topic="t", partition=0, base=BASE, path="t-0/x.log", size_bytes=len(content), **known)  # type: ignore[arg-type]
    checking = SegmentCheck(whole, Reached(BASE))
    for _ in checking.run(BytesFile(content)):
        pass
    return checking.result


CODECS = pytest.mark.parametrize("codec", [CODEC_NONE, CODEC_ZSTD], ids=["plain", "zstd"])


@CODECS
def test_a_whole_segment_has_nothing(codec: int) -> None:
    result = check(segment(codec)[0])
    assert not result.looked
    assert (result.batches, result.records, result.reached.next_offset) == (3, 6, BASE + 6)


@CODECS
@pytest.mark.parametrize("batch", range(3))
def test_every_flipped_bit_is_one_finding_about_the_batch_that_it_is_in(codec: int, batch: int) -> None:
    content, starts = segment(codec)
    ends = [*(at for at, _ in starts[1:]), len(content)]
    first = starts[batch][1]
    for bit in range(8 * starts[batch][0], 8 * ends[batch]):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << (bit % 8)
        result = check(damaged)
        if batch == 0 and bit // 8 == 15 and damaged[15] < EPOCH:
            continue  # a lower leader epoch before all others is a possible one
        (finding,) = result.looked.findings.kept
        where = f"bit {bit - 8 * starts[batch][0]}: {finding}"
        assert result.reached.next_offset == BASE + 6, where
        if finding.kind != "leader-epoch":
            assert (finding.first, finding.next) == (first, first + COUNTS[batch]), where


@CODECS
def test_every_cut_is_one_damage_from_there_to_the_next_segment(codec: int) -> None:
    content, starts = segment(codec)
    for cut in range(1, len(content)):
        result = check(content[:cut])
        at, first = next((at, first) for at, first in reversed(starts) if at <= cut)
        if cut == at:  # between two batches only the next segment's base tells: the partition's check sees it
            assert not result.looked.findings.count
            assert result.reached.next_offset == first
        else:
            (finding,) = result.looked.findings.kept
            assert (finding.kind, finding.first, finding.next) == ("batch-damaged", first, BASE + 6)


@CODECS
def test_every_cut_of_what_is_not_settled_is_a_note(codec: int) -> None:
    content, starts = segment(codec)
    for cut in range(1, len(content)):
        result = check(content[:cut], following=None, ends_at=0, settled_bytes=0, journaled=True)
        assert not result.looked.findings.count
        assert result.looked.notes.count == (cut not in {at for at, _ in starts})


def test_what_is_beyond_the_high_watermark_is_not_looked_at() -> None:
    content, starts = segment(CODEC_ZSTD)
    result = check(content[: starts[2][0] + 30], following=None, ends_at=0, high=starts[2][1])
    assert not result.looked
    assert result.records == 3


def test_a_length_that_lies_costs_no_memory() -> None:
    content = bytearray(segment(CODEC_NONE)[0])
    content[8:12] = (1 << 29).to_bytes(4, "big")
    assert [one.kind for one in check(content).looked.findings.kept] == ["batch-damaged"]
