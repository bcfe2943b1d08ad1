"""What every `Log` and `LogReader` promises, whichever engine keeps it. An engine joins by one entry in `BOXES`.

Only the seam of commitlog/base.py is used, so the suite also holds for an engine on a cluster.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from commitlog.base import AppendedBatch, ClosedWindow, Log, LogReader, NewRecord, Record, TableChange, WriterState
from commitlog.batch_errors import (
    BatchError,
    CorruptMessageError,
    DuplicateSequenceError,
    InvalidProducerEpochError,
    InvalidRecordError,
    MessageTooLargeError,
    OutOfOrderSequenceError,
    UnsupportedCompressionError,
)
from commitlog.partitioner import partition_for_key
from commitlog.reader import FileLogReader
from commitlog.remote import RemoteLog, log_handlers
from core.channel import ChannelClient, ChannelServer
from core.errors import BadRequestError, NotFoundError
from tests.commitlog.batch_support import CODECS, GOLDEN, client_batch, patched
from tests.commitlog.log_support import opened, record
from tests.log_fakes import FakeClock

DEADLINE_S = 10.0


@dataclass
class Box:
    """A log, a reader of it, and the clock that it was given."""

    log: Log
    reader: LogReader
    clock: FakeClock

    async def until_readable(self, topic: str, count: int) -> None:
        """Wait, by the reader's own means, until that many offsets are below the high watermarks."""

        def wait() -> None:
            while sum(mark.high for mark in self.reader.watermarks(topic)) < count:
                assert self.reader.wait(DEADLINE_S), "nothing came"

        await asyncio.to_thread(wait)

    def read(self, topic: str, partition: int, offset: int = 0, max_bytes: int = 1 << 20) -> list[Record]:
        """Everything from an offset to the high watermark."""
        records: list[Record] = []
        high = self.reader.watermarks(topic)[partition].high
        while offset < high:
            part = self.reader.read(topic, partition, offset, max_bytes=max_bytes)
            assert not part.gaps
            assert part.next_offset > offset
            records.extend(part.records)
            offset = part.next_offset
        return records


@asynccontextmanager
async def embedded(data_dir: Path) -> AsyncIterator[Box]:
    clock = FakeClock()
    async with opened(data_dir, clock=clock) as log:
        reader = FileLogReader(data_dir, clock=clock)
        yield Box(log, reader, clock)
        reader.close()


@asynccontextmanager
async def remote(data_dir: Path) -> AsyncIterator[Box]:
    clock = FakeClock()
    with tempfile.TemporaryDirectory(prefix="hr") as short:  # a socket's path has 108 bytes
        socket = Path(short) / "edge.sock"
        async with opened(data_dir, clock=clock) as log:
            server, client = ChannelServer(socket, log_handlers(log)), ChannelClient(socket)
            await server.start()
            reader = FileLogReader(data_dir, clock=clock)
            yield Box(RemoteLog(client), reader, clock)
            reader.close()
            await client.close()
            await server.close()


BOXES: Mapping[str, Callable[[Path], AbstractAsyncContextManager[Box]]] = {"embedded": embedded, "remote": remote}


@pytest.fixture(params=sorted(BOXES))
async def box(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Box]:
    async with asyncio.timeout(30), BOXES[request.param](tmp_path) as made:
        await made.log.create_topic("telemetry", 3)
        yield made


# -- appending


async def test_positions_are_in_the_order_of_the_records_and_count_up(box: Box) -> None:
    keys = ["a", "b", "c", "d", "a", "a"]
    first = await box.log.append([record("telemetry", key, f"1{n}") for n, key in enumerate(keys)])
    second = await box.log.append([record("telemetry", key, f"2{n}") for n, key in enumerate(keys)])
    offsets: dict[int, int] = {}
    for key, position in zip(keys + keys, [*first, *second], strict=True):
        assert (position.topic, position.partition) == ("telemetry", partition_for_key(key.encode(), 3))
        assert position.offset == offsets.get(position.partition, 0)
        offsets[position.partition] = position.offset + 1


