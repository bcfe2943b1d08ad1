"""What a reader that is far behind costs the writer: appends at full speed, alone and with another process beside them.

The reader takes the log from its start to its end, over and over, as fast as it can, and with that a processor. So that
what it takes of the machine is not taken for what it does to the log, the same is measured with a process that only
counts. Every run is one process and one log, in the order that is asked for.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.log_load import PARTITIONS, ClosedLoop, TimedLoop, fresh, open_log

KINDS = ("alone", "reader", "counter")
_FILL_S = 2.0  # a million records to be behind of

READER = """
import json, sys, time
from pathlib import Path
from commitlog.reader import FileLogReader
reader = FileLogReader(Path(sys.argv[1])); count = passes = 0
print("ready", flush=True)
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    for partition, mark in enumerate(reader.watermarks("telemetry")):
        offset = mark.start
        while offset < mark.high and time.monotonic() < end:
            piece = reader.read("telemetry", partition, offset)
            for record in piece.records:
                count += record.value is not None
            assert not piece.gaps
            offset = piece.next_offset
    passes += 1
print(json.dumps({"read": count, "passes": passes}))
"""

COUNTER = """
import json, sys, time
print("ready", flush=True)
end = time.monotonic() + float(sys.argv[2]); count = 0
while time.monotonic() < end:
    count += 1
print(json.dumps({"read": 0, "passes": 0}))
"""


async def measure_behind(order: Sequence[str], seconds: float) -> dict[str, dict[str, float]]:
    """Rate, latency and CPU of appends in each of `KINDS`, measured in that order."""
    directory = fresh("log-behind")
    log = await open_log(directory)
    filling = ClosedLoop(log, log.partitions("telemetry"), _FILL_S)
    filling.start()
    await filling.done.wait()
    results = {}
    for kind in order:
        beside = None
        if kind != "alone":
            beside = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", READER if kind == "reader" else COUNTER, str(directory), str(seconds)),
                stdout=asyncio.subprocess.PIPE,
            )
            assert beside.stdout is not None
            await beside.stdout.readline()
        results[kind] = await _append(log, seconds)
        if beside is not None:
            results[kind] |= json.loads((await beside.communicate())[0])
    await log.close()
    shutil.rmtree(directory)
    return results


async def _append(log: Any, seconds: float) -> dict[str, float]:
    partitions = log.partitions("telemetry")
    assert len(partitions) == PARTITIONS
    loop = TimedLoop(log, partitions, seconds)
    cpu_s, started_s = time.process_time(), time.monotonic()
    loop.start()
    await loop.done.wait()
    wall_s, used_s = time.monotonic() - started_s, time.process_time() - cpu_s
    waited_ns = sorted(loop.waited_ns)
    return {
        "records_per_s": loop.acked / wall_s,
        "cpu_us": used_s / loop.acked * 1e6,
        "p50_ms": waited_ns[len(waited_ns) // 2] / 1e6,
        "p99_ms": waited_ns[len(waited_ns) * 99 // 100] / 1e6,
    }
