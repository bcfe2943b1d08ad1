"""Routes: filters with captures, templates, order, and what matches nothing."""

from __future__ import annotations

import pytest

from core.errors import ConfigError
from ingest.routing import Routed, Router
from ingest.settings import DEFAULT_ROUTES, RouteSettings


def route(routes: tuple[RouteSettings, ...], topic: str, client_id: str = "c", username: str | None = None) -> Routed:
    return Router(routes).route(topic, client_id=client_id, username=username)


@pytest.mark.parametrize(
    ("topic", "device"),
    [
        ("devices/press-17/telemetry", "press-17"),
        ("devices/press-17", "press-17"),  # [MQTT-4.7.1-2]: `#` also matches the parent level
        ("devices/a b/x/y/z", "a b"),
        ("devices/größe/x", "größe"),
    ],
)
def test_the_default_route_takes_the_device_from_the_second_level(topic: str, device: str) -> None:
    assert route(DEFAULT_ROUTES, topic) == Routed(topic="telemetry", key=device, device=device)


@pytest.mark.parametrize(
    "topic",
    ["devices", "/devices/x", "Devices/x/y", "sensors/x", "devices//x", "devices/" + "d" * 257 + "/x", "$SYS/x"],
)
def test_what_no_route_takes_goes_to_the_topic_mqtt_without_a_device(topic: str) -> None:
    assert route(DEFAULT_ROUTES, topic) == Routed(topic="mqtt", key=topic, device=None)


def test_captures_fill_templates() -> None:
    routes = (
        RouteSettings(
            filter="plant/{hall}/{machine}/{sensor}", topic="plant", device="{hall}-{machine}", field="{sensor}"
        ),
    )
    assert route(routes, "plant/h1/m2/temp") == Routed(topic="plant", key="h1-m2", device="h1-m2", field="temp")


def test_client_id_and_username_are_always_there() -> None:
    routes = (RouteSettings(filter="up", device="{clientid}", key="{username}/{clientid}"),)
    assert route(routes, "up", "gw-1", "anna") == Routed(topic="telemetry", key="anna/gw-1", device="gw-1")


def test_the_first_route_that_matches_decides() -> None:
    routes = (
        RouteSettings(filter="a/+/{device}", topic="first"),
        RouteSettings(filter="a/#", device="x", topic="second"),
    )
    assert route(routes, "a/b/c").topic == "first"
    assert route(routes, "a/b").topic == "second"


def test_wildcards_at_the_start_do_not_match_dollar_topics_mqtt_4_7_2_1() -> None:
    routes = (RouteSettings(filter="{device}/#"), RouteSettings(filter="#", device="all"))
    assert route(routes, "$SYS/x").topic == "mqtt"


def test_a_route_without_device_needs_a_key() -> None:
    assert route((RouteSettings(filter="log/{host}", device=None, key="{host}"),), "log/h") == Routed(
        topic="telemetry", key="h", device=None
    )
    with pytest.raises(ConfigError, match="device or a key"):
        Router([RouteSettings(filter="log/x", device=None)])


@pytest.mark.parametrize("filter_", ["a/#/b", "a/x{device}", "a/b#", "a/{Device}", "a/{}", "a/+x"])
def test_filters_that_cannot_work_are_refused_with_the_level(filter_: str) -> None:
    with pytest.raises(ConfigError, match="level"):
        Router([RouteSettings(filter=filter_, device="d")])


def test_a_template_may_only_name_what_the_filter_captures() -> None:
    with pytest.raises(ConfigError, match="device") as caught:
        Router([RouteSettings(filter="a/{machine}", device="{device}")])
    assert "machine" in caught.value.what
