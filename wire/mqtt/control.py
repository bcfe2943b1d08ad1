"""Every packet but PUBLISH and plain PUBACKs, as the server takes them: the state machine of one connection.

A connection is in one of the states of `State`. `_HANDLERS` says which packet types each state takes and what they
do; a type that is not there is a protocol error, whose clause `_FORBIDDEN` names. `_handler_for` needs the first byte
alone, so a stream can be refused before its packet is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NoReturn, TypeVar

from wire.mqtt.clauses import LEVEL_3_1_1, LEVEL_5
from wire.mqtt.decode import DECODERS, check_flags, decode_publish
from wire.mqtt.decode_connect import decode_connect
from wire.mqtt.encode import PINGRESP, encode_packet
from wire.mqtt.errors import ProtocolError, UnacceptableLevelError
from wire.mqtt.events import (
    Completed,
    Connected,
    Decisions,
    Disconnected,
    Event,
    Received,
    Refused,
    State,
    Subscribed,
    Unsubscribed,
)
from wire.mqtt.fitting import encode_fitting
from wire.mqtt.packets import (
    MAX_REMAINING_LENGTH,
    ConnAck,
    Disconnect,
    PubAck,
    PubComp,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
)
from wire.mqtt.reasons import PacketType, ReasonCode, connect_return_code
from wire.mqtt.sides import check_from_client

_P = TypeVar("_P")
_Limited = TypeVar("_Limited", ConnAck, SubAck, UnsubAck)
_UNLIMITED_BYTES: Final = MAX_REMAINING_LENGTH + 5  # the largest packet that there is


class ControlPackets:
    """State, answers and events of one connection; the base of ServerConnection, which adds the stream and PUBLISH.

    `unusual` is set by whatever the next chunk must not pass by: answers and events to put away, an incomplete
    packet, the end.
    """

    __slots__ = (
        "_decisions",
        "_inherited_ids",
        "_max_answer_bytes",
        "_over",
        "_state",
        "events",
        "level",
        "out",
        "pubacks",
        "received_ids",
        "released",
        "unknown_releases",
        "unusual",
    )

    level: int
    """The protocol level of the connection: 4 is 3.1.1, 5 is 5.0; 4 before CONNECT."""
    unusual: bool
    """The last chunk left something besides `acks`, `taken` and `size_bytes`, or an incomplete packet."""
    out: bytearray
    """Answers to the last chunk that need not wait for a commit of their own."""
    events: list[Event]
    """What else happened in the last chunk."""
    pubacks: list[int]
    """Packet identifiers of what was sent to the client with QoS 1 and is acknowledged in the last chunk."""
    received_ids: set[int] | None
    """Packet identifiers of QoS 2 publishes that were taken and not yet released [MQTT-4.3.3-2]; None: never any.

    They belong to the session: a shell that resumes one sets them when it accepts the CONNECT.
    """
    released: list[int]
    """Those that were released in the last chunk; their PUBCOMPs are in the answers that wait for a commit."""

    unknown_releases: int
    """PUBRELs so far of what was not to be released, answered with 0x92 in 5.0."""

    def __init__(self, decisions: Decisions) -> None:
        self._decisions = decisions
        self._inherited_ids: set[int] = set()
        self._max_answer_bytes = _UNLIMITED_BYTES
        self._state = State.AWAITING_CONNECT
        self._over = False
        self.unusual = False
        self.level = LEVEL_3_1_1
        self.out = bytearray()
        self.events = []
        self.pubacks = []
        self.received_ids = None
        self.released = []
        self.unknown_releases = 0

    @property
    def state(self) -> State:
        """Where the connection stands."""
        return self._state

    @property
    def over(self) -> bool:
        """Nothing more will be taken: send `out`, commit what was taken, close."""
        return self._over

    def _end(self, state: State) -> None:
        self._state = state
        self._over = self.unusual = True

    def _say_why(self, error: ProtocolError) -> None:
        """5.0 tells the client before the connection closes [MQTT5-4.13.1-1]; 3.1.1 just closes [MQTT-4.8.0-1].

        Not before an accepting CONNACK [MQTT5-3.14.0-1].
        """
        if self.level == LEVEL_5 and self._state is State.CONNECTED and not error.told_at_the_end:
            self.out += encode_packet(Disconnect(reason_code=error.reason_code), LEVEL_5)

    def _refuse_more(self, data: bytes) -> None:
        """Bytes behind the last packet: ignored after a refusal [MQTT-3.1.4-5] [MQTT5-3.1.4-6], an error otherwise."""
        if data and self._state is State.DISCONNECTED:
            clause = "MQTT-3.14.4-2" if self.level == LEVEL_3_1_1 else "MQTT5-3.14.4-1"
            self._end(State.FAILED)
            raise ProtocolError(clause, "the client sent more after its DISCONNECT")
        if data and self._state is State.FAILED:
            clause = "MQTT-4.8.0-1" if self.level == LEVEL_3_1_1 else "MQTT5-4.13.1-1"
            raise ProtocolError(clause, "the connection has failed and takes nothing more")

    def _handler_for(self, head: int) -> tuple[PacketType, _Handler]:
        """The type in a packet's first byte and what this state does with it; raises if that is nothing."""
        packet_type = check_flags(head, self.level)
        handler = _HANDLERS[self._state].get(packet_type)
        if handler is None:
            clauses, what = _FORBIDDEN.get((self._state, packet_type), _FORBIDDEN_OTHERWISE[self._state])
            raise ProtocolError(clauses[self.level], f"{what} ({packet_type.name})", offset=0)
        return packet_type, handler

    def _control(self, packet: bytes, body: int) -> None:
        self.unusual = True  # whatever comes of it: an answer, an event, the end
        _, handler = self._handler_for(packet[0])
        handler(self, packet, body)

    def _refuse_publish(self, packet: bytes, body: int) -> NoReturn:
        """Raise what is wrong with a PUBLISH that the loop found not to fit."""
        publish = decode_publish(packet, body, self.level)
        raise AssertionError(f"the loop and the decoder disagree about {publish}")

    # -- CONNECT and DISCONNECT

    def _on_connect_packet(self, packet: bytes, body: int) -> None:
        try:
            connect = decode_connect(packet, body)
        except UnacceptableLevelError as error:
            self.level = error.answer_level
            self._refuse(ConnAck(reason_code=error.reason_code), str(error))  # [MQTT-3.1.2-2] [MQTT5-3.1.2-2]
            return
        except ProtocolError as error:
            if error.clause.startswith("MQTT5-"):  # the client said 5.0 before it went wrong: it can be told
                self.level = LEVEL_5
                self.out += encode_packet(ConnAck(reason_code=error.reason_code), LEVEL_5)
            raise  # [MQTT-3.1.4-1] [MQTT5-3.1.4-1]
        self.level = connect.protocol_level
        self._max_answer_bytes = connect.properties.maximum_packet_size_bytes or _UNLIMITED_BYTES
        if self.level == LEVEL_3_1_1 and not connect.client_id and not connect.clean_session:
            what = "[MQTT-3.1.3-7] an empty client identifier without clean session"
            self._refuse(ConnAck(reason_code=ReasonCode.CLIENT_IDENTIFIER_NOT_VALID), what)  # [MQTT-3.1.3-8]
            return
        connack = self._decisions.connect(connect)
        if connack.reason_code.failed:
            self._refuse(connack, connack.properties.reason_string or "refused by the server")
            return
        self._answer(connack)  # [MQTT-3.1.4-4] [MQTT5-3.1.4-5]
        self.events.append(Connected(connect=connect, connack=connack))
        self._state = State.CONNECTED
        self._accepted(connack)

    def _accepted(self, connack: ConnAck) -> None:
        """The connection is open on these terms."""
        raise NotImplementedError

    def _refuse(self, connack: ConnAck, what: str) -> None:
        """Answer a CONNECT with a reason as far as the version and the client's limit have room for one."""
        reason = connack.reason_code
        if self.level == LEVEL_5:
            self.out += encode_fitting(connack, self._max_answer_bytes) or b""
        elif connect_return_code(reason) is not None:  # otherwise closing says it all [MQTT-3.2.2-6]
            self.out += encode_packet(ConnAck(reason_code=reason), self.level)
        self.events.append(Refused(reason_code=reason, what=what))
        self._end(State.REFUSED)

    def _answer(self, packet: _Limited) -> None:
        """Put an answer into `out` that the client may have limited the size of [MQTT5-3.1.2-24].

        The others are smaller than any CONNACK, as long as they are sent without properties: who got that takes them.
        """
        if self.level == LEVEL_3_1_1:
            self.out += encode_packet(packet, self.level)
            return
        encoded = encode_fitting(packet, self._max_answer_bytes)
        if encoded is None:
            what = f"no {type(packet).__name__.upper()} is as small as the client's {self._max_answer_bytes} bytes"
            mend = "raise the client's Maximum Packet Size"
            raise ProtocolError("MQTT5-3.1.2-24", what, mend=mend, reason_code=ReasonCode.PACKET_TOO_LARGE)
        self.out += encoded

    def _on_disconnect(self, packet: bytes, body: int) -> None:
        disconnect = self._decoded(Disconnect, packet, body)
        check_from_client(disconnect)  # [MQTT5-3.14.2-1]
        self.events.append(Disconnected(disconnect=disconnect))
        self._end(State.DISCONNECTED)

    def _on_pingreq(self, packet: bytes, body: int) -> None:
        DECODERS[PacketType.PINGREQ](packet, body, self.level)
        self.out += PINGRESP  # [MQTT-3.12.4-1] [MQTT5-3.12.4-1]

    # -- subscriptions

    def _on_subscribe(self, packet: bytes, body: int) -> None:
        subscribe = self._decoded(Subscribe, packet, body)
        reasons = tuple(self._decisions.subscribe(subscribe))
        # One reason per filter, in their order [MQTT-3.8.4-1] [MQTT-3.8.4-5] [MQTT5-3.8.4-6].
        self._answer(SubAck(packet_id=subscribe.packet_id, reason_codes=reasons))
        self.events.append(Subscribed(subscribe=subscribe, reason_codes=reasons))

    def _on_unsubscribe(self, packet: bytes, body: int) -> None:
        unsubscribe = self._decoded(Unsubscribe, packet, body)
        reasons = tuple(self._decisions.unsubscribe(unsubscribe))
        if self.level == LEVEL_3_1_1:
            reasons = ()  # it has none to send
        # Also where nothing matched [MQTT-3.10.4-5] [MQTT5-3.11.3-1].
        self._answer(UnsubAck(packet_id=unsubscribe.packet_id, reason_codes=reasons))
        self.events.append(Unsubscribed(unsubscribe=unsubscribe))

    # -- what was sent to the client

    def _on_puback(self, packet: bytes, body: int) -> None:
        self.pubacks.append(self._decoded(PubAck, packet, body).packet_id)  # with any reason the delivery is over

    def _on_pubrec(self, packet: bytes, body: int) -> None:
        pubrec = self._decoded(PubRec, packet, body)
        self.events.append(Received(packet_id=pubrec.packet_id, reason_code=pubrec.reason_code))

    def _on_pubcomp(self, packet: bytes, body: int) -> None:
        self.events.append(Completed(packet_id=self._decoded(PubComp, packet, body).packet_id))

    # -- QoS 2 from the client, its second half

    def _on_pubrel(self, packet: bytes, body: int) -> None:
        packet_id = self._decoded(PubRel, packet, body).packet_id
        ids = self.received_ids
        reason = ReasonCode.SUCCESS
        if ids is not None and packet_id in ids:
            ids.discard(packet_id)
            self._inherited_ids.discard(packet_id)
            self.released.append(packet_id)
        elif self.level == LEVEL_5:
            reason = ReasonCode.PACKET_IDENTIFIER_NOT_FOUND
            self.unknown_releases += 1
        # Answered even if it is unknown: the client then forgets it [MQTT-4.3.3-2] [MQTT5-4.3.3-11].
        self._answer_late(encode_packet(PubComp(packet_id=packet_id, reason_code=reason), self.level))

    def _answer_late(self, answer: bytes) -> None:
        """Send an answer once what this chunk did is committed."""
        raise NotImplementedError

    def _decoded(self, kind: type[_P], packet: bytes, body: int) -> _P:
        value = DECODERS[check_flags(packet[0], self.level)](packet, body, self.level)
        assert isinstance(value, kind)  # the table of handlers and that of decoders are keyed by the same type
        return value


