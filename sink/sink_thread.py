"""The one thread on which a sink, and the reader of the log that it reads from, are opened, called and closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from commitlog.base import LogReader
from sink.base import Sink

_P = ParamSpec("_P")
_T = TypeVar("_T")


class SinkThread:
    """Calls that block, made from the event loop. Their errors are raised where they are awaited."""

    def __init__(self, sink: Sink, open_reader: Callable[[], LogReader]) -> None:
        self.reader: LogReader | None = None
        self.sink_open = False
        self._sink = sink
        self._open_reader = open_reader
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sink")

    async def call(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """What `function` returns, called on the thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*args, **kwargs))

    async def open_sink(self, done: Mapping[str, int]) -> None:
        """See `Sink.open`."""
        await self.call(self._sink.open, done)
        self.sink_open = True

    async def close_sink(self) -> None:
        """Close the sink if it is open; it counts as closed even if that fails."""
        if self.sink_open:
            self.sink_open = False
            await self.call(self._sink.close)

    async def open_reader(self) -> LogReader:
        """The reader that is open, or a new one."""
        if self.reader is None:
            self.reader = await self.call(self._open_reader)
        return self.reader

    async def close_reader(self) -> None:
        """Close the reader if there is one."""
        if self.reader is not None:
            await self.call(self.reader.close)
            self.reader = None

    async def end(self) -> None:
        """Close everything, and end the thread."""
        await self.close_sink()
        await self.close_reader()
        self._thread.shutdown()
