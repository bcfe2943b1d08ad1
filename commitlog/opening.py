"""Opening an embedded log: its directories, space to start in, recovery, a fresh journal; all off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from commitlog.fullness import loop_call
from commitlog.journal import Journal
from commitlog.patient import PatientStorage
from commitlog.recovery import Recovered, recover, start_journal
from commitlog.settings import LogSettings
from commitlog.space import Space
from commitlog.storage import LOG_DIR, RUN_DIR, Storage
from core.threads import Threads


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What a log starts from. `storage` waits for space where a write finds none."""

    recovered: Recovered
    journal: Journal
    storage: Storage
    space: Space


async def open_files(
    data_dir: Path,
    settings: LogSettings,
    *,
    storage: Storage,
    threads: Threads,
    on_wait: Callable[[], None] | None = None,
) -> Opened:
    """Recover what is there and make a fresh journal. See `EmbeddedLog.open`."""
    log_dir = data_dir / LOG_DIR
    released = threads.latch()
    space = Space(
        storage,
        log_dir,
        reserve_bytes=settings.reserve_bytes,
        mark_bytes=settings.full_mark_bytes,
        gave_up=threads.latch(),
    )
    if on_wait is not None:
        space.on_wait = partial(loop_call, asyncio.get_running_loop(), on_wait)
    patient = PatientStorage(storage, space)

    def start() -> tuple[Recovered, Journal]:
        storage.make_dir(data_dir / RUN_DIR)
        storage.make_dir(log_dir)
        space.ensure_start()
        recovered = recover(patient, log_dir, settings)
        journal = space.retried(lambda: start_journal(patient, log_dir, settings, recovered, released), wait=False)
        space.look()
        space.ensure_start()
        return recovered, journal

    try:
        recovered, journal = await threads.run(start)
    except asyncio.CancelledError:
        space.give_up()
        raise
    return Opened(recovered=recovered, journal=journal, storage=patient, space=space)