async def test_order_of_a_key_is_kept(box: Box) -> None:
    for number in range(20):
        await box.log.append([record("telemetry", "press-17", f"{number}"), record("telemetry", "other", "x")])
    await box.until_readable("telemetry", 40)
    partition = partition_for_key(b"press-17", 3)
    values = [r.value for r in box.read("telemetry", partition) if r.key == b"press-17"]
    assert values == [b"%d" % number for number in range(20)]


RECORDS = [
    pytest.param(NewRecord(topic="telemetry", key=b"k", value=b"v"), id="plain"),
    pytest.param(NewRecord(topic="telemetry", key=None, value=b"v"), id="no-key"),
    pytest.param(NewRecord(topic="telemetry", key=b"", value=b""), id="empty-key-and-value"),
    pytest.param(NewRecord(topic="telemetry", key=bytes(range(256)), value=bytes(range(256)) * 3), id="all-bytes"),
    pytest.param(NewRecord(topic="telemetry", key=b"k", value=bytes(300_000)), id="large-and-compressible"),
    pytest.param(
        NewRecord(
            topic="telemetry",
            key=b"k",
            value=b"v",
            headers=[
                ("mqtt.topic", b"a/b"),
                ("none", None),
                ("empty", b""),
                ("twice", b"1"),
                ("twice", b"2"),
                ("", b""),
            ],
        ),
        id="headers",
    ),
    pytest.param(
        NewRecord(topic="telemetry", key=b"k", value=b"v", headers=[("größe/温度", "ü".encode())]), id="utf-8"
    ),
    pytest.param(NewRecord(topic="telemetry", key=b"k", value=b"v", partition=2), id="chosen-partition"),
]


@pytest.mark.parametrize("new", RECORDS)
async def test_a_record_comes_back_byte_for_byte(box: Box, new: NewRecord) -> None:
    (position,) = await box.log.append([new])
    if new.partition is not None:
        assert position.partition == new.partition
    if new.key is None:
        assert position.partition == 0
    await box.until_readable("telemetry", 1)
    (found,) = box.read("telemetry", position.partition)
    assert (found.offset, found.key, found.value) == (0, new.key, new.value)
    assert list(found.headers) == list(new.headers)
    assert found.timestamp == box.clock.now_ms


async def test_timestamps_never_decrease_when_the_clock_steps_back(box: Box) -> None:
    start_ms = box.clock.now_ms
    for step in (0, 1_000, -60_000, 500, 120_000, -1):
        box.clock.now_ms += step
        await box.log.append([record("telemetry", "a", "v")])
    await box.until_readable("telemetry", 6)
    times = [r.timestamp - start_ms for r in box.read("telemetry", partition_for_key(b"a", 3))]
    assert times == [0, 1_000, 1_000, 1_000, 61_500, 61_500]


@pytest.mark.parametrize(
    ("new", "error"),
    [
        (record("nowhere", "a", "v"), NotFoundError),
        (record("telemetry", "a", "v", partition=3), NotFoundError),
        (record("telemetry", "a", "v", partition=-1), NotFoundError),
        (record("telemetry", "a", bytes(2 << 20)), BadRequestError),
    ],
    ids=["unknown-topic", "partition-too-high", "negative-partition", "too-large"],
)
async def test_a_refused_append_leaves_nothing_behind(box: Box, new: NewRecord, error: type[Exception]) -> None:
    with pytest.raises(error):
        await box.log.append([record("telemetry", "a", "good"), new], [TableChange(table="t", key="k", value=1)])
    assert await box.log.rows("t") == {}
    (position,) = await box.log.append([record("telemetry", "a", "next")])
    assert position.offset == 0


async def test_unknown_topics_are_refused(box: Box) -> None:
    with pytest.raises(NotFoundError):
        await box.log.roll("nowhere", "test")
    for call in (
        lambda: box.reader.watermarks("nowhere"),
        lambda: box.reader.read("nowhere", 0, 0),
        lambda: box.reader.read("telemetry", 3, 0),
        lambda: box.reader.read("telemetry", -1, 0),
        lambda: box.reader.offset_for_time("nowhere", 0, 0),
        lambda: box.reader.windows("nowhere"),
    ):
        with pytest.raises(NotFoundError):
            call()


