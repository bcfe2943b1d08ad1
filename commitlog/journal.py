"""The journal: one preallocated file in which every commit is one entry, made durable by one sync.

The file is a ring. Positions are counted in *logical* bytes that only grow; the place in the file is the logical
position modulo the file's size. What lies between `tail` and `head` is needed for recovery; a checkpoint moves the tail
up to where segments and state tables are durable.

An entry:

    0  uint32 length of the body; 0 marks the rest of this lap as unused
    4  uint32 CRC-32C of everything from byte 8 to the end of the body
    8  uint64 journal id, random, new whenever the journal is started afresh
    16 uint64 sequence, one more than the entry before
    24 body

The body is sections: record batches, `uint8 1, topic id (16 bytes), uint32 partition, uint32 length, batch`, and state
table changes, `uint8 2, uint32 length, msgpack [[table, key, value or nil], ...]`. All integers are big-endian.

Recovery reads from the checkpoint's position and stops at the first entry that is torn, of another journal or out of
sequence: old laps cannot be taken for new ones, and no payload can forge an entry, because the id is random. An entry
never spans the end of the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import google_crc32c
import msgspec

from commitlog.storage import Bytes, Storage, StorageFile
from core.threads import Latch, SystemThreads

ENTRY_HEADER: Final = struct.Struct(">IIQQ")
BATCH_SECTION: Final = struct.Struct(">B16sII")
CHANGES_SECTION: Final = struct.Struct(">BI")
SECTION_BATCH: Final = 1
SECTION_CHANGES: Final = 2
_ID_AND_SEQUENCE: Final = struct.Struct(">QQ")

Change = tuple[str, str, Any]
"""A state table's name, a key, and the new value; None removes the row."""


@dataclass(frozen=True, slots=True)
class JournalBatch:
    """New records of one partition in a commit."""

    topic_id: bytes
    partition: int
    data: Bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """One commit as read back; `end` is the logical position after it."""

    sequence: int
    end: int
    batches: Sequence[JournalBatch]
    changes: Sequence[Change]


class JournalFullError(Exception):
    """An entry does not fit before a checkpoint has moved the tail."""


def encode_body(batches: Sequence[JournalBatch], changes: Sequence[Change]) -> bytes:
    """An entry's body."""
    parts: list[Bytes] = []
    for batch in batches:
        parts.append(BATCH_SECTION.pack(SECTION_BATCH, batch.topic_id, batch.partition, len(batch.data)))
        parts.append(batch.data)
    if changes:
        packed = msgspec.msgpack.encode(changes)
        parts.append(CHANGES_SECTION.pack(SECTION_CHANGES, len(packed)))
        parts.append(packed)
    return b"".join(parts)


def decode_body(body: bytes) -> tuple[list[JournalBatch], list[Change]]:
    """The inverse of `encode_body`. Raises ValueError for what it did not write."""
    batches: list[JournalBatch] = []
    changes: list[Change] = []
    at = 0
    while at < len(body):
        kind = body[at]
        if kind == SECTION_BATCH:
            _, topic_id, partition, length = BATCH_SECTION.unpack_from(body, at)
            at += BATCH_SECTION.size
            batches.append(JournalBatch(topic_id, partition, body[at : at + length]))
        elif kind == SECTION_CHANGES:
            _, length = CHANGES_SECTION.unpack_from(body, at)
            at += CHANGES_SECTION.size
            changes.extend(tuple(row) for row in msgspec.msgpack.decode(body[at : at + length]))
        else:
            raise ValueError(f"a journal section of kind {kind} is not known to this version")
        at += length
    return batches, changes


