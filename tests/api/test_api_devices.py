from __future__ import annotations

from urllib.parse import quote

import pytest

from commitlog.base import WriterState
from devices.status import MAX_KEPT_BYTES
from tests.api.api_box import ApiBox

ODD_IDS = ["a/b", "a%2Fb", "line 4", "prüf-17", "メーター", "a?b#c", "a+b", "d" * 256, "readings", 'q"<&>', "%", "a\\b"]


def test_a_device_with_its_last_reading(box: ApiBox) -> None:
    box.log.event("press-17", "connected", "s1", client_id="c", protocol="mqtt", peer="127.0.0.1:5")
    partition, offset = box.log.reading("press-17", b'{"temperature": 21.50, "big": 123456789012345678901234567890}')
    box.step()
    shown = box.get("/api/v1/devices/press-17")
    assert shown["device"] == "press-17"
    assert shown["connected"] is True
    assert shown["connected_since"] == "2027-01-15T08:00:00Z"
    assert shown["messages"] == 1
    assert shown["last_reading"]["payload"] == {"temperature": 21.5, "big": 123456789012345678901234567890}
    assert (shown["last_reading"]["partition"], shown["last_reading"]["offset"]) == (partition, offset)
    assert shown["last_reading"]["mqtt_topic"] == "devices/press-17/telemetry"
    assert shown["sessions"] == [
        {"session": "s1", "since": "2027-01-15T08:00:00Z", "client_id": "c", "protocol": "mqtt", "peer": "127.0.0.1:5"}
    ]
    assert (shown["view"]["state"], shown["view"]["stale"]) == ("live", False)


def test_the_four_facts_are_told_apart(box: ApiBox) -> None:
    box.log.event("d", "connected", "s1")
    for number in range(5):
        box.log.reading("d", {"seq": number, "ts": box.clock.now_ms + 60_000, "motor": {"temp": number}})
        box.clock.now_ms += 1000
    box.clock.now_ms += 60_000
    box.step()
    shown = box.get("/api/v1/devices/d")
    assert shown["connected"] is True
    assert shown["last_seen"] == "2027-01-15T08:00:04Z"
    assert shown["reporting"] == {
        "state": "silent",
        "since": "2027-01-15T08:00:09Z",
        "expected_interval_s": 1.0,
        "configured": False,
    }
    assert shown["clock_skew_s"] == 60.0
    assert shown["fields"]["motor.temp"] == {"value": 4, "large": False, "received_at": "2027-01-15T08:00:04Z"}
    assert shown["sequence"] == {"newest": 4, "missing": 0, "duplicates": 0, "restarts": 0}
    assert 0 < shown["rates"]["over_15_minutes"] < shown["rates"]["over_1_minute"] < 1
    (listed,) = box.get("/api/v1/devices")["devices"]
    assert {name: shown[name] for name in listed} == listed


def test_a_value_of_a_field_goes_out_byte_for_byte(box: ApiBox) -> None:
    box.log.reading("d", b'{"v":1.10,"big":123456789012345678901234567890,"long":"%s"}' % (b"x" * 300))
    box.step()
    assert b'"v":{"value":1.10,' in box.client.get("/api/v1/devices/d").content
    fields = box.get("/api/v1/devices/d")["fields"]
    assert fields["big"]["value"] == 123456789012345678901234567890
    assert (fields["long"]["value"], fields["long"]["large"]) == (None, True)


def test_nobody_is_silent_while_the_view_is_not_live(box: ApiBox) -> None:
    for _ in range(3):
        box.log.reading("d")
        box.clock.now_ms += 1000
    box.step()
    box.clock.now_ms += 60_000  # the view is behind: readings may be waiting
    shown = box.get("/api/v1/devices/d")
    assert shown["view"]["state"] == "behind"
    assert (shown["reporting"]["state"], shown["reporting"]["since"]) == ("unknown", None)


def test_a_payload_goes_out_byte_for_byte(box: ApiBox) -> None:
    box.log.reading("d", b'{"v":1.10,"e":1e2}')
    box.step()
    assert b'"payload":{"v":1.10,"e":1e2}' in box.client.get("/api/v1/devices/d").content


@pytest.mark.parametrize(
    ("value", "member", "expected"),
    [
        (b"21.5", "payload", 21.5),
        (b"on", "payload_text", "on"),
        (b"", "payload_text", ""),
        (b"NaN", "payload_text", "NaN"),
        (b'{"a": 1', "payload_text", '{"a": 1'),
        (b'"\\ud800"', "payload_text", '"\\ud800"'),
        (b"[" * 5000 + b"]" * 5000, "payload_text", "[" * 5000 + "]" * 5000),
        (b"\xff\x00", "payload_base64", "/wA="),
    ],
)
def test_what_is_not_json_is_shown_raw(box: ApiBox, value: bytes, member: str, expected: object) -> None:
    box.log.reading("d", value)
    box.step()
    last = box.get("/api/v1/devices/d")["last_reading"]
    assert last[member] == expected
    assert last["decoded"] is (member == "payload")
    assert [name for name in ("payload", "payload_text", "payload_base64") if last[name] is not None] == [member]


