from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sink.parquet.checksum import checksum, checksum_text, combined

MASK = (1 << 64) - 1


def by_the_page(places: list[tuple[int, int, int]]) -> int:
    """The arithmetic as docs/formats-parquet.md has it, in plain integers."""
    total = 0
    for partition, offset, row in places:
        x = (0x9E3779B97F4A7C15 + offset + partition * 0xD6E8FEB86659FD93 + row * 0xC2B2AE3D27D4EB4F) & MASK
        x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & MASK
        x = ((x ^ x >> 27) * 0x94D049BB133111EB) & MASK
        total += x ^ x >> 31
    return total & MASK


def of(places: list[tuple[int, int, int]]) -> int:
    partitions, offsets, rows = zip(*places, strict=True)
    return checksum(np.array(partitions, np.int32), np.array(offsets, np.int64), np.array(rows, np.int32))


PLACES = st.lists(
    st.tuples(st.integers(0, 1023), st.integers(0, 2**63 - 1), st.integers(0, 2**31 - 1)), min_size=1, max_size=40
)


@given(PLACES)
def test_it_is_the_arithmetic_on_the_page(places: list[tuple[int, int, int]]) -> None:
    assert of(places) == by_the_page(places)


@given(PLACES, st.randoms(use_true_random=False))
def test_order_and_cuts_make_no_difference(places: list[tuple[int, int, int]], chance: random.Random) -> None:
    shuffled = chance.sample(places, len(places))
    cut = chance.randrange(len(places))
    parts = [part for part in (shuffled[:cut], shuffled[cut:]) if part]
    assert combined(of(part) for part in parts) == of(places)


def test_pieces_longer_than_one_step() -> None:
    offsets = np.arange(40_000, dtype=np.int64)
    before = offsets.copy()
    assert checksum(3, offsets) == by_the_page([(3, offset, 0) for offset in range(40_000)])
    assert (offsets == before).all()  # what is handed in stays as it is


def test_one_number_stands_for_all_rows() -> None:
    rows = np.arange(10, dtype=np.int32)
    assert checksum(1, 77, rows) == by_the_page([(1, 77, row) for row in range(10)])


def test_known_values() -> None:
    """These stand in files: whoever changes them makes every file of today look damaged."""
    assert checksum_text(of([(0, 0, 0)])) == "e220a8397b1dcdaf"  # SplitMix64's first output from state 0
    assert checksum_text(of([(7, 123_456_789, 2), (0, 1, 0)])) == "df4b2574d1d1fb11"
    assert checksum(0, np.array([], np.int64)) == 0


def test_neighbours_that_change_places_are_seen() -> None:
    assert of([(0, 1, 0), (1, 0, 0)]) != of([(0, 0, 0), (1, 1, 0)])
    assert of([(0, 5, 0), (0, 5, 0)]) != of([(0, 5, 0), (0, 5, 1)])


def test_arrays_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="unpack"):
        checksum(np.zeros(2, np.int32), np.zeros(3, np.int64))
