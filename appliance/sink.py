"""The sink process: exports closed windows of every topic to the lake; `sink.prom` and `sink.json` say how it goes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from importlib.metadata import version
from typing import Final

from appliance.process import announce_ready, child_main
from appliance.settings import Settings
from commitlog.reader import FileLogReader
from commitlog.remote import RemoteLog
from commitlog.settings import TopicSettings
from core.channel import ChannelClient
from core.clock import SystemClock
from core.collector import collect_seldom
from core.tasks import background
from sink.attempts import Pauses
from sink.holding import Holding
from sink.metrics import WRITE_INTERVAL_S, SinkMetrics, keep_written
from sink.parquet.held import Limits
from sink.parquet.sink import ParquetSink
from sink.payload.reading import Reading, json_reading, raw_reading
from sink.payload.schema import Schema
from sink.payload.times import Skew
from sink.runner import Runner

NICENESS: Final = 10  # whoever publishes comes first: an export can wait, and takes a whole processor while it works
_RAW_TOPICS: Final = frozenset({"mqtt"})  # what no route matched: nobody said that these payloads are JSON


def readings(settings: Settings) -> Callable[[str], Reading]:
    """How each topic's payloads are read."""
    skew = Skew.of_seconds(settings.sink.max_clock_ahead_s, settings.sink.max_clock_behind_s)
    declared = {topic.name: topic for topic in settings.topics}

    def reading_of(name: str) -> Reading:
        topic = declared.get(name) or TopicSettings(name=name)
        if topic.decoder == "raw" or (topic.decoder is None and name in _RAW_TOPICS):
            return raw_reading(skew)
        return json_reading(skew, timestamp_field=topic.timestamp_field, schema=Schema.of(topic))

    return reading_of


def parquet_sink(settings: Settings) -> ParquetSink:
    """The sink that the settings describe."""
    return ParquetSink(
        settings.data_dir / "lake",
        reading_of=readings(settings),
        limits=Limits(memory_bytes=settings.sink.memory_bytes, file_bytes=settings.sink.target_file_bytes),
        software=f"headrace {version('headrace')}",
    )


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Export until `stop` is set."""
    channel = ChannelClient(settings.data_dir / "run" / "edge.sock")
    metrics = SinkMetrics()
    sink = parquet_sink(settings)
    runner = Runner(
        sink,
        replayer=sink,
        open_reader=lambda: FileLogReader(settings.data_dir),
        log=RemoteLog(channel),
        clock=SystemClock(),
        metrics=metrics,
        pauses=Pauses(retry_max_s=settings.sink.retry_max_s),
        holding=Holding(small_records=settings.sink.small_window_records, hold_ms=settings.sink.hold_back_ms),
    )
    metrics.show(runner.standing)
    tasks: set[asyncio.Task[None]] = set()
    path = settings.data_dir / "run" / "sink.prom"
    writing = background(keep_written(metrics, path, WRITE_INTERVAL_S, runner.standing), "sink-metrics", tasks)
    announce_ready()
    try:
        await runner.run(stop)
    finally:
        writing.cancel()
        await channel.close()


if __name__ == "__main__":
    os.nice(NICENESS)
    collect_seldom()
    child_main("sink", run)
