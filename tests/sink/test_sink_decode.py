"""The plain record decoder: what each payload becomes, and that nothing a device sends can do worse than quarantine."""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sink.payload import decode as decode_module
from sink.payload.decode import Decoded, Facts, JsonDecoder, RawDecoder, Refused, Row, decoder_for
from sink.payload.kinds import Json
from sink.payload.reasons import REASONS
from sink.payload.strict_json import MAX_DEPTH, MAX_RECORD_DEPTH
from sink.payload.times import US_PER_S, Skew
from tests.sink.sink_fakes import FakeRecord

RECEIVED = 1_763_633_700_000_000


def decode(payload: bytes | None, field: str = "value", timestamp_field: str = "ts") -> Decoded:
    return JsonDecoder(timestamp_field, Skew()).decode(payload, field, RECEIVED)


def rows(decoded: Decoded) -> list[tuple[int, dict[str, Any]]]:
    return [(row.row, row.fields) for row in decoded.rows]


def refusals(decoded: Decoded) -> list[tuple[int, str, bytes | None]]:
    return [(refused.row, refused.reason, refused.payload) for refused in decoded.refused]


def nested(names: int) -> bytes:
    return b'{"a":' * names + b"1" + b"}" * names


# ---- one row

ONE_ROW = [
    (b'{"a":1,"b":"x"}', {"a": 1, "b": "x"}),
    (b"{}", {}),
    (b"null", {}),
    (None, {}),
    (b"21.5", {"value": 21.5}),
    (b"true", {"value": True}),
    (b'"on"', {"value": "on"}),
    (b"123456789012345678901234567890", {"value": 123456789012345678901234567890}),
    (b"9" * 4300, {"value": int("9" * 4300)}),
    (b'{"a":null}', {"a": None}),
    (b'{"a":-0.0,"b":1e2}', {"a": -0.0, "b": 100.0}),
    (rb'{"a\"b":"c\"d"}', {'a"b': 'c"d'}),
    (b' {"a" : "b,{[" } ', {"a": "b,{["}),
    (b'{"motor":{"temp":5,"on":true}}', {"motor.temp": 5, "motor.on": True}),
    (b'{"a":{"":1},"":{"b":2}}', {"a.": 1, ".b": 2}),
    (b'{"a":{}}', {"a": Json("{}")}),
    (nested(8), {"a.a.a.a.a.a.a.a": 1}),
    (nested(9), {"a.a.a.a.a.a.a.a": Json('{"a":1}')}),
    (b'{"' + b"n" * 256 + b'":{"b":1}}', {"n" * 256 + ".b": 1}),
    (b'{"' + b"n" * 257 + b'":{"b":1}}', {"n" * 257: Json('{"b":1}')}),
    (b"[1,2]", {"value": [1, 2]}),
    (b'{"a":[1,2.5,null]}', {"a": [1, 2.5, None]}),
    (b'{"a":["x"],"b":[true,false],"c":[]}', {"a": ["x"], "b": [True, False], "c": []}),
    (b'{"a":[1,"x"]}', {"a": Json('[1,"x"]')}),
    (b'{"a":[1,true]}', {"a": Json("[1,true]")}),
    (b'{"a":[[1],[2]]}', {"a": Json("[[1],[2]]")}),
    (b'{"a":[{"b":1}]}', {"a": Json('[{"b":1}]')}),
    (b'{"readings":5}', {"readings": 5}),
    (b'{"readings":{"a":1}}', {"readings.a": 1}),
    (b'[1,"x"]', {"value": Json('[1,"x"]')}),
    (b'[[{"a":1}]]', {"value": Json('[[{"a":1}]]')}),
]


@pytest.mark.parametrize(("payload", "fields"), ONE_ROW, ids=lambda value: repr(value)[:40])
def test_payloads_of_one_row(payload: bytes | None, fields: dict[str, Any]) -> None:
    decoded = decode(payload)
    assert decoded == Decoded((Row(0, RECEIVED, fields),))
    found = decoded.rows[0].fields
    assert [(name, type(value)) for name, value in found.items()] == [(n, type(v)) for n, v in fields.items()]


