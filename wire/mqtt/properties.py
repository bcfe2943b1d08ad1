"""The properties of MQTT 5.0 as values: one class per packet that carries them, section 2.2.2.2.

`None` (and an empty tuple) means that the property is absent; what absence means stands at the property. Each class has
one shared instance without any property, which is what a packet has unless it is told otherwise: such packets cost
nothing more than those of 3.1.1. Which numbers and types the properties have is in `wire.mqtt.property_codec`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

UserProperties = tuple[tuple[str, str], ...]
"""Names and values, in the order of the packet; a name may come more than once. The packet's size bounds them."""

NEVER_EXPIRES_S: Final = 0xFFFF_FFFF
"""As a session expiry interval: the session is kept until the client ends it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectProperties:
    """Section 3.1.2.11. Absent: session expiry 0, receive maximum 65,535, no limit of packet size, no topic aliases,
    no response information, problem information wanted.
    """

    session_expiry_interval_s: int | None = None
    receive_maximum: int | None = None
    maximum_packet_size_bytes: int | None = None
    topic_alias_maximum: int | None = None
    request_response_information: bool | None = None
    request_problem_information: bool | None = None
    authentication_method: str | None = None
    authentication_data: bytes | None = field(default=None, repr=False)
    user_properties: UserProperties = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WillProperties:
    """Section 3.1.3.2: those of the PUBLISH that a will becomes, and how long to wait with it (absent: 0 s)."""

    will_delay_interval_s: int | None = None
    payload_format_indicator: bool | None = None
    message_expiry_interval_s: int | None = None
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    user_properties: UserProperties = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnAckProperties:
    """Section 3.2.2.3. Absent: session expiry and keep alive as the client asked, receive maximum 65,535, QoS 2, no
    limit of packet size, no topic aliases; retain and all kinds of subscriptions are available.
    """

    session_expiry_interval_s: int | None = None
    receive_maximum: int | None = None
    maximum_qos: int | None = None
    retain_available: bool | None = None
    maximum_packet_size_bytes: int | None = None
    assigned_client_identifier: str | None = None
    topic_alias_maximum: int | None = None
    reason_string: str | None = None
    wildcard_subscription_available: bool | None = None
    subscription_identifier_available: bool | None = None
    shared_subscription_available: bool | None = None
    server_keep_alive_s: int | None = None
    response_information: str | None = None
    server_reference: str | None = None
    authentication_method: str | None = None
    authentication_data: bytes | None = field(default=None, repr=False)
    user_properties: UserProperties = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishProperties:
    """Section 3.3.2.3. `payload_format_indicator`: the payload is UTF-8 text. Without an expiry a message is kept.

    Only a server sends subscription identifiers, one for each subscription that the message matched [MQTT5-3.3.4-6].
    """

    payload_format_indicator: bool | None = None
    message_expiry_interval_s: int | None = None
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    subscription_identifiers: tuple[int, ...] = ()
    topic_alias: int | None = None
    user_properties: UserProperties = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AckProperties:
    """Those of PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK and UNSUBACK: text for people, never for programs."""

    reason_string: str | None = None
    user_properties: UserProperties = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscribeProperties:
    """Section 3.8.2.1: the identifier comes back with every message of the packet's subscriptions."""

    subscription_identifier: int | None = None
    user_properties: UserProperties = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsubscribeProperties:
    """Section 3.10.2.1."""

    user_properties: UserProperties = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DisconnectProperties:
    """Section 3.14.2.2. Only a client may send a session expiry (absent: as in its CONNECT) [MQTT5-3.14.2-2]."""

    session_expiry_interval_s: int | None = None
    reason_string: str | None = None
    server_reference: str | None = None
    user_properties: UserProperties = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthProperties:
    """Section 3.15.2.2. Data never comes without a method."""

    authentication_method: str | None = None
    authentication_data: bytes | None = field(default=None, repr=False)
    reason_string: str | None = None
    user_properties: UserProperties = ()


NO_CONNECT_PROPERTIES: Final = ConnectProperties()
NO_WILL_PROPERTIES: Final = WillProperties()
NO_CONNACK_PROPERTIES: Final = ConnAckProperties()
NO_PUBLISH_PROPERTIES: Final = PublishProperties()
NO_ACK_PROPERTIES: Final = AckProperties()
NO_SUBSCRIBE_PROPERTIES: Final = SubscribeProperties()
NO_UNSUBSCRIBE_PROPERTIES: Final = UnsubscribeProperties()
NO_DISCONNECT_PROPERTIES: Final = DisconnectProperties()
NO_AUTH_PROPERTIES: Final = AuthProperties()
