"""Helpers for asyncio tasks: none is left to fail unseen."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

_log = structlog.get_logger("headrace")


def log_unexpected(event: str, error: BaseException, **fields: Any) -> None:
    """Log an exception that nobody planned for, with its traceback."""
    _log.error(event, error=repr(error), exc_info=error, **fields)


def background(coroutine: Coroutine[Any, Any, None], name: str, running: set[asyncio.Task[None]]) -> asyncio.Task[None]:
    """Start a task that belongs to `running` until it is done; an exception in it is logged, never lost."""
    task = asyncio.create_task(coroutine, name=name)
    running.add(task)

    def done(finished: asyncio.Task[None]) -> None:
        running.discard(finished)
        if not finished.cancelled() and (error := finished.exception()) is not None:
            log_unexpected("background task failed", error, task=name)

    task.add_done_callback(done)
    return task
