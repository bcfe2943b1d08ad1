"""What stands in the segments, as a record reader sees it that others wrote: kafka-python's."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

from commitlog.base import Header, NewRecord
from commitlog.storage import LOG_DIR
from commitlog.version import META_NAME
from tests.commitlog.log_support import log_settings, opened
from tests.commitlog.other_reader import by_kafka_python, by_the_reader
from tests.log_fakes import FakeClock

TOPICS = {"telemetry": 2, "device.events": 1}


def some_record(rng: random.Random) -> NewRecord:
    topic = rng.choice(sorted(TOPICS))
    headers: list[Header] = [
        (rng.choice(("mqtt.topic", "mqtt.qos", "größe", "")), rng.choice((None, b"", b"a/b", rng.randbytes(40))))
        for _ in range(rng.choice((0, 1, 1, 3)))
    ]
    return NewRecord(
        topic=topic,
        key=rng.choice((None, b"", b"press-17", "größe".encode(), rng.randbytes(200))),
        value=rng.choice((b"", b'{"v": 1}', rng.randbytes(1_000), rng.randbytes(30_000))),
        headers=headers,
        partition=rng.randrange(TOPICS[topic]),
    )


async def append(data_dir: Path, seed: int, count: int, clock: FakeClock, **settings: Any) -> None:
    rng = random.Random(seed)
    async with opened(data_dir / "writer", clock=clock, settings=log_settings(**settings)) as log:
        for topic, partitions in TOPICS.items():
            await log.create_topic(topic, partitions)
        for number in range(count):
            clock.now_ms += rng.choice((0, 0, 1, 50))
            await log.append([some_record(rng) for _ in range(rng.choice((1, 2, 7)))])
            if number == count // 2:
                await log.roll("telemetry", "test")
        shutil.copytree(data_dir / "writer", data_dir / "killed", ignore=shutil.ignore_patterns("*.sock"))
        (data_dir / "killed" / LOG_DIR / META_NAME).unlink()  # else it is taken for a restored copy


async def test_another_reader_agrees_on_everything(tmp_path: Path) -> None:
    await append(tmp_path, 1, 120, FakeClock())
    for topic, partitions in TOPICS.items():
        for partition in range(partitions):
            theirs = list(by_kafka_python(tmp_path / "writer", topic, partition))
            assert theirs == by_the_reader(tmp_path / "writer", topic, partition)
            assert [one[0] for one in theirs] == list(range(len(theirs)))
            assert len(theirs) > 50


async def test_another_reader_agrees_on_what_recovery_wrote(tmp_path: Path) -> None:
    """Everything behind the first window comes from the journal: uncompressed batches, some of them cut in two."""
    clock = FakeClock()
    await append(tmp_path, 2, 60, clock, flush_interval="1h", flush_bytes="90KB")
    async with opened(tmp_path / "killed", clock=clock) as log:
        assert log.report.records_replayed > 0
    for topic, partitions in TOPICS.items():
        for partition in range(partitions):
            theirs = list(by_kafka_python(tmp_path / "killed", topic, partition))
            assert theirs == by_the_reader(tmp_path / "killed", topic, partition)
            assert theirs == list(by_kafka_python(tmp_path / "writer", topic, partition))
