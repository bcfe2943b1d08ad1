"""The doorbell: no ring is missed, nobody is blocked by a crowd at the door, a new writer is found."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from commitlog.doorbell import MAX_READERS, Doorbell, DoorbellWaiter

LONG_S = 20.0  # never waited for: a test that gets that far has failed


@pytest.fixture
def bell(tmp_path: Path) -> Iterator[Doorbell]:
    with closing(Doorbell(tmp_path)) as made:
        yield made


@pytest.fixture
def waiter(tmp_path: Path) -> Iterator[DoorbellWaiter]:
    with closing(DoorbellWaiter(tmp_path)) as made:
        yield made


def woken(waiter: DoorbellWaiter) -> bool:
    started = time.monotonic()
    waiter.wait(LONG_S)
    return time.monotonic() - started < LONG_S / 2


def test_a_ring_before_the_wait_is_not_missed(bell: Doorbell, waiter: DoorbellWaiter) -> None:
    assert waiter.connect()
    bell.ring()
    assert woken(waiter)


def test_a_ring_during_the_wait_wakes(bell: Doorbell, waiter: DoorbellWaiter) -> None:
    assert waiter.connect()
    timer = threading.Timer(0.01, bell.ring)
    timer.start()
    assert woken(waiter)
    timer.join()


def test_without_a_ring_the_wait_ends_at_its_deadline(bell: Doorbell, waiter: DoorbellWaiter) -> None:
    assert waiter.connect()
    started = time.monotonic()
    waiter.wait(0.02)
    assert time.monotonic() - started >= 0.019


def test_every_reader_is_woken(bell: Doorbell, tmp_path: Path) -> None:
    with ExitStack() as stack:
        waiters = [stack.enter_context(closing(DoorbellWaiter(tmp_path))) for _ in range(5)]
        assert all(waiter.connect() for waiter in waiters)
        bell.ring()
        assert all(woken(waiter) for waiter in waiters)


def test_a_reader_that_picks_nothing_up_never_blocks_the_writer(bell: Doorbell, waiter: DoorbellWaiter) -> None:
    assert waiter.connect()
    for _ in range(3_000):  # more than a socket's buffer holds
        bell.ring()
    assert woken(waiter)


def test_a_reader_that_left_is_forgotten(bell: Doorbell, tmp_path: Path) -> None:
    for _ in range(3 * MAX_READERS):
        with closing(DoorbellWaiter(tmp_path)) as waiter:
            assert waiter.connect()
            bell.ring()
    bell.ring()
    assert bell._readers == []


def test_a_crowd_at_an_idle_writer_s_door_blocks_nobody(bell: Doorbell, tmp_path: Path) -> None:
    """The listen queue is full, and nobody rings: a further reader polls instead of hanging in connect."""
    with ExitStack() as stack:
        crowd = [stack.enter_context(closing(DoorbellWaiter(tmp_path))) for _ in range(2 * MAX_READERS)]
        there = [waiter.connect() for waiter in crowd]
        assert there[0]
        assert not there[-1]
        bell.ring()
        assert woken(crowd[0])
        assert crowd[-1].connect()


def test_a_writer_that_goes_wakes_its_readers_and_the_next_one_is_found(tmp_path: Path) -> None:
    first = Doorbell(tmp_path)
    with closing(DoorbellWaiter(tmp_path)) as waiter:
        assert waiter.connect()
        first.ring()
        assert woken(waiter)
        first.close()
        assert woken(waiter)
        assert not waiter.connect()
        with closing(Doorbell(tmp_path)) as second:
            assert waiter.connect()
            second.ring()
            assert woken(waiter)


def test_before_the_first_writer_there_is_no_door(waiter: DoorbellWaiter) -> None:
    assert not waiter.connect()


def test_the_socket_is_the_owner_s_alone(bell: Doorbell, tmp_path: Path) -> None:
    assert (tmp_path / "doorbell.sock").stat().st_mode & 0o777 == 0o600


def test_the_socket_is_never_open_to_others_not_even_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []

    class Watched(socket.socket):
        def bind(self, address: Any) -> None:
            super().bind(address)
            modes.append((tmp_path / "doorbell.sock").stat().st_mode & 0o777)

    monkeypatch.setattr(socket, "socket", Watched)
    before = os.umask(0)
    try:
        with closing(Doorbell(tmp_path)):
            assert modes == [0o600]
        assert os.umask(0) == 0, "as it was"
    finally:
        os.umask(before)
