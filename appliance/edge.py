"""The edge+log process: listeners in front, the log behind them, the local channel beside them.

It starts in this order, so that nobody is let in before the log is whole: recover, topics, local channel, listeners.
It stops the other way round: listeners stop accepting and reading, what was read commits and is acknowledged,
connections close, the log is closed in order. When the disk fails under it, it ends every connection without an
acknowledgement and exits; the supervisor starts it again, and recovery finds what was acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import structlog

from appliance.edge_metrics import EdgeCollector, metrics_text
from appliance.process import announce_ready, child_main
from appliance.settings import MQTT_WEBSOCKET, Settings, listening_ports
from commitlog.durability import Durability
from commitlog.embedded import EmbeddedLog
from commitlog.reader import FileLogReader
from commitlog.remote import log_handlers
from commitlog.report import MAX_CUTS
from commitlog.storage import RUN_DIR, SystemStorage
from core.channel import ChannelServer, Handler
from core.clock import SystemClock
from core.errors import BadRequestError, DataDirError, NotFoundError, UnavailableError
from core.ports import publish_port
from core.tasks import log_unexpected
from core.threads import SystemThreads
from devices.registry_store import RegistryStore, registry_handlers
from ingest.broker.authorizer import ConfiguredRefusals
from ingest.broker.broker import Broker
from ingest.limits import Admission, FileShare, allow_files, files_wanted, share_files
from ingest.listener import Listener
from ingest.mqtt.connection import MqttConnection
from ingest.mqtt.listener import MqttListener
from ingest.routing import Router
from ingest.session_list import SessionList
from ingest.sessions import EVENTS_TOPIC, Sessions
from ingest.tcp import TcpListener
from retention.keeper import Retention
from retention.lake_keeper import SINK

_log = structlog.get_logger("headrace.edge")


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Be the edge until `stop` is set. Raises HeadraceError when it cannot start, or when the log has failed."""
    waits = asyncio.Event()
    starting = asyncio.ensure_future(Edge.start(settings, on_wait=waits.set))
    for event in (waits, stop):
        await _first(starting, event)
        if starting.done():
            break
        announce_ready()  # console and sink start meanwhile: what is readable is read, and they say that we are away
    if not starting.done():
        starting.cancel()  # nobody has freed the space that recovery waits for
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        return
    edge = await starting
    announce_ready()
    await edge.until(stop)


async def _first(task: asyncio.Future[Any], event: asyncio.Event) -> None:
    """Wait until the task is done or the event is set."""
    waiting = asyncio.ensure_future(event.wait())
    await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


