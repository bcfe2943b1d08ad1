"""Batches from outside, one by one: what is taken, what is refused, and with which of Kafka's error codes."""

from __future__ import annotations

import gzip
import random
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cramjam
import pytest
import zstandard
from aiokafka.record import MemoryRecords

from commitlog.batch import CRC_STARTS_AT, HEADER_BYTES, check_crc, parse_header, records_of
from commitlog.batch_errors import (
    BatchError,
    CorruptMessageError,
    InvalidRecordError,
    MessageTooLargeError,
    UnsupportedCompressionError,
    batch_error,
)
from commitlog.compression import CODEC_GZIP, CODEC_LZ4, CODEC_NONE, CODEC_SNAPPY, CODEC_ZSTD, decompress
from commitlog.foreign import MAX_PLAIN_BYTES, MAX_RECORDS, Sequenced, check_size, inspect
from core.errors import BadRequestError
from tests.commitlog.batch_support import (
    CLIENT_TIME_MS,
    CODECS,
    GOLDEN,
    client_batch,
    patched,
    raw_record,
    resealed,
    with_records,
)

NOW_MS = 1_800_000_000_000
golden = pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
codecs = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)


def test_there_are_golden_batches_of_every_codec_from_two_clients() -> None:
    kinds = {*CODECS, "idempotent-zstd"}
    for client in ("librdkafka", "kafka-python"):
        names = [path.stem for path in GOLDEN if path.stem.startswith(client)]
        assert {re.sub(r".*?\d-", "", name) for name in names} == kinds


@golden
def test_a_real_clients_batch_is_taken_as_it_is(path: Path) -> None:
    data = path.read_bytes()
    taken = inspect(data)
    assert taken.count == 40
    assert (taken.producer is not None) == ("idempotent" in path.stem)
    stored = taken.received_at(NOW_MS)
    header = parse_header(stored)
    assert header is not None
    assert check_crc(stored, header)
    assert stored[27:35] == data[27:35], "the client's first timestamp stays"
    assert stored[43:] == data[43:], "producer, sequence, count and records stay"
    records = list(records_of(stored, header))
    assert [record.offset for record in records] == list(range(40))
    assert {record.timestamp for record in records} == {NOW_MS}
    assert {record.key for record in records} == {b"press-17"}
    for number, record in enumerate(records):
        value = b'{"value": %d, "unit": "bar", "machine": "press-17"}' % number
        assert record.value == (None if number == 7 else value)
        assert list(record.headers) == [("n", b"%d" % number), ("none", None)]


@golden
def test_the_record_library_reads_what_is_stored(path: Path) -> None:
    stored = inspect(path.read_bytes()).received_at(NOW_MS)
    batch = MemoryRecords(stored).next_batch()
    assert batch is not None
    assert batch.validate_crc()
    assert (batch.timestamp_type, batch.max_timestamp, batch.first_timestamp) == (1, NOW_MS, CLIENT_TIME_MS)
    assert [record.timestamp for record in batch] == [NOW_MS] * 40


@golden
def test_every_truncation_is_refused(path: Path) -> None:
    data = path.read_bytes()
    for length in range(len(data)):
        with pytest.raises(CorruptMessageError):
            inspect(data[:length])


@golden
def test_every_truncation_under_a_valid_crc_is_refused(path: Path) -> None:
    data = path.read_bytes()
    for length in range(HEADER_BYTES, len(data)):
        with pytest.raises(BatchError):
            inspect(resealed(data[:length]))


@golden
def test_every_flipped_bit_is_refused(path: Path) -> None:
    """But for those of the base offset and the leader epoch, which mean nothing and are written over."""
    data = path.read_bytes()
    for at in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            if at < 8 or 12 <= at < 16:
                assert inspect(bytes(damaged)) == inspect(data)
            else:
                with pytest.raises(BatchError):
                    inspect(bytes(damaged))


