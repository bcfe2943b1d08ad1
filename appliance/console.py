"""The console process: the status view, the HTTP API and the web console, beside the process that writes the log.

It reads the log's files, asks the edge over the local channel, and holds nothing that it could not rebuild, but for
what the log has let go of (`devices/status_keeper.py`): it may be killed at any time.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import structlog
import uvicorn

from api.app import create_app
from api.context import Services
from api.reader_pool import ReaderPool
from appliance.process import announce_ready, child_main
from appliance.settings import Settings
from commitlog.base import LogReader
from commitlog.reader import FileLogReader
from commitlog.remote import RemoteLog
from commitlog.storage import SystemStorage
from core.channel import ChannelClient
from core.clock import SystemClock
from core.errors import ConfigError, PortTakenError
from core.ports import publish_port
from core.tasks import background
from devices.payload_fields import FieldNames
from devices.readings import NamesOf
from devices.registry_client import RegistryClient
from devices.status import StatusView
from devices.status_keeper import StatusKeeper
from devices.tail import StatusTail

STATE_DIR: Final = "state"
"""Below the data directory: what the console keeps over a restart."""
_PORT_NAME: Final = "http"
_ASK_TIMEOUT_S: Final = 2.0  # a page must not hang on an edge that does
_MAX_CONCURRENT: Final = 256  # connections and requests; pages poll once a second, so hundreds of people at most
_MAX_HEADER_BYTES: Final = 64 << 10
_LAST_REQUESTS_S: Final = 3  # what requests under way get at a stop; the longest scan takes one

_log = structlog.get_logger("headrace.console")


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set. Raises PortTakenError or ConfigError when it cannot listen."""
    run_dir = settings.data_dir / "run"
    if settings.http.port == 0:
        publish_port(run_dir, _PORT_NAME, 0)
        announce_ready()
        await stop.wait()
        return
    listener = listen(settings.http.host, 0 if settings.http.port == "auto" else settings.http.port)
    channel = ChannelClient(run_dir / "edge.sock")
    services, tail, keeper = assemble(settings, channel)
    tail.start()
    keeper.start()
    running: set[asyncio.Task[None]] = set()
    following = background(services.registry.follow(), "registry", running)
    try:
        await _serve(settings, services, listener, stop)
    finally:
        listener.close()
        following.cancel()
        await asyncio.to_thread(tail.stop)
        await asyncio.to_thread(keeper.stop)
        services.readers.close()
        await channel.close()


def assemble(settings: Settings, channel: ChannelClient) -> tuple[Services, StatusTail, StatusKeeper]:
    """What the routes answer from, the tail that feeds it, and what keeps it over a restart (both not started)."""

    def open_reader() -> LogReader:
        return FileLogReader(settings.data_dir)

    async def ask(verb: str, **args: Any) -> Any:
        return await channel.call(verb, timeout_s=_ASK_TIMEOUT_S, **args)

    clock = SystemClock()
    registry = RegistryClient(ask)
    view = StatusView(
        max_devices=settings.http.max_devices,
        names_of=names_of(settings),
        expected=lambda key: registry.view.expected_interval_ms(key),
    )
    keeper = StatusKeeper(view, settings.data_dir / STATE_DIR, SystemStorage(), clock)
    tail = StatusTail(view, open_reader, clock, keeper)
    services = Services(
        view=view,
        tail=tail,
        keeper=keeper,
        readers=ReaderPool(open_reader),
        log=RemoteLog(channel),
        ask=ask,
        run_dir=settings.data_dir / "run",
        lake_dir=settings.data_dir / "lake",
        clock=clock,
        registry=registry,
        max_registered=settings.http.max_devices,
        allowed_hosts=(settings.http.host, *settings.http.allowed_hosts),
        sink_expected=settings.sink.enabled,
        weaker_durability=settings.weaker_durability(),
    )
    return services, tail, keeper


def names_of(settings: Settings) -> NamesOf:
    """How each topic's payloads name sequence number and time."""
    declared = {topic.name: FieldNames(topic.sequence_field, topic.timestamp_field) for topic in settings.topics}
    usual = FieldNames()
    return lambda topic: declared.get(topic, usual)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(
                f"port {port} on {host} is already in use",
                where="http.port",
                mend="stop what uses it, or set http.port to another number or `auto`",
            ) from error
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror or error}",
            where="http.host, http.port",
            mend="use an address of this machine and a port this user may use",
        ) from error


class _Server(uvicorn.Server):
    """Uvicorn without signal handlers of its own: signals are this process's business."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


async def _serve(settings: Settings, services: Services, listener: socket.socket, stop: asyncio.Event) -> None:
    server = _Server(
        uvicorn.Config(
            create_app(services),
            http="h11",  # httptools is faster but puts no limit on the size of headers
            h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_MAX_CONCURRENT,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=_LAST_REQUESTS_S,
        )
    )
    port = listener.getsockname()[1]
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    publish_port(settings.data_dir / "run", _PORT_NAME, port)
    _log.info("console listens", host=settings.http.host, port=port)
    announce_ready()
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    server.should_exit = True
    await serving


if __name__ == "__main__":
    child_main("console", run)
