"""Why a batch from outside is refused, with the error code that a Kafka client is told.

Source: Kafka documentation, "Protocol errors". The codes decide what a client does next: a batch that is too large is
split, a corrupt one is sent again, a duplicate counts as written.
"""

from __future__ import annotations

from typing import ClassVar, Final

from core.errors import BadRequestError, HeadraceError


class BatchError(BadRequestError):
    """A batch that is not taken in. Nothing of it was appended."""

    code: ClassVar[str] = "batch"
    kafka_code: ClassVar[int] = -1
    """Kafka's error code; -1 is UNKNOWN_SERVER_ERROR."""


class CorruptMessageError(BatchError):
    """CORRUPT_MESSAGE: the bytes are not a whole batch, or not those that the CRC was made of."""

    code = "batch.corrupt-message"
    kafka_code = 2


class MessageTooLargeError(BatchError):
    """MESSAGE_TOO_LARGE: more bytes, or more records, than are taken in one batch."""

    code = "batch.message-too-large"
    kafka_code = 10


class OutOfOrderSequenceError(BatchError):
    """OUT_OF_ORDER_SEQUENCE_NUMBER: a batch of this producer that should have come before is missing."""

    code = "batch.out-of-order-sequence-number"
    kafka_code = 45


class DuplicateSequenceError(BatchError):
    """DUPLICATE_SEQUENCE_NUMBER: it was appended before, so long ago that its offset is no longer known."""

    code = "batch.duplicate-sequence-number"
    kafka_code = 46


class InvalidProducerEpochError(BatchError):
    """INVALID_PRODUCER_EPOCH: a newer instance of the producer has written since."""

    code = "batch.invalid-producer-epoch"
    kafka_code = 47


class UnsupportedCompressionError(BatchError):
    """UNSUPPORTED_COMPRESSION_TYPE: a codec that is not one of gzip, snappy, lz4 and zstd."""

    code = "batch.unsupported-compression-type"
    kafka_code = 76


class InvalidRecordError(BatchError):
    """INVALID_RECORD: a whole batch that says something which may not be said."""

    code = "batch.invalid-record"
    kafka_code = 87


_BY_CODE: Final = {
    kind.code: kind
    for kind in (
        CorruptMessageError,
        MessageTooLargeError,
        OutOfOrderSequenceError,
        DuplicateSequenceError,
        InvalidProducerEpochError,
        UnsupportedCompressionError,
        InvalidRecordError,
    )
}

BATCH_ERROR_CODES: Final = tuple(_BY_CODE)


def batch_error(code: str, told: HeadraceError) -> HeadraceError:
    """The error of that `code` in the words that came over the local channel; `told` itself for any other code."""
    kind = _BY_CODE.get(code)
    return told if kind is None else kind(told.what, where=told.where, mend=told.mend)