@golden
def test_hostile_bytes_raise_only_batch_errors_and_what_passes_can_be_read(path: Path) -> None:
    rng = random.Random(path.stem)
    clean = path.read_bytes()
    passed = 0
    for _ in range(2_000):
        data = bytearray(clean)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(CRC_STARTS_AT, len(data))] = rng.randrange(256)
        if rng.random() < 0.2:
            del data[rng.randrange(HEADER_BYTES, len(data)) :]
        if rng.random() < 0.1:
            data += rng.randbytes(rng.randrange(30))
        try:
            taken = inspect(resealed(data))
        except BatchError:
            continue
        stored = taken.received_at(NOW_MS)
        header = parse_header(stored)
        assert header is not None
        assert [record.offset for record in records_of(stored, header)] == list(range(taken.count))
        passed += 1
    assert passed > 0


@codecs
def test_every_codec_is_taken(codec: int) -> None:
    values = [b"%d" % number * 50 for number in range(100)]
    stored = inspect(client_batch(values, codec=codec)).received_at(NOW_MS)
    header = parse_header(stored)
    assert header is not None
    assert [record.value for record in records_of(stored, header)] == values


PLAIN = client_batch([b"a", b"b", b"c"], producer=(77, 2, 10))
REFUSED = [
    pytest.param(PLAIN + b"\0", InvalidRecordError, id="bytes-after"),
    pytest.param(PLAIN + PLAIN, InvalidRecordError, id="two-batches"),
    pytest.param(b"", CorruptMessageError, id="nothing"),
    pytest.param(bytes(len(PLAIN)), InvalidRecordError, id="zeros"),
    pytest.param(PLAIN[:16] + b"\x01" + PLAIN[17:], InvalidRecordError, id="magic-1"),
    pytest.param(PLAIN[:8] + struct.pack(">i", -1) + PLAIN[12:], CorruptMessageError, id="negative-length"),
    pytest.param(PLAIN[:8] + struct.pack(">i", 40) + PLAIN[12:], CorruptMessageError, id="length-below-header"),
    pytest.param(PLAIN[:8] + struct.pack(">i", 2**31 - 1) + PLAIN[12:], CorruptMessageError, id="length-too-long"),
    pytest.param(PLAIN[:-1] + b"\x7f", CorruptMessageError, id="crc"),
    pytest.param(patched(PLAIN, 21, ">h", 0x10), InvalidRecordError, id="transactional"),
    pytest.param(patched(PLAIN, 21, ">h", 0x20), InvalidRecordError, id="control"),
    pytest.param(patched(PLAIN, 21, ">h", 0x40), InvalidRecordError, id="delete-horizon"),
    pytest.param(patched(PLAIN, 21, ">h", -0x8000), InvalidRecordError, id="unknown-attribute"),
    *(pytest.param(patched(PLAIN, 21, ">h", c), UnsupportedCompressionError, id=f"codec-{c}") for c in (5, 6, 7)),
    *(pytest.param(patched(PLAIN, 21, ">h", c), CorruptMessageError, id=f"not-codec-{c}") for c in (1, 2, 3, 4)),
    pytest.param(patched(PLAIN, 57, ">i", 2), InvalidRecordError, id="count-below-delta"),
    pytest.param(patched(PLAIN, 57, ">i", 4), InvalidRecordError, id="count-over-delta"),
    pytest.param(patched(PLAIN, 57, ">i", 0), InvalidRecordError, id="no-records"),
    pytest.param(patched(PLAIN, 57, ">i", -3), InvalidRecordError, id="negative-count"),
    pytest.param(patched(PLAIN, 23, ">i", -1), InvalidRecordError, id="negative-delta"),
    pytest.param(patched(PLAIN, 23, ">i", 2**31 - 1), InvalidRecordError, id="delta-overflows"),
    pytest.param(patched(patched(PLAIN, 23, ">i", 1), 57, ">i", 2), InvalidRecordError, id="fewer-announced"),
    pytest.param(patched(patched(PLAIN, 23, ">i", 3), 57, ">i", 4), InvalidRecordError, id="more-announced"),
    pytest.param(
        patched(patched(PLAIN, 23, ">i", 2**31 - 2), 57, ">i", 2**31 - 1), MessageTooLargeError, id="billions"
    ),
    pytest.param(patched(PLAIN, 43, ">q", -2), InvalidRecordError, id="negative-producer-id"),
    pytest.param(patched(PLAIN, 51, ">h", -1), InvalidRecordError, id="producer-without-epoch"),
    pytest.param(patched(PLAIN, 53, ">i", -1), InvalidRecordError, id="producer-without-sequence"),
    pytest.param(with_records(0, raw_record(1)), InvalidRecordError, id="first-delta-not-0"),
    pytest.param(with_records(0, raw_record(0) + raw_record(2), 2), InvalidRecordError, id="delta-skipped"),
    pytest.param(with_records(0, raw_record(0) + raw_record(0), 2), InvalidRecordError, id="delta-twice"),
    pytest.param(with_records(0, raw_record(0) + raw_record(-1), 2), InvalidRecordError, id="delta-backwards"),
    pytest.param(with_records(0, raw_record(0, header=b"\xff\xfe")), InvalidRecordError, id="header-name-not-text"),
    pytest.param(with_records(0, raw_record(0, headers=2**31 - 1)), InvalidRecordError, id="billions-of-headers"),
    pytest.param(with_records(0, raw_record(0, headers=-1)), InvalidRecordError, id="negative-headers"),
    pytest.param(with_records(0, b"\xff" * 40), InvalidRecordError, id="endless-varint"),
]


