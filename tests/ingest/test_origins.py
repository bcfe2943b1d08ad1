"""Which web pages may speak to a listener."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ingest.origins import origin_allowed


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost",
        "https://localhost:9999",
        "http://LOCALHOST.:80",
        "http://console.localhost",
        "http://127.0.0.1:8080",
        "http://127.1.2.3",
        "http://[::1]:8080",
    ],
)
def test_pages_of_this_machine_may_come(origin: str) -> None:
    assert origin_allowed([origin], ["box:8083"], (), on_loopback=True)


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "*",
        "localhost",
        "file://",
        "http://",
        "http://[::1",
        "http://localhost.elsewhere.example",
        "http://127.0.0.1.elsewhere.example",
        "http://localhost@elsewhere.example",
        "http://notlocalhost",
        "http://0.0.0.0",
        "http://[::]",
        "http://192.0.2.1",
    ],
)
def test_pages_from_elsewhere_may_not(origin: str) -> None:
    assert not origin_allowed([origin], ["127.0.0.1:8083"], (), on_loopback=True)


@pytest.mark.parametrize(
    ("origin", "hosts", "on_loopback", "allowed"),
    [
        ("http://192.0.2.1:8080", ["192.0.2.1:8083"], False, True),
        ("http://[2001:db8::1]", ["[2001:DB8::1]:8083"], False, True),
        ("http://192.0.2.1:8080", ["192.0.2.1:8083"], True, True),  # nobody rebinds an address
        ("https://box.example", ["box.example:8083"], False, True),
        ("https://box.example", ["BOX.example.:8083"], False, True),
        ("https://box.example", ["box.example:8083"], True, False),  # a name that was pointed at 127.0.0.1
        ("https://box.example", ["elsewhere.example:8083"], False, False),
        ("https://box.example", [], False, False),
        ("https://box.example", ["box.example", "box.example"], False, False),
        ("https://box.example", ["[box.example"], False, False),
    ],
)
def test_pages_from_where_the_request_goes(origin: str, hosts: Sequence[str], on_loopback: bool, allowed: bool) -> None:
    assert origin_allowed([origin], hosts, (), on_loopback=on_loopback) is allowed