class Edge:
    """The parts of the process, and the order in which they start and stop."""

    def __init__(self, settings: Settings, log: EmbeddedLog, failed: asyncio.Future[Exception]) -> None:
        """Use `start`."""
        self._settings = settings
        self._log = log
        self._failed = failed
        self._drained = False
        self._sessions = Sessions(log, log.boot_id)
        admission = Admission(_share_files(settings))
        router = Router(settings.routes)
        refusals = ConfiguredRefusals(publish=settings.mqtt.refuse_publish, subscribe=settings.mqtt.refuse_subscribe)
        self._broker = Broker(
            log,
            router,
            refusals,
            settings.mqtt,
            clock=SystemClock(),
            reading=SystemThreads().worker("catch-up", lambda error: log_unexpected("reading for subscribers", error)),
            open_reader=lambda: FileLogReader(settings.data_dir),
        )
        self._session_list = SessionList(self._sessions, self._broker)
        self._mqtt = MqttListener(settings.mqtt, log, self._broker, self._sessions, MqttConnection, admission=admission)
        self._tcp = TcpListener(settings.tcp, log, self._sessions, admission=admission)
        self._listeners: dict[str, Listener] = {"mqtt": self._mqtt, "tcp": self._tcp}
        self._retention = _retention(settings, log)
        self._registry = RegistryStore(log, max_devices=settings.http.max_devices)
        counters = [listener.counters for listener in self._listeners.values()]
        self._channel = ChannelServer(settings.data_dir / RUN_DIR / "edge.sock", self._handlers())
        self._collector = EdgeCollector(
            log, counters, self._sessions, self._retention, self._channel, SystemClock(), broker=self._broker
        )
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def start(cls, settings: Settings, *, on_wait: Callable[[], None] | None = None) -> Edge:
        """Recover the log, then let others in. `on_wait`: see `EmbeddedLog.open`."""
        failed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        router = Router(settings.routes)  # a route that cannot work is said before anything is touched
        log = await _open_log(settings, failed, on_wait)
        try:
            own = {topic.name: topic.durability for topic in settings.topics if topic.durability is not None}
            log.keep_topics_at({name: Durability.named(level) for name, level in own.items()})
            partitions = {topic.name: topic.partitions for topic in settings.topics}
            for name in sorted({EVENTS_TOPIC, settings.tcp.topic, *router.topics, *partitions}):
                await log.create_topic(name, partitions.get(name))
            edge = cls(settings, log, failed)
            await edge._let_in()
        except BaseException:
            await log.close()
            raise
        return edge

    async def until(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then end in order; or until the log fails, then end at once and raise."""
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait((stopping, self._failed), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        await self._end()
        if self._failed.done():
            raise UnavailableError(
                f"the log has failed: {self._failed.result()!r}", where=str(self._settings.data_dir)
            ) from self._failed.result()

    async def _let_in(self) -> None:
        for where, level in self._settings.weaker_durability().items():
            _log.warning("acknowledged before it is on disk", where=where, durability=level)
        self._sessions.edge_started()
        await self._channel.start()
        run_dir = self._settings.data_dir / RUN_DIR
        for name, listener in self._listeners.items():
            address: Any = getattr(self._settings, name)
            port = 0 if address.port == 0 else await listener.start(address.host, address.port)
            publish_port(run_dir, name, port)
            if port:
                _log.info("listening", protocol=name, host=address.host, port=port)
        await self._let_in_otherwise(run_dir)
        self._retention.start(self._tasks)

    async def _let_in_otherwise(self, run_dir: Path) -> None:
        """The other transports of the MQTT listener."""
        mqtt = self._settings.mqtt
        port = 0 if mqtt.websocket == 0 else await self._mqtt.start_websocket(mqtt.host, mqtt.websocket)
        publish_port(run_dir, MQTT_WEBSOCKET, port)
        if port:
            _log.info("listening", protocol="mqtt over websocket", host=mqtt.host, port=port)
        if await self._mqtt.start_unix():
            _log.info("listening", protocol="mqtt", path=str(mqtt.unix_socket))

    async def _end(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self._failed.done():
            for listener in self._listeners.values():
                listener.fail()
        await self._drain()
        await self._channel.close()
        await self._log.close()

    async def _drain(self) -> None:
        """Stop accepting and reading, commit and acknowledge what was read, close the connections."""
        if self._drained:
            return
        self._drained = True
        for listener in self._listeners.values():
            await listener.drain()
        await self._log.drain()
        for listener in self._listeners.values():
            await listener.close()
        await self._broker.close()

    def _handlers(self) -> Mapping[str, Handler]:
        async def sessions(args: Mapping[str, Any]) -> Any:
            return self._session_list.page(args)

        async def metrics(_: Mapping[str, Any]) -> Any:
            return metrics_text(self._collector)

        async def kick(args: Mapping[str, Any]) -> Any:
            client_id = args.get("client_id")
            if not isinstance(client_id, str):
                raise BadRequestError("which client?", mend="give its client_id")
            if not self._mqtt.kick(client_id):
                raise NotFoundError(f"no client {client_id!r} is connected")

        async def storage(_: Mapping[str, Any]) -> Any:
            return self._retention.storage()

        async def drain(_: Mapping[str, Any]) -> Any:
            await self._drain()

        own = {"sessions": sessions, "metrics": metrics, "kick": kick, "storage": storage, "drain": drain}
        return {**log_handlers(self._log), **registry_handlers(self._registry), **own}


def _retention(settings: Settings, log: EmbeddedLog) -> Retention:
    """Retention as configured. The box is told from others by the id of a topic that every log has."""
    ids = {topic.name: topic.topic_id for topic in log.topics()}
    return Retention(
        log,
        settings.data_dir,
        settings.retention,
        SystemClock(),
        topics=settings.topics,
        sinks=(SINK,) if settings.sink.enabled else (),
        box_id=ids[EVENTS_TOPIC],
    )


def _share_files(settings: Settings) -> FileShare:
    """Raise the limit on open files as far as it goes, and say so where it is too low for what is configured."""
    connections = settings.mqtt.max_connections + settings.tcp.max_connections
    # A partition has three files open: segment and two indexes.
    log_files = 3 * settings.log.max_topics * max(settings.log.partitions, 8)
    listeners = sum(port.name != "http" for port in listening_ports(settings)) + (settings.mqtt.unix_socket is not None)
    wanted = files_wanted(connections, log_files=log_files, listeners=listeners)
    share = share_files(allow_files(wanted), log_files=log_files, listeners=listeners)
    if share.connections < max(settings.mqtt.max_connections, settings.tcp.max_connections):
        _log.warning(
            "fewer connections than configured",
            what=f"{share.files} open files leave room for {share.connections} connections",
            where="mqtt.max_connections, tcp.max_connections",
            mend=f"raise the limit on open files to {wanted} (ulimit -Hn, LimitNOFILE=)",
        )
    return share


async def _open_log(
    settings: Settings, failed: asyncio.Future[Exception], on_wait: Callable[[], None] | None
) -> EmbeddedLog:
    def on_failure(error: Exception) -> None:
        if not failed.done():
            _log.error("the log has failed; nothing more is acknowledged", error=repr(error), exc_info=error)
            failed.set_result(error)

    try:
        log = await EmbeddedLog.open(
            settings.data_dir,
            settings.log,
            clock=SystemClock(),
            storage=SystemStorage(),
            on_failure=on_failure,
            on_wait=on_wait,
        )
    except OSError as error:
        raise _cannot_open(settings, error) from error
    report = log.report
    _log.info(
        "log open",
        clean=report.clean,
        entries_replayed=report.entries_replayed,
        records_replayed=report.records_replayed,
        duration_s=round(report.duration_s, 3),
    )
    for cut in report.cuts[:MAX_CUTS]:
        _log.warning(
            "recovery cut",
            topic=cut.topic,
            partition=cut.partition,
            first=cut.first,
            next=cut.next,
            reason=cut.reason,
            start_ms=cut.start_ms,
            end_ms=cut.end_ms,
            devices=list(cut.devices),
        )
    for note in report.notes:
        _log.warning("recovery note", note=note)
    return log


def _cannot_open(settings: Settings, error: OSError) -> DataDirError:
    where = str(error.filename or settings.data_dir)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        need = settings.log.journal_size_bytes >> 20
        return DataDirError(
            "the disk is full: the log cannot be opened",
            where=where,
            mend=f"free some space (a new log's journal alone takes {need} MB: log.journal_size)",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return DataDirError(
            f"the log's files cannot be written ({error.strerror})", where=where, mend="check owner and permissions"
        )
    return DataDirError(f"the log cannot be opened: {error}", where=where)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        child_main("edge", run, use_uvloop=True)