_Handler = Callable[[ControlPackets, bytes, int], None]

_HANDLERS: Final[Mapping[State, Mapping[PacketType, _Handler]]] = {
    State.AWAITING_CONNECT: {PacketType.CONNECT: ControlPackets._on_connect_packet},
    State.CONNECTED: {
        PacketType.PUBLISH: ControlPackets._refuse_publish,
        PacketType.PUBACK: ControlPackets._on_puback,
        PacketType.PUBREC: ControlPackets._on_pubrec,
        PacketType.PUBREL: ControlPackets._on_pubrel,
        PacketType.PUBCOMP: ControlPackets._on_pubcomp,
        PacketType.SUBSCRIBE: ControlPackets._on_subscribe,
        PacketType.UNSUBSCRIBE: ControlPackets._on_unsubscribe,
        PacketType.PINGREQ: ControlPackets._on_pingreq,
        PacketType.DISCONNECT: ControlPackets._on_disconnect,
    },
}
_FORBIDDEN: Final = {
    (State.CONNECTED, PacketType.CONNECT): (
        {LEVEL_3_1_1: "MQTT-3.1.0-2", LEVEL_5: "MQTT5-3.1.0-2"},
        "a second CONNECT",
    ),
    (State.CONNECTED, PacketType.AUTH): (
        {LEVEL_5: "MQTT5-4.12.0-7"},  # who names a method in its CONNECT is refused there [MQTT5-4.12.0-1]
        "no authentication method was agreed upon",
    ),
}
_FORBIDDEN_OTHERWISE: Final = {
    State.AWAITING_CONNECT: ({LEVEL_3_1_1: "MQTT-3.1.0-1"}, "the first packet is not a CONNECT"),
    State.CONNECTED: (
        {LEVEL_3_1_1: "MQTT-2.2.1", LEVEL_5: "MQTT5-2.1.2"},
        "a packet that only a server may send",
    ),
}
