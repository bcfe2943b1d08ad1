"""A reader in a process of its own: sees records in time, and lives through the writer's restarts."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from core.clock import SystemClock
from tests.commitlog.log_support import Failures, open_log, record

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).parents[2]
DEADLINE_S = 20.0
FOLLOW = """
import json, sys
from pathlib import Path
from commitlog.reader import FileLogReader

reader = FileLogReader(Path(sys.argv[1]))
offset, state = 0, None
while True:
    if (now := reader.writer_state()) != state:
        state = now
        print(json.dumps({"state": now.value}), flush=True)
    part = reader.read("telemetry", 0, offset)
    for one in part.records:
        print(json.dumps({"offset": one.offset, "value": one.value.decode()}), flush=True)
    assert not part.gaps, part.gaps
    offset = part.next_offset
    reader.wait(0.2)
"""


class Follower:
    """The process, and what it says line by line."""

    def __init__(self, data_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", FOLLOW, str(data_dir)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        self._lines: Queue[str] = Queue()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def says(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self._lines.get(timeout=DEADLINE_S))
        return said

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._thread.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def followers() -> Iterator[list[Follower]]:
    made: list[Follower] = []
    yield made
    for one in made:
        one.close()


async def test_a_follower_lives_through_restarts_of_the_writer(tmp_path: Path, followers: list[Follower]) -> None:
    log = await open_log(tmp_path, clock=SystemClock())
    await log.create_topic("telemetry", 1)
    await log.append([record("telemetry", "a", "before")])
    await log.drain()
    follower = Follower(tmp_path)
    followers.append(follower)
    loop_says = _off_loop(follower)
    assert await loop_says() == {"state": "live"}
    assert await loop_says() == {"offset": 0, "value": "before"}
    await log.append([record("telemetry", "a", "during")])
    assert await loop_says() == {"offset": 1, "value": "during"}
    await log.close()
    assert await loop_says() == {"state": "stale"}
    failures = Failures()
    log = await open_log(tmp_path, clock=SystemClock(), on_failure=failures)
    said = [await loop_says()]
    await log.append([record("telemetry", "a", "after")])
    said.append(await loop_says())
    assert said == [{"state": "live"}, {"offset": 2, "value": "after"}]
    await log.close()
    assert not failures
    assert follower.process.poll() is None


def _off_loop(follower: Follower) -> Any:
    return lambda: asyncio.to_thread(follower.says)


async def test_many_followers_see_every_record(tmp_path: Path, followers: list[Follower]) -> None:
    log = await open_log(tmp_path, clock=SystemClock())
    await log.create_topic("telemetry", 1)
    followers.extend(Follower(tmp_path) for _ in range(2))
    says = [_off_loop(one) for one in followers]
    for one in says:
        assert await one() == {"state": "live"}
    for number in range(20):
        await log.append([record("telemetry", "a", f"{number}")])
    for one in says:
        assert [await one() for _ in range(20)] == [{"offset": n, "value": f"{n}"} for n in range(20)]
    await log.close()
