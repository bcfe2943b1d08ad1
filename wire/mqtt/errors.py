"""What can be wrong with what the other side sends: one small tree, each error with the clause that it breaks.

Clauses of 3.1.1 are written "MQTT-3.1.2-3", those of 5.0 "MQTT5-3.1.2-3": the same number means different things.

MQTT 3.1.1 answers all of them by closing the network connection [MQTT-4.8.0-1]; there is nothing to reply, except
to a CONNECT of another protocol level. 5.0 says why before it closes, with the error's `reason_code` in a CONNACK or a
DISCONNECT [MQTT5-4.13.1-1]: each class has one, and an error may carry a more exact one.
"""

from __future__ import annotations

from typing import ClassVar

from core.errors import HeadraceError
from wire.mqtt.reasons import ReasonCode


class ProtocolError(HeadraceError):
    """The other side did what the protocol forbids at this point; the connection must be closed.

    `clause` is the normative statement ("MQTT-3.1.0-2") or, where the specification numbers none, the section.
    `offset` counts from the first byte of the packet; `packet` is the name of its type, set by who reads the stream.
    `reason` is a short label for metrics. `reason_code` is what a 5.0 server says before it closes.
    """

    code = "mqtt.protocol"
    http_status = 400
    reason: ClassVar[str] = "protocol"
    usual_reason_code: ClassVar[ReasonCode] = ReasonCode.PROTOCOL_ERROR
    told_at_the_end: ClassVar[bool] = False
    """The shell sends the DISCONNECT: answers come before it, and nothing may behind it [MQTT5-3.14.4-1]."""

    def __init__(
        self,
        clause: str,
        what: str,
        *,
        offset: int | None = None,
        mend: str = "",
        reason_code: ReasonCode | None = None,
    ) -> None:
        where = f"[{clause}]" if offset is None else f"[{clause}] byte {offset} of the packet"
        super().__init__(what, where=where, mend=mend)
        self.clause = clause
        self.offset = offset
        self.packet = ""
        self.reason_code = self.usual_reason_code if reason_code is None else reason_code


class MalformedPacketError(ProtocolError):
    """A packet that cannot be read as its type says."""

    code = "mqtt.malformed"
    reason = "malformed"
    usual_reason_code = ReasonCode.MALFORMED_PACKET


class PacketTooLargeError(ProtocolError):
    """A packet announces more bytes than the listener accepts; none of it is kept."""

    code = "mqtt.too-large"
    http_status = 413
    reason = "too-large"
    usual_reason_code = ReasonCode.PACKET_TOO_LARGE


class UnacceptableLevelError(ProtocolError):
    """A CONNECT of a version that is not offered: answered with CONNACK, then closed [MQTT-3.1.2-2] [MQTT5-3.1.2-2].

    `answer_level` is the version in which the client can be expected to read that CONNACK: 0x01 in 3.1.1, for 3.1 and
    3.1.1 clients (a bridge's level 0x84 among them), 0x84 in 5.0 for everything newer.
    """

    code = "mqtt.protocol-level"
    reason = "protocol-level"
    usual_reason_code = ReasonCode.UNSUPPORTED_PROTOCOL_VERSION

    def __init__(self, clause: str, what: str, *, level: int, offset: int | None = None, mend: str = "") -> None:
        super().__init__(clause, what, offset=offset, mend=mend)
        self.answer_level = 4 if level & 0x7F < 5 else 5


class PublishRefusedError(ProtocolError):
    """The server does not take publishes to this MQTT topic from this client.

    5.0 has an answer for QoS 1 and 2, a PUBACK or PUBREC with the reason; 3.1.1 has none but to close the connection,
    since the acknowledgement that it allows instead would say that the message is taken [MQTT-3.3.5-2].
    """

    code = "mqtt.publish-refused"
    http_status = 403
    reason = "publish-refused"
    usual_reason_code = ReasonCode.NOT_AUTHORIZED

    def __init__(self, topic: str, what: str, *, mend: str = "", reason_code: ReasonCode | None = None) -> None:
        super().__init__("MQTT-3.3.5-2", what, mend=mend, reason_code=reason_code)
        self.topic = topic
