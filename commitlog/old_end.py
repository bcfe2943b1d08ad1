"""The old end of a topic: what it holds, and how segments and windows leave it. What retention works with.

Nothing here decides. Whether a consumer still needs the records, or a window, is the caller's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import structlog

from commitlog.engine import Engine
from commitlog.holdings import PartitionHolding
from commitlog.requests import FutureWaiter, removal_bytes, resolve
from commitlog.windows import WINDOWS_TABLE, window_key

MAX_FORGOTTEN: Final = 1_000  # windows in one commit: some 100 KB, so that ingest hardly waits for it
_log = structlog.get_logger("headrace.log")


class OldEnd:
    """See the module. Used on the event loop; files are looked at and deleted in the thread that writes segments."""

    def __init__(self, engine: Engine, room: Callable[[], Awaitable[None]]) -> None:
        """`room` waits until the log is no longer congested; raises UnavailableError where it accepts nothing."""
        self._engine = engine
        self._room = room

    async def holdings(self, topic: str) -> Sequence[PartitionHolding]:
        """What is on disk of each partition of a topic. Raises NotFoundError, UnavailableError."""
        engine = self._engine
        engine.promises.check()
        info = engine.topics.named(topic).info
        found: asyncio.Future[Sequence[PartitionHolding]] = engine.promises.promise()
        engine.segment_thread.submit(lambda: engine.segments.holdings(info), lambda held: resolve(found, held))
        return await found

    async def delete_before(self, topic: str, before: Mapping[int, int], reason: str) -> Mapping[int, int]:
        """Delete the segments that end before an offset, by partition, and return the log start offsets of those.

        Whole segments only, and never the newest. `reason` is for the log output. Raises NotFoundError,
        UnavailableError.
        """
        engine = self._engine
        engine.promises.check()
        for partition in before:
            engine.topics.partition(topic, partition)
        info = engine.topics.named(topic).info
        deleted: asyncio.Future[Mapping[int, int]] = engine.promises.promise()
        engine.segment_thread.submit(
            lambda: engine.segments.delete_segments(info, before), lambda log_starts: resolve(deleted, log_starts)
        )
        log_starts = await deleted
        _log.info("segments deleted", topic=topic, log_starts=dict(log_starts), reason=reason)
        return log_starts

    async def forget_windows(self, topic: str, before: int) -> int:
        """Remove the rows of a topic's windows with number < `before`, at most `MAX_FORGOTTEN`; returns how many.

        From the oldest on, so that what stays leaves nothing out, and never the newest: it says where the next one
        begins. Raises NotFoundError, UnavailableError.
        """
        engine = self._engine
        topic_id = engine.topics.named(topic).info.topic_id
        known = sorted(key for key in engine.tables.rows(WINDOWS_TABLE) if key.startswith(f"{topic_id}/"))
        limit = window_key(topic_id, before)
        keys = [key for key in known[:-1] if key < limit][:MAX_FORGOTTEN]
        if not keys:
            return 0
        await self._room()
        size_bytes = sum(removal_bytes(WINDOWS_TABLE, key) for key in keys)
        waiter = FutureWaiter(asyncio.get_running_loop().create_future())
        with engine.open_commit.whole(0, 0, size_bytes):
            for key in keys:
                engine.open_commit.change((WINDOWS_TABLE, key, None))
            engine.commits.appended(1, size_bytes, waiter)
        await waiter.future
        return len(keys)
