"""The quick way from payloads to columns comes to what the plain decoder says, record by record."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from sink.payload.chunks import Chunk
from sink.payload.columns import FieldCounts, decide
from sink.payload.decode import JsonDecoder
from sink.payload.decoding import Decoding
from sink.payload.reading import json_reading
from sink.payload.schema import DeclaredField, Schema
from sink.payload.times import Skew

RECEIVED = 1_763_633_700_000_000
PINNED = Schema(
    fields=(
        DeclaredField(name="b", type="double", required=True),
        DeclaredField(name="a", type="int64"),
        DeclaredField(name="m.t", type="int64"),
        DeclaredField(name="q", type="json"),
    )
)
NESTED = Schema(fields=(DeclaredField(name="m", type="json"), DeclaredField(name="s", type="string")))
STRICT = Schema(fields=(*PINNED.fields, DeclaredField(name="s", type="string")), unknown_fields="quarantine")

TIMES = [1763633700, 1763633700123, 1763633700.5, "2025-11-20T10:15:00Z", 10, None, "soon", 1763633700000000, True]
VALUES: list[Any] = [
    *(1, 2, 2.5, -0.0, 5.0, -5, 1e300, 1e15, 2**53, 2**53 + 1, -(2**53) - 1, 2**60, -(2**63), 2**63),
    *("x", 'a"b', "ä", True, False, None, [1], [], {}, {"b": 1}, {"b": 2.5}, {"b": {"c": "x"}}),
]


def payload(chance: random.Random, odd: float) -> bytes | None:
    """A reading; with the probability `odd` something about it is unlike the others."""
    members: dict[str, Any] = {"ts": 1763633700123, "a": 1, "b": 2.5, "m": {"t": 1, "u": "x"}, "s": "on"}
    if chance.random() < odd:
        members["ts"] = chance.choice(TIMES)
        for _ in range(chance.randint(1, 3)):
            name = chance.choice(["ts", "a", "b", "m", "s", "z", "m.t", "q"])
            if chance.random() < 0.2:
                members.pop(name, None)
            else:
                members[name] = chance.choice(VALUES)
    separators = chance.choice([(",", ":"), (", ", ": ")])
    text = json.dumps(members, separators=separators, ensure_ascii=chance.random() < 0.5).encode()
    if chance.random() < odd * 0.3:
        broken = [text[:-3], text + b"," + text, text[:-1] + b',"a":1}', b'{"a":1},1,{"a":2}']
        return chance.choice([b"", b"5", None, b"[%b,%b]" % (text, text), text + b" ", text + b"\n" + text, *broken])
    return text


def chunk_of(values: Sequence[bytes | None], first: int) -> Chunk:
    count = len(values)
    return Chunk(
        partition=0,
        offsets=np.arange(first, first + count),
        received_us=np.full(count, RECEIVED),
        devices=np.zeros(count, np.int32),
        topics=np.zeros(count, np.int32),
        values=list(values),
    )


def quick(decoding: Decoding, chunk: Chunk) -> Iterator[tuple[int, int, int, dict[str, str]]]:
    """(offset, row, time, fields as JSON) of everything read."""
    for batch in decoding.rows(chunk):
        for index in range(len(batch)):
            fields = {}
            for path, stored in batch.fields.items():
                for kind, array in stored.items():
                    value = array[index].as_py()
                    if value is not None:
                        fields[path] = _comparable(json.loads(value) if kind == "text" else value)
            yield int(batch.offsets[index]), int(batch.rows[index]), int(batch.ts_us[index]), fields


def _comparable(value: Any) -> str:
    return repr(float(value) if type(value) is int and abs(value) <= 2**53 else value)


def agree(chunks: Sequence[Sequence[bytes | None]], schema: Schema | None = None) -> None:
    """Both ways come to the same rows, refusals and columns."""
    decoding = Decoding(json_reading(Skew(), schema=schema))
    plain = JsonDecoder("ts", Skew(), schema=schema)
    counts = FieldCounts(declared=frozenset() if schema is None else schema.names)
    first = 0
    refused = []
    for values in chunks:
        expected = []
        for offset, value in enumerate(values, first):
            decoded = plain.decode(value, "value", RECEIVED)
            refused += [(offset, part.row, part.reason, part.payload) for part in decoded.refused]
            for row in decoded.rows:
                counts.add(row.fields)
                fields = {path: _comparable(_opened(item)) for path, item in row.fields.items() if item is not None}
                expected.append((offset, row.row, row.ts_us, fields))
        assert sorted(quick(decoding, chunk_of(values, first)), key=lambda row: row[:2]) == expected
        first += len(values)
    assert [(part.offset, part.row, part.reason, part.payload) for part in decoding.refused] == refused
    assert decide(decoding.counts, schema, "ts") == decide(counts, schema, "ts")


@pytest.mark.parametrize("schema", [None, PINNED, NESTED, STRICT], ids=["free", "pinned", "nested", "strict"])
@pytest.mark.parametrize("seed", range(12))
def test_both_ways_agree(seed: int, schema: Schema | None) -> None:
    chance = random.Random(seed)
    odd = chance.choice([0.02, 0.1, 0.5])
    agree([[payload(chance, odd) for _ in range(count)] for count in (5, 100, 30, 60)], schema)


def _opened(value: Any) -> Any:
    """A value of a row with JSON text read."""
    return value if type(value) in (int, float, str, bool, list) else json.loads(value)


@pytest.mark.parametrize("wide", [2**53 + 1, -(2**53) - 1, 1_763_633_700_123_456_789, 2**63 - 1, -(2**63)])
def test_integers_that_no_double_holds_are_counted_as_such(wide: int) -> None:
    values: list[bytes | None] = [b'{"n":%d,"k":1}' % value for value in (1, wide, 2**53, -(2**53))] * 8
    decoding = Decoding(json_reading(Skew()))
    assert sum(len(batch) for batch in decoding.rows(chunk_of(values, 0))) == len(values)
    counts = FieldCounts()
    for value in values:
        counts.add(json.loads(value or b""))
    assert decoding.counts.of("n") == counts.of("n")


def test_what_is_refused_makes_no_column_wider() -> None:
    values: list[bytes | None] = [b'{"a":1.5,"b":1,"b":2}', *[b'{"a":1,"b":1}'] * 20]
    decoding = Decoding(json_reading(Skew()))
    list(decoding.rows(chunk_of(values, 0)))
    assert [(column.name, column.kind) for column in decide(decoding.counts, None, "ts")] == [
        ("a", "int64"),
        ("b", "int64"),
    ]


@pytest.mark.parametrize("name", ['a"', "a\\", "a\n", "\x00", "", "\x7f", "\u2028", "\U0001f600", "a.b", "a'b", "f0"])
@pytest.mark.parametrize("nested", [False, True])
def test_any_name_is_read(name: str, nested: bool) -> None:
    members: Any = {name: 1, "b": 2}
    text = json.dumps({"m": members} if nested else members).encode()
    decoding = Decoding(json_reading(Skew()))
    prefix = "m." if nested else ""
    expected = {prefix + name: "1.0", f"{prefix}b": "2.0"}
    assert [fields for *_, fields in quick(decoding, chunk_of([text] * 20, 0))] == [expected] * 20
    assert not decoding.refused


ALIKE: list[bytes | None] = [b'{"a":1,"b":2}'] * 20


@pytest.mark.parametrize(
    "broken",
    [
        [b'{"a":1},{"a":2}', b'{"a":3', b'"b":4}'],  # two, then one in halves: the middle has the marks of the second
        [b'{"a":3', b'"b":4}', b'{"a":1},{"a":2}'],
        [b'{"a":1},{"a":2},{"b":1}', b'{"a":3', b'"b":4', b'"b":5}', b'{"a":1}'],
        [b'{},{"a":1}', b'{"a":3', b'"b":4}'],
        [b"{}", b"{},{}", b'{"a":1', b'"b":1}'],
    ],
)
def test_payloads_that_complete_each_other_are_refused(broken: list[bytes | None]) -> None:
    agree([ALIKE, [*broken, *ALIKE], [*ALIKE, *broken, *ALIKE * 4, *broken]])


@pytest.mark.parametrize("seed", range(40))
def test_texts_cut_anywhere_and_joined_again(seed: int) -> None:
    chance = random.Random(seed)
    whole = ['{"a":%d}', '{"a":%d,"b":1}', '{"b":%d,"s":"x"}', '{"s":"","a":%d,"b":2}', "{}", '{"m":{"t":%d}}']
    text = ",".join(chance.choice(whole).replace("%d", str(number)) for number in range(60))
    commas = [index for index, char in enumerate(text) if char == ","]
    cuts = sorted(chance.sample(commas, 59))
    pieces = [text[start:end].encode() for start, end in zip([0, *(at + 1 for at in cuts)], [*cuts, None], strict=True)]
    agree([[b'{"a":1,"b":2,"s":"","m":{"t":1}}'] * 20, pieces])


def test_the_lowest_integer_is_no_double_of_a_schema() -> None:
    low = [b'{"a":1,"b":%d}' % value for value in (-(2**63), -(2**53) - 1, -(2**53), 2**63 - 1)]
    agree([ALIKE, [*low, *ALIKE]], PINNED)


def test_an_envelopes_member_that_a_row_hides_makes_its_field_no_wider() -> None:
    agree([[b'{"readings":[{"a":1}],"a":1.5}', *ALIKE], ALIKE])
