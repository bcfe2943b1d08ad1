"""What only one side may send: the direction of the packet types, and of what 5.0 lets one side alone say in them.

The decoder reads both directions. Who receives asks here, once the packet is read.
"""

from __future__ import annotations

from typing import Final

from wire.mqtt.errors import ProtocolError
from wire.mqtt.packets import (
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    Publish,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
)
from wire.mqtt.reasons import CLIENT_AUTHS, CLIENT_DISCONNECTS, SERVER_AUTHS, SERVER_DISCONNECTS

_FROM_CLIENT_ALONE: Final = (Connect, Subscribe, Unsubscribe, PingReq)
_FROM_SERVER_ALONE: Final = (ConnAck, SubAck, UnsubAck, PingResp)


def check_from_client(packet: Packet) -> None:
    """Raise ProtocolError for a 5.0 packet that no client may send, or not so."""
    if isinstance(packet, _FROM_SERVER_ALONE):
        raise ProtocolError("MQTT5-2.1.2", f"a {type(packet).__name__} comes from a client", offset=0)
    if isinstance(packet, Publish) and packet.properties.subscription_identifiers:
        raise ProtocolError("MQTT5-3.3.4-6", "a client's PUBLISH has a subscription identifier")
    if isinstance(packet, Disconnect):
        if packet.reason_code not in CLIENT_DISCONNECTS:
            raise ProtocolError("MQTT5-3.14.2-1", f"a client disconnects with {packet.reason_code.name}")
        if packet.properties.server_reference is not None:
            raise ProtocolError("MQTT5-3.14.2.2.5", "a client's DISCONNECT has a server reference")
    if isinstance(packet, Auth) and packet.reason_code not in CLIENT_AUTHS:
        raise ProtocolError("MQTT5-3.15.2-1", f"a client authenticates with {packet.reason_code.name}")


def check_from_server(packet: Packet) -> None:
    """Raise ProtocolError for a 5.0 packet that no server may send, or not so."""
    if isinstance(packet, _FROM_CLIENT_ALONE):
        raise ProtocolError("MQTT5-2.1.2", f"a {type(packet).__name__} comes from a server", offset=0)
    if isinstance(packet, Disconnect):
        if packet.reason_code not in SERVER_DISCONNECTS:
            raise ProtocolError("MQTT5-3.14.2-1", f"a server disconnects with {packet.reason_code.name}")
        if packet.properties.session_expiry_interval_s is not None:
            raise ProtocolError("MQTT5-3.14.2-2", "a server's DISCONNECT has a session expiry")
    if isinstance(packet, Auth) and packet.reason_code not in SERVER_AUTHS:
        raise ProtocolError("MQTT5-3.15.2-1", f"a server authenticates with {packet.reason_code.name}")