def test_what_is_no_object_goes_to_the_named_field() -> None:
    assert rows(decode(b"5", field="temp")) == [(0, {"temp": 5})]
    assert rows(decode(b"[5]", field="temp")) == [(0, {"temp": [5]})]


def test_long_texts_are_kept_whole() -> None:
    long = "ä" * 500_000
    assert rows(decode(json.dumps({"a": long, "b": [long]}).encode())) == [(0, {"a": long, "b": [long]})]


# ---- several rows

SEVERAL = [
    (b'[{"a":1},{"b":{"c":2}}]', [(0, {"a": 1}), (1, {"b.c": 2})], []),
    (b"[{}]", [(0, {})], []),
    (
        b'[{"a":1}, 5 ,{"a":1,"a":2},{"b":1e400},{"c":"\xff"},{"d":4}]',
        [(0, {"a": 1}), (5, {"d": 4})],
        [
            (1, "not-an-object", b"5"),
            (2, "duplicate-field", b'{"a":1,"a":2}'),
            (3, "number-out-of-range", b'{"b":1e400}'),
            (4, "invalid-utf8", b'{"c":"\xff"}'),
        ],
    ),
    (b'[null,{"readings":[{"a":1}]}]', [(1, {"readings": Json('[{"a":1}]')})], [(0, "not-an-object", b"null")]),
    (b'{"readings":[{"a":1},{"a":2}]}', [(0, {"a": 1}), (1, {"a": 2})], []),
    (b'{"s":1,"readings":[{"s":2},{}]}', [(0, {"s": 2, "envelope.s": 1}), (1, {"s": 1})], []),
    (b'{"s":{"a":1},"readings":[{"s":{"b":2}}]}', [(0, {"s.b": 2, "envelope.s.a": 1})], []),
    (b'{"readings":[1,{"a":1e400}]}', [], [(0, "not-an-object", b"1"), (1, "number-out-of-range", b'{"a":1e400}')]),
    (b'{"a":1}\n{"a":2}', [(0, {"a": 1}), (1, {"a": 2})], []),
    (
        b'{"a":1}\r\n\n \t\n{"a":\n5\n[1]\n{"a":3}\n',
        [(0, {"a": 1}), (4, {"a": 3})],
        [(1, "not-json", b'{"a":'), (2, "not-an-object", b"5"), (3, "not-an-object", b"[1]")],
    ),
    (
        b'{"a":1e400}\n{"a":"\xff"}',
        [],
        [(0, "number-out-of-range", b'{"a":1e400}'), (1, "invalid-utf8", b'{"a":"\xff"}')],
    ),
]


@pytest.mark.parametrize(("payload", "good", "bad"), SEVERAL, ids=lambda value: repr(value)[:40])
def test_payloads_of_several_rows(payload: bytes, good: list[Any], bad: list[Any]) -> None:
    decoded = decode(payload)
    assert rows(decoded) == good
    assert refusals(decoded) == bad


ENVELOPES = [
    (b'{"site":{"hall":3},"readings":[{"a":1},7],"x":[1]}', [(0, {"site.hall": 3, "x": [1], "a": 1})], [1]),
    (b'{"s":1,"readings":[5,{},6,7]}', [(1, {"s": 1})], [0, 2, 3]),
    (b'{"s":1,"readings":[5,6]}', [], [0, 1]),
    (b'{"a":"[","]":1,"readings":[","]}', [], [0]),
    (b'{"s":1,"envelope.s":2,"readings":[{"s":3}]}', [], [0]),
]