# -- batches from outside


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
async def test_a_ready_batch_is_appended_whole_and_in_order(box: Box, codec: int) -> None:
    await box.log.append([record("telemetry", "a", "before", partition=1)])
    box.clock.now_ms += 5
    values = [b"%d" % number * 20 for number in range(30)]
    position = await box.log.append_batch("telemetry", 1, client_batch(values, codec=codec))
    assert position == AppendedBatch(topic="telemetry", partition=1, offset=1, timestamp_ms=box.clock.now_ms)
    assert (await box.log.append([record("telemetry", "a", "after", partition=1)]))[0].offset == 31
    await box.until_readable("telemetry", 32)
    found = box.read("telemetry", 1)
    assert [r.offset for r in found] == list(range(32))
    assert [r.value for r in found] == [b"before", *values, b"after"]
    assert [r.timestamp for r in found] == [box.clock.now_ms - 5] + [box.clock.now_ms] * 31, "the time received"
    assert [r.value for r in box.read("telemetry", 1, 17)] == [*values[16:], b"after"]
    assert box.reader.offset_for_time("telemetry", 1, box.clock.now_ms) == 1


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
async def test_a_real_clients_batch_comes_back(box: Box, path: Path) -> None:
    position = await box.log.append_batch("telemetry", 2, path.read_bytes())
    assert position.offset == 0
    await box.until_readable("telemetry", 40)
    found = box.read("telemetry", 2)
    assert [r.value is None for r in found] == [number == 7 for number in range(40)]
    assert [dict(r.headers) for r in found] == [{"n": b"%d" % number, "none": None} for number in range(40)]


async def test_batches_records_and_rolls_at_once_keep_the_order_of_the_calls(box: Box) -> None:
    calls: list[Awaitable[object]] = []
    expected = []
    for number in range(60):
        if number % 3:
            calls.append(box.log.append([record("telemetry", None, b"r%d" % number, partition=0)]))
            expected.append([b"r%d" % number])
        else:
            values = [b"b%d.%d" % (number, n) for n in range(1 + number % 4)]
            calls.append(box.log.append_batch("telemetry", 0, client_batch(values)))
            expected.append(values)
        if number % 20 == 10:
            calls.append(box.log.roll("telemetry", "test"))
    await asyncio.gather(*calls)
    total = sum(map(len, expected))
    await box.until_readable("telemetry", total)
    found = [r.value for r in box.read("telemetry", 0)]
    assert sorted(found, key=str) == sorted((value for values in expected for value in values), key=str)
    batches = [value for values in expected if values[0].startswith(b"b") for value in values]
    assert [value for value in found if value and value.startswith(b"b")] == batches, "batches among themselves"
    records = [values[0] for values in expected if values[0].startswith(b"r")]
    assert [value for value in found if value and value.startswith(b"r")] == records


@pytest.mark.parametrize(
    ("batch", "error"),
    [
        (client_batch([b"v"])[:-1], CorruptMessageError),
        (client_batch([bytes(2 << 20)]), MessageTooLargeError),
        (patched(client_batch([b"v"]), 21, ">h", 0x20), InvalidRecordError),
        (patched(client_batch([b"v"]), 21, ">h", 5), UnsupportedCompressionError),
    ],
    ids=["cut-off", "too-large", "control", "codec"],
)
async def test_a_refused_batch_leaves_nothing_behind(box: Box, batch: bytes, error: type[BatchError]) -> None:
    with pytest.raises(error) as refused:
        await box.log.append_batch("telemetry", 0, batch)
    assert refused.value.kafka_code > 0
    assert refused.value.what
    assert (await box.log.append_batch("telemetry", 0, client_batch([b"good"]))).offset == 0


@pytest.mark.parametrize(("topic", "partition"), [("nowhere", 0), ("telemetry", 3), ("telemetry", -1)])
async def test_a_batch_for_nowhere_is_refused(box: Box, topic: str, partition: int) -> None:
    with pytest.raises(NotFoundError):
        await box.log.append_batch(topic, partition, client_batch([b"v"]))


