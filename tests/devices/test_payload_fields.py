from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.payload_fields import FieldNames, leaves, told
from sink.payload.decode import JsonDecoder
from sink.payload.times import Skew

RECEIVED_US = 1_800_000_000_000_000
NAMES = st.sampled_from(["a", "b", "motor", "temp", "readings", "ü", "a b", "", "envelope"])
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 2**70), st.floats(allow_nan=False, allow_infinity=False))
    | st.text(max_size=3),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=12,
)
PAYLOADS = st.one_of(
    VALUES.map(lambda value: json.dumps(value, ensure_ascii=False)),
    VALUES.map(lambda value: json.dumps(value, indent=2)),
    st.lists(VALUES.map(json.dumps), min_size=1, max_size=3).map("\r\n".join),
    st.text(alphabet='{}[]":,1a \n\\', max_size=12),
).map(str.encode)


@given(PAYLOADS)
@settings(max_examples=400, deadline=None)
def test_fields_have_the_names_that_exports_give_their_columns(payload: bytes) -> None:
    """Of what exports read without refusing any of it; a name that stands twice they refuse."""
    decoded = JsonDecoder("no such field", Skew()).decode(payload, "field", RECEIVED_US)
    if not decoded.refused and payload:
        names = {path for row in decoded.rows for path in row.fields}
        assert set(leaves(payload, "field")) == names


@given(PAYLOADS)
@settings(max_examples=400, deadline=None)
def test_every_value_is_json_and_equal_shapes_have_equal_fields(payload: bytes) -> None:
    values = leaves(payload, "field")
    for leaf in values.values():
        msgspec.json.decode(leaf)
    found = told(payload, "field", FieldNames())
    assert found is not None or not values
    if found is not None and found.shape is not None:
        assert set(values) == set(_paths("", found.shape))


def _paths(prefix: str, shape: tuple[Any, ...]) -> list[str]:
    found = []
    for part in shape:
        found += [prefix + part] if isinstance(part, str) else _paths(f"{prefix}{part[0]}.", part[1])
    return found


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"a": 1.50, "b": {"c": "x"}}', {"a": b"1.50", "b.c": b'"x"'}),
        (b'{"a": {}, "b": [ 1,2 ]}', {"a": b"{}", "b": b"[ 1,2 ]"}),
        (
            b'{"site": "n", "readings": [{"a": 1}, 5, {"site": "s"}]}',
            {"envelope.site": b'"n"', "site": b'"s"', "a": b"1"},
        ),
        (b'{"a": 1}\n{"a": 2}\nnonsense', {"a": b"2"}),
        (b"123456789012345678901234567890", {"value": b"123456789012345678901234567890"}),
        (b" [1, 2]\n", {"value": b"[1, 2]"}),
        (b"null", {}),
        (b"\xff", {}),
    ],
)
def test_examples(payload: bytes, expected: dict[str, bytes]) -> None:
    assert leaves(payload) == expected


def test_numbers_and_time_of_several_readings() -> None:
    found = told(b'[{"seq": 1, "ts": 5}, {"seq": 2, "ts": 6}]', "value", FieldNames())
    assert found is not None
    assert (found.shape, list(found.numbers), found.time) == (None, [1, 2], 6)