@pytest.mark.parametrize(("data", "error"), REFUSED)
def test_what_a_batch_may_not_say(data: bytes, error: type[BatchError]) -> None:
    with pytest.raises(error):
        inspect(data)


def test_made_up_records_pass_where_they_are_right() -> None:
    assert inspect(with_records(0, raw_record(0, header=b"n") + raw_record(1), 2)).count == 2


def test_a_producer_is_known_by_its_header() -> None:
    producer = inspect(PLAIN).producer
    assert producer == Sequenced(producer_id=77, epoch=2, first=10, count=3)
    assert producer.last == 12
    assert inspect(client_batch([b"a"])).producer is None
    at_the_end = inspect(client_batch([b"a", b"b", b"c"], producer=(77, 2, 2**31 - 2))).producer
    assert at_the_end is not None
    assert at_the_end.last == 0, "2^31-2, 2^31-1, 0"


def test_size_is_limited() -> None:
    check_size(PLAIN, len(PLAIN))
    with pytest.raises(MessageTooLargeError):
        check_size(PLAIN, len(PLAIN) - 1)


def test_records_are_limited() -> None:
    with pytest.raises(MessageTooLargeError):
        inspect(client_batch([b""] * (MAX_RECORDS + 1), codec=CODEC_ZSTD))
    assert inspect(client_batch([b""] * MAX_RECORDS, codec=CODEC_ZSTD)).count == MAX_RECORDS


def xerial(*blocks: bytes) -> bytes:
    head = b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1)
    return head + b"".join(struct.pack(">i", len(block)) + block for block in blocks)


def snappy(data: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(data))


def unsized_zstd(data: bytes) -> bytes:
    stream = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    return stream.compress(data) + stream.flush()


