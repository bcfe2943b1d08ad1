"""Kafka RecordBatch v2: built, placed, checked, read back; and what hostile bytes do."""

from __future__ import annotations

import random
import struct
from concurrent.futures import ThreadPoolExecutor

import google_crc32c
import pytest
import zstandard
from aiokafka.record import MemoryRecords

from commitlog.base import Header
from commitlog.batch import (
    CODEC_NONE,
    CODEC_ZSTD,
    CRC_STARTS_AT,
    HEADER_BYTES,
    MAX_DECOMPRESSED_BYTES,
    BatchHeader,
    CorruptBatchError,
    RawBatch,
    check_crc,
    new_builder,
    parse_header,
    place,
    rebuild_from,
    split_batches,
)
from commitlog.compression import decompress

HEADERS: list[Header] = [("mqtt.topic", b"devices/a/x"), ("none", None), ("", b"")]
CODECS = pytest.mark.parametrize("codec", [CODEC_NONE, CODEC_ZSTD], ids=["plain", "zstd"])


def batch(count: int = 5, *, base: int = 40, epoch: int = 3, codec: int = CODEC_NONE, first_ms: int = 1_000) -> bytes:
    builder = new_builder(codec)
    for number in range(count):
        builder.append(number, first_ms + number, b"k%d" % number, b"value %d" % number * 10, HEADERS)
    data = builder.build()
    place(data, base, epoch)
    return bytes(data)


def header_of(data: bytes) -> BatchHeader:
    header = parse_header(data)
    assert header is not None
    return header


@CODECS
def test_placing_keeps_the_crc_valid(codec: int) -> None:
    data = bytearray(batch(codec=codec))
    before = bytes(data[CRC_STARTS_AT - 4 :])
    for base, epoch in ((0, 0), (2**62, 2**31 - 1), (7, -1)):
        place(data, base, epoch)
        header = header_of(bytes(data))
        assert (header.base_offset, header.leader_epoch, header.last_offset) == (base, epoch, base + 4)
        assert check_crc(bytes(data), header)
        assert data[CRC_STARTS_AT - 4 :] == before


@CODECS
def test_records_come_back_with_their_offsets(codec: int) -> None:
    data = batch(codec=codec)
    records = list(RawBatch(header_of(data), data).records())
    assert [(r.offset, r.timestamp, r.key) for r in records] == [(40 + n, 1_000 + n, b"k%d" % n) for n in range(5)]
    assert all(list(r.headers) == HEADERS for r in records)


@CODECS
def test_the_record_library_reads_what_is_on_disk(codec: int) -> None:
    data = batch(codec=codec) + batch(base=45, codec=codec)
    found = MemoryRecords(data)
    offsets: list[int] = []
    while (one := found.next_batch()) is not None:
        assert one.validate_crc()
        offsets.extend(r.offset for r in one)
    assert offsets == list(range(40, 50))


def test_the_header_says_what_the_format_says() -> None:
    """Kafka documentation, "Record Batch": the fields where they stand, big-endian."""
    data = batch(3, base=99, epoch=4, codec=CODEC_ZSTD)
    assert struct.unpack_from(">q", data, 0) == (99,)
    assert struct.unpack_from(">i", data, 8) == (len(data) - 12,)
    assert struct.unpack_from(">ib", data, 12) == (4, 2)
    assert struct.unpack_from(">hi", data, 21) == (CODEC_ZSTD, 2)
    assert struct.unpack_from(">qq", data, 27) == (1_000, 1_002)
    assert struct.unpack_from(">qhii", data, 43) == (-1, -1, -1, 3)


@CODECS
def test_every_truncation_is_an_incomplete_batch(codec: int) -> None:
    data = batch(codec=codec)
    for length in range(len(data)):
        assert list(split_batches(data[:length])) == []
        assert list(split_batches(data + data[:length])) == [RawBatch(header_of(data), data)]


