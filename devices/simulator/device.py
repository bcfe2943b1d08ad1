"""One simulated device: makes readings on its own schedule and keeps itself connected.

A timer makes the readings, one task keeps the connection; neither waits for the other. Nothing is made or awaited
per reading besides the reading itself, so that thousands of devices run in one loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from core.clock import Clock
from core.errors import HeadraceError
from devices.simulator.link import Link, Timing
from devices.simulator.machine import Machine
from devices.simulator.outbox import Outbox
from devices.simulator.pace import Backoff, Schedule
from devices.simulator.report import DeviceReport

DRAIN_PAUSE_S: Final = 0.25  # between attempts to connect once readings have stopped
FAREWELL_S: Final = 1.0  # for the last bytes to leave

_encode: Final = msgspec.json.Encoder().encode

NewLink = Callable[[Outbox, Callable[[], None]], Link]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a device is and whom it talks to. `period_s` is the time between readings."""

    device_id: str
    protocol: Literal["mqtt", "tcp"]
    host: str
    port: int
    seed: int
    period_s: float


class Device:
    """`start` it and run `stay_connected`; at the end `stop_reading`, wait for `drained`, cancel the task.

    `last_error` says why the last connection failed or ended; empty if none did.
    """

    def __init__(
        self,
        identity: Identity,
        machine: Machine,
        outbox: Outbox,
        new_link: NewLink,
        *,
        timing: Timing,
        clock: Clock,
        gate: asyncio.Semaphore,
    ) -> None:
        self.identity = identity
        self.outbox = outbox
        self._machine = machine
        self._new_link = new_link
        self._timing = timing
        self._clock = clock
        self._gate = gate
        self._random = random.Random(f"{identity.device_id}/{identity.seed}")
        self._backoff = Backoff(timing.backoff_min_s, timing.backoff_max_s, self._random)
        self._names = {"device": identity.device_id} if identity.protocol == "tcp" else {}
        self._link: Link | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = asyncio.Event()
        self._settled = asyncio.Event()
        self._connections = 0
        self._failed_connections = 0
        self.last_error = ""

    @property
    def is_connected(self) -> bool:
        """Whether readings reach the box now."""
        return self._link is not None and self._link.is_up

    def start(self) -> None:
        """Begin to make readings, the first within about one period."""
        loop = asyncio.get_running_loop()
        self._arm(loop, Schedule(self.identity.period_s, self._random, loop.time()))

    def stop_reading(self) -> None:
        """Make no further readings; who waits to connect tries at once, then often, since the drain is short."""
        self._stopping.set()
        if self._timer is not None:
            self._timer.cancel()
        self._settle()

    async def drained(self) -> None:
        """Wait, after `stop_reading`, until every reading is acked or refused; may never come."""
        await self._settled.wait()

    async def stay_connected(self) -> None:
        """Connect, and connect again with growing, jittered pauses, until cancelled. Then hang up in order."""
        try:
            while True:
                await self._connect_once()
                await self._pause()
        finally:
            if self._link is not None:
                self._link.close()
                await asyncio.wait({self._link.closed}, timeout=FAREWELL_S)

    def watch(self, now_s: float) -> None:
        """Let the connection look for a box that has stopped answering; called about once a second."""
        if self._link is not None and self._link.is_up:
            self._link.watch(now_s)

    def report(self) -> DeviceReport:
        """The book as it stands."""
        outbox = self.outbox
        return DeviceReport(
            protocol=self.identity.protocol,
            sent=outbox.sent,
            acked=outbox.acked_ranges(),
            unacked=outbox.pending_ranges(),
            refused=dict(outbox.refused),
            resent=outbox.resent_ranges(),
            resends=outbox.resends,
            skipped=outbox.skipped,
            connections=self._connections,
            failed_connections=self._failed_connections,
            last_error=self.last_error,
        )

    async def _connect_once(self) -> None:
        """One connection from its beginning to its end."""
        link = self._new_link(self.outbox, self._progress)
        self._backoff.failed()  # until the first answer: a box that accepts and hangs up is no reason to hurry
        try:
            await self._establish(link)
        except (OSError, TimeoutError, HeadraceError) as error:
            self._failed_connections += 1
            self.last_error = str(error) or "no answer to the connection in time"
            return
        self._connections += 1
        self._link = link
        if link.is_up:
            link.send_pending()
        self.last_error = await asyncio.shield(link.closed)

    async def _establish(self, link: Link) -> None:
        try:
            async with self._gate, asyncio.timeout(self._timing.connect_timeout_s):
                loop = asyncio.get_running_loop()
                await loop.create_connection(lambda: link, self.identity.host, self.identity.port)
                await link.established
        except BaseException:  # cancelled, too: the socket must not outlive the attempt
            link.fail("could not connect")
            raise

    async def _pause(self) -> None:
        pause_s = self._backoff.pause_s()
        if self._stopping.is_set():
            await asyncio.sleep(min(pause_s, DRAIN_PAUSE_S))
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), pause_s)

    def _progress(self) -> None:
        """The box has acked or refused something."""
        self._backoff.succeeded()
        self._settle()

    def _settle(self) -> None:
        if self._stopping.is_set() and self.outbox.empty:
            self._settled.set()

    def _arm(self, loop: asyncio.AbstractEventLoop, schedule: Schedule) -> None:
        tick, due_s, missed = schedule.advance(loop.time())
        self.outbox.skip(missed)
        self._timer = loop.call_at(due_s, self._fire, loop, schedule, tick)

    def _fire(self, loop: asyncio.AbstractEventLoop, schedule: Schedule, tick: int) -> None:
        self._arm(loop, schedule)
        if self._machine.silent(tick):
            return
        if not self.outbox.has_room:
            self.outbox.skip()
            return
        reading = {**self._names, "ts": self._clock.time_ms(), "seq": self.outbox.sent + 1}
        pending = self.outbox.put(_encode(reading | self._machine.reading(tick)))
        if self._link is not None and self._link.is_up:
            self._link.send(pending)
