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
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from commitlog.base import ClosedWindow, NewRecord, Position, ProducerIdentity, TableChange, TopicInfo
from commitlog.behind import Flush, SegmentWriter
from commitlog.commit import Commit, GroupCommit
from commitlog.doorbell import Doorbell
from commitlog.durability import Durability, strictest
from commitlog.intake import BatchIntake, Surroundings
from commitlog.journal import Change, Journal, JournalBatch, encode_body
from commitlog.partition import Partition, TakenBatch
from commitlog.patient import PatientStorage
from commitlog.producers import PRODUCERS_TABLE, new_producer
from commitlog.recovery import Recovered, recover, start_journal
from commitlog.report import RecoveryReport
from commitlog.requests import FutureWaiter, change_bytes, record_bytes, resolve
from commitlog.settings import LogSettings
from commitlog.space import FULL_ERRNOS, DiskState, Space
from commitlog.stats import LogStats
from commitlog.storage import LOG_DIR, RUN_DIR, Storage
from commitlog.tables import LiveTables
from commitlog.topics import Topics
from commitlog.watermarks import HEARTBEAT_MS, WatermarkWriter
from commitlog.windows import WINDOWS_TABLE, window_change
from core.clock import Clock
from core.errors import BadRequestError, UnavailableError
from core.threads import SystemThreads, Threads

_log = structlog.get_logger("headrace.log")
_Roll = tuple[str, str, asyncio.Future[ClosedWindow | None]]


