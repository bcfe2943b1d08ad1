"""What a simulated log is used for: listeners, producers, rolls, rows, deletions, all at once, as the seed has it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Protocol

from commitlog.base import AppendedBatch, NewRecord, TableChange
from commitlog.batch_errors import OutOfOrderSequenceError
from commitlog.compression import CODEC_NONE, CODEC_ZSTD
from commitlog.durability import Durability
from commitlog.embedded import EmbeddedLog
from commitlog.foreign import SEQUENCES
from commitlog.reader import FileLogReader
from core.errors import UnavailableError
from tests.commitlog.sim.sim_batches import Answer, Producer, SentBatch
from tests.commitlog.sim.sim_model import SPINE, Append, Model, partitions_of, watch
from tests.commitlog.sim.sim_promises import hold
from tests.commitlog.sim.sim_world import TOPICS, Levels, SimClock

MAX_PRODUCERS = 4
UNDER_WAY = 5  # batches of a producer, as clients have it
PATIENCE_S = 120.0  # far beyond the longest time that a disk stays full


class Wish:
    """A `Waiter` for what is appended the way listeners do it."""

    def __init__(self, done: asyncio.Future[bool], model: Model) -> None:
        self._done = done
        self._model = model

    def committed(self, token: Append) -> None:
        self._model.acknowledge(token)
        self._tell(True)

    def failed(self, _token: Append) -> None:
        self._tell(False)

    def _tell(self, outcome: bool) -> None:
        if not self._done.done():
            self._done.set_result(outcome)


class Tally(Protocol):
    """Where is counted what a seed went through."""

    refused: int
    resent: int
    deletions: int


class Client:
    """Does one thing after another with a log that runs, until it has had enough or the log has failed."""

    def __init__(
        self, log: EmbeddedLog, reader: FileLogReader, model: Model, levels: Levels, rng: random.Random, tally: Tally
    ) -> None:
        self._log = log
        self._reader = reader
        self._model = model
        self._levels = levels
        self._rng = rng
        self._tally = tally
        self._loop = asyncio.get_running_loop()
        self._things: tuple[tuple[float, Callable[[], Awaitable[None]]], ...] = (
            (0.38, self._append),
            (0.22, self._listen),
            (0.14, self._produce),
            (0.08, self._roll),
            (0.06, self._set_row),
            (0.06, self._delete),
            (0.03, self._create),
            (0.03, self._log.drain),
        )

    async def run(self, clock: SimClock) -> None:
        """Up to a dozen things."""
        rng = self._rng
        things = [thing for _, thing in self._things]
        weights = [weight for weight, _ in self._things]
        with contextlib.suppress(UnavailableError):
            for _ in range(rng.randint(1, 12)):
                await rng.choices(things, weights)[0]()
                if rng.random() < 0.4:
                    await asyncio.sleep(rng.choice((0.0, 0.002, 0.02, 0.3)))
                if rng.random() < 0.05:
                    clock.skew_ms += rng.choice((-3_600_000, 3_600_000, 7))
                if self._log.full and rng.random() < 0.7:  # the box's own small changes may go on meanwhile
                    await self._room()

    async def _room(self) -> None:
        """Wait until the disk has room again: nobody but the disk has to do anything for it."""
        deadline_s = self._loop.time() + PATIENCE_S
        while self._log.full:
            hold(self._loop.time() < deadline_s, "a log goes on by itself when the disk has room again")
            await asyncio.sleep(0.5)
            await self._log.init_producer_id()  # which a log that has failed refuses

    # -- records

    async def _append(self) -> None:
        """By `Log.append`."""
        log = self._log
        while log.congested:  # what waits inside comes in an order that only the log knows
            await self._clear()
        one = self._new_append()
        one.level = Durability.FSYNC if one.rows else self._levels.promised([at[0] for at, _ in one.records])
        records = [
            NewRecord(topic=topic, key=value[:4], value=value, partition=partition)
            for (topic, partition), value in one.records
        ]
        changes = [TableChange(table="state", key=key, value=value) for key, value in one.rows]
        if log.full:  # nothing of it is taken: it must never be there
            del self._model.appends[one.serial]
            await self._refused(records, changes)
            return
        one.offsets = [place.offset for place in await log.append(records, changes)]
        self._model.acknowledge(one)

    async def _refused(self, records: list[NewRecord], changes: list[TableChange]) -> None:
        self._tally.refused += 1
        with contextlib.suppress(UnavailableError):
            await self._log.append(records, changes)
            hold(False, "a log on a full disk takes no readings")

    async def _listen(self) -> None:
        """By `Appender`, as listeners do: a chunk of records, one waiter."""
        log = self._log
        while log.congested:
            await self._clear()
        if log.full:
            return  # a listener takes nothing in then
        one = self._new_append()
        one.rows.clear()
        asked = self._rng.choice(self._levels.listeners)
        one.level = self._levels.promised([at[0] for at, _ in one.records], asked)
        now = log.now_ms()
        one.offsets = [
            log.partitions(topic)[partition].append(now, value[:4], value, [])
            for (topic, partition), value in one.records
        ]
        told: asyncio.Future[bool] = self._loop.create_future()
        size = sum(len(value) for _, value in one.records)
        log.appended(len(one.records), size, Wish(told, self._model), one, asked)
        await told

    async def _clear(self) -> None:
        """Wait until the log is no longer congested; one that has failed never says so."""
        clear: asyncio.Future[None] = self._loop.create_future()
        self._log.when_clear(lambda: clear.set_result(None))
        while not clear.done():
            await asyncio.wait({clear}, timeout=0.5)
            await self._log.init_producer_id()  # which a log that has failed refuses

    def _new_append(self) -> Append:
        rng, serial = self._rng, self._model.next_serial()
        places = [(info.name, partition) for info in self._log.topics() for partition in range(info.partitions)]
        chosen = [SPINE, *(rng.choice(places) for _ in range(rng.choice((0, 0, 1, 3))))]
        chosen = [at for number, at in enumerate(chosen) if at != SPINE or number == 0]
        records = [
            (at, b"%06d:%d:" % (serial, n) + rng.randbytes(rng.choice((0, 7, 40, 40, 300))))
            for n, at in enumerate(chosen)
        ]
        rows = [
            (f"row {rng.randrange(5)}", rng.choice((None, serial, {"at": [serial]}))) for _ in range(rng.randint(0, 2))
        ]
        one = Append(serial=serial, records=records, rows=rows, level=Durability.FSYNC)
        self._model.appends[serial] = one
        return one

    # -- batches from outside

    async def _produce(self) -> None:
        """A producer's next batches, five at most at a time: first of all those that it has no answer for."""
        producer = await self._producer()
        if producer is None:
            return
        producer.busy = True
        try:
            await self._send(producer)
        finally:
            producer.busy = False

    async def _producer(self) -> Producer | None:
        rng, producers = self._rng, self._model.producers
        idle = [one for one in producers if not one.busy]
        if idle and (len(producers) == MAX_PRODUCERS or rng.random() < 0.7):
            return rng.choice(idle)
        if len(producers) == MAX_PRODUCERS:
            return None
        identity = await self._log.init_producer_id()
        places = [(info.name, partition) for info in self._log.topics() for partition in range(info.partitions)]
        made = Producer(
            number=len(producers),
            producer_id=identity.producer_id,
            at=rng.choice(places),
            next_sequence=rng.choice((0, 0, SEQUENCES - 4)),
        )
        producers.append(made)
        return made

    async def _send(self, producer: Producer) -> None:
        rng = self._rng
        waiting = producer.unanswered()
        for _ in range(rng.randint(0 if waiting else 1, UNDER_WAY - len(waiting))):
            number = len(producer.sent)
            values = [
                b"P%03d:%d:%d:" % (producer.number, number, n) + rng.randbytes(rng.choice((0, 40)))
                for n in range(rng.choice((1, 1, 3)))
            ]
            waiting.append(producer.make(values))
        if not producer.is_known:
            waiting = waiting[:1]  # the first numbers that the log hears of are where it begins to count
        self._tally.resent += sum(1 for one in waiting if one.offset is not None)
        twice = [one for one in waiting for _ in range(1 if rng.random() < 0.8 else 2)]  # an answer that came too late
        answers = await asyncio.gather(*(self._offer(producer, one) for one in twice))
        away = False
        for batch, answer in zip(twice, answers, strict=True):
            producer.hear(batch, answer, may_be_early=away)
            away = away or not isinstance(answer, AppendedBatch)
        if producer.is_known and not producer.unanswered():
            await self._probe(producer)
        if away:
            await asyncio.sleep(0.5)

    async def _probe(self, producer: Producer) -> None:
        """Send what is out of order, or was sent long ago."""
        rng = self._rng
        old = producer.old()
        if old and rng.random() < 0.3:
            batch = rng.choice(old)
            producer.hear_old(batch, await self._offer(producer, batch))
        elif rng.random() < 0.2:
            ahead = (producer.next_sequence + rng.randint(1, 9)) % SEQUENCES
            stray = SentBatch(first=ahead, values=[b"P%03d:stray" % producer.number])
            answer = await self._offer(producer, stray)
            refused = isinstance(answer, (OutOfOrderSequenceError, UnavailableError))
            hold(refused, "a batch out of order is refused", answer)

    async def _offer(self, producer: Producer, batch: SentBatch) -> Answer:
        try:
            position = await self._log.append_batch(
                *producer.at, producer.encoded(batch, self._rng.choice((CODEC_NONE, CODEC_ZSTD)))
            )
        except Exception as error:  # noqa: BLE001 - the producer judges it
            return error
        for number, value in enumerate(batch.values):
            self._model.see(producer.at, position.offset + number, value)
        return position

    # -- everything else

    async def _roll(self) -> None:
        before = self._model.serial
        window = await self._log.roll(self._rng.choice([info.name for info in self._log.topics()]), "simulated")
        if window is not None:
            known = self._model.windows.setdefault((window.topic, window.number), window)
            hold(known == window, "a window's number is given once", known, window)
            self._model.synced = max(self._model.synced, before)

    async def _set_row(self) -> None:
        serial = self._model.next_serial()
        key = f"alone {serial}"
        self._model.alone[key] = False
        await self._log.append([], [TableChange(table="alone", key=key, value=key)])
        self._model.alone[key] = True
        self._model.synced = max(self._model.synced, serial)

    async def _delete(self) -> None:
        """Let go of what was read, of one partition; whatever else is read or written meanwhile."""
        watch(self._reader, self._model)
        known = {info.name for info in self._log.topics()}  # readers know a topic a little earlier
        at = self._rng.choice([at for at in partitions_of(self._reader) if at[0] in known])
        before = self._rng.randint(0, self._model.highs.get(at, 0))
        self._model.deletable[at] = max(before, self._model.deletable.get(at, 0))
        start = await self._log.delete_segments(*at, before, "simulated")
        self._tally.deletions += start > self._model.starts.get(at, 0)
        self._model.expect_start(at, max(start, self._model.starts.get(at, 0)))

    async def _create(self) -> None:
        info = await self._log.create_topic("late", TOPICS["late"])
        hold(self._model.topics.setdefault("late", info) == info, "a topic is made once", info)