@pytest.mark.parametrize(("payload", "good", "bad"), ENVELOPES, ids=lambda value: repr(value)[:40])
def test_what_is_refused_of_an_envelope_keeps_all_of_it_once(payload: bytes, good: list[Any], bad: list[int]) -> None:
    decoded = decode(payload)
    assert rows(decoded) == good
    first, *others = [(one.row, one.payload, one.payload_is) for one in decoded.refused]
    assert first == (bad[0], payload, "envelope")
    assert others == [(row, None, "elsewhere") for row in bad[1:]]


@pytest.mark.parametrize(("payload", "good", "bad"), SEVERAL, ids=lambda value: repr(value)[:40])
def test_a_part_by_itself_is_what_it_is_in_its_record(payload: bytes, good: list[Any], bad: list[Any]) -> None:
    decoded = decode(payload)
    assert all(one.payload_is == "part" for one in decoded.refused)
    for one in decoded.refused:
        assert one.payload is not None
        assert JsonDecoder("ts", Skew()).decode_part(one.row, one.payload, RECEIVED) == one


def test_a_raw_record_has_no_parts() -> None:
    assert isinstance(RawDecoder().decode_part(3, b"{}", RECEIVED), Refused)


def test_times_of_an_envelope_and_its_rows() -> None:
    decoded = decode(b'{"ts":1763633600,"readings":[{"v":1},{"v":2,"ts":1763633500},{"v":3,"ts":"soon"}]}')
    assert [row.ts_us // US_PER_S for row in decoded.rows] == [1763633600, 1763633500, RECEIVED // US_PER_S]
    assert [row.fields for row in decoded.rows] == [
        {"v": 1},
        {"v": 2, "envelope.ts": 1763633600},
        {"v": 3, "ts": "soon", "envelope.ts": 1763633600},
    ]


# ---- refused as a whole

REFUSED = [
    (b"", "empty"),
    (b"{", "not-json"),
    (b"1 2", "not-json"),
    (b"1\n2", "not-json"),
    (b'{"a":1} {"a":2}', "not-json"),
    (b"\n\n{\n", "not-json"),
    (b"NaN", "not-json"),
    (b'{"a":Infinity}', "not-json"),
    (b'[{"a":01}]', "not-json"),
    (b"\xef\xbb\xbf{}", "not-json"),
    (rb'"\ud800"', "not-json"),
    (b'"\xff"', "invalid-utf8"),
    (b'{"\xff":1}', "invalid-utf8"),
    (b'{"a":1,"readings":[{}],"\xff":1}', "invalid-utf8"),
    (b'{"a":"\xff","readings":[{}]}', "invalid-utf8"),
    (b"1e400", "number-out-of-range"),
    (b"[1e400]", "number-out-of-range"),
    (b"9" * 4301, "number-out-of-range"),
    (b'{"a":-1e999}', "number-out-of-range"),
    (b'{\n"a":1e400,\n"b":\n{"c":1}\n}', "number-out-of-range"),
    (b'{"a":1e400,"readings":[{}]}', "number-out-of-range"),
    (b"[" * 100_000, "too-deep"),
    (b"[" * 129 + b"]" * 129, "too-deep"),
    (nested(129), "too-deep"),
    (b"[{}," + b"[" * 300 + b"]" * 300 + b"]", "too-deep"),
    (b'{"a":1,"a":2}', "duplicate-field"),
    (b'{"a":1,"\\u0061":2}', "duplicate-field"),
    (b'{"a":{"b":1,"b":1}}', "duplicate-field"),
    (b'{"a":[{"b":1,"b":1}]}', "duplicate-field"),
    (b'{"a.b":1,"a":{"b":2}}', "duplicate-field"),
    (b'[[{"b":1,"b":1}]]', "duplicate-field"),
    (b'{"readings":[{}],"readings":[{}]}', "duplicate-field"),
    (b'{"a":1,"a":"x","readings":[{}]}', "duplicate-field"),
    (b'{"a":{"b":1,"b":1},"readings":[{}]}', "duplicate-field"),
    (b'{"readings":[{}],"readings":5}', "duplicate-field"),
    (b"[]", "no-rows"),
    (b" [ ] ", "no-rows"),
    (b'{"readings":[]}', "no-rows"),
    (b'{"s":1,"readings":[]}', "no-rows"),
]


@pytest.mark.parametrize(("payload", "reason"), REFUSED, ids=lambda value: repr(value)[:40])
def test_what_is_refused_as_a_whole_is_kept_as_a_whole(payload: bytes, reason: str) -> None:
    decoded = decode(payload)
    assert refusals(decoded) == [(0, reason, payload)]
    assert decoded.rows == ()


def test_details_say_what_where() -> None:
    assert decode(b'{"a":1,,}').refused[0].detail == "near byte 7"
    assert decode(b'{"a":{"b":1,"b":2}}').refused[0].detail == "b is named twice"
    assert decode(b'[{},"x"]').refused[0].detail == "string found"
    long = decode(b'{"%b":1,"%b":2}' % (b"n" * 9999, b"n" * 9999)).refused[0].detail
    assert long == "n" * 200 + "... is named twice"


def test_deep_but_readable_nesting_is_kept() -> None:
    payload = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert rows(decode(payload)) == [(0, {"value": Json(payload.decode())})]


@pytest.mark.parametrize("levels", [129, 255])
def test_a_deep_element_leaves_its_neighbours(levels: int) -> None:
    deep = b"[" * levels + b"]" * levels
    decoded = decode(b'[{"a":1},' + deep + b"]")
    assert rows(decoded) == [(0, {"a": 1})]
    assert refusals(decoded) == [(1, "too-deep", deep)]


@pytest.mark.parametrize("levels", [100, 200, 256, 300, 600, 900, 5000])
@pytest.mark.parametrize("shape", [b'[{"a":1},%b]', b'{"readings":[{"a":1},%b]}', b'{"a":1}\n%b', b'{"x":%b,"x":1}'])
def test_depth_is_judged_alike_however_deep_the_caller_stands(levels: int, shape: bytes) -> None:
    payload = shape % (b"[" * levels + b"]" * levels)

    def from_below(frames: int) -> Decoded:
        return decode(payload) if frames == 0 else from_below(frames - 1)

    assert from_below(0) == from_below(400)
    assert sys.getrecursionlimit() == 1000
    assert MAX_RECORD_DEPTH < 1000 - 400


# ---- limits


def test_rows_of_a_record_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_module, "MAX_ROWS", 3)
    for payload in (b"[{},{},{},{}]", b'{"readings":[1,{},{},{}]}', b"{}\n{}\n{}\n{}"):
        assert refusals(decode(payload)) == [(0, "too-many-rows", payload)]
    assert len(decode(b"[{},{},{}]").rows) == len(decode(b"{}\n{}\n{}").rows) == 3


