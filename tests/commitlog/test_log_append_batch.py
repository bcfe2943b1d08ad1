"""Batches from outside in the embedded log: order, sequences across every death, congestion, failure."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from commitlog.base import AppendedBatch
from commitlog.batch import split_batches
from commitlog.batch_errors import BatchError
from commitlog.embedded import EmbeddedLog
from commitlog.intake import MAX_UNDER_WAY
from commitlog.partition import Partition, TakenBatch
from commitlog.producers import PRODUCERS_TABLE
from commitlog.reader import FileLogReader
from commitlog.storage import LOG_DIR
from core.errors import BadRequestError, UnavailableError
from tests.commitlog.batch_support import CODECS, client_batch
from tests.commitlog.commitlog_disk import DiskStoppedError, MemoryDisk
from tests.commitlog.log_support import Failures, log_settings, open_log, opened, read_all, read_partition, record
from tests.conftest import wait_until_async
from tests.log_fakes import FakeClock

pytestmark = pytest.mark.timeout(60)


async def kill(log: EmbeddedLog, disk: MemoryDisk, *, power_cut: random.Random | None = None) -> None:
    """Nothing more reaches the disk."""
    disk.stop_at = 0
    await log.close()
    disk.revive(power_cut=power_cut)


# -- the open end of a partition


class Room:
    """An open commit with quotas of a few records."""

    quota_bytes = 100

    def __init__(self) -> None:
        self.partitions: set[Partition] = set()

    def share(self, partitions: int) -> None:
        pass

    def opens(self, partition: Partition, size_bytes: int) -> None:
        self.partitions.add(partition)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_taken_holds_everything_once_and_in_order(seed: int) -> None:
    rng = random.Random(seed)
    opened_now = Room()
    partition = Partition("telemetry", bytes(16), 0, 5, opened_now)
    expected: list[tuple[int, bytes]] = []
    journal: list[tuple[int, bytes]] = []
    segments: list[tuple[int, bytes]] = []

    def read(into: list[tuple[int, bytes]], taken: list[TakenBatch]) -> None:
        for one in taken:
            (batch,) = split_batches(bytes(one.build(3)))
            assert (batch.header.base_offset, batch.header.record_count) == (one.base_offset, one.count)
            assert batch.header.leader_epoch == 3
            into.extend((r.offset, r.value or b"") for r in batch.records())

    for number in range(200):
        offset = 5 + len(expected)
        values = [b"%d.%d" % (number, n) for n in range(rng.choice((1, 1, 3)))]
        if rng.random() < 0.3:
            assert partition.append_ready(client_batch(values), len(values)) == offset
        else:
            values = values[:1]
            assert partition.append(1_000, b"k", values[0], []) == offset
        expected.extend((offset + n, value) for n, value in enumerate(values))
        assert partition in opened_now.partitions
        if rng.random() < 0.2:
            for one in opened_now.partitions:
                read(journal, one.take_journal_batches())
            opened_now.partitions.clear()
            if rng.random() < 0.5:
                assert partition.segment_batch_bytes > 0
                read(segments, partition.take_segment_batches())
    read(journal, partition.take_journal_batches())
    read(segments, partition.take_segment_batches())
    assert journal == expected
    assert segments == expected
    assert (partition.take_journal_batches(), partition.take_segment_batches()) == ([], [])


async def test_records_and_batches_of_one_turn_stand_in_the_order_of_the_calls(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await log.create_topic("telemetry", 1)
        (partition,) = log.partitions("telemetry")
        for number in range(10):
            partition.append(log.now_ms(), None, b"before %d" % number, [])
            log.appended(1, 10)
            await log.append_batch("telemetry", 0, client_batch([b"batch %d" % number, b"end %d" % number]))
    (found,) = read_all(tmp_path).values()
    expected = [b"%s %d" % (name, n) for n in range(10) for name in (b"before", b"batch", b"end")]
    assert found == list(enumerate(expected))


async def test_a_batch_stands_in_the_segment_as_it_came(tmp_path: Path) -> None:
    """Also when only the journal held it at the kill; producer, first timestamp and compressed records are the same."""
    disk, clock = MemoryDisk(), FakeClock()
    log = await open_log(tmp_path, storage=disk, clock=clock, settings=log_settings(flush_interval="1h"))
    await log.create_topic("telemetry", 1)
    batches = {n: client_batch([b"v%d" % n] * 30, codec=codec, producer=(9, 1, 30 * n)) for n, codec in codecs()}
    for batch in batches.values():
        await log.append_batch("telemetry", 0, batch)
    assert read_all(tmp_path, disk) == {}, "in the journal only"
    await kill(log, disk)
    await (await open_log(tmp_path, storage=disk, clock=clock)).close()
    file = disk.open_read(tmp_path / LOG_DIR / "telemetry-0" / f"{0:020}.log")
    stored = list(split_batches(file.read(1 << 20, 0)))
    assert [one.header.base_offset for one in stored] == [30 * n for n in batches]
    for one, batch in zip(stored, batches.values(), strict=True):
        assert (one.data[27:35], one.data[43:]) == (batch[27:35], batch[43:])
        assert one.header.max_timestamp_ms == clock.now_ms
        assert {r.timestamp for r in one.records()} == {clock.now_ms}


def codecs() -> list[tuple[int, int]]:
    return list(enumerate(CODECS.values()))


async def test_a_slice_is_bounded_by_what_it_unfolds_to(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await log.create_topic("telemetry", 1)
        for _ in range(12):
            await log.append_batch("telemetry", 0, client_batch([bytes(10 << 20)], codec=CODECS["zstd"]))
    with closing(FileLogReader(tmp_path)) as reader:
        part = reader.read("telemetry", 0, 0, max_bytes=1 << 20)
        assert 1 <= len(part.records) <= 3
        assert len(read_partition(reader, "telemetry", 0)) == 12


# -- sequences across every death


@dataclass
class Client:
    """An idempotent producer of one partition: up to five batches under way, sent again until they are acknowledged."""

    partition: int
    producer_id: int
    sequence: int = 0
    unacked: list[tuple[int, bytes]] = field(default_factory=list)
    positions: dict[int, int] = field(default_factory=dict)

    def new_batch(self, rng: random.Random) -> None:
        count = rng.choice((1, 1, 2, 40))
        values = [b"p%d:%d" % (self.producer_id, self.sequence + n) for n in range(count)]
        producer = (self.producer_id, 0, self.sequence)
        batch = client_batch(values, codec=rng.choice(list(CODECS.values())), producer=producer)
        self.unacked.append((self.sequence, batch))
        self.sequence += count

    async def send(self, log: EmbeddedLog, rng: random.Random) -> bool:
        while len(self.unacked) < 5:
            self.new_batch(rng)
        calls = [log.append_batch("telemetry", self.partition, batch) for _, batch in self.unacked]
        results = await asyncio.gather(*calls, return_exceptions=True)
        heard = [(first, result) for (first, _), result in zip(self.unacked, results, strict=True)]
        for first, result in heard:
            if isinstance(result, AppendedBatch) and rng.random() < 0.9:  # some answers are lost on the way
                assert self.positions.setdefault(first, result.offset) == result.offset
        while self.unacked and self.unacked[0][0] in self.positions:
            self.unacked.pop(0)
        failed = [result for _, result in heard if isinstance(result, BaseException)]
        assert all(isinstance(error, UnavailableError) for error in failed), failed
        return not failed


async def work(log: EmbeddedLog, clients: list[Client], acked: list[bytes], rng: random.Random) -> None:
    await log.create_topic("telemetry", 2)

    async def other(value: bytes) -> None:
        await log.append([record("telemetry", None, value, partition=rng.randrange(2))])
        acked.append(value)

    for _ in range(rng.randint(1, 6)):
        others = [other(b"o%d" % rng.getrandbits(60)) for _ in range(3)]
        sends = [client.send(log, rng) for client in clients]
        results = await asyncio.gather(*sends, *others, log.roll("telemetry", "test"), return_exceptions=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        assert all(isinstance(error, UnavailableError) for error in errors), errors
        if errors or False in results:
            return


@pytest.mark.parametrize("death", ["kill", "power-cut"])
@pytest.mark.parametrize("seed", range(10))
async def test_every_batch_is_stored_once_and_in_order_whatever_dies(tmp_path: Path, seed: int, death: str) -> None:
    rng = random.Random(f"{seed}-{death}")
    disk, clock = MemoryDisk(), FakeClock()
    clients = [Client(partition=n % 2, producer_id=100 + n) for n in range(4)]
    acked: list[bytes] = []
    for life in range(9):
        disk.stop_at = disk.calls + int(2 ** rng.uniform(3, 10)) if life and rng.random() < 0.8 else None
        with contextlib.suppress(DiskStoppedError):
            log = await open_log(tmp_path, clock=clock, storage=disk)
            with contextlib.suppress(UnavailableError):
                await work(log, clients, acked, rng)
            await log.close()
        disk.revive(power_cut=rng if death == "power-cut" else None)
        clock.now_ms += rng.choice((0, 5, -700))
    async with opened(tmp_path, clock=clock, storage=disk) as log:
        await log.create_topic("telemetry", 2)
        for client in clients:
            for _, batch in client.unacked:
                await log.append_batch("telemetry", client.partition, batch)
        assert len(await log.rows(PRODUCERS_TABLE)) == len(clients)
    found = read_all(tmp_path, disk)
    for client in clients:
        mine = [
            pair for pair in found["telemetry", client.partition] if pair[1].startswith(b"p%d:" % client.producer_id)
        ]
        values = [value for _, value in mine]
        assert values == [b"p%d:%d" % (client.producer_id, n) for n in range(client.sequence)]
        offsets = dict(zip(range(client.sequence), (offset for offset, _ in mine), strict=True))
        assert all(offsets[first] == offset for first, offset in client.positions.items())
    everything = {value for pairs in found.values() for _, value in pairs}
    assert everything.issuperset(acked)
    assert any(client.positions for client in clients)


# -- waiting, failing, ending


class HeldDisk(MemoryDisk):
    """Holds the journal's next sync until `go`, and lets it fail if asked to."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.go = threading.Event()
        self.held = threading.Event()
        self._fails = fails

    def hold(self) -> None:
        self.before = self._wait

    def _wait(self, called: str, path: Path) -> None:
        if called == "sync" and path.name == "journal":
            self.held.set()
            assert self.go.wait(10)
            if self._fails:
                raise DiskStoppedError


