r"""The raw TCP listener: one JSON object a line, `{"device": "...", "ts": ..., ...}`.

Lines are numbered from 1 per connection. The box answers `OK n\n`: all lines up to n are decided and the accepted ones
are on disk (unless `tcp.durability` is below `fsync`); and `ERR n reason\n`: line n was refused and is not stored.
Answers come in line order. A line that is not JSON is stored without a device and goes to quarantine when it is
exported, as on every listener; a line whose JSON names no usable device, or that is too long, is refused, and so is
every line while the disk is full. Empty lines count and are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from commitlog.base import Appender, Header
from commitlog.partitioner import partition_for_key
from ingest.headers import DEVICE
from ingest.limits import RECORD_OVERHEAD_BYTES, Admission
from ingest.listener import DISK_FULL, Connection, Listener
from ingest.sessions import Session, Sessions
from ingest.settings import TcpSettings
from wire.json_line import LineRefusedError, device_of
from wire.lines import LineFramer
from wire.mqtt.events import Append

PROTOCOL: Final = "tcp"
MAX_DEVICES_PER_CONNECTION: Final = 10_000  # remembered targets, 5 MB; beyond it the memory is started anew
_NO_HEADERS: Final[list[Header]] = []
_NO_DEVICE: Final[list[Header]] = [(DEVICE, b"")]

Refusal = tuple[int, str]
"""A line's number and why it was refused."""


class TcpListener(Listener):
    """Listens for raw TCP clients."""

    def __init__(
        self, settings: TcpSettings, log: Appender, sessions: Sessions, *, admission: Admission | None = None
    ) -> None:
        super().__init__(
            PROTOCOL,
            log,
            sessions,
            max_connections=settings.max_connections,
            make=lambda: TcpConnection(self),
            admission=admission,
            durability=settings.durability,
        )
        self.settings = settings
        self.partitions = log.partitions(settings.topic)


class TcpConnection(Connection):
    """One raw TCP client."""

    __slots__ = ("_decided", "_ended", "_framer", "_session", "_silent_s", "_targets", "_waited")
    listener: TcpListener

    def __init__(self, listener: TcpListener) -> None:
        super().__init__(listener)
        self._framer = LineFramer(listener.settings.max_line_size_bytes)
        self._session: Session | None = None
        self._targets: dict[str, tuple[Append, bytes]] = {}
        self._silent_s = 0
        self._ended = False
        self._waited = self._decided = 0

    # -- Connection

    @property
    def unfinished_size_bytes(self) -> int:
        """See `Connection.unfinished_size_bytes`."""
        return self._framer.unfinished_size_bytes

    def eof_received(self) -> bool:
        """The device sends nothing more (`shutdown`, `nc -N`): it still gets its answers, then the connection ends."""
        self._ended = True
        return self._waited > self._decided or bool(self._stashed)

    def opened(self) -> None:
        """See `Connection.opened`."""
        self._session = self.listener.sessions.open(PROTOCOL, self.peer)

    def take(self, data: bytes) -> None:
        """See `Connection.take`. The hot path."""
        self.heard = True
        listener = self.listener
        log = listener.log
        lines = self._framer.split(data)
        if not lines:
            self._end_if_answered()
            return
        if log.full:
            self._refuse_full(lines)
            return
        now_ms = log.now_ms()
        first = self._framer.first_number
        targets = self._targets
        refused: list[Refusal] = []
        taken = 0
        for number, line in enumerate(lines, first):
            if not line:
                if line is None:
                    limit = listener.settings.max_line_size_bytes
                    refused.append((number, f"line is longer than {limit} bytes"))
                    listener.counters.refused_lines["too-long"] += 1
                continue
            try:
                device = device_of(line)
            except LineRefusedError as error:
                refused.append((number, error.what))
                listener.counters.refused_lines[error.reason] += 1
                continue
            if device is None:
                listener.partitions[0].append(now_ms, None, line, _NO_DEVICE)
            else:
                target = targets.get(device) or self._target(device)
                target[0](now_ms, target[1], line, _NO_HEADERS)
            taken += 1
        listener.counters.records += taken
        listener.counters.size_bytes += len(data)
        last = self._waited = first + len(lines) - 1
        answer = answers(first, last, refused) if refused else b"OK %d\n" % last
        size_bytes = len(data) + len(answer) + (taken + 1) * RECORD_OVERHEAD_BYTES
        log.appended(taken, size_bytes, self, (last, answer), listener.durability)
        if refused:
            self._tell(refused)

    def full_changed(self, full: bool) -> None:
        """See `Connection.full_changed`: each line gets its answer."""

    def _refuse_full(self, lines: Sequence[bytes | None]) -> None:
        """Answered in line order, after what was accepted before."""
        first = self._framer.first_number
        refused = [(number, DISK_FULL) for number, line in enumerate(lines, first) if line != b""]
        self.listener.counters.refused_lines[DISK_FULL] += len(refused)
        last = self._waited = first + len(lines) - 1
        answer = answers(first, last, refused)
        self.listener.log.appended(0, len(answer) + RECORD_OVERHEAD_BYTES, self, (last, answer))

    def tick(self) -> None:
        """See `Connection.tick`."""
        if self.heard:
            self.heard = False
            self._silent_s = 0
            return
        if self.unread:
            return
        self._silent_s += 1
        if self._silent_s > self.listener.settings.idle_timeout_s:
            self.close("idle timeout", abort=True)

    def ended(self, reason: str) -> None:
        """See `Connection.ended`."""
        if self._framer.unfinished_size_bytes:
            self.listener.counters.refused_lines["cut-off"] += 1  # no newline came: it was never a line
        if self._session is not None:
            self.listener.sessions.close(self._session, reason)

    # -- Waiter

    def committed(self, token: Any) -> None:
        """See `Waiter.committed`: the answers to a chunk's lines."""
        if self.transport.is_closing():
            return
        self._decided, answer = token
        self.transport.write(answer)
        if self._ended:
            self._end_if_answered()

    def failed(self, token: Any) -> None:
        """See `Waiter.failed`: no OK, and a device resends only after it has reconnected."""
        self.close("log failed", abort=True)

    def _end_if_answered(self) -> None:
        if self._ended and self._waited == self._decided and not self._stashed:
            self.transport.close()

    def _tell(self, refused: Sequence[Refusal]) -> None:
        number, reason = refused[0]
        self.listener.lines.warning(
            "line refused",
            what=reason,
            where=f"line {number} from {self.peer}",
            mend="one JSON object a line, its field `device` names the device (docs/tcp.md)",
            refused_of_chunk=len(refused),
        )

    def _target(self, device: str) -> tuple[Append, bytes]:
        """Where a device's lines go; its first line in the session says that it is connected."""
        assert self._session is not None
        listener = self.listener
        if len(self._targets) >= MAX_DEVICES_PER_CONNECTION:
            self._targets.clear()
        if listener.sessions.device_seen(self._session, device):
            self._targets.clear()
        key = device.encode()
        partition = listener.partitions[partition_for_key(key, len(listener.partitions))]
        target = self._targets[device] = (partition.append, key)
        return target


def answers(first: int, last: int, refused: Sequence[Refusal]) -> bytes:
    """`OK` and `ERR` lines for the lines from `first` to `last`, in the order of the lines that they answer."""
    parts: list[str] = []
    answered = first - 1
    for number, reason in refused:
        if number > answered + 1:
            parts.append(f"OK {number - 1}\n")
        parts.append(f"ERR {number} {reason}\n")
        answered = number
    if last > answered:
        parts.append(f"OK {last}\n")
    return "".join(parts).encode("ascii", "replace")