async def test_a_batch_sent_twice_is_stored_once(box: Box) -> None:
    producer = await box.log.init_producer_id()

    def batch(sequence: int) -> bytes:
        values = [b"%d" % (sequence + n) for n in range(3)]
        return client_batch(values, producer=(producer.producer_id, producer.epoch, sequence))

    first = []
    for number in range(5):
        box.clock.now_ms += 1
        first.append(await box.log.append_batch("telemetry", 0, batch(3 * number)))
    assert len({appended.timestamp_ms for appended in first}) == 5
    box.clock.now_ms += 1
    await box.log.append([record("telemetry", "a", "other", partition=0)])
    again = [await box.log.append_batch("telemetry", 0, batch(3 * n)) for n in range(5)]
    assert again == first, "offset and time of the first"
    at_once = await asyncio.gather(*(box.log.append_batch("telemetry", 0, batch(15)) for _ in range(4)))
    assert {position.offset for position in at_once} == {16}
    await box.until_readable("telemetry", 19)
    found = [r.value for r in box.read("telemetry", 0) if r.value != b"other"]
    assert found == [b"%d" % n for n in range(18)]


async def test_sequences_are_per_producer_and_partition(box: Box) -> None:
    one, two = await box.log.init_producer_id(), await box.log.init_producer_id()
    assert one.producer_id != two.producer_id
    for partition in range(3):
        for producer in (one, two):
            batch = client_batch([b"v"], producer=(producer.producer_id, producer.epoch, 0))
            await box.log.append_batch("telemetry", partition, batch)
    await box.until_readable("telemetry", 6)
    assert [mark.high for mark in box.reader.watermarks("telemetry")] == [2, 2, 2]


async def test_sequences_out_of_order_and_old_epochs_are_refused(box: Box) -> None:
    pid = (await box.log.init_producer_id()).producer_id
    for sequence in range(8):
        await box.log.append_batch("telemetry", 0, client_batch([b"v"], producer=(pid, 1, sequence)))
    for epoch, sequence, error in (
        (1, 9, OutOfOrderSequenceError),
        (1, 0, DuplicateSequenceError),
        (0, 8, InvalidProducerEpochError),
        (2, 8, OutOfOrderSequenceError),
    ):
        with pytest.raises(error):
            await box.log.append_batch("telemetry", 0, client_batch([b"v"], producer=(pid, epoch, sequence)))
    assert (await box.log.append_batch("telemetry", 0, client_batch([b"v"], producer=(pid, 2, 0)))).offset == 8


async def test_batches_of_a_producer_under_way_at_once_are_judged_in_order(box: Box) -> None:
    pid = (await box.log.init_producer_id()).producer_id
    sizes = [1, 4000, 1, 700, 2, 3000] * 4
    batches, sequence = [], 0
    for number, size in enumerate(sizes):  # large and small: the small ones are inspected sooner
        values = [b"%d:%d" % (number, n) for n in range(size)]
        batches.append(client_batch(values, codec=number % 5, producer=(pid, 0, sequence)))
        sequence += size
    positions = await asyncio.gather(*(box.log.append_batch("telemetry", 0, batch) for batch in batches))
    assert [position.offset for position in positions] == [sum(sizes[:number]) for number in range(len(sizes))]


# -- topics


async def test_making_a_topic_twice_returns_the_first(box: Box) -> None:
    made = await box.log.create_topic("events", 2)
    assert (made.name, made.partitions, len(bytes.fromhex(made.topic_id))) == ("events", 2, 16)
    assert await box.log.create_topic("events", 5) == made
    assert await box.log.create_topic("events") == made
    assert box.reader.topics()["events"] == made
    assert [(mark.start, mark.high) for mark in box.reader.watermarks("events")] == [(0, 0), (0, 0)]


async def test_topics_made_at_once_are_made_once(box: Box) -> None:
    names = ["one", "two", "one", "two", "one"]
    made = await asyncio.gather(*(box.log.create_topic(name, 1) for name in names))
    assert len({info.topic_id for info in made}) == 2
    assert [info.name for info in made] == names


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "ü", "x" * 250, "a\n"])
async def test_illegal_topic_names_are_refused(box: Box, name: str) -> None:
    with pytest.raises(BadRequestError):
        await box.log.create_topic(name, 1)


