"""A small box at rest: a real log, windows of it exported by the real sink, the newest readings not exported yet.

It is made once and copied for each test, which damages its copy.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from commitlog.base import NewRecord
from commitlog.embedded import EmbeddedLog
from commitlog.reader import FileLogReader
from commitlog.settings import FieldSettings, TopicSettings
from core.clock import SystemClock
from sink.attempts import Pauses
from sink.holding import Holding
from sink.metrics import SinkMetrics
from sink.parquet.held import Limits
from sink.parquet.sink import ParquetSink
from sink.parquet.writer import ROW_GROUP_ROWS
from sink.payload.reading import Reading, json_reading, raw_reading
from sink.payload.schema import Schema
from sink.payload.times import Skew
from sink.runner import Runner
from sink.verify.report import VerifyReport
from sink.verify.run import verify_lake
from tests.commitlog.log_support import log_settings, opened
from tests.conftest import wait_until_async
from tests.log_fakes import FakeClock
from tests.sink.sink_fakes import run_until

CLOCK = FakeClock()
DAY_MS = 86_400_000
WINDOWS = 3
PER_WINDOW = 400
TAIL = 60
DECLARED = Schema.of(
    TopicSettings(name="declared", fields=(FieldSettings(name="temp", type="double", unit="Cel", required=True),))
)


def reading_of(topic: str) -> Reading:
    """How the box reads its topics."""
    if topic == "mqtt":
        return raw_reading(Skew())
    return json_reading(Skew(), schema=DECLARED if topic == "declared" else None)


def awkward(rng: random.Random, number: int, now_ms: int) -> bytes:
    """A payload; most are plain, some are of every other sort there is."""
    plain = {"ts": now_ms - rng.randrange(60_000), "seq": number, "temp": round(rng.uniform(-20, 80), 2), "on": True}
    other: Sequence[Any] = (
        {"ts": now_ms - 3 * DAY_MS, "late": number},
        {"ts": 4_000_000_000_000, "absurd": 1},
        {"motor": {"temp": rng.random(), "axes": {"x": 1, "y": -1}}, "tags": ["a", "b"], "empty": {}},
        [{"seq": number, "n": 0}, {"seq": number, "n": 1, "ts": now_ms - 4 * DAY_MS}, 7, {"n": 2}],
        {"readings": [{"n": 1}, {"n": 2}], "site": "hall-0"},
        {"temp": "hot", "seq": str(number), "wide": 2**60 + number, "huge": 2**70, "mixed": [1, [2]]},
        {"wide": 0.5, "ints": [1, 2**60], "floats": [1, 2.5, None], "on": None},
        -0.0,
        "text",
        None,
        [],
        [1, 2, 3],
    )
    raw = (b"oops", b"", b'{"a":1}\n{"a":2}\nbad\n', b'{"a":1,"a":2}', b"\xff\xfe", b'{"u":"\xc3\xa9\\u00e9"}')
    pick = rng.random()
    if pick < 0.6:
        return json.dumps(plain).encode()
    if pick < 0.9:
        return json.dumps(rng.choice(other)).encode()
    return rng.choice(raw)


def records(topic: str, count: int, seed: int) -> list[NewRecord]:
    rng = random.Random(seed)
    made = []
    for number in range(count):
        device = b"press-%d" % rng.randrange(12)
        value = awkward(rng, number, CLOCK.now_ms)
        if topic == "declared":
            value = json.dumps({"temp": rng.choice([1, 2.5, "hot", None]), "seq": number}).encode()
        headers: list[tuple[str, bytes | None]] = [("mqtt.topic", b"devices/" + device + b"/x")]
        if rng.random() < 0.1:
            headers.append(("headrace.field", b"level"))
        made.append(NewRecord(topic=topic, key=device if rng.random() < 0.95 else None, value=value, headers=headers))
    return made


async def fill(log: EmbeddedLog, topics: Mapping[str, int], windows: int, *, seed: int = 1) -> None:
    """So many windows of each topic, and a few records after them."""
    for number in range(windows):
        for topic, count in topics.items():
            await log.append(records(topic, count, seed * 1000 + number))
            await log.roll(topic, "test")
    for topic in topics:
        await log.append(records(topic, TAIL, seed * 1000 + 999))


def a_sink(data_dir: Path, **limits: int) -> ParquetSink:
    return ParquetSink(data_dir / "lake", reading_of=reading_of, limits=Limits(**limits), software="test")


async def export(log: EmbeddedLog, data_dir: Path, **limits: int) -> None:
    """Export all closed windows."""
    runner = Runner(
        a_sink(data_dir, **limits),
        open_reader=lambda: FileLogReader(data_dir),
        log=log,
        clock=SystemClock(),
        metrics=SinkMetrics(),
        pauses=Pauses(retry_max_s=0.01, first_s=0.001, wait_s=0.01, poll_s=0.001),
        holding=Holding(),
    )
    windows = await log.rows("windows")
    wanted = {key.split("/")[0]: int(key.split("/")[1]) + 1 for key in sorted(windows)}

    async def done() -> bool:
        rows = await log.rows("sink.parquet")
        return all(rows.get(topic, {}).get("next_window", 0) >= number for topic, number in wanted.items())

    stop_when: list[bool] = []

    async def watch() -> None:
        await wait_until_async(done, 30)
        stop_when.append(True)

    task = asyncio.create_task(watch())
    await run_until(runner, lambda: bool(stop_when))
    await task


async def make_box(data_dir: Path) -> None:
    """The box that most tests start from."""
    async with opened(data_dir, settings=log_settings(), clock=CLOCK) as log:
        for topic in ("telemetry", "mqtt", "declared"):
            await log.create_topic(topic, 3)
        await fill(log, {"telemetry": PER_WINDOW, "mqtt": 30, "declared": 50}, WINDOWS)
        await export(log, data_dir)


@dataclass(slots=True)
class Box:
    """A copy of the box, to be damaged."""

    data_dir: Path

    @property
    def lake(self) -> Path:
        return self.data_dir / "lake"

    def files(self, topic: str = "telemetry", *, quarantine: bool = False) -> list[Path]:
        root = self.lake / "_quarantine" if quarantine else self.lake
        return sorted((root / topic).glob("*/*.parquet"))

    def largest(self, topic: str = "telemetry") -> Path:
        return max(self.files(topic), key=lambda path: path.stat().st_size)

    def where(self, path: Path) -> str:
        return str(path.relative_to(self.data_dir))

    def verify(self, **options: Any) -> VerifyReport:
        return verify_lake(self.data_dir, pause=lambda _seconds: None, **options)


def rewrite(path: Path, change: Any, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write a file anew with its rows changed, as whoever opens and saves it in a tool would; the footer stays."""
    with pq.ParquetFile(path) as file:
        table = file.read()
    notes = dict(table.schema.metadata or {})
    changed: pa.Table = change(table)
    notes |= {key.encode(): value.encode() for key, value in (metadata or {}).items()}
    pq.write_table(
        changed.replace_schema_metadata(notes),
        path,
        compression="zstd",
        row_group_size=ROW_GROUP_ROWS,
        write_page_checksum=True,
    )


def copy_box(source: Path, target: Path) -> Box:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.sock"))
    return Box(target)
