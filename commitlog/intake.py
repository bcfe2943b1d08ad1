"""Taking in batches from outside: inspected in a thread, appended on the event loop, in the order they were handed in.

Inspecting a batch means decompressing and reading it, which is too long for the event loop. One thread inspects one
batch after another and hands each back in order, so that the batches which a producer has under way are judged by their
sequence numbers in the order in which they came. What is handed back while the log is congested waits, in order.

At most `MAX_UNDER_WAY` batches are between hand-in and append; who comes later waits in line, with his batch.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from commitlog.base import Appender, Position
from commitlog.batch_errors import BatchError
from commitlog.foreign import ForeignBatch, check_size, inspect
from commitlog.journal import Change
from commitlog.partition import Partition
from commitlog.producers import ROW_BYTES, Producers
from commitlog.requests import FutureWaiter
from commitlog.stats import LogStats
from core.clock import Clock
from core.errors import BadRequestError, UnavailableError
from core.threads import Threads, Worker

MAX_UNDER_WAY: Final = 16  # keeps the thread busy over a turn of the loop; with default limits 16 MB, in the worst case


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What taking in needs of the log around it."""

    log: Appender
    change: Callable[[Change], None]
    """Puts a table change into the open commit."""
    check: Callable[[], None]
    """Raises UnavailableError unless the log accepts."""
    promise: Callable[[], asyncio.Future[Any]]
    """A future that fails with the log."""
    fail: Callable[[Exception], None]
    threads: Threads
    clock: Clock
    stats: LogStats
    max_bytes: int
    """Of one batch, as it is stored."""


@dataclass(frozen=True, slots=True)
class _Inspected:
    target: Partition
    outcome: ForeignBatch | Exception
    appended: asyncio.Future[tuple[int, FutureWaiter]]


class BatchIntake:
    """See the module. Used on the event loop."""

    def __init__(self, around: Surroundings, rows: Mapping[str, Any]) -> None:
        """`rows` are those of the `producers` table."""
        self._around = around
        self._log = around.log
        self._clock = around.clock
        self._producers = Producers(rows, around.clock.monotonic_ms())
        self._room = asyncio.Semaphore(MAX_UNDER_WAY)  # lets in who waits in the order of their coming
        self._inspected: deque[_Inspected] = deque()
        self._waits_for_room = False
        self._closed = False
        self._thread: Worker | None = None

    async def append(self, target: Partition, batch: bytes) -> Position:
        """See `Log.append_batch`."""
        if not isinstance(batch, bytes):
            raise BadRequestError("a batch is bytes")
        async with self._room:
            self._check()
            appended: asyncio.Future[tuple[int, FutureWaiter]] = self._around.promise()
            self._started_thread().submit(
                lambda: _outcome(batch, self._around.max_bytes),
                lambda outcome: self._back(_Inspected(target, outcome, appended)),
            )
            base_offset, waiter = await appended
        await waiter.future
        return Position(topic=target.topic, partition=target.index, offset=base_offset)

    async def close(self) -> None:
        """Take nothing more in: what is not appended yet is refused."""
        self._closed = True
        if self._thread is not None:
            await self._thread.close()
        self._append_inspected()

    def _started_thread(self) -> Worker:
        """Made when first needed: most boxes have no Kafka client."""
        if self._thread is None:
            self._thread = self._around.threads.worker("batches", self._around.fail)
        return self._thread

    def _check(self) -> None:
        self._around.check()
        if self._closed:
            raise UnavailableError("the log is closed")

    def _back(self, inspected: _Inspected) -> None:
        self._inspected.append(inspected)
        if not self._waits_for_room:
            self._append_inspected()

    def _append_inspected(self) -> None:
        """Append what was inspected, in order, as long as the log is not congested."""
        self._waits_for_room = False
        while self._inspected:
            if self._log.congested and not self._closed:
                self._waits_for_room = True
                self._log.when_clear(self._append_inspected)
                return
            one = self._inspected.popleft()
            if one.appended.done():
                continue  # the log has failed, or whoever asked has gone
            try:
                one.appended.set_result(self._append_one(one.target, one.outcome))
            except BatchError as error:
                self._around.stats.batches[error.code] += 1
                one.appended.set_exception(error)
            except Exception as error:  # noqa: BLE001 - told to its caller; must not hold up those behind it
                one.appended.set_exception(error)

    def _append_one(self, target: Partition, outcome: ForeignBatch | Exception) -> tuple[int, FutureWaiter]:
        self._check()
        if isinstance(outcome, Exception):
            raise outcome
        topic_id = target.topic_id.hex()
        producer = outcome.producer
        if producer is not None:
            base_offset = self._producers.duplicate_of(topic_id, target.index, producer)
            if base_offset is not None:
                self._around.stats.batches["duplicate"] += 1
                return base_offset, self._waiter(0, 0)  # the first one may still be on its way to the disk
        now_ms = self._log.now_ms()
        data = outcome.received_at(now_ms)
        base_offset = target.append_ready(data, outcome.count)
        size_bytes = len(data)
        if producer is not None:
            size_bytes += ROW_BYTES
            for change in self._producers.appended(
                topic_id,
                target.index,
                producer,
                base_offset,
                now_ms=now_ms,
                now_monotonic_ms=self._clock.monotonic_ms(),
            ):
                self._around.change(change)
        self._around.stats.batches["appended"] += 1
        return base_offset, self._waiter(outcome.count, size_bytes)

    def _waiter(self, count: int, size_bytes: int) -> FutureWaiter:
        waiter = FutureWaiter(asyncio.get_running_loop().create_future())
        self._log.appended(count, size_bytes, waiter)
        return waiter


def _outcome(batch: bytes, max_bytes: int) -> ForeignBatch | Exception:
    """In the thread: the batch as it may be appended, or why not."""
    try:
        check_size(batch, max_bytes)
        return inspect(batch)
    except BatchError as error:
        return error
    except Exception as error:  # noqa: BLE001 - a bug in reading one batch is told to who sent it, and ends no log
        return error