class EmbeddedLog:
    """`Log` and `Appender` on this box's disk. All methods are called on one event loop."""

    def __init__(
        self,
        recovered: Recovered,
        journal: Journal,
        data_dir: Path,
        settings: LogSettings,
        clock: Clock,
        storage: Storage,
        on_failure: Callable[[Exception], None],
        space: Space,
        threads: Threads,
    ) -> None:
        """Use `open`."""
        self.report: RecoveryReport = recovered.report
        self.boot_id = secrets.token_hex(16)
        self.stats = LogStats()
        self._settings = settings
        self._clock = clock
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._journal = journal
        self._leader_epoch = recovered.leader_epoch
        self._tables = LiveTables(recovered.tables.decoded())
        self._last_ms = recovered.last_timestamp_ms
        self._failed: Exception | None = None
        self._closed = self._closing = self._tending = False
        self.full = space.state.full
        self._full_watchers: list[Callable[[bool], None]] = []
        self._space = space
        space.on_change = lambda state: _from_thread(self._loop, partial(self._full_changed, state.full))
        self._creating = asyncio.Lock()
        self._opened: list[Partition] = []
        self._changes: list[Change] = []
        self._preparers: list[Callable[[], None]] = []
        self.change = self._change  # for listeners: into the open commit
        self._rolls: list[_Roll] = []
        self._promises: dict[asyncio.Future[Any], None] = {}
        self._unflushed: dict[Partition, None] = {}  # a set that keeps its order: the same run twice writes the same
        self._unflushed_changes: list[Change] = []
        self._last_flush_s = self._loop.time()
        self._flush_timer: asyncio.TimerHandle | None = None
        self._checkpoints_seen = 0
        self._commits = GroupCommit(
            settings,
            self.stats,
            threads=threads,
            take=self._take,
            write=self._write,
            sync=self._sync,
            durable=self._durable,
            note_unsynced=self._note_unsynced,
            on_error=self._fail,
        )
        self.appended = self._commits.appended  # bound directly: called once per chunk by every listener
        self.when_clear = self._commits.when_clear
        self.join = self._commits.join
        self._segment_thread = threads.worker("segments", self._fail)
        run_dir = data_dir / RUN_DIR
        capacity = max(settings.max_topics * max(settings.partitions, 8), len(recovered.files))
        self._topics = Topics(max_topics=settings.max_topics, max_partitions=capacity, opened=self._opened)
        self._topics.adopt(recovered.files, self._tables.rows(WINDOWS_TABLE), self.now_ms())
        self._marks = WatermarkWriter(run_dir, boot_id=bytes.fromhex(self.boot_id), capacity=capacity)
        self._segments = SegmentWriter(
            storage,
            data_dir / LOG_DIR,
            settings,
            clock,
            journal=journal,
            recovered=recovered,
            marks=self._marks,
            doorbell=Doorbell(run_dir),
        )
        self._segments.publish_all()
        around = Surroundings(
            log=self,
            change=self._change,
            check=self._check,
            promise=self._promise,
            fail=self._fail,
            threads=threads,
            clock=clock,
            stats=self.stats,
            max_bytes=settings.batch_limit_bytes,
        )
        self._intake = BatchIntake(around, self._tables.rows(PRODUCERS_TABLE))
        self._beat_timer = self._loop.call_soon(self._beat)

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
        log_dir = data_dir / LOG_DIR
        loop = asyncio.get_running_loop()
        threads = threads or SystemThreads()
        released = threads.latch()
        space = Space(
            storage,
            log_dir,
            reserve_bytes=settings.reserve_bytes,
            mark_bytes=settings.full_mark_bytes,
            gave_up=threads.latch(),
        )
        if on_wait is not None:
            space.on_wait = partial(_from_thread, loop, on_wait)
        patient = PatientStorage(storage, space)

        def start() -> tuple[Recovered, Journal]:
            storage.make_dir(data_dir / RUN_DIR)
            storage.make_dir(log_dir)
            space.ensure_start()
            recovered = recover(patient, log_dir, settings)
            journal = space.retried(lambda: start_journal(patient, log_dir, settings, recovered, released), wait=False)
            space.look()
            space.ensure_start()
            return recovered, journal

        try:
            recovered, journal = await threads.run(start)
        except asyncio.CancelledError:
            space.give_up()
            raise
        return cls(recovered, journal, data_dir, settings, clock, patient, on_failure, space, threads)

    async def close(self) -> None:
        """Commit and flush what is open, checkpoint as closed in order, release everything."""
        if self._closed:
            return
        self._closing = True
        self._space.give_up()  # whoever waits for space: what could not be written stays in the journal
        await self._intake.close()
        await self._commits.drain()
        self._closed = True
        self._beat_timer.cancel()
        if self._flush_timer is not None:
            self._flush_timer.cancel()
        if self._failed is None:
            self._flush_now()
            self._segment_thread.submit(self._segments.close)
        await self._commits.close()
        await self._segment_thread.close()
        if self._failed is not None:
            self._segments.abandon()
        self._journal.close()

    async def drain(self) -> None:
        """Wait until everything appended is durable at its level and its waiters were told (or the log failed)."""
        await self._commits.drain()

    # -- Appender: the hot path (`appended` and `when_clear` are the group commit's own)

    @property
    def congested(self) -> bool:
        """See `Appender.congested`."""
        return self._commits.congested

    def partitions(self, topic: str) -> Sequence[Partition]:
        """See `Appender.partitions`."""
        return self._topics.named(topic).partitions

    def watch_full(self, changed: Callable[[bool], None]) -> None:
        """See `Appender.watch_full`."""
        self._full_watchers.append(changed)

    def now_ms(self) -> int:
        """See `Appender.now_ms`."""
        now = self._clock.time_ms()
        if now < self._last_ms:
            return self._last_ms
        self._last_ms = now
        return now

    # -- Log

    async def create_topic(self, name: str, partitions: int | None = None) -> TopicInfo:
        """See `Log.create_topic`."""
        self._check()
        async with self._creating:  # a topic is known only once its directories are durable
            known = self._topics.get(name)
            if known is not None:
                return known.info
            count = self._settings.partitions if partitions is None else partitions
            self._topics.check_new(name, count)
            self._check()  # again: the log may have failed or been closed while others made theirs
            info = TopicInfo(name=name, topic_id=secrets.token_hex(16), partitions=count)
            made: asyncio.Future[None] = self._promise()
            self._segment_thread.submit(lambda: self._segments.create_topic(info), lambda _: resolve(made, None))
            await made
            zeros = [0] * count
            self._topics.add(info, next_offsets=zeros, log_starts=zeros, last_window=None, now_ms=self.now_ms())
            return info

    async def append(self, records: Sequence[NewRecord], changes: Sequence[TableChange] = ()) -> Sequence[Position]:
        """See `Log.append`."""
        size = sum(map(record_bytes, records)) + sum(map(change_bytes, changes))
        limit = self._settings.pending_bytes // 2  # on top of what may be pending: half the journal, wrap included
        if size > limit:
            raise BadRequestError(
                f"{size} bytes in one append, the limit is {limit}",
                mend="append in smaller pieces, or raise log.pending_bytes and log.journal_size",
            )
        targets = [self._topics.target(record) for record in records]
        self._check_room(bool(records))
        while self.congested:
            await self._clear()
            self._check_room(bool(records))
        self._check()
        now = self.now_ms()
        positions = [
            Position(
                topic=record.topic,
                partition=target.index,
                offset=target.append(now, record.key, record.value, list(record.headers)),
            )
            for record, target in zip(records, targets, strict=True)
        ]
        for change in changes:
            self._change((change.table, change.key, change.value))
        waiter = FutureWaiter(self._loop.create_future())
        self.appended(max(1, len(records)), size, waiter)
        await waiter.future
        return positions

    async def append_batch(self, topic: str, partition: int, batch: bytes) -> Position:
        """See `Log.append_batch`."""
        self._check_room(True)
        return await self._intake.append(self._topics.partition(topic, partition), batch)

    async def init_producer_id(self) -> ProducerIdentity:
        """See `Log.init_producer_id`."""
        self._check()
        return new_producer()

    async def _clear(self) -> None:
        """Wait until the log is no longer congested."""
        clear: asyncio.Future[None] = self._promise()
        self.when_clear(lambda: resolve(clear, None))
        await clear

    async def rows(self, table: str) -> Mapping[str, Any]:
        """See `Log.rows`."""
        return dict(self._tables.rows(table))

    async def roll(self, topic: str, reason: str) -> ClosedWindow | None:
        """See `Log.roll`."""
        self._check()
        self._topics.named(topic)
        rolled: asyncio.Future[ClosedWindow | None] = self._promise()
        self._rolls.append((topic, reason, rolled))
        self._commits.start()
        return await rolled

    async def delete_segments(self, topic: str, partition: int, before_offset: int, reason: str) -> int:
        """Delete the segments of a partition that end before an offset, and return its log start offset.

        Whole segments only, and never the newest. `reason` is for the log output. Whether a consumer still needs the
        records is the caller's business. Raises NotFoundError, UnavailableError.
        """
        self._check()
        self._topics.partition(topic, partition)
        info = self._topics.named(topic).info
        deleted: asyncio.Future[int] = self._promise()
        self._segment_thread.submit(
            lambda: self._segments.delete_segments(info, partition, before_offset),
            lambda log_start: resolve(deleted, log_start),
        )
        log_start = await deleted
        _log.info("segments deleted", topic=topic, partition=partition, log_start=log_start, reason=reason)
        return log_start

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
        return self.stats.unsynced.age_s(self._loop.time())

    def bytes_since_roll(self, topic: str) -> int:
        """About how many bytes a topic has taken in since its last window closed."""
        return self._topics.named(topic).bytes_since_roll

    @property
    def newest_ms(self) -> int:
        """The newest time that was given to a record; looking does not move it, as `now_ms` does."""
        return self._last_ms

    @property
    def disk(self) -> DiskState:
        """What the last look at the disk found."""
        return self._space.state

    @property
    def journal_bytes_written(self) -> int:
        """Bytes written to the journal since the start."""
        return self._journal.bytes_written

    @property
    def segment_bytes_written(self) -> int:
        """Bytes written to segments since the start."""
        return self._segments.bytes_written

    @property
    def checkpoints(self) -> int:
        """Checkpoints since the start."""
        return self._segments.checkpoints

    # -- committing

    def _change(self, change: Change) -> None:
        """Put a table change into the open commit; `rows` shows it once it is durable."""
        self._changes.append(change)

    def before_commit(self, prepare: Callable[[], None]) -> None:
        """See `Appender.before_commit`."""
        self._preparers.append(prepare)

    def rows_now(self, table: str) -> Mapping[str, Any]:
        """See `Appender.rows_now`."""
        return self._tables.rows(table)

    def _take(self, asked: Durability) -> Commit:
        """Everything open, and the flush if one is due, ending where this commit ends."""
        for prepare in self._preparers:
            prepare()
        level = strictest(asked, [partition.durability for partition in self._opened])
        batches = [taken for partition in self._opened for taken in partition.take_journal_batches()]
        self._unflushed.update(dict.fromkeys(self._opened))
        self._opened.clear()
        rolls = len(self._rolls)
        windows, answer = self._close_windows()
        changes, self._changes = self._changes, []
        self._unflushed_changes.extend(changes)
        flush = self._take_flush(windows) if windows or self._flush_due() else None
        return Commit(
            batches=batches,
            changes=changes,
            flush=flush,
            after_flush=answer,
            rolls=rolls,
            records=sum(batch.count for batch in batches),
            durability=Durability.FSYNC if changes or windows else level,  # others act on what tables and windows say
        )

    def _write(self, commit: Commit) -> None:
        """In the journal thread: one entry, and one sync unless the commit does without."""
        batches = [
            JournalBatch(taken.partition.topic_id, taken.partition.index, taken.build(self._leader_epoch))
            for taken in commit.batches
        ]
        body = encode_body(batches, commit.changes)
        if not self._journal.fits(len(body)):
            self.stats.journal_waits += 1
            self._journal.wait_for_room(len(body))
        commit.size_bytes = len(body)
        synced = commit.durability is Durability.FSYNC
        started_s = time.perf_counter()
        self._journal.write(body, sync=synced)
        self.stats.commit_written(time.perf_counter() - started_s, synced=synced)

    def _sync(self) -> None:
        """In the journal thread: sync what commits have left unsynced."""
        started_s = time.perf_counter()
        self._journal.sync()
        self.stats.synced(time.perf_counter() - started_s)

    def _note_unsynced(self, noted: Callable[[], None]) -> None:
        self._segment_thread.submit(self._segments.note_unsynced, lambda _: noted())

    def _durable(self, commit: Commit) -> None:
        """The commit is in the journal: its flush may be written behind it."""
        for change in commit.changes:
            self._tables.apply(change)
        if commit.flush is not None:
            flush = commit.flush
            flush.reaches(self._journal)
            self._segment_thread.submit(lambda: self._segments.flush(flush), lambda _: commit.after_flush())
        elif commit.rolls:  # that found nothing to close: the one before, which closed it, may still be under way
            self._segment_thread.submit(lambda: None, lambda _: commit.after_flush())
        if self._rolls:
            self._loop.call_soon(self._commits.start)
        if (self._unflushed or self._unflushed_changes) and self._flush_timer is None:
            delay_s = self._settings.flush_interval_ms / 1000
            self._flush_timer = self._loop.call_later(delay_s, self._flush_timed_out)

    def _close_windows(self) -> tuple[list[ClosedWindow], Callable[[], None]]:
        """Carry out the rolls that were asked for: each topic's open window ends at its next offsets."""
        windows: list[ClosedWindow] = []
        answers: list[tuple[asyncio.Future[ClosedWindow | None], ClosedWindow | None]] = []
        rolls, self._rolls = self._rolls, []
        for name, reason, future in rolls:
            topic = self._topics.named(name)
            window = topic.window.close([p.next_offset for p in topic.partitions], self.now_ms(), reason)
            answers.append((future, window))
            if window is not None:
                self._change(window_change(window))
                windows.append(window)
        return windows, lambda: _answer(answers)

    # -- flushing

    def _flush_due(self) -> bool:
        if self._loop.time() - self._last_flush_s >= self._settings.flush_interval_ms / 1000:
            return True
        if self._journal.used >= self._settings.checkpoint_bytes:
            return True
        return any(p.segment_batch_bytes >= self._settings.flush_bytes for p in self._unflushed)

    def _take_flush(self, windows: Sequence[ClosedWindow]) -> Flush:
        """Everything since the last flush; only right while no commit is open."""
        batches: list[TakenBatch] = []
        for partition in self._unflushed:
            self._topics.named(partition.topic).bytes_since_roll += partition.segment_batch_bytes
            batches.extend(partition.take_segment_batches())
        for window in windows:
            self._topics.named(window.topic).bytes_since_roll = 0
        self._unflushed.clear()
        changes, self._unflushed_changes = self._unflushed_changes, []
        self._last_flush_s = self._loop.time()
        return Flush(batches=batches, changes=changes, windows=windows, last_timestamp_ms=self._last_ms)

    def _flush_timed_out(self) -> None:
        self._flush_timer = None
        if not self._commits.in_flight and not self._opened and not self._changes:
            self._flush_now()
        # Otherwise a commit is open or in flight: the next one finds that a flush is due and takes it along.

    def _flush_now(self) -> None:
        """Flush what is committed but not yet in segments, while nothing is open."""
        if self._unflushed or self._unflushed_changes:
            flush = self._take_flush(())
            flush.reaches(self._journal)
            self._segment_thread.submit(lambda: self._segments.flush(flush))

    def _beat(self) -> None:
        """Every half second: say that the log lives, and let its thread look after what is due."""
        if self._failed is not None:
            return  # from now on readers take it for gone
        self._marks.beat(self._clock.monotonic_ms())
        if not self._tending:  # it may be waiting for space, for hours
            self._tending = True
            self._segment_thread.submit(self._tend, self._tended)
        if self._checkpoints_seen != self._segments.checkpoints:
            self._checkpoints_seen = self._segments.checkpoints
            self._commits.sync_late()
        self._beat_timer = self._loop.call_later(HEARTBEAT_MS / 1000, self._beat)

    def _tend(self) -> None:
        """In the segment thread: a checkpoint that is due while nothing arrives, and how much space is left."""
        self._segments.checkpoint_if_due()
        self._space.look()

    def _tended(self, _: None) -> None:
        self._tending = False

    # -- the full disk

    def _full_changed(self, full: bool) -> None:
        if full == self.full:
            return
        self.full = full
        for changed in self._full_watchers:
            changed(full)

    def _check_room(self, readings: bool) -> None:
        """Readings are refused while the disk is full; changes of tables alone are small, and go on."""
        if readings and self.full:
            disk = self.disk
            raise UnavailableError(
                f"the disk is full: {disk.free_bytes >> 20} MB are free, {disk.needed_bytes >> 20} MB have to be",
                mend="free some space: it goes on by itself",
            )

    # -- failing

    def _fail(self, error: Exception) -> None:
        """A thread's work failed: acknowledge nothing more, ever."""
        if self._failed is not None:
            return
        self._failed = error
        self._space.give_up()
        self._commits.fail()
        self._journal.give_up()
        for promise in list(self._promises):
            if not promise.done():
                promise.set_exception(self._unavailable())
        if self._closing and isinstance(error, OSError) and error.errno in FULL_ERRNOS:
            _log.warning("closed on a full disk: the next start writes what stands in the journal", what=str(error))
            return
        self._on_failure(error)

    def _promise(self) -> asyncio.Future[Any]:
        """A future that fails with the log, so that nobody waits for what will not come."""
        promise: asyncio.Future[Any] = self._loop.create_future()
        self._promises[promise] = None
        promise.add_done_callback(self._promises.pop)
        return promise

    def _unavailable(self) -> UnavailableError:
        return UnavailableError(f"the log has failed: {self._failed!r}", mend="the edge process restarts and recovers")

    def _check(self) -> None:
        if self._failed is not None:
            raise self._unavailable()
        if self._closed:
            raise UnavailableError("the log is closed")


def _from_thread(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    loop.call_soon_threadsafe(call)


def _answer(answers: Sequence[tuple[asyncio.Future[ClosedWindow | None], ClosedWindow | None]]) -> None:
    for future, window in answers:
        resolve(future, window)