async def test_a_duplicate_is_answered_only_once_the_first_one_is_on_disk(tmp_path: Path) -> None:
    disk = HeldDisk()
    async with opened(tmp_path, storage=disk) as log:
        await log.create_topic("telemetry", 1)
        disk.hold()
        batch = client_batch([b"v"], producer=(7, 0, 0))
        calls = [asyncio.create_task(log.append_batch("telemetry", 0, batch))]
        await wait_until_async(disk.held.is_set)
        calls += [asyncio.create_task(log.append_batch("telemetry", 0, batch)) for _ in range(3)]
        flag = asyncio.create_task(log.append_batch("telemetry", 0, client_batch([b"w"])))
        await wait_until_async(
            lambda: log.partitions("telemetry")[0].next_offset == 2
        )  # handed in last, so all were judged
        assert not any(call.done() for call in calls)
        disk.go.set()
        assert {(await call).offset for call in calls} == {0}
        assert (await flag).offset == 1


async def test_the_log_failing_under_them_fails_all_who_wait(tmp_path: Path) -> None:
    disk, failures = HeldDisk(fails=True), Failures()
    log = await open_log(tmp_path, storage=disk, on_failure=failures)
    await log.create_topic("telemetry", 1)
    disk.hold()
    batch = client_batch([b"v"], producer=(7, 0, 0))
    first = asyncio.create_task(log.append_batch("telemetry", 0, batch))
    await wait_until_async(disk.held.is_set)
    again = [asyncio.create_task(log.append_batch("telemetry", 0, batch)) for _ in range(3 * MAX_UNDER_WAY)]
    disk.go.set()
    results = await asyncio.gather(first, *again, return_exceptions=True)
    assert all(isinstance(result, UnavailableError) for result in results)
    assert len(failures) == 1
    with pytest.raises(UnavailableError):
        await log.append_batch("telemetry", 0, batch)
    with pytest.raises(UnavailableError):
        await log.init_producer_id()
    await log.close()