class Journal:
    """Writes entries. Used by one thread at a time; `release` may be called from another."""

    def __init__(
        self,
        file: StorageFile,
        *,
        size: int,
        journal_id: int,
        sequence: int,
        head: int = 0,
        released: Latch | None = None,
    ) -> None:
        """`released`: what `wait_for_room` blocks on."""
        self._file = file
        self._size = size
        self.journal_id = journal_id
        self.next_sequence = sequence
        self.head = head
        self.tail = head
        self.bytes_written = 0
        self._released = released or SystemThreads().latch()
        self._given_up = False

    @property
    def used(self) -> int:
        """Bytes between tail and head."""
        return self.head - self.tail

    def write(self, body: bytes, *, sync: bool = True) -> tuple[int, int]:
        """Append an entry and sync it, unless `sync` is False. Returns its sequence and the logical position after it.

        Raises JournalFullError before anything is written, OSError when the write or the sync failed: then nothing
        is known about the bytes on disk and the journal must not be used again.
        """
        sequence = self.next_sequence
        checked = _ID_AND_SEQUENCE.pack(self.journal_id, sequence) + body
        entry = ENTRY_HEADER.pack(len(body), google_crc32c.value(checked), self.journal_id, sequence) + body
        at = self._place_for(len(entry))
        if at != self.head:
            self._mark_lap_end()
        self._file.write(entry, at % self._size)
        if sync:
            self._file.sync()
        self.next_sequence = sequence + 1
        self.head = at + len(entry)
        self.bytes_written += len(entry)
        return sequence, self.head

    def sync(self) -> None:
        """Make every entry written so far durable. Raises OSError, as `write` does."""
        self._file.sync()

    def release(self, position: int) -> None:
        """Everything before this logical position is no longer needed."""
        self.tail = max(self.tail, position)
        self._released.set()

    def wait_for_room(self, body_bytes: int) -> None:
        """Block until checkpoints have made room: the disk writes segments slower than data arrives.

        Raises JournalFullError when none will.
        """
        while not self.fits(body_bytes):
            if ENTRY_HEADER.size + body_bytes > self._size // 2:  # with its wrap it may not even fit an empty journal
                raise JournalFullError(f"an entry of {body_bytes} bytes does not fit a journal of {self._size}")
            if self._given_up:
                raise JournalFullError("no checkpoint will make room any more")
            self._released.wait()
            self._released.clear()

    def give_up(self) -> None:
        """Let nobody wait for room that will not come: checkpoints have failed."""
        self._given_up = True
        self._released.set()

    def fits(self, body_bytes: int) -> bool:
        """Whether an entry with such a body can be written now."""
        try:
            self._place_for(ENTRY_HEADER.size + body_bytes)
        except JournalFullError:
            return False
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _place_for(self, length: int) -> int:
        at = self.head
        if at % self._size + length > self._size:
            at += self._size - at % self._size
        if at + length - self.tail > self._size:
            raise JournalFullError(f"{length} bytes do not fit: {self.used} of {self._size} are in use")
        return at

    def _mark_lap_end(self) -> None:
        """Say that the rest of the lap is unused, where a header fits; where none fits, a reader knows by itself."""
        place = self.head % self._size
        if self._size - place >= ENTRY_HEADER.size:
            checked = _ID_AND_SEQUENCE.pack(self.journal_id, self.next_sequence)
            mark = ENTRY_HEADER.pack(0, google_crc32c.value(checked), self.journal_id, self.next_sequence)
            self._file.write(mark.ljust(self._size - place, b"\0"), place)  # nothing of an older lap stays behind it


@dataclass(frozen=True, slots=True)
class EntryHeader:
    """The first 24 bytes of an entry that lies within the file."""

    length: int
    crc: int
    journal_id: int
    sequence: int

    def body(self, file: StorageFile, place: int) -> bytes | None:
        """The body of the entry at that place in the file; None when it fails its CRC."""
        body = file.read(self.length, place + ENTRY_HEADER.size)
        checked = _ID_AND_SEQUENCE.pack(self.journal_id, self.sequence) + body
        return body if len(body) == self.length and google_crc32c.value(checked) == self.crc else None


def header_at(file: StorageFile, size: int, place: int) -> EntryHeader | None:
    """What stands at a place of the ring, if an entry could be there; None at the file's end or beyond it."""
    data = file.read(ENTRY_HEADER.size, place) if size - place >= ENTRY_HEADER.size else b""
    if len(data) < ENTRY_HEADER.size:
        return None
    header = EntryHeader(*ENTRY_HEADER.unpack(data))
    return header if place + ENTRY_HEADER.size + header.length <= size else None


def read_entries(
    file: StorageFile, *, size: int, journal_id: int, sequence: int, position: int
) -> Iterator[JournalEntry]:
    """The valid entries from a checkpoint's position on, in order; ends at the first that is not."""
    expected = sequence
    while True:
        place = position % size
        if size - place < ENTRY_HEADER.size:  # too little for a header: unused
            position += size - place
            continue
        header = header_at(file, size, place)
        if header is None or (header.journal_id, header.sequence) != (journal_id, expected):
            return
        body = header.body(file, place)
        if body is None:
            return
        if header.length == 0:
            position += size - place
            continue
        position += ENTRY_HEADER.size + header.length
        batches, changes = decode_body(body)
        yield JournalEntry(sequence=expected, end=position, batches=batches, changes=changes)
        expected += 1


def preallocate(storage: Storage, path: Path, size: int) -> StorageFile:
    """Open the journal's file with every byte of `size` written, so that a sync never has to allocate.

    Zeros are written rather than reserved: a reserved extent is converted at its first write, which costs the file
    system a metadata commit each time. An existing file of that size is taken as it is.
    """
    file = storage.open(path, create=True)
    try:
        have = file.size()
        if have > size:
            file.truncate(size)
        for at in range(min(have, size), size, _ZEROS_BYTES):
            file.write(bytes(min(_ZEROS_BYTES, size - at)), at)
        file.sync()  # also a file of that size: the start that wrote it may have died before it was synced
        storage.sync_dir(path.parent)
    except OSError:
        file.close()
        raise
    return file


# One page: what is written in large pieces is cached in large folios, and Linux (6.16 and later, ext4) then accounts a
# small commit as a write of the whole folio, which hides what the log really writes from whoever measures it.
_ZEROS_BYTES: Final = 4096
