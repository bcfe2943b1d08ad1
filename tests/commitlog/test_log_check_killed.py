"""A log in a process of its own, killed with -9 under load again and again: no finding, and nothing acked is lost."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from commitlog.check import check_log
from commitlog.reader import FileLogReader
from tests.commitlog.log_support import log_settings, opened, read_partition

LIVES = int(os.environ.get("LOG_LIVES", "5"))  # more of them for a longer look
ROOT = Path(__file__).parents[2]
WRITER = """
import asyncio, sys
from pathlib import Path
from core.clock import SystemClock
from tests.commitlog.log_support import log_settings, open_log, record

async def main():
    log = await open_log(Path(sys.argv[1]), clock=SystemClock(), settings=log_settings(flush_bytes="4KB"))
    await log.create_topic("telemetry", 3)
    number = int(sys.argv[2])
    while True:
        records = [record("telemetry", f"d{n % 7}", b"%09d" % n + bytes(n % 900)) for n in range(number, number + 20)]
        number += 20
        positions = await log.append(records)
        for one, at in zip(records, positions, strict=True):
            print(at.partition, at.offset, one.value[:9].decode())
        sys.stdout.flush()
        if number % 2000 == 0:
            await log.roll("telemetry", "test")

asyncio.run(main())
"""


@pytest.mark.timeout(60 + 10 * LIVES)
async def test_a_log_killed_again_and_again_has_no_gap_and_loses_nothing_acked(tmp_path: Path) -> None:
    rng = random.Random(1)
    acked: dict[tuple[int, int], bytes] = {}
    for life in range(LIVES):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(life * 1_000_000)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(rng.randint(20, 3_000))]
            writer.kill()
            lines += writer.stdout.readlines()
        for line in lines:
            if line.endswith(b"\n"):
                partition, offset, value = line.split()
                acked[int(partition), int(offset)] = value
        report = check_log(tmp_path)
        assert report.clean, report.found.findings.kept
    async with opened(tmp_path, settings=log_settings()) as log:
        assert log.report.cuts == []
    report = check_log(tmp_path)
    assert report.clean, report.found.findings.kept
    assert report.records >= len(acked) > 20 * LIVES
    _all_there(tmp_path, acked)


def _all_there(data_dir: Path, acked: dict[tuple[int, int], bytes]) -> None:
    with closing(FileLogReader(data_dir)) as reader:
        for partition in range(3):
            stored = {r.offset: (r.value or b"")[:9] for r in read_partition(reader, "telemetry", partition)}
            for (where, offset), value in acked.items():
                assert where != partition or stored[offset] == value
