"""Which strings are topic names and topic filters, section 4.7. Both are compared as they are [MQTT-4.7.3-4]."""

from __future__ import annotations

from typing import Final

from wire.mqtt.errors import MalformedPacketError

MAX_TOPIC_SIZE_BYTES: Final = 65_535  # [MQTT-4.7.3-3]


def check_topic_name(topic: str) -> None:
    """Raise MalformedPacketError, naming the clause, unless messages may be published to `topic`."""
    _check_common(topic, "topic name")
    if "#" in topic or "+" in topic:
        raise MalformedPacketError("MQTT-3.3.2-2", f"the topic name {_shown(topic)} contains a wildcard")


def check_topic_filter(topic_filter: str) -> None:
    """Raise MalformedPacketError, naming the clause, unless `topic_filter` may be subscribed to."""
    _check_common(topic_filter, "topic filter")
    if "#" not in topic_filter and "+" not in topic_filter:
        return
    *levels, last = topic_filter.split("/")
    if any("#" in level for level in levels) or ("#" in last and last != "#"):
        raise MalformedPacketError(
            "MQTT-4.7.1-2", f"in the topic filter {_shown(topic_filter)} '#' is not alone in the last level"
        )
    if any("+" in level and level != "+" for level in (*levels, last)):
        raise MalformedPacketError(
            "MQTT-4.7.1-3", f"in the topic filter {_shown(topic_filter)} '+' does not occupy a whole level"
        )


def _check_common(topic: str, kind: str) -> None:
    if not topic:
        raise MalformedPacketError("MQTT-4.7.3-1", f"the {kind} is empty")
    if "\0" in topic:
        raise MalformedPacketError("MQTT-4.7.3-2", f"the {kind} {_shown(topic)} contains U+0000")
    # A character is at most four bytes of UTF-8, so short ones need no counting.
    if len(topic) > MAX_TOPIC_SIZE_BYTES // 4 and len(topic.encode()) > MAX_TOPIC_SIZE_BYTES:
        raise MalformedPacketError("MQTT-4.7.3-3", f"the {kind} is longer than {MAX_TOPIC_SIZE_BYTES} bytes")


def _shown(topic: str) -> str:
    """Quoted and escaped for messages, cut so that a hostile topic cannot flood a log line."""
    return ascii(topic if len(topic) <= 80 else topic[:80] + "...")
