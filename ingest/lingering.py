"""A connection whose last word has to arrive.

A socket that is closed with input unread answers with a reset, and a reset takes away from the peer what it has not
read yet: the DISCONNECT that says why. So the sending side alone is closed; what still comes is read and thrown away,
until the peer closes too or patience ends.
"""

from __future__ import annotations

from typing import Any


class Lingering:
    """Stands in the place of a transport whose sending side is closed: closing for everybody who asks."""

    __slots__ = ("_transport",)

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def is_closing(self) -> bool:
        """Nothing can be written any more."""
        return True

    def write(self, data: bytes) -> None:
        """Too late: it is not sent."""

    def close(self) -> None:
        """It closes already."""

    def abort(self) -> None:
        """Patience has ended."""
        self._transport.abort()

    def pause_reading(self) -> None:
        """What comes is thrown away, not kept."""

    def resume_reading(self) -> None:
        """It is being read."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See `asyncio.BaseTransport`."""
        return self._transport.get_extra_info(name, default)

    def get_write_buffer_size(self) -> int:
        """See `asyncio.WriteTransport`."""
        return int(self._transport.get_write_buffer_size())


def linger(transport: Any) -> Any:
    """Close the sending side and read on; returns what stands in the transport's place from now on.

    A transport that cannot close one side (a WebSocket, which has a close of its own) is closed.
    """
    if transport.is_closing() or not transport.can_write_eof():
        transport.close()
        return transport
    transport.write_eof()
    transport.resume_reading()
    return Lingering(transport)
