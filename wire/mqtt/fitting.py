"""Answers no larger than their receiver takes, 5.0: what is there for people is left out before the packet is.

A sender must not let a Reason String or a User Property push a packet beyond the receiver's Maximum Packet Size:
[MQTT5-3.2.2-19] [MQTT5-3.2.2-20] [MQTT5-3.4.2-2] [MQTT5-3.4.2-3] and the same for every other answer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from wire.mqtt.clauses import LEVEL_5
from wire.mqtt.encode import encode_packet
from wire.mqtt.packets import Auth, ConnAck, Disconnect, PubAck, PubComp, PubRec, PubRel, SubAck, UnsubAck

_A = TypeVar("_A", ConnAck, PubAck, PubRec, PubRel, PubComp, SubAck, UnsubAck, Disconnect, Auth)


def encode_fitting(packet: _A, max_packet_size_bytes: int) -> bytes | None:
    """The 5.0 packet, without its user properties and then its reason string if that is what makes it too large.

    None if it is too large without them: it must not be sent at all [MQTT5-3.1.2-24].
    """
    encoded = encode_packet(packet, LEVEL_5)
    if len(encoded) <= max_packet_size_bytes:
        return encoded
    for spared in ({"user_properties": ()}, {"user_properties": (), "reason_string": None}):
        encoded = encode_packet(replace(packet, properties=replace(packet.properties, **spared)), LEVEL_5)
        if len(encoded) <= max_packet_size_bytes:
            return encoded
    return None
