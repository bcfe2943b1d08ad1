"""A publisher's MQTT 5.0 properties as record headers, and back: nothing is lost between publisher and subscriber.

Topic alias and subscription identifiers are not among them: they belong to one hop.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from commitlog.base import Header
from ingest.headers import (
    MQTT_CONTENT_TYPE,
    MQTT_CORRELATION_DATA,
    MQTT_EXPIRY,
    MQTT_PAYLOAD_FORMAT,
    MQTT_RESPONSE_TOPIC,
    MQTT_USER_PREFIX,
)
from wire.mqtt.properties import NO_PUBLISH_PROPERTIES, PublishProperties, WillProperties

_USER_AT: Final = len(MQTT_USER_PREFIX)


def headers_of(properties: PublishProperties) -> list[Header]:
    """The headers of a record that was published with these properties."""
    if properties is NO_PUBLISH_PROPERTIES:
        return []
    headers: list[Header] = []
    if properties.payload_format_indicator is not None:
        headers.append((MQTT_PAYLOAD_FORMAT, b"1" if properties.payload_format_indicator else b"0"))
    if properties.message_expiry_interval_s is not None:
        headers.append((MQTT_EXPIRY, b"%d" % properties.message_expiry_interval_s))
    if properties.content_type is not None:
        headers.append((MQTT_CONTENT_TYPE, properties.content_type.encode()))
    if properties.response_topic is not None:
        headers.append((MQTT_RESPONSE_TOPIC, properties.response_topic.encode()))
    if properties.correlation_data is not None:
        headers.append((MQTT_CORRELATION_DATA, properties.correlation_data))
    headers += ((MQTT_USER_PREFIX + name, value.encode()) for name, value in properties.user_properties)
    return headers


def properties_of(headers: Iterable[Header]) -> PublishProperties:
    """What a record was published with. Headers of other names, and values that no listener writes, are passed by."""
    fields: dict[str, Any] = {}
    user: list[tuple[str, str]] = []
    for name, value in headers:
        if value is None:
            continue
        if name.startswith(MQTT_USER_PREFIX):
            user.append((name[_USER_AT:], value.decode(errors="replace")))
        elif name == MQTT_PAYLOAD_FORMAT:
            fields["payload_format_indicator"] = value == b"1"
        elif name == MQTT_EXPIRY:
            if value.isdigit() and len(value) <= 10:
                fields["message_expiry_interval_s"] = min(int(value), 0xFFFF_FFFF)
        elif name == MQTT_CONTENT_TYPE:
            fields["content_type"] = value.decode(errors="replace")
        elif name == MQTT_RESPONSE_TOPIC:
            fields["response_topic"] = value.decode(errors="replace")
        elif name == MQTT_CORRELATION_DATA:
            fields["correlation_data"] = value
    if not fields and not user:
        return NO_PUBLISH_PROPERTIES
    return PublishProperties(**fields, user_properties=tuple(user))


def published_with(will: WillProperties) -> PublishProperties:
    """What a will is published with [MQTT5-3.1.3.2]: its properties but for the delay."""
    return PublishProperties(
        payload_format_indicator=will.payload_format_indicator,
        message_expiry_interval_s=will.message_expiry_interval_s,
        content_type=will.content_type,
        response_topic=will.response_topic,
        correlation_data=will.correlation_data,
        user_properties=will.user_properties,
    )
