"""Routes: from an MQTT topic to a topic of the log, a key, a device and a field.

A route's filter is an MQTT topic filter in which a level may be a capture, `{name}`, which matches any one level like
`+` and remembers it. Its templates put captures together again; `{clientid}` and `{username}` are always there. The
first route that matches decides. What matches none, or would make a device id that is none, goes to the topic `mqtt`
under its MQTT topic, without a device: nothing is refused for its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from core.errors import ConfigError
from ingest.settings import RouteSettings
from wire.device_id import device_id_fault

UNROUTED_TOPIC: Final = "mqtt"
_CAPTURE: Final = re.compile(r"\{([a-z][a-z0-9_]*)\}\Z")
_TEMPLATE_NAME: Final = re.compile(r"\{([^{}]*)\}")
_ALWAYS_THERE: Final = frozenset({"clientid", "username"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """Where records of one MQTT topic go. `field` names the column of a scalar payload, if the route says so."""

    topic: str
    key: str
    device: str | None
    field: str | None = None


class Route:
    """One compiled route. Raises ConfigError for a filter or template that cannot work."""

    def __init__(self, settings: RouteSettings) -> None:
        self.topic = settings.topic
        self._settings = settings
        levels = settings.filter.split("/")
        captures: list[str | None] = []
        patterns: list[str] = []
        for place, level in enumerate(levels):
            captures.append(None)
            if match := _CAPTURE.match(level):
                captures[-1] = match[1]
                patterns.append("+")
            elif level == "#" and place == len(levels) - 1:
                patterns.append("#")
            elif level == "+" or not any(sign in level for sign in "+#{}"):
                patterns.append(level)
            else:
                raise self._fault(
                    f"level {level!r} is neither a name, `+`, a capture such as {{device}} nor a last `#`"
                )
        self._levels = tuple(patterns)
        self._captures = tuple(captures)
        known = {name for name in captures if name} | _ALWAYS_THERE
        for template in (settings.device, settings.key, settings.field):
            for name in _TEMPLATE_NAME.findall(template or ""):
                if name not in known:
                    raise self._fault(f"{{{name}}} is not captured by the filter; captured are {sorted(known)}")
        if settings.device is None and settings.key is None:
            raise self._fault("a route needs a device or a key")

    def match(self, levels: Sequence[str], names: Mapping[str, str]) -> Routed | None:
        """Where a topic of these levels goes, if this route takes it; `names` holds clientid and username."""
        wanted = self._levels
        rest = wanted[-1] == "#"
        fixed = len(wanted) - rest
        if len(levels) < fixed or (len(levels) > fixed and not rest):
            return None
        if levels[0].startswith("$") and wanted[0] in ("+", "#"):
            return None  # [MQTT-4.7.2-1]
        captured = dict(names)
        for level, pattern, name in zip(levels, wanted[:fixed], self._captures, strict=False):
            if pattern not in ("+", level):
                return None
            if name is not None:
                captured[name] = level
        return self._routed(captured)

    def _routed(self, captured: Mapping[str, str]) -> Routed | None:
        settings = self._settings
        device = _fill(settings.device, captured)
        if device is not None and device_id_fault(device) is not None:
            return None
        key = _fill(settings.key, captured) or device
        if not key:
            return None
        return Routed(topic=self.topic, key=key, device=device, field=_fill(settings.field, captured))

    def _fault(self, what: str) -> ConfigError:
        return ConfigError(
            f"the route {self._settings.filter!r} cannot be used: {what}",
            where="[[routes]]",
            mend='for example filter = "devices/{device}/#", device = "{device}"',
        )


class Router:
    """The routes in their order. Evaluated once per connection and MQTT topic, never per message."""

    def __init__(self, routes: Sequence[RouteSettings]) -> None:
        self._routes = [Route(settings) for settings in routes]

    @property
    def topics(self) -> set[str]:
        """Topics of the log that records may go to."""
        return {route.topic for route in self._routes} | {UNROUTED_TOPIC}

    def route(self, mqtt_topic: str, *, client_id: str, username: str | None) -> Routed:
        """Where records of an MQTT topic go."""
        levels = mqtt_topic.split("/")
        names = {"clientid": client_id, "username": username or ""}
        for route in self._routes:
            if (routed := route.match(levels, names)) is not None:
                return routed
        return Routed(topic=UNROUTED_TOPIC, key=mqtt_topic, device=None)


def _fill(template: str | None, captured: Mapping[str, str]) -> str | None:
    if template is None:
        return None
    return _TEMPLATE_NAME.sub(lambda match: captured[match[1]], template)
