"""The parts of verify by themselves: ranges, places in pieces, spans with long holes, row hashes."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.bounded import MAX_KEPT
from sink.parquet.lake import LakeFile, look_at_lake
from sink.payload.decode import JsonDecoder
from sink.payload.kinds import Json, json_text
from sink.payload.times import Skew
from sink.verify.buckets import BUCKET_OFFSETS, Buckets
from sink.verify.canonical import Expected, hash_values, value_of_text
from sink.verify.places import PlaceCheck, Span
from sink.verify.ranges import Range, common, size, union, without
from sink.verify.report import Finding, Findings
from tests.sink.lake_box import Box

RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=8)


def numbers(ranges: list[Range]) -> set[int]:
    return {number for first, following in ranges for number in range(first, following)}


@given(RANGES, RANGES)
def test_ranges_are_sets(one: list[Range], other: list[Range]) -> None:
    a, b = union(one), union(other)
    assert numbers(a) == numbers(one)
    assert all(x[1] < y[0] for x, y in itertools.pairwise(a))
    assert numbers(without(a, b)) == numbers(a) - numbers(b)
    assert numbers(common(a, b)) == numbers(a) & numbers(b)
    assert size(a) == len(numbers(a))


# -- places


@pytest.mark.parametrize("piece_rows", [1, 7, 100, 1_000_000])
def test_places_are_the_same_in_pieces_of_any_size(box: Box, piece_rows: int) -> None:
    files = [file for file in look_at_lake(box.lake, "declared").files if file.window == 1]
    span = Span.of([file.offsets for file in files])
    whole = PlaceCheck(box.lake, [*files, files[0]], span).run()
    found = PlaceCheck(box.lake, [*files, files[0]], span, piece_rows=piece_rows).run()
    assert found.missing == whole.missing == {}
    assert found.doubled_count == whole.doubled_count == files[0].rows
    assert sorted(found.doubled) == sorted(whole.doubled)
    without_one = PlaceCheck(box.lake, files[:1], span, piece_rows=piece_rows).run()
    assert sum(map(size, without_one.missing.values())) == sum(file.records for file in files[1:])


def test_a_span_leaves_out_what_a_restored_log_passed_over() -> None:
    """2**36 offsets that no record ever had, counted through, would take half a gigabyte of sums."""
    far = 1 << 36
    span = Span.of([{0: (10, far + 5), 3: (7, 9)}], {0: [(12, far)]})
    assert span.size == 2 + 5 + 2
    partitions, offsets = np.array([0, 0, 0, 3, 3, 1]), np.array([10, far + 4, 500, 8, 9, 7])
    inside, found = span.locate(partitions, offsets, np.zeros(6, np.int64))
    assert inside.tolist() == [True, True, False, True, False, False]
    assert found[inside].tolist() == [0, 6, 8]
    assert [span.place(number) for number in (0, 6, 8)] == [(0, 10), (0, far + 4), (3, 8)]
    assert span.by_partition([(1, 4), (6, 9)]) == {0: [(11, 12), (far, far + 2), (far + 4, far + 5)], 3: [(7, 9)]}
    with pytest.raises(ValueError, match="not in the span"):
        span.place(9)


def test_buckets_differ_where_sums_do() -> None:
    span = Span.of([{0: (0, 10 * BUCKET_OFFSETS), 1: (0, 5)}])
    buckets = Buckets(span, {0: 3})
    offsets = np.arange(10 * BUCKET_OFFSETS)
    zeros, hashes = np.zeros_like(offsets), offsets.astype(np.uint64) * np.uint64(77)
    buckets.add(zeros, offsets, zeros, hashes)
    for index in (2 * BUCKET_OFFSETS, 5 * BUCKET_OFFSETS + 1):
        hashes[index] += np.uint64(1)
    buckets.subtract(0, offsets[3:], hashes[3:])
    assert buckets.different() == [
        {0: [(2 * BUCKET_OFFSETS, 3 * BUCKET_OFFSETS)]},
        {0: [(5 * BUCKET_OFFSETS, 6 * BUCKET_OFFSETS)]},
    ]
    buckets.leave_out(0, 5 * BUCKET_OFFSETS + 9, 5 * BUCKET_OFFSETS + 10)
    assert len(buckets.different()) == 1


# -- what a row says

VALUES = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.booleans(),
    st.lists(st.integers(-(2**66), 2**66), max_size=3),
    st.lists(st.text(max_size=3), max_size=3),
)


def hashed(fields: dict[str, Any]) -> int:
    rows = Expected("rows")
    rows.add(1, 0, (5, 6), {"device": "d"}, fields)
    return int(rows.hashes(0)[1][0])


def meaning(value: Any) -> object:
    """What a value means, whatever column keeps it: a number is a double where that holds it exactly."""
    if isinstance(value, list):
        return [meaning(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value).hex() if abs(value) <= 2**53 else str(value)
    return (value + 0.0).hex() if isinstance(value, float) else (type(value), value)  # -0 and 0 are one number


@given(VALUES, VALUES)
@example(-1, -2)
@example(0, -0.0)
@example(2**53, 2.0**53)
@example(True, 1)
@example("1", 1)
@example([], "")
def test_values_have_one_hash_if_and_only_if_they_mean_the_same(one: Any, other: Any) -> None:
    assert (hashed({"a": one}) == hashed({"a": other})) is (meaning(one) == meaning(other))


@given(VALUES)
def test_a_value_and_its_text_mean_the_same(value: Any) -> None:
    assert hashed({"a": value}) == hashed({"a": value_of_text(json_text(value))})


def test_what_matters_to_a_row() -> None:
    base = hashed({"a": 1, "b": 2})
    assert base == hashed({"b": 2.0, "a": 1.0})
    assert base == hashed({"a": 1, "b": 2, "c": None})
    different = [
        {"a": 2, "b": 1},
        {"a": 1},
        {"a": 1, "b": 2, "c": 0},
        {"a": 1, "b": "2"},
        {"a": True, "b": 2},
        {"a": -1, "b": 2},
        {"a": -2, "b": 2},
        {"a": [1], "b": 2},
        {"a": Json("1"), "b": 2},
        {"a": "", "b": 2},
    ]
    assert len({base, *map(hashed, different)}) == len(different) + 1


def test_wide_numbers_are_not_rounded() -> None:
    values = [2**53, 2**53 + 1, 2**53 + 2, 2**62, 2**62 + 1, 2**63, 2**64, -(2**63), -(2**63) - 1]
    assert len(set(hash_values(values, int).tolist())) == len(values)


def test_many_rows_hash_as_each_does_alone() -> None:
    rng = random.Random(3)
    decoder = JsonDecoder("ts", Skew())
    every, single = Expected("rows"), []
    for offset in range(50):
        payload = {"n": rng.choice([1, 0.5, "x", None, [1, 2], {}, 2**60]), "m": rng.random()}
        (row,) = decoder.decode(json.dumps(payload).encode(), "value", 1).rows
        one = Expected("rows")
        for rows in (every, one):
            rows.add(offset, 0, (row.ts_us, 1), {"device": None, "_topic": "t"}, row.fields)
        single.append(int(one.hashes(2)[1][0]))
    assert every.hashes(2)[1].tolist() == single


# -- what is told


def finding(number: int) -> Finding:
    return Finding(kind="value", what="", where=f"lake/{number}")


def test_findings_are_bounded_and_counted() -> None:
    found = Findings()
    for number in range(MAX_KEPT + 50):
        found.add(finding(number))
    assert (len(found.kept), found.count) == (MAX_KEPT, MAX_KEPT + 50)
    both = Findings()
    both.take(found)
    assert (len(both.kept), both.count) == (MAX_KEPT, MAX_KEPT + 50)


def test_only_what_both_looks_have_is_told() -> None:
    first, second = Findings(), Findings()
    for number in (1, 2):
        first.add(finding(number))
    for number in (2, 3):
        second.add(finding(number))
    assert [one.where for one in first.seen_again(second).kept] == ["lake/2"]


def test_a_lake_that_is_not_there_is_empty(tmp_path: Path) -> None:
    look = look_at_lake(tmp_path / "none")
    assert (look.files, look.bad, look.units()) == ([], [], [])


def test_units_are_whole(box: Box) -> None:
    units = look_at_lake(box.lake).units()
    assert len(units) == 9
    for unit in units:
        assert {file.path for file in unit.files} == set(unit.named)
        assert all(isinstance(file, LakeFile) for file in unit.files)
