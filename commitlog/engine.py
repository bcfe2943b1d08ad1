"""The parts of an embedded log, put together: what is open becomes commits, commits become segments, failures end all.

What is open (`open_commit`), when it is committed (`commit`) and by whom written (`journaling`), when it goes on to
segments (`flushing`, `behind`), and who hears of it (`rolls`, `promises`, `fullness`). `commitlog.embedded` says how
they play together, and is what the world calls.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path

import structlog

from commitlog.behind import SegmentWriter
from commitlog.commit import Commit, GroupCommit
from commitlog.doorbell import Doorbell
from commitlog.durability import Durability, strictest
from commitlog.flushing import Flusher, Heartbeat
from commitlog.fullness import Fullness
from commitlog.intake import BatchIntake, Surroundings
from commitlog.journaling import CommitWriter
from commitlog.open_commit import OpenCommit
from commitlog.opening import Opened
from commitlog.producers import PRODUCERS_TABLE
from commitlog.promises import Promises
from commitlog.rolls import Rolled, Rolls
from commitlog.settings import LogSettings
from commitlog.space import FULL_ERRNOS
from commitlog.stats import LogStats
from commitlog.storage import LOG_DIR, RUN_DIR
from commitlog.tables import LiveTables
from commitlog.topics import Topics
from commitlog.watermarks import HEARTBEAT_MS, WatermarkWriter
from commitlog.windows import WINDOWS_TABLE
from core.clock import Clock
from core.threads import Threads

_log = structlog.get_logger("headrace.log")


class Engine:
    """See the module. Used on the event loop, except where a part says otherwise."""

    def __init__(
        self,
        opened: Opened,
        data_dir: Path,
        settings: LogSettings,
        clock: Clock,
        on_failure: Callable[[Exception], None],
        threads: Threads,
    ) -> None:
        """`on_failure` is called once, when nothing can be acknowledged any more."""
        recovered = opened.recovered
        self.boot_id = secrets.token_hex(16)
        self.stats = LogStats()
        self.settings = settings
        self.clock = clock
        self.on_failure = on_failure
        self.newest_ms = recovered.last_timestamp_ms
        self.leader_epoch = recovered.leader_epoch
        self.journal = opened.journal
        self.space = opened.space
        self.fullness = Fullness(opened.space)
        self.promises = Promises()
        self.tables = LiveTables(recovered.tables.decoded())
        self.commits = self._group_commit(threads)
        self.open_commit = OpenCommit(settings, self.commits.cut)
        capacity = max(settings.max_topics * max(settings.partitions, 8), len(recovered.files))
        self.topics = Topics(max_topics=settings.max_topics, max_partitions=capacity, room=self.open_commit)
        self.topics.adopt(recovered.files, self.tables.rows(WINDOWS_TABLE), self.now_ms())
        self.rolls = Rolls(self.topics)
        self.segment_thread = threads.worker("segments", self.fail)
        run_dir = data_dir / RUN_DIR
        self.marks = WatermarkWriter(run_dir, boot_id=bytes.fromhex(self.boot_id), capacity=capacity)
        self.segments = SegmentWriter(
            opened.storage,
            data_dir / LOG_DIR,
            settings,
            clock,
            journal=opened.journal,
            recovered=recovered,
            marks=self.marks,
            doorbell=Doorbell(run_dir),
        )
        self.segments.publish_all()
        self.flusher = self._make_flusher()
        self.intake = self._batch_intake(threads)
        self.heartbeat = self._make_heartbeat()
        self._checkpoints_seen = 0
        self._closing = False

    def _group_commit(self, threads: Threads) -> GroupCommit:
        writer = CommitWriter(self.journal, self.stats, self.leader_epoch)
        return GroupCommit(
            self.settings,
            self.stats,
            threads=threads,
            take=self._take,
            write=writer.write,
            sync=writer.sync,
            durable=self._durable,
            note_unsynced=self._note_unsynced,
            on_error=self.fail,
        )

    def _make_flusher(self) -> Flusher:
        return Flusher(
            self.settings,
            topics=self.topics,
            open_commit=self.open_commit,
            journal=self.journal,
            segments=self.segments,
            thread=self.segment_thread,
            newest_ms=lambda: self.newest_ms,
            in_flight=lambda: self.commits.in_flight,
        )

    def _batch_intake(self, threads: Threads) -> BatchIntake:
        around = Surroundings(
            commits=self.commits,
            open_commit=self.open_commit,
            check=self.promises.check,
            promise=self.promises.promise,
            fail=self.fail,
            now_ms=self.now_ms,
            threads=threads,
            clock=self.clock,
            stats=self.stats,
            max_bytes=self.settings.batch_limit_bytes,
        )
        return BatchIntake(around, self.tables.rows(PRODUCERS_TABLE))

    def _make_heartbeat(self) -> Heartbeat:
        return Heartbeat(
            interval_s=HEARTBEAT_MS / 1000,
            beat=self._beat,
            tend=self._tend,
            thread=self.segment_thread,
            alive=lambda: self.promises.failure is None,
        )

    def now_ms(self) -> int:
        """See `Appender.now_ms`."""
        now = self.clock.time_ms()
        if now < self.newest_ms:
            return self.newest_ms
        self.newest_ms = now
        return now

    async def close(self) -> None:
        """Commit and flush what is open, checkpoint as closed in order, release everything."""
        if self.promises.closed:
            return
        self._closing = True
        self.space.give_up()  # whoever waits for space: what could not be written stays in the journal
        await self.intake.close()
        await self.commits.drain()
        self.promises.closed = True
        self.heartbeat.close()
        self.flusher.close()
        if self.promises.failure is None:
            self.flusher.flush_now()
            self.segment_thread.submit(self.segments.close)
        await self.commits.close()
        await self.segment_thread.close()
        if self.promises.failure is not None:
            self.segments.abandon()
        self.journal.close()

    # -- committing

    def _take(self, asked: Durability) -> Commit:
        """As much of what is open as one commit holds, and the flush if one is due, ending where this commit ends."""
        taken = self.open_commit.take()
        level = strictest(asked, taken.levels)
        rolled = Rolled()
        if not taken.rest:  # a window ends where the open end is
            rolled = self.rolls.carry_out(self.settings.commit_limit_bytes - taken.size_bytes, self.now_ms)
        changes = [*taken.changes, *rolled.changes]
        flush = self.flusher.take(changes, rolled.windows, taken.size_bytes + rolled.size_bytes)
        return Commit(
            batches=taken.batches,
            changes=changes,
            flush=flush,
            after_flush=rolled.answer,
            rolls=len(rolled.rolls),
            records=sum(batch.count for batch in taken.batches),
            durability=Durability.FSYNC if changes else level,  # others act on what tables and windows say
            pieces=taken.pieces,
            rest=taken.rest,
        )

    def _note_unsynced(self, noted: Callable[[], None]) -> None:
        self.segment_thread.submit(self.segments.note_unsynced, lambda _: noted())

    def _durable(self, commit: Commit) -> None:
        """The commit is in the journal: its flush may be written behind it."""
        for change in commit.changes:
            self.tables.apply(change)
        if commit.flush is not None:
            self.flusher.submit(commit.flush, commit.after_flush)
        elif commit.rolls:  # that found nothing to close: the one before, which closed it, may still be under way
            self.segment_thread.submit(lambda: None, lambda _: commit.after_flush())
        if self.rolls:
            asyncio.get_running_loop().call_soon(self.commits.start)
        self.flusher.later()

    # -- what is due every half second

    def _beat(self) -> None:
        self.marks.beat(self.clock.monotonic_ms())
        if self._checkpoints_seen != self.segments.checkpoints:
            self._checkpoints_seen = self.segments.checkpoints
            self.commits.sync_late()

    def _tend(self) -> None:
        """In the segment thread: a checkpoint that is due while nothing arrives, and how much space is left."""
        self.segments.checkpoint_if_due()
        self.space.look()

    # -- failing

    def fail(self, error: Exception) -> None:
        """A thread's work failed: acknowledge nothing more, ever."""
        if self.promises.failure is not None:
            return
        self.promises.failure = error
        self.space.give_up()
        self.commits.fail()
        self.journal.give_up()
        self.promises.fail(error)
        if self._closing and isinstance(error, OSError) and error.errno in FULL_ERRNOS:
            _log.warning("closed on a full disk: the next start writes what stands in the journal", what=str(error))
            return
        self.on_failure(error)
