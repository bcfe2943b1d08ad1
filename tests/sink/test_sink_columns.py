from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sink.arrays import field_arrays, fields_schema
from sink.columns import OUR_NAMES, Column, FieldStatistics


def decide(*rows: dict[str, Any], max_fields: int = 1000, timestamp_field: str = "ts") -> tuple[Column, ...]:
    statistics = FieldStatistics(max_fields)
    for row in rows:
        statistics.add(row)
    return statistics.columns(timestamp_field)


def shape(*values: Any) -> tuple[str, int]:
    (column,) = decide(*({"x": value} for value in values))
    return column.kind, column.clashes


@pytest.mark.parametrize(
    ("values", "kind", "clashes"),
    [
        ((1, 2), "int64", 0),
        ((1, None), "int64", 0),
        ((1, 2.5), "double", 0),
        ((2**63 - 1, -(2**63)), "int64", 0),
        ((1, 2**63), "int64", 1),
        ((2**63,), "int64", 1),
        ((2**53 + 1, 0.5), "double", 1),
        ((2**60, 0.5), "double", 1),
        ((2**53, -(2**53), 0.5), "double", 0),
        ((True, False), "bool", 0),
        ((True, 1), "int64", 1),
        ((True, True, 1), "bool", 1),
        (("a", 1), "int64", 1),
        (("a", "b", 1, 2.5), "double", 2),
        (("a", True), "string", 1),
        (([1], {"a": 1}), "json", 0),
        (([1], "a"), "string", 1),
        (([1], [2], "a"), "json", 1),
    ],
)
def test_kind_follows_the_majority(values: tuple[Any, ...], kind: str, clashes: int) -> None:
    assert shape(*values) == (kind, clashes)
    assert shape(*reversed(values)) == (kind, clashes)


def test_columns_stand_in_the_order_of_their_names() -> None:
    assert [column.name for column in decide({"b": 1}, {"a": 1, "c": None}, {"C": 2})] == ["C", "a", "b"]


def test_field_of_nulls_has_no_column() -> None:
    assert decide({"a": None}) == ()


@pytest.mark.parametrize("name", sorted(OUR_NAMES))
def test_our_names_are_prefixed(name: str) -> None:
    for spelled in (name, name.upper()):
        (column,) = decide({spelled: 1})
        assert column.name == f"payload_{spelled}"


def test_time_field_of_the_topic_counts_as_ours() -> None:
    assert [column.name for column in decide({"t": "soon"}, timestamp_field="t")] == ["payload_t"]


def test_names_that_meet_are_numbered() -> None:
    names = [c.name for c in decide({"Temp": 1, "temp": 1, "ts": "x", "payload_ts": 1, "": 2})]
    assert len({name.casefold() for name in names}) == 5
    assert names == ["payload_", "Temp", "payload_ts", "temp_2", "payload_ts_2"]


def test_side_column_does_not_take_the_name_of_a_field() -> None:
    first, second = decide({"x": 1}, {"x": "a", "x__other": 5})
    assert (first.other, second.name) == ("x__other_2", "x__other")


def test_fields_beyond_the_limit_are_counted_as_overflow() -> None:
    statistics = FieldStatistics(2)
    statistics.add({"a": 1, "b": 2})
    assert not statistics.overflowed
    statistics.add({"c": 3, "a": 4})
    assert statistics.overflowed
    assert [column.name for column in statistics.columns("ts")] == ["a", "b"]


def test_names_too_long_for_a_column_count_as_overflow() -> None:
    statistics = FieldStatistics()
    statistics.add({"x" * 256: 1})
    assert not statistics.overflowed
    statistics.add({"x" * 257: 1})
    assert (statistics.overflowed, statistics.width) == (True, 1)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.sampled_from([2**53 + 1, 2**63, 2**63 - 1, -(2**63), -(2**63) - 1, 0, -0.0])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=3), SCALARS, max_size=3)
NAMES = st.sampled_from(["a", "A", "ts", "device", "a__other", "_more", "payload_ts", "date"]) | st.text(max_size=4)
ROWS = st.lists(st.dictionaries(NAMES, VALUES, max_size=6), min_size=1, max_size=12)


def same(written: Any, read: Any, kind: str) -> bool:
    if kind == "json":
        return bool(json.loads(read) == written)
    if kind in ("int64", "double"):
        return bool(written == read) and math.copysign(1, written) == math.copysign(1, read)
    return type(written) is type(read) and bool(written == read)


@settings(max_examples=300, deadline=None)
@given(rows=ROWS, max_fields=st.integers(1, 8))
def test_every_value_comes_out_of_its_column_or_beside_it(rows: list[dict[str, Any]], max_fields: int) -> None:
    statistics = FieldStatistics(max_fields)
    for row in rows:
        statistics.add(row)
    columns = statistics.columns("ts")
    names = [field.name for field in fields_schema(columns, statistics.overflowed)]
    assert len({name.casefold() for name in names}) == len(names)
    arrays = field_arrays(columns, statistics.overflowed, rows)
    read = {name: array.to_pylist() for name, array in zip(names, arrays, strict=True)}
    own = {column.field: column for column in columns}
    clashes = dict.fromkeys(names, 0)
    for number, row in enumerate(rows):
        more = json.loads(read["_more"][number] or "{}") if statistics.overflowed else {}
        for field, value in row.items():
            if value is None:
                continue
            column = own.get(field)
            if column is None:
                assert more[field] == value
            elif read[column.name][number] is not None:
                assert same(value, read[column.name][number], column.kind)
            else:
                assert column.other is not None
                other = json.loads(read[column.other][number])
                assert (type(other), other) == (type(value), value)
                clashes[column.name] += 1
    assert all(clashes[column.name] == column.clashes for column in columns)
