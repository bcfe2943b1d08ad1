"""Decompressing the records of a batch, with a cap: every codec that Kafka's clients send.

A few kilobytes may announce, or unfold to, more than memory holds. So nothing here returns or allocates more than a
limit that the caller names: what announces its size is refused by the announcement, what does not is given only that
much room. Codec numbers are those of a batch's attributes. What a codec means on the wire, as the clients do it:

* gzip: one or more gzip members;
* snappy: either a bare snappy block (librdkafka), or the framing of the Java library: `82 "SNAPPY" 00`, two int32
  versions, then blocks of `int32 length, snappy block`;
* lz4: LZ4 frames, with header checksum;
* zstd: a frame, with or without its content size.

Source: Kafka documentation, "Record Batch"; the frame formats of the codecs themselves.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Callable, Mapping
from typing import Final

import cramjam
import zstandard

CODEC_NONE: Final = 0
CODEC_GZIP: Final = 1
CODEC_SNAPPY: Final = 2
CODEC_LZ4: Final = 3
CODEC_ZSTD: Final = 4

_STEP_BYTES: Final = 256 << 10  # output buffer of one step: most batches fit
_GZIP: Final = 16 + zlib.MAX_WBITS
_XERIAL_MAGIC: Final = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES: Final = len(_XERIAL_MAGIC) + 8
_XERIAL_LENGTH: Final = struct.Struct(">i")
_LZ4_RATIOS: Final = (8, 64, 256)  # nothing in an lz4 frame unfolds to more than 255 times its size
_LZ4_ROOM_BYTES: Final = 64 << 10
_LZ4_NO_ROOM: Final = "failed to write whole buffer"


class _OneShot(threading.local):
    """Unfolds zstd frames of announced size, with a context for each thread: making one takes longer than using it."""

    def __init__(self) -> None:
        self.unfold = zstandard.ZstdDecompressor().decompress


_one_shot: Final = _OneShot()


class CompressionError(ValueError):
    """Bytes that their codec cannot unfold."""


class UnknownCodecError(CompressionError):
    """A codec number that has no meaning."""


class TooLargeError(CompressionError):
    """More than the limit would come out."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"decompresses to more than {limit_bytes} bytes")


def decompress(codec: int, data: bytes, limit_bytes: int) -> bytes:
    """What was compressed; `data` itself for CODEC_NONE. Raises CompressionError."""
    if codec == CODEC_NONE:
        return data
    unfold = _CODECS.get(codec)
    if unfold is None:
        raise UnknownCodecError(f"there is no codec {codec}")
    return unfold(data, limit_bytes)


def _gzip(data: bytes, limit_bytes: int) -> bytes:
    chunks: list[bytes] = []
    room = limit_bytes
    try:
        while data:
            member = zlib.decompressobj(_GZIP)
            chunk = member.decompress(data, room + 1)
            room -= len(chunk)
            if room < 0:
                raise TooLargeError(limit_bytes)
            if not member.eof:
                raise CompressionError("gzip: the data is cut off")
            chunks.append(chunk)
            data = member.unused_data
    except zlib.error as error:
        raise CompressionError(f"gzip: {error}") from error
    return b"".join(chunks)


def _snappy(data: bytes, limit_bytes: int) -> bytes:
    if not data.startswith(_XERIAL_MAGIC):
        return _snappy_block(data, limit_bytes, limit_bytes)
    chunks: list[bytes] = []
    room = limit_bytes
    at = _XERIAL_HEADER_BYTES
    while at < len(data):
        if at + _XERIAL_LENGTH.size > len(data):
            raise CompressionError("snappy: a block's length is cut off")
        (length,) = _XERIAL_LENGTH.unpack_from(data, at)
        at += _XERIAL_LENGTH.size
        if not 0 < length <= len(data) - at:
            raise CompressionError(f"snappy: a block of {length} bytes where {len(data) - at} are left")
        chunks.append(_snappy_block(data[at : at + length], room, limit_bytes))
        room -= len(chunks[-1])
        at += length
    return b"".join(chunks)


def _snappy_block(block: bytes, room_bytes: int, limit_bytes: int) -> bytes:
    """One block; it begins with the size of what comes out."""
    try:
        if cramjam.snappy.decompress_raw_len(block) > room_bytes:
            raise TooLargeError(limit_bytes)
        return bytes(cramjam.snappy.decompress_raw(block))
    except cramjam.DecompressionError as error:
        raise CompressionError(f"snappy: {error}") from error


def _lz4(data: bytes, limit_bytes: int) -> bytes:
    """Into a buffer of fixed size, the only bound that the library knows; a small one first, since it is zeroed."""
    for ratio in _LZ4_RATIOS:
        room = bytearray(min(limit_bytes, ratio * len(data) + _LZ4_ROOM_BYTES))
        try:
            size = cramjam.lz4.decompress_into(data, room)
        except cramjam.DecompressionError as error:
            if _LZ4_NO_ROOM not in str(error):
                raise CompressionError(f"lz4: {error}") from error
            if len(room) == limit_bytes:
                break
            continue
        return bytes(memoryview(room)[:size])
    raise TooLargeError(limit_bytes)


def _zstd(data: bytes, limit_bytes: int) -> bytes:
    try:
        announced = zstandard.frame_content_size(data)
        if announced > limit_bytes:
            raise TooLargeError(limit_bytes)
        if announced >= 0:
            return _one_shot.unfold(data)
        chunks: list[bytes] = []
        room = limit_bytes
        with zstandard.ZstdDecompressor().stream_reader(data) as reader:
            while chunk := reader.read(_STEP_BYTES):
                room -= len(chunk)
                if room < 0:
                    raise TooLargeError(limit_bytes)
                chunks.append(chunk)
    except zstandard.ZstdError as error:
        raise CompressionError(f"zstd: {error}") from error
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


_CODECS: Final[Mapping[int, Callable[[bytes, int], bytes]]] = {
    CODEC_GZIP: _gzip,
    CODEC_SNAPPY: _snappy,
    CODEC_LZ4: _lz4,
    CODEC_ZSTD: _zstd,
}
