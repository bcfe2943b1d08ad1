"""One connection of a device to the box: what MQTT and raw TCP have in common.

A link writes readings, hands the box's answers to the outbox, and knows when the box has stopped answering. It never
decides what to send: a device gives it every pending reading once, in order, when it is up and as they are made.
What a link may have in its send buffer is bounded by what the outbox may have pending.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from core.errors import HeadraceError
from devices.simulator.outbox import Outbox, Pending


class PeerError(HeadraceError):
    """The box refused the connection, stopped answering, or answered what it may not."""

    code = "peer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How patient a simulated device is, in seconds.

    `backoff_min_s` doubles with every failure up to `backoff_max_s`; each pause is drawn from the upper half, so that
    a fleet that lost the box together does not come back together.
    """

    backoff_min_s: float = 0.25
    backoff_max_s: float = 5.0
    connect_timeout_s: float = 10.0
    ack_timeout_s: float = 30.0
    keep_alive_s: int = 60
    drain_s: float = 5.0


class Link(asyncio.Protocol, ABC):
    """The transport half. Subclasses add the words of one protocol."""

    def __init__(self, outbox: Outbox, timing: Timing, on_progress: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self.established: asyncio.Future[None] = loop.create_future()
        """Done once readings may be sent; fails with PeerError if the box hung up or refused before."""
        self.closed: asyncio.Future[str] = loop.create_future()
        """Done when the connection is over, with the reason."""
        self._outbox = outbox
        self._timing = timing
        self._on_progress = on_progress
        self._transport: asyncio.Transport | None = None
        self._writes = 0
        self._failure = ""
        self._stuck_seq = 0
        self._stuck_since_s = loop.time()

    @abstractmethod
    def _encode(self, pending: Pending, *, again: bool) -> bytes:
        """The bytes that carry one reading."""

    @abstractmethod
    def _receive(self, data: bytes) -> None:
        """Take a chunk from the box. Raises HeadraceError for what the box may not send."""

    @abstractmethod
    def _greet(self) -> None:
        """The connection is there: introduce the device, or say that it is up."""

    def _farewell(self) -> bytes:
        """What an orderly end sends last."""
        return b""

    @property
    def is_up(self) -> bool:
        """Whether readings can be handed over now."""
        return self.established.done() and not self.established.cancelled() and not self.closed.done()

    def send(self, pending: Pending) -> None:
        """Write one reading. Call only while `is_up`."""
        self._write(self._encode(pending, again=self._outbox.going_out(pending)))

    def send_pending(self) -> None:
        """Write everything pending, oldest first, in one go. Call once, when the link has come up."""
        going_out, encode = self._outbox.going_out, self._encode
        self._write(b"".join([encode(one, again=going_out(one)) for one in self._outbox.pending()]))

    def watch(self, now_s: float) -> None:
        """Called about once a second with the loop's time: hang up on a box that has stopped answering."""
        oldest = self._outbox.oldest
        if self._outbox.empty or oldest != self._stuck_seq:
            self._stuck_seq, self._stuck_since_s = oldest, now_s
        elif now_s - self._stuck_since_s >= self._timing.ack_timeout_s:
            self.fail(f"reading {oldest} has had no answer for {self._timing.ack_timeout_s:g} s")

    def fail(self, reason: str) -> None:
        """Drop the connection at once, for `reason`."""
        self._failure = self._failure or reason
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """End the connection in order."""
        self._failure = self._failure or "closed by the device"
        if self._transport is not None and not self._transport.is_closing():
            self._write(self._farewell())
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the TCP connection stands."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by its methods, not by its class
        self._greet()

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes from the box."""
        if self._failure:
            return
        decided = self._outbox.decided
        try:
            self._receive(data)
        except HeadraceError as error:
            self.fail(str(error))
        if self._outbox.decided != decided:
            self._on_progress()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is over."""
        reason = self._failure or (str(exc) if exc else "the box closed the connection")
        if not self.established.done():
            self.established.set_exception(PeerError(reason))
        if not self.closed.done():
            self.closed.set_result(reason)

    def _write(self, data: bytes) -> None:
        if data and self._transport is not None:
            self._writes += 1
            self._transport.write(data)

    def _up(self) -> None:
        if not self.established.done():
            self.established.set_result(None)
