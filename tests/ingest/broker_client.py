"""A scripted MQTT client of both versions over a real socket: it says what it is told to and reads packet by packet."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

from tests.ingest.edge_box import Client, EdgeBox
from wire.mqtt.clauses import LEVEL_3_1_1, LEVEL_5
from wire.mqtt.decode import decode_packet
from wire.mqtt.encode import encode_packet
from wire.mqtt.fields import decode_remaining_length
from wire.mqtt.packets import (
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    TopicSubscription,
    UnsubAck,
    Unsubscribe,
    Will,
)
from wire.mqtt.properties import (
    ConnectProperties,
    DisconnectProperties,
    PublishProperties,
    SubscribeProperties,
    UserProperties,
)
from wire.mqtt.reasons import ReasonCode

LEVELS = (LEVEL_3_1_1, LEVEL_5)
P = TypeVar("P")
_READ_BYTES = 256 << 10
_PATIENCE_S = 10


class MqttClient(Client):
    """One connection. What arrives is read only when it is asked for."""

    level: int
    connack: ConnAck

    @classmethod
    async def open(
        cls,
        box: EdgeBox,
        client_id: str = "c",
        level: int = LEVEL_5,
        *,
        keep: bool = False,
        will: Will | None = None,
        keep_alive_s: int = 0,
        username: str | None = None,
        **properties: Any,
    ) -> MqttClient:
        """Connected and accepted. `keep`: resume the session and keep it after the connection (5.0: for an hour)."""
        client = await cls.dial(box, level)
        await client.hello(client_id, keep=keep, will=will, keep_alive_s=keep_alive_s, username=username, **properties)
        assert client.connack.reason_code is ReasonCode.SUCCESS, client.connack
        return client

    @classmethod
    async def dial(cls, box: EdgeBox, level: int = LEVEL_5) -> MqttClient:
        """A connection on which nothing was said yet."""
        client = await cls.connect(box.mqtt_port)
        client.level = level
        client._received = bytearray()
        client._next_id = 0
        return client

    def connect_packet(
        self, client_id: str, *, keep: bool = False, clean: bool | None = None, **options: Any
    ) -> Connect:
        """A CONNECT; options that `Connect` does not know are properties."""
        fields = {
            name: options.pop(name) for name in ("will", "keep_alive_s", "username", "password") if name in options
        }
        if self.level == LEVEL_5 and keep:
            options.setdefault("session_expiry_interval_s", 3600)
        return Connect(
            client_id=client_id,
            clean_session=not keep if clean is None else clean,
            protocol_level=self.level,
            properties=ConnectProperties(**options),
            **fields,
        )

    async def hello(self, client_id: str, **options: Any) -> ConnAck:
        self.put(self.connect_packet(client_id, **options))
        self.connack = await self.take(ConnAck)
        return self.connack

    def put(self, *packets: Packet) -> None:
        """Send packets in one chunk."""
        self.send(b"".join(encode_packet(packet, self.level) for packet in packets))

    # -- reading

    async def packet(self) -> Packet:
        """The next packet."""
        while (packet := self._whole()) is None:
            data = await asyncio.wait_for(self._reader.read(_READ_BYTES), _PATIENCE_S)
            assert data, f"the connection was closed, behind {bytes(self._received)!r}"
            self._received += data
        return decode_packet(packet, self.level)

    async def take(self, kind: type[P]) -> P:
        """The next packet, which is of this kind."""
        packet = await self.packet()
        assert isinstance(packet, kind), packet
        return packet

    async def messages(self, count: int, *, ack: bool = True) -> list[Publish]:
        """The next messages; answered unless `ack` is false."""
        found: list[Publish] = []
        while len(found) < count:
            packet = await self.packet()
            if isinstance(packet, PubRel):
                self.put(PubComp(packet_id=packet.packet_id))
                continue
            assert isinstance(packet, Publish), packet
            found.append(packet)
            if ack:
                self.answer(packet)
        return found

    async def message(self, *, ack: bool = True) -> Publish:
        (message,) = await self.messages(1, ack=ack)
        return message

    def answer(self, message: Publish) -> None:
        """PUBACK or PUBREC."""
        if message.qos:
            assert message.packet_id is not None
            answer: type[PubAck] | type[PubRec] = PubAck if message.qos == 1 else PubRec
            self.put(answer(packet_id=message.packet_id))

    async def complete(self, message: Publish) -> None:
        """Answer a message until nothing of it is left."""
        self.answer(message)
        if message.qos == 2:
            released = await self.take(PubRel)
            assert released.packet_id == message.packet_id
            self.put(PubComp(packet_id=released.packet_id))

    async def hears_nothing(self) -> None:
        """Nothing has been sent before the answer to what is asked now."""
        self.put(PingReq())
        await self.take(PingResp)

    async def told_goodbye(self) -> ReasonCode | None:
        """Why the box closes the connection, as the next packet; None where it just closes (3.1.1)."""
        rest = bytes(self._received) + await self.rest()
        if not rest:
            return None
        packet = decode_packet(rest, self.level)
        assert isinstance(packet, Disconnect), packet
        return packet.reason_code

    # -- saying

    async def publish(
        self,
        topic: str,
        payload: bytes = b"1",
        qos: int = 1,
        *,
        retain: bool = False,
        packet_id: int | None = None,
        user: UserProperties = (),
        **properties: Any,
    ) -> ReasonCode:
        """Publish, and go through the whole exchange; returns the first answer's reason."""
        number = packet_id if packet_id is not None else self._new_id() if qos else None
        self.put(
            Publish(
                topic=topic,
                payload=payload,
                qos=qos,
                retain=retain,
                packet_id=number,
                properties=PublishProperties(user_properties=user, **properties),
            )
        )
        if not qos:
            await self.hears_nothing()
            return ReasonCode.SUCCESS
        answer = await self.take(PubAck if qos == 1 else PubRec)
        assert answer.packet_id == number
        if qos == 2 and not answer.reason_code.failed:
            assert number is not None
            self.put(PubRel(packet_id=number))
            assert (await self.take(PubComp)).packet_id == number
        return answer.reason_code

    async def subscribe(
        self, *filters: str, qos: int = 1, identifier: int | None = None, **options: Any
    ) -> Sequence[ReasonCode]:
        """Subscribe to filters with the same options; nothing is to come before the answer."""
        wanted = tuple(TopicSubscription(filter=one, qos=qos, **options) for one in filters)
        self.put(self.subscribe_packet(*wanted, identifier=identifier))
        return (await self.take(SubAck)).reason_codes

    def subscribe_packet(self, *wanted: TopicSubscription, identifier: int | None = None) -> Subscribe:
        properties = SubscribeProperties(subscription_identifier=identifier)
        return Subscribe(packet_id=self._new_id(), subscriptions=wanted, properties=properties)

    async def unsubscribe(self, *filters: str) -> Sequence[ReasonCode]:
        self.put(Unsubscribe(packet_id=self._new_id(), filters=filters))
        return (await self.take(UnsubAck)).reason_codes

    async def disconnect(self, reason: ReasonCode = ReasonCode.NORMAL_DISCONNECTION, **properties: Any) -> None:
        """DISCONNECT, and wait until the box has closed."""
        self.put(Disconnect(reason_code=reason, properties=DisconnectProperties(**properties)))
        await self.rest()

    # -- within

    def _new_id(self) -> int:
        self._next_id = self._next_id % 65_535 + 1
        return self._next_id

    def _whole(self) -> bytes | None:
        received = self._received
        if len(received) < 2:
            return None
        header = decode_remaining_length(bytes(received[:5]), 1)
        if header is None or len(received) < header[0] + header[1]:
            return None
        packet = bytes(received[: header[0] + header[1]])
        del received[: len(packet)]
        return packet


def payloads(messages: Sequence[Publish]) -> list[bytes]:
    return [message.payload for message in messages]
