from __future__ import annotations

import asyncio

import pytest
import structlog
from structlog.testing import capture_logs

from core.tasks import background, log_unexpected
from tests.conftest import wait_until_async


@pytest.fixture(autouse=True)
def _plain_logs() -> None:
    structlog.reset_defaults()


async def test_a_background_task_is_kept_until_it_is_done() -> None:
    running: set[asyncio.Task[None]] = set()
    go = asyncio.Event()

    async def work() -> None:
        await go.wait()

    task = background(work(), "work", running)
    assert running == {task}
    go.set()
    await task
    await wait_until_async(lambda: not running)


async def test_an_exception_in_a_background_task_is_logged() -> None:
    running: set[asyncio.Task[None]] = set()

    async def fail() -> None:
        raise ValueError("broken")

    with capture_logs() as logs:
        background(fail(), "failing", running)
        await wait_until_async(lambda: not running)
    assert [(line["event"], line["task"], line["error"]) for line in logs] == [
        ("background task failed", "failing", "ValueError('broken')")
    ]


async def test_a_cancelled_background_task_is_not_an_error() -> None:
    running: set[asyncio.Task[None]] = set()
    with capture_logs() as logs:
        task = background(asyncio.Event().wait(), "cancelled", running)  # type: ignore[arg-type]
        await asyncio.sleep(0)
        task.cancel()
        await wait_until_async(lambda: not running)
    assert logs == []


def test_an_unexpected_error_is_logged_with_its_traceback() -> None:
    error = ValueError("x")
    with capture_logs() as logs:
        log_unexpected("odd", error, topic="t")
    assert logs == [{"event": "odd", "error": "ValueError('x')", "exc_info": error, "topic": "t", "log_level": "error"}]
