"""The comparison that the kill tests rely on finds what it is there to find."""

from __future__ import annotations

import pytest

from tests.e2e.publishers import Book
from tests.e2e.stored import Reading, Stored, compare

SEQS = {"paho-": 1}


def stored(*seqs: int) -> Stored:
    """A device's records; a negative number is one that the client had marked as sent before."""
    return Stored(devices={"paho-0": [Reading(seq=abs(seq), dup=seq < 0) for seq in seqs]})


def book(acked: set[int], resent: set[int]) -> dict[str, Book]:
    return {"paho-0": Book(acked=acked, resent=resent, marks_resends=True)}


def test_what_was_sent_and_sent_again_may_be_there() -> None:
    compare(stored(1, 2, 3, -2, -3, 4), book({1, 2, 3}, {2, 3}), SEQS)


def test_what_was_never_acked_may_be_missing() -> None:
    compare(stored(1, 2), book({1}, {2, 3}), SEQS)


@pytest.mark.parametrize(
    ("found", "resent", "words"),
    [
        pytest.param(stored(1, 2), set(), "acked and lost: .3", id="lost"),
        pytest.param(Stored(), set(), "acked and lost", id="all-lost"),
        pytest.param(stored(1, 3, -2, -3), {2, 3}, "3 stands where 2 was sent", id="order"),
        pytest.param(stored(2, 3), set(), "2 stands where 1 was sent", id="first-missing"),
        pytest.param(stored(1, 2, -2, 3), set(), "sent once", id="stored-twice"),
        pytest.param(stored(1, 2, 2, 3), {2}, "not marked", id="unmarked"),
    ],
)
def test_anything_else_is_found(found: Stored, resent: set[int], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        compare(found, book({1, 2, 3}, resent), SEQS)


def test_a_device_that_nobody_knows_is_found() -> None:
    with pytest.raises(StopIteration):
        compare(Stored(devices={"ghost": [Reading(seq=1, dup=False)]}), {}, SEQS)
