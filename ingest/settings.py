"""Settings of the listeners (`[mqtt]`, `[tcp]`) and of routing (`[[routes]]`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from commitlog.durability import DurabilityName
from core.settings import Section, quantity
from core.units import DurationS, SizeBytes

WEBSOCKET_PORT: Final = 8083

Port = Annotated[int, Field(ge=0, le=65535)] | Literal["auto"]
"""A port number; 0 = listener off; `auto` = any free port (the real one stands in `<data>/run/ports.json`)."""


def listener_durability() -> Any:
    """The field that every listener has."""
    return Field(
        None, description="When its records are acknowledged (see `log.durability`, which it is if not given)."
    )


class MqttSettings(Section):
    """The MQTT listener. Every limit is per box unless it says per connection."""

    host: str = Field("127.0.0.1", description="Address to listen on; loopback until credentials exist.")
    port: Port = Field(1883, description="Port; 0 turns the listener off, `auto` takes any free one.")
    websocket_port: Port | None = Field(
        None,
        description="Port for MQTT over WebSocket, at the same address: 8083 if not given, and off or `auto` with "
        "`mqtt.port`.",
    )
    websocket_origins: tuple[str, ...] = Field(
        (),
        max_length=1000,
        description="Web pages that may connect besides those of this machine and of the address that the request is "
        "for, as a browser names them (`https://plant.example`); `*`: any. Others are refused (403). Clients without "
        "an `Origin` header, which are no browsers, may always.",
    )
    unix_socket: Path | None = Field(
        None, description="A unix socket to listen on besides, such as `/run/headrace/mqtt.sock` (at most 100 bytes)."
    )
    unix_socket_mode: str = Field(
        "0660", pattern="^0?[0-7]{3}$", description="Its permissions: who may write to it may connect."
    )
    user_timeout_s: DurationS = quantity(
        "2m",
        alias="user_timeout",
        ge=0,
        le=86_400,
        description="A TCP connection whose other end acknowledges nothing for so long, or takes nothing, is ended; "
        "one that is silent is probed after half of it. `0s`: as the operating system has it. (Linux; elsewhere only "
        "the probes.)",
    )
    max_connections: int = Field(20_000, ge=1, description="Connections at most; further ones are closed at once.")
    max_packet_size_bytes: SizeBytes = quantity(
        "1MB",
        alias="max_packet_size",
        ge=1024,
        le=4 << 20,
        description="Largest packet a client may send; a commit has to hold it (`log.journal_size`).",
    )
    connect_timeout_s: DurationS = quantity(
        "10s", alias="connect_timeout", gt=0, description="Time a new connection has to send its CONNECT."
    )
    packet_timeout_s: DurationS = quantity(
        "10m",
        alias="packet_timeout",
        gt=0,
        description="Time from the first to the last byte of a packet: 1 MB at 2 KB/s.",
    )
    max_client_id_bytes: int = Field(
        1_024, ge=23, le=65_535, description="Longest client id (0x85); it is kept as long as its session."
    )
    max_username_bytes: int = Field(
        1_024, ge=12, le=65_535, description="Longest user name (0x86); it is kept as long as its session."
    )
    max_keep_alive_s: DurationS = quantity(
        "65535s",
        alias="max_keep_alive",
        ge=1,
        le=65_535,
        description="Longest keep-alive; a client that asks for more, or for none, gets this one (5.0 clients are "
        "told). After one and a half times its keep-alive without a packet a client is taken for dead.",
    )
    max_topics_per_connection: int = Field(
        10_000,
        ge=1,
        description="MQTT topics remembered per connection; beyond it the memory "
        "is started anew (slower, never refused).",
    )
    max_publish_rate: int = Field(
        500_000, ge=1, description="Publishes per second and connection; one that sends more is disconnected (0x97)."
    )
    receive_maximum: int = Field(
        1_000,
        ge=1,
        le=65_535,
        description="QoS 1 and 2 publishes that a 5.0 client may have unanswered. (3.1.1 has no such limit; the log's "
        "does for all.)",
    )
    topic_alias_maximum: int = Field(
        10, ge=0, le=65_535, description="Topic aliases that a 5.0 client may use per connection."
    )
    max_inflight: int = Field(
        1_000,
        ge=1,
        le=65_535,
        description="QoS 1 and 2 messages sent to a client and not yet acknowledged; a 5.0 client may ask for fewer.",
    )
    max_sessions: int = Field(
        100_000, ge=1, description="Sessions at most, connected or kept for clients that are away."
    )
    max_session_expiry_s: DurationS = quantity(
        "30d",
        alias="max_session_expiry",
        gt=0,
        le=0xFFFF_FFFE,
        description="How long a session is kept for a client that is away, at most; for 3.1.1 clients without clean "
        "session just as long.",
    )
    max_subscriptions_per_client: int = Field(10_000, ge=1, description="Subscriptions of one client.")
    max_subscriptions: int = Field(1_000_000, ge=1, description="Subscriptions of all clients together.")
    max_queued_messages: int = Field(
        2_000_000,
        ge=1,
        description="Messages that may wait for one client (their places in the log, two to four bytes each); with "
        "more its session ends, and it is told when it comes back.",
    )
    max_queued_bytes: SizeBytes = quantity(
        "256MB",
        alias="max_queued",
        ge=1 << 20,
        description="What the places of all messages that wait for clients may take together; beyond it the session "
        "with the most ends.",
    )
    max_retained_messages: int = Field(100_000, ge=0, description="Retained messages of all MQTT topics.")
    max_retained_size_bytes: SizeBytes = quantity(
        "64MB",
        alias="max_retained_size",
        ge=0,
        description="What they may take in memory; further ones are not retained.",
    )
    max_will_bytes: SizeBytes = quantity(
        "64MB", alias="max_will_size", ge=1024, description="What the wills of all clients may take together."
    )
    refuse_publish: list[str] = Field(
        [], description="Topic filters that nobody may publish to (5.0: 0x87; 3.1.1: the connection is closed)."
    )
    refuse_subscribe: list[str] = Field(
        [], description="Topic filters that nobody may subscribe to, nor to any filter that they cover (0x87, 0x80)."
    )
    durability: DurabilityName | None = listener_durability()

    @property
    def websocket(self) -> Port:
        """The port for WebSocket that these settings mean."""
        if self.websocket_port is not None:
            return self.websocket_port
        return WEBSOCKET_PORT if self.port not in (0, "auto") else self.port


class TcpSettings(Section):
    """The raw TCP listener: one JSON object per line."""

    host: str = Field("127.0.0.1", description="Address to listen on; loopback until credentials exist.")
    port: Port = Field(9000, description="Port; 0 turns the listener off, `auto` takes any free one.")
    topic: str = Field("telemetry", description="Topic the lines are appended to.")
    max_connections: int = Field(20_000, ge=1, description="Connections at most; further ones are closed at once.")
    max_line_size_bytes: SizeBytes = quantity(
        "256KB",
        alias="max_line_size",
        ge=64,
        le=4 << 20,
        description="Longest line; longer ones are refused. A commit has to hold it (`log.journal_size`).",
    )
    idle_timeout_s: DurationS = quantity(
        "15m", alias="idle_timeout", gt=0, description="Silence after which a connection is closed."
    )
    durability: DurabilityName | None = listener_durability()


class RouteSettings(Section):
    """One route: an MQTT topic filter with captures, and where what it matches goes."""

    filter: str = Field(
        description="MQTT topic filter; a level may be a capture: {device}, {field} or any other {name}."
    )
    topic: str = Field(
        "telemetry", pattern=r"^[a-zA-Z0-9._-]{1,249}$", description="Topic of the log that records go to."
    )
    device: str | None = Field("{device}", description="Template of the device id; none if it has no device.")
    key: str | None = Field(None, description="Template of the record key; the device id if not given.")
    field: str | None = Field(None, description="Template of the column a scalar payload goes to; `value` if none.")


DEFAULT_ROUTES = (RouteSettings(filter="devices/{device}/#"),)
