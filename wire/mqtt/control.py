"""Every packet but PUBLISH, as the server takes them: the state machine of one connection.

A connection is in one of the states of `State`. `_HANDLERS` says which packet types each state takes and what they
do; a type that is not there is a protocol error, whose clause `_FORBIDDEN` names. `_handler_for` needs the first byte
alone, so a stream can be refused before its packet is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NoReturn

from wire.mqtt.clauses import LEVEL_3_1_1
from wire.mqtt.decode import (
    check_flags,
    decode_empty,
    decode_publish,
    decode_subscribe,
    decode_unsubscribe,
)
from wire.mqtt.decode_acks import decode_packet_id
from wire.mqtt.decode_connect import decode_connect
from wire.mqtt.encode import PINGRESP, encode_acknowledgement, encode_connack, encode_suback
from wire.mqtt.errors import NotOfferedError, ProtocolError, UnacceptableLevelError
from wire.mqtt.events import Connected, Disconnected, Event, OnConnect, Refused, State, SubscriptionsRefused
from wire.mqtt.packets import (
    FLAG_QOS_2,
    ConnAck,
    PacketType,
    PubComp,
    SubAck,
    UnsubAck,
)
from wire.mqtt.reasons import ReasonCode


class ControlPackets:
    """State, answers and events of one connection; the base of ServerConnection, which adds the stream and PUBLISH.

    `_unusual` is set by whatever the next chunk must not pass by: answers and events to put away, an incomplete
    packet, the end.
    """

    __slots__ = ("_on_connect", "_over", "_state", "_unusual", "events", "out")

    out: bytearray
    """What to send at once for the last chunk."""
    events: list[Event]
    """What else happened in the last chunk."""

    def __init__(self, on_connect: OnConnect) -> None:
        self._on_connect = on_connect
        self._state = State.AWAITING_CONNECT
        self._over = False
        self._unusual = False
        self.out = bytearray()
        self.events = []

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
        self._over = self._unusual = True

    def _refuse_more(self, data: bytes) -> None:
        """Bytes behind the last packet: ignored after a refusal [MQTT-3.1.4-5], an error otherwise."""
        if data and self._state is State.DISCONNECTED:
            self._end(State.FAILED)
            raise ProtocolError("MQTT-3.14.4-2", "the client sent more after its DISCONNECT")
        if data and self._state is State.FAILED:
            raise ProtocolError("MQTT-4.8.0-1", "the connection has failed and takes nothing more")

    def _handler_for(self, head: int) -> tuple[PacketType, _Handler]:
        """The type in a packet's first byte and what this state does with it; raises if that is nothing."""
        packet_type = check_flags(head)
        handler = _HANDLERS[self._state].get(packet_type)
        if handler is None:
            clause, what = _FORBIDDEN.get((self._state, packet_type), _FORBIDDEN_OTHERWISE[self._state])
            raise ProtocolError(clause, f"{what} ({packet_type.name})", offset=0)
        if packet_type is PacketType.PUBLISH and head & FLAG_QOS_2:
            raise NotOfferedError(
                "MQTT-4.3.3", "QoS 2 is not offered", offset=0, mend="let the client publish with QoS 1"
            )
        return packet_type, handler

    def _control(self, packet: bytes, body: int) -> None:
        self._unusual = True  # whatever comes of it: `out`, an event, the end
        _, handler = self._handler_for(packet[0])
        handler(self, packet, body)

    def _refuse_publish(self, packet: bytes, body: int) -> NoReturn:
        """Raise what is wrong with a PUBLISH that the loop found not to fit."""
        publish = decode_publish(packet, body)
        raise AssertionError(f"the loop and the decoder disagree about {publish}")

    def _on_connect_packet(self, packet: bytes, body: int) -> None:
        try:
            connect = decode_connect(packet, body, offered=(LEVEL_3_1_1,))
        except UnacceptableLevelError as error:
            self._refuse(ReasonCode.UNSUPPORTED_PROTOCOL_VERSION, str(error))  # [MQTT-3.1.2-2]
            return
        if not connect.client_id and not connect.clean_session:
            what = "[MQTT-3.1.3-7] an empty client identifier without clean session"
            self._refuse(ReasonCode.CLIENT_IDENTIFIER_NOT_VALID, what)  # [MQTT-3.1.3-8]
            return
        connack = self._on_connect(connect)
        if connack.reason_code is not ReasonCode.SUCCESS:
            self._refuse(connack.reason_code, "refused by the server")
            return
        self.out += encode_connack(connack)  # [MQTT-3.1.4-4]
        self.events.append(Connected(connect=connect))
        self._state = State.CONNECTED

    def _refuse(self, reason_code: ReasonCode, what: str) -> None:
        self.out += encode_connack(ConnAck(reason_code=reason_code))
        self.events.append(Refused(reason_code=reason_code, what=what))
        self._end(State.REFUSED)

    def _on_subscribe(self, packet: bytes, body: int) -> None:
        subscribe = decode_subscribe(packet, body)
        failures = (ReasonCode.UNSPECIFIED_ERROR,) * len(subscribe.subscriptions)
        self.out += encode_suback(SubAck(packet_id=subscribe.packet_id, reason_codes=failures))  # [MQTT-3.8.4-1]
        self.events.append(SubscriptionsRefused(subscribe=subscribe))

    def _on_unsubscribe(self, packet: bytes, body: int) -> None:
        unsubscribe = decode_unsubscribe(packet, body)
        self.out += encode_acknowledgement(UnsubAck(packet_id=unsubscribe.packet_id))  # [MQTT-3.10.4-5]

    def _on_unasked_acknowledgement(self, packet: bytes, body: int) -> None:
        decode_packet_id(packet, body)  # left over from another server's session: nothing waits for it here

    def _on_pubrel(self, packet: bytes, body: int) -> None:
        # Left over from another server's session; the answer lets the client forget it [MQTT-4.3.3-2].
        self.out += encode_acknowledgement(PubComp(packet_id=decode_packet_id(packet, body)))

    def _on_pingreq(self, packet: bytes, body: int) -> None:
        decode_empty(packet, body)
        self.out += PINGRESP  # [MQTT-3.12.4-1]

    def _on_disconnect(self, packet: bytes, body: int) -> None:
        decode_empty(packet, body)
        self.events.append(Disconnected())
        self._end(State.DISCONNECTED)