def test_what_an_envelope_adds_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = b'{"readings":[{},{}],"x":"yz"}'
    added = len(payload) - len(b"[{},{}]")
    monkeypatch.setattr(decode_module, "MAX_ENVELOPE_BYTES", 2 * added)
    assert len(decode(payload).rows) == 2
    monkeypatch.setattr(decode_module, "MAX_ENVELOPE_BYTES", 2 * added - 1)
    assert refusals(decode(payload)) == [(0, "too-many-rows", payload)]


# ---- time


def test_time_field_is_consumed() -> None:
    assert decode(b'{"ts":1763633000,"a":1}') == Decoded((Row(0, 1_763_633_000_000_000, {"a": 1}),))
    assert decode(b'{"ts":1763633000123,"a":1}') == Decoded((Row(0, 1_763_633_000_123_000, {"a": 1}),))
    assert decode(b'{"t":1763633000,"ts":5}', timestamp_field="t").rows[0].fields == {"ts": 5}
    assert decode(b'{"m":{"t":1763633000,"u":5}}', timestamp_field="m.t") == Decoded(
        (Row(0, 1_763_633_000_000_000, {"m.u": 5}),)
    )


@pytest.mark.parametrize("ts", ["soon", None, True, -5, 4_102_444_800, 1_763_633_700 + 86_401, 1_663_633_700, 1.5e12])
def test_time_field_that_is_not_believed_stays_as_the_mark(ts: object) -> None:
    assert decode(json.dumps({"ts": ts}).encode()) == Decoded((Row(0, RECEIVED, {"ts": ts}),))


