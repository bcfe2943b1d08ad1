"""What all connections of the process together may hold, whatever each one's own limits allow.

The limits of one connection times the number of connections is more than a box has: 20,000 incomplete packets of
1 MB, as many wills of 64 KB, 10,000 remembered MQTT topics each. These sums are bounded here, and so is the number of
connections by the open files that the operating system grants: a log that cannot open its next segment has failed, so
its files are set aside before the first client is let in.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import Final

MAX_UNFINISHED_BYTES: Final = 128 << 20  # of packets and lines whose end has not come; looked at once a second
MAX_UNREAD_BYTES: Final = 256 << 20  # written and not taken: 2,000 clients that do not read, as much as each may have
MAX_WILL_BYTES: Final = 64 << 20  # a thousand wills of the greatest size, a million usual ones
MAX_FILTER_BYTES: Final = 128 << 20  # texts of all subscriptions: a million of 128 bytes; each may have 64 KB
MAX_TOPIC_MEMORY_BYTES: Final = 256 << 20  # remembered targets; beyond it a connection's memory is started anew
MAX_SURPLUS_BYTES: Final = 256 << 10  # of a record's key and headers beyond its packet: the MQTT topic four times over
RECORD_OVERHEAD_BYTES: Final = 64  # about what a record takes beyond its bytes on the wire; the log counts for itself

_SPARE_FILES: Final = 256  # local channel (64), doorbells (64), the console's questions, what is open for a moment
_MOST_BACKLOG: Final = 4096  # a fleet that reconnects at once; the kernel caps it at net.core.somaxconn
_LEAST_BACKLOG: Final = 64
_LEAST_CONNECTIONS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class FileShare:
    """How the process's open files are shared out. `backlog` is each listener's."""

    files: int
    connections: int
    backlog: int


def allow_files(wanted: int) -> int:
    """Raise the soft limit on open files (1,024 in most shells) towards `wanted`; returns the limit now in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else soft


def files_wanted(connections: int, *, log_files: int, listeners: int) -> int:
    """Open files with which `connections` clients may connect at once and the log still opens what it needs."""
    return connections + log_files + _SPARE_FILES + listeners * _MOST_BACKLOG


def share_files(files: int, *, log_files: int, listeners: int) -> FileShare:
    """Connections that `files` leave room for. A listener may hold a whole backlog for a moment before it refuses."""
    backlog = min(_MOST_BACKLOG, max(_LEAST_BACKLOG, files // 16))
    kept = min(log_files, files // 4) + _SPARE_FILES + listeners * backlog
    return FileShare(files=files, connections=max(files - kept, _LEAST_CONNECTIONS), backlog=backlog)


class Admission:
    """Counts the connections of all listeners together."""

    def __init__(self, share: FileShare | None = None) -> None:
        """Without a share only the listeners' own limits hold."""
        self.share = share
        self._connections = 0

    @property
    def backlog(self) -> int:
        """For each listener's socket."""
        return self.share.backlog if self.share is not None else _MOST_BACKLOG

    def enter(self) -> bool:
        """Count a connection in, if there is a file for it."""
        if self.share is not None and self._connections >= self.share.connections:
            return False
        self._connections += 1
        return True

    def leave(self) -> None:
        """Count a connection out."""
        self._connections -= 1
