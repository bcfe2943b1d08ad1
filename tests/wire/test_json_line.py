"""Whose reading a line is: a device, no JSON at all, or JSON without a usable device."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.device_id import device_id_fault
from wire.json_line import LineRefusedError, device_of

printable = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=64
)  # 64 characters are at most 256 bytes


@pytest.mark.parametrize(
    ("line", "device"),
    [
        (b'{"device":"pump-1"}', "pump-1"),
        (b' { "ts": 1, "device" : "pump-1", "v": [1, {"device": "x"}] } ', "pump-1"),
        (b'{"device":"a/b c"}', "a/b c"),
        ('{"device":"Prüfstand-\\u00e4"}'.encode(), "Prüfstand-ä"),
        (b'{"device":"a","big":123456789012345678901234567890,"e":1e999}', "a"),
        (b'{"device":"' + b"x" * 256 + b'"}', "x" * 256),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_line_names_its_device(line: bytes, device: str) -> None:
    assert device_of(line) == device


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" ",
        b"hello",
        b'{"device":"a"',
        b'{"device":"a"} x',
        b'{"device":"a",}',
        b'{"device":"a","x":NaN}',
        b'{"device":"a","x":01}',
        b'{"device":"a","x":"\xff"}',
        b'{"device":"a","\xff":1}',
        b'{"device":"\xff"}',
        b'{"device":"\xed\xa0\x80"}',
        b'{"device":"\\ud800"}',
        b'{"device":3,,}',
        b"[1,,]",
        b'\xef\xbb\xbf{"device":"a"}',
        b'{"device":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"[" * 100_000,
        b'{"device":"a"}\x00',
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_no_json(line: bytes) -> None:
    assert device_of(line) is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{}", "no field named device"),
        (b'{"Device":"a"}', "no field named device"),
        (b"[]", "not a JSON object"),
        (b"3", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'"a"', "not a JSON object"),
        (b'{"device":3}', "not a string"),
        (b'{"device":null}', "not a string"),
        (b'{"device":["a"]}', "not a string"),
        (b'{"device":""}', "empty"),
        (b'{"device":"a\\nb"}', "control character"),
        (b'{"device":"a\\u0000"}', "control character"),
        (b'{"device":"\\u0085"}', "control character"),
        (b'{"device":"' + b"x" * 257 + b'"}', "longer than 256 bytes"),
        ('{"device":"' + "ä" * 129 + '"}', "longer than 256 bytes"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_json_without_a_usable_device_is_refused(line: bytes | str, reason: str) -> None:
    with pytest.raises(LineRefusedError, match=reason) as caught:
        device_of(line.encode() if isinstance(line, str) else line)
    assert caught.value.what.isascii()
    assert caught.value.what.isprintable()


@given(printable, st.booleans())
def test_any_device_id_comes_back(device: str, ascii_only: bool) -> None:
    line = json.dumps({"ts": 1, "device": device, "value": "ä"}, ensure_ascii=ascii_only).encode()
    assert device_of(line) == device


@given(st.binary(max_size=80))
def test_noise_is_decided(line: bytes) -> None:
    try:
        device = device_of(line)
    except LineRefusedError:
        json.loads(line)
    else:
        assert device is None or json.loads(line)["device"] == device


@pytest.mark.parametrize(
    ("device", "fault"),
    [
        ("a", None),
        ("ä b\u00a0c", None),
        ("x" * 256, None),
        ("€" * 85, None),
        ("", "empty"),
        ("€" * 86, "longer"),
        ("\x7f", "control"),
        ("ä\x9f", "control"),
        ("\ud800", "UTF-8"),
        ("\ud800" * 100, "UTF-8"),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_device_ids(device: str, fault: str | None) -> None:
    found = device_id_fault(device)
    assert found is None if fault is None else found is not None and fault in found
