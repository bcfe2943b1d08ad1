"""The doorbell: wakes readers in other processes when there is something new, so that none of them polls.

The log's writer listens on `<data>/run/doorbell.sock`; a reader connects and sleeps on the socket; a ring is one byte
to each of them. The byte says only "look at the watermark map". A reader that has not picked up the last byte does not
need another one, so a full socket buffer is not an error and nothing queues.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from pathlib import Path
from typing import Final

from core.channel import bind_private, socket_address

DOORBELL_NAME: Final = "doorbell.sock"
MAX_READERS: Final = 64
_RETRY_S: Final = 0.2  # how often an absent writer is looked for


class Doorbell:
    """The writer's side. All calls from one thread; none blocks."""

    def __init__(self, run_dir: Path) -> None:
        path = run_dir / DOORBELL_NAME
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        bind_private(self._listener, path)
        self._listener.listen(MAX_READERS)
        self._listener.setblocking(False)
        self._readers: list[socket.socket] = []

    def ring(self) -> None:
        """Wake everybody who waits or comes to wait."""
        self._let_in()
        gone = []
        for reader in self._readers:
            try:
                reader.send(b"\x01")
            except BlockingIOError:
                continue  # it has rings left to pick up
            except OSError:
                gone.append(reader)
        for reader in gone:
            reader.close()
            self._readers.remove(reader)

    def close(self) -> None:
        """Hang up; readers see the end and look for the next writer."""
        for reader in (*self._readers, self._listener):
            reader.close()

    def _let_in(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                reader, _ = self._listener.accept()
                if len(self._readers) >= MAX_READERS:
                    reader.close()
                    continue
                reader.setblocking(False)
                self._readers.append(reader)


class DoorbellWaiter:
    """The reader's side."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / DOORBELL_NAME
        self._socket: socket.socket | None = None

    def connect(self) -> bool:
        """Be at the door; False while no writer is there. To be called before looking whether something is new."""
        if self._socket is not None:
            return True
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)  # first: while too many stand at the door of an idle writer, connecting would block
        try:
            sock.connect(socket_address(self._path))
        except OSError:
            sock.close()
            return False
        self._socket = sock
        return True

    def wait(self, timeout_s: float) -> None:
        """Sleep until the bell rings, the writer goes or comes, or the time is over."""
        if not self.connect():
            time.sleep(min(timeout_s, _RETRY_S))
            return
        assert self._socket is not None
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        if not poller.poll(max(0.0, timeout_s) * 1000):
            return
        try:
            if not self._socket.recv(4096):
                self.close()
        except OSError:
            self.close()

    def close(self) -> None:
        """Leave."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
