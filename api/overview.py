"""The figures at the head of the page that other processes know: asked at most once a second, however many look on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from anyio.to_thread import run_sync

from api.context import Services
from api.metrics import edge_part, sample_values, sink_part
from api.standing import sink_standing
from core.clock import ClockState
from sink.standing import Standing

_TTL_MS: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """`unsynced_records`: acknowledged but not yet on disk; None where the process that knows does not answer.

    `disk_full` says how full, in words, and is empty while readings are accepted. `clock` is `ok`, `behind` or
    `stepped` (`core.clock`), None where nobody says. `sink` is how the sink stood when it last wrote.
    """

    unsynced_records: int | None
    last_export_ms: int | None
    disk_full: str = ""
    clock: str | None = None
    sink: Standing | None = None


class OverviewCache:
    """Asks the edge and reads the sink's file, and remembers the answer for a second."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._asking = asyncio.Lock()
        self._known: Overview | None = None
        self._asked_ms = 0

    async def get(self) -> Overview:
        """The figures, at most a second old."""
        async with self._asking:
            now_ms = self._services.clock.monotonic_ms()
            if self._known is None or now_ms - self._asked_ms >= _TTL_MS:
                self._known = await self._ask()
                self._asked_ms = self._services.clock.monotonic_ms()
            return self._known

    async def _ask(self) -> Overview:
        edge = await edge_part(self._services)
        sink = await run_sync(sink_part, self._services.run_dir)
        unsynced = sample_values(edge or "", "headrace_unsynced_records")
        exported = sample_values(sink or "", "headrace_sink_last_export_timestamp_seconds")
        return Overview(
            unsynced_records=int(sum(unsynced)) if unsynced else None,
            last_export_ms=int(max(exported) * 1000) if exported and max(exported) > 0 else None,
            disk_full=_disk_full(edge or ""),
            clock=_clock_state(edge or ""),
            sink=await run_sync(sink_standing, self._services),
        )


def _disk_full(text: str) -> str:
    if not sum(sample_values(text, "headrace_disk_full")):
        return ""
    free, needed = (sum(sample_values(text, f"headrace_disk_{name}_bytes")) for name in ("free", "needed"))
    return f"{free / (1 << 20):,.0f} MB are free, {needed / (1 << 20):,.0f} MB have to be"


def _clock_state(text: str) -> str | None:
    states = (state.value for state in ClockState)
    return next((state for state in states if any(sample_values(text, _clock_sample(state)))), None)


def _clock_sample(state: str) -> str:
    return f'headrace_clock_state{{state="{state}"}}'
