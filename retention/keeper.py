"""Retention as a whole: the workers of the process that writes the log, put together, and what they answer.

`Roller` closes windows, `Expirer` lets them leave the log, `LakeKeeper` lets files leave the lake. Each looks by
itself, so that none waits for another.

What goes by age needs a clock that can be trusted. A step is seen while the box runs; that the clock was wrong when it
started is not. So where it is more than a day past the newest record then, nothing goes by age for an hour: the box may
have been off, or a time server is about to set its clock back by fourteen years.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from commitlog.settings import TopicSettings
from commitlog.storage import LOG_DIR
from commitlog.tables import TABLES_DIR
from core.clock import SETTLE_MS, Clock, ClockState
from core.tasks import background
from retention.disk import DAY_MS
from retention.expirer import LOOK_S, Expirer, ExpiringLog
from retention.lake_files import LakeFiles
from retention.lake_keeper import LOOK_S as LAKE_LOOK_S
from retention.lake_keeper import LakeKeeper
from retention.limits import TopicLimits
from retention.roller import RollableLog, Roller
from retention.rounds import Rounds
from retention.settings import RetentionSettings
from retention.storage_report import storage_report
from retention.usage import UsageMeter

LAKE_DIR = "lake"  # below the data directory


class RetainedLog(RollableLog, ExpiringLog, Protocol):
    """What retention needs of the log."""


class Retention:
    """See the module. Used on the event loop."""

    def __init__(
        self,
        log: RetainedLog,
        data_dir: Path,
        settings: RetentionSettings,
        clock: Clock,
        *,
        topics: Sequence[TopicSettings] = (),
        sinks: Sequence[str] = (),
        box_id: str = "",
    ) -> None:
        """`sinks`: the names of those that are configured; nothing expires that they have not exported."""
        self._clock = clock
        self._started_ms = clock.monotonic_ms()
        self._late_at_start = clock.time_ms() - log.newest_ms > DAY_MS
        limits = TopicLimits(settings, topics)
        lake_dir = data_dir / LAKE_DIR
        meter = UsageMeter(data_dir / LOG_DIR, lake_dir, data_dir / LOG_DIR / TABLES_DIR)
        self.settings = settings
        self.roller = Roller(log, limits, clock, box_id=box_id)
        self.expirer = Expirer(
            log,
            settings,
            limits,
            clock,
            sinks=sinks,
            clock_state=self.clock_state,
            measure=meter.look,
        )
        self.lake = LakeKeeper(
            log,
            LakeFiles(lake_dir),
            settings,
            clock,
            clock_state=self.clock_state,
            lake_bytes=lambda: self.expirer.disk.lake_bytes,
        )
        self.rounds = (
            Rounds("log", self.expirer.look, interval_s=LOOK_S),
            Rounds("lake", self.lake.look, interval_s=LAKE_LOOK_S),
        )

    def start(self, tasks: set[asyncio.Task[None]]) -> None:
        """Work in the background until these tasks are cancelled."""
        background(self.roller.run(), "roller", tasks)
        for rounds in self.rounds:
            background(rounds.run(), f"retention-{rounds.name}", tasks)

    def clock_state(self) -> ClockState:
        """How far the clock can be trusted for deleting by age; see the module."""
        state = self.roller.clock_state
        settling = self._late_at_start and self._clock.monotonic_ms() - self._started_ms < SETTLE_MS
        return ClockState.STEPPED if settling and state is ClockState.OK else state

    def storage(self) -> Mapping[str, Any]:
        """The answer to the channel verb `storage`."""
        return storage_report(self.expirer, self.lake, clock=self.clock_state())