_Handler = Callable[[ControlPackets, bytes, int], None]

_HANDLERS: Final[Mapping[State, Mapping[PacketType, _Handler]]] = {
    State.AWAITING_CONNECT: {PacketType.CONNECT: ControlPackets._on_connect_packet},
    State.CONNECTED: {
        PacketType.PUBLISH: ControlPackets._refuse_publish,
        PacketType.PUBACK: ControlPackets._on_unasked_acknowledgement,
        PacketType.PUBREC: ControlPackets._on_unasked_acknowledgement,
        PacketType.PUBREL: ControlPackets._on_pubrel,
        PacketType.PUBCOMP: ControlPackets._on_unasked_acknowledgement,
        PacketType.SUBSCRIBE: ControlPackets._on_subscribe,
        PacketType.UNSUBSCRIBE: ControlPackets._on_unsubscribe,
        PacketType.PINGREQ: ControlPackets._on_pingreq,
        PacketType.DISCONNECT: ControlPackets._on_disconnect,
    },
}
_FORBIDDEN: Final = {(State.CONNECTED, PacketType.CONNECT): ("MQTT-3.1.0-2", "a second CONNECT")}
_FORBIDDEN_OTHERWISE: Final = {
    State.AWAITING_CONNECT: ("MQTT-3.1.0-1", "the first packet is not a CONNECT"),
    State.CONNECTED: ("MQTT-2.2.1", "a packet that only a server may send"),
}
