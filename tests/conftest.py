"""What tests of every package share: components from outside, free ports, waiting without sleeping blindly.

Import the functions (`from tests.conftest import wait_until`), or take the fixtures of the same names.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import shutil
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, overload

import pytest

T = TypeVar("T")

REQUIRE_VARIABLE: Final = "HEADRACE_REQUIRE"
POLL_S: Final = 0.005  # short enough that a test loses nothing, long enough to leave the processor to what is awaited


def required_components() -> frozenset[str]:
    """The programs that must be there, by the environment variable HEADRACE_REQUIRE (a comma list)."""
    names = os.environ.get(REQUIRE_VARIABLE, "").split(",")
    return frozenset(name.strip() for name in names if name.strip())


def require_component(name: str) -> str:
    """The path of an external program. When it is missing: skips the test, or fails it if HEADRACE_REQUIRE names it."""
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    path = shutil.which(name, path=search)
    if path is not None:
        return path
    if name in required_components():
        pytest.fail(f"{name} is required by {REQUIRE_VARIABLE} and is not installed")
    pytest.skip(f"{name} is not installed")


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port nobody listens on now. Prefer `port = "auto"`: another process may take this one before you do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], T], timeout_s: float = 10.0, describe: str | Callable[[], str] = "") -> T:
    """Poll `condition` until it returns something true, and return that; fail the test at the deadline.

    `describe` says what was awaited, or what was there instead (called only on failure).
    """
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(_late(condition, timeout_s, describe))
        time.sleep(POLL_S)
    return value


@overload
async def wait_until_async(
    condition: Callable[[], Awaitable[T]], timeout_s: float = ..., describe: str | Callable[[], str] = ...
) -> T: ...
@overload
async def wait_until_async(
    condition: Callable[[], T], timeout_s: float = ..., describe: str | Callable[[], str] = ...
) -> T: ...
async def wait_until_async(
    condition: Callable[[], Any], timeout_s: float = 10.0, describe: str | Callable[[], str] = ""
) -> Any:
    """`wait_until` on the event loop; `condition` may be a coroutine function."""
    deadline = time.monotonic() + timeout_s
    while True:
        outcome = condition()
        value = await outcome if inspect.isawaitable(outcome) else outcome
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(_late(condition, timeout_s, describe))
        await asyncio.sleep(POLL_S)


def _late(condition: Callable[[], object], timeout_s: float, describe: str | Callable[[], str]) -> str:
    text = describe() if callable(describe) else describe
    return f"not within {timeout_s:g} s: {text or getattr(condition, '__qualname__', repr(condition))}"


@pytest.fixture(name="require_component")
def _require_component() -> Callable[[str], str]:
    return require_component


@pytest.fixture(name="free_port")
def _free_port() -> Callable[[], int]:
    return free_port


@pytest.fixture(name="wait_until")
def _wait_until() -> Callable[..., object]:
    return wait_until


@pytest.fixture(name="wait_until_async")
def _wait_until_async() -> Callable[..., Awaitable[object]]:
    return wait_until_async
