"""Which strings are topic names and topic filters, section 4.7. Both are compared as they are [MQTT-4.7.3-4].

A filter of 5.0 may be shared: `$share/{name}/{filter}`, section 4.8.2. In 3.1.1 that is a filter like others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wire.mqtt.clauses import CLAUSES, LEVEL_3_1_1, LEVEL_5, Clauses
from wire.mqtt.errors import MalformedPacketError, ProtocolError

MAX_TOPIC_SIZE_BYTES: Final = 65_535  # [MQTT-4.7.3-3]
SHARE_PREFIX: Final = "$share/"


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedFilter:
    """A shared subscription taken apart: the members of `share_name` together get what `filter` matches."""

    share_name: str
    filter: str


def check_topic_name(topic: str, level: int = LEVEL_3_1_1) -> None:
    """Raise MalformedPacketError, naming the clause, unless messages may be published to `topic`."""
    clauses = CLAUSES[level]
    _check_common(topic, "topic name", clauses)
    if "#" in topic or "+" in topic:
        raise MalformedPacketError(clauses.topic_wildcard, f"the topic name {_shown(topic)} contains a wildcard")


def check_response_topic(topic: str) -> None:
    """Raise MalformedPacketError unless answers may be published to `topic`, 5.0 section 3.3.2.3.5."""
    _check_common(topic, "response topic", CLAUSES[LEVEL_5])
    if "#" in topic or "+" in topic:
        raise MalformedPacketError("MQTT5-3.3.2-14", f"the response topic {_shown(topic)} contains a wildcard")


def check_topic_filter(topic_filter: str, level: int = LEVEL_3_1_1) -> None:
    """Raise ProtocolError, naming the clause, unless `topic_filter` may be subscribed to (5.0: shared or not)."""
    if level == LEVEL_5:
        shared = split_shared(topic_filter)
        if shared is not None:
            _check_common(topic_filter, "topic filter", CLAUSES[level])
            topic_filter = shared.filter
    _check_filter(topic_filter, CLAUSES[level])


def split_shared(topic_filter: str) -> SharedFilter | None:
    """The parts of a 5.0 shared subscription; None if the filter is an ordinary one.

    Raises ProtocolError for a share name that is empty or contains a wildcard, and for a filter that is missing:
    [MQTT5-4.8.2-1], [MQTT5-4.8.2-2].
    """
    if not topic_filter.startswith("$share"):
        return None
    prefix, *rest = topic_filter.split("/", 2)
    if prefix != "$share":
        return None  # `$shared/x` is an ordinary filter
    share_name = rest[0] if rest else ""
    if not share_name:
        raise ProtocolError("MQTT5-4.8.2-1", f"the shared subscription {_shown(topic_filter)} has no share name")
    if "+" in share_name or "#" in share_name:
        raise ProtocolError("MQTT5-4.8.2-2", f"the share name of {_shown(topic_filter)} contains a wildcard")
    if len(rest) < 2 or not rest[1]:
        raise ProtocolError("MQTT5-4.8.2-2", f"the shared subscription {_shown(topic_filter)} has no topic filter")
    return SharedFilter(share_name=share_name, filter=rest[1])


def _check_filter(topic_filter: str, clauses: Clauses) -> None:
    _check_common(topic_filter, "topic filter", clauses)
    if "#" not in topic_filter and "+" not in topic_filter:
        return
    *levels, last = topic_filter.split("/")
    if any("#" in level for level in levels) or ("#" in last and last != "#"):
        raise MalformedPacketError(
            clauses.multi_level, f"in the topic filter {_shown(topic_filter)} '#' is not alone in the last level"
        )
    if any("+" in level and level != "+" for level in (*levels, last)):
        raise MalformedPacketError(
            clauses.single_level, f"in the topic filter {_shown(topic_filter)} '+' does not occupy a whole level"
        )


def _check_common(topic: str, kind: str, clauses: Clauses) -> None:
    if not topic:
        raise MalformedPacketError(clauses.topic_empty, f"the {kind} is empty")
    if "\0" in topic:
        raise MalformedPacketError(clauses.topic_null, f"the {kind} {_shown(topic)} contains U+0000")
    # A character is at most four bytes of UTF-8, so short ones need no counting.
    if len(topic) > MAX_TOPIC_SIZE_BYTES // 4 and len(topic.encode()) > MAX_TOPIC_SIZE_BYTES:
        raise MalformedPacketError(clauses.topic_size, f"the {kind} is longer than {MAX_TOPIC_SIZE_BYTES} bytes")


def _shown(topic: str) -> str:
    """Quoted and escaped for messages, cut so that a hostile topic cannot flood a log line."""
    return ascii(topic if len(topic) <= 80 else topic[:80] + "...")
