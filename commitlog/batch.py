"""Kafka RecordBatch v2, byte for byte.

A batch is a 61-byte header and records, compressed or not:

    0  int64  base offset          12 int32 leader epoch       23 int32 last offset delta   51 int16 producer epoch
    8  int32  length after here    16 int8  magic (2)          27 int64 first timestamp     53 int32 base sequence
                                   17 uint32 CRC-32C of 21..   35 int64 max timestamp       57 int32 record count
                                   21 int16 attributes         43 int64 producer id         61 records

Base offset and leader epoch stand before the CRC's range: a log patches them into a finished batch, as Kafka's broker
does. Building and iterating is the record-batch library's work; what is ours is patching, checking, and decompressing
with a cap, since a hostile batch may announce more than memory holds. Source: Kafka documentation, "Record Batch".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import google_crc32c
from aiokafka.record._crecords import DefaultRecordBatch, DefaultRecordBatchBuilder

from commitlog.base import Record
from commitlog.compression import CODEC_NONE as CODEC_NONE
from commitlog.compression import CODEC_ZSTD as CODEC_ZSTD
from commitlog.compression import CompressionError, decompress

# The pure-Python fallback is ten times slower and would be taken without a word on a machine without the wheel.
if "_crecords" not in DefaultRecordBatchBuilder.__module__:
    raise ImportError("aiokafka's compiled record batches are missing: install its binary wheel")

HEADER: Final = struct.Struct(">qiibIhiqqqhii")
HEADER_BYTES: Final = HEADER.size
CRC_STARTS_AT: Final = 21
LENGTH_ENDS_AT: Final = 12  # the length field counts what follows it
CODEC_MASK: Final = 0x07
MAX_DECOMPRESSED_BYTES: Final = 128 << 20  # several times what one commit may hold
MAX_BATCH_BYTES: Final = 1 << 30  # a segment's size limit; a larger length field is corruption

BASE_OFFSET: Final = struct.Struct(">q")
_LEADER_EPOCH: Final = struct.Struct(">i")
_LENGTH: Final = struct.Struct(">i")
_LENGTH_AT: Final = 8
_ATTRIBUTES: Final = struct.Struct(">h")


class CorruptBatchError(ValueError):
    """Bytes that are not a whole, undamaged record batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchHeader:
    """What the header of a batch says; `size_bytes` is the whole batch."""

    base_offset: int
    size_bytes: int
    leader_epoch: int
    crc: int
    attributes: int
    last_offset: int
    first_timestamp_ms: int
    max_timestamp_ms: int
    record_count: int


def parse_header(data: bytes | bytearray | memoryview, at: int = 0) -> BatchHeader | None:
    """The header at `at`; None when the bytes end before it does. Raises CorruptBatchError for what cannot be one."""
    if len(data) - at < HEADER_BYTES:
        return None
    base, length, epoch, magic, crc, attributes, last_delta, first_ms, max_ms, _pid, _pe, _seq, count = (
        HEADER.unpack_from(data, at)
    )
    size = length + LENGTH_ENDS_AT
    if magic != 2 or base < 0 or last_delta < 0 or count < 0 or not HEADER_BYTES <= size <= MAX_BATCH_BYTES:
        raise CorruptBatchError(f"no record batch header: magic {magic}, base offset {base}, length {length}")
    return BatchHeader(
        base_offset=base,
        size_bytes=size,
        leader_epoch=epoch,
        crc=crc,
        attributes=attributes,
        last_offset=base + last_delta,
        first_timestamp_ms=first_ms,
        max_timestamp_ms=max_ms,
        record_count=count,
    )


def check_crc(batch: bytes, header: BatchHeader) -> bool:
    """Whether the bytes of one whole batch are the ones that its CRC was made of."""
    return bool(google_crc32c.value(batch[CRC_STARTS_AT:]) == header.crc)


def new_builder(codec: int, limit_bytes: int = MAX_BATCH_BYTES) -> DefaultRecordBatchBuilder:
    """An empty batch of an unsequenced producer; `codec` is CODEC_NONE or CODEC_ZSTD.

    Its `append` returns None, and takes nothing, where a second or later record would bring it to `limit_bytes`.
    """
    return DefaultRecordBatchBuilder(
        magic=2,
        compression_type=codec,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=limit_bytes,
    )


def place(batch: bytearray, base_offset: int, leader_epoch: int) -> None:
    """Give a finished batch its place in the log. The CRC does not cover either field."""
    BASE_OFFSET.pack_into(batch, 0, base_offset)
    _LEADER_EPOCH.pack_into(batch, LENGTH_ENDS_AT, leader_epoch)


def records_of(batch: bytes, header: BatchHeader) -> list[Record]:
    """The records of one whole batch, offsets and all. Raises CorruptBatchError."""
    return RawBatch(header, batch).records()


def with_plain_records(header: bytes, attributes: int, records: bytes) -> bytes:
    """The batch of a compressed batch's header and its decompressed records."""
    changed = bytearray(header)
    _LENGTH.pack_into(changed, _LENGTH_AT, HEADER_BYTES - LENGTH_ENDS_AT + len(records))
    _ATTRIBUTES.pack_into(changed, CRC_STARTS_AT, attributes & ~CODEC_MASK)
    return b"".join((changed, records))  # the records are copied once


@dataclass(frozen=True, slots=True)
class RawBatch:
    """A whole batch as it stands in a file."""

    header: BatchHeader
    data: bytes

    def plain(self) -> bytes:
        """The batch with its records decompressed (the CRC in it is then not theirs). Raises CorruptBatchError."""
        codec = self.header.attributes & CODEC_MASK
        if codec == CODEC_NONE:
            return self.data
        try:
            records = decompress(codec, self.data[HEADER_BYTES:], MAX_DECOMPRESSED_BYTES)
        except CompressionError as error:
            raise CorruptBatchError(f"the batch at offset {self.header.base_offset}: {error}") from error
        return with_plain_records(self.data[:HEADER_BYTES], self.header.attributes, records)

    def records(self) -> list[Record]:
        """The records, offsets and all. Raises CorruptBatchError."""
        return plain_records(self.plain())


def plain_records(plain: bytes) -> list[Record]:
    """The records of one whole batch that is not compressed. Raises CorruptBatchError."""
    try:
        return list(DefaultRecordBatch(plain))
    except Exception as error:
        (base_offset,) = BASE_OFFSET.unpack_from(plain)
        raise CorruptBatchError(f"records of the batch at offset {base_offset}: {error!r}") from error


def split_batches(data: bytes) -> Iterator[RawBatch]:
    """The whole batches at the start of `data`; an incomplete one at the end is left out.

    Raises CorruptBatchError at the first batch that is damaged.
    """
    at = 0
    while (header := parse_header(data, at)) is not None and at + header.size_bytes <= len(data):
        batch = data[at : at + header.size_bytes]
        if not check_crc(batch, header):
            raise CorruptBatchError(f"the batch at offset {header.base_offset} fails its CRC")
        yield RawBatch(header, batch)
        at += header.size_bytes


def rebuild_from(batch: RawBatch, first_offset: int, leader_epoch: int) -> RawBatch:
    """The part of a batch from `first_offset` on, as a batch of its own."""
    builder = new_builder(CODEC_NONE)
    count = 0
    for record in batch.records():
        if record.offset >= first_offset:
            builder.append(count, record.timestamp, record.key, record.value, record.headers)
            count += 1
    built = builder.build()
    place(built, first_offset, leader_epoch)
    data = bytes(built)
    header = parse_header(data)
    if header is None:
        raise CorruptBatchError("a batch without records cannot be cut")
    return RawBatch(header, data)
