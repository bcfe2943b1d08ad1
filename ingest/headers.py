"""Names of the record headers that listeners write (docs/formats.md)."""

from __future__ import annotations

from typing import Final

MQTT_TOPIC: Final = "mqtt.topic"
MQTT_QOS: Final = "mqtt.qos"  # only when it is not 1
MQTT_RETAIN: Final = "mqtt.retain"  # only on retained messages
MQTT_DUP: Final = "mqtt.dup"  # only where the client marked a resend
DEVICE: Final = "headrace.device"  # only when the key is not the device id; empty: the record has no device
FIELD: Final = "headrace.field"  # only when the route names the column of a scalar payload

# What an MQTT 5.0 publisher said besides, each only when it did.
MQTT_PAYLOAD_FORMAT: Final = "mqtt.payload_format"  # 1: the payload is UTF-8 text
MQTT_EXPIRY: Final = "mqtt.expiry"  # seconds after the time received for which it is worth delivering
MQTT_CONTENT_TYPE: Final = "mqtt.content_type"
MQTT_RESPONSE_TOPIC: Final = "mqtt.response_topic"
MQTT_CORRELATION_DATA: Final = "mqtt.correlation_data"
MQTT_USER_PREFIX: Final = "mqtt.user."  # and the user property's name; may stand more than once
