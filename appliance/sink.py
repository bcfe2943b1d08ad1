"""The sink process: exports closed windows of every topic to the lake, and says in `sink.prom` how it goes."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import Final

from appliance.process import announce_ready, child_main
from appliance.settings import Settings
from commitlog.reader import FileLogReader
from commitlog.remote import RemoteLog
from core.channel import ChannelClient
from core.clock import SystemClock
from core.tasks import background
from sink.metrics import WRITE_INTERVAL_S, SinkMetrics, keep_written
from sink.parquet import RAW, ParquetSink, TopicFormat
from sink.runner import Pauses, Runner
from sink.survey import Limits

_RAW_TOPICS: Final = frozenset({"mqtt"})  # what no route matched: nobody said that these payloads are JSON


def topic_formats(settings: Settings) -> dict[str, TopicFormat]:
    """How each topic that needs anything but the default is read."""
    formats = dict.fromkeys(_RAW_TOPICS, RAW)
    for topic in settings.topics:
        raw = topic.decoder == "raw" or (topic.decoder is None and topic.name in _RAW_TOPICS)
        formats[topic.name] = RAW if raw else TopicFormat(timestamp_field=topic.timestamp_field)
    return formats


def parquet_sink(settings: Settings) -> ParquetSink:
    """The sink that the settings describe."""
    formats = topic_formats(settings)
    return ParquetSink(
        settings.data_dir / "lake",
        format_of=lambda topic: formats.get(topic, TopicFormat()),
        limits=Limits(rows=settings.sink.max_rows_per_file),
        software=f"headrace {version('headrace')}",
    )


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Export until `stop` is set."""
    channel = ChannelClient(settings.data_dir / "run" / "edge.sock")
    metrics = SinkMetrics()
    runner = Runner(
        parquet_sink(settings),
        open_reader=lambda: FileLogReader(settings.data_dir),
        log=RemoteLog(channel),
        clock=SystemClock(),
        metrics=metrics,
        pauses=Pauses(retry_max_s=settings.sink.retry_max_s),
    )
    tasks: set[asyncio.Task[None]] = set()
    path = settings.data_dir / "run" / "sink.prom"
    writing = background(keep_written(metrics, path, WRITE_INTERVAL_S), "sink-metrics", tasks)
    announce_ready()
    try:
        await runner.run(stop)
    finally:
        writing.cancel()
        await channel.close()


if __name__ == "__main__":
    child_main("sink", run)
