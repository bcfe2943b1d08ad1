"""An event loop and workers in simulated time, in one thread of the operating system: the seed decides who runs when.

Workers are greenlets: each is left only where it asks (`SimThreads.pause`, in front of every call to the disk, or while
it blocks on a latch). The loop chooses among them whenever it would look for events, so that callbacks, the journal's
work and the segments' work mix in another way with every seed and in the same way with the same seed. Time stands still
while anything can run, and jumps to the next timer or the end of the next delay when nothing can.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet

T = TypeVar("T")
MAX_STEPS = 200_000  # of workers in one life: far beyond what the longest takes


class StuckError(AssertionError):
    """Nothing can run any more, or things run without end."""


class SimLoop(asyncio.BaseEventLoop):
    """`asyncio`'s own loop, with neither sockets nor a clock."""

    def __init__(self, rng: random.Random, start_s: float = 0.0) -> None:
        super().__init__()
        self.now_s = start_s
        self.ends_s = start_s + 3600.0
        self.threads = SimThreads(self, rng)
        self.troubles: list[str] = []
        self._selector = self
        self.set_exception_handler(self._note)

    def time(self) -> float:
        return self.now_s

    def select(self, timeout: float | None) -> Sequence[Any]:
        """Called by asyncio once a turn: 0 while callbacks are ready, None when there is no timer."""
        if timeout == 0:
            self.threads.run_some()
            return ()
        deadline_s = None if timeout is None else self.now_s + timeout
        while not self._ready:  # type: ignore[attr-defined]
            if self.threads.run_one():
                continue
            wake_s = self.threads.next_wake_s()
            times = [at for at in (deadline_s, wake_s) if at is not None]
            if not times or min(times) > self.ends_s:
                raise StuckError("nothing can run and nobody will wake: a promise is never kept")
            self.now_s = max(self.now_s, min(times))
            if deadline_s is not None and self.now_s >= deadline_s:
                break
        return ()

    def discard(self) -> None:
        """Drop everything that was going on, as the end of a process does."""
        self.threads.discard()
        for task in asyncio.all_tasks(self):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coroutine = task.get_coro()
            if coroutine is not None:
                coroutine.close()
        self.close()

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def _process_events(self, event_list: Sequence[Any]) -> None:
        return

    def _write_to_self(self) -> None:
        return

    def _note(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if isinstance(context.get("exception"), Exception) and "callback" in context["message"]:
            self.troubles.append(f"{context['message']}: {context['exception']!r}")


class SimLatch:
    """`Latch`: a worker that waits for it cannot run."""

    def __init__(self, threads: SimThreads) -> None:
        self._threads = threads
        self.is_set = False

    def set(self) -> None:
        self.is_set = True

    def clear(self) -> None:
        self.is_set = False

    def wait(self, timeout: float | None = None, /) -> bool:
        self._threads.block(self, timeout)
        return self.is_set


class SimWorker:
    """`Worker`: as `core.threads.SerialThread`, without the thread."""

    def __init__(self, loop: SimLoop, on_error: Callable[[Exception], None]) -> None:
        self._loop = loop
        self._on_error = on_error
        self._work: deque[tuple[Callable[[], Any], Callable[[Any], None] | None]] = deque()
        self._ended = False
        self._all_done: asyncio.Future[None] = loop.create_future()
        self._closing = False
        self.greenlet: greenlet = greenlet(self._run)
        self.wake_s = 0.0
        self.blocked_on: SimLatch | None = None
        self.blocked_until_s = math.inf
        self.idle = True

    def submit(self, work: Callable[[], T], done: Callable[[T], None] | None = None) -> None:
        self._work.append((work, done))

    async def run(self, work: Callable[[], T]) -> T:
        result: asyncio.Future[T] = self._loop.create_future()
        self.submit(work, lambda value: None if result.done() else result.set_result(value))
        return await result

    async def close(self) -> None:
        self._closing = True
        await asyncio.shield(self._all_done)

    def can_run(self) -> bool:
        """Whether a switch to it would get somewhere now."""
        if self._ended:
            return False
        if self.blocked_on is not None:
            return self.blocked_on.is_set or (self.blocked_until_s <= self._loop.now_s)
        if self.wake_s > self._loop.now_s:
            return False
        return bool(self._work) or self._closing or not self.idle

    def _run(self) -> None:
        while True:
            while not self._work:
                if self._closing:
                    self._end()
                    return
                self.idle = True
                self._loop.threads.leave()
            self.idle = False
            work, done = self._work.popleft()
            try:
                result = work()
            except Exception as error:  # noqa: BLE001 - as the real one: the loop hears of it
                self._loop.call_soon(self._on_error, error)
                self._end()
                return
            if done is not None:
                self._loop.call_soon(done, result)

    def _end(self) -> None:
        self._ended = True
        self._loop.call_soon(lambda: None if self._all_done.done() else self._all_done.set_result(None))


class SimThreads:
    """`Threads`."""

    def __init__(self, loop: SimLoop, rng: random.Random) -> None:
        self._loop = loop
        self._rng = rng
        self._workers: list[SimWorker] = []
        self._main = getcurrent()
        self._steps = 0

    # -- Threads

    def worker(self, _name: str, on_error: Callable[[Exception], None]) -> SimWorker:
        made = SimWorker(self._loop, on_error)
        self._workers.append(made)
        return made

    def latch(self) -> SimLatch:
        return SimLatch(self)

    async def run(self, work: Callable[[], T]) -> T:
        done: asyncio.Future[T] = self._loop.create_future()
        worker = self.worker("once", done.set_exception)
        worker.submit(work, done.set_result)
        try:
            return await done
        finally:
            self._workers.remove(worker)

    # -- for the disk

    def pause(self, delay_s: float = 0.0) -> None:
        """In a worker: let others run, at least until the delay is over. Elsewhere: nothing."""
        worker = self._current()
        if worker is not None:
            worker.wake_s = self._loop.now_s + delay_s
            self.leave()

    def block(self, latch: SimLatch, timeout_s: float | None = None) -> None:
        """In a worker: nothing more until the latch is set, or the time is over."""
        worker = self._current()
        assert worker is not None, "the event loop must not block"
        if not latch.is_set:
            worker.blocked_on = latch
            worker.blocked_until_s = math.inf if timeout_s is None else self._loop.now_s + timeout_s
            self.leave()
            worker.blocked_on, worker.blocked_until_s = None, math.inf

    def leave(self) -> None:
        """From a worker back to the loop."""
        self._main.switch()

    # -- for the loop

    def run_one(self) -> bool:
        """Let one worker that can run go on to its next pause; False when none can."""
        able = [worker for worker in self._workers if worker.can_run()]
        if not able:
            return False
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise StuckError(f"no end after {MAX_STEPS} steps")
        (able[0] if len(able) == 1 else self._rng.choice(able)).greenlet.switch()
        return True

    def run_some(self) -> None:
        """Beside callbacks that are ready: often nothing, sometimes a few steps."""
        while self._rng.random() < 0.4 and self.run_one():
            pass

    def next_wake_s(self) -> float | None:
        """When the first delay of a worker is over."""
        times = [worker.wake_s for worker in self._workers if not worker.idle and worker.blocked_on is None]
        times += [worker.blocked_until_s for worker in self._workers if worker.blocked_until_s < math.inf]
        times = [wake_s for wake_s in times if wake_s > self._loop.now_s]
        return min(times, default=None)

    def discard(self) -> None:
        """End every worker where it stands."""
        for worker in self._workers:
            if worker.greenlet and not worker.greenlet.dead:
                worker.greenlet.throw()

    def _current(self) -> SimWorker | None:
        here = getcurrent()
        return next((worker for worker in self._workers if worker.greenlet is here), None)