@pytest.mark.parametrize("unit", [1, 1000])
def test_skew_is_inclusive_on_both_sides(unit: int) -> None:
    decoder = JsonDecoder("ts", Skew(ahead_us=2 * US_PER_S, behind_us=3 * US_PER_S))
    for offset, believed in ((-4, False), (-3, True), (2, True), (3, False)):
        ts = (RECEIVED // US_PER_S + offset) * unit
        (row,) = decoder.decode(b'{"ts":%d}' % ts, "value", RECEIVED).rows
        assert row == (Row(0, RECEIVED + offset * US_PER_S, {}) if believed else Row(0, RECEIVED, {"ts": ts}))


# ---- the rest


def test_another_member_may_hold_the_rows() -> None:
    decoder = JsonDecoder("ts", Skew(), rows_field="batch")
    assert rows(decoder.decode(b'{"batch":[{"a":1}],"readings":[2]}', "value", RECEIVED)) == [
        (0, {"readings": [2], "a": 1})
    ]


def test_raw_payload_is_kept_as_it_is() -> None:
    for value in (b"\xff{", b"", None):
        assert RawDecoder().decode(value, "value", RECEIVED) == Decoded((Row(0, RECEIVED, {"payload": value}),))


def test_decoders_are_found_by_version() -> None:
    assert isinstance(decoder_for("json/2", "ts", Skew()), JsonDecoder)
    assert isinstance(decoder_for("raw/1", "ts", Skew()), RawDecoder)
    assert decoder_for("json/1", "ts", Skew()) is None


@pytest.mark.parametrize(
    ("key", "headers", "facts"),
    [
        (b"press-1", [], ("press-1", None, "value")),
        (b"press-1", [("mqtt.topic", b"devices/press-1/t")], ("press-1", "devices/press-1/t", "value")),
        (b"key", [("headrace.device", "Käse".encode())], ("Käse", None, "value")),
        (b"key", [("headrace.device", b"")], (None, None, "value")),
        (b"key", [("headrace.device", None)], (None, None, "value")),
        (b"d", [("headrace.field", b"temp")], ("d", None, "temp")),
        (None, [], (None, None, "value")),
        (b"a\xff", [], ("a\\xff", None, "value")),
    ],
)
def test_facts_of_a_record(key: bytes | None, headers: list[Any], facts: tuple[object, ...]) -> None:
    assert Facts().of(FakeRecord(offset=0, value=b"", key=key, headers=headers)) == facts


# ---- whatever a device sends

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
)
NAMES = st.sampled_from(["a", "b", "a.b", "envelope.a", "ts", "readings", ""]) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=3
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=4)
RECORDS = (
    VALUES
    | st.lists(OBJECTS | SCALARS, max_size=5)
    | st.builds(lambda rows, rest: {**rest, "readings": rows}, st.lists(OBJECTS | SCALARS, max_size=5), OBJECTS)
)


def scalars(value: Any) -> Iterator[str]:
    """Every scalar of a value, as JSON; text that is JSON itself is looked into."""
    if isinstance(value, Json):
        value = json.loads(value)
    if isinstance(value, dict):
        for item in value.values():
            yield from scalars(item)
    elif isinstance(value, list):
        for item in value:
            yield from scalars(item)
    elif value is not None:
        yield json.dumps(value)


