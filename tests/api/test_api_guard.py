from __future__ import annotations

from pathlib import Path

import pytest

from api.guard import SECURITY_HEADERS, host_allowed
from tests.api.api_box import ApiBox


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8080",
        "a.localhost",
        "127.0.0.1:80",
        "127.9.9.9",
        "[::1]:8080",
        "::1",
        "192.168.1.4:8080",
    ],
)
def test_hosts_that_name_this_box(host: str) -> None:
    assert host_allowed(host, frozenset())


@pytest.mark.parametrize("host", ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "[evil]:80"])
def test_hosts_that_do_not(host: str) -> None:
    assert not host_allowed(host, frozenset())


def test_a_foreign_host_is_refused_on_every_path(box: ApiBox) -> None:
    for path in ("/", "/api/v1/devices", "/metrics", "/static/console.css", "/nowhere"):
        problem = box.get(path, 421, headers={"Host": "evil.example:8080"})
        assert problem["type"] == "urn:headrace:problem:misdirected"
        assert "http.allowed_hosts" in problem["mend"]


def test_configured_names_are_answered(tmp_path: Path) -> None:
    box = ApiBox(tmp_path, allowed_hosts=("Box.example.",))
    assert box.get("/healthz", headers={"Host": "box.example:8080"})


@pytest.mark.parametrize("path", ["/", "/api/v1/devices", "/nowhere", "/static/console.css", "/healthz"])
def test_every_answer_has_the_security_headers(box: ApiBox, path: str) -> None:
    response = box.client.get(path)
    for name, value in SECURITY_HEADERS.items():
        assert response.headers[name] == value
    assert "unsafe" not in response.headers["Content-Security-Policy"]
    assert response.headers["Cache-Control"] == ("no-cache" if path.startswith("/static/") else "no-store")


def test_an_unknown_path(box: ApiBox) -> None:
    problem = box.get("/api/v1/nowhere", 404)
    assert problem["type"] == "urn:headrace:problem:not-found"
    assert problem["instance"] == "/api/v1/nowhere"


@pytest.mark.parametrize("path", ["/api/v1/devices", "/api/v1/devices/d", "/healthz", "/metrics", "/"])
def test_another_method_names_the_allowed_ones(box: ApiBox, path: str) -> None:
    response = box.client.post(path)
    assert response.status_code == 405
    assert response.headers["allow"] == "GET"
    assert response.json()["type"] == "urn:headrace:problem:method-not-allowed"
    assert response.headers["content-type"] == "application/problem+json"


def test_an_error_nobody_planned_for_is_a_problem_and_is_logged(
    box: ApiBox, capsys: pytest.CaptureFixture[str]
) -> None:
    box.log.failure = RuntimeError("a bug")
    problem = box.get("/api/v1/topics", 500)
    assert problem["type"] == "urn:headrace:problem:internal"
    assert "a bug" not in problem["detail"]
    captured = capsys.readouterr()
    assert "a bug" in captured.out + captured.err


def test_pages_answer_people_with_a_page(box: ApiBox) -> None:
    box.step()
    response = box.client.get("/devices/nobody", headers={"Accept": "text/html"})
    assert response.status_code == 404
    assert response.headers["content-type"].startswith("text/html")
    assert "the log has nothing of a device" in response.text
    assert box.client.get("/nowhere", headers={"Accept": "text/html"}).headers["content-type"].startswith("text/html")
    assert box.get("/api/v1/devices/nobody", 404, headers={"Accept": "text/html"})["status"] == 404
