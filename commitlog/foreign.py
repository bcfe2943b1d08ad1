"""Batches from outside: what has to be true before a ready RecordBatch v2 goes into the log as it is.

A Kafka client's produce request and a mirror bring finished batches. They are stored without being taken apart, so
whatever is wrong inside would be found by every reader, for ever: it has to be found here. `inspect` therefore reads
each batch with the reader's own code, under tighter caps, and refuses what that would stumble over.

What is changed in a batch: base offset, leader epoch (neither is under the CRC), and, as Kafka does for
`message.timestamp.type=LogAppendTime`, the timestamp type bit and the max timestamp, with the CRC made anew. So the
time of every record is the time received, which never decreases, whatever the client's clock says; the client's own
times stay in the batch, as first timestamp and deltas. Source: Kafka `LogValidator` and
`DefaultRecordBatch.setMaxTimestamp`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import google_crc32c

from commitlog.batch import (
    CODEC_MASK,
    CRC_STARTS_AT,
    HEADER,
    HEADER_BYTES,
    LENGTH_ENDS_AT,
    CorruptBatchError,
    parse_header,
    place,
    records_of,
    with_plain_records,
)
from commitlog.batch_errors import (
    CorruptMessageError,
    InvalidRecordError,
    MessageTooLargeError,
    UnsupportedCompressionError,
)
from commitlog.compression import CompressionError, TooLargeError, UnknownCodecError, decompress

MAX_PLAIN_BYTES: Final = 32 << 20  # thirty times the default batch; a quarter of what readers take
MAX_RECORDS: Final = 200_000  # a reader makes an object of each: this many are some tens of megabytes
SEQUENCES: Final = 1 << 31  # sequence numbers run from 0 to 2^31-1 and start again

_LOG_APPEND_TIME: Final = 0x08
_TRANSACTIONAL: Final = 0x10
_CONTROL: Final = 0x20
_KNOWN_ATTRIBUTES: Final = CODEC_MASK | _LOG_APPEND_TIME
_ATTRIBUTES: Final = struct.Struct(">h")
_MAX_TIMESTAMP: Final = struct.Struct(">q")
_MAX_TIMESTAMP_AT: Final = 35
_CRC: Final = struct.Struct(">I")
_CRC_AT: Final = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequenced:
    """Who an idempotent producer's batch is from, and its sequence numbers."""

    producer_id: int
    epoch: int
    first: int
    count: int

    @property
    def last(self) -> int:
        """The last sequence number, on the circle."""
        return (self.first + self.count - 1) % SEQUENCES


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignBatch:
    """A batch that passed `inspect`: `data` stands at offset 0, `producer` is None for one without sequences."""

    data: bytes
    count: int
    producer: Sequenced | None

    def received_at(self, timestamp_ms: int) -> bytes:
        """The batch with the time received as the time of all its records."""
        stamped = bytearray(self.data)
        (attributes,) = _ATTRIBUTES.unpack_from(stamped, CRC_STARTS_AT)
        _ATTRIBUTES.pack_into(stamped, CRC_STARTS_AT, attributes | _LOG_APPEND_TIME)
        _MAX_TIMESTAMP.pack_into(stamped, _MAX_TIMESTAMP_AT, timestamp_ms)
        _CRC.pack_into(stamped, _CRC_AT, google_crc32c.value(bytes(memoryview(stamped)[CRC_STARTS_AT:])))
        return bytes(stamped)


def check_size(batch: bytes, max_bytes: int) -> None:
    """Raise MessageTooLargeError for a batch of more stored bytes than that."""
    if len(batch) > max_bytes:
        raise MessageTooLargeError(
            f"a batch of {len(batch)} bytes, the limit is {max_bytes}",
            mend="send smaller batches, or raise log.message_max_bytes",
        )


