"""What one message costs between the socket and its PUBACK when every chunk holds one: no sockets, a real log.

    python -m benchmarks.mqtt_connection [--rounds 10] [--profile]

1,000 connections of the MQTT listener with a transport that does nothing, each given one QoS 1 publish of 120 bytes at
a time; a commit follows every 64 of them, into a log on memory (`/dev/shm`), so that no disk is measured. Nanoseconds
of CPU a message, the best of the rounds: with its share of the commit, and `data_received` alone.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from commitlog.embedded import EmbeddedLog
from commitlog.reader import FileLogReader
from commitlog.settings import LogSettings
from commitlog.storage import RUN_DIR, SystemStorage
from core.clock import SystemClock
from core.threads import SystemThreads
from ingest.broker.authorizer import ConfiguredRefusals
from ingest.broker.broker import Broker
from ingest.mqtt.connection import MqttConnection
from ingest.mqtt.listener import MqttListener
from ingest.routing import Router
from ingest.sessions import EVENTS_TOPIC, Sessions
from ingest.settings import DEFAULT_ROUTES, MqttSettings
from wire.mqtt.encode import encode_connect, encode_publish
from wire.mqtt.packets import Connect, Publish

CONNECTIONS = 1_000
PER_COMMIT = 64


class NoTransport:
    """Takes what is written and does nothing with it."""

    def write(self, data: bytes) -> None:
        return

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None) -> None:
        return

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default


async def listener_on(directory: Path) -> tuple[EmbeddedLog, MqttListener]:
    """A listener that is not listening, and its log."""
    (directory / RUN_DIR).mkdir()
    log = await EmbeddedLog.open(
        directory, LogSettings(), clock=SystemClock(), storage=SystemStorage(), on_failure=print
    )
    router = Router(DEFAULT_ROUTES)
    for topic in sorted({EVENTS_TOPIC, *router.topics}):
        await log.create_topic(topic)
    settings = MqttSettings()
    broker = Broker(
        log,
        router,
        ConfiguredRefusals(),
        settings,
        clock=SystemClock(),
        reading=SystemThreads().worker("catch-up", print),
        open_reader=lambda: FileLogReader(directory),
    )
    return log, MqttListener(settings, log, broker, Sessions(log, log.boot_id), MqttConnection)


def connected(listener: MqttListener) -> list[tuple[MqttConnection, bytes]]:
    """Connections, and what each of them is given."""
    connections = []
    for number in range(CONNECTIONS):
        connection = MqttConnection(listener)
        connection.connection_made(NoTransport())  # type: ignore[arg-type]  # as much of one as is used
        connection.data_received(encode_connect(Connect(client_id=f"dev-{number:06d}")))
        topic = f"devices/dev-{number:06d}/telemetry"
        publish = encode_publish(Publish(topic=topic, payload=b"x" * 120, qos=1, packet_id=7))
        connections.append((connection, publish))
    return connections


async def one_round(log: EmbeddedLog, connections: list[tuple[MqttConnection, bytes]]) -> tuple[float, float]:
    """Nanoseconds of CPU a message, in all and in `data_received`."""
    began_ns, receiving_ns = time.process_time_ns(), 0
    for at in range(0, CONNECTIONS, PER_COMMIT):
        chunk_ns = time.thread_time_ns()
        for connection, publish in connections[at : at + PER_COMMIT]:
            connection.data_received(publish)
        receiving_ns += time.thread_time_ns() - chunk_ns
        await log.drain()
    return (time.process_time_ns() - began_ns) / CONNECTIONS, receiving_ns / CONNECTIONS


async def run(rounds: int, profile: bool) -> None:
    directory = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    log, listener = await listener_on(directory)
    connections = connected(listener)
    await log.drain()
    await one_round(log, connections)
    profiler = cProfile.Profile()
    if profile:
        profiler.enable()
    figures = [await one_round(log, connections) for _ in range(rounds * 10)]
    profiler.disable()
    print(
        f"{min(all_ns for all_ns, _ in figures):.0f} ns a message, {min(ns for _, ns in figures):.0f} in data_received"
    )
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(25)
    await log.close()
    shutil.rmtree(directory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="ten passes over the connections each")
    parser.add_argument("--profile", action="store_true", help="say where the time goes; the figures are then too high")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(options.rounds, options.profile))


if __name__ == "__main__":
    main()
