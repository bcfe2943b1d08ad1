"""What a CONNECT may ask for, and what its client is told that it gets."""

from __future__ import annotations

from ingest.broker.opening import RefusedError
from ingest.broker.session import MqttSession
from ingest.settings import MqttSettings
from wire.mqtt.packets import Connect
from wire.mqtt.properties import ConnAckProperties
from wire.mqtt.reasons import ReasonCode


def check_lengths(connect: Connect, settings: MqttSettings) -> None:
    """What is kept with a session is bounded. Raises RefusedError."""
    size_bytes = len(connect.client_id.encode())
    if size_bytes > settings.max_client_id_bytes:
        raise RefusedError(
            ReasonCode.CLIENT_IDENTIFIER_NOT_VALID,
            f"a client id of {size_bytes} bytes: mqtt.max_client_id_bytes = {settings.max_client_id_bytes}",
        )
    size_bytes = len((connect.username or "").encode())
    if size_bytes > settings.max_username_bytes:
        raise RefusedError(
            ReasonCode.BAD_USER_NAME_OR_PASSWORD,
            f"a user name of {size_bytes} bytes: mqtt.max_username_bytes = {settings.max_username_bytes}",
        )


def terms(connect: Connect, session: MqttSession, keep_alive_s: float, settings: MqttSettings) -> ConnAckProperties:
    """What a 5.0 client is told, where it differs from what it asked for or from what the protocol assumes."""
    asked_s = connect.properties.session_expiry_interval_s or 0
    return ConnAckProperties(
        session_expiry_interval_s=session.expiry_s if session.expiry_s != asked_s else None,
        receive_maximum=settings.receive_maximum,
        maximum_packet_size_bytes=settings.max_packet_size_bytes,
        assigned_client_identifier=None if connect.client_id else session.client_id,
        topic_alias_maximum=settings.topic_alias_maximum or None,
        server_keep_alive_s=int(keep_alive_s) if connect.keep_alive_s != keep_alive_s else None,
    )