@pytest.mark.parametrize("name", ["x" * 249, "a-1", "A.b_c-0", "..."])
async def test_legal_topic_names_are_taken(box: Box, name: str) -> None:
    await box.log.create_topic(name, 1)
    await box.log.append([record(name, "k", "v")])
    await box.until_readable(name, 1)
    assert [r.value for r in box.read(name, 0)] == [b"v"]


# -- state tables


async def test_rows_are_set_replaced_and_removed(box: Box) -> None:
    value = {"text": "ü", "number": -5, "list": [1, 2.5, None, True], "bytes": b"\x00\xff", "map": {"a": {}}}
    await box.log.append([], [TableChange(table="t", key="a", value=value), TableChange(table="t", key="b", value=1)])
    assert await box.log.rows("t") == {"a": value, "b": 1}
    await box.log.append([], [TableChange(table="t", key="a", value=None), TableChange(table="t", key="b", value=2)])
    await box.log.append([], [TableChange(table="u", key="b", value=3), TableChange(table="t", key="gone", value=None)])
    assert await box.log.rows("t") == {"b": 2}
    assert await box.log.rows("u") == {"b": 3}
    assert await box.log.rows("nobody wrote this") == {}


async def test_the_last_of_several_changes_to_a_row_counts(box: Box) -> None:
    await box.log.append([], [TableChange(table="t", key="a", value=n) for n in range(5)])
    assert await box.log.rows("t") == {"a": 4}


async def test_rows_come_with_their_records(box: Box) -> None:
    async def append(number: int) -> None:
        await box.log.append(
            [record("telemetry", "a", f"{number}")], [TableChange(table="t", key="last", value=number)]
        )
        assert (await box.log.rows("t"))["last"] >= number

    await asyncio.gather(*(append(number) for number in range(30)))


# -- reading


async def test_reading_from_every_offset(box: Box) -> None:
    for number in range(30):
        await box.log.append([record("telemetry", "a", f"{number}", partition=1)])
    await box.until_readable("telemetry", 30)
    for offset in range(30):
        part = box.reader.read("telemetry", 1, offset)
        assert part.records[0].offset == offset
        assert part.next_offset == part.records[-1].offset + 1
    at_end = box.reader.read("telemetry", 1, 30)
    assert (list(at_end.records), at_end.next_offset, list(at_end.gaps)) == ([], 30, [])


async def test_slices_are_bounded_and_leave_nothing_out(box: Box) -> None:
    for number in range(60):
        await box.log.append([record("telemetry", None, b"%d" % number + bytes(3_000))])
        if number % 20 == 0:
            await box.log.roll("telemetry", "several segments")
    await box.until_readable("telemetry", 60)
    for max_bytes in (1, 500, 100_000):
        records = box.read("telemetry", 0, max_bytes=max_bytes)
        assert [r.offset for r in records] == list(range(60))
    assert len(box.reader.read("telemetry", 0, 0, max_bytes=1).records) < 60


async def test_an_offset_by_time_is_the_first_not_before_it(box: Box) -> None:
    start_ms = box.clock.now_ms
    steps = [0, 0, 10, 0, 50, 1000, 0, 1, 5000, 0] * 4
    times = []
    for number, step in enumerate(steps):
        box.clock.now_ms += step
        times.append(box.clock.now_ms)
        await box.log.append([record("telemetry", None, b"%d" % number + bytes(number % 3 * 4_000))])
        if number % 11 == 10:
            await box.log.roll("telemetry", "several segments")
    await box.until_readable("telemetry", len(steps))
    for wanted in sorted({start_ms - 1, 0, times[-1] + 1, *times, *(time + 1 for time in times)}):
        expected = next((offset for offset, time in enumerate(times) if time >= wanted), len(times))
        assert box.reader.offset_for_time("telemetry", 0, wanted) == expected
    assert box.reader.offset_for_time("telemetry", 1, start_ms) == 0


async def test_a_reader_waits_for_what_comes(box: Box) -> None:
    while box.reader.wait(0):
        pass
    waiting = asyncio.create_task(box.until_readable("telemetry", 1))
    await box.log.append([record("telemetry", "a", "v")])
    await waiting
    assert box.reader.writer_state() is WriterState.LIVE


