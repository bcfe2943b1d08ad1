"""How fast a closed window becomes Parquet: `python -m benchmarks.export_parquet [ROWS] [ROUNDS]`.

The records are in memory, so that only the sink is measured: both decoding passes, sorting, writing, syncing. Readings
are simple: 1,000 devices, a time, two numbers and a text, about 75 bytes each.
"""

from __future__ import annotations

import gc
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from commitlog.base import ClosedWindow, Header, Slice, TopicInfo, Watermark, WriterState
from sink.base import CancelFlag, Export
from sink.parquet import ParquetSink, TopicFormat
from sink.survey import Limits

START_MS = 1_763_632_800_000
DEVICES = 1_000
READ_RECORDS = 8_192


@dataclass(slots=True)
class Reading:
    """A record, as small as can be."""

    offset: int
    timestamp: int
    key: bytes
    value: bytes
    headers: list[Header]


class MemoryReader:
    """A `LogReader` of one partition in memory."""

    def __init__(self, readings: Sequence[Reading]) -> None:
        self._readings = readings

    def read(self, topic: str, partition: int, offset: int, *, max_bytes: int = 1 << 20) -> Slice:
        end = min(offset + READ_RECORDS, len(self._readings))
        return Slice(records=self._readings[offset:end], next_offset=end)

    def topics(self) -> Mapping[str, TopicInfo]:
        return {}

    def watermarks(self, topic: str) -> Sequence[Watermark]:
        return [Watermark(start=0, high=len(self._readings))]

    def offset_for_time(self, topic: str, partition: int, timestamp_ms: int) -> int:
        return 0

    def windows(self, topic: str, *, after: int = -1) -> Sequence[ClosedWindow]:
        return []

    def wait(self, timeout_s: float) -> bool:
        return False

    def writer_state(self) -> WriterState:
        return WriterState.LIVE

    def close(self) -> None:
        pass


def make_readings(count: int) -> list[Reading]:
    """One reading of each device in turn, a millisecond apart; always the same ones."""
    chance = random.Random(1)
    readings = []
    for offset in range(count):
        device = offset % DEVICES
        ms = START_MS + offset
        value = f'{{"ts":{ms},"temp":{chance.gauss(60, 5):.2f},"count":{offset // DEVICES},"state":"running"}}'
        header = ("mqtt.topic", b"devices/press-%d/state" % device)
        readings.append(
            Reading(offset=offset, timestamp=ms, key=b"press-%d" % device, value=value.encode(), headers=[header])
        )
    return readings


def export(readings: Sequence[Reading], lake: Path) -> tuple[float, float, Export]:
    """(wall seconds, CPU seconds, export) of one window."""
    sink = ParquetSink(lake, format_of=lambda _topic: TopicFormat(), limits=Limits(rows=1_000_000), software="bench")
    sink.open({})
    window = ClosedWindow(
        topic="telemetry",
        topic_id="0" * 32,
        number=0,
        start_ms=START_MS,
        end_ms=START_MS + 3_600_000,
        offsets={0: (0, len(readings))},
        reason="interval",
    )
    wall, cpu = time.perf_counter(), time.process_time()
    done = sink.write(window, MemoryReader(readings), CancelFlag())
    spent = time.perf_counter() - wall, time.process_time() - cpu
    sink.close()
    return *spent, done


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    readings = make_readings(count)
    gc.freeze()  # the readings are the benchmark's; a real reader holds one slice of them at a time
    before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rates, cpu_rates = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as lake:
            wall_s, cpu_s, done = export(readings, Path(lake))
        rates.append(count / wall_s)
        cpu_rates.append(cpu_s / count * 1e6)
        size = sum(file.size_bytes for file in done.files)
        print(f"{wall_s:.2f} s, {len(done.files)} files, {size / count:.1f} bytes a row")
    after_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{count} readings, median of {rounds}: {statistics.median(rates):,.0f} rows/s "
        f"({min(rates):,.0f} to {max(rates):,.0f}), {statistics.median(cpu_rates):.2f} us CPU a row, "
        f"peak memory {after_mb - before_mb:.0f} MB above the readings themselves"
    )


if __name__ == "__main__":
    main()