async def test_batches_wait_in_line_while_the_log_is_congested(tmp_path: Path) -> None:
    disk = HeldDisk()
    async with opened(tmp_path, storage=disk) as log:
        await log.create_topic("telemetry", 1)
        (partition,) = log.partitions("telemetry")
        disk.hold()
        await_first = asyncio.create_task(log.append([record("telemetry", None, "first")]))
        await wait_until_async(disk.held.is_set)
        partition.append(log.now_ms(), None, bytes(10), [])
        log.appended(1, 1 << 20)
        assert log.congested
        count = 3 * MAX_UNDER_WAY
        calls = [
            asyncio.create_task(log.append_batch("telemetry", 0, client_batch([b"%d" % n], producer=(7, 0, n))))
            for n in range(count)
        ]
        await wait_until_async(lambda: len(log._engine.intake._inspected) == MAX_UNDER_WAY)
        assert partition.next_offset == 2, "nothing was appended"
        disk.go.set()
        assert [(await call).offset for call in calls] == list(range(2, 2 + count))
        await await_first


async def test_a_batch_whose_sender_has_gone_is_not_appended(tmp_path: Path) -> None:
    disk = HeldDisk()
    async with opened(tmp_path, storage=disk) as log:
        await log.create_topic("telemetry", 1)
        (partition,) = log.partitions("telemetry")
        disk.hold()
        first = asyncio.create_task(log.append([record("telemetry", None, "first")]))
        await wait_until_async(disk.held.is_set)
        log.appended(0, 1 << 20)
        gone, stays = (asyncio.create_task(log.append_batch("telemetry", 0, client_batch([v]))) for v in (b"g", b"s"))
        await wait_until_async(lambda: len(log._engine.intake._inspected) == 2)
        gone.cancel()
        disk.go.set()
        assert (await stays).offset == 1
        await first
        assert gone.cancelled()
        assert partition.next_offset == 2


