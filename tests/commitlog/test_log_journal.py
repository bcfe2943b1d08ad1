"""The journal ring: written, wrapped, torn, forged, full."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from commitlog.journal import (
    ENTRY_HEADER,
    Journal,
    JournalBatch,
    JournalFullError,
    decode_body,
    encode_body,
    preallocate,
    read_entries,
)
from tests.commitlog.commitlog_disk import MemoryDisk, MemoryFile

PATH = Path("/log/journal")
ID = 0x1234_5678_9ABC_DEF0
SIZE = 1_000
OVERHEAD = ENTRY_HEADER.size + 25  # of an entry with one batch


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk()


def file_of(disk: MemoryDisk, size: int = SIZE) -> MemoryFile:
    preallocate(disk, PATH, size)
    return disk.open(PATH)


def body(data: bytes) -> bytes:
    return encode_body([JournalBatch(bytes(16), 0, data)], [])


def payloads(file: MemoryFile, *, position: int = 0, sequence: int = 1, size: int = SIZE) -> list[bytes]:
    entries = read_entries(file, size=size, journal_id=ID, sequence=sequence, position=position)
    return [bytes(entry.batches[0].data) for entry in entries]


def journal(file: MemoryFile, size: int = SIZE) -> Journal:
    return Journal(file, size=size, journal_id=ID, sequence=1)


def test_a_body_comes_back() -> None:
    batches = [JournalBatch(bytes(range(16)), 7, b"abc"), JournalBatch(bytes(16), 2**32 - 1, b"")]
    changes = [("table", "key", {"a": [1, None, b"x"]}), ("table", "gone", None)]
    assert decode_body(encode_body(batches, changes)) == (batches, changes)
    assert decode_body(b"") == ([], [])
    with pytest.raises(ValueError, match="kind 9"):
        decode_body(b"\x09" + bytes(20))


def test_entries_come_back_in_order(disk: MemoryDisk) -> None:
    file = file_of(disk)
    writer = journal(file)
    ends = [writer.write(body(b"%d" % n)) for n in range(5)]
    assert [sequence for sequence, _ in ends] == [1, 2, 3, 4, 5]
    assert payloads(file) == [b"0", b"1", b"2", b"3", b"4"]
    assert payloads(file, position=ends[2][1], sequence=4) == [b"3", b"4"]
    assert payloads(file, position=ends[2][1], sequence=3) == []


def test_each_entry_is_one_sync(disk: MemoryDisk) -> None:
    writer = journal(file_of(disk))
    writer.write(body(b"first"))
    disk.revive(power_cut=random.Random(1))
    assert payloads(disk.open(PATH)) == [b"first"]


@pytest.mark.parametrize("remaining", range(ENTRY_HEADER.size * 3))
def test_wrapping_with_every_remaining_length(disk: MemoryDisk, remaining: int) -> None:
    """The rest of the lap holds a mark, or is too short for one; the entry after it is found either way."""
    file = file_of(disk)
    writer = journal(file)
    _, first = writer.write(body(b"a" * 300))
    writer.write(body(b"b" * (SIZE - remaining - first - OVERHEAD)))
    assert writer.head == SIZE - remaining
    writer.release(first)
    writer.write(body(b"c" * 100))
    assert writer.head == SIZE + OVERHEAD + 100
    assert payloads(file, position=first, sequence=2)[1] == b"c" * 100
    writer.release(SIZE - remaining)
    assert payloads(file, position=SIZE - remaining, sequence=3) == [b"c" * 100]


def test_many_laps(disk: MemoryDisk) -> None:
    file = file_of(disk)
    writer = journal(file)
    kept: list[tuple[int, int, bytes]] = []
    for number in range(500):
        data = b"%d:" % number + b"x" * (number * 37 % 200)
        while not writer.fits(len(body(data))):
            kept.pop(0)
            writer.release(kept[0][1] if kept else writer.head)
        before = writer.head
        sequence, _ = writer.write(body(data))
        kept.append((sequence, before, data))
        assert payloads(file, position=kept[0][1], sequence=kept[0][0]) == [entry for _, _, entry in kept]


def test_an_entry_torn_anywhere_ends_the_journal(disk: MemoryDisk) -> None:
    file = file_of(disk)
    writer = journal(file)
    _, first = writer.write(body(b"kept"))
    _, second = writer.write(body(b"torn"))
    whole = bytes(disk.content(PATH))
    for at in range(first, second):
        disk.content(PATH)[at:second] = bytes(second - at)
        expected = [b"kept"] if bytes(disk.content(PATH)) != whole else [b"kept", b"torn"]
        assert payloads(file) == expected, f"zeros from byte {at}"
        disk.content(PATH)[:] = whole
        disk.content(PATH)[at] ^= 0x01
        assert payloads(file) == [b"kept"], f"byte {at} flipped"
        disk.content(PATH)[:] = whole


def test_a_file_shorter_than_it_should_be_ends_the_journal(disk: MemoryDisk) -> None:
    file = file_of(disk)
    writer = journal(file)
    writer.write(body(b"kept"))
    _, end = writer.write(body(b"cut"))
    for length in reversed(range(end)):
        file.truncate(length)
        assert payloads(file) == ([b"kept"] if length >= OVERHEAD + 4 else [])


def test_entries_of_an_old_lap_are_not_taken_for_new_ones(disk: MemoryDisk) -> None:
    file = file_of(disk)
    writer = journal(file)
    for number in range(9):
        writer.release(writer.head)
        writer.write(body(b"%d" % number + b"x" * 199))  # equal lengths: every old entry is whole where a new one ends
    assert [p[:1] for p in payloads(file, position=writer.head - OVERHEAD - 200, sequence=9)] == [b"8"]


def test_a_payload_cannot_forge_an_entry(disk: MemoryDisk) -> None:
    """An entry of another journal inside a payload, found where the next entry would stand."""
    other = MemoryDisk()
    forger = Journal(file_of(other), size=SIZE, journal_id=ID + 1, sequence=2)
    forger.write(body(b"forged"))
    forged = bytes(other.content(PATH)[: forger.head])
    file = file_of(disk)
    writer = journal(file)
    writer.write(body(b"real"))
    disk.content(PATH)[writer.head : writer.head + len(forged)] = forged
    assert payloads(file) == [b"real"]


def test_a_full_journal_refuses_before_writing(disk: MemoryDisk) -> None:
    file = file_of(disk)
    writer = journal(file)
    _, first = writer.write(body(b"a" * 400))
    writer.write(body(b"b" * 400))
    before = bytes(disk.content(PATH))
    assert not writer.fits(len(body(b"c" * 200)))
    with pytest.raises(JournalFullError):
        writer.write(body(b"c" * 200))
    assert bytes(disk.content(PATH)) == before
    writer.release(first)
    assert writer.fits(len(body(b"c" * 200)))
    writer.write(body(b"c" * 200))
    writer.release(0)  # an old position does not take room back
    assert writer.tail == first


@pytest.fixture
def full() -> Iterator[tuple[Journal, int, threading.Thread, list[Exception]]]:
    """A journal in which an entry of 200 bytes has no room, a thread that waits for it, and what that thread raised."""
    writer = journal(file_of(MemoryDisk()))
    _, first = writer.write(body(b"a" * 400))
    writer.write(body(b"b" * 400))
    raised: list[Exception] = []

    def wait() -> None:
        try:
            writer.wait_for_room(len(body(b"c" * 200)))
        except JournalFullError as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    yield writer, first, thread, raised
    writer.give_up()
    thread.join(5)


def test_waiting_for_room_ends_when_there_is_some(
    full: tuple[Journal, int, threading.Thread, list[Exception]],
) -> None:
    writer, first, thread, raised = full
    writer.release(1)  # not enough
    assert thread.is_alive()
    writer.release(first)
    thread.join(5)
    assert (thread.is_alive(), raised) == (False, [])


def test_waiting_for_room_ends_when_none_will_come(
    full: tuple[Journal, int, threading.Thread, list[Exception]],
) -> None:
    writer, _, thread, raised = full
    writer.give_up()
    thread.join(5)
    assert not thread.is_alive()
    assert len(raised) == 1


def test_what_never_fits_is_not_waited_for(disk: MemoryDisk) -> None:
    writer = journal(file_of(disk))
    writer.wait_for_room(SIZE // 2)
    with pytest.raises(JournalFullError, match="does not fit"):
        writer.wait_for_room(SIZE)


@pytest.mark.parametrize("before", [0, 1, SIZE - 1, SIZE, SIZE + 1, 5_000_000])
def test_preallocating_makes_the_size_and_keeps_what_is_there(disk: MemoryDisk, before: int) -> None:
    if before:
        disk.open(PATH, create=True).write(b"\x07" * before, 0)
    preallocate(disk, PATH, SIZE)
    assert bytes(disk.content(PATH)) == b"\x07" * min(before, SIZE) + bytes(SIZE - min(before, SIZE))
