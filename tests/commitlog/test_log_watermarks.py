"""The watermark map: consistent under a writer, followed through its restarts, stale when it is gone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from commitlog.base import TopicInfo, Watermark
from commitlog.watermarks import MAP_NAME, STALE_AFTER_MS, WatermarkMap, WatermarkWriter
from core.errors import UnavailableError

ONE = TopicInfo(name="telemetry", topic_id="01" * 16, partitions=3)
TWO = TopicInfo(name="x" * 249, topic_id="02" * 16, partitions=1)


def writer_in(path: Path, capacity: int = 8, boot: int = 1) -> WatermarkWriter:
    return WatermarkWriter(path, boot_id=bytes([boot]) * 16, capacity=capacity)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[WatermarkMap]:
    with closing(WatermarkMap(tmp_path)) as made:
        yield made


def mark(high: int, start: int = 0) -> Watermark:
    return Watermark(start=start, high=high)


def test_what_is_published_is_read(tmp_path: Path, reader: WatermarkMap) -> None:
    writer = writer_in(tmp_path)
    writer.publish([(ONE, 2, mark(5)), (ONE, 0, mark(2**62, start=7)), (ONE, 1, mark(0)), (TWO, 0, mark(1))])
    snapshot = reader.read()
    assert snapshot.topics == {ONE.name: ONE, TWO.name: TWO}
    assert snapshot.watermarks == {ONE.name: (mark(2**62, start=7), mark(0), mark(5)), TWO.name: (mark(1),)}
    writer.publish([(ONE, 1, mark(3, start=1))])
    assert reader.read().watermarks[ONE.name][1] == mark(3, start=1)
    writer.close()


def test_before_the_first_start_there_is_nothing(tmp_path: Path, reader: WatermarkMap) -> None:
    assert reader.changes() == (0, 0, 0)
    assert not reader.is_live(0)
    with pytest.raises(UnavailableError, match="not been started"):
        reader.read()


def test_every_publish_changes_what_readers_compare(tmp_path: Path, reader: WatermarkMap) -> None:
    seen = [reader.changes()]
    first = writer_in(tmp_path)
    first.publish([])
    seen.append(reader.changes())
    first.publish([(ONE, 0, mark(1))])
    seen.append(reader.changes())
    first.publish([], checkpoint=True)
    seen.append(reader.changes())
    second = writer_in(tmp_path, boot=2)
    second.publish([])
    seen.append(reader.changes())
    assert len(set(seen)) == len(seen)
    assert reader.changes() == seen[-1]
    first.close()
    second.close()


def test_a_restarting_writer_is_never_seen_without_its_topics(tmp_path: Path, reader: WatermarkMap) -> None:
    before = writer_in(tmp_path)
    before.publish([(ONE, 0, mark(5))])
    assert ONE.name in reader.read().topics
    after = writer_in(tmp_path, boot=2)
    assert reader.read().watermarks[ONE.name][0] == mark(5), "the new map has nothing in it yet"
    after.publish([(ONE, 0, mark(6))])
    assert reader.read().watermarks[ONE.name][0] == mark(6)
    before.close()
    after.close()


def test_life_is_a_fresh_heartbeat(tmp_path: Path, reader: WatermarkMap) -> None:
    writer = writer_in(tmp_path)
    writer.publish([])
    assert not reader.is_live(10_000)
    writer.beat(10_000)
    assert reader.is_live(10_000)
    assert reader.is_live(10_000 + STALE_AFTER_MS)
    assert not reader.is_live(10_001 + STALE_AFTER_MS)
    assert not reader.is_live(9_999), "a heartbeat of the machine's last boot"
    writer.close()
    assert not reader.is_live(10_000)
    assert reader.read().topics == {}, "what a writer left can still be read"


def test_a_reader_follows_a_replaced_map(tmp_path: Path, reader: WatermarkMap) -> None:
    first = writer_in(tmp_path)
    first.publish([])
    first.beat(1_000)
    assert reader.is_live(1_000)
    second = writer_in(tmp_path, boot=2)
    second.publish([(ONE, 0, mark(1))])
    second.beat(50_000)
    assert reader.is_live(50_000)
    assert reader.read().watermarks[ONE.name] == (mark(1),)
    first.close()
    second.close()


def test_a_full_map_refuses(tmp_path: Path) -> None:
    writer = writer_in(tmp_path, capacity=2)
    writer.publish([(ONE, 0, mark(0)), (ONE, 1, mark(0))])
    with pytest.raises(UnavailableError, match="full"):
        writer.publish([(ONE, 2, mark(0))])
    writer.close()


def test_a_map_of_another_version_is_refused(tmp_path: Path, reader: WatermarkMap) -> None:
    (tmp_path / MAP_NAME).write_bytes(b"HRMARK99" + bytes(56))
    with pytest.raises(UnavailableError, match="another version: its format is 99, this program reads 2") as refused:
        reader.read()
    assert refused.value.mend


@pytest.mark.parametrize(
    "content", [b"", b"HRMARK", b"HRMARK02", b"HRMARK02" + bytes(63), bytes(500), b"HRMARK\xff\xff"]
)
def test_what_is_no_map_is_damaged(tmp_path: Path, reader: WatermarkMap, content: bytes) -> None:
    (tmp_path / MAP_NAME).write_bytes(content)
    with pytest.raises(UnavailableError, match="is damaged"):
        reader.read()


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("at", [*range(16, 32), *range(40, 68), 72, 80, 100, 359])
def test_a_flipped_bit_anywhere_but_in_the_heartbeat_is_told(tmp_path: Path, reader: WatermarkMap, at: int) -> None:
    writer = writer_in(tmp_path, capacity=1)
    writer.publish([(ONE, 0, mark(5))])
    flip(tmp_path / MAP_NAME, at)
    with pytest.raises(UnavailableError, match="fails its CRC"):
        reader.read()
    writer.close()


def test_stores_that_are_seen_in_another_order_are_read_again(
    tmp_path: Path, reader: WatermarkMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weakly ordered machine: the lock's even value, or the new CRC, is seen before some of the slots."""
    writer = writer_in(tmp_path)
    writer.publish([(ONE, partition, mark(1)) for partition in range(3)])
    path = tmp_path / MAP_NAME
    used = 72 + 3 * 288
    old = path.read_bytes()[:used]
    writer.publish([(ONE, partition, mark(2)) for partition in range(3)])
    new = path.read_bytes()[:used]
    crc = slice(64, 68)
    seen = [
        new[:72] + old[72:],  # the header before the slots
        new[: 72 + 288] + old[72 + 288 :],  # a part of the slots
        old[:72] + new[72:],  # the slots before the header
        old[:64] + new[crc] + old[68:],
        new[:8] + old[8:16] + new[16:],  # everything but the lock
    ]
    torn = list(seen)
    monkeypatch.setattr(reader, "_used", lambda: torn.pop(0) if torn else new)
    assert {one.high for one in reader.read().watermarks[ONE.name]} == {2}
    assert torn == [], "none of them was taken for a publish"
    writer.close()


def test_a_reader_never_sees_half_a_publish(tmp_path: Path, reader: WatermarkMap) -> None:
    """All partitions are always published with one and the same number: a mix of two would be a torn read."""
    writer = writer_in(tmp_path)

    def publish(number: int) -> None:
        writer.publish([(ONE, partition, mark(number, start=number)) for partition in range(3)])

    publish(0)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            publish(number)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        last = 0
        for _ in range(400):
            marks = reader.read().watermarks[ONE.name]
            assert len({*(one.high for one in marks), *(one.start for one in marks)}) == 1
            assert marks[0].high >= last
            last = marks[0].high
    finally:
        stop.set()
        thread.join()
        writer.close()
    assert last > 0, "the writer never ran beside the reader"


def test_a_writer_that_died_holding_the_lock_blocks_nobody(tmp_path: Path, reader: WatermarkMap) -> None:
    writer = writer_in(tmp_path)
    writer.publish([(ONE, 0, mark(4))])
    writer._lock()
    assert reader.read().watermarks[ONE.name] == (mark(4),)
    writer.close()
