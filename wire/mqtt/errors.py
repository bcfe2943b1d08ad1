"""What can be wrong with what a client sends: one small tree, each error with the spec clause that it breaks.

MQTT 3.1.1 answers all of them by closing the network connection [MQTT-4.8.0-1]; there is nothing to reply, except
to a CONNECT of another protocol level.
"""

from __future__ import annotations

from typing import ClassVar

from core.errors import HeadraceError


class ProtocolError(HeadraceError):
    """The client did what the protocol forbids at this point; the connection must be closed.

    `clause` is the normative statement ("MQTT-3.1.0-2") or, where the specification numbers none, the section.
    `offset` counts from the first byte of the packet. `reason` is a short label for metrics.
    """

    code = "mqtt.protocol"
    http_status = 400
    reason: ClassVar[str] = "protocol"

    def __init__(self, clause: str, what: str, *, offset: int | None = None, mend: str = "") -> None:
        where = f"[{clause}]" if offset is None else f"[{clause}] byte {offset} of the packet"
        super().__init__(what, where=where, mend=mend)
        self.clause = clause
        self.offset = offset


class MalformedPacketError(ProtocolError):
    """A packet that cannot be read as its type says."""

    code = "mqtt.malformed"
    reason = "malformed"


class PacketTooLargeError(ProtocolError):
    """A packet announces more bytes than the listener accepts; none of it is kept."""

    code = "mqtt.too-large"
    http_status = 413
    reason = "too-large"


class UnacceptableLevelError(ProtocolError):
    """A CONNECT of another version of the protocol: answered with CONNACK 0x01, then closed [MQTT-3.1.2-2]."""

    code = "mqtt.protocol-level"
    reason = "protocol-level"


class NotOfferedError(ProtocolError):
    """Correct MQTT that this server does not offer, where the protocol has no other answer than to close."""

    code = "mqtt.not-offered"
    http_status = 501
    reason = "not-offered"


class TopicRefusedError(ProtocolError):
    """The shell has no place for publishes to this MQTT topic from this client [MQTT-3.3.5-2]."""

    code = "mqtt.topic-refused"
    http_status = 403
    reason = "topic-refused"
