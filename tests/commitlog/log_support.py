"""What the tests of the log share: settings small enough to wrap and checkpoint soon, opening, reading everything."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from commitlog.base import NewRecord, Record
from commitlog.embedded import EmbeddedLog
from commitlog.reader import FileLogReader
from commitlog.settings import LogSettings
from commitlog.storage import RUN_DIR, Storage, SystemStorage
from core.clock import Clock
from tests.log_fakes import FakeClock


def log_settings(**changes: Any) -> LogSettings:
    """The smallest journal and checkpoints that settings allow, commits at once; keys as in a settings file."""
    small = {
        "partitions": 3,
        "commit_interval": "0",
        "pending_bytes": "1MB",
        "journal_size": "4MB",
        "checkpoint_bytes": "1MB",
        "flush_interval": "1ms",
        "segment_size": "64KB",
        "reserve": "1MB",
        "full_mark": "1MB",
    }
    return LogSettings(**{**small, **changes})


class Failures(list[Exception]):
    """What `on_failure` was called with."""

    def __call__(self, error: Exception) -> None:
        self.append(error)


async def open_log(
    data_dir: Path,
    *,
    settings: LogSettings | None = None,
    clock: Clock | None = None,
    storage: Storage | None = None,
    on_failure: Failures | None = None,
) -> EmbeddedLog:
    (data_dir / RUN_DIR).mkdir(parents=True, exist_ok=True)
    return await EmbeddedLog.open(
        data_dir,
        settings or log_settings(),
        clock=clock or FakeClock(),
        storage=storage or SystemStorage(),
        on_failure=Failures() if on_failure is None else on_failure,
    )


@asynccontextmanager
async def opened(data_dir: Path, **options: Any) -> AsyncIterator[EmbeddedLog]:
    """A log that is closed in order afterwards, and has not failed."""
    failures = Failures()
    log = await open_log(data_dir, on_failure=failures, **options)
    try:
        yield log
    finally:
        await log.close()
    assert not failures


class RecordingWaiter:
    """A `Waiter` that keeps what it was told."""

    def __init__(self) -> None:
        self.committed_tokens: list[Any] = []
        self.failed_tokens: list[Any] = []

    def committed(self, token: Any) -> None:
        self.committed_tokens.append(token)

    def failed(self, token: Any) -> None:
        self.failed_tokens.append(token)


def record(topic: str, key: str | None, value: bytes | str, *, partition: int | None = None) -> NewRecord:
    payload = value if isinstance(value, bytes) else value.encode()
    return NewRecord(topic=topic, key=None if key is None else key.encode(), value=payload, partition=partition)


def read_partition(reader: FileLogReader, topic: str, partition: int, offset: int = 0) -> list[Record]:
    """Every record from an offset to the high watermark; gaps are a failure."""
    records: list[Record] = []
    high = reader.watermarks(topic)[partition].high
    while offset < high:
        part = reader.read(topic, partition, offset, max_bytes=10_000)
        assert not part.gaps, part.gaps
        assert part.next_offset > offset, f"stuck at {topic}-{partition} offset {offset} of {high}"
        records.extend(part.records)
        offset = part.next_offset
    return records


def read_all(data_dir: Path, storage: Storage | None = None) -> dict[tuple[str, int], list[tuple[int, bytes]]]:
    """(offset, value) pairs of every partition that has any."""
    with closing(FileLogReader(data_dir, storage=storage)) as reader:
        found = {
            (topic, partition): [(r.offset, r.value or b"") for r in read_partition(reader, topic, partition)]
            for topic, info in reader.topics().items()
            for partition in range(info.partitions)
        }
    return {at: pairs for at, pairs in found.items() if pairs}


def some_value(rng: random.Random) -> bytes:
    """Mostly small, now and then large enough to close a segment."""
    size = rng.choice((0, 3, 40, 40, 200, 3_000, 30_000) if rng.random() < 0.3 else (20,))
    return rng.randbytes(size)


def values(records: Sequence[Record]) -> list[bytes | None]:
    return [one.value for one in records]