# -- windows


async def test_rolling_an_empty_topic_closes_nothing(box: Box) -> None:
    assert await box.log.roll("telemetry", "test") is None
    await box.log.append([record("telemetry", "a", "v")])
    assert await box.log.roll("telemetry", "test") is not None
    assert await box.log.roll("telemetry", "test") is None
    assert len(box.reader.windows("telemetry")) == 1


async def test_a_window_is_readable_with_all_its_records_when_roll_returns(box: Box) -> None:
    await box.log.append([record("telemetry", None, f"{n}", partition=n % 3) for n in range(7)])
    window = await box.log.roll("telemetry", "size")
    assert window is not None
    assert (window.topic, window.number, window.reason, window.span) == ("telemetry", 0, "size", 7)
    assert window.topic_id == box.reader.topics()["telemetry"].topic_id
    assert window.offsets == {0: (0, 3), 1: (0, 2), 2: (0, 2)}
    assert list(box.reader.windows("telemetry")) == [window]
    assert [mark.high for mark in box.reader.watermarks("telemetry")] == [3, 2, 2]
    assert [len(box.read("telemetry", partition)) for partition in range(3)] == [3, 2, 2]


async def test_windows_under_load_leave_nothing_out_and_overlap_nowhere(box: Box) -> None:
    async def produce(key: str) -> None:
        for number in range(25):
            await box.log.append([record("telemetry", key, f"{number}")])

    async def roll() -> list[ClosedWindow]:
        windows = [await box.log.roll("telemetry", "test") for _ in range(8)]
        return [window for window in windows if window is not None]

    rolling = asyncio.gather(roll(), roll())
    await asyncio.gather(*(produce(key) for key in "abcdef"))
    first, second = await rolling
    last = await box.log.roll("telemetry", "last")
    rolled = sorted([*first, *second, *([last] if last else [])], key=lambda window: window.number)
    assert list(box.reader.windows("telemetry")) == rolled
    check_windows(rolled, [mark.high for mark in box.reader.watermarks("telemetry")])
    assert sum(window.span for window in rolled) == 150
    assert list(box.reader.windows("telemetry", after=rolled[0].number)) == rolled[1:]


def check_windows(windows: Sequence[ClosedWindow], highs: Sequence[int]) -> None:
    reached = [0] * len(highs)
    end_ms = windows[0].start_ms
    for number, window in enumerate(windows):
        assert window.number == number
        assert [first for _, (first, _) in sorted(window.offsets.items())] == reached
        reached = [following for _, (_, following) in sorted(window.offsets.items())]
        assert window.span > 0
        assert window.start_ms == end_ms
        assert window.end_ms >= window.start_ms
        end_ms = window.end_ms
    assert reached == list(highs)


async def test_everything_at_once(box: Box) -> None:
    async def one(number: int) -> None:
        await box.log.create_topic(f"t{number % 3}", 1)
        await box.log.append([record(f"t{number % 3}", "k", f"{number}"), record("telemetry", "k", f"{number}")])
        if number % 5 == 0:
            await box.log.roll(f"t{number % 3}", "test")

    await asyncio.gather(*(one(number) for number in range(30)))
    await box.until_readable("telemetry", 30)
    found: list[int] = []
    for topic in ("t0", "t1", "t2"):
        await box.until_readable(topic, 10)
        found.extend(int(r.value or b"") for r in box.read(topic, 0))
    assert sorted(found) == list(range(30))


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("", "k"),
        ("../../x", "k"),
        ("A B", "k"),
        ("windows", "k"),
        ("producers", "k"),
        ("t" * 65, "k"),
        (7, "k"),
        ("t", 7),
        ("t", "k" * 2000),
    ],
)
async def test_a_row_of_no_table_is_refused_and_nothing_is_appended_with_it(box: Box, table: Any, key: Any) -> None:
    await box.log.create_topic("telemetry")
    with pytest.raises(BadRequestError):
        await box.log.append([record("telemetry", "a", "v")], [TableChange(table=table, key=key, value=1)])
    (position,) = await box.log.append([record("telemetry", "a", "w")])
    assert position.offset == 0
