"""What the same rule is called in the two versions: the clauses that readers of both name.

The constants of a protocol level are here too, since a level is what everything else is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LEVEL_3_1_1: Final = 4
LEVEL_5: Final = 5
LEVELS: Final = (LEVEL_3_1_1, LEVEL_5)
"""The protocol levels that this codec reads and writes. 3 (MQTT 3.1, "MQIsdp") is not one of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clauses:
    """For each rule that both versions have: the normative statement, or the section where none is numbered."""

    utf_8: str
    null: str
    packet_id: str
    length: str  # of the packet: its fields end where the remaining length says
    packet_type: str
    flags: str
    publish_qos: str
    publish_dup: str
    protocol_name: str
    protocol_level: str
    connect_reserved: str
    will_qos_without_will: str
    will_qos: str
    will_retain_without_will: str
    connack_flags: str
    connack_code: str
    connack_session: str
    suback_code: str
    subscribe_empty: str
    subscribe_options: str
    unsubscribe_empty: str
    topic_empty: str
    topic_null: str
    topic_size: str
    topic_wildcard: str
    multi_level: str
    single_level: str


_3_1_1: Final = Clauses(
    utf_8="MQTT-1.5.3-1",
    null="MQTT-1.5.3-2",
    packet_id="MQTT-2.3.1-1",
    length="MQTT-2.2.3",
    packet_type="MQTT-2.2.1",
    flags="MQTT-2.2.2-2",
    publish_qos="MQTT-3.3.1-4",
    publish_dup="MQTT-3.3.1-2",
    protocol_name="MQTT-3.1.2-1",
    protocol_level="MQTT-3.1.2-2",
    connect_reserved="MQTT-3.1.2-3",
    will_qos_without_will="MQTT-3.1.2-13",
    will_qos="MQTT-3.1.2-14",
    will_retain_without_will="MQTT-3.1.2-15",
    connack_flags="MQTT-3.2.2",
    connack_code="MQTT-3.2.2",
    connack_session="MQTT-3.2.2-4",
    suback_code="MQTT-3.9.3-2",
    subscribe_empty="MQTT-3.8.3-3",
    subscribe_options="MQTT-3.8.3-4",
    unsubscribe_empty="MQTT-3.10.3-2",
    topic_empty="MQTT-4.7.3-1",
    topic_null="MQTT-4.7.3-2",
    topic_size="MQTT-4.7.3-3",
    topic_wildcard="MQTT-3.3.2-2",
    multi_level="MQTT-4.7.1-2",
    single_level="MQTT-4.7.1-3",
)
_5: Final = Clauses(
    utf_8="MQTT5-1.5.4-1",
    null="MQTT5-1.5.4-2",
    packet_id="MQTT5-2.2.1-3",
    length="MQTT5-2.1.4",
    packet_type="MQTT5-2.1.2",
    flags="MQTT5-2.1.3-1",
    publish_qos="MQTT5-3.3.1-4",
    publish_dup="MQTT5-3.3.1-2",
    protocol_name="MQTT5-3.1.2-1",
    protocol_level="MQTT5-3.1.2-2",
    connect_reserved="MQTT5-3.1.2-3",
    will_qos_without_will="MQTT5-3.1.2-11",
    will_qos="MQTT5-3.1.2-12",
    will_retain_without_will="MQTT5-3.1.2-13",
    connack_flags="MQTT5-3.2.2-1",
    connack_code="MQTT5-3.2.2-8",
    connack_session="MQTT5-3.2.2-6",
    suback_code="MQTT5-3.9.3-2",
    subscribe_empty="MQTT5-3.8.3-2",
    subscribe_options="MQTT5-3.8.3-5",
    unsubscribe_empty="MQTT5-3.10.3-2",
    topic_empty="MQTT5-4.7.3-1",
    topic_null="MQTT5-4.7.3-2",
    topic_size="MQTT5-4.7.3-3",
    topic_wildcard="MQTT5-3.3.2-2",
    multi_level="MQTT5-4.7.1-1",
    single_level="MQTT5-4.7.1-2",
)
CLAUSES: Final = {LEVEL_3_1_1: _3_1_1, LEVEL_5: _5}
"""By protocol level. A KeyError here is a caller that asks for a level which is not offered."""
