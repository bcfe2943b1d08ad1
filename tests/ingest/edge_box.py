"""An edge in the test's own process: a real log on a real directory, real listeners on real sockets."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import msgspec

from commitlog.base import Record
from commitlog.embedded import EmbeddedLog
from commitlog.reader import FileLogReader
from commitlog.settings import LogSettings
from commitlog.storage import SystemFile, SystemStorage
from core.clock import SystemClock
from core.threads import SystemThreads
from ingest.broker.authorizer import ConfiguredRefusals
from ingest.broker.broker import Broker
from ingest.limits import Admission
from ingest.mqtt.connection import MqttConnection
from ingest.mqtt.listener import MqttListener
from ingest.routing import Router
from ingest.sessions import EVENTS_TOPIC, MAX_DEVICES, Sessions
from ingest.settings import DEFAULT_ROUTES, MqttSettings, RouteSettings, TcpSettings
from ingest.tcp import TcpListener
from tests.conftest import wait_until_async
from wire.mqtt.encode import encode_connect
from wire.mqtt.packets import Connect

FAST_LOG = LogSettings(
    commit_interval="1ms",
    flush_interval="1ms",
    journal_size="4MB",
    pending_bytes="1MB",
    checkpoint_bytes="1MB",
    reserve="1MB",
    full_mark="1MB",
)


class GatedStorage(SystemStorage):
    """Real files; while `gate` is closed, a sync waits, and with `fail` set it fails like a broken disk."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.fail = False
        self.free: int | None = None
        """What the disk says is free; None: the truth."""

    def free_bytes(self, path: Path) -> int:
        return super().free_bytes(path) if self.free is None else self.free

    def open(self, path: Path, *, create: bool = False) -> SystemFile:
        return _GatedFile(super().open(path, create=create), self)  # type: ignore[return-value]


class _GatedFile:
    def __init__(self, file: SystemFile, storage: GatedStorage) -> None:
        self._file = file
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def sync(self) -> None:
        self._storage.gate.wait()
        if self._storage.fail:
            raise OSError(5, "Input/output error")
        self._file.sync()


class ShiftedClock(SystemClock):
    """The system's clocks, ahead by as much as the test says: both of them, as if so much time had passed."""

    def __init__(self) -> None:
        self.shift_ms = 0
        self.step_ms = 0
        """How far the wall clock alone was set forward."""

    def time_ms(self) -> int:
        return super().time_ms() + self.shift_ms + self.step_ms

    def monotonic_ms(self) -> int:
        return super().monotonic_ms() + self.shift_ms


class EdgeBox:
    """What a test asks of the edge."""

    def __init__(
        self,
        data_dir: Path,
        log: EmbeddedLog,
        storage: GatedStorage,
        clock: ShiftedClock,
        sessions: Sessions,
        broker: Broker,
        mqtt: MqttListener,
        tcp: TcpListener,
    ) -> None:
        self.data_dir = data_dir
        self.log = log
        self.storage = storage
        self.clock = clock
        self.sessions = sessions
        self.broker = broker
        self.mqtt = mqtt
        self.tcp = tcp
        self.mqtt_port = self.tcp_port = self.websocket_port = 0
        self.failures: list[Exception] = []

    def connection(self, client_id: str) -> Any:
        """The open MQTT connection of a client."""
        connection = self.broker.sessions[client_id].connection
        assert connection is not None, f"{client_id} is away"
        return connection

    def pass_time(self, seconds: float) -> None:
        """So much time has passed, and the second in which the MQTT server looks at it."""
        self.clock.shift_ms += round(seconds * 1000)
        self.broker.tick()

    def kill(self, data_dir: Path) -> Path:
        """What kill -9 at this moment would leave of the data directory, as a directory of its own."""
        shutil.copytree(self.data_dir, data_dir, ignore=shutil.ignore_patterns("run"))
        return data_dir

    async def records(self, topic: str, count: int) -> list[Record]:
        """The first `count` records of a topic, once they are readable; in partition order."""

        def found() -> list[Record] | None:
            records = self.records_now(topic)
            return records if len(records) >= count else None

        return await wait_until_async(found, describe=lambda: f"{count} records in {topic}") or []

    def records_now(self, topic: str) -> list[Record]:
        """What is readable of a topic."""
        reader = FileLogReader(self.data_dir)
        try:
            records: list[Record] = []
            for partition, mark in enumerate(reader.watermarks(topic)):
                offset = mark.start
                while offset < mark.high:
                    piece = reader.read(topic, partition, offset)
                    records.extend(piece.records)
                    offset = piece.next_offset
            return records
        finally:
            reader.close()

    async def events(self, count: int) -> list[dict[str, Any]]:
        """The first `count` device events (not counting edge.started), in the order of their keys' partitions."""

        def found() -> list[dict[str, Any]] | None:
            decoded = [msgspec.json.decode(record.value or b"") for record in self.records_now(EVENTS_TOPIC)]
            events = [event for event in decoded if event["event"] != "edge.started"]
            return events if len(events) >= count else None

        return await wait_until_async(found, describe=f"{count} device events") or []


