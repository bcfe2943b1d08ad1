"""The registry over HTTP: entries with versions, lists, tags, CSV both ways, devices' answers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from api import bodies, routes_registry
from core.errors import UnavailableError
from devices.registry_entry import MAX_ENTRY_BYTES
from tests.api.api_box import ApiBox

PATCH = {"Content-Type": "application/merge-patch+json"}
CSV = {"Content-Type": "text/csv"}


@pytest.fixture
def registry(box: ApiBox) -> ApiBox:
    box.load_registry()
    return box


def put(box: ApiBox, device: str, status: int, fields: dict[str, Any], **headers: str) -> Any:
    response = box.client.put(f"/api/v1/registry/{device}", json=fields, headers=headers)
    assert response.status_code == status, response.text
    return response


def patch(box: ApiBox, device: str, fields: Any, status: int = 200, **headers: str) -> Any:
    response = box.client.patch(f"/api/v1/registry/{device}", content=json.dumps(fields), headers={**PATCH, **headers})
    assert response.status_code == status, response.text
    return response.json()


def post_csv(box: ApiBox, body: str | bytes, status: int = 200, query: str = "") -> Any:
    response = box.client.post(f"/api/v1/registry.csv{query}", content=body, headers=CSV)
    assert response.status_code == status, response.text
    return response.json()


def test_an_entry_is_made_read_changed_and_removed(registry: ApiBox) -> None:
    made = put(registry, "line%2F4", 201, {"name": "Press", "tags": ["a"], "position": {"latitude": 1, "longitude": 2}})
    assert made.headers["etag"] == '"1"'
    shown = registry.get("/api/v1/registry/line%2F4")
    assert shown == made.json()
    assert shown == {
        "device": "line/4",
        "href": "/api/v1/registry/line%2F4",
        "version": 1,
        "name": "Press",
        "tags": ["a"],
        "location": "",
        "position": {"latitude": 1.0, "longitude": 2.0},
        "expected_interval_ms": None,
        "units": {},
        "notes": "",
    }
    changed = patch(registry, "line%2F4", {"notes": "n", "position": None})
    assert (changed["version"], changed["notes"], changed["position"], changed["tags"]) == (2, "n", None, ["a"])
    set_anew = put(registry, "line%2F4", 200, {"name": "Other"}, **{"If-Match": '"2"'})
    assert (set_anew.json()["tags"], set_anew.headers["etag"]) == ([], '"3"')
    gone = registry.client.delete("/api/v1/registry/line%2F4", headers={"If-Match": '"3"'})
    assert (gone.status_code, gone.content) == (204, b"")
    assert "PUT" in registry.get("/api/v1/registry/line%2F4", 404)["mend"]
    assert registry.client.delete("/api/v1/registry/line%2F4", headers={"If-Match": "*"}).status_code == 404


def test_two_editors_cannot_overwrite_each_other(registry: ApiBox) -> None:
    etag = put(registry, "d", 201, {"name": "1"}).headers["etag"]
    put(registry, "d", 200, {"name": "first"}, **{"If-Match": etag})
    problem = put(registry, "d", 412, {"name": "second"}, **{"If-Match": etag}).json()
    assert problem["type"] == "urn:headrace:problem:outdated"
    assert "version 2, not 1" in problem["detail"]
    assert patch(registry, "d", {"name": "second"}, 412, **{"If-Match": etag})["status"] == 412
    assert registry.client.delete("/api/v1/registry/d", headers={"If-Match": etag}).status_code == 412
    assert registry.get("/api/v1/registry/d")["name"] == "first"


def test_what_is_there_is_not_replaced_or_removed_by_one_who_does_not_know(registry: ApiBox) -> None:
    put(registry, "d", 201, {"name": "1"})
    problem = put(registry, "d", 428, {"name": "2"}).json()
    assert problem["type"] == "urn:headrace:problem:condition-needed"
    assert "If-Match" in problem["mend"]
    assert registry.client.delete("/api/v1/registry/d").status_code == 428
    put(registry, "d", 412, {"name": "2"}, **{"If-None-Match": "*"})
    put(registry, "e", 412, {"name": "2"}, **{"If-Match": "*"})
    put(registry, "d", 200, {"name": "2"}, **{"If-Match": "*"})
    put(registry, "e", 201, {"name": "2"}, **{"If-None-Match": "*"})


@pytest.mark.parametrize("if_match", ["1", 'W/"1"', '""', '"1", "2"', '"0"', '"x"'])
def test_conditions_of_other_forms_are_refused(registry: ApiBox, if_match: str) -> None:
    put(registry, "d", 422, {"name": "1"}, **{"If-Match": if_match})


@pytest.mark.parametrize("device", ["%0A", "%FF", "x" * 257])
def test_what_no_device_can_be_called_gets_no_entry(registry: ApiBox, device: str) -> None:
    assert "no device can be called" in put(registry, device, 404, {}).json()["detail"]


@pytest.mark.parametrize("device", ["..%2F..", "%3Cscript%3E", "%F0%9F%94%A5" * 64, "%25", "a%20b", "d.csv"])
def test_hostile_names_are_reachable(registry: ApiBox, device: str) -> None:
    item = put(registry, device, 201, {"name": "<b>&\u202e"}).json()
    assert registry.get(item["href"])["device"] == item["device"]
    assert post_csv(registry, registry.client.get("/api/v1/registry.csv").content)["unchanged"] == 1


def test_bodies_are_of_a_known_type_and_bounded(registry: ApiBox, monkeypatch: pytest.MonkeyPatch) -> None:
    for media_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        headers = {"Content-Type": media_type}
        response = registry.client.put("/api/v1/registry/d", content=b"{}", headers=headers)
        assert response.json()["type"] == "urn:headrace:problem:media-type"
        assert registry.client.post("/api/v1/registry.csv", content=b"device\n", headers=headers).status_code == 415
    large = {"notes": " " * (4 * MAX_ENTRY_BYTES)}
    assert patch(registry, "d", large, 413)["type"] == "urn:headrace:problem:too-large"
    monkeypatch.setattr(routes_registry, "MAX_IMPORT_BYTES", 10)
    post_csv(registry, "device\nlonger than that\n", 413)
    assert registry.tables.commits == 0


async def test_a_body_that_dawdles_is_not_waited_for(registry: ApiBox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_S", 0.01)
    sent: list[Any] = []

    async def receive() -> Any:
        if not sent:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "PUT",
        "path": "/api/v1/registry/d",
        "raw_path": b"/api/v1/registry/d",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
    }
    await registry.app(scope, receive, send)
    assert sent[0]["status"] == 408


def test_fields_that_are_wrong_are_named(registry: ApiBox) -> None:
    assert "$.expected_interval_ms" in patch(registry, "d", {"expected_interval_ms": 1}, 422)["detail"]
    assert "unknown field `colour`" in put(registry, "d", 422, {"colour": "red"}).json()["detail"]
    assert "JSON object" in patch(registry, "d", [1], 422)["detail"]


def test_lists_by_tag_and_text_in_pages(registry: ApiBox) -> None:
    for number in range(5):
        patch(
            registry, f"d{number}", {"name": f"Press {number}", "tags": ["all", "even" if number % 2 == 0 else "odd"]}
        )
    page = registry.get("/api/v1/registry?tag=all&tag=even&limit=2")
    assert [one["device"] for one in page["entries"]] == ["d0", "d2"]
    assert (page["total"], page["next"]) == (5, "d2")
    page = registry.get(f"/api/v1/registry?tag=all&tag=even&limit=2&cursor={page['next']}")
    assert ([one["device"] for one in page["entries"]], page["next"]) == (["d4"], None)
    assert len(registry.get("/api/v1/registry?search=press")["entries"]) == 5
    assert registry.get("/api/v1/registry?tag=nobody")["entries"] == []
    assert registry.get("/api/v1/tags")["tags"] == [
        {"tag": "all", "devices": 5},
        {"tag": "even", "devices": 3},
        {"tag": "odd", "devices": 2},
    ]


def test_devices_answers_carry_the_entry_and_lists_are_narrowed_by_tag(registry: ApiBox) -> None:
    for device in ("a", "b", "c"):
        registry.log.reading(device, {"n": 1})
    registry.step()
    patch(registry, "a", {"name": "A", "tags": ["t"]})
    patch(registry, "c", {"tags": ["t", "u"]})
    patch(registry, "never-spoke", {"tags": ["t"]})
    devices = {one["device"]: one["registry"] for one in registry.get("/api/v1/devices")["devices"]}
    assert (devices["a"]["name"], devices["b"], devices["c"]["tags"]) == ("A", None, ["t", "u"])
    assert registry.get("/api/v1/devices/a")["registry"]["name"] == "A"
    assert registry.get("/api/v1/devices/b")["registry"] is None
    page = registry.get("/api/v1/devices?tag=t&limit=1")
    assert ([one["device"] for one in page["devices"]], page["next"]) == (["a"], "a")
    page = registry.get("/api/v1/devices?tag=t&limit=1&cursor=a")
    assert ([one["device"] for one in page["devices"]], page["next"]) == (["c"], None)
    assert [one["device"] for one in registry.get("/api/v1/devices?tag=t&tag=u")["devices"]] == ["c"]
    assert [one["device"] for one in registry.get("/api/v1/devices?tag=t&search=A")["devices"]] == ["a"]


def test_a_list_by_tag_does_not_pass_over_all_devices(registry: ApiBox, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(200):
        registry.log.reading(f"d{number}", {"n": 1})
    registry.step()
    patch(registry, "d7", {"tags": ["t"]})
    monkeypatch.setattr(type(registry.view), "page", None)
    asked = []
    get = registry.view.get
    monkeypatch.setattr(type(registry.view), "get", lambda _, key, **how: asked.append(key) or get(key, **how))
    assert len(registry.get("/api/v1/devices?tag=t")["devices"]) == 1
    assert asked == [b"d7"]


def test_export_and_import_give_back_the_same(registry: ApiBox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes_registry, "_EXPORT_PAGE", 2)
    for number in range(5):
        patch(registry, f"={number}", {"name": "+1", "tags": ["a", "b"], "units": {"t": "°C"}, "notes": "x\r\n-y\n"})
    export = registry.client.get("/api/v1/registry.csv")
    assert export.headers["content-type"] == "text/csv; charset=utf-8"
    assert "attachment" in export.headers["content-disposition"]
    assert export.text.count("\r\n'=") == 5
    before = registry.get("/api/v1/registry")
    assert post_csv(registry, export.content) == {
        "dry_run": False, "rows": 5, "created": 0, "changed": 0, "unchanged": 5,
    }  # fmt: skip
    for number in range(5):
        registry.client.delete(f"/api/v1/registry/={number}", headers={"If-Match": "*"})
    assert post_csv(registry, export.content)["created"] == 5
    after = registry.get("/api/v1/registry")
    for page in (before, after):
        for entry in page["entries"]:
            del entry["version"]
    assert after == before


def test_a_dry_run_says_what_would_change_and_writes_nothing(registry: ApiBox) -> None:
    patch(registry, "a", {"name": "A"})
    commits = registry.tables.commits
    body = "device,name\na,A\nb,B\n"
    assert post_csv(registry, body, query="?dry_run=true") == {
        "dry_run": True, "rows": 2, "created": 1, "changed": 0, "unchanged": 1,
    }  # fmt: skip
    assert registry.tables.commits == commits


def test_rows_that_cannot_be_taken_are_told_by_number_and_nothing_is_written(registry: ApiBox) -> None:
    problem = post_csv(registry, "device,tags\na,ok\nb,=x\n\nc,y;y\n", 422)
    assert problem["type"] == "urn:headrace:problem:bad-csv"
    assert [error["where"] for error in problem["errors"]] == ["row 3, column tags", "row 5, column tags"]
    assert registry.tables.commits == 0


async def test_one_import_at_a_time(registry: ApiBox) -> None:
    async with registry.app.state.importing:
        assert "another import" in post_csv(registry, "device\na\n", 503)["detail"]


def test_before_the_registry_is_loaded_and_while_the_edge_is_away(box: ApiBox) -> None:
    box.log.reading("a", {"n": 1})
    box.step()
    for path in ("registry", "registry/a", "registry.csv", "tags", "devices?tag=t"):
        assert "not loaded yet" in box.get(f"/api/v1/{path}", 503)["detail"]
    assert box.get("/api/v1/devices")["devices"][0]["registry"] is None
    box.load_registry()
    patch(box, "a", {"name": "A"})
    box.edge_away = True
    assert box.get("/api/v1/registry/a")["name"] == "A"
    assert patch(box, "a", {"name": "B"}, 503)["type"] == "urn:headrace:problem:unavailable"
    put(box, "b", 503, {})
    post_csv(box, "device\na\n", 503)
    assert box.client.delete("/api/v1/registry/a", headers={"If-Match": "*"}).status_code == 503


def test_an_import_that_the_edge_ends_says_how_far_it_came(registry: ApiBox) -> None:
    registry.tables.failure = UnavailableError("the disk is full")
    problem = post_csv(registry, "device\na\n", 503)
    assert problem["detail"].startswith("0 of 1 entries were written, then: the disk is full")
    assert "import the same file again" in problem["mend"]


FOREIGN = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:3000"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "file://"},
    {"Origin": "http://localhost:port"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none such", "Origin": "http://localhost"},
]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize(("method", "path"), [("PUT", "d"), ("PATCH", "d"), ("DELETE", "d"), ("POST", ".csv")])
def test_a_page_from_elsewhere_cannot_write(registry: ApiBox, headers: dict[str, str], method: str, path: str) -> None:
    patch(registry, "d", {"name": "before"})
    commits = registry.tables.commits
    url = "/api/v1/registry.csv" if path == ".csv" else f"/api/v1/registry/{path}"
    content = b"device,name\nd,after\n" if path == ".csv" else b'{"name": "after"}'
    media_type = "text/csv" if path == ".csv" else "application/json"
    allowing = {"Content-Type": media_type, "If-Match": "*"}
    response = registry.client.request(method, url, content=content, headers={**allowing, **headers})
    assert response.status_code == 403
    assert response.json()["type"] == "urn:headrace:problem:foreign-origin"
    assert "Access-Control-Allow-Origin" not in response.headers
    assert registry.tables.commits == commits


def test_an_origin_that_stands_twice_is_no_browsers(registry: ApiBox) -> None:
    headers = [("Content-Type", "application/json"), ("Origin", "http://localhost"), ("Origin", "http://evil.example")]
    assert registry.client.put("/api/v1/registry/d", content=b"{}", headers=headers).status_code == 403


@pytest.mark.parametrize(
    ("host", "headers"),
    [
        ("localhost", {}),
        ("localhost", {"Origin": "http://localhost"}),
        ("localhost:8080", {"Origin": "http://LOCALHOST:8080"}),
        ("[::1]:8080", {"Origin": "http://[::1]:8080"}),
        ("localhost", {"Origin": "https://localhost:443"}),
        ("localhost", {"Sec-Fetch-Site": "same-origin", "Origin": "https://behind.a.proxy"}),
        ("localhost", {"Sec-Fetch-Site": "none"}),
    ],
)
def test_own_pages_and_programs_can(registry: ApiBox, host: str, headers: dict[str, str]) -> None:
    put(registry, "d", 201, {"name": "n"}, Host=host, **headers)


def test_no_preflight_is_answered(registry: ApiBox) -> None:
    asking = {"Origin": "http://evil.example", "Access-Control-Request-Method": "PUT"}
    response = registry.client.options("/api/v1/registry/d", headers=asking)
    assert response.status_code == 405
    assert not [name for name in response.headers if name.startswith("access-control")]