def inspect(batch: bytes) -> ForeignBatch:
    """Check everything about one batch that can be checked by itself, but its size.

    Raises a BatchError. Takes as long as decompressing and reading the records does.
    """
    attributes, count, producer = _check_header(batch)
    data = bytearray(batch)
    place(data, 0, -1)  # where the sender believes it stands means nothing here
    placed = bytes(data)
    _check_records(_plain(placed, attributes), count)
    return ForeignBatch(data=placed, count=count, producer=producer)


def _check_header(batch: bytes) -> tuple[int, int, Sequenced | None]:
    """Attributes, record count and producer; the CRC is right."""
    if len(batch) < HEADER_BYTES:
        raise CorruptMessageError(f"{len(batch)} bytes are less than a batch's header")
    _, length, _, magic, crc, attributes, last_delta, _, _, producer_id, epoch, sequence, count = HEADER.unpack_from(
        batch
    )
    if magic != 2:
        raise InvalidRecordError(f"a batch of magic {magic}", mend="use a client of Kafka 0.11 or later: magic 2")
    if length + LENGTH_ENDS_AT > len(batch) or length + LENGTH_ENDS_AT < HEADER_BYTES:
        raise CorruptMessageError(f"a batch announces {length} bytes after its length, {len(batch)} are there in all")
    if length + LENGTH_ENDS_AT < len(batch):
        raise InvalidRecordError("bytes follow the batch", mend="send one batch for each partition")
    if google_crc32c.value(batch[CRC_STARTS_AT:]) != crc:
        raise CorruptMessageError("a batch fails its CRC")
    if attributes & (_CONTROL | _TRANSACTIONAL):
        raise InvalidRecordError(
            "control batches and transactions are not taken", mend="use an idempotent producer without transactional.id"
        )
    if attributes & ~_KNOWN_ATTRIBUTES:
        raise InvalidRecordError(f"a batch with attributes that no client sets: {attributes & 0xFFFF:#06x}")
    if count < 1 or count != last_delta + 1:
        raise InvalidRecordError(f"a batch of {count} records whose last offset delta is {last_delta}")
    if count > MAX_RECORDS:
        raise MessageTooLargeError(f"a batch of {count} records, the limit is {MAX_RECORDS}", mend="send fewer at once")
    return attributes, count, _producer(producer_id, epoch, sequence, count)


def _producer(producer_id: int, epoch: int, sequence: int, count: int) -> Sequenced | None:
    if producer_id == -1:
        return None
    if producer_id < 0 or epoch < 0 or sequence < 0:
        raise InvalidRecordError(f"producer id {producer_id} with epoch {epoch} and sequence {sequence}")
    return Sequenced(producer_id=producer_id, epoch=epoch, first=sequence, count=count)


def _plain(batch: bytes, attributes: int) -> bytes:
    """The batch with its records as they are."""
    codec = attributes & CODEC_MASK
    try:
        return with_plain_records(
            batch[:HEADER_BYTES], attributes, decompress(codec, batch[HEADER_BYTES:], MAX_PLAIN_BYTES)
        )
    except UnknownCodecError as error:
        raise UnsupportedCompressionError(f"a batch of codec {codec}", mend="gzip, snappy, lz4 or zstd") from error
    except TooLargeError as error:
        raise MessageTooLargeError(f"a batch {error}", mend="send smaller batches") from error
    except CompressionError as error:
        raise CorruptMessageError(f"a batch's records cannot be decompressed: {error}") from error


def _check_records(plain: bytes, count: int) -> None:
    """Every record is there, whole, readable, and at its own offset; and nothing after the last."""
    try:
        header = parse_header(plain)
        if header is None:
            raise CorruptBatchError("the header is cut off")
        expected = 0
        for record in records_of(plain, header):
            if record.offset != expected:
                raise InvalidRecordError(f"record {expected} of a batch stands at offset delta {record.offset}")
            expected += 1
    except CorruptBatchError as error:
        raise InvalidRecordError(f"a batch's records are damaged: {error}") from error
    if expected != count:
        raise InvalidRecordError(f"a batch announces {count} records and holds {expected}")