@asynccontextmanager
async def edge_box(
    data_dir: Path,
    *,
    mqtt: MqttSettings | None = None,
    tcp: TcpSettings | None = None,
    routes: Sequence[RouteSettings] = DEFAULT_ROUTES,
    log_settings: LogSettings = FAST_LOG,
    admission: Admission | None = None,
    max_devices: int = MAX_DEVICES,
    shift_ms: int = 0,
) -> AsyncIterator[EdgeBox]:
    """An edge that listens on free ports, closed in order at the end. `shift_ms`: how far its clocks are ahead."""
    storage = GatedStorage()
    clock = ShiftedClock()
    clock.shift_ms = shift_ms
    failures: list[Exception] = []
    router = Router(routes)
    log = await EmbeddedLog.open(data_dir, log_settings, clock=clock, storage=storage, on_failure=failures.append)
    for topic in sorted({EVENTS_TOPIC, "telemetry", *router.topics}):
        await log.create_topic(topic)
    sessions = Sessions(log, log.boot_id, max_devices=max_devices)
    mqtt_settings = mqtt or MqttSettings()
    refusals = ConfiguredRefusals(publish=mqtt_settings.refuse_publish, subscribe=mqtt_settings.refuse_subscribe)
    reading = SystemThreads().worker("catch-up", failures.append)
    broker = Broker(
        log,
        router,
        refusals,
        mqtt_settings,
        clock=clock,
        reading=reading,
        open_reader=lambda: FileLogReader(data_dir),
    )
    mqtt_listener = MqttListener(mqtt_settings, log, broker, sessions, MqttConnection, admission=admission)
    tcp_listener = TcpListener(tcp or TcpSettings(), log, sessions, admission=admission)
    box = EdgeBox(data_dir, log, storage, clock, sessions, broker, mqtt_listener, tcp_listener)
    box.failures = failures
    sessions.edge_started()
    box.mqtt_port = await mqtt_listener.start("127.0.0.1", "auto")
    box.websocket_port = await mqtt_listener.start_websocket("127.0.0.1", "auto")
    await mqtt_listener.start_unix()
    box.tcp_port = await tcp_listener.start("127.0.0.1", "auto")
    try:
        yield box
    finally:
        storage.gate.set()
        while _clients:
            await _clients.pop().close()
        for listener in (mqtt_listener, tcp_listener):
            await listener.drain()
        await log.drain()
        for listener in (mqtt_listener, tcp_listener):
            await listener.close()
        await broker.close()
        await log.close()


_clients: list[Client] = []  # of the running test; closed with its box


class Client:
    """A raw socket with a deadline on every read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, port: int) -> Self:
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        _clients.append(client)
        return client

    @classmethod
    async def mqtt(cls, port: int, client_id: str, **options: Any) -> Client:
        """Connected and accepted."""
        client = await cls.connect(port)
        client.send(encode_connect(Connect(client_id=client_id, **options)))
        assert await client.read(4) == b"\x20\x02\0\0"
        return client

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def read(self, size: int) -> bytes:
        return await asyncio.wait_for(self._reader.readexactly(size), 10)

    async def line(self) -> bytes:
        return await asyncio.wait_for(self._reader.readline(), 10)

    async def rest(self) -> bytes:
        """Everything until the box closes the connection."""
        try:
            return await asyncio.wait_for(self._reader.read(), 10)
        except ConnectionResetError:
            return b""

    async def silent(self) -> bool:
        """Whether nothing has arrived although the loop went round a few times."""
        for _ in range(20):
            await asyncio.sleep(0)
        return not self._reader._buffer  # type: ignore[attr-defined]  # a read with a timeout would have to wait

    def stop_reading(self) -> None:
        """Leave what comes from now on in the socket."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    def read_on(self) -> None:
        """Read again."""
        self._writer.transport.resume_reading()  # type: ignore[attr-defined]

    def end(self) -> None:
        """Send nothing more, but go on reading."""
        self._writer.write_eof()

    def abort(self) -> None:
        """Be gone without a word."""
        self._writer.transport.abort()

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            return