def test_a_reading_too_large_to_keep_comes_from_the_log(box: ApiBox) -> None:
    text = "x" * (MAX_KEPT_BYTES + 1)
    partition, offset = box.log.reading("d", text.encode())
    box.step()
    assert box.get("/api/v1/devices/d")["last_reading"]["payload_text"] == text
    box.log.expire("telemetry", partition, offset + 1)
    last = box.get("/api/v1/devices/d")["last_reading"]
    assert (last["payload_text"], last["size_bytes"], last["offset"]) == (None, None, offset)


@pytest.mark.parametrize("device", ODD_IDS)
def test_any_id_is_found_by_its_percent_encoding(box: ApiBox, device: str) -> None:
    box.log.reading(device, {"me": device})
    box.step()
    path = f"/api/v1/devices/{quote(device, safe='')}"
    assert box.get(path)["last_reading"]["payload"] == {"me": device}
    assert box.get(f"{path}/readings")["readings"][0]["payload"] == {"me": device}
    (listed,) = box.get("/api/v1/devices")["devices"]
    assert (listed["device"], listed["href"]) == (device, path)
    page = box.client.get(f"/devices/{quote(device, safe='')}")
    assert page.status_code == 200
    fragment = box.client.get(f"/fragments/devices/{quote(device, safe='')}")
    assert fragment.status_code == 200


def test_ids_that_differ_in_encoding_only_are_different_devices(box: ApiBox) -> None:
    box.log.reading("a/b", {"n": 1})
    box.log.reading("a%2Fb", {"n": 2})
    box.step()
    assert box.get("/api/v1/devices/a%2Fb")["last_reading"]["payload"] == {"n": 1}
    assert box.get("/api/v1/devices/a%252Fb")["last_reading"]["payload"] == {"n": 2}


def test_an_id_that_is_not_utf8_is_shown_escaped_and_found_by_its_bytes(box: ApiBox) -> None:
    box.log.append("telemetry", b"\xff\xfe", b"1")
    box.log.append("telemetry", b"zz", b"2")
    box.step()
    page = box.get("/api/v1/devices?limit=1")
    assert page["devices"][0]["device"] == "zz"
    rest = box.get("/api/v1/devices", params={"cursor": page["next"]})
    assert rest["devices"][0]["device"] == "\\xff\\xfe"
    assert rest["next"] is None
    assert box.get(rest["devices"][0]["href"])["last_reading"]["payload"] == 1


def test_listing_pages_through_everything(box: ApiBox) -> None:
    names = sorted(f"d/{number} ü" for number in range(23))
    for name in names:
        box.log.reading(name)
    box.step()
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = box.get("/api/v1/devices", params={"limit": 5, "cursor": cursor})
        assert page["total"] == 23
        seen += [one["device"] for one in page["devices"]]
        cursor = page["next"]
    assert seen == names
    assert len(box.get("/api/v1/devices?search=d/1")["devices"]) == 11


@pytest.mark.parametrize("state", ["replaying", "stale", "behind"])
def test_connected_is_null_unless_the_view_is_live(box: ApiBox, state: str) -> None:
    box.log.event("d", "connected", "s1")
    if state != "replaying":
        box.step()
    else:
        box.tail._view.feed("device.events", 0, box.log.reader().read("device.events", 0, 0))
        box.view.begin_events([0] * 4)
        for partition in range(4):
            box.view.feed("device.events", partition, box.log.reader().read("device.events", partition, 0))
    if state == "stale":
        box.log.state = WriterState.STALE
        box.step()
    if state == "behind":
        box.clock.now_ms += 60_000
    shown = box.get("/api/v1/devices/d")
    assert (shown["connected"], shown["sessions"], shown["connected_since"]) == (None, [], None)
    assert (shown["view"]["state"], shown["view"]["stale"]) == (state, True)
    listed = box.get("/api/v1/devices")
    assert listed["devices"][0]["connected"] is None
    assert listed["view"]["stale"] is True


def test_an_unknown_device_is_not_found(box: ApiBox) -> None:
    box.step()
    problem = box.get("/api/v1/devices/press-99", 404)
    assert problem["type"] == "urn:headrace:problem:not-found"
    assert problem["detail"] == "the log has nothing of a device 'press-99'"
    assert problem["instance"] == "/api/v1/devices/press-99"
    assert problem["mend"]
    assert box.get("/api/v1/devices/press-99/readings", 404)["status"] == 404


def test_an_unknown_device_while_replaying_says_so(box: ApiBox) -> None:
    assert "still reading the log" in box.get("/api/v1/devices/press-99", 404)["mend"]
