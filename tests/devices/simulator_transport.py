"""A transport that goes nowhere: for links under test."""

from __future__ import annotations

import asyncio


class FakeTransport(asyncio.Transport):
    """Collects what is written; tells its protocol when it is aborted."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False
        self._protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep it."""
        self.written += bytes(data)

    def taken(self) -> bytes:
        """What was written since the last call."""
        written, self.written = self.written, b""
        return written

    def is_closing(self) -> bool:
        """Whether it has ended."""
        return self.aborted

    def close(self) -> None:
        """End it; nothing is left to flush."""
        self.abort()

    def abort(self) -> None:
        """End it."""
        if not self.aborted:
            self.aborted = True
            self._protocol.connection_lost(None)
