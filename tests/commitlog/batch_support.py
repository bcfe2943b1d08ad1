"""Batches as clients make them, and broken in every way."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import google_crc32c
from aiokafka.record._crecords import DefaultRecordBatchBuilder

from commitlog.batch import CRC_STARTS_AT, HEADER_BYTES
from commitlog.compression import CODEC_GZIP, CODEC_LZ4, CODEC_NONE, CODEC_SNAPPY, CODEC_ZSTD

CODECS = {"none": CODEC_NONE, "gzip": CODEC_GZIP, "snappy": CODEC_SNAPPY, "lz4": CODEC_LZ4, "zstd": CODEC_ZSTD}
GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.batch"))
CLIENT_TIME_MS = 1_700_000_000_000


def client_batch(
    values: Sequence[bytes | None],
    *,
    codec: int = CODEC_NONE,
    producer: tuple[int, int, int] = (-1, -1, -1),
    key: bytes | None = b"press-17",
) -> bytes:
    """A batch of records; `producer` is (id, epoch, base sequence)."""
    producer_id, epoch, sequence = producer
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=codec,
        is_transactional=0,
        producer_id=producer_id,
        producer_epoch=epoch,
        base_sequence=sequence,
        batch_size=1 << 30,
    )
    for number, value in enumerate(values):
        builder.append(number, CLIENT_TIME_MS + number, key, value, [])
    return bytes(builder.build())


def resealed(data: bytes | bytearray) -> bytes:
    """The same bytes with the length and the CRC that fit them."""
    whole = bytearray(data)
    struct.pack_into(">i", whole, 8, len(whole) - 12)
    struct.pack_into(">I", whole, 17, google_crc32c.value(bytes(whole[CRC_STARTS_AT:])))
    return bytes(whole)


def patched(data: bytes, at: int, form: str, value: int) -> bytes:
    """One header field set to another value, under a valid CRC."""
    whole = bytearray(data)
    struct.pack_into(form, whole, at, value)
    return resealed(whole)


def with_records(codec: int, packed: bytes, count: int = 1) -> bytes:
    """A batch with these bytes where its records belong."""
    data = bytearray(client_batch([b"v"])[:HEADER_BYTES] + packed)
    struct.pack_into(">hi", data, CRC_STARTS_AT, codec, count - 1)
    struct.pack_into(">i", data, 57, count)
    return resealed(data)


def varint(number: int) -> bytes:
    """Zigzag, as in a record."""
    rest = number << 1 if number >= 0 else ((-number) << 1) - 1
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def raw_record(offset_delta: int, *, header: bytes | None = None, headers: int | None = None) -> bytes:
    """A record by its bytes: no key, value `v`, perhaps one header of that name."""
    body = b"\0" + varint(0) + varint(offset_delta) + varint(-1) + varint(1) + b"v"
    body += varint(headers if headers is not None else 0 if header is None else 1)
    if header is not None:
        body += varint(len(header)) + header + varint(-1)
    return varint(len(body)) + body
