"""Every record of a partition twice: as kafka-python's record reader sees it, and as ours does."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from commitlog.reader import FileLogReader
from commitlog.segment import base_offsets
from commitlog.storage import LOG_DIR, SystemStorage
from core.clock import Clock
from tests.commitlog.log_support import read_partition

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of its own, about how it loads its schemas
    from kafka.record import MemoryRecords

Seen = tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]


def by_kafka_python(data_dir: Path, topic: str, partition: int) -> Iterator[Seen]:
    directory = data_dir / LOG_DIR / f"{topic}-{partition}"
    for base in base_offsets(SystemStorage(), directory):
        batches = MemoryRecords((directory / f"{base:020}.log").read_bytes())
        while (batch := batches.next_batch()) is not None:
            assert batch.validate_crc()
            for one in batch:
                yield one.offset, one.timestamp, one.key, one.value, list(one.headers)


def by_the_reader(data_dir: Path, topic: str, partition: int, clock: Clock | None = None) -> list[Seen]:
    with closing(FileLogReader(data_dir, clock=clock)) as reader:
        records = read_partition(reader, topic, partition)
    return [(one.offset, one.timestamp, one.key, one.value, list(one.headers)) for one in records]