def sound(decoded: Decoded, payload: bytes | None) -> None:
    """What holds for every payload."""
    numbers = [row.row for row in decoded.rows] + [refused.row for refused in decoded.refused]
    assert sorted(numbers) == list(range(len(numbers))), "every part once"
    assert numbers, "every record is somewhere"
    for refused in decoded.refused:
        assert refused.reason in REASONS
        assert refused.payload == payload or refused.payload_is in ("part", "elsewhere")
        assert (refused.payload is None) == (refused.payload_is == "elsewhere" or payload is None)
        assert (refused.payload or b"") in (payload or b"")
    assert [one.payload_is for one in decoded.refused if one.payload_is != "elsewhere"] in (
        [],
        ["record"],
        ["envelope"],
        ["part"] * len(decoded.refused),
    )
    for row in decoded.rows:
        assert all(type(value) in (int, float, str, bool, type(None), list, Json) for value in row.fields.values())
    assert decode(payload) == decoded


@given(RECORDS, st.sampled_from([(",", ":"), (", ", ": "), (",\n", ":\n")]), st.booleans())
@example({"readings": [{"readings": []}]}, (",", ":"), True)
def test_every_value_is_found_again(record: Any, separators: tuple[str, str], ascii_only: bool) -> None:
    payload = json.dumps(record, separators=separators, ensure_ascii=ascii_only).encode()
    decoded = decode(payload, timestamp_field="no such field")
    sound(decode(payload), payload)
    found: set[str] = set()
    for row in decoded.rows:
        for value in row.fields.values():
            found.update(scalars(value))
    for refused in decoded.refused:
        if refused.payload_is != "elsewhere":
            assert refused.payload is not None
            found.update(scalars(json.loads(refused.payload)))
    assert set(scalars(record)) <= found


@given(st.lists(st.dictionaries(NAMES, VALUES, max_size=3).map(json.dumps) | st.sampled_from(["", "{", "5", " "])))
def test_every_line_is_found_again(lines: list[str]) -> None:
    payload = "\n".join(lines).encode()
    decoded = decode(payload)
    sound(decoded, payload)
    parts = [line.encode() for line in lines if line.strip()]
    if len(parts) > 1 and any(part.endswith(b"}") for part in parts):
        assert len(decoded.rows) + len(decoded.refused) == len(parts)
        assert all(refused.payload == parts[refused.row] for refused in decoded.refused)


@given(
    st.binary(max_size=60) | st.text(st.sampled_from('{}[]",:\\ \n\t019.-eEtrufalsn\x00ä'), max_size=60).map(str.encode)
)
def test_any_bytes_are_decoded_or_refused(payload: bytes) -> None:
    sound(decode(payload), payload)


def test_mutated_payloads_are_decoded_or_refused_never_worse() -> None:
    chance = random.Random(7)
    whole = b'{"s":"\\"","readings":[{"ts":1763633000,"a":[1,{"b":"\xc3\xa4\\u00e4"}]},{"c":-1.5e3,"d":"x\\"y"}]}'
    assert not decode(whole).refused
    for end in range(1, len(whole)):
        assert refusals(decode(whole[:end])) == [(0, "not-json", whole[:end])]
    reasons: set[str] = set()
    good = partly = 0
    for _ in range(5000):
        mutated = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            mutated[chance.randrange(len(mutated))] = chance.randrange(256)
        decoded = decode(bytes(mutated))
        sound(decoded, bytes(mutated))
        reasons.update(refused.reason for refused in decoded.refused)
        good += not decoded.refused
        partly += bool(decoded.refused) and bool(decoded.rows)
    assert reasons >= {"not-json", "invalid-utf8", "number-out-of-range"}
    assert good > 0
    assert partly > 0


def test_refused_values_compare_by_what_they_say() -> None:
    assert decode(b"[1,{}]").refused == [Refused(0, "not-an-object", "int64 found", b"1", "part")]


def test_every_reason_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "formats-parquet.md").read_text(encoding="utf-8")
    section = text[text.index("## Quarantine") : text.index("## Files")]
    assert re.findall(r"^\| `([a-z0-9-]+)` \|", section, re.MULTILINE) == list(REASONS)
