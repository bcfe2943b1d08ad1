"""Who may do what over MQTT: the seam at which credentials and rules will stand.

Asked at CONNECT, once per connection and MQTT topic at publishing, and per filter at subscribing; never per message.
Until there are credentials everybody is let in, but for what is refused by configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Who asks, as far as it is known. `peer` is an address, for log lines."""

    client_id: str
    username: str | None
    peer: str


class Authorizer(Protocol):
    """Decides at once: a CONNECT, a topic or a filter does not wait for somebody else's answer."""

    def may_connect(self, client: Client, password: bytes | None) -> bool:
        """Whether the client is let in (CONNACK 0x87, 3.1.1: 0x05, if not)."""
        ...

    def may_publish(self, client: Client, topic: str) -> bool:
        """Whether it may publish to an MQTT topic; its will's too."""
        ...

    def may_subscribe(self, client: Client, topic_filter: str) -> bool:
        """Whether it may subscribe to a filter, without `$share/{name}/` before it (SUBACK 0x87, 3.1.1: 0x80)."""
        ...


class ConfiguredRefusals:
    """Lets everybody do everything, but for the filters that the configuration refuses.

    A publish is refused where its topic matches a refused filter, a subscription where a refused filter covers its
    filter: `plant/#` covers `plant/+/state` and `plant/#`, and not `#`.
    """

    def __init__(self, *, publish: Sequence[str] = (), subscribe: Sequence[str] = ()) -> None:
        self._publish = [refused.split("/") for refused in publish]
        self._subscribe = [refused.split("/") for refused in subscribe]

    def may_connect(self, client: Client, password: bytes | None) -> bool:
        """See `Authorizer.may_connect`."""
        return True

    def may_publish(self, client: Client, topic: str) -> bool:
        """See `Authorizer.may_publish`."""
        return not self._publish or not _any_covers(self._publish, topic)

    def may_subscribe(self, client: Client, topic_filter: str) -> bool:
        """See `Authorizer.may_subscribe`."""
        return not self._subscribe or not _any_covers(self._subscribe, topic_filter)


def _any_covers(refused: Sequence[Sequence[str]], asked: str) -> bool:
    levels = asked.split("/")
    return any(covers(wanted, levels) for wanted in refused)


def covers(wanted: Sequence[str], levels: Sequence[str]) -> bool:
    """Whether a filter's levels match everything that a topic's or another filter's levels stand for."""
    if levels[0].startswith("$") and wanted[0] in ("+", "#"):
        return False  # [MQTT-4.7.2-1]
    for place, level in enumerate(wanted):
        if level == "#":
            return True
        if place == len(levels) or (levels[place] == "#") or (level not in ("+", levels[place])):
            return False
    return len(wanted) == len(levels)
