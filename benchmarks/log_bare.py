"""What the log is measured against: the bare loop, with nothing of a log but what the disk must see.

One partition list, one preallocated journal, one commit in flight, acknowledgement after the sync, segments written
behind with zstd. No recovery, no tables, no windows, no watermarks, no limits, no errors.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import google_crc32c

from commitlog.batch import CODEC_NONE, CODEC_ZSTD, new_builder

JOURNAL_BYTES = 64 << 20
FLUSH_S = 0.1


class BarePartition:
    """The two open batches."""

    def __init__(self, directory: Path, index: int) -> None:
        self.index = index
        self.file = os.open(directory / f"{index}.log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        self.journal, self.in_journal = new_builder(CODEC_NONE), 0
        self.segment, self.in_segment = new_builder(CODEC_ZSTD), 0

    def append(self, timestamp_ms: int, key: bytes, value: bytes, headers: list[tuple[str, bytes | None]]) -> None:
        self.journal.append(self.in_journal, timestamp_ms, key, value, headers)
        self.in_journal += 1
        self.segment.append(self.in_segment, timestamp_ms, key, value, headers)
        self.in_segment += 1


class BareLog:
    """The loop. The same calls as the `Appender` seam."""

    def __init__(self, directory: Path, partitions: int, *, commit_records: int, interval_s: float) -> None:
        directory.mkdir(parents=True)
        self._partitions = [BarePartition(directory, index) for index in range(partitions)]
        self._fd = os.open(directory / "journal", os.O_CREAT | os.O_RDWR)
        for at in range(0, JOURNAL_BYTES, 4096):
            os.pwrite(self._fd, bytes(4096), at)
        os.fsync(self._fd)
        self._at = self._pending = 0
        self._commit_records = commit_records
        self._interval_s = interval_s
        self._waiters: list[tuple[Callable[[Any], None], Any]] = []
        self._flushed_s = time.monotonic()
        self._journal_thread = ThreadPoolExecutor(1)
        self._segment_thread = ThreadPoolExecutor(1)
        self._wake, self._full = asyncio.Event(), asyncio.Event()
        self._task = asyncio.create_task(self._commit_loop())

    def partitions(self) -> list[BarePartition]:
        return self._partitions

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def appended(self, count: int, size_bytes: int, waiter: Any, token: Any) -> None:
        self._waiters.append((waiter.committed, token))
        if not self._pending:
            self._wake.set()
        self._pending += count
        if self._pending >= self._commit_records:
            self._full.set()

    async def close(self) -> None:
        self._task.cancel()
        self._journal_thread.shutdown()
        self._segment_thread.shutdown()
        os.close(self._fd)
        for partition in self._partitions:
            os.close(partition.file)

    async def _commit_loop(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._pending:
                self._wake.clear()
                await self._wake.wait()
            if self._pending < self._commit_records:
                self._full.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._full.wait(), self._interval_s)
            parts = []
            for partition in self._partitions:
                if partition.in_journal:
                    parts.append((partition.index, partition.journal))
                    partition.journal, partition.in_journal = new_builder(CODEC_NONE), 0
            behind = []
            if time.monotonic() - self._flushed_s >= FLUSH_S:
                for partition in self._partitions:
                    if partition.in_segment:
                        behind.append((partition.file, partition.segment))
                        partition.segment, partition.in_segment = new_builder(CODEC_ZSTD), 0
                self._flushed_s = time.monotonic()
            waiters, self._waiters = self._waiters, []
            self._pending = 0
            await loop.run_in_executor(self._journal_thread, self._write, parts)
            if behind:
                loop.run_in_executor(self._segment_thread, _write_segments, behind)
            for committed, token in waiters:
                committed(token)

    def _write(self, parts: list[tuple[int, Any]]) -> None:
        body = b"".join(struct.pack("<HI", index, len(batch)) + batch for index, batch in _built(parts))
        entry = struct.pack("<II", len(body), google_crc32c.value(body)) + body
        if self._at + len(entry) > JOURNAL_BYTES:
            self._at = 0
        os.pwrite(self._fd, entry, self._at)
        os.fdatasync(self._fd)
        self._at += len(entry)


def _built(parts: list[tuple[int, Any]]) -> list[tuple[int, bytes]]:
    return [(index, bytes(builder.build())) for index, builder in parts]


def _write_segments(parts: list[tuple[int, Any]]) -> None:
    for file, builder in parts:
        os.write(file, builder.build())
