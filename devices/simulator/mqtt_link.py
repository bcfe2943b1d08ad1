"""MQTT 3.1.1, QoS 1, one device a client: client id = device id, clean session 0.

A packet id is made from the reading's sequence number alone, so that a resend carries the id it had before on
whichever connection [MQTT-4.4.0-1], and a PUBACK leads back to its reading without a table. The outbox keeps pending
numbers closer together than there are packet ids.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from devices.simulator.link import Link, PeerError, Timing
from devices.simulator.outbox import Outbox, Pending
from wire.mqtt.client import ClientConnection
from wire.mqtt.encode import DISCONNECT, PINGREQ, encode_connect, encode_publish
from wire.mqtt.packets import Connect, Publish
from wire.mqtt.reasons import connect_return_code

PACKET_IDS: Final = 65_535
PING_SHARE: Final = 0.5  # of the keep-alive: silence after which the device shows that it is there
PONG_TIMEOUT_S: Final = 20.0


class MqttLink(Link):
    """A device's connection to the MQTT listener."""

    def __init__(self, device_id: str, outbox: Outbox, timing: Timing, on_progress: Callable[[], None]) -> None:
        super().__init__(outbox, timing, on_progress)
        self._device_id = device_id
        self._topic = f"devices/{device_id}/telemetry"
        self._connection = ClientConnection()
        self._writes_seen = 0
        self._quiet_since_s = asyncio.get_running_loop().time()
        self._pings_sent = 0
        self._pinged_at_s = 0.0

    def watch(self, now_s: float) -> None:
        """Beside what every link watches: keep the connection alive while there is nothing to say [MQTT-3.1.2-23]."""
        super().watch(now_s)
        if self._connection.pings_answered < self._pings_sent:
            if now_s - self._pinged_at_s >= PONG_TIMEOUT_S:
                self.fail(f"no PINGRESP within {PONG_TIMEOUT_S:g} s")
        elif self._writes != self._writes_seen:
            self._writes_seen, self._quiet_since_s = self._writes, now_s
        elif now_s - self._quiet_since_s >= self._timing.keep_alive_s * PING_SHARE:
            self._pings_sent += 1
            self._pinged_at_s = now_s
            self._write(PINGREQ)

    def _greet(self) -> None:
        connect = Connect(client_id=self._device_id, clean_session=False, keep_alive_s=self._timing.keep_alive_s)
        self._write(encode_connect(connect))

    def _farewell(self) -> bytes:
        return DISCONNECT

    def _encode(self, pending: Pending, *, again: bool) -> bytes:
        packet_id = _packet_id(pending.seq)
        return encode_publish(
            Publish(topic=self._topic, payload=pending.body, qos=1, dup=again, packet_id=packet_id)  # [MQTT-3.3.1-1]
        )

    def _receive(self, data: bytes) -> None:
        connection = self._connection
        packet_ids = connection.receive(data)
        if connection.connack is not None and not connection.accepted:
            reason = connection.connack.reason_code
            code = connect_return_code(reason)
            raise PeerError(f"refused with CONNACK {code}, {reason.name.lower().replace('_', ' ')}")
        if connection.accepted:
            self._up()
        for packet_id in packet_ids:
            self._acked(packet_id)

    def _acked(self, packet_id: int) -> None:
        oldest = self._outbox.oldest
        seq = oldest + (packet_id - _packet_id(oldest)) % PACKET_IDS
        if not self._outbox.ack(seq):
            raise PeerError(f"a PUBACK for packet id {packet_id}, which is not in use")


def _packet_id(seq: int) -> int:
    """1 to 65,535 [MQTT-2.3.1-1]."""
    return (seq - 1) % PACKET_IDS + 1
