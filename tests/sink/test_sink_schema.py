"""Declared schemas: what a row may hold, and what is said of one that does not."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from commitlog.settings import FieldSettings, TopicSettings
from sink.payload.decode import Decoded, JsonDecoder, Refused
from sink.payload.kinds import Json
from sink.payload.schema import DeclaredField, Schema
from sink.payload.times import Skew

RECEIVED = 1_763_633_700_000_000
SCHEMA = Schema(
    fields=(
        DeclaredField(name="temp", type="double", unit="°C", description="Bearing temperature", required=True),
        DeclaredField(name="count", type="int64"),
        DeclaredField(name="motor.on", type="bool"),
        DeclaredField(name="state", type="string"),
        DeclaredField(name="since", type="timestamp"),
        DeclaredField(name="config", type="json"),
        DeclaredField(name="curve", type="list<double>"),
        DeclaredField(name="steps", type="list<int64>"),
        DeclaredField(name="tags", type="list<string>"),
        DeclaredField(name="bits", type="list<bool>"),
    )
)


def decode(payload: bytes | None, schema: Schema = SCHEMA) -> Decoded:
    return JsonDecoder("ts", Skew(), schema=schema).decode(payload, "value", RECEIVED)


TAKEN = [
    (b'{"temp":21.5}', {"temp": 21.5}),
    (b'{"temp":21}', {"temp": 21}),
    (b'{"temp":9007199254740992,"extra":"x"}', {"temp": 2**53, "extra": "x"}),
    (b'{"temp":1,"count":9223372036854775807}', {"temp": 1, "count": 2**63 - 1}),
    (b'{"temp":1,"count":null,"state":"on"}', {"temp": 1, "count": None, "state": "on"}),
    (b'{"temp":1,"motor":{"on":true,"x":2}}', {"temp": 1, "motor.on": True, "motor.x": 2}),
    (b'{"temp":1,"since":"2025-11-20T10:15:00Z"}', {"temp": 1, "since": RECEIVED}),
    (b'{"temp":1,"since":1763633700000}', {"temp": 1, "since": RECEIVED}),
    (b'{"temp":1,"since":0}', {"temp": 1, "since": 0}),
    (b'{"temp":1,"config":{"a":{"b":1}}}', {"temp": 1, "config": Json('{"a":{"b":1}}')}),
    (b'{"temp":1,"config":[1,2]}', {"temp": 1, "config": Json("[1,2]")}),
    (b'{"temp":1,"config":"x"}', {"temp": 1, "config": Json('"x"')}),
    (b'{"temp":1,"config":[]}', {"temp": 1, "config": Json("[]")}),
    (b'{"temp":1,"curve":[1,2.5,null]}', {"temp": 1, "curve": [1, 2.5, None]}),
    (b'{"temp":1,"steps":[],"tags":["a"],"bits":[true]}', {"temp": 1, "steps": [], "tags": ["a"], "bits": [True]}),
]


@pytest.mark.parametrize(("payload", "fields"), TAKEN, ids=lambda value: repr(value)[:50])
def test_rows_that_conform(payload: bytes, fields: dict[str, Any]) -> None:
    decoded = decode(payload)
    assert not decoded.refused
    assert decoded.rows[0].fields == fields
    assert {name: type(value) for name, value in decoded.rows[0].fields.items()} == {
        name: type(value) for name, value in fields.items()
    }


VIOLATIONS = [
    (b'{"temp":"21"}', "temp: double expected, found string"),
    (b'{"temp":true}', "temp: double expected, found bool"),
    (b'{"temp":{"x":1}}', "temp: double expected, found object"),
    (b'{"temp":[[1]]}', "temp: double expected, found array"),
    (b'{"temp":[1]}', "temp: double expected, found list<int64>"),
    (b'{"temp":9007199254740993}', "temp: double expected, found int64 beyond 2**53, which would be rounded"),
    (b'{"temp":18446744073709551616}', "temp: double expected, found integer beyond 64 bits"),
    (b"{}", "temp: double required, found nothing"),
    (b"null", "temp: double required, found nothing"),
    (b'{"temp":null}', "temp: double required, found null"),
    (b'{"temp":1,"count":1.0}', "count: int64 expected, found double"),
    (b'{"temp":1,"count":9223372036854775808}', "count: int64 expected, found integer beyond 64 bits"),
    (b'{"temp":1,"motor":{"on":1}}', "motor.on: bool expected, found int64"),
    (b'{"temp":1,"since":"soon"}', "since: timestamp expected, found string that is no time"),
    (b'{"temp":1,"since":-1}', "since: timestamp expected, found int64 that is no time"),
    (b'{"temp":1,"since":[1]}', "since: timestamp expected, found list<int64>"),
    (b'{"temp":1,"steps":[1.5]}', "steps: list<int64> expected, found list<double>"),
    (b'{"temp":1,"tags":["a",1]}', "tags: list<string> expected, found array"),
    (b'{"temp":1,"tags":"a"}', "tags: list<string> expected, found string"),
    (
        b'{"temp":1,"curve":[9007199254740993]}',
        "curve: list<double> expected, found list<int64> beyond 2**53, which would be rounded",
    ),
]


@pytest.mark.parametrize(("payload", "detail"), VIOLATIONS, ids=lambda value: repr(value)[:50])
def test_rows_that_do_not_conform_are_refused_with_the_reason(payload: bytes, detail: str) -> None:
    assert decode(payload) == Decoded((), (Refused(0, "schema", detail, payload),))


def test_a_record_without_payload_is_held_against_the_schema_too() -> None:
    assert decode(None).refused == (Refused(0, "schema", "temp: double required, found nothing", None),)


def test_a_bad_row_leaves_its_neighbours() -> None:
    payload = b'{"state":"on","readings":[{"temp":1},{"temp":"x"},{"temp":2,"state":5}]}'
    decoded = decode(payload)
    assert [row.fields for row in decoded.rows] == [{"temp": 1, "state": "on"}]
    assert [(refused.row, refused.reason, refused.payload) for refused in decoded.refused] == [
        (1, "schema", payload),
        (2, "schema", None),
    ]


def test_unknown_fields_are_kept_or_quarantined() -> None:
    strict = dataclasses.replace(SCHEMA, unknown_fields="quarantine")
    assert decode(b'{"temp":1,"zoo":2,"colour":"red"}').rows[0].fields == {"temp": 1, "zoo": 2, "colour": "red"}
    payload = b'{"temp":1,"zoo":2,"colour":"red"}'
    assert decode(payload, strict).refused == (Refused(0, "schema", "colour: not declared", payload),)
    assert decode(b'{"temp":1,"colour":null}', strict).refused[0].detail == "colour: not declared"
    assert decode(b'{"temp":1,"motor":{"x":1}}', strict).refused[0].detail == "motor.x: not declared"
    assert not decode(b'{"temp":1,"config":{"x":1}}', strict).refused


def test_a_time_that_is_not_believed_is_no_unknown_field() -> None:
    strict = dataclasses.replace(SCHEMA, unknown_fields="quarantine")
    assert decode(b'{"temp":1,"ts":"soon"}', strict).rows[0].fields == {"temp": 1, "ts": "soon"}


def test_the_version_changes_with_anything_declared() -> None:
    first = SCHEMA.fields[0]
    changed = [
        dataclasses.replace(SCHEMA, fields=(dataclasses.replace(first, **{name: value}), *SCHEMA.fields[1:]))
        for name, value in {
            "name": "t",
            "type": "int64",
            "unit": "K",
            "description": "",
            "required": False,
        }.items()
    ]
    changed += [
        dataclasses.replace(SCHEMA, unknown_fields="quarantine"),
        dataclasses.replace(SCHEMA, fields=SCHEMA.fields[::-1]),
        dataclasses.replace(SCHEMA, fields=SCHEMA.fields[1:]),
    ]
    assert len({schema.version for schema in (SCHEMA, *changed)}) == 1 + len(changed)


def test_the_version_is_stable() -> None:
    schema = Schema(fields=(DeclaredField(name="temp", type="double", unit="°C"),))
    assert schema.canonical == (
        '{"fields":[{"description":"","name":"temp","required":false,"type":"double","unit":"°C"}],'
        '"unknown_fields":"keep"}'
    )
    assert schema.version == "739f073d303df545"


def test_the_canonical_text_reads_back() -> None:
    again = Schema.from_canonical(SCHEMA.canonical)
    assert again == SCHEMA
    assert again.version == SCHEMA.version


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"fields":[{"nam":1}],"unknown_fields":"keep"}'])
def test_what_is_no_canonical_text_is_refused(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        Schema.from_canonical(text)


def test_schemas_come_from_settings() -> None:
    assert Schema.of(TopicSettings(name="t")) is None
    assert Schema.of(TopicSettings(name="t", unknown_fields="quarantine")) == Schema(
        fields=(), unknown_fields="quarantine"
    )
    field = FieldSettings(name="temp", type="double", unit="°C", description="Bearing temperature", required=True)
    assert Schema.of(TopicSettings(name="t", fields=(field,))) == Schema(fields=SCHEMA.fields[:1])


def test_metadata_has_what_was_said() -> None:
    assert SCHEMA.fields[0].metadata == {"headrace.unit": "°C", "description": "Bearing temperature"}
    assert SCHEMA.fields[1].metadata == {}
