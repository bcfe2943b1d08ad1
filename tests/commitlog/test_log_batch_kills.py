"""An idempotent producer against a log in a process of its own that is killed under it, again and again."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from commitlog.reader import FileLogReader
from commitlog.remote import RemoteLog
from core.channel import ChannelClient
from core.clock import SystemClock
from core.errors import UnavailableError
from tests.commitlog.batch_support import CODECS, client_batch
from tests.commitlog.log_support import open_log, read_partition

pytestmark = pytest.mark.timeout(90)

ROOT = Path(__file__).parents[2]
KILLS = 4
BATCHES_BETWEEN_KILLS = 40
SERVE = """
import asyncio, sys
from pathlib import Path
from commitlog.remote import log_handlers
from core.channel import ChannelServer
from core.clock import SystemClock
from tests.commitlog.log_support import open_log

async def main() -> None:
    log = await open_log(Path(sys.argv[1]), clock=SystemClock())
    await log.create_topic("telemetry", 1)
    await ChannelServer(Path(sys.argv[2]), log_handlers(log)).start()
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@contextmanager
def serving(data_dir: Path, socket: Path) -> Iterator[subprocess.Popen[str]]:
    """The log's process, ready; killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(data_dir), str(socket)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class Producer:
    """Five batches under way, as a Kafka client has; after a failure all that were not acknowledged are sent again."""

    def __init__(self) -> None:
        self.identity = (-1, -1)
        self.next = 0
        self.unacked: list[tuple[int, bytes]] = []
        self.positions: dict[int, int] = {}

    async def send(self, log: RemoteLog) -> None:
        while len(self.unacked) < 5:
            values = [b"%d" % n for n in range(self.next, self.next + 3)]
            codec = list(CODECS.values())[self.next // 3 % len(CODECS)]
            self.unacked.append((self.next, client_batch(values, codec=codec, producer=(*self.identity, self.next))))
            self.next += 3
        results = await asyncio.gather(
            *(log.append_batch("telemetry", 0, batch) for _, batch in self.unacked), return_exceptions=True
        )
        for (first, _), result in zip(list(self.unacked), results, strict=True):
            if isinstance(result, UnavailableError):
                raise result
            assert not isinstance(result, BaseException), result
            self.positions[first] = result.offset
            self.unacked.pop(0)


async def test_what_is_sent_again_after_kill_9_is_stored_once(tmp_path: Path) -> None:
    producer = Producer()
    with tempfile.TemporaryDirectory(prefix="hr") as short:  # a socket's path has 108 bytes
        socket = Path(short) / "edge.sock"
        for life in range(KILLS + 1):
            with serving(tmp_path, socket) as process:
                client = ChannelClient(socket)
                log = RemoteLog(client)
                if not life:
                    identity = await log.init_producer_id()
                    producer.identity = (identity.producer_id, identity.epoch)
                reached = len(producer.positions) + BATCHES_BETWEEN_KILLS
                while len(producer.positions) < reached:
                    await producer.send(log)
                if life < KILLS:
                    sending = asyncio.create_task(producer.send(log))
                    await asyncio.sleep(0.004 * life)  # a little further into the batches' way each time
                    process.kill()
                    await asyncio.wait([sending])
                    assert sending.exception() is None or isinstance(sending.exception(), UnavailableError)
                await client.close()
    await (await open_log(tmp_path, clock=SystemClock())).close()  # the last kill left some in the journal alone
    with closing(FileLogReader(tmp_path)) as reader:
        found = [int(one.value or b"") for one in read_partition(reader, "telemetry", 0)]
    acked = 3 * len(producer.positions)
    assert found[:acked] == list(range(acked))
    assert found == list(range(len(found)))
    assert all(offset == first for first, offset in producer.positions.items())
