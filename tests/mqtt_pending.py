"""Clauses of docs/mqtt_conformance.md without a test, and why: what is not offered cannot be kept or broken.

What only a client can keep or break is not in this list: its rows may stay without a test.
"""

from __future__ import annotations

_NO_AUTH = "enhanced authentication is not offered: who asks for it is refused, and the server never sends an AUTH"

PENDING = {
    "MQTT-7.0.0-1": "the server connects to no other server: it has no bridges",
    "MQTT5-4.12.0-2": _NO_AUTH,
    "MQTT5-4.12.0-5": _NO_AUTH,
}