@CODECS
def test_every_flipped_byte_the_crc_covers_is_found(codec: int) -> None:
    data = batch(codec=codec)
    for at in range(CRC_STARTS_AT - 4, len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x40
        try:
            found = [check_crc(bytes(damaged), header_of(bytes(damaged)))]
        except CorruptBatchError:
            found = [False]
        assert found == [False], f"byte {at}"


def with_valid_crc(data: bytearray) -> bytes:
    struct.pack_into(">I", data, 17, google_crc32c.value(bytes(data[CRC_STARTS_AT:])))
    return bytes(data)


@CODECS
def test_hostile_bytes_raise_nothing_but_corrupt_batch(codec: int) -> None:
    """Batches that a client made up, with a valid CRC."""
    rng = random.Random(codec)
    clean = batch(codec=codec)
    read = 0
    for _ in range(3_000):
        data = bytearray(clean)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(CRC_STARTS_AT, len(data))] = rng.randrange(256)
        if rng.random() < 0.3:
            del data[rng.randrange(HEADER_BYTES, len(data)) :]
            struct.pack_into(">i", data, 8, len(data) - 12)
        hostile = with_valid_crc(data)
        try:
            for one in split_batches(hostile):
                read += len(list(one.records()))
        except CorruptBatchError:
            continue
    assert read > 0


@pytest.mark.parametrize(
    ("at", "form", "value"),
    [(16, ">b", 1), (16, ">b", 3), (0, ">q", -1), (23, ">i", -1), (57, ">i", -1), (8, ">i", 48), (8, ">i", -5)],
    ids=["magic-1", "magic-3", "negative-offset", "negative-delta", "negative-count", "too-short", "negative-length"],
)
def test_impossible_headers_are_refused(at: int, form: str, value: int) -> None:
    data = bytearray(batch())
    struct.pack_into(form, data, at, value)
    with pytest.raises(CorruptBatchError):
        parse_header(data)


def zstd_batch(packed: bytes) -> RawBatch:
    data = bytearray(batch(1, codec=CODEC_ZSTD)[:HEADER_BYTES] + packed)
    struct.pack_into(">i", data, 8, len(data) - 12)
    whole = with_valid_crc(data)
    return RawBatch(header_of(whole), whole)


@pytest.mark.parametrize("announced", [True, False])
def test_decompression_has_a_cap(announced: bool) -> None:
    bomb = zstandard.ZstdCompressor(level=1, write_content_size=announced)
    if announced:
        packed = bomb.compress(bytes(MAX_DECOMPRESSED_BYTES + 1))
    else:
        stream = bomb.compressobj()
        zeros = bytes(1 << 20)
        packed = b"".join(stream.compress(zeros) for _ in range((MAX_DECOMPRESSED_BYTES >> 20) + 1)) + stream.flush()
    with pytest.raises(CorruptBatchError, match="more than"):
        list(zstd_batch(packed).records())


def test_a_frame_without_its_size_is_read() -> None:
    plain = batch(1)
    stream = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    packed = stream.compress(plain[HEADER_BYTES:]) + stream.flush()
    assert [r.key for r in zstd_batch(packed).records()] == [b"k0"]


def test_a_lying_announcement_is_refused() -> None:
    packed = bytearray(zstandard.ZstdCompressor().compress(bytes(300)))
    packed[5] ^= 0x01
    with pytest.raises(CorruptBatchError):
        list(zstd_batch(bytes(packed)).records())


@pytest.mark.parametrize("codec", [5, 6, 7])
def test_other_codecs_are_refused(codec: int) -> None:
    data = bytearray(batch())
    struct.pack_into(">h", data, CRC_STARTS_AT, codec)
    with pytest.raises(CorruptBatchError, match="codec"):
        list(RawBatch(header_of(bytes(data)), bytes(data)).records())


@CODECS
def test_a_batch_is_cut_at_its_front(codec: int) -> None:
    data = batch(codec=codec)
    cut = rebuild_from(RawBatch(header_of(data), data), 42, 3)
    assert (cut.header.base_offset, cut.header.last_offset, cut.header.leader_epoch) == (42, 44, 3)
    assert [(r.offset, r.timestamp, r.key, list(r.headers)) for r in cut.records()] == [
        (40 + n, 1_000 + n, b"k%d" % n, HEADERS) for n in (2, 3, 4)
    ]


def test_threads_decompress_at_once() -> None:
    """Each batch is another; a context that two threads share would mix them, or break."""
    plain = [random.Random(number).randbytes(50_000) * 20 for number in range(4)]
    packed = [zstandard.ZstdCompressor().compress(one) for one in plain]

    def unfold(number: int) -> bool:
        return all(decompress(CODEC_ZSTD, packed[number], 1 << 20) == plain[number] for _ in range(50))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(unfold, range(4)))
