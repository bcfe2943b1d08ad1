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

from commitlog.base import AppendedBatch
from commitlog.batch_errors import BatchError
from commitlog.commit import GroupCommit
from commitlog.foreign import ForeignBatch, Sequenced, check_size, inspect
from commitlog.open_commit import OpenCommit
from commitlog.partition import Partition
from commitlog.producers import ROWS_BYTES, Producers
from commitlog.requests import FutureWaiter
from commitlog.stats import LogStats
from core.clock import Clock
from core.errors import BadRequestError, UnavailableError
from core.threads import Threads, Worker

MAX_UNDER_WAY: Final = 16  # keeps the thread busy over a turn of the loop; with default limits 16 MB, in the worst case


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What taking in needs of the log around it."""

    commits: GroupCommit
    open_commit: OpenCommit
    check: Callable[[], None]
    """Raises UnavailableError unless the log accepts."""
    promise: Callable[[], asyncio.Future[Any]]
    """A future that fails with the log."""
    fail: Callable[[Exception], None]
    now_ms: Callable[[], int]
    threads: Threads
    clock: Clock
    stats: LogStats
    max_bytes: int
    """Of one batch, as it is stored."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """Where a batch stands, since when, and who is told once it is durable."""

    base_offset: int
    timestamp_ms: int
    waiter: FutureWaiter


@dataclass(frozen=True, slots=True)
class _Inspected:
    target: Partition
    outcome: ForeignBatch | Exception
    appended: asyncio.Future[_Placed]


class BatchIntake:
    """See the module. Used on the event loop."""

    def __init__(self, around: Surroundings, rows: Mapping[str, Any]) -> None:
        """`rows` are those of the `producers` table."""
        self._around = around
        self._commits = around.commits
        self._clock = around.clock
        self._producers = Producers(rows, around.clock.monotonic_ms())
        self._room = asyncio.Semaphore(MAX_UNDER_WAY)  # lets in who waits in the order of their coming
        self._inspected: deque[_Inspected] = deque()
        self._waits_for_room = False
        self._closed = False
        self._thread: Worker | None = None

    async def append(self, target: Partition, batch: bytes) -> AppendedBatch:
        """See `Log.append_batch`."""
        if not isinstance(batch, bytes):
            raise BadRequestError("a batch is bytes")
        async with self._room:
            self._check()
            appended: asyncio.Future[_Placed] = self._around.promise()
            self._started_thread().submit(
                lambda: _outcome(batch, self._around.max_bytes),
                lambda outcome: self._back(_Inspected(target, outcome, appended)),
            )
            placed = await appended
        await placed.waiter.future
        return AppendedBatch(
            topic=target.topic,
            partition=target.index,
            offset=placed.base_offset,
            timestamp_ms=placed.timestamp_ms,
        )

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
            if self._commits.congested and not self._closed:
                self._waits_for_room = True
                self._commits.when_clear(self._append_inspected)
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

    def _append_one(self, target: Partition, outcome: ForeignBatch | Exception) -> _Placed:
        self._check()
        if isinstance(outcome, Exception):
            raise outcome
        producer = outcome.producer
        if producer is not None:
            before = self._producers.duplicate_of(target.topic_id.hex(), target.index, producer)
            if before is not None:
                self._around.stats.batches["duplicate"] += 1
                # The first one may still be on its way to the disk.
                return _Placed(before.base_offset, before.timestamp_ms, self._waiter(0, 0))
        now_ms = self._around.now_ms()
        data = outcome.received_at(now_ms)
        changes_bytes = ROWS_BYTES if producer is not None else 0
        with self._around.open_commit.whole(1, len(data), changes_bytes):
            base_offset = target.append_ready(data, outcome.count)
            if producer is not None:
                self._note(target, producer, base_offset, now_ms)
            self._around.stats.batches["appended"] += 1
            return _Placed(base_offset, now_ms, self._waiter(outcome.count, len(data) + changes_bytes))

    def _note(self, target: Partition, producer: Sequenced, base_offset: int, now_ms: int) -> None:
        """In the commit of the batch: what its producer has written last."""
        for change in self._producers.appended(
            target.topic_id.hex(),
            target.index,
            producer,
            base_offset,
            now_ms=now_ms,
            now_monotonic_ms=self._clock.monotonic_ms(),
        ):
            self._around.open_commit.change(change)

    def _waiter(self, count: int, size_bytes: int) -> FutureWaiter:
        waiter = FutureWaiter(asyncio.get_running_loop().create_future())
        self._commits.appended(count, size_bytes, waiter)
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