ZEROS = bytes(MAX_PLAIN_BYTES // 4 + 1)
BOMBS = [
    pytest.param(CODEC_GZIP, lambda: gzip.compress(ZEROS, 1) * 4, id="gzip-members"),
    pytest.param(CODEC_GZIP, lambda: gzip.compress(ZEROS * 4, 1), id="gzip"),
    pytest.param(CODEC_SNAPPY, lambda: snappy(ZEROS * 4), id="snappy"),
    pytest.param(CODEC_SNAPPY, lambda: xerial(*[snappy(ZEROS)] * 4), id="snappy-blocks"),
    pytest.param(CODEC_LZ4, lambda: bytes(cramjam.lz4.compress(ZEROS * 4)), id="lz4"),
    pytest.param(CODEC_LZ4, lambda: bytes(cramjam.lz4.compress(ZEROS)) * 4, id="lz4-frames"),
    pytest.param(CODEC_ZSTD, lambda: zstandard.compress(ZEROS * 4), id="zstd"),
    pytest.param(CODEC_ZSTD, lambda: unsized_zstd(ZEROS * 4), id="zstd-unsized"),
]


@pytest.mark.parametrize(("codec", "pack"), BOMBS)
def test_a_bomb_is_too_large(codec: int, pack: Callable[[], bytes]) -> None:
    packed = pack()
    assert len(packed) < MAX_PLAIN_BYTES // 15
    with pytest.raises(MessageTooLargeError):
        inspect(with_records(codec, packed))


LIMIT = 1_000
PIECES = [bytes([number]) * 200 for number in range(5)]
PACKED = [
    pytest.param(CODEC_NONE, b"".join(PIECES), id="none"),
    pytest.param(CODEC_GZIP, gzip.compress(b"".join(PIECES)), id="gzip"),
    pytest.param(CODEC_GZIP, b"".join(map(gzip.compress, PIECES)), id="gzip-members"),
    pytest.param(CODEC_SNAPPY, snappy(b"".join(PIECES)), id="snappy"),
    pytest.param(CODEC_SNAPPY, xerial(*map(snappy, PIECES)), id="snappy-blocks"),
    pytest.param(CODEC_LZ4, bytes(cramjam.lz4.compress(b"".join(PIECES))), id="lz4"),
    pytest.param(CODEC_ZSTD, zstandard.compress(b"".join(PIECES)), id="zstd"),
    pytest.param(CODEC_ZSTD, unsized_zstd(b"".join(PIECES)), id="zstd-unsized"),
]


@pytest.mark.parametrize(("codec", "packed"), PACKED)
def test_decompression_up_to_the_limit_exactly(codec: int, packed: bytes) -> None:
    assert decompress(codec, packed, LIMIT) == b"".join(PIECES)
    if codec != CODEC_NONE:
        with pytest.raises(ValueError, match="more than 999 bytes"):
            decompress(codec, packed, LIMIT - 1)


@pytest.mark.parametrize(("codec", "packed"), [p for p in PACKED if p.values[0] != CODEC_NONE])
def test_what_is_cut_off_never_passes_for_whole(codec: int, packed: bytes) -> None:
    for length in range(len(packed)):
        try:
            out = decompress(codec, packed[:length], LIMIT)
        except ValueError:
            continue
        assert b"".join(PIECES).startswith(out), "members and blocks may end early: the record count tells"
        assert len(out) < LIMIT


def test_incompressible_lz4_needs_no_more_than_its_first_buffer() -> None:
    data = random.Random(1).randbytes(300_000)
    assert decompress(CODEC_LZ4, bytes(cramjam.lz4.compress(data)), MAX_PLAIN_BYTES) == data


def test_gzip_is_gzip_and_not_zlib() -> None:
    with pytest.raises(ValueError, match="gzip"):
        decompress(CODEC_GZIP, zlib.compress(b"x"), LIMIT)


def test_errors_keep_their_kind_and_kafka_code_over_the_channel() -> None:
    codes = {}
    for kind in BatchError.__subclasses__():
        told = batch_error(kind.code, BadRequestError("what", where="where", mend="mend"))
        assert type(told) is kind
        assert (told.what, told.where, told.mend) == ("what", "where", "mend")
        codes[kind.__doc__.split(":")[0] if kind.__doc__ else ""] = kind.kafka_code
    assert codes == {
        "CORRUPT_MESSAGE": 2,
        "MESSAGE_TOO_LARGE": 10,
        "OUT_OF_ORDER_SEQUENCE_NUMBER": 45,
        "DUPLICATE_SEQUENCE_NUMBER": 46,
        "INVALID_PRODUCER_EPOCH": 47,
        "UNSUPPORTED_COMPRESSION_TYPE": 76,
        "INVALID_RECORD": 87,
    }
    other = BadRequestError("other")
    assert batch_error("unheard-of", other) is other
