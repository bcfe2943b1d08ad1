"""The load that the benchmarks of the log put on it, and the log they put it on."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commitlog.embedded import EmbeddedLog
from commitlog.partitioner import partition_for_key
from commitlog.settings import LogSettings
from commitlog.storage import RUN_DIR, SystemStorage
from core.clock import SystemClock

BUILD = Path(__file__).parent / "build"
PARTITIONS = 8
CHUNK = 10
OUTSTANDING = 1_000
DEVICES = 1_000
VALUE = json.dumps(
    {"ts": 1_800_000_000_000, "seq": 1, "temperature": 21.57, "vibration": 0.0126, "rpm": 1480, "status": "ok"}
)
VALUE_BYTES = (VALUE[:-1] + ', "p": "').encode().ljust(118, b"x") + b'"}'


def devices() -> list[tuple[int, bytes, list[tuple[str, bytes | None]]]]:
    """(partition, key, headers) of each device, as a listener caches them."""
    return [
        (partition_for_key(key, PARTITIONS), key, [("mqtt.topic", b"devices/" + key + b"/telemetry")])
        for key in (b"dev-%06d" % number for number in range(DEVICES))
    ]


class ClosedLoop:
    """Keeps `OUTSTANDING` records unacknowledged: each acknowledged chunk is followed by a new one, as by a client."""

    def __init__(self, log: Any, partitions: Sequence[Any], seconds: float) -> None:
        self._log = log
        self._targets = [(partitions[index].append, key, headers) for index, key, headers in devices()]
        self._next = 0
        self._end_s = time.monotonic() + seconds
        self.acked = 0
        self._open = 0
        self.done = asyncio.Event()

    def start(self) -> None:
        for _ in range(OUTSTANDING // CHUNK):
            self._send()

    def committed(self, token: int) -> None:
        self.acked += token
        self._open -= 1
        if time.monotonic() < self._end_s:
            self._send()
        elif not self._open:
            self.done.set()

    def failed(self, token: int) -> None:
        raise RuntimeError("the log failed")

    def _send(self) -> None:
        now_ms = self._log.now_ms()
        for _ in range(CHUNK):
            append, key, headers = self._targets[self._next]
            self._next = (self._next + 1) % DEVICES
            append(now_ms, key, VALUE_BYTES, headers)
        self._open += 1
        self._log.appended(CHUNK, CHUNK * 170, self, self._token())

    def _token(self) -> int:
        return CHUNK


class TimedLoop(ClosedLoop):
    """A closed loop that notes how long each chunk waited for its acknowledgement."""

    def __init__(self, log: Any, partitions: Sequence[Any], seconds: float) -> None:
        super().__init__(log, partitions, seconds)
        self.waited_ns: list[int] = []

    def committed(self, token: int) -> None:
        self.waited_ns.append(time.monotonic_ns() - token)
        super().committed(CHUNK)

    def _token(self) -> int:
        return time.monotonic_ns()


async def open_log(directory: Path, **settings: Any) -> EmbeddedLog:
    (directory / RUN_DIR).mkdir(parents=True)
    log = await EmbeddedLog.open(
        directory,
        LogSettings(**settings),
        clock=SystemClock(),
        storage=SystemStorage(),
        on_failure=lambda error: print(repr(error), file=sys.stderr),
    )
    await log.create_topic("telemetry", PARTITIONS)
    return log


def fresh(name: str) -> Path:
    directory = BUILD / name
    shutil.rmtree(directory, ignore_errors=True)
    return directory
