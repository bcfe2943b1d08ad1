"""Threads as a parameter: what needs one is handed `Threads`, so that tests can decide who runs when."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Worker(Protocol):
    """Does one thing after another for an event loop."""

    def submit(self, work: Callable[[], T], done: Callable[[T], None] | None = None) -> None:
        """Run `work()` after everything submitted before, then `done(its result)` on the loop."""
        ...

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work()`, run after everything submitted before."""
        ...

    async def close(self) -> None:
        """Wait until all submitted work is done, and end."""
        ...


class Latch(Protocol):
    """What a worker may block on; `threading.Event` is one."""

    def set(self) -> None:
        """Let those on who wait."""
        ...

    def clear(self) -> None:
        """From now on, have them wait."""
        ...

    def wait(self, timeout: float | None = None, /) -> bool:
        """Block until it is set, no longer than `timeout` seconds; whether it is."""
        ...


class Threads(Protocol):
    """Where work goes that would block the event loop."""

    def worker(self, name: str, on_error: Callable[[Exception], None]) -> Worker:
        """A worker; its first exception ends it and is given to `on_error` on the loop."""
        ...

    def latch(self) -> Latch:
        """A latch that is not set."""
        ...

    async def run(self, work: Callable[[], T]) -> T:
        """The result of a single piece of work, or its exception."""
        ...


class SerialThread:
    """Runs submitted work in order and hands results back on the loop.

    Lighter than an executor: no future and no lock dance per piece of work. The first exception ends it: it is given
    to `on_error` on the loop, and whatever was submitted after it is not run. The queue is not bounded here; each user
    submits a bounded number of things at a time.
    """

    def __init__(self, name: str, on_error: Callable[[Exception], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_error = on_error
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None] | None] | None]
        self._work = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], T], done: Callable[[T], None] | None = None) -> None:
        """Run `work()` in the thread, then `done(its result)` on the loop."""
        self._work.put((work, done))

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work()`, run in the thread after everything submitted before."""
        result: asyncio.Future[T] = self._loop.create_future()
        self.submit(work, lambda value: None if result.done() else result.set_result(value))
        return await result

    async def close(self) -> None:
        """Wait until all submitted work is done, and end the thread."""
        self._work.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            work, done = item
            try:
                result = work()
            except Exception as error:  # noqa: BLE001 - whatever it is, the loop has to hear of it and decide
                self._loop.call_soon_threadsafe(self._on_error, error)
                return
            if done is not None:
                self._loop.call_soon_threadsafe(done, result)


class SystemThreads:
    """The operating system's threads."""

    def worker(self, name: str, on_error: Callable[[Exception], None]) -> Worker:
        """See `Threads.worker`."""
        return SerialThread(name, on_error)

    def latch(self) -> Latch:
        """See `Threads.latch`."""
        return threading.Event()

    async def run(self, work: Callable[[], T]) -> T:
        """See `Threads.run`."""
        return await asyncio.to_thread(work)
