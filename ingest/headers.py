"""Names of the record headers that listeners write (docs/formats.md)."""

from __future__ import annotations

from typing import Final

MQTT_TOPIC: Final = "mqtt.topic"
MQTT_QOS: Final = "mqtt.qos"  # only when it is not 1
MQTT_RETAIN: Final = "mqtt.retain"  # only on retained messages
MQTT_DUP: Final = "mqtt.dup"  # only where the client marked a resend
DEVICE: Final = "headrace.device"  # only when the key is not the device id; empty: the record has no device
FIELD: Final = "headrace.field"  # only when the route names the column of a scalar payload
