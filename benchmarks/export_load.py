"""The readings that the benchmarks of exporting are about, and how they get into a log and into a file of JSON lines.

A fleet of `DEVICES` machines says something once a second, each at its own millisecond, in an order that stays. A
reading is a flat JSON object of `READING_BYTES` bytes: the device's time, a sequence number, two numbers with a
fraction, an integer and two short texts, all of fixed width. The seed is fixed, so they are always the same.

They go into a real log the way the MQTT listener puts them there - keyed by device, the MQTT topic as a header - on a
clock that moves with them, so that an hour of readings is written in seconds and received times are seeded too. Since
they come faster than from a fleet, the segments' batches are as long as `log.flush_bytes` lets them grow.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from benchmarks.measure import BenchmarkError
from commitlog.base import ClosedWindow, Header
from commitlog.embedded import EmbeddedLog
from commitlog.partitioner import partition_for_key
from commitlog.settings import LogSettings
from commitlog.storage import RUN_DIR, SystemStorage
from core.clock import SystemClock

TOPIC: Final = "telemetry"
PARTITIONS: Final = 8
DEVICES: Final = 1_000
READING_BYTES: Final = 120
START_MS: Final = 1_795_154_400_000  # 2026-11-20T06:00Z: twenty million readings end on the same day
CHUNK: Final = 100  # readings that are received together, a tenth of a second of the fleet's
MAX_WAITING: Final = 20_000  # readings whose commit is awaited: a few MB, and no commit ever finds nothing to do
AWKWARD_KINDS: Final = 5
_STATES: Final = ("running",) * 9 + ("waiting",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """How many readings, and of how many in a hundred something is awkward."""

    readings: int
    awkward_percent: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """A payload, whose it is (a number below `DEVICES`) and when the box receives it."""

    device: int
    received_ms: int
    payload: bytes


def device_name(device: int) -> str:
    return f"press-{device:04}"


def readings(mix: Mix, start_ms: int = START_MS) -> Iterator[Reading]:
    """The readings of the mix, in the order in which they are received; always the same ones."""
    rng = random.Random(1)
    chance = rng.random
    order = list(range(DEVICES))
    rng.shuffle(order)
    bases = [20 + rng.random() * 60 for _ in order]
    share = mix.awkward_percent / 100
    for number in range(mix.readings):
        second, place = divmod(number, DEVICES)
        device = order[place]
        payload = (
            f'{{"ts":{start_ms + number},"seq":{100_000 + second},"temperature":{bases[device] + chance() * 10:.2f},'
            f'"vibration":{chance() * 0.99:.4f},"rpm":{1_000 + int(chance() * 999)},'
            f'"state":"{_STATES[int(chance() * 10)]}","line":"hall-{device % 50:02}.{device % 7}"}}'
        ).encode()
        if share and chance() < share:
            payload = awkward(payload, number)
        yield Reading(device, start_ms + (number // CHUNK + 1) * CHUNK, payload)


def awkward(payload: bytes, number: int) -> bytes:
    """A reading as it should not be, of the kinds in turn: nested, with lists, incomplete, several rows, broken."""
    kind = number % AWKWARD_KINDS
    if kind == 4:
        return payload[:-1]
    fields = json.loads(payload)
    if kind == 0:
        nested = {"bearing": {"left": fields["vibration"], "right": fields["temperature"]}, "firmware": "2.4.1"}
        fields = {"ts": fields["ts"], "seq": fields["seq"], "motor": nested}
    elif kind == 1:
        fields["samples"] = [fields["rpm"] + step for step in range(8)]
        fields["alarms"] = ["overheated", fields["state"]]
    elif kind == 2:
        del fields["temperature"], fields["state"], fields["line"]
    else:
        rows = [{**fields, "ts": fields["ts"] - age_ms} for age_ms in (750, 500, 250, 0)]
        fields = {"line": fields.pop("line"), "readings": rows}
    return json.dumps(fields, separators=(",", ":")).encode()


class MovingClock(SystemClock):
    """Wall-clock time as it is set, for the times received; monotonic time as it is."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms

    def time_ms(self) -> int:
        return self.now_ms


class _Waiting:
    """Counts the readings whose commit has not come; a failed commit ends the run."""

    def __init__(self) -> None:
        self.count = 0
        self._fewer = asyncio.Event()
        self._failed = False

    def committed(self, token: int) -> None:
        self.count -= token
        self._fewer.set()

    def failed(self, token: int) -> None:
        self._failed = True
        self._fewer.set()

    async def at_most(self, count: int) -> None:
        while self.count > count:
            self._fewer.clear()
            await self._fewer.wait()
            if self._failed:
                raise BenchmarkError("the log failed while it was filled")


async def open_log(data_dir: Path, clock: SystemClock, settings: LogSettings | None = None) -> EmbeddedLog:
    """The log as the edge opens it. If it fails, it fails whoever appends, and nobody else asks anything of it."""
    (data_dir / RUN_DIR).mkdir(parents=True, exist_ok=True)
    return await EmbeddedLog.open(
        data_dir,
        settings or LogSettings(),
        clock=clock,
        storage=SystemStorage(),
        on_failure=lambda _error: None,
    )


async def fill(log: EmbeddedLog, clock: MovingClock, mix: Mix, start_ms: int, lines: BinaryIO | None) -> ClosedWindow:
    """Append the readings and close their window; write each as a line for other readers, too, where `lines` is."""
    await log.create_topic(TOPIC, PARTITIONS)
    put = _putting(log)
    waiting = _Waiting()
    open_count = open_bytes = 0
    for reading in readings(mix, start_ms):
        clock.now_ms = reading.received_ms
        open_bytes += put(reading)
        open_count += 1
        if lines is not None:
            lines.write(_line(reading))
        if open_count == CHUNK:
            waiting.count += CHUNK
            log.appended(CHUNK, open_bytes, waiting, CHUNK)
            open_count = open_bytes = 0
            await waiting.at_most(MAX_WAITING)
    waiting.count += open_count
    log.appended(open_count, open_bytes, waiting, open_count)
    await waiting.at_most(0)
    window = await log.roll(TOPIC, "benchmark")
    if window is None or window.span != mix.readings:
        raise BenchmarkError(f"the window holds {window.span if window else 0} of {mix.readings} readings")
    return window


def _putting(log: EmbeddedLog) -> Callable[[Reading], int]:
    """What appends a reading as the MQTT listener does, through what it keeps per topic; gives the bytes it counts."""
    partitions = log.partitions(TOPIC)
    targets: list[tuple[Callable[..., int], bytes, list[Header], int]] = []
    for device in range(DEVICES):
        key = device_name(device).encode()
        topic = b"devices/" + key + b"/telemetry"
        append = partitions[partition_for_key(key, PARTITIONS)].append
        targets.append((append, key, [("mqtt.topic", topic)], len(key) + len(topic) + 40))

    def put(reading: Reading) -> int:
        append, key, headers, around_bytes = targets[reading.device]
        append(reading.received_ms, key, reading.payload, headers)
        return around_bytes + len(reading.payload)

    return put


def _line(reading: Reading) -> bytes:
    """What a reading is to readers that know no log: device and time received among its fields."""
    return b'{"device":"%b","received_at":%d,%b\n' % (
        device_name(reading.device).encode(),
        reading.received_ms,
        reading.payload[1:],
    )
