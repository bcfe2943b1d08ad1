"""The embedded log: group commit into a journal, segments behind it.

Three threads, one direction:

    event loop                         journal thread                segment thread
    listeners append to open batches;
    a commit takes them           -->  one entry: write, sync   -->  (handed on by the loop)
    acknowledge                   <--                                flush: segments, tables, windows,
                                                                     checkpoint, watermarks, doorbell

Segments are flushed at commit boundaries, so a flush never holds a record that is not durable yet at its level
(`commitlog.durability`; the sync is left out at the weaker ones); the checkpoint moves only over what is synced in
segments and table snapshots. When a disk operation fails the log fails as a whole:
nothing more is acknowledged, and the process is expected to stop and recover. Only a write that finds no space is no
failure: `full` is then true, readings are to be refused, and the segment thread waits for room (`commitlog.space`).

Here is what is called; `commitlog.engine` puts together what does it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from commitlog.base import (
    AppendedBatch,
    ClosedWindow,
    NewRecord,
    Position,
    ProducerIdentity,
    Row,
    TableChange,
    TopicInfo,
    Waiter,
)
from commitlog.durability import Durability
from commitlog.engine import Engine
from commitlog.old_end import OldEnd
from commitlog.opening import open_files
from commitlog.partition import Partition
from commitlog.producers import new_producer
from commitlog.report import RecoveryReport
from commitlog.requests import FutureWaiter, change_bytes, record_bytes, resolve
from commitlog.settings import LogSettings
from commitlog.space import DiskState
from commitlog.storage import Storage
from core.clock import Clock
from core.errors import BadRequestError
from core.threads import SystemThreads, Threads


class EmbeddedLog:
    """`Log` and `Appender` on this box's disk. All methods are called on one event loop."""

    def __init__(self, engine: Engine, report: RecoveryReport) -> None:
        """Use `open`."""
        self.report = report
        self.boot_id = engine.boot_id
        self.stats = engine.stats
        self._engine = engine
        self._commits = engine.commits
        self._fullness = engine.fullness
        self._open = engine.open_commit
        self._promises = engine.promises
        self._topics = engine.topics
        self._settings = engine.settings
        self._creating = asyncio.Lock()
        # The hot path, bound directly: called once per chunk by every listener.
        self.appended = self._commits.appended
        self.when_clear = self._commits.when_clear
        self.now_ms = engine.now_ms
        self.change = self._open.change_counted
        self.reserve = self._open.reserve
        self.whole = self._open.whole
        # The old end, what retention works on.
        old_end = OldEnd(engine, room=lambda: self._room(readings=False))
        self.holdings = old_end.holdings
        self.delete_before = old_end.delete_before
        self.forget_windows = old_end.forget_windows

    @classmethod
    async def open(
        cls,
        data_dir: Path,
        settings: LogSettings,
        *,
        clock: Clock,
        storage: Storage,
        on_failure: Callable[[Exception], None],
        on_wait: Callable[[], None] | None = None,
        threads: Threads | None = None,
    ) -> EmbeddedLog:
        """Recover what is there and be ready to append.

        `on_failure` is called once when the disk failed under a running log; the owner then closes its sessions and
        ends the process. `on_wait` is called when recovery has to wait for somebody to free space; to be cancelled ends
        that wait. `threads` is where the disk is worked on. Raises OSError when the disk fails now.
        """
        threads = threads or SystemThreads()
        opened = await open_files(data_dir, settings, storage=storage, threads=threads, on_wait=on_wait)
        engine = Engine(opened, data_dir, settings, clock, on_failure, threads)
        return cls(engine, opened.recovered.report)

    async def close(self) -> None:
        """Commit and flush what is open, checkpoint as closed in order, release everything."""
        await self._engine.close()

    async def drain(self) -> None:
        """Wait until everything appended is durable at its level and its waiters were told (or the log failed)."""
        await self._commits.drain()

    # -- Appender: the hot path (`appended`, `when_clear` and `now_ms` are bound in `__init__`)

    @property
    def congested(self) -> bool:
        """See `Appender.congested`."""
        return self._commits.congested

    @property
    def full(self) -> bool:
        """See `Appender.full`."""
        return self._fullness.full

    def partitions(self, topic: str) -> Sequence[Partition]:
        """See `Appender.partitions`."""
        return self._topics.named(topic).partitions

    def watch_full(self, changed: Callable[[bool], None]) -> None:
        """See `Appender.watch_full`."""
        self._fullness.watch(changed)

    def rows_now(self, table: str) -> Mapping[str, Any]:
        """See `Appender.rows_now`."""
        return self._engine.tables.rows(table)

    def before_commit(self, prepare: Callable[[], None]) -> None:
        """See `Appender.before_commit`."""
        self._open.prepare_by(prepare)

    def change_reserved(self, row: Row) -> None:
        """See `Appender.change_reserved`."""
        self._open.change(row)

    def join(self, waiter: Waiter, token: Any) -> None:
        """See `Appender.join`."""
        self._commits.join(waiter, token)

    # -- Log

    async def create_topic(self, name: str, partitions: int | None = None) -> TopicInfo:
        """See `Log.create_topic`."""
        self._promises.check()
        async with self._creating:  # a topic is known only once its directories are durable
            known = self._topics.get(name)
            if known is not None:
                return known.info
            count = self._settings.partitions if partitions is None else partitions
            self._topics.check_new(name, count)
            self._promises.check()  # again: the log may have failed or been closed while others made theirs
            info = TopicInfo(name=name, topic_id=secrets.token_hex(16), partitions=count)
            made: asyncio.Future[None] = self._promises.promise()
            self._engine.segment_thread.submit(
                lambda: self._engine.segments.create_topic(info), lambda _: resolve(made, None)
            )
            await made
            zeros = [0] * count
            self._topics.add(info, next_offsets=zeros, log_starts=zeros, last_window=None, now_ms=self.now_ms())
            return info

    async def append(self, records: Sequence[NewRecord], changes: Sequence[TableChange] = ()) -> Sequence[Position]:
        """See `Log.append`."""
        changes_size = sum(map(change_bytes, changes))
        size = sum(map(record_bytes, records)) + changes_size
        limit = self._settings.pending_bytes // 2  # far below what one commit may hold: see `open_commit`
        if size > limit:
            raise BadRequestError(
                f"{size} bytes in one append, the limit is {limit}",
                mend="append in smaller pieces, or raise log.pending_bytes and log.journal_size",
            )
        targets = [self._topics.target(record) for record in records]
        await self._room(readings=bool(records))
        waiter = FutureWaiter(asyncio.get_running_loop().create_future())
        with self._open.whole(len(records), size - changes_size, changes_size):
            positions = self._append(records, targets)
            for change in changes:
                self._open.change((change.table, change.key, change.value))
            self.appended(max(1, len(records)), size, waiter)
        await waiter.future
        return positions

    async def _room(self, *, readings: bool) -> None:
        """Wait until the log is no longer congested. Raises UnavailableError where it accepts nothing."""
        while True:
            if readings:
                self._fullness.check()
            if not self.congested:
                break
            await self._clear()
        self._promises.check()

    def _append(self, records: Sequence[NewRecord], targets: Sequence[Partition]) -> list[Position]:
        now = self.now_ms()
        return [
            Position(
                topic=record.topic,
                partition=target.index,
                offset=target.append(now, record.key, record.value, list(record.headers)),
            )
            for record, target in zip(records, targets, strict=True)
        ]

    async def append_batch(self, topic: str, partition: int, batch: bytes) -> AppendedBatch:
        """See `Log.append_batch`."""
        self._fullness.check()
        return await self._engine.intake.append(self._topics.partition(topic, partition), batch)

    async def init_producer_id(self) -> ProducerIdentity:
        """See `Log.init_producer_id`."""
        self._promises.check()
        return new_producer()

    async def _clear(self) -> None:
        """Wait until the log is no longer congested."""
        clear: asyncio.Future[None] = self._promises.promise()
        self.when_clear(lambda: resolve(clear, None))
        await clear

    async def rows(self, table: str) -> Mapping[str, Any]:
        """See `Log.rows`."""
        return dict(self._engine.tables.rows(table))

    async def roll(self, topic: str, reason: str) -> ClosedWindow | None:
        """See `Log.roll`."""
        self._promises.check()
        rolled = self._engine.rolls.ask(topic, reason, self._promises.promise)
        self._commits.start()
        return await rolled

    async def delete_segments(self, topic: str, partition: int, before_offset: int, reason: str) -> int:
        """Delete the segments of a partition that end before an offset, and return its log start offset.

        See `OldEnd.delete_before`.
        """
        return (await self.delete_before(topic, {partition: before_offset}, reason))[partition]

    # -- what others want to know

    def topics(self) -> Sequence[TopicInfo]:
        """Every topic."""
        return [topic.info for topic in self._topics]

    def keep_topics_at(self, levels: Mapping[str, Durability]) -> None:
        """Give topics, by name, durability levels of their own; those that are not named have none."""
        self._topics.keep_at(levels)

    @property
    def unsynced_age_s(self) -> float:
        """How long ago the oldest record was appended that is acknowledged but not yet on disk; 0: there is none."""
        return self.stats.unsynced.age_s(asyncio.get_running_loop().time())

    def bytes_since_roll(self, topic: str) -> int:
        """About how many bytes a topic has taken in since its last window closed."""
        return self._topics.named(topic).bytes_since_roll

    @property
    def newest_ms(self) -> int:
        """The newest time that was given to a record; looking does not move it, as `now_ms` does."""
        return self._engine.newest_ms

    @property
    def disk(self) -> DiskState:
        """What the last look at the disk found."""
        return self._fullness.disk

    @property
    def journal_bytes_written(self) -> int:
        """Bytes written to the journal since the start."""
        return self._engine.journal.bytes_written

    @property
    def segment_bytes_written(self) -> int:
        """Bytes written to segments since the start."""
        return self._engine.segments.bytes_written

    @property
    def checkpoints(self) -> int:
        """Checkpoints since the start."""
        return self._engine.segments.checkpoints
