"""Columns of a window: every value is in its column, or beside it, and never rounded."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sink.payload.columns import OUR_NAMES, TYPES, Column, FieldCounts, decide
from sink.payload.kinds import (
    EXACT,
    HOLDS,
    INT,
    LIST_EMPTY,
    STRING,
    Json,
    describe,
    fits,
    is_list,
    json_object,
    json_text,
    kind_of,
)
from sink.payload.schema import DeclaredField, Schema


def counted(rows: Sequence[dict[str, Any]], max_fields: int = 1000) -> FieldCounts:
    counts = FieldCounts(max_fields)
    for row in rows:
        counts.add(row)
    return counts


def columns(*rows: dict[str, Any], timestamp_field: str = "ts", schema: Schema | None = None) -> tuple[Column, ...]:
    return decide(counted(rows), schema, timestamp_field)


def shape(*values: Any) -> tuple[str, int]:
    (column,) = columns(*({"x": value} for value in values))
    return column.kind, column.clashes


WIDE = EXACT + 1
HUGE = 2**63


@pytest.mark.parametrize(
    ("values", "kind", "clashes"),
    [
        ((1, 2), "int64", 0),
        ((1, None), "int64", 0),
        ((1, 2.5), "double", 0),
        ((HUGE - 1, -HUGE), "int64", 0),
        ((1, HUGE), "int64", 1),
        ((HUGE,), "int64", 1),
        ((WIDE, 0.5), "double", 1),
        ((2**60, 0.5), "double", 1),
        ((EXACT, -EXACT, 0.5), "double", 0),
        ((True, False), "bool", 0),
        ((True, 1), "int64", 1),
        ((True, True, 1), "bool", 1),
        (("a", 1), "int64", 1),
        (("a", "b", 1, 2.5), "double", 2),
        (("a", True), "string", 1),
        (([1], Json('{"a":1}')), "list<int64>", 1),
        (([1], Json("{}"), Json("{}")), "json", 0),
        (([1], "a"), "string", 1),
        (([1], [2], "a"), "list<int64>", 1),
        (([1], [2.5]), "list<double>", 0),
        (([1, 2.5],), "list<double>", 0),
        (([WIDE],), "list<int64>", 0),
        (([WIDE], [2.5]), "list<double>", 1),
        (([WIDE, 2.5], [1]), "list<int64>", 1),
        (([HUGE], [1]), "list<int64>", 1),
        ((["a"], [1]), "list<int64>", 1),
        ((["a", None], ["b"], [1]), "list<string>", 1),
        (([True], [None]), "list<bool>", 0),
        (([], [None]), "json", 0),
        (([], [], [], ["a"], "x", "x"), "list<string>", 2),
        (([], "a"), "string", 1),
        (([], [], "a"), "json", 1),
        (([1], 1), "int64", 1),
    ],
)
def test_kind_follows_the_majority(values: tuple[Any, ...], kind: str, clashes: int) -> None:
    assert shape(*values) == (kind, clashes)
    assert shape(*reversed(values)) == (kind, clashes)


def test_columns_stand_in_the_order_of_their_names() -> None:
    assert [column.name for column in columns({"b": 1}, {"a": 1, "c": None}, {"C": 2})] == ["C", "a", "b"]


def test_field_of_nulls_has_no_column() -> None:
    assert columns({"a": None}) == ()
    assert [column.field for column in columns({"a": 1}, {"a": None, "b": None})] == ["a"]


@pytest.mark.parametrize("name", sorted(OUR_NAMES))
def test_our_names_are_prefixed(name: str) -> None:
    for spelled in (name, name.upper()):
        (column,) = columns({spelled: 1})
        assert column.name == f"payload_{spelled}"


def test_time_field_of_the_topic_counts_as_ours() -> None:
    assert [column.name for column in columns({"t": "soon"}, timestamp_field="t")] == ["payload_t"]


def test_names_that_meet_are_numbered() -> None:
    names = [c.name for c in columns({"Temp": 1, "temp": 1, "ts": "x", "payload_ts": 1, "": 2})]
    assert len({name.casefold() for name in names}) == 5
    assert names == ["payload_", "Temp", "payload_ts", "temp_2", "payload_ts_2"]


def test_side_column_does_not_take_the_name_of_a_field() -> None:
    first, second = columns({"x": 1}, {"x": "a", "x__other": 5})
    assert (first.other, second.name) == ("x__other_2", "x__other")


def test_fields_beyond_the_limit_are_overflow() -> None:
    counts = counted([{"a": 1, "b": 2}], max_fields=2)
    assert not counts.overflowed
    counts.add({"c": None})
    assert not counts.overflowed
    counts.add({"c": 3, "a": 4})
    assert counts.overflowed
    assert [column.name for column in decide(counts, None, "ts")] == ["a", "b"]


def test_names_too_long_for_a_column_are_overflow() -> None:
    counts = counted([{"x" * 256: 1}])
    assert not counts.overflowed
    counts.add({"x" * 257: 1})
    assert (counts.overflowed, counts.width) == (True, 1)


def test_whole_columns_count_as_their_values_do() -> None:
    rows = [{"a": 1, "b": "x"}, {"a": 2, "b": 5}, {"a": []}]
    counts = FieldCounts()
    counts.add_counts("a", INT, 2)
    counts.add_counts("a", LIST_EMPTY, 1)
    counts.add_counts("b", STRING, 1)
    counts.add_counts("b", INT, 1)
    counts.add_counts("c", INT, 0)
    assert decide(counts, None, "ts") == columns(*rows)
    assert counts.width == 2
    full = FieldCounts(max_fields=1)
    full.add_counts("a", INT, 1)
    full.add_counts("b", INT, 1)
    assert (full.overflowed, full.paths) == (True, ["a"])


def test_declared_columns_come_first_in_their_order_and_keep_their_names() -> None:
    schema = Schema(
        fields=(
            DeclaredField(name="z", type="double"),
            DeclaredField(name="device", type="string"),
            DeclaredField(name="a", type="timestamp"),
        )
    )
    counts = FieldCounts(max_fields=2, declared=schema.names)
    counts.add({"Z": "x", "b": 1})
    counts.add({"b": "x", "z": 5, "a": 1_763_633_700_000_000, "device": "d"})
    assert not counts.overflowed
    found = decide(counts, schema, "ts")
    assert [(c.name, c.kind, c.other, c.declared) for c in found] == [
        ("z", "double", None, True),
        ("payload_device", "string", None, True),
        ("a", "timestamp", None, True),
        ("Z_2", "string", None, False),
        ("b", "int64", "b__other", False),
    ]
    assert [column.name for column in decide(FieldCounts(), schema, "ts")] == ["z", "payload_device", "a"]


def test_every_kind_has_a_type() -> None:
    assert set(TYPES) == {*HOLDS, "binary"}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1, "int64"),
        (HUGE, "integer beyond 64 bits"),
        (0.5, "double"),
        (True, "bool"),
        ("x", "string"),
        (None, "null"),
        ({}, "object"),
        ([], "empty list"),
        ([1], "list<int64>"),
        ([1, 0.5], "list<double>"),
        ([WIDE, 0.5], "list of numbers that no one type holds"),
        (["x"], "list<string>"),
        ([1, "x"], "array"),
        (Json("[[]]"), "array"),
        (Json("{}"), "object"),
    ],
)
def test_values_are_described(value: object, words: str) -> None:
    assert describe(value) == words


def test_json_text_is_not_written_twice() -> None:
    assert json_text(Json('{"a": 1}')) == '{"a": 1}'
    assert json_text('{"a": 1}') == '"{\\"a\\": 1}"'
    assert json_object({"a": Json("[[]]"), "b": "[[]]", "c": [2**70]}) == (
        '{"a":[[]],"b":"[[]]","c":[1180591620717411303424]}'
    )


NUMBERS = (
    st.integers(-(2**70), 2**70)
    | st.sampled_from([WIDE, HUGE, HUGE - 1, -HUGE, -HUGE - 1, 0, -0.0])
    | st.floats(allow_nan=False, allow_infinity=False)
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
LISTS = st.one_of(*(st.lists(st.none() | items, max_size=3) for items in (NUMBERS, TEXTS, st.booleans())))
VALUES = st.none() | st.booleans() | NUMBERS | TEXTS | LISTS | st.just(Json('{"a":[1]}'))
NAMES = st.sampled_from(["a", "A", "ts", "device", "a__other", "_more", "payload_ts", "date"]) | TEXTS
ROWS = st.lists(st.dictionaries(NAMES, VALUES, max_size=6), min_size=1, max_size=12)


def same(one: Any, other: Any) -> bool:
    """Equal, signs of zeros included; an integer may stand as the double that it is."""
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if type(one) in (int, float):
        return type(other) in (int, float) and one == other and math.copysign(1, one) == math.copysign(1, other)
    return type(one) is type(other) and bool(one == other)


@settings(max_examples=300, deadline=None)
@given(rows=ROWS, max_fields=st.integers(1, 8))
def test_every_value_fits_its_column_exactly_or_is_counted(rows: list[dict[str, Any]], max_fields: int) -> None:
    counts = counted(rows, max_fields)
    found = decide(counts, None, "ts")
    assert found == decide(counts, None, "ts")
    names = [name for column in found for name in (column.name, column.other) if name is not None]
    assert len({name.casefold() for name in names} | {name.casefold() for name in OUR_NAMES}) == (
        len(names) + len(OUR_NAMES)
    )
    own = {column.field for column in found}
    assert counts.overflowed == any(
        value is not None and name not in own for row in rows for name, value in row.items()
    )
    for column in found:
        values = [row[column.field] for row in rows if row.get(column.field) is not None]
        held = [value for value in values if fits(value, column.kind)]
        assert len(values) - len(held) == column.clashes
        assert (column.other is None) == (column.clashes == 0)
        stored = [json_text(value) for value in held] if column.kind == "json" else held
        read = pa.array(stored, TYPES[column.kind]).to_pylist()
        if column.kind == "json":
            assert [json.loads(text) for text in read] == [json.loads(json_text(value)) for value in held]
        else:
            assert all(map(same, held, read))


@given(VALUES)
def test_a_value_fits_by_its_kind_alone(value: Any) -> None:
    for kind, holds in HOLDS.items():
        assert value is None or fits(value, kind) == (kind_of(value) in holds)
    assert not isinstance(value, list) or is_list(value)
