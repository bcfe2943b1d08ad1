from __future__ import annotations

import json
import random
from typing import Any

import pytest

from sink.decode import Facts, JsonDecoder, RawDecoder, UndecodableError, decoder_for
from tests.sink.sink_fakes import FakeRecord

RECEIVED = 1_763_633_700_000_000


def decode(payload: bytes | None, field: str = "value", timestamp_field: str = "ts") -> tuple[int, dict[str, Any]]:
    return JsonDecoder(timestamp_field).decode(payload, field, RECEIVED)


@pytest.mark.parametrize(
    ("payload", "fields"),
    [
        (b'{"a":1,"b":"x"}', {"a": 1, "b": "x"}),
        (b'{"a":{"b":[1,"2"]}}', {"a": {"b": [1, "2"]}}),
        (b"{}", {}),
        (b"21.5", {"value": 21.5}),
        (b"true", {"value": True}),
        (b'"on"', {"value": "on"}),
        (b"null", {}),
        (None, {}),
        (b"[1,2]", {"value": [1, 2]}),
        (b"123456789012345678901234567890", {"value": 123456789012345678901234567890}),
        (rb'{"a\"b":"c\"d"}', {'a"b': 'c"d'}),
        (rb'{"a":["\"",{"b":"x"}]}', {"a": ['"', {"b": "x"}]}),
    ],
)
def test_json_payloads(payload: bytes | None, fields: dict[str, Any]) -> None:
    assert decode(payload) == (RECEIVED, fields)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "empty"),
        (b"{", "not-json"),
        (b"1 2", "not-json"),
        (b'{"a":1}\n{"a":2}', "not-json"),
        (b"NaN", "not-json"),
        (b'{"a":Infinity}', "not-json"),
        (b"\xef\xbb\xbf{}", "not-json"),
        (rb'"\ud800"', "not-json"),
        (b'"\xff"', "invalid-utf8"),
        (b"1e400", "number-out-of-range"),
        (b"9" * 5000, "number-out-of-range"),
        (b'{"a":' + b"9" * 5000 + b"}", "number-out-of-range"),
        (b"[" * 100_000, "too-deep"),
        (b"[" * 129 + b"]" * 129, "too-deep"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, "too-deep"),
        (b'{"a":1,"a":2}', "duplicate-field"),
        (b'{"a":1,"\\u0061":2}', "duplicate-field"),
        (b'{"a":{"b":1,"b":1}}', "duplicate-field"),
        (b'[{"b":1,"b":1}]', "duplicate-field"),
    ],
    ids=lambda value: value[:20].decode("latin-1") if isinstance(value, bytes) else value,
)
def test_what_cannot_be_decoded_has_a_reason(payload: bytes, reason: str) -> None:
    with pytest.raises(UndecodableError) as caught:
        decode(payload)
    assert caught.value.reason == reason


def test_deep_but_readable_nesting_is_read() -> None:
    payload = b"[" * 128 + b"]" * 128
    assert decode(payload)[1]["value"] == json.loads(payload)


def test_scalar_goes_to_the_named_field() -> None:
    assert decode(b"5", field="temp") == (RECEIVED, {"temp": 5})


def test_time_field_is_consumed() -> None:
    assert decode(b'{"ts":1763633000,"a":1}') == (1_763_633_000_000_000, {"a": 1})
    assert decode(b'{"t":1763633000,"ts":5}', timestamp_field="t") == (1_763_633_000_000_000, {"ts": 5})


@pytest.mark.parametrize("ts", ["soon", None, True, -5, 4_102_444_800])
def test_time_field_that_says_nothing_stays(ts: object) -> None:
    assert decode(json.dumps({"ts": ts}).encode()) == (RECEIVED, {"ts": ts})


def test_raw_payload_is_kept_as_it_is() -> None:
    assert RawDecoder().decode(b"\xff{", "value", RECEIVED) == (RECEIVED, {"payload": b"\xff{"})


def test_decoders_are_found_by_version() -> None:
    assert isinstance(decoder_for("json/1", "ts"), JsonDecoder)
    assert isinstance(decoder_for("raw/1", "ts"), RawDecoder)
    assert decoder_for("json/999", "ts") is None


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


def test_mutated_payloads_are_decoded_or_refused_never_worse() -> None:
    chance = random.Random(7)
    whole = b'{"ts":1763633000,"a":[1,{"b":"\xc3\xa4\\u00e4"}],"c":-1.5e3,"d":"x\\"y"}'
    for end in range(len(whole)):
        with pytest.raises(UndecodableError):
            decode(whole[:end])
    refused = 0
    for _ in range(3000):
        mutated = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            mutated[chance.randrange(len(mutated))] = chance.randrange(256)
        try:
            decode(bytes(mutated))
        except UndecodableError:
            refused += 1
    assert 0 < refused < 3000