async def test_closing_refuses_what_is_not_appended_yet(tmp_path: Path) -> None:
    log = await open_log(tmp_path)
    await log.create_topic("telemetry", 1)
    calls = [
        asyncio.create_task(log.append_batch("telemetry", 0, client_batch([b"%d" % n])))
        for n in range(2 * MAX_UNDER_WAY)
    ]
    await asyncio.sleep(0)
    await log.close()
    results = await asyncio.gather(*calls, return_exceptions=True)
    stored = [result.offset for result in results if isinstance(result, AppendedBatch)]
    assert all(isinstance(result, (AppendedBatch, UnavailableError)) for result in results)
    assert len(read_all(tmp_path).get(("telemetry", 0), [])) == len(stored)
    with pytest.raises(UnavailableError):
        await log.append_batch("telemetry", 0, client_batch([b"late"]))


async def test_what_became_of_batches_is_counted(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await log.create_topic("telemetry", 1)
        good = client_batch([b"v"], producer=(7, 0, 0))
        for batch in (good, good, client_batch([b"w"]), good[:-1], client_batch([bytes(2 << 20)])):
            with contextlib.suppress(BatchError):
                await log.append_batch("telemetry", 0, batch)
        counts = {"appended": 2, "duplicate": 1, "batch.corrupt-message": 1, "batch.message-too-large": 1}
        assert {outcome: count for outcome, count in log.stats.batches.items() if count} == counts


async def test_what_is_not_bytes_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await log.create_topic("telemetry", 1)
        with pytest.raises(BadRequestError, match="bytes"):
            await log.append_batch("telemetry", 0, "text")  # type: ignore[arg-type]
